"""What a user may declare, and what is refused with one line that says where."""

import datetime
import re
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import (
    shared_disks,
)
from ansible_collections.unikernels.xen.plugins.module_utils.domain.cpus import cpu_set, cpu_text
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import (
    MAX_ARGUMENTS,
    declaration_of,
    declarations_of,
)
from ansible_collections.unikernels.xen.plugins.module_utils.domain.fields import DISK, DOMAIN, INTERFACE
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import HEALTH_KINDS, derived_mac, derived_uuid, owned
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import domain_from_libxl, notes_of, xl_config
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
OPTIONS = [field.name for field in DOMAIN]
DEVICE_OPTIONS = [field.name for field in (*INTERFACE, *DISK)]


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


def test_text_is_the_whole_line():
    """A Linux kernel's command line has its own grammar."""
    line = "root=/dev/xvda ro  dyndbg='file x +p' \"init=/a b\" \\"
    assert declare(interfaces=[{"bridge": "xenbr0"}], arguments=line).domain.arguments == line


def test_a_value_can_not_set_another_option():
    arguments = {"hello": "Bonjour --ipv4=1.2.3.4", "logs": "*:info", "name": "it's"}
    assert declare(interfaces=[], arguments=arguments).domain.arguments == (
        '"--hello=Bonjour --ipv4=1.2.3.4" --logs=*:info --name=it\'s'
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
        ({"arguments": ["x" * 9000]}, f"Solo5 keeps only {MAX_ARGUMENTS}"),
        ({"arguments": {"a b": 1}}, "'a b' is not the name of an option"),
        ({"arguments": "--port=80"}, "as text is the whole boot line, so that an interface's address doesn't get into it"),
        ({"interfaces": [], "arguments": "a\nb"}, "must not contain a newline"),
        ({"arguments": 80}, "must be a list of words, a mapping of option to value, or the whole line as text"),
        ({"interfaces": [], "arguments": ["\\" * 4096]}, f"the line has 8194 bytes, Solo5 keeps only {MAX_ARGUMENTS}"),
        ({"interfaces": [{"bridge": "xenbr0", "mac": "01:16:3e:00:00:01"}]}, "is not a unicast MAC address"),
        ({"interfaces": [{"bridge": "xenbr0", "mac": "nonsense"}]}, "must be six bytes"),
        ({"interfaces": [{"bridge": "x/y"}]}, "is not the name of a network device"),
        ({"interfaces": [{"bridge": "xenbr0", "adress": "10.0.0.2/24"}]}, "unknown key 'adress'"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2"}]}, "must be ADDRESS/PREFIX"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.255/24"}]}, "broadcast"),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2/24", "gateway": "10.1.0.1"}]},
            "is not in the interface's network",
        ),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "2001:db8::2/64", "gateway": "fe80::1%eth0"}]},
            "gateway: is 'fe80::1%eth0', must be without a zone",
        ),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "2001:db8::2/128", "gateway": "::ffff:192.0.2.1"}]},
            "can't be the gateway of",
        ),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2/32", "gateway": "255.255.255.255"}]},
            "255.255.255.255 can't be the gateway of 10.0.0.2/32",
        ),
        (
            {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2/24", "gateway": "10.0.0.255"}]},
            "10.0.0.255 is the network or broadcast address of 10.0.0.0/24",
        ),
        ({"interfaces": [{"bridge": "xenbr0", "address6": "2001:db8::2/64", "mtu": 1279}]}, "mtu: is 1279, but IPv6 needs 1280"),
        ({"interfaces": [{"mac": "00:16:3e:00:00:01"}]}, "interfaces[0]: bridge: is required"),
        ({"disks": [{"path": "d.img"}]}, "must be an absolute path"),
        ({"disks": [{"path": "/d", "format": "vdi"}]}, "must be one of raw, qcow2"),
        ({"disks": [{"path": "/d", "format": "qcow2"}]}, "access: qcow2 disks can't be read-only"),
        (
            {"disks": [{"path": "/d", "format": "qcow2", "access": "w", "shared": True}]},
            "format: must be raw on shared storage",
        ),
        ({"disks": [{"path": "/d\n/e"}]}, "control character"),
        ({"disks": [{"path": "/d", "vdev": "xvda"}, {"path": "/e", "vdev": "xvda"}]}, "vdev xvda is used twice"),
        ({"health": {"http": "ftp://x"}}, "must be a URL"),
        ({"health": {"http": "http://x", "tcp": "x:1"}}, "exactly one of"),
        ({"health": {"console": "("}}, "is not a regular expression"),
        ({"on_crash": "explode"}, "must be one of destroy"),
        ({"type": "hvm"}, "type: is 'hvm', must be one of pvh, pv"),
        ({"uuid": "756e696b"}, "uuid: is '756e696b', must be as in"),
        ({"maxmem": 32}, "maxmem: is 32, must be at least memory (64) MiB"),
        ({"cpus": "1-"}, "is not a set of CPUs"),
        ({"cpus": "0-99999999"}, "is not a set of CPUs"),
        ({"cpus": "1,^1"}, "which excludes every CPU"),
        ({"cpus": [1]}, "cpus: must be CPU numbers"),
        ({"cpu_weight": 0}, "cpu_weight: is 0, must be 1..65535"),
        ({"cap": -1}, "cap: is -1, must be 0..12800"),
        ({"service": "Web server"}, "service: is 'Web server', must be lower-case letters"),
        ({"extra_config": {"memory": 1}}, "memory has an option of its own"),
        ({"extra_config": {"a\nb": 1}}, "is not a key of xl.cfg"),
        ({"extra_config": {"pool": "a\nb"}}, "control character"),
        (
            {"extra_config": {"pool": {"a": 1}}},
            "must be a whole number of at most 64 bits, true or false, text, or a list of text",
        ),
        (
            {"extra_config": {"a": 1.5}},
            "a: must be a whole number of at most 64 bits, true or false, text, or a list of text, not 1.5",
        ),
        ({"extra_config": {"a": 1 << 63}}, "a: must be a whole number of at most 64 bits"),
        ({"extra_config": {"a": None}}, "or a list of text, not None"),
        ({"extra_config": [1]}, "must be a mapping"),
        ({"update": "never", "live": "maybe"}, "live: must be true or false"),
        ({"update": "later"}, "must be one of standby, warm, recreate, never"),
        ({"update": "warm"}, "ready: is required with update: warm"),
        ({"update": "warm", "ready": "a{99999999999999999999}"}, "is not a regular expression"),
        ({"update": "warm", "ready": "x", "health": {"console": "x"}}, "can't pass after a warm switch"),
        ({"health": {"command": "/bin/true"}}, "must be a list of words"),
        ({"health": {"command": ["true"]}}, "must be the absolute path of a program"),
        ({"interfaces": [{"bridge": "xenbr0", "rate": "fast"}]}, "rate: is 'fast', must be as in 10Mb/s"),
        ({"interfaces": [{"bridge": "xenbr0", "rate": "1B/s@1us"}]}, "must be 1 byte an interval to 34 Gb/s"),
        ({"interfaces": [{"bridge": "xenbr0", "ip": "10.0.0.2,script=x"}]}, "is not an address"),
        ({"interfaces": [{"bridge": "xenbr0", "script": "a,mac=b"}]}, "neither a name in /etc/xen/scripts nor"),
        ({"interfaces": [{"bridge": "xenbr0", "vifname": "a,b"}]}, "is not the name of a network device"),
        ({"interfaces": [{"bridge": "xenbr0", "vifname": "vif7.0"}]}, "is what Xen itself calls an interface of another domain"),
        ({"interfaces": [{"bridge": "xenbr0", "vifname": "default"}]}, "has another meaning for Linux or its programs"),
        (
            {"interfaces": [{"bridge": "xenbr0", "vifname": "12"}]},
            "has another meaning for Linux or its programs: choose another",
        ),
        ({"interfaces": [{"bridge": "xenbr0", "mtu": 10}]}, "mtu: is 10, must be 68..65535 bytes"),
        ({"interfaces": [{"bridge": "b", "vifname": "v"}, {"bridge": "b", "vifname": "v"}]}, "vifname v is used twice"),
        ({"disks": [{"vdev": "xvda"}]}, "disks[0]: path: is required"),
        ({"disks": [{"path": "/d", "size": 0.5}]}, "size: must be a whole number of MiB"),
        ({"disks": [{"path": "/d", "shared": "maybe"}]}, "shared: must be true or false"),
        ({"disks": [{"path": "/d", "content": "x"}]}, "content: can't be combined with path"),
        ({"disks": [{"content": "x", "access": "w"}]}, "creates a read-only raw disk"),
        ({"disks": [{"content": 1}]}, "content: must be text"),
        ({"disks": [{"path": "/d", "source": "e"}]}, "source: 'e' must be an absolute path"),
        ({"interfaces": [{"bridge": "b", "address": "127.0.0.1/8"}]}, "can't be a domain's own"),
        ({"interfaces": [{"bridge": "b", "address": "::/64"}]}, "can't be a domain's own"),
        ({"interfaces": [{"bridge": "b", "address": "fe80::1%eth0/64"}]}, "must be without a zone"),
        ({"interfaces": [{"bridge": "b", "address": "10.0.0.2/24", "gateway": "10.0.0.2"}]}, "is the interface's own address"),
        ({"arguments": {"ipv4": "10.0.0.11/24"}}, "arguments: --ipv4 is already set by an interface's address or gateway"),
        ({"arguments": ["--ipv4-gateway=10.0.0.2"]}, "--ipv4-gateway is already set by an interface's address or gateway"),
        (
            {"interfaces": [{"bridge": "b", "address": f"10.0.{net}.2/24"} for net in (1, 2)]},
            "interfaces: --ipv4 would appear twice in the boot line: give each interface with an address its own group",
        ),
        # What xl reads otherwise than it is written.
        ({"name": "3"}, "name: has only digits, which xl would read as a domain's id: add a letter"),
        ({"name": "007"}, "name: has only digits"),
        ({"name": 3}, "name: has only digits, which xl would read as a domain's id: add a letter"),
        ({"name": 1.5}, "name: is 1.5, which YAML read as a number; write it in quotes"),
        ({"name": 10**5000}, "name: is too large to print, which YAML read as a number"),
        ({"disks": [{"path": "/d,"}]}, "path: '/d,' ends with a comma, which xl cuts off"),
        ({"name": False}, "name: is False: YAML reads an unquoted yes, no, on or off as true or false; write it in quotes"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "uuid: is all zeros, which is Domain-0's"),
        # What YAML makes of words without quotes.
        ({"interfaces": [{"bridge": "b", "mac": 41135085296}]}, 'write it in quotes: "52:54:00:12:34:56"'),
        ({"interfaces": [{"bridge": "b", "mac": "41135085296"}]}, 'write it in quotes: "52:54:00:12:34:56"'),
        ({"interfaces": [{"bridge": "b", "mac": 12.5}]}, "mac: is 12.5, which YAML read as a number"),
        ({"interfaces": [{"bridge": "b", "address": 10.0}]}, "address: is 10.0, which YAML read as a number"),
        ({"interfaces": [{"bridge": 10}]}, "bridge: is 10, which YAML read as a number; write it in quotes"),
        ({"uuid": 10**31}, "uuid: is 1000"),
        ({"service": datetime.date(2026, 1, 2)}, "service: is 2026-01-02, which YAML read as a date"),
        ({"service": True}, "service: is True: YAML reads an unquoted yes"),
        ({"arguments": {True: 1}}, "True is not the name of an option; write it in quotes"),
        ({"arguments": {"port": {"a": 1}}}, "{'a': 1} is not a word"),
        ({"arguments": [float("nan")]}, "nan is not a word"),
        (
            {"arguments": {"since": datetime.date(2026, 1, 2)}},
            "a word is 2026-01-02, which YAML read as a date; write it in quotes",
        ),
        ({"arguments": [True]}, "a word is True: YAML reads an unquoted yes, no, on or off as true or false; write it in quotes"),
        ({"arguments": False}, "must be a list of words, a mapping of option to value, or the whole line as text"),
        ({"arguments": 0}, "must be a list of words"),
        ({"arguments": ["a\ud800"]}, "is not valid text (UTF-8)"),
        ({"memory": 10**5000}, "memory: is too large to print, must be 4.."),
        ({"extra_config": {"pool": "\ud800"}}, "pool: is not valid text (UTF-8)"),
        ({"extra_config": {"Memory": 1}}, "'Memory' is not a key of xl.cfg (lower-case letters"),
        ({"extra_config": {1: 1}}, "1 is not a key of xl.cfg"),
        ({"extra_config": {"extra": "x"}}, "extra has an option of its own: arguments"),
        ({"extra_config": {"bootloader": "/bin/sh"}}, "bootloader runs a program in Dom0"),
        ({"extra_config": {"device_model_override": "/x"}}, "selects the program of Dom0 that serves the domain"),
        ({"kernel": "~/web.xen"}, "kernel: '~/web.xen' must be an absolute path; ~ and $ are not expanded"),
        # Nothing is created below /dev.
        (
            {"disks": [{"path": "/dev/vg0/www", "size": 8}]},
            "size: can't be combined with /dev/vg0/www: nothing is created below /dev",
        ),
        ({"disks": [{"path": "//dev/vg0/www", "source": "/x"}]}, "source: can't be combined with //dev/vg0/www"),
        ({"disks": [{"path": "/x/../dev/./vg0/www", "size": 8}]}, "nothing is created below /dev"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, words):
    with pytest.raises(SpecError) as refusal:
        declare(**changes)
    message = str(refusal.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith("domain ")


# Anything that YAML can hold: no error other than SpecError, and always one line.
_text = st.text() | st.text(st.characters(categories=("Cs", "Cc", "Lu", "Zl")))
_plain = st.none() | st.booleans() | st.integers() | st.floats() | _text | st.dates() | st.builds(pow, st.just(10), st.just(5000))
_anything = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_plain, inner, max_size=3),
    max_leaves=6,
)
_keys = st.sampled_from(OPTIONS)


