"""Any number of a service on a host: each is a unikernel of its own, and each mistake is one line with what the user wrote."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import SERVICES, Asked, Resolved, compile_fleet
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import LISTS, servers
from hypothesis import given
from hypothesis import strategies as st

NAT = {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}}
ZONE = "@ 60 IN SOA ns.other. hostmaster 1 2 3 4 5\n@ 60 IN NS ns.other.\n"


def interfaces(number, bridge="xenbr0"):
    return [{"bridge": bridge, "address": f"10.0.0.{number}/24"}]


def inside(number):
    return [{"network": "inside", "address": f"10.77.0.{number}/24"}]


def compiled(asked=None, **values):
    return compile_fleet({"xen1": Resolved(values)}, asked or Asked(), lambda service: f"/src/{service}")


def lines(**values):
    return [problem.line for problem in compiled(**values).problems]


def here(**values):
    fleet = compiled(**values)
    assert fleet.problems == []
    return fleet.hosts["xen1"]


def test_two_web_servers_with_different_content_are_two_images():
    sites = [
        {"name": "shop", "interfaces": interfaces(11), "content": "/srv/shop", "port": 8080},
        {"name": "docs", "interfaces": interfaces(12), "content": "/srv/docs", "memory": 32},
    ]
    found = here(web_sites=sites, web_memory=99, web_arguments={"x": 1})
    assert [(one["name"], one["image"], one["memory"]) for one in found.unikernels] == [
        ("shop", "shop", 99),
        ("docs", "docs", 32),
    ]
    assert {name: image["overlay"]["htdocs"] for name, image in found.images.items()} == {
        "shop": "/srv/shop",
        "docs": "/srv/docs",
    }
    assert [one["health"]["http"] for one in found.unikernels] == ["http://10.0.0.11:8080/", "http://10.0.0.12:80/"]
    assert [one["arguments"] for one in found.unikernels] == [{"port": 8080, "x": 1}, {"port": 80, "x": 1}]


def test_equal_content_is_one_image():
    more = [{"name": "www-b", "interfaces": interfaces(11)}, {"name": "old", "interfaces": interfaces(12), "content": "/old"}]
    found = here(web_interfaces=interfaces(10), web_content="/srv/www", web_sites=more)
    assert [(one["name"], one["image"]) for one in found.unikernels] == [("www", "www"), ("www-b", "www"), ("old", "old")]
    assert set(found.images) == {"www", "old"}


def test_dns_servers_beside_each_other():
    more = [{"name": "dns-b", "interfaces": interfaces(54), "forward": ["9.9.9.9"]}]
    found = here(dns_interfaces=interfaces(53), dns_zones={"b.example": ZONE}, dns_servers=more)
    first, second = found.unikernels
    assert first["disks"] == second["disks"] and first["image"] == second["image"] == "dns"
    assert second["arguments"] == {"forward": ["9.9.9.9"], "zone-block": "true"}
    assert second["health"] == {"dns": "b.example@10.0.0.54", "type": "SOA"}


def test_a_check_of_one_servers_own_is_not_that_of_another():
    more = [{"name": "b", "interfaces": interfaces(11)}]
    check = {"http": "http://10.0.0.10/up", "status": 204, "within": 90}
    first, second = here(web_interfaces=interfaces(10), web_content="/w", web_health=check, web_sites=more).unikernels
    assert first["health"] == check and second["health"] == {"http": "http://10.0.0.11:80/", "within": 90}
    (line,) = lines(web_content="/w", web_health=check, web_sites=more)
    assert line == "web_health: is for the server of web_interfaces; give it to an item of web_sites"


def test_each_publishes_its_own_ports():
    sites = [{"name": "a", "interfaces": inside(10), "publish": [{"port": 80}]}, {"name": "b", "interfaces": inside(11)}]
    found = here(xen_host_networks=NAT, web_content="/w", web_sites=sites)
    assert [(one.name, one.port) for one in found.guests.published] == [("a", 80)]
    sites[1]["publish"] = [{"port": 80}]
    (line,) = lines(xen_host_networks=NAT, web_content="/w", web_sites=sites)
    assert line == "web_sites[1].publish: tcp port 80 is published for domain a already"


def test_the_resolver_that_vpn_clients_get_may_be_in_the_list():
    values = {"vpn_interfaces": interfaces(12), "vpn_pki": "/k", "vpn_routes": ["10.0.0.0/24"]}
    servers_ = [{"name": "dns", "interfaces": interfaces(53)}]
    fleet = compiled(Asked(("vpn",)), dns_servers=servers_, **values)
    assert fleet.problems == []
    (pushed,) = (server for server in fleet.hosts["xen1"].unikernels)
    assert pushed["name"] == "vpn"


ITEM = {"name": "b", "interfaces": interfaces(11)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"web_sites": None}, "web_sites: is set to nothing; give a list of mappings, as in [{name: web-b, interfaces: [...]}]"),
        ({"web_sites": []}, "web_sites: is empty; give a list of mappings"),
        ({"dns_servers": []}, "dns_servers: is empty; give a list of mappings"),
        ({"web_sites": {"b": ITEM}}, "web_sites: must be a list; give a list of mappings"),
        ({"web_sites": "b"}, "web_sites: must be a list; give a list of mappings"),
        ({"web_sites": ["b"]}, "web_sites[0]: must be a mapping, as in {name: web-b, interfaces: [...]}, not str"),
        ({"web_sites": [None]}, "web_sites[0]: must be a mapping, as in {name: web-b, interfaces: [...]}, not nothing"),
        ({"web_sites": [[ITEM]]}, "web_sites[0]: must be a mapping, as in {name: web-b, interfaces: [...]}, not list"),
        ({"web_sites": [{}]}, "web_sites[0]: name and interfaces missing: each has its own"),
        ({"web_sites": [{**ITEM, "name": None}]}, "web_sites[0]: name missing: each has its own"),
        ({"web_sites": [{**ITEM, "contents": "/x"}]}, "web_sites[0]: unknown key 'contents'; known are interfaces, content,"),
        ({"web_sites": [{**ITEM, "web_content": "/x"}]}, "web_sites[0]: unknown key 'web_content'"),
        ({"web_sites": [{**ITEM, "sites": []}]}, "web_sites[0]: unknown key 'sites'"),
        ({"web_sites": [{**ITEM, "port": "x"}]}, "web_sites[0].port: is 'x', must be a TCP port, 1..65535"),
        ({"web_sites": [{**ITEM, "tls": {"port": 444, "redirect": False}}]}, "web_sites[0].tls: certificates must be a list"),
        ({"web_sites": [{**ITEM, "interfaces": [{"bridge": "x", "addres": "1"}]}]},
         "web_sites[0].interfaces[0]: unknown key 'addres'"),
        ({"web_sites": [{**ITEM, "name": ["b"]}]}, "web_sites[0].name: must be text, not a list"),
        ({"web_sites": [{**ITEM, "name": "a b"}]}, "web_sites[0].name: domain 'a b'"),
        ({"web_sites": [{**ITEM, "name": "www"}]},
         "web_sites[0].name: 'www' is the name of web_name too; a name is unique on its host"),
        ({"web_sites": [ITEM, {**ITEM, "interfaces": interfaces(12)}]},
         "web_sites[1].name: 'b' is the name of web_sites[0].name too"),
        ({"web_sites": [{**ITEM, "interfaces": interfaces(10)}]},
         "web_sites[0].interfaces: domains www and b have the same address 10.0.0.10 on xenbr0"),
        ({"web_sites": [{**ITEM, "name": "own"}], "unikernels": [{"name": "own", "kernel": "/k"}]},
         "web_sites[0].name: 'own' is the name of unikernels[0] too"),
        ({"web_sites": [ITEM], "dns_servers": [{**ITEM, "interfaces": interfaces(53)}]},
         "dns_servers[0].name: 'b' is the name of web_sites[0].name too"),
        ({"web_sites": [ITEM], "unikernel_images": {"www": {"file": "/x.xen"}}},
         "unikernel_images: 'www' is the image of web_name; give it another name, or set web_image instead"),
        ({"web_sites": [{**ITEM, "content": "/b"}], "unikernel_images": {"b": {"file": "/x.xen"}}},
         "unikernel_images: 'b' is the image of web_sites[0].name; give it another name, or set web_sites[0].image instead"),
        ({"web_port": "x", "web_sites": [ITEM, {**ITEM, "name": "c"}]}, "web_port: is 'x', must be a TCP port, 1..65535"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(values, words):
    (line,) = lines(**{"web_interfaces": interfaces(10), "web_content": "/w", **values})
    assert line.startswith(words) and "\n" not in line, line


def test_what_no_server_has_is_missed_by_the_place_where_it_would_stand():
    assert lines(web_sites=[ITEM]) == ["web_sites[0].content: is required"]
    assert lines(web_content="/w", web_publish=[{"port": 80}], web_sites=[ITEM]) == [
        "web_publish: is for the server of web_interfaces; give it to an item of web_sites"
    ]


def test_a_role_on_its_own_says_what_it_lacks():
    (problem,) = compiled(Asked(("web",), "", "")).problems
    assert problem.line == "web_interfaces: is required, as in [{bridge: xenbr0, address: 10.0.0.10/24}], or web_sites"
    assert compiled(Asked(("web",), "", ""), web_content="/w", web_sites=[ITEM]).problems == []


WRITTEN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "interfaces", "port", "x"]), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(LISTS)), WRITTEN, st.booleans())
def test_whatever_a_list_holds_is_a_server_or_a_line(service, listed, alone):
    values = {f"{service}_{LISTS[service]}": listed, **({f"{service}_interfaces": []} if alone else {})}
    said = []
    found = servers(service, SERVICES[service], values, said.append)
    items = listed if isinstance(listed, list) and listed else [listed]
    assert len(found) - alone + len(said) == len(items)
    assert not any("\n" in line for line in said)
    assert all(server.values[f"{service}_name"] is not None for server in found[alone:])
