"""dns_tls: the certificate's lines on the disk, and mistakes in one line."""

import datetime

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]


def certificate(days=90):
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dns.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("dns.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return built.public_bytes(pem).decode(), key.private_bytes(pem, kind, serialization.NoEncryption()).decode()


CERTIFICATE, KEY = certificate()


def declared(tls, **variables):
    return dns.declare({"dns_interfaces": INTERFACES, "dns_tls": tls, **{f"dns_{k}": v for k, v in variables.items()}}, "/src")


def test_a_certificate_with_its_key_is_on_the_disk_behind_a_mark_of_its_own():
    service = declared(
        {"certificate": CERTIFICATE, "key": KEY}, secondaries=[], primaries=[{"address": "192.0.2.1", "zones": "x.org"}]
    )
    assert service.problems == ()
    first, *others = service.unikernel["disks"][0]["content"].splitlines()
    assert first == "; primary x.org. 192.0.2.1"
    assert all(line.startswith("; tls ") for line in others)
    assert "\n".join(line.removeprefix("; tls ") for line in others).split() == (CERTIFICATE + KEY).split()
    assert service.unikernel["arguments"] == {"zone-block": "true"}


def test_a_resolver_without_zones_can_have_it():
    unikernel = declared({"certificate": CERTIFICATE, "key": KEY}).unikernel
    assert (len(unikernel["disks"]), unikernel["arguments"], unikernel["health"]) == (
        1,
        {"zone-block": "true"},
        {"tcp": "10.0.0.10:53"},
    )
    assert declared({}).unikernel["disks"] == []


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ([], "must be a mapping of certificate and key, as in {certificate: "),
        ({"certificate": CERTIFICATE}, "must have certificate and key and nothing else"),
        ({"certificate": CERTIFICATE, "key": KEY, "port": 853}, "must have certificate and key and nothing else"),
        ({"certificate": CERTIFICATE, "key": certificate()[1]}, "key"),
        ({"certificate": "/etc/tls/dns.pem", "key": KEY}, "give the text of the file, not its path"),
        (dict(zip(("certificate", "key"), certificate(days=-1))), "expired"),
    ],
)
def test_each_mistake_is_one_line_without_the_key(tls, words):
    (line,) = declared(tls).problems
    assert line.startswith("dns_tls: ") and words in line
    assert "\n" not in line and KEY.splitlines()[1] not in line


def test_metrics_do_not_take_its_port():
    (line,) = declared({"certificate": CERTIFICATE, "key": KEY}, metrics={"port": 853, "from": ["192.0.2.0/24"]}).problems
    assert line == "dns_metrics: port: is 853, and so is DNS over TLS; give them different ports"