@given(st.dictionaries(_keys, _anything))
def test_no_input_gives_a_traceback(changes):
    try:
        declaration_of({**GOOD, **changes}, "host1")
    except SpecError as refusal:
        assert "\n" not in str(refusal)


@given(st.sampled_from(["interfaces", "disks"]), st.dictionaries(st.sampled_from(DEVICE_OPTIONS), _anything))
def test_no_device_gives_a_traceback(option, device):
    try:
        declaration_of({**GOOD, option: [device]}, "host1")
    except SpecError as refusal:
        assert "\n" not in str(refusal)


@given(st.dictionaries(st.sampled_from(["within", "status", "answer", *HEALTH_KINDS]) | _plain, _anything))
def test_no_health_check_gives_a_traceback(health):
    try:
        declaration_of({**GOOD, "health": health}, "host1")
    except SpecError as refusal:
        assert "\n" not in str(refusal)


@given(st.dictionaries(_keys | _plain, _anything), st.sampled_from(OPTIONS), _plain)
def test_no_key_and_no_list_without_an_end_gives_a_traceback(changes, option, key):
    endless = []
    endless.append(endless)
    for value in (endless, {key: endless}, [{key: endless}]):
        try:
            declaration_of({**GOOD, **changes, option: value}, "host1")
        except SpecError as refusal:
            assert "\n" not in str(refusal)


