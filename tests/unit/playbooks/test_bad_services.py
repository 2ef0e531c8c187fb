"""What people get wrong in the variables of services: playbooks/validate.yml refuses each in one line, before a host is asked."""

import datetime
import json
import os
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki_writer import bring_up_to_date
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = pathlib.Path(__file__).resolve().parents[3]
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
APEX = "@ 60 IN SOA ns hostmaster 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 10.0.0.10\n"
LARGE = APEX + "".join(f"h{number} 60 IN TXT {'x' * 200}\n" for number in range(5000))
PLAIN = serialization.NoEncryption()


def interfaces(number=10):
    return [{"bridge": "xenbr0", "address": f"10.0.0.{number}/24"}]


def key_text(key, hidden=PLAIN):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden).decode()


def certificate(key, signer=None, name="www.example.org", issuer=None, begins=NOW - DAY, ends=NOW + DAY, names=True):
    def subject(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    built = (
        x509.CertificateBuilder().subject_name(subject(name)).issuer_name(subject(issuer or name)).serial_number(1)
        .public_key(key.public_key()).not_valid_before(begins).not_valid_after(ends)
    )  # fmt: skip
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return built.sign(signer or key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def sites(folder):
    """Wrong ``web_`` variables by a name for each, with the line that refuses them."""
    key, ca, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    good, locked = certificate(key), key_text(key, serialization.BestAvailableEncryption(b"x"))
    signed, old_ca = certificate(key, ca, issuer="ca"), certificate(ca, name="ca", ends=NOW - DAY / 2)
    replaced = certificate(other, name="ca")

    def tls(text, private=None, **more):
        return {"web_tls": {"certificates": [{"certificate": text, "key": private or key_text(key)}], **more}}

    pair = "web_tls: certificates[0]: "
    for name in ("good", "out", "up", "large", "bare", "pipe"):
        (folder / name).mkdir()
        if name != "bare":
            (folder / name / "index.html").write_text("hello")
    (folder / "out/x").symlink_to("/etc/passwd")
    (folder / "up/x").symlink_to("../good/index.html")
    with open(folder / "large/x.iso", "wb") as file:
        file.truncate(4 << 30)
    os.mkfifo(folder / "pipe/x")
    item = {"name": "b", "interfaces": interfaces(11)}
    return {
        "other-key": (tls(good, key_text(other)), pair + "certificate and key don't belong together"),
        "expired": (tls(certificate(key, ends=NOW - DAY / 2)), pair + "certificate has expired"),
        "not-yet": (tls(certificate(key, begins=NOW + DAY / 2)), pair + "certificate is valid from"),
        "other-name": (tls(good, names=["shop.example.org"]), "web_tls: names: no certificate is for 'shop.example.org'"),
        "no-name": (tls(certificate(key, names=False)), pair + "certificate has no subjectAltName"),
        "old-ca": (tls(signed + old_ca), pair + "certificate has expired"),
        "replaced-ca": (tls(signed + replaced), pair + "certificate is not a chain: one was signed by another key"),
        "wrong-order": (tls(certificate(ca, name="ca") + signed), pair + "certificate and key don't belong together"),
        "path": (tls("/etc/tls/www.pem"), pair + "certificate has no -----BEGIN CERTIFICATE-----; give the text of the file"),
        "passphrase": (tls(good, locked), pair + "key has a passphrase"),
        "no-file": (tls("{{ lookup('ansible.builtin.file', '/nosuch/www.pem') }}"),
                    "web_tls.certificates[0].certificate: "),
        "tls-option": (tls(good, redirects=True), "web_tls: has no option redirects"),
        "link-out": ({"web_content": f"{folder}/out"}, f"web_content: {folder}/out: x: is a link to /etc/passwd, which"),
        "link-up": ({"web_content": f"{folder}/up"}, f"web_content: {folder}/up: x: is a link to ../good/index.html, which"),
        "large": ({"web_content": f"{folder}/large"}, f"web_content: {folder}/large has 4097 MiB, which become"),
        "large-disk": ({"web_content": f"{folder}/large", "web_content_disk": True},
                       f"web_content: {folder}/large has 4097 MiB, which a stand-in unpacks into memory"),
        "link-disk": ({"web_content": f"{folder}/out", "web_content_disk": True}, f"web_content: {folder}/out: x: is a link to"),
        "disk-word": ({"web_content_disk": "perhaps"}, "web_content_disk: is 'perhaps', must be true or false"),
        "disk-own": ({"web_content_disk": True, "web_image": {"file": "/x.xen"}}, "web_content_disk: is only for our unikernel"),
        "no-index": ({"web_content": f"{folder}/bare"}, f"web_content: {folder}/bare has no index.html"),
        "no-folder": ({"web_content": f"{folder}/nosuch"}, f"web_content: {folder}/nosuch is not there"),
        "no-content": ({"web_content": ""}, "web_content: is empty; give the folder to serve"),
        "a-file": ({"web_content": f"{folder}/good/index.html"}, f"web_content: {folder}/good/index.html is not a folder"),
        "pipe": ({"web_content": f"{folder}/pipe"}, f"web_content: {folder}/pipe: x: is neither a file nor a link to one"),
        "no-list": ({"web_sites": {"b": item}}, "web_sites: must be a list"),
        "no-item": ({"web_sites": []}, "web_sites: is empty"),
        "an-item": ({"web_sites": ["b"]}, "web_sites[0]: must be a mapping"),
        "unknown-key": ({"web_sites": [{**item, "contents": "/x"}]}, "web_sites[0]: unknown key 'contents'"),
        "taken-name": ({"web_sites": [{**item, "name": "www"}]}, "web_sites[0].name: 'www' is the name of web_name too"),
        "taken-address": ({"web_sites": [{**item, "interfaces": interfaces()}]}, "web_sites[0].interfaces: domains www and b"),
        "item-out": ({"web_sites": [{**item, "content": f"{folder}/out"}]}, f"web_sites[0].content: {folder}/out: x: is a link"),
    }  # fmt: skip


def resolvers():
    def zone(text):
        return {"dns_zones": {"example.org": text}}

    return {
        "syntax": (zone(APEX + "www IN A 10.0.0.300\n"), "dns_zones: zone example.org: line 4: 'www IN A 10.0.0.300'"),
        "no-soa": (zone("www 60 IN A 10.0.0.1\n"), "dns_zones: zone example.org: it has no SOA record"),
        "no-ns": (zone("@ 60 IN SOA ns hostmaster 1 2 3 4 5\n"), "dns_zones: zone example.org: "),
        "include": (zone(APEX + "$INCLUDE /etc/passwd\n"), "dns_zones: zone example.org: line 4: "),
        "outside": (zone(APEX + "www.example.net. 60 IN A 10.0.0.1\n"), "dns_zones: zone example.org: "),
        "zone-path": (zone("/etc/bind/db.x"), "dns_zones: zone example.org: line 1: '/etc/bind/db.x' is no record"),
        "zone-nothing": (zone(None), "dns_zones: zone example.org: must be the text of its file"),
        "zone-name": ({"dns_zones": {"a b": APEX}}, "dns_zones: 'a b' is not the name of a zone"),
        "zone-large": ({**zone(LARGE), "dns_memory": 4}, "dns_zones: have "),
        "zone-list": ({"dns_zones": ["example.org"]}, "dns_zones: must be a mapping"),
        "sign-no-key": ({**zone(APEX), "dns_sign": {"keys": "/nosuch"}},
                        "dns_sign: zone example.org has no key: /nosuch/example.org.1.pem is missing"),
        "sign-no-folder": ({**zone(APEX), "dns_sign": {"keys": "/etc/hostname"}},
                           "dns_sign: keys: /etc/hostname: Not a directory"),
        "sign-no-zone": ({"dns_sign": {"keys": "/nosuch"}}, "dns_sign: there is no zone to sign: declare dns_zones too"),
        "server-sign": ({"dns_servers": [{"name": "b", "interfaces": interfaces(54), "sign": "/nosuch"}]},
                        "dns_servers[0].sign: must be a mapping of keys, zones and days, as in {keys: /srv/keys/dns}"),
        "itself": ({"dns_forward": ["10.0.0.10"]}, "dns_forward: 10.0.0.10 is the resolver's own address"),
        "loopback": ({"dns_forward": ["127.0.0.1"]}, "dns_forward: 127.0.0.1 is no address of another server"),
        "circle": ({"dns_forward": ["10.0.0.54"],
                    "dns_servers": [{"name": "b", "interfaces": interfaces(54), "forward": ["10.0.0.10"]}]},
                   "dns_servers[0].forward: 10.0.0.10 is dns of circle, which forwards to this one"),
        "server-zone": ({"dns_servers": [{"name": "b", "interfaces": interfaces(54), "zones": {"example.org": "x"}}]},
                        "dns_servers[0].zones: zone example.org: "),
        "server-empty": ({"dns_servers": [{}]}, "dns_servers[0]: name and interfaces missing"),
    }  # fmt: skip


def endpoints(folder):
    pki = folder / "vpn"
    bring_up_to_date(Keys(str(pki), "vpn.example.org", 1194, ("client",)), NOW, True)
    bring_up_to_date(Keys(str(folder / "new"), "vpn.example.org", 1194, ("client",)), NOW, True)

    def changed(name, *files):
        shutil.copytree(pki, folder / name)
        for old, new in files:
            (folder / name / old).write_text((folder / new).read_text() if new else "")
        return {"vpn_pki": f"{folder}/{name}"}

    item = {"name": "b", "interfaces": interfaces(11), "network": "10.9.0.0/24", "pki": f"{folder}/b"}
    return {
        "slash": ({"vpn_clients": ["a/b"]}, "vpn_clients: 'a/b' must be letters, digits"),
        "up": ({"vpn_clients": ["../a"]}, "vpn_clients: '../a' must be letters, digits"),
        "twice": ({"vpn_clients": ["a", "b", "a"]}, "vpn_clients: 'a' is listed twice"),
        "twice-as-file": ({"vpn_clients": ["a", "A"]}, "vpn_clients: 'A' is listed twice"),
        "reserved": ({"vpn_clients": ["server"]}, "vpn_clients: 'server' must be letters, digits"),
        "one-folder": ({"vpn_endpoints": [{**item, "pki": str(pki)}]}, f"vpn_endpoints[0].pki: {pki} is that of vpn"),
        "one-name": ({"vpn_endpoints": [{**item, "name": "vpn"}]}, "vpn_endpoints[0].name: 'vpn' is the name of vpn_name too"),
        "item-client": ({"vpn_endpoints": [{**item, "clients": ["a/b"]}]}, "vpn_endpoints[0].clients: 'a/b' must be letters"),
        "overlap": ({"vpn_network": "10.0.0.0/16"}, "vpn_network: 10.0.0.0/16 overlaps 10.0.0.0/24"),
        "overlap-network": ({"xen_host_networks": {"inside": {"mode": "nat", "addresses": ["10.8.0.1/16"]}}},
                            "vpn_network: 10.8.0.0/24 overlaps 10.8.0.0/16 (xen_host_networks[inside])"),
        "overlap-host": ({"ansible_host": "10.8.0.7"}, "vpn_network: 10.8.0.0/24 has the host's own address in it (10.8.0.7"),
        "ca-replaced": (changed("ca", ("pki/ca.crt", "new/pki/ca.crt")),
                        f"vpn_pki: {folder}/ca/pki/ca.crt: did not sign pki/issued/server.crt and 1 more: was a file"),
        "ca-empty": (changed("empty", ("pki/ca.crt", "")), f"vpn_pki: {folder}/empty/pki/ca.crt"),
        "key-replaced": (changed("key", ("pki/private/server.key", "new/pki/private/server.key")),
                         f"vpn_pki: {folder}/key/pki/private/server.key: does not belong to"),
        "remote": ({"vpn_remote": "a b"}, "vpn_remote: 'a b' is neither a name nor an address"),
    }  # fmt: skip


def declared(folder):
    """Host -> (its variables, the line that refuses them)."""
    webs, vpns = folder / "web", folder / "keys"
    webs.mkdir()
    vpns.mkdir()
    right = {"web": {"web_content": f"{webs}/good"}, "dns": {}, "vpn": {"vpn_pki": f"{vpns}/vpn"}}
    rows = {"web": sites(webs), "dns": resolvers(), "vpn": endpoints(vpns)}
    hosts = {}
    for service, wrong in rows.items():
        for name, (values, words) in wrong.items():
            base = {**right[service], f"{service}_interfaces": interfaces(), "images": "standin", "xen_host_site": name}
            # The keys of each are in a folder of its own, or two hosts would have the same.
            if service == "vpn" and "vpn_pki" not in values and name != "one-folder":
                base["vpn_pki"] = f"{vpns}/of-{name}"
            values = json.loads(json.dumps(values).replace(f'{vpns}/b"', f'{vpns}/b-{name}"'))
            hosts[name] = ({**base, **values}, words)
    return hosts


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    hosts = declared(folder)
    inventory = {"xen_hosts": {"hosts": {name: values for name, (values, _words) in hosts.items()}}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.json", str(ROOT / "playbooks/validate.yml")],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000", "HOME": str(folder),
             "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return hosts, [line.strip() for line in done.stdout.splitlines()], done.stdout


def test_each_mistake_is_one_line_in_the_users_words(refused):
    hosts, lines, output = refused
    said = {name: [] for name in hosts}
    refusals = {line for line in lines if set(line.partition(": ")[0].split(", ")) <= set(hosts)}
    for line in refusals:
        names, _colon, refusal = line.partition(": ")
        for name in names.split(", "):
            said[name].append(refusal)
    assert len(hosts) > 50
    assert {name: found for name, found in said.items() if len(found) != 1} == {}, output
    wrong = {name: found for name, found in said.items() if not found[0].startswith(hosts[name][1])}
    assert wrong == {}
    assert f"{len(refusals)} mistakes in the declaration" in output


def test_no_key_is_shown(refused):
    assert "PRIVATE KEY" not in refused[2].replace("has no -----BEGIN", "")
