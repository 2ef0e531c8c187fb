"""dns_secondaries: the first lines of the disk, and mistakes in one line each; serials that secondaries would not follow."""

import base64
import ipaddress

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns, secondaries, serials
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Variables
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import canonical
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24", "address6": "2001:DB8::A/64"}]
ZONE = "$TTL 300\n@ IN SOA ns hostmaster {} 3600 600 86400 300\n@ IN NS ns\nns IN A 10.0.0.10\n"
SECRET = base64.b64encode(b"0123456789abcdef").decode()
KEY = {"name": "xfer", "secret": SECRET}


def declared(value, **variables):
    values = {"interfaces": INTERFACES, "zones": {"lab.example": ZONE.format(1)}, "secondaries": value, **variables}
    return dns.declare({f"dns_{key}": item for key, item in values.items()}, "/src")


def content(*value):
    service = declared(list(value))
    assert service.problems == ()
    return service.unikernel["disks"][0]["content"]


def test_secondaries_stand_before_the_zones():
    text = content(
        {"address": "192.0.2.54"},
        {"address": "2001:DB8:0::54", "key": {**KEY, "name": "Xfer.Example", "algorithm": "HMAC-SHA512."}},
        {"address": "192.0.2.55", "key": KEY},
    )
    assert text == (
        f"; secondary 192.0.2.54\n; secondary 2001:db8::54 xfer.example. hmac-sha512 {SECRET}\n"
        f"; secondary 192.0.2.55 xfer. hmac-sha256 {SECRET}\n" + canonical("lab.example", ZONE.format(1))
    )
    assert declared([]).unikernel["disks"] == [{"content": canonical("lab.example", ZONE.format(1))}]


def test_no_boot_argument_holds_a_secret():
    unikernel = declared([{"address": "192.0.2.54", "key": KEY}]).unikernel
    assert unikernel["arguments"] == {"zone-block": "true"}
    assert SECRET not in str({**unikernel, "disks": None})


def test_two_keys_at_one_address_while_one_replaces_the_other():
    assert content({"address": "192.0.2.54", "key": KEY}, {"address": "192.0.2.54", "key": {**KEY, "name": "new"}})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"address": "192.0.2.54"}, "must be a list of secondaries, as in"),
        (["192.0.2.54"], "[0]: must have address, may have key, and nothing else"),
        ([{"address": "192.0.2.54", "port": 53}], "[0]: must have address, may have key, and nothing else"),
        ([{"key": KEY}], "[0]: must have address"),
        ([{"address": "ns2.example"}], "[0]: 'ns2.example' is not an address"),
        ([{"address": "192.0.2.0/24"}], "[0]: '192.0.2.0/24' is not an address"),
        ([{"address": 3221226038}], "[0]: 3221226038 is not an address"),
        ([{"address": "fe80::1%eth0"}], "is not an address"),
        ([{"address": "::ffff:192.0.2.54"}], "write 192.0.2.54"),
        *[([{"address": address}], f"{address} is no address of another server")
          for address in ("0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255")],
        ([{"address": "10.0.0.10"}], "10.0.0.10 is the resolver's own address"),
        ([{"address": "2001:db8:0::a"}], "2001:db8:0::a is the resolver's own address"),
        ([{"address": "192.0.2.54", "key": SECRET}], "192.0.2.54: key: must have name and secret"),
        ([{"address": "192.0.2.54", "key": {"name": "xfer"}}], "192.0.2.54: key: must have name and secret"),
        ([{"address": "192.0.2.54", "key": {**KEY, "algo": "x"}}], "192.0.2.54: key: must have name and secret"),
        *[([{"address": "192.0.2.54", "key": {**KEY, "name": name}}], "key: name: ")
          for name in ("", ".", "a b", "a..b", "a\nb", "a" * 64, "é", 5, ".a", ".".join(["a" * 63] * 4) + ".b")],
        *[([{"address": "192.0.2.54", "key": {**KEY, "algorithm": name}}],
           "must be hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512")
          for name in ("hmac-md5", "hmac-sha1", "sha256", "", 256, ["hmac-sha256"])],
        *[([{"address": "192.0.2.54", "key": {**KEY, "secret": secret}}], "key: secret: must be 16 to 512 bytes in base64")
          for secret in ("", "short", "!" * 44, SECRET[:-1], SECRET + "\n; secondary 192.0.2.9", "é" * 44, 5, None, "A" * 9_000)],
        ([{"address": "192.0.2.54"}] * 2, "[1]: 192.0.2.54 is declared twice"),
        ([{"address": "192.0.2.54", "key": KEY}] * 2, "[1]: 192.0.2.54 is declared twice with key xfer."),
        ([{"address": "192.0.2.54", "key": KEY}, {"address": "192.0.2.54"}], "with a key and without one"),
        ([{"address": "192.0.2.54", "key": KEY},
          {"address": "192.0.2.55", "key": {**KEY, "name": "XFER.", "algorithm": "hmac-sha384"}}],
         "[1]: 192.0.2.55: key xfer. has another secret or algorithm at 192.0.2.54"),
        ([{"address": f"10.1.0.{i}"} for i in range(1, 103)], "are 102, can be at most 100"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_without_the_secret(value, words):
    (line,) = declared(value).problems
    assert line.startswith("dns_secondaries: ")
    assert words in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("interface", "address", "option"),
    [
        ({"address": "10.0.0.10/24"}, "2001:db8::54", "IPv6 address, and the resolver has none: give dns_interfaces address6"),
        ({"address6": "2001:db8::a/64"}, "192.0.2.54", "IPv4 address, and the resolver has none: give dns_interfaces address"),
    ],
)
def test_an_address_of_a_family_that_the_resolver_lacks(interface, address, option):
    (line,) = declared([{"address": address}], interfaces=[{"bridge": "xenbr0", **interface}]).problems
    assert line == f"dns_secondaries: [0]: {address} is an {option}"


