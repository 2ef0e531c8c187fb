"""Shared by these tests: a short attempt, a declared check, authorities."""

import ssl
import subprocess
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.health import health_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import Reader
from ansible_collections.unikernels.xen.plugins.module_utils.health import checks

ATTEMPT = 0.4
# Extra time for a busy machine; peers that hang or drip do so for longer (servers.UNHEALTHY).
SLACK = 15.0


def declared(**health):
    return health_of(Reader("domain www", {}), health)


def attempt_within(seconds):
    def attempt(**health):
        began = time.monotonic()
        answer = checks.ask(declared(**health), began + seconds)
        assert time.monotonic() - began < seconds + SLACK
        assert answer is None or (answer and answer.isprintable())
        return answer

    return attempt


@pytest.fixture
def ask():
    """One attempt, with time enough for a busy machine: the peer ends it."""
    return attempt_within(checks.ATTEMPT_SECONDS)


@pytest.fixture
def ask_briefly(monkeypatch):
    """One attempt with ATTEMPT seconds, which must not take longer: the peer would never end it."""
    monkeypatch.setattr(checks, "MIN_SECONDS", ATTEMPT)
    return attempt_within(ATTEMPT)


@pytest.fixture
def ask_patiently(monkeypatch):
    """One attempt with enough time for a busy machine, for what must succeed."""
    return lambda **health: checks.ask(declared(**health))


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A folder with two authorities, ca.crt and other.crt, and a server's certificate and key by the first."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}",
                "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    (folder / "names").write_text(
        "subjectAltName=DNS:www.example.org,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.crt")  # fmt: skip
    return folder


@pytest.fixture
def tls(pki):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    return context
