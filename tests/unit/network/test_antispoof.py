"""What a vif may send, as nftables rules: valid claims, and that nft accepts every text."""

import contextlib
import ipaddress
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import domain_from_libxl, xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.network.antispoof import (
    UNFILTERED,
    ClaimError,
    added,
    claims,
    claims_text,
    link_local,
    present,
    removed,
    vif,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

MAC = "00:16:3e:01:02:03"
TABLES = (pathlib.Path(__file__).parents[3] / "roles/xen_host/files/antispoof.nft").read_text()
VIFS = [
    vif("vif1.0", MAC, ""),
    vif("vif2.0", MAC, "10.0.0.10"),
    vif("vif2.1", MAC, "fd00::10"),
    vif("vif3.0", MAC, "10.0.0.10 10.8.0.0/24 fd00::10 2001:db8::/32 2001:db8:0:8::/61"),
    vif("vif4.0-emu", MAC, UNFILTERED),
    vif("shop_front.1-x", MAC, str(link_local(MAC).network_address)),
    vif("routed", MAC, UNFILTERED, routed=True),
]


def nft(text):
    if not shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        pytest.skip("nft is not installed")
    done = subprocess.run(["unshare", "--net", "nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(f"nft -c needs a network namespace: {done.stderr.strip()}")
    return done.stderr


def test_nft_takes_the_whole_text():
    assert nft(TABLES + "".join(added(one) for one in VIFS) + "".join(removed(one.device) for one in VIFS)) == ""


def test_nft_takes_a_vif_that_comes_again_as_another():
    assert nft(TABLES + added(VIFS[3]) + added(vif("vif3.0", MAC, UNFILTERED)) + added(vif("vif3.0", MAC, ""))) == ""


def test_the_hook_takes_away_what_was_given():
    hook = (pathlib.Path(__file__).parents[3] / "roles/xen_host/files/antispoof.hook").read_text()
    assert removed("$dev") in hook


def test_a_host_with_200_vifs():
    text = "".join(added(vif(f"vif{number}.0", MAC, f"10.0.0.{number} fd00::{number:x}")) for number in range(1, 201))
    assert nft(TABLES + text) == ""


def test_a_vif_has_as_many_rules_on_an_empty_host_as_on_a_full_one():
    assert len(added(VIFS[1]).splitlines()) == len(added(vif("vif200.0", MAC, "10.0.0.200")).splitlines()) < 20


addresses = st.one_of(st.ip_addresses(), st.ip_addresses(v=4), st.ip_addresses(v=6))
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "/", "10.0.0.0/0", "::/0", "1.2.3.4/33", "fe80::1%eth0", "0x7f.1", UNFILTERED, "10.0.0.1/255.0.0.0"]),
    st.builds(lambda address, bits: f"{address}/{bits}", addresses, st.integers(0, 130)),
    st.builds(lambda address, bits: str(ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)),
              addresses, st.integers(0, 128)),
)  # fmt: skip


@given(st.lists(words, max_size=5))
@example(["fe80::1%eth0"])
@example(["10.0.0.1/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.1"])
def test_any_text_is_refused_in_one_line_or_read_back_as_it_is(texts):
    text = " ".join(texts)
    try:
        found = claims(text)
    except ClaimError as error:
        assert str(error) and "\n" not in str(error)
        return
    again = claims_text(found)
    assert claims(again) == found
    assert claims_text(claims(again)) == again


@settings(max_examples=10)
@given(st.lists(words, min_size=40, max_size=40))
def test_nft_takes_what_was_not_refused(texts):
    found = [UNFILTERED, "10.0.0.1 2001:db8::/64"]
    for text in texts:
        with contextlib.suppress(ClaimError):
            claims(text)
            found.append(text)
    assert nft(TABLES + "".join(added(vif(f"vif{number}.0", MAC, text)) for number, text in enumerate(found))) == ""


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("10.0.0.10/24", "10.0.0.10"),
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("10.0.0.0/31 10.0.0.0", "10.0.0.0/31 10.0.0.0"),
        ("2001:DB8::1/64  10.1.1.1", "2001:db8::1 10.1.1.1"),
        (UNFILTERED, UNFILTERED),
    ],
)
def test_claims_are_addresses_and_whole_networks(text, own):
    assert claims_text(claims(text)) == own


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0/0", "::/0", "0.0.0.0", "::", "::1", "127.0.0.1", "224.0.0.5", "255.255.255.255", "ff02::1", "::ffff:10.0.0.1",
     "10.0.0.256", "10.0.0.1;drop", "a", "2001:db8::/129", "192.0.0.0/2", " ".join(f"10.0.0.{n}" for n in range(65))],
)  # fmt: skip
def test_what_is_nobodys_own(text):
    with pytest.raises(ClaimError):
        claims(text)


