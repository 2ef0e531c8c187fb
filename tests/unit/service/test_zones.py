"""Zone files as people write them become what all our servers can read; what none could serve is one line with its place."""

import dns.zone
import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import ZoneError, canonical
from hypothesis import given
from hypothesis import strategies as st

BASE = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 10.0.0.2\n"
APEX = canonical("lab.example", BASE)


def records(text):
    return [line for line in canonical("lab.example", BASE + text).splitlines() if line not in APEX.splitlines()]


def test_the_zone_begins_with_its_name_and_soa():
    assert APEX.splitlines()[:2] == [
        "$ORIGIN lab.example.",
        "lab.example. 300 IN SOA ns.lab.example. hostmaster.lab.example. 1 3600 600 86400 300",
    ]


@pytest.mark.parametrize(
    ("written", "served"),
    [
        ("www 1h IN A 10.0.0.1\n", ["www.lab.example. 3600 IN A 10.0.0.1"]),
        ("WWW a 10.0.0.1\r\n", ["WWW.lab.example. 300 IN A 10.0.0.1"]),
        ("x IN TXT ( \"a;b\"\n  \"c\" ) ; why\n", ['x.lab.example. 300 IN TXT "a;b" "c"']),
        ("$ORIGIN sub.lab.example.\nx A 10.0.0.1\n", ["x.sub.lab.example. 300 IN A 10.0.0.1"]),
        ("$GENERATE 1-2 h$ A 10.0.0.$\n", ["h1.lab.example. 300 IN A 10.0.0.1", "h2.lab.example. 300 IN A 10.0.0.2"]),
        ("x AAAA ::ffff:1.2.3.4\n", ["x.lab.example. 300 IN AAAA 0000:0000:0000:0000:0000:ffff:0102:0304"]),
        # The unikernel has no names for these types (RFC 3597), and no spaces inside long data.
        ("x HINFO a b\n", ["x.lab.example. 300 IN TYPE13 \\# 4 01610162"]),
        ("x TYPE123 \\# 1 00\n", ["x.lab.example. 300 IN TYPE123 \\# 1 00"]),
        ("x TLSA 3 0 0 " + "ab" * 400 + "\n", ["x.lab.example. 300 IN TLSA 3 0 0 " + "ab" * 400]),
        ("cname A 10.0.0.1\nx CNAME cname\n",
         ["cname.lab.example. 300 IN A 10.0.0.1", "x.lab.example. 300 IN CNAME cname.lab.example."]),
        ("@ MX 10 mail\n* A 10.0.0.1\n", ["*.lab.example. 300 IN A 10.0.0.1", "lab.example. 300 IN MX 10 mail.lab.example."]),
        ("sub NS ns.sub\n", ["sub.lab.example. 300 IN NS ns.sub.lab.example."]),
        ("@ MX 0 .\n", ["lab.example. 300 IN MX 0 ."]),
    ],
)  # fmt: skip
def test_what_people_write_is_served(written, served):
    assert sorted(records(written)) == sorted(served)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("www 60 IN A 10.0.0.1\n", "it has no SOA record"),
        ("@ 60 IN SOA ns. h 1 2 3 4 5\n", "it has no NS record of its own"),
        ("www IN A 10.0.0.1\n" + BASE, "line 1: no TTL; begin the zone with one, as in $TTL 3600"),
        (BASE + "www IN A 10.0.0.300\n", "line 5: "),
        (BASE + "www IN WWW 1\n", "line 5: unknown rdatatype 'WWW'"),
        (BASE + "x.other. IN A 10.0.0.1\n", "line 5: x.other. is not within the zone"),
        (BASE + "$ORIGIN other.\nx A 10.0.0.1\n", "line 5: other. is not within the zone"),
        (BASE + "$INCLUDE /etc/passwd\n", "line 5: zone file directive '$INCLUDE' is not allowed"),
        (BASE + "x CNAME a\nx CNAME b\n", "a name has two CNAME records"),
        (BASE + "@ IN SOA ns h 2 2 3 4 5\n", "a name has two SOA records"),
        (BASE + "x CNAME a\nx A 10.0.0.1\n", "CNAME"),
        (BASE + "@ MX 10 mail\n", "lab.example. MX names mail.lab.example., which has no A or AAAA record in the zone"),
        (BASE + "@ NS ns_2\nns_2 A 10.0.0.1\n", "which is no host"),
        (BASE + 'x TXT ""\n', "x.lab.example. TXT is empty"),
        (BASE + f'x TXT "{"a" * 256}"\n', "line 5: string too long"),
        (BASE + "x CH TXT a\n", "line 5: "),
        (BASE + "x NSEC y A\n", "it has NSEC records, and no signatures of its own (RRSIG)"),
        (BASE + f"x {2**31} A 10.0.0.1\n", "must be at most 2147483647 seconds"),
        (BASE + f"{'a' * 64} A 10.0.0.1\n", "line 5: "),
    ],
)
def test_what_no_server_could_serve_is_one_line(text, words):
    with pytest.raises(ZoneError) as refused:
        canonical("lab.example", text)
    assert words in str(refused.value) and "\n" not in str(refused.value), str(refused.value)


LABELS = st.text("abcXYZ019-_", min_size=1, max_size=10)
RECORDS = st.one_of(
    st.tuples(LABELS, st.ip_addresses(v=4).map("A {}".format)),
    st.tuples(LABELS, st.ip_addresses(v=6).map("AAAA {}".format)),
    st.tuples(LABELS, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3).map(
        lambda parts: "TXT " + " ".join('"' + "".join(f"\\{byte:03}" for byte in part) + '"' for part in parts))),
    st.tuples(LABELS, st.binary(max_size=60).map(lambda data: f"TYPE1234 \\# {len(data)} {data.hex()}")),
)  # fmt: skip


@given(st.lists(RECORDS, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_nothing_is_lost_and_what_was_written_is_read_the_same(lines, end):
    text = BASE + "".join(f"{owner} {data}{end}" for owner, data in lines)
    served = canonical("lab.example", text)
    assert canonical("lab.example", served) == served
    read = [dns.zone.from_text(each, origin="lab.example.", relativize=False) for each in (text, served)]
    assert read[0] == read[1]


@given(st.text(max_size=200))
def test_any_text_is_served_or_refused(text):
    try:
        assert canonical("lab.example", BASE + text).startswith("$ORIGIN lab.example.\n")
    except ZoneError as error:
        assert "\n" not in str(error)
