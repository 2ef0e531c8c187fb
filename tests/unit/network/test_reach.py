"""accept and reach: every refusal is one line, what is taken is read back, and nft takes each text."""

import ipaddress
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach import (
    Limits,
    Rule,
    limits_of,
    listing,
    on_host,
    read_limits,
    shared,
    with_own,
)
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach_rules import (
    RULES,
    WORDS,
    areas,
    files,
    removal,
    tables,
    words_of,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

BOTH = [{"address": "10.0.0.11/24", "address6": "fd00::11/64"}]
FOUR, SIX = [{"address": "10.0.0.11/24"}], [{"address": "fd00::11/64"}]


def read(interfaces=BOTH, **options):
    lines = []
    unikernel = {"name": "www", "interfaces": interfaces, **options}
    found = read_limits(unikernel, lines.append)
    assert "accept" not in unikernel and "reach" not in unikernel
    return found, lines


def nft(text):
    if not shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        pytest.skip("nft is not installed")
    done = subprocess.run(["unshare", "--net", "nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "unshare failed" in done.stderr:
        pytest.skip(f"nft -c needs a network namespace: {done.stderr.strip()}")
    return done.stderr


def test_what_is_taken():
    found, lines = read(
        accept=["tcp/443", "udp/53", "tcp/8000-8099", {"port": "tcp/22", "from": ["192.0.2.0/24", "2001:DB8::/64"]}, "icmp"],
        reach=["udp/53 to 9.9.9.9, 2620:fe::fe", {"port": "any", "to": "10.0.0.5"}],
    )
    assert lines == []
    assert found.words() == {
        "accept": ["tcp/443", "udp/53", "tcp/8000-8099", "tcp/22 from 192.0.2.0/24 2001:db8::/64", "icmp"],
        "reach": ["udp/53 to 9.9.9.9 2620:fe::fe", "any to 10.0.0.5"],
    }
    assert read()[0] is None and read(state="absent", accept=["nonsense"]) == (None, [])
    assert read(accept=[])[0] == Limits("www", ())
    assert listing({"www": found.words(), "b": {"accept": None, "reach": []}}).splitlines()[0] == "b: reach: nothing"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("tcp/0", "is 'tcp/0': a port is a number 1..65535"),
        ("tcp/65536", "a port is a number 1..65535"),
        ("tcp/http", "is 'tcp/http': a port is a number 1..65535"),
        ("tcp/", "a port is a number 1..65535"),
        ("tcp/080", "a port is a number 1..65535"),
        ("tcp/80-", "a port is a number 1..65535"),
        ("tcp/80-70", "a range from the higher port to the lower: write tcp/70-80"),
        ("tcp/80,443", "a port is a number 1..65535"),
        ("tcp/\u0664", "a port is a number 1..65535"),
        ("TCP/80", "the protocol must be one of tcp, udp, sctp, icmp, esp, any"),
        ("http", "the protocol must be one of"),
        ("443", "the protocol must be one of"),
        ("icmp/8", "icmp has no ports: write icmp"),
        ("", "the protocol must be one of"),
        (443, "is 443, must be a protocol and a port, as in tcp/443"),
        (None, "is None, must be a protocol and a port"),
        (True, "is True, must be a protocol and a port"),
        (["tcp/443"], "must be a protocol and a port"),
        ({}, "port: is required"),
        ({"port": 443}, "is 443, must be a protocol and a port"),
        ({"port": "tcp/22", "source": "192.0.2.1"}, "unknown key 'source'; known are port, from"),
        ({"port": "tcp/22", "to": ["192.0.2.1"]}, "unknown key 'to'; known are port, from"),
        ({"port": "tcp/22", "from": []}, "from: is [], must be a list of 1..256 addresses and networks"),
        ({"port": "tcp/22", "from": None}, "from: is None, must be a list"),
        ({"port": "tcp/22", "from": [1]}, "from: 1 is not an address or a network"),
        ({"port": "tcp/22", "from": ["192.0.2.1/24"]}, "from: 192.0.2.1/24 has bits behind its prefix: write 192.0.2.0/24"),
        ({"port": "tcp/22", "from": ["192.0.2.0/33"]}, "is not an address or a network"),
        ({"port": "tcp/22", "from": ["example.org"]}, "is not an address or a network"),
        ({"port": "tcp/22", "from": ["fe80::1%eth0"]}, "is not an address or a network"),
        ({"port": "tcp/22", "from": ["224.0.0.1"]}, "is nobody's address"),
        ({"port": "tcp/22", "from": ["::ffff:192.0.2.1"]}, "no address of ::ffff:0:0/96 is: write 192.0.2.1"),
        ({"port": "tcp/22", "from": ["0.0.0.0"]}, "is nobody's address, no address of 0.0.0.0/8 is"),
        ({"port": "tcp/22", "from": ["192.0.2.1", "192.0.2.1/32"]}, "from: 192.0.2.1 is listed twice"),
        ("tcp/22 to 192.0.2.1", "must be as in tcp/443 from 192.0.2.0/24"),
        ("tcp/22 from", "must be as in tcp/443 from 192.0.2.0/24"),
        ("tcp/22 192.0.2.1", "must be as in tcp/443 from 192.0.2.0/24"),
    ],
)  # fmt: skip
def test_each_wrong_entry_is_one_line(entry, words):
    found, lines = read(accept=["tcp/1", entry])
    assert found is None and len(lines) == 1
    assert lines[0].startswith("domain www: accept[1]: ") and words in lines[0] and "\n" not in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accept": "tcp/443"}, "accept: is 'tcp/443', must be a list, as in [tcp/443"),
        ({"accept": {"port": "tcp/443"}}, "accept: is {'port': 'tcp/443'}, must be a list"),
        ({"accept": 443}, "accept: is 443, must be a list"),
        ({"accept": ["tcp/1"] * 65}, "accept: has 65 entries, must be at most 64"),
        ({"accept": ["tcp/80", "tcp/80"]}, "accept[1]: tcp/80 is listed twice (as accept[0])"),
        ({"accept": ["tcp/80"], "reach": ["udp/53 from 9.9.9.9"]}, "reach[0]: is 'udp/53 from 9.9.9.9', must be as in"),
        ({"reach": []}, "reach: needs accept too"),
        ({"accept": ["udp"], "reach": []}, "accept: udp accepts every port from everybody"),
        ({"accept": ["any"], "reach": []}, "accept: any accepts every port from everybody"),
        ({"accept": ["tcp/22 from 192.0.2.1"], "interfaces": SIX}, "from: has only IPv4 addresses, and the domain has only IPv6"),
        ({"accept": ["tcp/22 from fd00::1"], "interfaces": FOUR}, "from: has only IPv6 addresses, and the domain has only IPv4"),
        ({"accept": [], "interfaces": []}, "accept: the domain has no interfaces"),
        ({"accept": [], "interfaces": [{"ip": "10.0.0.0/24"}]}, "accept: interfaces[0] has no address for the rules"),
        ({"accept": [], "interfaces": [{**FOUR[0], "antispoofing": False}]}, "accept: interfaces[0] has antispoofing: false"),
        ({"accept": [], "interfaces": [{**FOUR[0], "script": "vif-route"}]}, "accept: interfaces[0] has a script of its own"),
        ({"accept": ["tcp/80"], "publish": [{"port": 80, "to": 8080}]}, "publish[0]: leads to tcp/8080, which accept does"),
    ],
)  # fmt: skip
def test_each_mistake_of_the_whole_is_one_line(options, words):
    found, lines = read(**options)
    assert found is None and len(lines) == 1
    assert lines[0].startswith("domain www: ") and words in lines[0] and "\n" not in lines[0]


