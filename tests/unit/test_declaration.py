"""What a user may write, and what is refused, in one line that says where."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.clashes import clashes, outside_networks
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ARGUMENTS_MOST, declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import derived_mac, derived_uuid, owned
from hypothesis import given
from hypothesis import strategies as st

GOOD = {
    "name": "www",
    "kernel": "/images/web.xen",
    "memory": 64,
    "interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24", "gateway": "10.0.0.1"}],
    "arguments": {"port": 80},
    "health": {"http": "http://10.0.0.10/", "status": 200, "within": 30},
}


def declare(**changes):
    return declaration_of({**GOOD, **changes}, "host1")


def test_addresses_become_boot_arguments():
    assert declare().domain.arguments == "--ipv4=10.0.0.10/24 --ipv4-gateway=10.0.0.1 --port=80"


def test_group_and_both_families():
    interfaces = [
        {"bridge": "b0", "address": "10.0.0.2/24", "address6": "2001:db8::2/64", "gateway6": "2001:db8::1"},
        {"bridge": "b1", "group": "management", "address": "10.1.0.2/24"},
    ]
    assert declare(interfaces=interfaces, arguments=[]).domain.arguments == (
        "--ipv4=10.0.0.2/24 --ipv6=2001:db8::2/64 --ipv6-gateway=2001:db8::1 --management-ipv4=10.1.0.2/24"
    )


def test_mapping_of_arguments():
    arguments = {"port": 8080, "tls": True, "quiet": False, "name": None, "forward": ["1.1.1.1", "9.9.9.9"]}
    assert declare(interfaces=[], arguments=arguments).domain.arguments == (
        "--port=8080 --tls --forward=1.1.1.1 --forward=9.9.9.9"
    )


def test_mac_and_uuid_are_stable_and_ours():
    first, second = declare().domain, declare().domain
    assert first == second
    assert owned(first.uuid)
    assert not owned("6b1a2c54-9d96-4ee4-bd5d-42eb769bb076")
    assert first.interfaces[0].mac.startswith("00:16:3e:")
    assert derived_mac("host1", "www", 0) != derived_mac("host2", "www", 0)
    assert derived_uuid("host1", "www") != derived_uuid("host1", "dns")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memroy": 64}, "unknown key 'memroy'"),
        ({"name": "Domain-0"}, "name: must be"),
        ({"name": "a/b"}, "name: must be"),
        ({"name": "a\nb"}, "name: must be"),
        ({"name": "x" * 300}, "name: must be"),
        ({"name": "wëb"}, "name: must be"),
        ({"name": "www~next"}, "name: must be"),
        ({"kernel": "relative.xen"}, "kernel: 'relative.xen' must be an absolute path"),
        ({"kernel": None}, "kernel: is required"),
        ({"memory": "lots"}, "memory: must be a whole number of MiB"),
        ({"memory": 1}, "memory: is 1, must be 4.."),
        ({"memory": True}, "memory: must be a whole number"),
        ({"state": "up"}, "state: is 'up', must be one of running"),
        ({"arguments": ["--hello=a\nb"]}, "must not contain a newline"),
        ({"arguments": ["x" * 9000]}, f"Solo5 keeps only {ARGUMENTS_MOST}"),
        ({"arguments": {"a b": 1}}, "'a b' is not the name of an option"),
        ({"arguments": "--port=80"}, "must be a list of words or a mapping"),
        ({"interfaces": [{"bridge": "xenbr0", "mac": "01:16:3e:00:00:01"}]}, "multicast"),
        ({"interfaces": [{"bridge": "xenbr0", "mac": "nonsense"}]}, "must be six bytes"),
        ({"interfaces": [{"bridge": "x/y"}]}, "is not the name of a network device"),
        ({"interfaces": [{"bridge": "xenbr0", "adress": "10.0.0.2/24"}]}, "unknown key 'adress'"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2"}]}, "must be ADDRESS/PREFIX"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.255/24"}]}, "broadcast"),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2/24", "gateway": "10.1.0.1"}]},
            "is not in the interface's network",
        ),
        ({"interfaces": [{"mac": "00:16:3e:00:00:01"}]}, "interfaces[0]: bridge: is required"),
        ({"disks": [{"path": "d.img"}]}, "must be an absolute path"),
        ({"disks": [{"path": "/d", "format": "vdi"}]}, "must be one of raw, qcow2"),
        ({"disks": [{"path": "/d\n/e"}]}, "control character"),
        ({"disks": [{"path": "/d", "vdev": "xvda"}, {"path": "/e", "vdev": "xvda"}]}, "vdev xvda is used twice"),
        ({"health": {"http": "ftp://x"}}, "must be a URL"),
        ({"health": {"http": "http://x", "tcp": "x:1"}}, "exactly one of"),
        ({"health": {"console": "("}}, "is not a regular expression"),
        ({"on_crash": "explode"}, "must be one of destroy"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, words):
    with pytest.raises(SpecError) as refusal:
        declare(**changes)
    message = str(refusal.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith("domain ")


# Whatever YAML can hold: no traceback other than SpecError, and never two lines.
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_keys = st.sampled_from(
    ["name", "kernel", "memory", "vcpus", "arguments", "interfaces", "disks", "state", "health", "autostart", "on_crash", "adopt"]
)


@given(st.dictionaries(_keys, _anything))
def test_no_input_gives_a_traceback(changes):
    try:
        declaration_of({**GOOD, **changes}, "host1")
    except SpecError as refusal:
        assert "\n" not in str(refusal)


def test_clashes_are_named():
    one, other = declare(), declare(name="www2")
    assert clashes([one, other]) == ["domains www and www2 have the same address 10.0.0.10 on xenbr0"]
    assert clashes([one, one]) == ["domain www: declared twice; a name is unique on its host"]
    mac = {"interfaces": [{"bridge": "xenbr0", "mac": "00:16:3e:00:00:01"}]}
    assert clashes([declare(**mac), declare(name="b", **mac)]) == ["domains www and b have the same MAC 00:16:3e:00:00:01"]
    assert clashes([one, declare(name="www2", state="absent")]) == []


def test_address_outside_the_bridge_network():
    assert outside_networks([declare()], {"xenbr0": ["10.0.0.1/24"]}) == []
    assert outside_networks([declare()], {}) == []
    assert outside_networks([declare()], {"xenbr0": ["10.9.0.1/24"]}) == [
        "domain www: address 10.0.0.10 is outside the network of xenbr0 (10.9.0.0/24)"
    ]
    assert "the host's own" in outside_networks([declare()], {"xenbr0": ["10.0.0.10/24"]})[0]
