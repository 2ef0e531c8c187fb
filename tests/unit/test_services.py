"""Mistakes in a service's own variables."""

import pytest
from ansible_collections.unikernels.xen.plugins.filter.services import (
    dns_problems,
    image_problems,
    service_image,
    vpn_problems,
)

ZONES = {"lab.example": "@ IN SOA ns hostmaster 1 2 3 4 5\n"}


def test_right_ones():
    assert dns_problems(["10.0.2.3", "2001:db8::1"], ZONES, ["192.0.2.0/24", "::/0"]) == []
    assert vpn_problems("10.8.0.0/24", "vpn.example.net", 1194, ["alice", "bob-2"]) == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (image_problems("standins", {}, "web"), "images: 'standins': expected build, prebuilt or standin"),
        (image_problems("prebuilt", {}, "web"), "web_image: is required by images: prebuilt"),
        (dns_problems([], {}, ["192.0.2.1"]), "dns_clients: '192.0.2.1' is not a network, as in 192.0.2.0/24"),
        (dns_problems([], {}, ["192.0.2.1/24"]), "dns_clients: '192.0.2.1/24' is not a network, as in 192.0.2.0/24"),
        (dns_problems(["dns.example"], {}, []), "dns_forward: 'dns.example' is not an address"),
        (dns_problems([], {"a b": ZONES["lab.example"]}, []), "'a b' is not the name of a zone"),
        (dns_problems([], {"lab.example": "www IN A 10.0.0.1"}, []), "has no SOA record"),
        (vpn_problems("10.8.0.1/24", "v", 1194, []), "is not an IPv4 network"),
        (vpn_problems("10.8.0.0/30", "v", 1194, []), "too small"),
        (vpn_problems("10.8.0.0/24", "v\nup /bin/sh", 1194, []), "neither a name nor an address"),
        (vpn_problems("10.8.0.0/24", "v", "80 80", []), "is not a port"),
        (vpn_problems("10.8.0.0/24", "v", 1194, ["../x"]), "vpn_clients: '../x' must be"),
        (vpn_problems("10.8.0.0/24", "v", 1194, ["server"]), "not 'server'"),
    ],
)
def test_each_mistake_is_one_line(lines, words):
    assert len(lines) == 1
    assert words in lines[0]
    assert "\n" not in lines[0]


def test_where_an_image_comes_from():
    origins = {"source": "/unikernels/dns"}, {"standin": "dns"}
    assert service_image("build", {}, *origins) == origins[0]
    assert service_image("standin", {}, *origins) == origins[1]
    for images in ("build", "standin", "prebuilt"):
        assert service_image(images, {"file": "/srv/dns.xen"}, *origins) == {"file": "/srv/dns.xen"}
        assert image_problems(images, {"file": "/srv/dns.xen"}, "dns") == []
