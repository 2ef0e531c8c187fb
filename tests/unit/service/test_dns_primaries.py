"""dns_primaries: lines of the disk, the health check, and mistakes in one line each."""

import base64

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import _KEYS
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns, primaries
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Variables
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import canonical
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24", "address6": "2001:DB8::A/64"}]
ZONE = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 10.0.0.10\n"
SECRET = base64.b64encode(b"0123456789abcdef").decode()
KEY = {"name": "xfer", "secret": SECRET}
PRIMARY = {"address": "192.0.2.1", "zones": ["example.org"]}


def declared(value, **variables):
    values = {"interfaces": INTERFACES, "primaries": value, **variables}
    return dns.declare({f"dns_{key}": item for key, item in values.items()}, "/src")


def test_each_zone_and_primary_is_a_line_between_secondaries_and_zones():
    service = declared(
        [
            {**PRIMARY, "key": KEY, "zones": ["Example.org.", "2.0.192.in-addr.arpa"]},
            {"address": "2001:DB8:0::1", "zones": "example.org"},
        ],
        zones={"lab.example": ZONE},
        secondaries=[{"address": "192.0.2.54"}],
    )
    assert service.problems == ()
    unikernel = service.unikernel
    assert unikernel["disks"] == [
        {
            "content": "; secondary 192.0.2.54\n"
            f"; primary example.org. 192.0.2.1 xfer. hmac-sha256 {SECRET}\n"
            f"; primary 2.0.192.in-addr.arpa. 192.0.2.1 xfer. hmac-sha256 {SECRET}\n"
            "; primary example.org. 2001:db8::1\n" + canonical("lab.example", ZONE)
        }
    ]
    assert unikernel["arguments"] == {"zone-block": "true"}
    assert SECRET not in str({**unikernel, "disks": None})


def test_a_new_domain_is_healthy_when_it_has_the_first_zone_that_it_transfers():
    assert declared([PRIMARY], zones={"lab.example": ZONE}).unikernel["health"] == {"dns": "example.org@10.0.0.10", "type": "SOA"}
    assert declared([], zones={"lab.example": ZONE}).unikernel["health"]["dns"] == "lab.example@10.0.0.10"
    assert declared([]).unikernel["disks"] == []


def test_secondaries_may_have_what_is_transferred():
    assert declared([PRIMARY], secondaries=[{"address": "192.0.2.54"}]).problems == ()


def test_a_generation_with_a_primarys_key_is_kept_like_others_with_keys():
    assert _KEYS.search(declared([{**PRIMARY, "key": KEY}]).unikernel["disks"][0]["content"])
    assert not _KEYS.search(declared([PRIMARY]).unikernel["disks"][0]["content"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (PRIMARY, "must be a list of primaries, as in"),
        (["192.0.2.1"], "[0]: must have address and zones, may have key, and nothing else"),
        ([{"address": "192.0.2.1"}], "[0]: must have address and zones"),
        ([{"zones": ["example.org"]}], "[0]: must have address and zones"),
        ([{**PRIMARY, "port": 53}], "[0]: must have address and zones"),
        ([{**PRIMARY, "address": "ns1.example"}], "[0]: 'ns1.example' is not an address"),
        ([{**PRIMARY, "address": "192.0.2.0/24"}], "[0]: '192.0.2.0/24' is not an address"),
        ([{**PRIMARY, "address": "::ffff:192.0.2.1"}], "write 192.0.2.1"),
        *[([{**PRIMARY, "address": address}], f"{address} is no address of another server")
          for address in ("0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "255.255.255.255")],
        ([{**PRIMARY, "address": "10.0.0.10"}], "10.0.0.10 is the resolver's own address; name the server"),
        ([{**PRIMARY, "address": "2001:db8:0::a"}], "2001:db8:0::a is the resolver's own address"),
        ([{**PRIMARY, "key": SECRET}], "192.0.2.1: key: must have name and secret"),
        ([{**PRIMARY, "key": {**KEY, "algorithm": "hmac-md5"}}], "must be hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512"),
        ([{**PRIMARY, "key": {**KEY, "name": "a b"}}], "key: name: 'a b' is no name of a key"),
        ([{**PRIMARY, "key": {**KEY, "secret": "short"}}], "key: secret: must be 16 to 512 bytes in base64"),
        ([{**PRIMARY, "zones": []}], "192.0.2.1: zones: must be a list of names, as in [example.org]"),
        ([{**PRIMARY, "zones": {"example.org": ""}}], "192.0.2.1: zones: must be a list of names"),
        *[([{**PRIMARY, "zones": [name]}], f"192.0.2.1: zones: {name!r} is not the name of a zone")
          for name in ("", ".", "a b", "a..b", "a\nb", "é", 5, None, "a" * 64, "example.org. 192.0.2.9")],
        ([{**PRIMARY, "zones": ["lab.example"]}], "192.0.2.1: zones: lab.example is in dns_zones too; remove it there, or here"),
        ([{**PRIMARY, "zones": ["LAB.example."]}], "lab.example is in dns_zones too"),
        ([{**PRIMARY, "zones": ["example.org", "Example.org."]}], "example.org is declared twice for this primary"),
        ([PRIMARY, PRIMARY], "[1]: 192.0.2.1: zones: example.org is declared twice for this primary"),
        ([{**PRIMARY, "key": KEY}, {"address": "192.0.2.2", "zones": ["x.org"], "key": {**KEY, "algorithm": "hmac-sha512"}}],
         "[1]: 192.0.2.2: key xfer. has another secret or algorithm at 192.0.2.1"),
        ([{**PRIMARY, "zones": [f"z{i}.org" for i in range(1001)]}], "have 1001 zones, can have at most 1000"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_without_the_secret(value, words):
    (line,) = declared(value, zones={"lab.example": ZONE}).problems
    assert line.startswith("dns_primaries: ")
    assert words in line
    assert "\n" not in line
    assert SECRET not in line


def test_an_address_of_a_family_that_the_resolver_lacks():
    (line,) = declared([{**PRIMARY, "address": "2001:db8::1"}], interfaces=[{"bridge": "b", "address": "10.0.0.10/24"}]).problems
    assert line == "dns_primaries: [0]: 2001:db8::1 is an IPv6 address, and the resolver has none: give dns_interfaces address6"


def test_a_stand_in_has_no_keys():
    (line,) = declared([{**PRIMARY, "key": KEY}], images="standin").problems
    assert line == (
        "dns_primaries: [0]: 192.0.2.1: key: stand-ins sign nothing (unbound has no TSIG): leave it out, or use our unikernel"
        " (images: build)"
    )
    assert declared([PRIMARY], images="standin").problems == ()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["192.0.2.1", "example.org"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["address", "zones", "key", "name", "secret", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_declared_ends_in_lines_or_in_problems(value):
    variables = Variables("dns", {"dns_primaries": value})
    text = primaries.lines(primaries.read(variables, {"10.0.0.1"}, {"lab.example"}))
    for line in text.splitlines():
        assert line.startswith(primaries.PRIMARY)
        assert len(line[len(primaries.PRIMARY) :].split(" ")) in (2, 5)
    assert all("\n" not in problem for problem in variables.problems)