@pytest.mark.parametrize(
    ("device", "mac"), [("", MAC), ("a" * 16, MAC), ('v"', MAC), ("vif 1", MAC), ("vif1.0", ""), ("vif1.0", "x")]
)
def test_a_vif_that_can_not_be(device, mac):
    with pytest.raises(ClaimError):
        vif(device, mac, "")


def test_link_local_of_a_mac():
    assert str(link_local("00:16:3e:01:02:03").network_address) == "fe80::216:3eff:fe01:203"


def test_what_xenstore_lists():
    listing = """/local/domain/0/backend/vif = ""
/local/domain/0/backend/vif/5/0/frontend = "/local/domain/5/device/vif/0"
/local/domain/0/backend/vif/5/0/script = "/etc/xen/scripts/vif-bridge"
/local/domain/0/backend/vif/5/0/mac = "00:16:3e:01:02:03"
/local/domain/0/backend/vif/5/0/ip = "10.0.0.1 fd00::1"
/local/domain/0/backend/vif/6/1/mac = "00:16:3e:01:02:04"
/local/domain/0/backend/vif/6/1/vifname = "shop"
/local/domain/0/backend/vif/6/1/script = "/etc/xen/scripts/vif-route"
/local/domain/0/backend/vif/7/0/state = "6"
"""
    assert present(listing) == [
        ("vif5.0", "00:16:3e:01:02:03", "10.0.0.1 fd00::1", False),
        ("shop", "00:16:3e:01:02:04", "", True),
    ]


# -- from a declaration to the definition, and back from Xen ------------------------------------


def declared(**interface):
    return declaration_of({"name": "a", "kernel": "/k", "interfaces": [{"bridge": "xenbr0", **interface}]}, "h").domain


@pytest.mark.parametrize(
    ("interface", "text"),
    [
        ({"address": "10.0.0.10/24", "gateway": "10.0.0.1"}, "ip=10.0.0.10"),
        ({"address": "10.0.0.10/24", "address6": "fd00::10/64"}, "ip=10.0.0.10 fd00::10"),
        ({"address": "10.0.0.10/24", "ip": "10.8.0.0/24 10.0.0.10"}, "ip=10.0.0.10 10.8.0.0/24"),
        ({"address": "10.0.0.0/31"}, "ip=10.0.0.0"),
        ({"ip": "10.0.0.0/24"}, "ip=10.0.0.0/24"),
        ({"antispoofing": False, "address": "10.0.0.10/24"}, "ip=unfiltered"),
        ({}, None),
    ],
)
def test_the_definition_says_what_a_vif_may_send_from(interface, text):
    domain = declared(**interface)
    vif_text = next(line for line in xl_config(domain).splitlines() if line.startswith("vif"))
    told = [word for word in vif_text[len('vif = ["') : -len('"]')].split(",") if word.startswith("ip=")]
    assert told == ([text] if text else [])
    # libxl then reports what was declared, so a second run changes nothing.
    nic = {"bridge": "xenbr0", "mac": domain.interfaces[0].mac, **({"ip": text[3:]} if text else {})}
    config = {"c_info": {"name": "a", "type": "pvh"}, "nics": [nic]}
    assert domain_from_libxl(config).interfaces == domain.interfaces
    without = {"c_info": {"name": "a", "type": "pvh"}, "nics": [{key: nic[key] for key in ("bridge", "mac")}]}
    told = differences(domain, domain_from_libxl(without))
    assert any(option.startswith("interfaces") for option in told) is bool(text)


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ({"ip": "10.0.0.0/0"}, "ip: '10.0.0.0/0' covers every address"),
        ({"ip": "unfiltered"}, "declare antispoofing: false"),
        ({"ip": "10.0.0.5", "antispoofing": False}, "remove one of them"),
        ({"address": "10.0.0.10/24", "ip": "10.0.0.0/24"}, "holds the whole network of 10.0.0.10/24"),
        ({"address": "10.0.0.10/24", "ip": "10.0.0.0/8"}, "holds the whole network of 10.0.0.10/24"),
        ({"address": "10.0.0.10/24", "address6": "fd00::1/64", "ip": "fd00::/48"}, "holds the whole network of fd00::1/64"),
        ({"address": "127.0.0.1/8"}, "can't be a domain's own"),
        ({"address": "224.0.0.5/24"}, "can't be a domain's own"),
        ({"antispoofing": "perhaps"}, "must be true or false"),
    ],
)
def test_refusals_name_the_option(interface, message):
    with pytest.raises(SpecError) as refusal:
        declared(**interface)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
