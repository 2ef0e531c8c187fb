"""VPN endpoints: what their variables become, and each mistake in them as one line that names the variable."""

import ipaddress

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Resolved, compile_fleet, report
from ansible_collections.unikernels.xen.plugins.module_utils.service import vpn, vpn_config
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import servers
from ansible_collections.unikernels.xen.plugins.module_utils.service.vpn_config import Material, Tunnel, configuration, pool
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24", "gateway": "10.0.0.1"}]
GOOD = Material("CERTIFICATE", "KEY", "TLS", {"alice": ("AA:BB", "CC:DD"), "bob": ("EE:FF",)})
NETWORK = ipaddress.IPv4Network("10.8.0.0/24")
STANDIN = {"images": "standin"}


def declared(material=GOOD, networks=None, resolver="", **variables):
    values = {f"vpn_{key}": value for key, value in {"interfaces": INTERFACES, "pki": "/k", **variables}.items()}
    return vpn.declare(values, "/src", "/k", material, networks, resolver)


def text(**variables):
    service = declared(**variables)
    assert service.problems == ()
    return service.unikernel["disks"][0]["content"]


def fingerprints(content):
    return content.split("<peer-fingerprint>\n")[1].split("\n</peer-fingerprint>")[0].split("\n")


def test_only_certificates_of_declared_clients_are_good():
    assert fingerprints(text(clients=["alice", "bob"])) == ["AA:BB", "CC:DD", "EE:FF"]
    assert fingerprints(text(clients=["bob"])) == ["EE:FF"]
    # OpenVPN would ignore an empty list, and accept everybody.
    assert fingerprints(text(clients=[])) == [":".join(["00"] * 32)] == fingerprints(text(clients=["not-yet"]))
    assert "<ca>" not in text(clients=["alice"])


def test_what_a_run_is_about_to_renew_makes_a_difference_that_a_check_sees():
    pending = Material("CERTIFICATE", "KEY", "TLS", {}, ("renew server",))
    assert text(material=pending).startswith("# renew server\n")
    assert text(material=None) == vpn_config.NO_KEYS


def test_clients_reach_each_other_unless_that_is_switched_off():
    assert "\nclient-to-client\n" in text() and "client-to-client" not in text(client_to_client="no")
    assert "#apart 10.8.0.0/24\n" in text(client_to_client=False, **STANDIN) and "#apart" not in text(**STANDIN)


def test_what_clients_reach():
    content = text(routes=["192.0.2.0/24", "198.51.100.7"], nat=True, **STANDIN)
    assert 'push "route 192.0.2.0 255.255.255.0"\npush "route 198.51.100.7 255.255.255.255"\n' in content
    assert content.startswith("#nat 10.8.0.0/24\n") and "redirect-gateway" not in content
    everything = text(redirect_gateway="yes", **STANDIN)
    assert 'push "redirect-gateway def1"\n' in everything and 'push "block-ipv6"\n' in everything


def test_the_endpoint_forwards_to_what_is_declared_and_an_image_of_ones_own_gets_no_argument():
    routes = {"routes": ["192.0.2.0/24", "198.51.100.7"]}
    for images in ({}, STANDIN):
        assert declared(**routes, **images).unikernel["arguments"] == {"forward": ["192.0.2.0/24", "198.51.100.7/32"]}
        assert declared(redirect_gateway=True, arguments={"logs": "debug"}, **routes, **images).unikernel["arguments"] == {
            "forward": ["0.0.0.0/0"], "logs": "debug"
        }  # fmt: skip
        assert declared(**images).unikernel["arguments"] == {}
    own = declared(image={"file": "/x.xen"}, **routes)
    assert own.unikernel["arguments"] == {} and own.unikernel["interfaces"] == INTERFACES and own.problems == ()


def test_packets_of_clients_leave_under_their_own_addresses_or_the_endpoints():
    for images in ({}, STANDIN):
        interfaces = declared(routes=["192.0.2.0/24"], **images).unikernel["interfaces"]
        assert interfaces == [{**INTERFACES[0], "ip": "10.8.0.0/24"}]
    mine = [{**INTERFACES[0], "ip": "10.8.0.0/24 192.0.2.9"}]
    assert declared(routes=["192.0.2.0/24"], interfaces=mine, **STANDIN).unikernel["interfaces"] == mine
    assert declared(routes=["192.0.2.0/24"], nat=True, **STANDIN).unikernel["interfaces"] == INTERFACES
    assert declared().unikernel["interfaces"] == INTERFACES


