"""All hosts together: every mistake is one line with its host, and two hosts that claim the same are refused."""

import copy
import re

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import derived_mac
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import between
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Problem, Resolved, compile_fleet, report
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import UNRESOLVED, flag, one_line, plain
from hypothesis import given
from hypothesis import strategies as st

UNIKERNEL = {"name": "www", "image": "web", "interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]}
IMAGES = {"web": {"file": "/web.xen"}}


def compiled(hosts, **options):
    resolved = {host: Resolved(copy.deepcopy(values)) for host, values in hosts.items()}
    return compile_fleet(resolved, Asked(), lambda service: f"/src/{service}", **options)


def problems(*changes, images=IMAGES):
    fleet = compiled({"h": {"unikernels": [{**UNIKERNEL, **change} for change in changes], "unikernel_images": images}})
    return [problem.line for problem in fleet.problems]


def test_a_right_declaration():
    assert problems({}) == []


@pytest.mark.parametrize(
    ("changes", "images", "words"),
    [
        ([{"memroy": 1}], IMAGES, "domain www: unknown key 'memroy'"),
        ([{"image": "wbe"}], IMAGES, "image: 'wbe' is not in unikernel_images (known: web)"),
        ([{"image": None}], IMAGES, "image: is required"),
        ([{"image": {"a": 1}}], IMAGES, "domain www: image: must be a key of unikernel_images, not dict"),
        ([{"image": None, "imgae": "web"}], IMAGES, "domain www: unknown key 'imgae'"),
        ([{}, {}], IMAGES, "declared twice"),
        ([{}, {"name": "b"}], IMAGES, "the same address 10.0.0.10"),
        ([{}, {"name": ""}], IMAGES, "unikernels[1]: domain ''"),
        ([{}], {"web": {"url": "http://x/y"}}, "a url needs the sha256"),
        ([{}], {"web": {"file": "/x", "sha": 1}}, "unknown key 'sha'"),
        ([{}], {"web": {}}, "exactly one of source, file, url, standin"),
        ([{}], {"web": {"file": "/x", "sha256": "123"}}, "64 hexadecimal digits"),
        ([{}], {"web": {"file": ["/x"]}}, "image web: file: is ['/x'], must be text"),
        ([{}], {"web": {"source": "/x", "configure": "--no-dhcp"}}, "image web: configure: must be a list of words"),
        ([{}], {"web": {"standin": "mail"}}, "image web: standin: is 'mail', must be one of web, dns, vpn"),
        ([{}], {**IMAGES, "../web": {"file": "/x"}}, "unikernel_images: '../web'"),
        ([{"arguments": ["a\nb"]}], IMAGES, "newline"),
    ],
)
def test_each_mistake_is_one_line(changes, images, words):
    lines = problems(*changes, images=images)
    assert any(words in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"unikernels": {}}, "unikernels must be a list, not dict"),
        ({"unikernels": None}, "unikernels must be a list, not nothing"),
        ({"unikernels": [3]}, "unikernels[0]: a domain must be a mapping, not int"),
        ({"unikernel_images": []}, "unikernel_images must be a mapping of name to image, not list"),
        ({"web_interfaces": None}, "web_interfaces: is set to nothing; give the service's interfaces, or remove the variable"),
        ({"web_interfaces": [{"bridge": "b", "address": "10.0.0.0/8"}], "web_content": "/x"},
         "web_interfaces[0]: address: 10.0.0.0 is the network or broadcast address of 10.0.0.0/8"),
    ],
)  # fmt: skip
def test_wrong_shapes_name_the_variable(values, line):
    assert [problem.line for problem in compiled({"h": values}).problems] == [line]


