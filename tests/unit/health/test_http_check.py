"""HTTP with real sockets: what counts as an answer, and that nothing a server sends prolongs an attempt."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import servers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STAY = b"HTTP/1.1 200 OK\r\n"


def answers(*parts):
    def handler(peer):
        peer.request()
        for part in parts:
            peer.send(part)

    return handler


def url(port, path="/"):
    return f"http://127.0.0.1:{port}{path}"


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (OK, {}),
        (OK, {"contains": "ell"}),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", {"status": 404}),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, {}),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n", {"status": 301}),
        (STAY + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhe\xc3\r\n2\r\n\xa9o\r\n0\r\n\r\n", {"contains": "eéo"}),
        (b"HTTP/1.1 204 No Content\r\n\r\n", {"status": 204}),
    ],
)
def test_healthy(ask_patiently, answer, options):
    with servers.tcp(answers(answer)) as port:
        assert ask_patiently(http=url(port), **options) is None


@pytest.mark.parametrize(
    ("answer", "options", "problem"),
    [
        (b"HTTP/1.1 503 No\r\n\r\n", {}, "status 503, expected 200"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", {}, "status 302, expected 200"),
        (b"", {}, "no HTTP: RemoteDisconnected"),
        (b"SSH-2.0-OpenSSH\r\n\x1b[2J\x07\x00", {}, "no HTTP: BadStatusLine"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, {}, "no HTTP: LineTooLong"),
        (STAY + b"a: b\r\n" * 1000 + b"\r\n", {}, "no HTTP: HTTPException got more than 100 headers"),
        (OK, {"contains": "bye"}, "status 200, but 'bye' is not in the 5 bytes of the body"),
        (STAY + b"Content-Length: 100\r\n\r\nhello", {"contains": "bye"}, "'bye' is not in the 5 bytes"),
        (STAY + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {"contains": "bye"}, "'bye' is not in the 0 bytes"),
        (STAY + b"\r\n" + b"x" * 65536 + b"bye", {"contains": "bye"}, "'bye' is not in the 65536 bytes"),
        (b"HTTP/1.1 204 No\r\n\r\nbye", {"status": 204, "contains": "bye"}, "'bye' is not in the 0 bytes"),
    ],
)
def test_unhealthy(ask_patiently, answer, options, problem):
    with servers.tcp(answers(answer)) as port:
        line = ask_patiently(http=url(port), **options)
    assert line.startswith(url(port) + ": ")
    assert problem in line
    assert line.isprintable()


def drips_header(peer):
    peer.request()
    peer.send(STAY)
    peer.drip(b"X-Slow: y\r\n")


def drips_status(peer):
    peer.request()
    peer.drip(b"H")


def continues(peer):
    peer.request()
    while not peer.stop.is_set():
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def drips_body(peer):
    peer.request()
    peer.send(STAY + b"\r\n")
    peer.drip(b"x")


def drips_chunks(peer):
    peer.request()
    peer.send(STAY + b"Transfer-Encoding: chunked\r\n\r\n")
    peer.drip(b"1\r\nx\r\n")


def floods_chunk_length(peer):
    peer.request()
    peer.send(STAY + b"Transfer-Encoding: chunked\r\n\r\n")
    peer.drip(b"0" * 100)


def hangs(peer):
    peer.hang()


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (hangs, {}),
        (drips_status, {}),
        (drips_header, {}),
        (continues, {}),
        (drips_body, {"contains": "bye"}),
        (drips_chunks, {"contains": "bye"}),
        (floods_chunk_length, {"contains": "bye"}),
    ],
)
def test_an_attempt_ends(ask_briefly, handler, options):
    with servers.tcp(handler) as port:
        line = ask_briefly(http=url(port), **options)
    assert "time" in line, line


def test_an_endless_body_is_not_waited_for(ask_patiently):
    with servers.tcp(drips_body) as port:
        assert ask_patiently(http=url(port)) is None


def test_text_is_found_before_the_body_ends(ask_patiently):
    with servers.tcp(drips_body) as port:
        assert ask_patiently(http=url(port), contains="xxx") is None


def test_a_reset_is_one_line(ask):
    with servers.tcp(lambda peer: peer.reset()) as port:
        assert "reset" in ask(http=url(port)).lower()


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("http://127.0.0.1:{}", {}, b"GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n"),
        ("http://127.0.0.1:{}?a=b#c", {}, b"GET /?a=b HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n"),
        ("http://127.0.0.1:{}/a%20b", {"host": "www.example.org"}, b"GET /a%20b HTTP/1.1\r\nHost: www.example.org\r\n"),
        ("http://localhost:{}/", {"host": "[::1]:81"}, b"GET / HTTP/1.1\r\nHost: [::1]:81\r\n"),
    ],
)
def test_request(ask_patiently, target, options, line):
    seen = []

    def handler(peer):
        seen.append(peer.request())
        peer.send(OK)

    with servers.tcp(handler) as port:
        assert ask_patiently(http=target.format(port), **options) is None
        assert seen[0].startswith(line.replace(b"{}", str(port).encode()))
    assert b"\r\nConnection: close\r\n" in seen[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ca": "ca.crt"}, None),
        ({"ca": "ca.crt", "host": "www.example.org"}, None),
        ({"ca": "ca.crt", "host": "www.example.org:8443"}, None),
        ({"ca": "ca.crt", "host": "mail.example.org"}, "Hostname mismatch"),
        ({"ca": "other.crt"}, "certificate verify failed"),
        ({}, "certificate verify failed"),
        ({"insecure": True}, None),
        ({"insecure": True, "host": "mail.example.org"}, None),
        ({"ca": "server.key"}, "server.key holds no certificates (PEM)"),
        ({"ca": "absent"}, "No such file"),
        ({"ca": "."}, "is not a file"),
    ],
)
def test_tls(ask_patiently, pki, tls, options, problem):
    if "ca" in options:
        options = {**options, "ca": str(pki / options["ca"])}
    with servers.tcp(answers(OK), tls) as port:
        line = ask_patiently(http=f"https://127.0.0.1:{port}/", **options)
    assert line is None if problem is None else problem in line


def test_ca_may_have_words_between_its_certificates_and_may_be_broken(ask_patiently, pki, tls, tmp_path):
    (tmp_path / "good").write_bytes("# Autorité\n".encode() + (pki / "other.crt").read_bytes() + (pki / "ca.crt").read_bytes())
    (tmp_path / "broken").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with servers.tcp(answers(OK), tls) as port:
        assert ask_patiently(http=f"https://127.0.0.1:{port}/", ca=str(tmp_path / "good")) is None
        assert "broken holds no certificates" in ask_patiently(http=f"https://127.0.0.1:{port}/", ca=str(tmp_path / "broken"))


def test_a_tls_handshake_that_never_ends(ask_briefly):
    # A TLS record of 16 KiB, byte by byte.
    with servers.tcp(lambda peer: peer.drip(b"\x16\x03\x03\x3f\xff\x02" + b"\0" * 16000)) as port:
        assert "timed out" in ask_briefly(http=f"https://127.0.0.1:{port}/", insecure=True)


def test_a_tls_answer_that_drips(ask_briefly, tls):
    with servers.tcp(drips_header, tls) as port:
        assert "time" in ask_briefly(http=f"https://127.0.0.1:{port}/", insecure=True)


def test_what_is_no_tls(ask_patiently):
    with servers.tcp(lambda peer: peer.send(OK)) as port:
        assert "SSL" in ask_patiently(http=f"https://127.0.0.1:{port}/", insecure=True)


def test_an_expired_certificate_is_refused_where_any_other_is_accepted(ask_patiently, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.org")])
    expired = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
        .not_valid_before(datetime.datetime(2025, 1, 1)).not_valid_after(datetime.datetime(2025, 2, 1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "pair.pem").write_bytes(expired.public_bytes(form[0]) + key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with servers.tcp(answers(OK), context) as port:
        line = ask_patiently(http=f"https://127.0.0.1:{port}/", insecure=True)
    assert line == f"https://127.0.0.1:{port}/: its certificate expired on 2025-02-01 00:00 UTC"
