"""A service's variables become a unikernel, and each mistake in them is one line that names the variable."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns, vpn, web

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24", "gateway": "10.0.0.1"}]
APEX = "@ 60 IN SOA ns.other. hostmaster 1 2 3 4 5\n@ 60 IN NS ns.other.\n"
ZONES = {"lab.example.": f"\n{APEX}\n", "b.example": APEX}


def declared(service, **variables):
    return service.declare(
        {f"{service.NAME}_{key}": value for key, value in {"interfaces": INTERFACES, **variables}.items()}, "/src"
    )


def test_the_web_server():
    service = declared(web, content="/srv/www", port="8080", arguments={"x": 1}, health={"within": 180})
    assert service.problems == ()
    assert service.unikernel == {
        "name": "www", "service": "web", "image": "www", "memory": 64, "interfaces": INTERFACES,
        "arguments": {"port": 8080, "x": 1}, "health": {"http": "http://10.0.0.10:8080/", "within": 180},
    }  # fmt: skip
    assert service.images == {"www": {"source": "/src", "overlay": {"htdocs": "/srv/www"}}}


def test_another_check_takes_the_place_of_the_usual_one():
    assert declared(web, content="/x", health={"tcp": "10.0.0.10:80"}).unikernel["health"] == {"tcp": "10.0.0.10:80"}
    assert declared(dns, zones=ZONES, health={"tcp": "10.0.0.10:53"}).unikernel["health"] == {"tcp": "10.0.0.10:53"}
    other = {"dns": "www.lab.example@10.0.0.10", "answer": "10.0.0.1"}
    assert declared(dns, zones=ZONES, health=other).unikernel["health"] == other
    assert declared(dns, zones=ZONES, health={"within": 90}).unikernel["health"]["type"] == "SOA"


def test_an_ipv6_address_stands_in_brackets():
    interfaces = [{"bridge": "xenbr0", "address": "2001:db8::10/64"}]
    assert declared(web, interfaces=interfaces, content="/x").unikernel["health"]["http"] == "http://[2001:db8::10]:80/"
    health = declared(vpn, interfaces=interfaces, pki="/k").unikernel["health"]
    assert health == {"openvpn": "[2001:db8::10]:1194", "key": "/var/lib/unikernels/vpn/vpn/health.pem"}
    assert declared(dns, interfaces=interfaces, zones=ZONES).unikernel["health"]["dns"] == "lab.example@[2001:db8::10]"


def test_the_resolver():
    service = declared(dns, zones=ZONES, forward="10.0.2.3", clients=["192.0.2.0/24"])
    assert service.problems == ()
    assert service.unikernel["arguments"] == {"forward": ["10.0.2.3"], "client": ["192.0.2.0/24"], "zone-block": "true"}
    text = "".join(
        f"$ORIGIN {zone}\n{zone} 60 IN SOA ns.other. hostmaster.{zone} 1 2 3 4 5\n{zone} 60 IN NS ns.other.\n"
        for zone in ("lab.example.", "b.example.")
    )
    assert service.unikernel["disks"] == [{"content": text}]
    plain = declared(dns).unikernel
    assert (plain["arguments"], plain["disks"], plain["health"]) == ({}, [], {"tcp": "10.0.0.10:53"})


def test_the_endpoint():
    service = declared(vpn, remote="vpn.example.net", pki="/k", clients=["alice", "bob-2"])
    assert service.problems == ()
    assert (service.keys.folder, service.keys.remote, service.keys.port) == ("/k", "vpn.example.net", 1194)
    assert service.keys.clients == ("alice", "bob-2")
    assert service.unikernel["disks"] == [{"content": "no keys yet"}]
    material = vpn.Material("CERTIFICATE", "KEY", "TLS")
    text = vpn.declare({"vpn_interfaces": INTERFACES}, "/src", "/k", material).unikernel["disks"][0]["content"]
    assert "\nserver 10.8.0.0 255.255.255.0\n" in text
    assert text.endswith("<key>\nKEY\n</key>\n<tls-crypt>\nTLS\n</tls-crypt>\n")


def test_where_an_image_comes_from():
    file = {"file": "/srv/dns.xen"}
    assert declared(dns).images == {"dns": {"source": "/src"}}
    assert declared(dns, images="standin").images == {"dns": {"standin": "dns"}}
    for images in ("build", "standin", "prebuilt"):
        assert declared(dns, images=images, image=file).images == {"dns": file}


@pytest.mark.parametrize(
    ("service", "variables", "words"),
    [
        (web, {"content": "/x", "images": "standins"}, "web_images: is 'standins', must be build, prebuilt or standin"),
        (web, {"content": "/x", "images": "prebuilt"}, "web_image: is required by images: prebuilt"),
        (web, {}, "web_content: is required"),
        (web, {"content": "/x", "port": 0}, "web_port: is 0, must be a TCP port, 1..65535"),
        (web, {"content": "/x", "port": True}, "web_port: is True, must be a TCP port"),
        (web, {"content": "/x", "memory": "much"}, "web_memory: is 'much', must be a number of MiB"),
        (web, {"content": "/x", "arguments": ["--a"]}, "web_arguments: must be a mapping of boot argument to value, not a list"),
        (web, {"content": "/x", "name": {}}, "web_name: must be text, not a mapping"),
        (web, {"content": "/x", "interfaces": {"bridge": "b"}}, "web_interfaces: must be a list of interfaces"),
        (web, {"content": "/x", "interfaces": ["b"]}, "web_interfaces: must be a list of mappings"),
        (dns, {"clients": ["192.0.2.1"]}, "dns_clients: '192.0.2.1' is not a network, as in 192.0.2.0/24"),
        (dns, {"clients": ["192.0.2.1/24"]}, "dns_clients: '192.0.2.1/24' is not a network, as in 192.0.2.0/24"),
        (dns, {"forward": ["dns.example"]}, "dns_forward: 'dns.example' is not an address"),
        (dns, {"forward": ["fe80::1%x --more"]}, "dns_forward: 'fe80::1%x --more' is not an address"),
        (dns, {"clients": ["fe80::%x\n/64"]}, "dns_clients: 'fe80::%x\\n/64' is not a network"),
        (dns, {"zones": {"a b": ZONES["b.example"]}}, "dns_zones: 'a b' is not the name of a zone"),
        (dns, {"zones": {"lab.example": "www 60 IN A 10.0.0.1"}}, "has no SOA record"),
        (dns, {"forward": ["10.0.0.10"]}, "dns_forward: 10.0.0.10 is the resolver's own address"),
        (dns, {"zones": ["lab.example"]}, "dns_zones: must be a mapping of zone name"),
        (vpn, {"network": "10.8.0.1/24", "pki": "/k"}, "vpn_network: '10.8.0.1/24' is not an IPv4 network"),
        (vpn, {"network": "10.8.0.0/30", "pki": "/k"}, "too small"),
        (vpn, {"remote": "v\nup /bin/sh", "pki": "/k"}, "vpn_remote: 'v\\nup /bin/sh' is neither a name nor an address"),
        (vpn, {"remote_port": "80 80", "pki": "/k"}, "vpn_remote_port: is '80 80', must be a TCP port"),
        (vpn, {"clients": ["../x"], "pki": "/k"}, "vpn_clients: '../x' must be"),
        (vpn, {"clients": ["server"], "pki": "/k"}, "not 'server'"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(service, variables, words):
    (line,) = declared(service, **variables).problems
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("service", [web, dns])
@pytest.mark.parametrize("update", ["standby", "warm", "recreate", "never"])
def test_a_service_is_a_declaration_that_the_domain_modules_take(service, update):
    unikernel = dict(declared(service, content="/x", update=update).unikernel)
    del unikernel["service"], unikernel["image"]
    assert declaration_of({**unikernel, "kernel": "/k"}, "h").update == update


def test_how_a_changed_domain_replaces_the_old_one():
    assert declared(web, content="/x", update="warm").unikernel["update"] == "warm"
    assert declared(web, content="/x", update="warm", log_level="quiet").problems == (
        "web_update: is warm, which waits for the line web: ready, and web_log_level: quiet hides it",
    )
    assert "update" not in declared(dns).unikernel
    assert declared(vpn, update="hot").problems == ("vpn_update: is 'hot', must be standby, warm, recreate or never",)
