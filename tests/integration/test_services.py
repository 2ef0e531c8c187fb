"""What an operator later does with the services."""

import datetime
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import PORTS, playbook, run, wait_until

# As Dom0 sees it: the certificate's name, the page, and the redirect from HTTP.
ASK = """
import http.client, ssl, socket
with socket.create_connection(("10.0.2.101", 443), 20) as plain:
    with ssl.create_default_context(cafile="/root/www.pem").wrap_socket(plain, server_hostname="www.lab.example") as flow:
        flow.sendall(b"GET / HTTP/1.1\\r\\nHost: www.lab.example\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b"".join(iter(lambda: flow.recv(65536), b"")).decode()
asked = http.client.HTTPConnection("10.0.2.101", 80, timeout=20)
asked.request("GET", "/page?x=1", headers={"Host": "www.lab.example"})
sent = asked.getresponse()
print(sent.status, sent.headers["Location"])
print(answer)
"""


# As Dom0 sees it: the page.
PAGE = """
import http.client
asked = http.client.HTTPConnection("10.0.2.101", 80, timeout=20)
asked.request("GET", "/", headers={"Host": "www.lab.example"})
print(asked.getresponse().read().decode())
"""


def test_a_changed_page_is_another_disk_and_no_other_image(site, dom0, tmp_path):
    www, variables = tmp_path / "www", tmp_path / "disk.json"
    www.mkdir()
    www.chmod(0o755)
    (www / "index.html").write_text("the first page")
    variables.write_text(json.dumps({"web_content": str(www), "web_content_disk": True, "web_update": "warm"}))
    deploy = ("site.yml", "--tags", "deploy", "-e", f"@{variables}")
    playbook(*deploy)
    images = dom0("ls /var/lib/unikernels/images/")
    assert dom0("python3 -", data=PAGE).strip() == "the first page"
    (www / "index.html").write_text("the second page")
    playbook(*deploy)
    assert dom0("python3 -", data=PAGE).strip() == "the second page"
    assert dom0("ls /var/lib/unikernels/images/") == images
    assert len(dom0("ls -d /var/lib/unikernels/disks/www-xvdb-*").split()) == 1
    assert dom0("stat -c %a /var/lib/unikernels/content /var/lib/unikernels/disks/www-xvdb-*").split() == ["700", "600"]
    assert playbook(*deploy).counts["xen1"]["changed"] == 0
    # The first page's archive is kept, so this needs nothing from the controller.
    playbook("playbooks/rollback.yml", "-e", "to=previous")
    assert dom0("python3 -", data=PAGE).strip() == "the first page"
    playbook("site.yml", "--tags", "deploy")


@pytest.fixture
def pair():
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.lab.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(private.public_key())
        .not_valid_before(now - datetime.timedelta(days=2)).not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.lab.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "key": private.private_bytes(*form).decode(),
    }


def test_the_web_server_speaks_https_and_sends_others_there(site, dom0, pair, tmp_path):
    variables = tmp_path / "tls.json"
    variables.write_text(json.dumps({"web_tls": {"certificates": [pair], "hsts": 300}, "web_update": "warm"}))
    dom0("cat >/root/www.pem", data=pair["certificate"])
    done = playbook("site.yml", "--tags", "deploy", "--diff", "-e", f"@{variables}")
    assert done.counts["xen1"]["changed"] >= 1
    assert not any(line in done.stdout + done.stderr for line in pair["key"].splitlines()[:-1])
    sent, answer = dom0("python3 -", data=ASK).split("\n", 1)
    assert sent == "301 https://www.lab.example/page?x=1"
    assert answer.startswith("HTTP/1.1 200") and "It answers" in answer
    assert "strict-transport-security: max-age=300" in answer.lower()
    assert dom0("stat -c %a /var/lib/unikernels/disks/www-*").split() == ["600"]
    playbook("site.yml", "--tags", "deploy")


# As Dom0 sees it: one question over TLS, verified. Prints the code of the answer and how many records it has.
OVER_TLS = """
import ssl, socket, struct
question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\\3www\\3lab\\7example\\0" + struct.pack(">2H", 1, 1)
with socket.create_connection(("10.0.2.102", 853), 60) as plain:
    with ssl.create_default_context(cafile="/root/www.pem").wrap_socket(plain, server_hostname="www.lab.example") as flow:
        flow.sendall(struct.pack(">H", len(question)) + question)
        answer = flow.recv(65536)
        while len(answer) < 2 or len(answer) < 2 + struct.unpack(">H", answer[:2])[0]:
            answer += flow.recv(65536)
print(*(struct.unpack(">H", answer[at:at + 2])[0] & mask for at, mask in ((4, 15), (8, 65535))))
"""


def validated(ds, folder, *question):
    """What Debian's delv makes of an answer, with the DS record that the parent zone would have."""
    tag, algorithm, digest, text = ds.split(" IN DS ")[1].split()
    (folder / "anchor").write_text(f'trust-anchors {{ lab.example. static-ds {tag} {algorithm} {digest} "{text}"; }};\n')
    command = ["delv", "-a", f"{folder}/anchor", "+root=lab.example", "@127.0.0.1", "-p", str(PORTS["DNS"]), *question]
    done = run(*command, check=False, timeout=300)
    return done.stdout + done.stderr


