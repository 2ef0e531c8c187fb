"""A whole, right declaration in which one value is replaced with a wrong one: taken, or refused in lines that can be printed."""

import copy
import datetime

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Problem, Resolved, compile_fleet, report
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import plain
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.run_variables import run_refusals
from hypothesis import given, settings
from hypothesis import strategies as st

HUGE = 16**5000  # Python prints no number of so many digits
ODD = [
    None, True, 0, -1, 1.5, float("nan"), HUGE, 41135085296, "", " ", "x", "a\ud800", "a\nb", "\u202e", "x" * 3000, [], [None],
    [[]], [{}], [{"a": 1}], {}, {"a": 1}, {"null": {}}, {None: {}}, {1: 2}, {HUGE: 1}, {"x\ny": {}}, "~/x", "1e3", "\u0663",
    datetime.date(2026, 1, 1), b"x", "10.0.0.1/33", "fe80::1%eth0", "{{ x }}", "'", "-x",
]  # fmt: skip
WWW = {
    "name": "www", "image": "web", "memory": 64, "maxmem": 64, "vcpus": 1, "cpus": "0", "cpu_weight": 256, "cap": 0,
    "type": "pvh", "uuid": "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076", "ramdisk": "/r", "state": "running", "autostart": True,
    "arguments": {"port": 80, "names": ["a", "b"]},
    "interfaces": [
        {"bridge": "xenbr0", "mac": "00:16:3e:01:02:03", "address": "10.0.2.101/24", "gateway": "10.0.2.2", "group": "g",
         "address6": "fd00::5/64", "gateway6": "fd00::1", "ip": "10.9.0.0/24", "rate": "10Mb/s", "vifname": "v1", "mtu": 1500},
    ],
    "disks": [{"path": "/srv/x.img", "vdev": "xvda", "format": "raw", "access": "w", "size": 4, "source": "/s.img"},
              {"content": "x"}],
    "on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "preserve", "disks_on_absent": "keep", "service": "web",
    "extra_config": {"nestedhvm": 1, "list": ["a"]}, "update": "warm", "ready": "x", "ready_within": 60, "live": False,
    "health": {"http": "https://10.0.2.101/", "status": 200, "within": 30, "host": "x", "contains": "y", "ca": "/c"},
    "restart": "on-failure", "restart_limit": {"starts": 5, "within": 600}, "watchdog": 30, "settle": 2, "shutdown_timeout": 10,
    "adopt": False, "accept": ["tcp/80"], "reach": [{"port": "udp/53", "to": ["10.0.2.53"]}],
}  # fmt: skip
HOST = {
    "unikernels": [
        WWW,
        {"name": "plain", "image": "b"},
        {"name": "inside", "image": "b", "interfaces": [{"network": "inside", "address": "10.77.0.7/24"}],
         "publish": [{"port": 443, "to": 8443}], "health": {"dns": "www.x@10.77.0.7:53", "type": "A", "answer": "10.0.2.1"}},
    ],
    "unikernel_images": {"web": {"file": "/x.xen", "sha256": "0" * 64}, "b": {"standin": "web"}},
    "xen_host_networks": {"xenbr0": {"mode": "bridged", "uplink": "auto"},
                          "inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}},
    "ansible_port": 22, "xen_host_site": "a", "xen_host_dom0_memory": 1024, "xen_host_console_size": 64,
    "xen_host_management_ports": [9100], "xen_host_management_networks": ["192.0.2.0/24"], "xen_host_domain_cpus": "2-3",
    "dns_interfaces": [{"bridge": "xenbr0", "address": "10.0.2.53/24"}], "dns_forward": ["9.9.9.9"], "dns_name": "dns",
    "dns_primaries": [{"address": "10.0.0.8", "zones": ["z.org"], "key": {"name": "x", "secret": "YWFhYWFhYWFhYWFhYWFhYQ=="}}],
    "vpn_interfaces": [{"bridge": "xenbr0", "address": "10.0.2.60/24"}], "vpn_remote": "vpn.example.org", "vpn_name": "vpn",
    "vpn_clients": ["alice", {"name": "bob", "address": "10.8.0.10"}], "vpn_routes": ["10.1.0.0/16"],
    "vpn_network": "10.8.0.0/24",
    "rollout": {"waves": [1, "100%"], "bake": 300, "window": {"days": "Mon-Fri", "from": "08:00", "to": "17:00", "zone": "UTC"}},
    "rollout_notify": ["https://example.org/"], "hosts_at_once": "10", "unikernel_parallel": 4, "unikernel_owner": "a",
}  # fmt: skip


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def lines_of(variables):
    lines = []
    values = {name: plain(copy.deepcopy(value), name, lines.append) for name, value in variables.items()}
    fleet = compile_fleet({"h": Resolved(values)}, Asked(), lambda service: f"/src/{service}")
    return report([Problem("h", line) for line in lines] + fleet.problems + [Problem("h", line) for line in run_refusals(values)])


def replaced(path, odd):
    variables = copy.deepcopy(HOST)
    place = variables
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd
    return variables


def test_the_whole_is_right_but_for_the_keys_that_it_lacks():
    """A domain without interfaces is beside one whose connections have limits."""
    assert lines_of({name: value for name, value in HOST.items() if not name.startswith("vpn_")}) == ""


@settings(max_examples=400)
@given(st.sampled_from([path for path in paths(HOST) if path]), st.sampled_from(ODD))
def test_one_wrong_value_is_taken_or_refused_in_lines(path, odd):
    for line in lines_of(replaced(path, odd)).splitlines():
        assert line.isprintable() and line.startswith("h: ") and len(line) <= 1010
        line.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("unikernels", 0, "name"), "unikernels[0].name: is a number that is too large"),
        (("unikernels", 0, "image"), "unikernels[0].image: is a number that is too large"),
        (("xen_host_dom0_memory",), "xen_host_dom0_memory: is a number that is too large"),
        (("vpn_clients", 0), "vpn_clients[0]: is a number that is too large"),
    ],
)
def test_a_number_that_python_cannot_print_is_a_line(path, line):
    assert f"h: {line}" in lines_of(replaced(path, HUGE))


def test_a_digest_that_yaml_read_as_a_number_keeps_its_own_line():
    assert "sha256: is 1111" in lines_of(replaced(("unikernel_images", "web", "sha256"), int("1" * 64)))


def test_a_file_where_a_name_belongs_is_shortened_in_its_middle():
    lines = lines_of(replaced(("unikernels", 0, "image"), "x" * 3000))
    assert (
        "h: domain www: image: 'xxx" in lines
        and " [...] " in lines
        and "is not in unikernel_images (known: b, dns, web)" in lines
    )