def test_text_is_taken_for_what_it_says():
    changes = {"autostart": "no", "live": "True", "memory": "32", "disks": [{"path": "/d", "shared": "yes"}]}
    fleet = compiled({"h": {"unikernels": [{**UNIKERNEL, **changes}], "unikernel_images": IMAGES}})
    assert fleet.problems == []
    unikernel = fleet.hosts["h"].unikernels[0]
    assert (unikernel["autostart"], unikernel["live"], unikernel["disks"][0]["shared"]) == (False, True, True)
    assert flag("perhaps") is None
    assert (flag(1), flag(0), flag(2), flag(1 << 20_000)) == (True, False, None, None)


def fleet_of(first, second, **values):
    images = {"unikernel_images": IMAGES}
    return compiled({"a": {"unikernels": [first], **images}, "b": {"unikernels": [second], **images, **values}})


def with_interface(**changes):
    return {**UNIKERNEL, "interfaces": [{**UNIKERNEL["interfaces"][0], **changes}]}


def test_one_address_on_two_hosts_of_one_network():
    (problem,) = fleet_of(UNIKERNEL, {**UNIKERNEL, "name": "mail"}).problems
    assert problem == Problem("b", problem.line)
    assert problem.line.startswith("domain mail: address 10.0.0.10 on xenbr0 is declared for domain www of a too")
    for other, values in [
        (UNIKERNEL, {"xen_host_site": "elsewhere"}),
        (UNIKERNEL, {"xen_host_networks": {"xenbr0": {"mode": "nat", "addresses": ["10.0.0.1/24"]}}}),
        (with_interface(bridge="xenbr1"), {}),
        ({**UNIKERNEL, "state": "absent"}, {}),
    ]:
        assert fleet_of(UNIKERNEL, other, **values).problems == []


def test_a_site_is_text_or_a_number_and_0_is_one_too():
    assert fleet_of(UNIKERNEL, {**UNIKERNEL, "name": "mail"}, xen_host_site=0).problems == []
    for wrong in (False, True, ["a"], {"a": 1}):
        (problem, *_clash) = fleet_of(UNIKERNEL, {**UNIKERNEL, "name": "mail"}, xen_host_site=wrong).problems
        assert problem == Problem("b", f"xen_host_site: is {wrong}, must be text or a number: put it in quotes")


def test_one_mac_on_two_hosts():
    same = with_interface(mac="00:16:3e:00:00:01"), with_interface(mac="00:16:3E:00:00:01", address="10.0.0.11/24")
    (problem,) = fleet_of(*same).problems
    assert "mac 00:16:3e:00:00:01 on xenbr0 is declared for domain www of a too" in problem.line


def test_one_address_in_two_spellings():
    same = with_interface(address="FD00:0:0::A/64"), with_interface(address="fd00::000a/64")
    (problem,) = fleet_of(*same).problems
    assert "address fd00::a on xenbr0 is declared for domain www of a too" in problem.line
    (problem, _same) = fleet_of(*[with_interface(address="::ffff:10.0.0.10/120")] * 2).problems
    assert problem.line.endswith("an IPv4 address written as one of IPv6: write 10.0.0.10/PREFIX")


def test_one_shared_disk_in_two_spellings():
    disks = [{"path": path, "access": "w", "shared": True} for path in ("/srv/shared/d.img", "/srv//x/../shared/./d.img")]
    first, second = {**UNIKERNEL, "disks": disks[:1]}, {**with_interface(address="10.0.0.11/24"), "disks": disks[1:]}
    (problem,) = fleet_of(first, second).problems
    assert problem.host == "b" and "/srv/shared/d.img is on shared storage and domain www of a writes it" in problem.line


def test_one_shared_disk_that_two_hosts_write():
    disk = {"path": "/srv/shared/d.img", "access": "w", "shared": True}
    first = {**UNIKERNEL, "disks": [disk]}
    second = {**with_interface(address="10.0.0.11/24"), "disks": [{**disk, "access": "r"}]}
    (problem,) = fleet_of(first, second).problems
    assert problem.host == "b"
    assert (
        "/srv/shared/d.img is on shared storage and domain www of a writes it; only one domain may open a disk for writing"
        in problem.line
    )
    assert fleet_of(first, {**second, "state": "stopped"}).problems == []
    local = {"path": "/var/d.img", "access": "w"}
    assert fleet_of({**first, "disks": [local]}, {**second, "disks": [local]}).problems == []