def test_all_problems_are_reported():
    with pytest.raises(SpecError) as refusal:
        declarations_of(
            [
                {**GOOD, "memroy": 1, "memory": "x", "interfaces": [{"bridge": "b", "mac": 1, "mtu": 1}], "cap": -1},
                {**GOOD, "name": "3"},
                {**GOOD, "name": "dns", "state": "up", "disks": [{}, {"path": "/a", "vdev": "nvme0"}]},
            ],
            "h",
        )
    assert [line.split(":")[:3] for line in refusal.value.problems] == [
        ["domain www", " unknown key 'memroy'; known are " + ", ".join(sorted(OPTIONS))],
        ["domain www", " interfaces[0]", " mac"],
        ["domain www", " interfaces[0]", " mtu"],
        ["domain www", " memory", " must be a whole number of MiB, not 'x'"],
        ["domain www", " cap", " is -1, must be 0..12800 percent of one CPU"],
        ["domain '3'", " name", " has only digits, which xl would read as a domain's id"],
        ["domain dns", " disks[0]", " path"],
        ["domain dns", " disks[1]", " vdev"],
        ["domain dns", " state", " is 'up', must be one of running, paused, stopped, absent"],
    ]
    assert str(refusal.value) == "; and ".join(refusal.value.problems)


@pytest.mark.parametrize(("given_one", "taken"), [("yes", True), ("False", False), (1, True), ("0", False), ("On", True)])
def test_booleans_as_ansible_reads_them(given_one, taken):
    assert declare(live=given_one).live is taken


