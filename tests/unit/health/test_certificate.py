"""The end of a certificate, read without verifying it: as cryptography reads it, and no exception for other bytes."""

# SPDX-License-Identifier: GPL-3.0-or-later

import datetime

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health.certificate import expired, expiry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

KEY = ec.generate_private_key(ec.SECP256R1())
UTC = datetime.timezone.utc


def certificate(end, name="www.example.org"):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(1).public_key(KEY.public_key())
        .not_valid_before(datetime.datetime(2000, 1, 1)).not_valid_after(end.replace(tzinfo=None))
    )  # fmt: skip
    return built.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# From 2050 on a certificate has another form of time.
@pytest.mark.parametrize("year", [2001, 2026, 2049, 2050, 2200])
@pytest.mark.parametrize("name", ["a", "n" * 60])
def test_the_end_is_what_the_certificate_has(year, name):
    end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    assert expiry(certificate(end, name)) == end


def test_it_has_expired_a_second_later():
    end = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    assert expired(certificate(end), end) is None
    late = expired(certificate(end), end + datetime.timedelta(seconds=1))
    assert late == "its certificate expired on 2026-11-28 12:00 UTC"


WHOLE = certificate(datetime.datetime(2026, 1, 1, tzinfo=UTC))


@given(st.one_of(st.binary(max_size=300), st.integers(0, len(WHOLE)).map(lambda size: WHOLE[:size])))
def test_other_bytes_are_no_expired_certificate(data):
    line = expired(data, datetime.datetime(2020, 1, 1, tzinfo=UTC))
    assert line is None


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_raises_nothing(at, byte):
    expired(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :], datetime.datetime(2026, 11, 28, tzinfo=UTC))


def test_no_certificate_at_all():
    assert expired(None, datetime.datetime.now(UTC)) is None