def test_macs_that_collide_are_derived_again_and_stay(monkeypatch):
    def short(host, name, index):
        return derived_mac(host, name, index)[:-4] + "0:00"

    monkeypatch.setattr(between, "derived_mac", short)
    hosts = {
        f"h{number:03}": {"unikernels": [with_interface(address=f"10.0.{number // 250}.{number % 250 + 1}/8")],
                          "unikernel_images": IMAGES}
        for number in range(900)
    }  # fmt: skip

    def chosen():
        fleet = compiled(hosts)
        assert fleet.problems == []
        return {host: declared.unikernels[0]["interfaces"][0].get("mac") for host, declared in fleet.hosts.items()}

    given_macs = {host: mac for host, mac in chosen().items() if mac}
    assert given_macs, "of 900 with 12 bits some collide"
    every = [given_macs.get(host) or short(host, "www", 0) for host in hosts]
    assert len(set(every)) == len(every)
    assert chosen() == {host: given_macs.get(host) for host in hosts}
    # Hosts that sort later don't change what a host has.
    last = list(hosts)[-1]
    del hosts[last]
    assert {host: mac for host, mac in chosen().items() if mac} == {host: mac for host, mac in given_macs.items() if host != last}


def test_hosts_that_a_limit_leaves_out_count_but_are_not_judged():
    images = {"unikernel_images": IMAGES}
    hosts = {"a": {"unikernels": [UNIKERNEL], **images}, "b": {"unikernels": [UNIKERNEL], **images}, "c": {"unikernels": 3}}
    assert [problem.host for problem in compiled(hosts, reported=frozenset("a")).problems] == ["b"]
    assert compiled({"a": hosts["a"], "c": hosts["c"]}, reported=frozenset("a")).problems == []


def test_what_many_hosts_have_in_common_is_one_line():
    text = report([Problem(f"h{number}", "unikernels must be a list, not dict") for number in range(9)] + [Problem("x", "a\nb")])
    assert text == "h0, h1, h2 and 6 more: unikernels must be a list, not dict\nx: a\\nb"


def test_an_item_that_could_not_be_resolved_hides_no_other_mistake():
    unresolved = {**UNIKERNEL, "arguments": {"token": UNRESOLVED}}
    assert problems(unresolved["arguments"] and {"arguments": {"token": UNRESOLVED}}) == []
    lines = problems({"arguments": {"token": UNRESOLVED}}, {"name": "b", "memroy": 1})
    assert len(lines) == 1 and "memroy" in lines[0]


def plainly(value):
    lines = []
    return plain(value, "v", lines.append), lines


def test_what_is_no_json_is_named():
    assert plainly({"a": [1, "x", None, True, 1.5], 80: "y"}) == ({"a": [1, "x", None, True, 1.5], "80": "y"}, [])
    for value, words in [
        ({None: {}}, "v: its key None is not text"),
        ({"a": {True: 1}}, "v.a: its key True is not text: put it in quotes"),
        (["\ud800"], "v[0]: is not valid text"),
        ({"\udfff": 1}, "v: its key '\\udfff' is not valid text"),
        ({"a": b"x"}, "v.a: is binary"),
        ({"a": {1, 2}}, "v.a: is set"),
        ({"a b": object()}, "v['a b']: is object"),
    ]:
        _value, lines = plainly(value)
        assert len(lines) == 1 and words in lines[0], lines
    deep = []
    deep.append(deep)
    assert plainly(deep)[1] == ["v" + "[0]" * 31 + ": is nested deeper than 30 levels"]
    wide = ["x"] * 10
    for _level in range(9):
        wide = [wide] * 10
    assert plainly(wide)[1] == ["v: holds more than 100000 values"]