def test_resolvers_are_those_that_are_declared_or_the_hosts_own_where_clients_reach_it():
    assert 'push "dhcp-option DNS 9.9.9.9"\n' in text(dns="9.9.9.9")
    own = {"resolver": "10.0.0.53", **STANDIN}
    assert 'push "dhcp-option DNS 10.0.0.53"\n' in text(routes=["10.0.0.0/24"], **own)
    assert 'push "dhcp-option DNS 10.0.0.53"\n' in text(redirect_gateway=True, **own)
    assert "DNS" not in text(**own) and "DNS" not in text(redirect_gateway=True, dns=[], **own)


def test_clients_with_addresses_of_their_own():
    content = text(clients=[{"name": "alice", "address": "10.8.0.200"}, "bob"], **STANDIN)
    assert "#client alice 10.8.0.200 255.255.255.0\n" in content
    assert "\nserver 10.8.0.0 255.255.255.0 nopool\nifconfig-pool 10.8.0.2 10.8.0.199 255.255.255.0\n" in content


@given(st.sets(st.integers(1, 255)))
def test_the_pool_has_no_address_of_a_client(taken):
    addresses = [NETWORK.network_address + number for number in taken if number < 255]
    try:
        first, last = map(ipaddress.IPv4Address, pool(NETWORK, addresses))
    except ValueError:
        assert set(range(2, 255)) <= taken
        return
    assert NETWORK.network_address + 2 <= first <= last <= NETWORK.network_address + 254
    assert not any(first <= address <= last for address in addresses)


def test_it_listens_on_ipv6_where_it_has_an_address():
    assert "\nproto tcp-server\n" in text()
    assert "\nproto tcp6-server\n" in text(interfaces=[{**INTERFACES[0], "address6": "2001:db8::10/64"}])