def test_a_key_is_text():
    with pytest.raises(SpecError, match=r"unknown key True \(a key is text: write it in quotes\); known are adopt"):
        declaration_of({**GOOD, True: 1}, "h")


def test_numbers_as_ansible_reads_them():
    domain = declare(memory="96", vcpus=2.0, cap="50.0").domain
    assert (domain.memory, domain.vcpus, domain.cap) == (96, 2, 50)


def test_a_device_below_dev_is_used_as_it_is():
    assert declare(disks=[{"path": "/dev/vg0/www", "access": "w"}]).domain.disks[0].path == "/dev/vg0/www"
    assert declare(disks=[{"path": "/srv/dev/d", "size": 8}]).origins[0].path == "/srv/dev/d"


@given(
    st.integers(1, 9999), st.sampled_from("GMK "), st.sampled_from("bB"), st.integers(1, 999), st.sampled_from(["ms", "us", ""])
)
def test_a_rate_comes_back_from_xen_as_it_was_declared(number, factor, unit, interval, scale):
    """The arithmetic of xlu_vif_parse_rate, on the text that we write for xl."""
    text = f"{number}{factor.strip()}{unit}/s" + (f"@{interval}{scale}" if scale else "")
    try:
        domain = declare(interfaces=[{"bridge": "xenbr0", "rate": text}]).domain
    except SpecError:
        return
    per_second, usecs = re.fullmatch(r"([0-9]+)B/s@([0-9]+)us", domain.interfaces[0].rate).groups()
    reported = {"rate_bytes_per_interval": int(per_second) * int(usecs) // 1_000_000, "rate_interval_usecs": int(usecs)}
    assert domain_from_libxl({"nics": [reported]}).interfaces[0].rate == domain.interfaces[0].rate


@given(st.sets(st.integers(0, 63), min_size=1))
def test_a_set_of_cpus_is_what_its_text_says(cpus):
    assert cpu_set(cpu_text(cpus)) == cpus
    assert declare(cpus=cpu_text(cpus)).domain.cpus == cpu_text(cpus)


def test_cpus_as_xl_writes_them():
    assert declare(cpus="0-3,^1,8").domain.cpus == "0,2-3,8"
    assert declare(cpus="all").domain.cpus == ""
    assert declare(cpus=1).domain.cpus == "1"


def test_content_names_its_disk():
    one, other = declare(disks=[{"content": "a"}]), declare(disks=[{"content": "b"}])
    assert one.domain.disks[0].path != other.domain.disks[0].path
    assert one.domain.disks[0].path.startswith("/var/lib/unikernels/disks/www-xvda-")
    assert one.domain.disks == declare(disks=[{"content": "a"}]).domain.disks


@pytest.mark.parametrize(
    "options, restart, limit, every",
    [
        ({}, "on-failure", (5, 600), 0),
        ({"restart": "always", "restart_limit": {"starts": 3}}, "always", (3, 600), 0),
        ({"restart": "never"}, "never", (5, 600), 0),
        ({"state": "stopped", "restart": "always"}, "never", (5, 600), 0),
        ({"state": "paused"}, "never", (5, 600), 0),
        ({"health": {"tcp": "10.0.0.1:80"}, "watchdog": True}, "on-failure", (5, 600), 10),
        ({"health": {"tcp": "10.0.0.1:80"}, "watchdog": "yes"}, "on-failure", (5, 600), 10),
        ({"health": {"tcp": "10.0.0.1:80"}, "watchdog": "30"}, "on-failure", (5, 600), 30),
        ({"health": {"tcp": "10.0.0.1:80"}, "watchdog": False}, "on-failure", (5, 600), 0),
        ({"health": {"tcp": "10.0.0.1:80"}, "watchdog": 0}, "on-failure", (5, 600), 0),
        ({"health": {"command": ["/bin/x", "a b", "é"]}, "watchdog": 5}, "on-failure", (5, 600), 5),
        ({"health": {"http": "https://a.example/x?y=1", "insecure": True, "contains": "ü\u2028"}, "watchdog": 5},
         "on-failure", (5, 600), 5),
    ],
)  # fmt: skip
def test_what_the_keeper_is_to_do_comes_back_from_the_definition(options, restart, limit, every):
    domain = declaration_of({"name": "www", "kernel": "/k", **options}, "h").domain
    assert (domain.restart, tuple(vars(domain.restart_limit).values())) == (restart, limit)
    assert (domain.watchdog.every if domain.watchdog else 0) == every
    notes = notes_of(xl_config(domain))
    assert notes == {key: getattr(domain, key) for key in notes}


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"restart": "sometimes"}, "restart: is 'sometimes', must be one of always, on-failure, never"),
        ({"restart": True}, "restart: is True: YAML reads"),
        ({"restart_limit": 5}, "restart_limit: must be a mapping, as in {starts: 5, within: 600}"),
        ({"restart_limit": {"starts": 0}}, "restart_limit: starts: is 0, must be 1..100 starts"),
        ({"restart_limit": {"within": "1 h"}}, "restart_limit: within: must be a whole number of seconds"),
        ({"restart_limit": {"start": 1}}, "restart_limit: unknown key 'start'"),
        ({"watchdog": 10}, "watchdog: repeats the health check, and there is none"),
        ({"watchdog": 1.5}, "watchdog: is 1.5, must be true, false or the seconds between two checks, 5..3600"),
        ({"watchdog": 4}, "watchdog: is 4, must be true, false"),
        ({"watchdog": []}, "watchdog: is [], must be true, false"),
        ({"watchdog": 1, "health": {"tcp": "a:1"}}, "watchdog: is 1, must be true, false or the seconds between two checks"),
        ({"watchdog": "1", "health": {"tcp": "a:1"}}, "watchdog: is '1', must be true, false or the seconds"),
        ({"watchdog": 10, "health": {"console": "ready"}}, "watchdog: can't use a console check"),
        ({"watchdog": 10, "restart": "never", "health": {"tcp": "a:1"}}, "watchdog: restarts a domain that hangs"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(options, problem):
    with pytest.raises(SpecError) as refusal:
        declaration_of({"name": "www", "kernel": "/k", **options}, "h")
    assert str(refusal.value).startswith(f"domain www: {problem}")
    assert len(refusal.value.problems) == 1


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "3",
        '{"starts": "x"}',
        '{"within": 1e999}',
        '{"every": "x", "health": {}}',
        '{"every": 5, "health": {"x": 2}}',
    ],
)
def test_a_broken_note_in_a_definition_is_as_if_it_were_not_there(note):
    text = f'# restart: {note}\n# restart_limit: {note}\n# watchdog: {note}\nname = "www"\n'
    notes = notes_of(text)
    assert (notes["restart"], notes["watchdog"]) == ("never", None)
    assert vars(notes["restart_limit"]) == {"starts": 5, "within": 600}