KEYS = st.sampled_from(
    ["name", "image", "interfaces", "bridge", "address", "mac", "disks", "path", "content", "arguments", "health", "http", "file",
     "source", "standin", "sha256", "configure", "overlay", "state", "memory", "kernel", "shared", "access", "within", "x"]
) | st.text(max_size=4)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=3) | st.just(UNRESOLVED)
    | st.sampled_from(["10.0.0.1/24", "xenbr0", "www", "absent", "w", "\ud800", "a\nb"])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.integers() | st.none() | st.booleans(), inner, max_size=5)
    ),
    max_leaves=15,
)
VARIABLES = st.dictionaries(st.sampled_from(Asked().names()), VALUES, max_size=6)


@given(st.dictionaries(st.sampled_from(["a", "b"]), VARIABLES, max_size=2))
def test_any_variables_are_taken_or_refused_in_lines(hosts):
    lines = []
    values = {
        host: {name: plain(value, name, lines.append) for name, value in variables.items()} for host, variables in hosts.items()
    }
    fleet = compiled(values)
    lines += report(fleet.problems).splitlines()
    for line in lines:
        one_line(line).encode("utf-8")
        assert re.fullmatch(r"[^\x00-\x1f\x7f]+", one_line(line))


def test_the_variables_of_the_hosts_themselves_are_judged_with_the_rest():
    """A typo in Dom0's memory is found before any host is contacted, in the same list as everything else."""
    values = {"xen_host_dom0_memory": 64, "xen_host_domain_cpus": "3-1", "xen_host_management_networks": ["here"]}
    fleet = compile_fleet({"xen1": Resolved({**values, "unikernels": []})}, Asked(services=()), str)
    lines = [problem.line for problem in fleet.problems]
    assert [line.partition(":")[0] for line in lines] == list(values)
    # A service's role alone reads no variables of the host.
    assert (
        not compile_fleet({"xen1": Resolved(values)}, Asked(services=(), unikernels="", images=""), str).hosts["xen1"].unikernels
    )
    fine = {"xen_host_dom0_memory": "1024", "xen_host_domain_cpus": "", "xen_host_management_networks": ["192.0.2.0/24"]}
    assert compile_fleet({"xen1": Resolved(fine)}, Asked(services=()), str).problems == []


NETWORKS = {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]}}
INSIDE = {"name": "www", "image": "web", "interfaces": [{"network": "inside", "address": "10.77.0.10/24"}]}


def test_a_network_by_name_becomes_what_the_modules_take():
    values = {"unikernels": [{**INSIDE, "publish": [{"port": 443}]}], "unikernel_images": IMAGES, "xen_host_networks": NETWORKS}
    fleet = compiled({"h": values})
    assert fleet.problems == []
    assert fleet.hosts["h"].unikernels == [
        {
            "name": "www",
            "image": "web",
            "interfaces": [{"bridge": "inside", "address": "10.77.0.10/24", "gateway": "10.77.0.1"}],
        }
    ]
    assert [(one.name, one.port, one.target) for one in fleet.hosts["h"].guests.published] == [("www", 443, "10.77.0.10")]


def test_a_service_is_published_and_its_mistakes_are_called_by_its_variables():
    values = {
        "xen_host_networks": NETWORKS, "web_image": {"file": "/web.xen"}, "web_publish": [{"port": 80}],
        "web_interfaces": [{"network": "inside", "address": "10.77.0.10/24"}],
    }  # fmt: skip
    fleet = compiled({"h": values})
    assert fleet.problems == [] and fleet.hosts["h"].guests.published[0].name == "www"
    wrong = compiled({"h": {**values, "web_publish": [{"port": 22}], "web_interfaces": [{"network": "inisde"}]}})
    lines = [problem.line for problem in wrong.problems]
    assert any(line.startswith("web_interfaces[0]: network: 'inisde' is not in xen_host_networks") for line in lines), lines
    assert any(line.startswith("web_publish") for line in lines), lines