@given(st.builds(
    Tunnel, st.just(NETWORK), st.just(("alice",)), between_clients=st.booleans(), everything=st.booleans(), nat=st.booleans(),
    routes=st.just((ipaddress.IPv4Network("192.0.2.0/24"),)), resolvers=st.just(("192.0.2.1",)), ipv6=st.booleans(),
))  # fmt: skip
def test_miragevpn_reads_it(tunnel):
    """The parser knows each option, and pushed options have no comma (src/config.ml of the commit that is built)."""
    known = ("dev tun", "proto tcp", "port ", "server ", "topology subnet", "keepalive ", "cipher ", "data-ciphers ", "dh none",
             "tls-version-min 1.2", "verb ", "client-to-client", "push ", "<")  # fmt: skip
    outside = configuration(tunnel, GOOD).split("<peer-fingerprint>")[0]
    for line in outside.splitlines():
        assert line.startswith(known), line
        assert "," not in line
    assert "tls-version-min 1.2\n" in outside


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"clients": ["a/b"]}, "vpn_clients: 'a/b' must be letters"),
        ({"clients": ["alice", "Alice"]}, "vpn_clients: 'Alice' is listed twice"),
        ({"clients": ["ca"]}, "not 'server' or 'ca'"),
        ({"clients": ["Server"]}, "not 'server' or 'ca'"),
        ({"clients": 7}, "vpn_clients: must be a list of names, not int"),
        ({"clients": [["a"]]}, "vpn_clients: ['a'] must be a name"),
        ({"clients": [True]}, "vpn_clients: True must be a name"),
        ({"clients": [{"name": "a", "addr": "10.8.0.4"}]}, "must be a name, or a mapping as in"),
        ({"clients": [{"address": "10.8.0.4"}]}, "must be a name, or a mapping as in"),
        ({"clients": [{"name": "a", "address": "10.8.0.x"}], **STANDIN}, "a: address: '10.8.0.x' is not an IPv4 address"),
        ({"clients": [{"name": "a", "address": "10.9.0.4"}], **STANDIN}, "a: address: 10.9.0.4 must be in 10.8.0.0/24"),
        ({"clients": [{"name": "a", "address": "10.8.0.1"}], **STANDIN}, "which is the endpoint's"),
        ({"clients": [{"name": n, "address": "10.8.0.9"} for n in "ab"], **STANDIN}, "b and a have the same address 10.8.0.9"),
        ({"clients": [{"name": "a", "address": "10.8.0.9"}]}, "vpn_clients: an address of a client's own is for stand-ins"),
        ({"network": "0.0.0.0/0"}, "vpn_network: 0.0.0.0/0 must be a network of hosts"),
        ({"network": "224.0.0.0/8"}, "vpn_network: 224.0.0.0/8 must be a network of hosts"),
        ({"network": "10.0.0.0/16"}, "vpn_network: 10.0.0.0/16 overlaps 10.0.0.0/24 (vpn_interfaces[0].address)"),
        ({"networks": {"inside": {"addresses": ["10.8.0.1/16"]}}}, "overlaps 10.8.0.0/16 (xen_host_networks[inside])"),
        ({"routes": ["10.8.0.0/16"], **STANDIN}, "vpn_routes: 10.8.0.0/16 overlaps the tunnel's own network"),
        ({"routes": ["0.0.0.0/0"], **STANDIN}, "set redirect_gateway instead"),
        ({"routes": ["2001:db8::/32"], **STANDIN}, "IPv6 is not carried"),
        ({"routes": ["192.0.2.1/24"], **STANDIN}, "vpn_routes: '192.0.2.1/24' is not an IPv4 network"),
        ({"nat": True, "routes": ["192.0.2.0/24"]}, "vpn_nat: our unikernel routes: give the network behind it a route"),
        ({"redirect_gateway": "perhaps"}, "vpn_redirect_gateway: is 'perhaps', must be true or false"),
        ({"nat": True, "image": {"file": "/x.xen"}}, "vpn_nat: is only for stand-ins"),
        ({"dns": ["dns.example"]}, "vpn_dns: 'dns.example' is not an IPv4 address"),
        ({"dns": ["2001:db8::53"]}, "vpn_dns: '2001:db8::53' is not an IPv4 address"),
        ({"days": 0}, "vpn_days: is 0, must be days that certificates are good for"),
        ({"renew_days": 2000, "ca_days": 4000}, "vpn_renew_days: is 2000, must be less than days (1825)"),
        ({"ca_days": 1900}, "vpn_ca_days: is 1900, must be at least days and renew_days together (1915)"),
        ({"new_ca": "soon"}, "vpn_new_ca: is 'soon', must be true or false"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(variables, words):
    (line,) = declared(**variables).problems
    assert words in line and "\n" not in line


def compiled(*hosts):
    resolved = {name: Resolved({f"vpn_{key}": value for key, value in values.items()}) for name, values in hosts}
    return compile_fleet(resolved, Asked(), lambda service: f"/src/{service}")


def interfaces(number):
    return [{"bridge": "xenbr0", "address": f"10.0.0.{number}/24"}]


def test_any_number_of_endpoints_on_a_host():
    more = [{"name": "vpn-b", "interfaces": interfaces(11), "pki": "/b", "clients": ["bob"], "network": "10.9.0.0/24"}]
    fleet = compiled(("xen1", {"interfaces": interfaces(10), "pki": "/a", "clients": ["alice"], "endpoints": more, "memory": 99}))
    assert fleet.problems == []
    here = fleet.hosts["xen1"]
    assert [(one["name"], one["memory"]) for one in here.unikernels] == [("vpn", 99), ("vpn-b", 99)]
    assert [(keys.name, keys.folder, keys.clients) for keys in here.keys] == [
        ("vpn", "/a", ("alice",)),
        ("vpn-b", "/b", ("bob",)),
    ]
    assert here.unikernels[1]["health"]["key"] == "/var/lib/unikernels/vpn/vpn-b/health.pem"
    assert set(here.images) == {"vpn"} and {one["image"] for one in here.unikernels} == {"vpn"}
    alone = compiled(("xen1", {"endpoints": more}))
    assert alone.problems == [] and [one["name"] for one in alone.hosts["xen1"].unikernels] == ["vpn-b"]


@pytest.mark.parametrize(
    ("endpoints", "words"),
    [
        ({}, "vpn_endpoints: must be a list; give a list of mappings"),
        (["b"], "vpn_endpoints[0]: must be a mapping"),
        ([{"name": "b"}], "vpn_endpoints[0]: interfaces missing: each has its own"),
        ([{"name": "b", "interfaces": interfaces(11), "client": []}], "vpn_endpoints[0]: unknown key 'client'; known are"),
        ([{"name": "b", "interfaces": interfaces(11), "pki": "/b", "network": "10.8.0.0/30"}], "vpn_endpoints[0].network: 10.8"),
        ([{"name": "b", "interfaces": interfaces(11), "pki": "/k"}], "vpn_endpoints[0].pki: /k is that of vpn on xen1 too"),
        ([{"name": "vpn", "interfaces": interfaces(11), "pki": "/b"}], "vpn_endpoints[0].name: 'vpn' is the name of vpn_name"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_list_of_endpoints_is_one_line(endpoints, words):
    lines = report(compiled(("xen1", {"interfaces": interfaces(10), "pki": "/k", "endpoints": endpoints})).problems)
    assert words in lines and "\n" not in lines


def test_two_hosts_do_not_share_a_folder_of_keys():
    fleet = compiled(*((f"xen{n}", {"interfaces": interfaces(n), "pki": "/k"}) for n in (1, 2)))
    assert report(fleet.problems) == "xen2: vpn_pki: /k is that of vpn on xen1 too; give each endpoint its own folder"


def test_the_resolver_of_the_host_is_pushed():
    values = {"vpn_interfaces": interfaces(10), "vpn_pki": "/k", "vpn_routes": ["10.0.0.0/24"], "vpn_images": "standin",
              "dns_interfaces": interfaces(53), "dns_images": "standin"}  # fmt: skip
    resolved = {"xen1": Resolved(values, materials={"vpn": GOOD})}
    for services in (("web", "dns", "vpn"), ("vpn",)):
        fleet = compile_fleet(resolved, Asked(services), lambda service: f"/src/{service}")
        (content,) = (one["disks"][0]["content"] for one in fleet.hosts["xen1"].unikernels if one["name"] == "vpn")
        assert 'push "dhcp-option DNS 10.0.0.53"\n' in content


PUBLIC = {"source": "https://git.example.net/miragevpn.git", "subfolder": "mirage-server", "version": "0" * 40}


@pytest.mark.parametrize(
    ("variables", "vdev"),
    [
        ({}, None),
        (STANDIN, None),
        ({"image": {"standin": "vpn"}}, None),
        ({"image": {"source": "/src"}}, None),
        ({"image": {"source": "/src/", "update_lock": True}}, None),
        ({"images": "prebuilt", "image": {"file": "/srv/vpn.xen"}}, None),
        ({"image": PUBLIC}, "xvdb"),
        ({"image": {"source": "/srv/mirage-server"}}, "xvdb"),
        ({"image": PUBLIC, "vdev": "xvda"}, None),
        ({"images": "prebuilt", "image": {"file": "/srv/vpn.xen"}, "vdev": "xvdb"}, "xvdb"),
    ],
)
def test_the_configuration_is_on_the_disk_that_the_image_reads(variables, vdev):
    """What block_of_file names begins at xvdb: Mirage keeps the first disk for a boot disk. Ours names xvda itself."""
    service = declared(**variables)
    assert service.problems == () and service.unikernel["disks"][0].get("vdev") == vdev


@pytest.mark.parametrize("vdev", ["sdb/../..", "xvd", 1, "", "xvdb\n", "51728"])
def test_what_is_no_disk_is_refused(vdev):
    (line,) = declared(vdev=vdev).problems
    assert line == f"vpn_vdev: {str(vdev)!r} is not a disk of the domain, as in xvda or xvdb"


def test_endpoints_have_their_own_disk():
    values = {"vpn_endpoints": [{"name": "b", "interfaces": INTERFACES, "vdev": "xvdc"}, {"name": "c", "interfaces": INTERFACES}]}
    said = []
    (first, second) = servers("vpn", vpn.OPTIONS, values, said.append)
    assert said == [] and "vpn_vdev" not in second.values
    assert vpn.declare(first.values, "/src", "/k", GOOD).unikernel["disks"][0]["vdev"] == "xvdc"