def test_the_run_signs_zones_which_the_resolver_serves_over_tls_too(site, dom0, pair, tmp_path):
    def variables(keys):
        path = tmp_path / f"{keys}.json"
        path.write_text(json.dumps({"dns_sign": {"keys": str(tmp_path / keys)}, "dns_tls": pair, "dns_update": "warm"}))
        return "-e", f"@{path}"

    deploy = ("site.yml", "--tags", "deploy")
    dom0("cat >/root/www.pem", data=pair["certificate"])
    refused = playbook(*deploy, *variables("keys"), check=False)
    assert "zone lab.example has no key" in " ".join((refused.stdout + refused.stderr).split())
    made = playbook("playbooks/dns_keys.yml", *variables("keys"))
    (ds,) = set(re.findall(r"lab\.example\. IN DS \d+ 15 2 [0-9a-f]{64}", made.stdout))
    playbook(*deploy, *variables("keys"))
    again = playbook(*deploy, *variables("keys"))
    assert again.counts["xen1"]["changed"] == 0, again.changes
    assert "; fully validated\nwww.lab.example." in validated(ds, tmp_path, "www.lab.example", "A")
    assert "; negative response, fully validated" in validated(ds, tmp_path, "nosuch.lab.example", "A")
    assert dom0("python3 -", data=OVER_TLS).split() == ["0", "1"]
    # Another controller has other keys: the served zone stays.
    playbook("playbooks/dns_keys.yml", *variables("others"))
    refused = playbook(*deploy, *variables("others"), check=False)
    assert "zone lab.example is served with other keys than the declared ones" in " ".join(
        (refused.stdout + refused.stderr).split()
    )
    assert "; fully validated\nwww.lab.example." in validated(ds, tmp_path, "www.lab.example", "A")
    ended = playbook(*deploy)
    assert "zone lab.example is no longer signed" in " ".join((ended.stdout + ended.stderr).split())


# A primary of one zone on a neighbour's address; the file names the serial, which is also the last number of an address.
PRIMARY = """
import socketserver, struct, threading
ZONE = b"\\3far\\7example\\0"

def record(owner, kind, data):
    return owner + ZONE + struct.pack(">HHIH", kind, 1, 60, len(data)) + data

def answer(query, transfer):
    serial = int(open("/run/far.serial").read())
    soa = record(b"", 6, b"\\2ns" + ZONE + b"\\1h" + ZONE + struct.pack(">5I", serial, 3600, 600, 86400, 60))
    records = [soa]
    if transfer:
        records += [record(b"", 2, b"\\2ns" + ZONE)]
        records += [record(b"\\2ns", 1, bytes([10, 0, 2, 77])), record(b"\\3www", 1, bytes([192, 0, 2, serial])), soa]
    end = 12 + query[12:].index(b"\\0") + 5
    head = query[:2] + struct.pack(">5H", 0x8400, 1, len(records), 0, 0)
    return head + query[12:end] + b"".join(records)

class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(answer(self.request[0], False), self.client_address)

class Stream(socketserver.StreamRequestHandler):
    def handle(self):
        (size,) = struct.unpack(">H", self.rfile.read(2))
        query = self.rfile.read(size)
        kind = query[13 + query[12:].index(b"\\0"):][1]
        reply = answer(query, kind in (251, 252))
        self.wfile.write(struct.pack(">H", len(reply)) + reply)

here = ("10.0.2.77", 53)
for server in socketserver.ThreadingUDPServer(here, Datagram), socketserver.ThreadingTCPServer(here, Stream):
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""
NOTIFY = """
import socket, struct
notify = struct.pack(">6H", 9, 0x2400, 1, 0, 0, 0) + b"\\3far\\7example\\0" + struct.pack(">2H", 6, 1)
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.bind(("10.0.2.77", 0))
asked.settimeout(5)
for _ in range(12):
    asked.sendto(notify, ("10.0.2.102", 53))
    try:
        print(asked.recv(512)[3] & 15)
        break
    except socket.timeout:
        pass
"""


@pytest.fixture
def neighbour(dom0):
    """A machine on the services' network, as a network namespace of Dom0. Yields the command that runs something there."""
    dom0("ip netns add far; ip link add farb type veth peer name fara netns far && ip link set farb master xenbr0 up")
    dom0("ip -n far addr add 10.0.2.77/24 dev fara; ip -n far link set fara up; ip -n far link set lo up")
    yield "ip netns exec far"
    dom0("kill $(ip netns pids far); ip netns del far; ip link del farb 2>/dev/null; rm -f /run/far.*", check=False)


def test_the_resolver_takes_a_zone_from_its_primary_and_follows_a_notify(site, dom0, neighbour, tmp_path):
    dom0("cat >/run/far.py; echo 7 >/run/far.serial", data=PRIMARY)
    dom0(f"nohup {neighbour} python3 /run/far.py >/run/far.log 2>&1 &")
    wait_until(lambda: "ready" in dom0("cat /run/far.log"), 120, "the primary")
    variables = tmp_path / "primaries.json"
    variables.write_text(json.dumps({"dns_primaries": [{"address": "10.0.2.77", "zones": ["far.example"]}]}))
    playbook("site.yml", "--tags", "deploy", "-e", f"@{variables}")

    def asked():
        command = ["dig", "+short", "+time=3", "+tries=2", "@127.0.0.1", "-p", str(PORTS["DNS"]), "www.far.example", "A"]
        return run(*command, check=False).stdout.strip()

    assert asked() == "192.0.2.7"
    dom0("echo 8 >/run/far.serial")
    assert dom0(f"{neighbour} python3 -", data=NOTIFY).strip() == "0"
    wait_until(lambda: asked() == "192.0.2.8", 120, "the zone of the NOTIFY")
    playbook("site.yml", "--tags", "deploy")