def test_the_disks_of_thousands_of_domains_are_compared_in_no_time():
    declarations = [
        declaration_of({"name": f"a{index}", "kernel": "/k", "disks": [{"path": f"/d/{index}", "access": "w"}]}, "h")
        for index in range(6000)
    ]
    began = time.process_time()
    assert shared_disks(declarations, ()) == []
    assert time.process_time() - began < 1
    twin = declaration_of({"name": "b", "kernel": "/k", "disks": [{"path": "/d//7"}]}, "h")
    assert shared_disks([*declarations, twin], ()) == [
        "domain a7: disks: /d/7 is used by domain b; only one domain may open a disk for writing",
        "domain b: disks: /d//7 is used by domain a7; only one domain may open a disk for writing",
    ]


@pytest.mark.parametrize(
    "interface",
    [
        {"address": "203.0.113.7/32", "gateway": "192.0.2.1"},
        {"address": "203.0.113.7/31", "gateway": "203.0.113.6"},
        {"address": "2001:db8:7::7/64", "gateway": "fe80::1"},
        {"address": "203.0.113.7/32", "gateway": "192.0.2.1", "address6": "2001:db8:7::7/128", "gateway6": "2001:db8::1"},
        {"address": "203.0.113.6/29", "gateway": "192.0.2.1", "gateway_on_link": True},
    ],
)
def test_a_gateway_that_is_on_the_link_but_not_in_the_subnet(interface):
    declared = declaration_of({"name": "a", "interfaces": [{"bridge": "xenbr0", **interface}]}, "h", kernel="/k")
    assert f"--ipv{6 if ':' in interface['address'] else 4}-gateway={interface['gateway']}" in declared.domain.arguments


@pytest.mark.parametrize("gateway", ["ff02::1", "::", "::1"])
def test_what_no_gateway_can_be(gateway):
    with pytest.raises(SpecError, match="can't be the gateway of"):
        declaration_of(
            {"name": "a", "interfaces": [{"bridge": "b", "address": "fd00::7/128", "gateway": gateway}]}, "h", kernel="/k"
        )