def test_what_is_published_and_accepted_is_in_peace():
    assert read(accept=["tcp/8000-9000"], publish=[{"port": 80, "to": 8080}, {"port": "nonsense"}, 7])[1] == []


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
              st.sampled_from(["tcp/443", "udp/53 from 10.0.0.0/8", "any", "icmp", "tcp/1-9", "from", "to", "port"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["port", "from", "to", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)  # fmt: skip


@given(VALUES, VALUES, st.lists(st.one_of(VALUES, st.sampled_from([*BOTH, *SIX])), max_size=2))
@example(["tcp/٣"], None, BOTH)
def test_any_value_is_read_or_refused_in_lines(accept, reach, interfaces):
    found, lines = read(interfaces, accept=accept, reach=reach)
    assert all(line.startswith("domain www: ") and "\n" not in line for line in lines)
    if found:
        assert limits_of(found.plain()) == found
        again, _lines = read(interfaces, **found.words())
        assert again == found


PEERS = st.lists(
    st.one_of(
        st.builds(lambda number, bits: str(ipaddress.ip_network((number, bits), strict=False)), st.integers(0, 0xDFFFFFFF),
                  st.integers(0, 32)),
        st.builds(lambda number, bits: str(ipaddress.ip_network((0x20010DB8 << 96 | number, bits), strict=False)),
                  st.integers(0, 1 << 90), st.integers(16, 128)),
    ), max_size=3,
)  # fmt: skip
RULES_OF = st.lists(
    st.one_of(
        st.builds(lambda kind, ports, peers: Rule(kind, *sorted(ports), tuple(peers)), st.sampled_from(["tcp", "udp", "sctp"]),
                  st.lists(st.integers(1, 65535), min_size=2, max_size=2), PEERS),
        st.builds(lambda kind, peers: Rule(kind, peers=tuple(peers)),
                  st.sampled_from(["tcp", "udp", "sctp", "icmp", "esp", "any"]), PEERS),
    ), max_size=4,
)  # fmt: skip
OWN = st.lists(
    st.one_of(
        st.builds(lambda low, bits: str(ipaddress.ip_network((0x0A000000 + low, bits), strict=False)), st.integers(0, 300),
                  st.integers(24, 32)),
        st.builds(lambda low, bits: str(ipaddress.ip_network(((0xFD << 120) + low, bits), strict=False)), st.integers(0, 300),
                  st.integers(112, 128)),
    ), min_size=1, max_size=3,
)  # fmt: skip
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
LIMITS = st.lists(
    st.builds(lambda name, accept, reach, own: Limits(name, accept and tuple(accept), reach and tuple(reach), tuple(own)), NAMES,
              st.none() | RULES_OF, st.none() | RULES_OF, OWN),
    max_size=4, unique_by=lambda one: one.name,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS)
def test_nft_takes_any_rules_and_prefixes(limits):
    assert nft(tables(limits)) == ""


@given(LIMITS)
def test_each_address_is_one_domains_and_the_innermosts(limits):
    places = areas(limits)
    for index, (network, _one) in enumerate(places):
        assert not any(network.version == other.version and network.overlaps(other) for other, _two in places[:index])
    owned = [(ipaddress.ip_network(prefix), one) for one in limits for prefix in one.own]
    for network, one in owned:
        inner = [place for place, holder in places if place.version == network.version and place.subnet_of(network)]
        assert sum(place.num_addresses for place in inner) == network.num_addresses
        if network.num_addresses == 1:
            holder = next(holder for place, holder in places if place == network)
            assert any(holder == candidate for other, candidate in owned if other == network), one


def test_a_packet_meets_as_many_rules_on_a_full_host_as_on_an_empty_one():
    def rules(count):
        text = tables([Limits(f"u{number}", (Rule("tcp", 443, 443),), (), (f"10.0.{number}.1",)) for number in range(count)])
        return [line for part in text.split("chain forward")[1:] for line in part.split("}")[0].splitlines()]

    assert rules(1) == rules(200)


def test_no_other_table_is_touched():
    text = tables([Limits("a", (), None, ("10.0.0.1",))]) + removal()
    words = {" ".join(line.split()[-2:]) for line in text.replace(" {", "").splitlines() if line and line[0] not in " }"}
    assert words == {"bridge unikernels_reach", "inet unikernels_reach"}


def test_what_is_its_own_comes_from_its_interfaces_and_the_host():
    limits = with_own(
        Limits("www", ()), [("10.0.0.11 fd00::11", ""), ("fd00::12 10.8.0.0/24", "00:16:3e:00:00:09"), ("10.0.1.1", "")]
    )
    assert limits.own == ("10.0.0.11/32", "fd00::11/128", "fd00::12/128", "10.8.0.0/24", "10.0.1.1/32")
    assert limits.six == ((0, ""), (1, "00:16:3e:00:00:09"))
    assert limits_of(limits.plain()) == limits
    there = on_host(limits, {0: "00:16:3e:00:00:01"}.get)
    assert there.own[-2:] == ("fe80::216:3eff:fe00:1/128", "fe80::216:3eff:fe00:9/128")


def test_a_prefix_of_two_is_refused():
    lines = shared([Limits("a", (), own=("10.8.0.0/24",)), Limits("b", None, (), own=("10.8.0.0/24", "10.0.0.1/32"))])
    assert lines == ["domain b: reach: 10.8.0.0/24 is domain a's too, with rules of its own"]


def test_files_come_change_and_go():
    limits = [Limits("www", (Rule("tcp", 443, 443),), None, ("10.0.0.1",))]
    first = files(limits, {})
    assert [one.path for one in first] == [RULES, WORDS]
    now = {one.path: one.after for one in first}
    assert files(limits, now) == () and files([], {}) == ()
    assert [one.after for one in files([], now)] == [None, None]
    assert words_of(now[WORDS]) == {"www": {"accept": ["tcp/443"], "reach": None}}


@given(st.none() | st.text())
@example("[]")
@example('{"a": 7, "b": {"accept": 3, "reach": [null]}}')
def test_any_file_of_words_is_read(text):
    assert isinstance(words_of(text), dict)