def test_without_a_zone_there_is_nothing_to_transfer():
    assert declared([{"address": "192.0.2.54"}], zones={}).problems == (
        "dns_secondaries: there is nothing to transfer: declare dns_zones or dns_primaries too",
    )


LABEL = st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True)


@given(
    address=st.ip_addresses().filter(lambda ip: ip.is_global and not ip.is_multicast and not getattr(ip, "ipv4_mapped", None)),
    name=st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    algorithm=st.sampled_from(secondaries.ALGORITHMS),
    secret=st.binary(min_size=16, max_size=512),
)
def test_what_is_accepted_is_one_line_of_four_words(address, name, algorithm, secret):
    text = base64.b64encode(secret).decode()
    variables = Variables("dns", {"dns_zones": {"x": "y"}, "dns_secondaries": [
        {"address": str(address), "key": {"name": name, "algorithm": algorithm, "secret": text}}]})  # fmt: skip
    line = secondaries.lines(variables, set())
    assert not variables.problems
    assert line.startswith(serials.SECONDARY) and line.endswith("\n") and line.count("\n") == 1
    where, key, hash_name, shared = line[len(serials.SECONDARY) : -1].split(" ")
    assert ipaddress.ip_address(where) == address
    assert (key, hash_name, base64.b64decode(shared)) == (name.lower() + ".", algorithm, secret)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["address", "key", "name", "secret", "algorithm", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_declared_ends_in_lines_or_in_problems(value):
    variables = Variables("dns", {"dns_zones": {"x": "y"}, "dns_secondaries": value})
    text = secondaries.lines(variables, {"10.0.0.1"})
    assert all(line.startswith(serials.SECONDARY) for line in text.splitlines())
    assert all("\n" not in problem for problem in variables.problems)


# -- serials -----------------------------------------------------------------------------------------


def disk(serial, text="", zone="lab.example", before="; secondary 192.0.2.54\n"):
    return before + canonical(zone, ZONE.format(serial) + text)


@pytest.mark.parametrize(
    ("old", "new", "write"),
    [
        (disk(7), disk(7), None),
        (disk(7), disk(8, "www A 10.0.0.1\n"), None),
        (disk(7), disk(7, "www A 10.0.0.1\n"), 8),
        (disk(7, "www A 10.0.0.1\n"), disk(7), 8),
        (disk(7), disk(6, "www A 10.0.0.1\n"), 8),
        # The text alone goes back, as a rollback does: what is changed next would not be newer.
        (disk(7), disk(6), 8),
        # RFC 1982: 2**32 - 1 is before 0, and what is 2**31 away is not newer.
        (disk(2**32 - 1), disk(0, "www A 10.0.0.1\n"), None),
        (disk(2**32 - 1), disk(2**32 - 1, "www A 10.0.0.1\n"), 1),
        (disk(1), disk(2**31 + 1, "www A 10.0.0.1\n"), 2),
        (disk(7), disk(7, zone="other.example"), None),
        # Nobody has a copy of what was served, or will have one of this.
        (disk(7, before=""), disk(7, "www A 10.0.0.1\n"), None),
        (disk(7), disk(7, "www A 10.0.0.1\n", before=""), None),
        ("", disk(7), None),
    ],
)
def test_a_changed_zone_needs_a_newer_serial(old, new, write):
    found = serials.not_raised(old, new)
    assert len(found) == (write is not None)
    assert all(line.endswith(f": write {write} into its SOA") and line.startswith("zone lab.example changes") for line in found)


def test_each_zone_is_looked_at_alone():
    old = disk(1) + canonical("b.example", ZONE.format(5))
    new = disk(1) + canonical("b.example", ZONE.format(5) + "x A 10.0.0.1\n") + canonical("c.example", ZONE.format(1))
    (line,) = serials.not_raised(old, new)
    assert line.startswith("zone b.example changes and its serial does not rise: it is 5, 5 is served.")


@given(st.integers(0, 2**32 - 1))
def test_what_is_to_be_written_is_newer(serial):
    assert serials.is_newer(serials.after(serial), serial)
    assert not serials.is_newer(serial, serial)
    assert 1 <= serials.after(serial) < 2**32


@given(st.text(), st.text())
def test_any_text_on_a_disk_is_read(old, new):
    assert isinstance(serials.not_raised(serials.SECONDARY + old, serials.SECONDARY + new), list)
