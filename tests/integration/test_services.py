"""What an operator later does with the services."""

import datetime
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import playbook

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
