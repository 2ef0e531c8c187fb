"""Signed zones: served as they are, and refused when no validating client would accept them."""

import calendar
import re

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import ZoneError, canonical

BASE = "$TTL 300\n@ IN SOA ns h 1 2 3 4 5\n@ IN NS ns\nns A 10.0.0.1\nwww CNAME ns\n"
KEY = f"@ DNSKEY 257 3 13 {'A' * 86}==\n"
NOW = calendar.timegm((2026, 11, 28, 0, 0, 0))


def rrsig(owner, kind, begins="20261101000000", ends="20261201000000"):
    return f"{owner} RRSIG {kind} 13 2 300 {ends} {begins} 4711 lab.example. {'A' * 86}==\n"


SIGNATURES = rrsig("@", "SOA") + rrsig("www", "CNAME")
NSEC = "@ NSEC ns NS SOA RRSIG NSEC DNSKEY\nns NSEC www A RRSIG NSEC\nwww NSEC @ CNAME RRSIG NSEC\n"
NSEC3 = f"@ NSEC3PARAM 1 0 0 -\n{'0' * 32} NSEC3 1 0 0 - {'v' * 32} A RRSIG\n"


@pytest.mark.parametrize("proofs", [NSEC, NSEC3])
def test_what_signs_a_zone_is_written_as_the_unikernel_reads_it(proofs):
    text = canonical("lab.example", BASE + KEY + SIGNATURES + proofs, now=NOW)
    generic = re.findall(r"^(\S+) 300 IN TYPE(\d+) \\# (\d+) ([0-9a-f]+)$", text, re.MULTILINE)
    kinds = sorted(int(kind) for _owner, kind, _size, _data in generic)
    assert kinds == sorted([46, 46, 48, *([47] * 3 if proofs == NSEC else [50, 51])])
    assert all(int(size) * 2 == len(data) for _owner, _kind, size, data in generic)
    assert not re.search(r"IN (RRSIG|NSEC|DNSKEY)", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + SIGNATURES + NSEC, "it has NSEC, RRSIG records, and no keys (DNSKEY)"),
        (BASE + KEY + NSEC, "it has NSEC records, and no signatures of its own (RRSIG)"),
        (BASE + KEY + SIGNATURES, "it is signed, and has neither NSEC nor NSEC3"),
        (
            BASE + KEY + SIGNATURES + NSEC + rrsig("ns", "A", ends="20261127000000"),
            "the signature of ns.lab.example. A ended on 2026-11-27 00:00 UTC: sign the zone again",
        ),
        (
            BASE + KEY + SIGNATURES + NSEC + rrsig("ns", "A", begins="20261129000000"),
            "the signature of ns.lab.example. A begins on 2026-11-29 00:00 UTC: sign the zone again",
        ),
    ],
)
def test_a_zone_that_no_client_would_accept_is_refused(text, words):
    with pytest.raises(ZoneError) as refused:
        canonical("lab.example", text, now=NOW)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_keys_without_signatures_are_records_like_any():
    assert " IN TYPE48 \\# 68 0101030d" in canonical("lab.example", BASE + KEY, now=NOW)