@pytest.mark.parametrize("service", ["web", "dns", "vpn"])
def test_a_service_with_ipv6_alone(service):
    values = {
        f"{service}_image": {"file": "/x.xen"},
        f"{service}_interfaces": [{"bridge": "b", "address": "fd00::10/64", "gateway": "fe80::1"}],
    }
    fleet = compiled({"h": values})
    assert fleet.problems == []
    (unikernel,) = fleet.hosts["h"].unikernels
    assert unikernel["arguments"]["ipv6-only"] == "true" and "[fd00::10]" in "".join(map(str, unikernel["health"].values()))
    both = compiled(
        {"h": {**values, f"{service}_interfaces": [{"bridge": "b", "address": "10.0.0.9/24", "address6": "fd00::9/64"}]}}
    )
    assert "ipv6-only" not in both.hosts["h"].unikernels[0]["arguments"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"xen_host_networks": {"inside": {"mode": "nat"}}}, "xen_host_networks.inside: addresses: is required"),
        ({}, "domain www: interfaces[0]: network: 'inside' is not in xen_host_networks (known: none)"),
        ({"xen_host_networks": NETWORKS, "ansible_port": 2222, "publish": 2222}, "tcp port 2222 is the host's own sshd's"),
    ],
)
def test_mistakes_of_networks_are_in_the_fleets_list(values, words):
    unikernel = {**INSIDE, "publish": [{"port": values.get("publish", 80)}]}
    fleet = compiled({"h": {"unikernels": [unikernel], "unikernel_images": IMAGES, **values}})
    lines = [problem.line for problem in fleet.problems]
    assert any(words in line for line in lines), lines
    # Domains on a network that could not be read are not reported too.
    assert len(lines) == (1 if values else 2), lines


def test_two_hosts_may_have_the_same_private_addresses():
    values = {"unikernels": [INSIDE], "unikernel_images": IMAGES, "xen_host_networks": NETWORKS}
    assert compiled({"one": values, "two": values}).problems == []


def test_limits_know_what_is_whose_and_services_have_variables_for_them():
    values = {
        "web_interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24", "mac": "00:16:3e:00:00:09"}], "web_accept": ["tcp/80"],
        "web_reach": [], "web_image": {"file": "/web.xen"},
        "unikernels": [{"name": "two", "image": "a", "accept": [], "interfaces": [
            {"bridge": "xenbr0", "address": "10.0.0.11/24", "address6": "fd00::11/64", "ip": "10.8.0.0/24"}]}],
        "unikernel_images": {"a": {"file": "/a.xen"}},
    }  # fmt: skip
    fleet = compiled({"h": values})
    assert fleet.problems == []
    two, www = sorted(fleet.hosts["h"].guests.limits, key=lambda one: one.name)
    assert (two.own, two.six) == (("10.0.0.11/32", "fd00::11/128", "10.8.0.0/24"), ((0, ""),))
    assert (www.words(), www.own) == ({"accept": ["tcp/80"], "reach": []}, ("10.0.0.10/32",))
    assert all("accept" not in one and "reach" not in one for one in fleet.hosts["h"].unikernels)
    wrong = compiled({"h": {**values, "web_accept": ["tcp/http"]}})
    assert [problem.line for problem in wrong.problems] == [
        "web_accept[0]: is 'tcp/http': a port is a number 1..65535, or a range of two, as in tcp/443 or tcp/8000-8099"
    ]


def test_a_prefix_that_two_limited_unikernels_send_from_is_refused():
    unikernels = [
        {"name": name, "image": "a", "accept": [], "interfaces": [
            {"bridge": "xenbr0", "address": f"10.0.0.{number}/24", "ip": "10.8.0.0/24"}]}
        for name, number in (("a", 11), ("b", 12))
    ]  # fmt: skip
    fleet = compiled({"h": {"unikernels": unikernels, "unikernel_images": {"a": {"file": "/a.xen"}}}})
    assert "domain b: accept: 10.8.0.0/24 is domain a's too, with rules of its own" in [one.line for one in fleet.problems]
