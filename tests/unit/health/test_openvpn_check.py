"""OpenVPN with a tls-crypt key: with OpenVPN itself if installed, and with servers that only look like it."""

import builtins
import os
import shutil
import socket
import struct
import subprocess
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health.openvpn_check import Key

from . import servers

STATIC = bytes(range(256))
OPENVPN = shutil.which("openvpn") or shutil.which("openvpn", path="/usr/sbin")


def key_file(path, static=STATIC):
    text = "\n".join(static[at : at + 16].hex() for at in range(0, len(static), 16))
    path.write_text(f"# 2048 bit\n-----BEGIN OpenVPN Static key V1-----\n{text}\n-----END OpenVPN Static key V1-----\n")
    return str(path)


@pytest.fixture
def key(tmp_path):
    return key_file(tmp_path / "tls-crypt.key")


def reply(packet, opcode=8, static=STATIC, session=None, acknowledged=1):
    """Return an endpoint's answer; with changes, one that it would not send."""
    theirs = session or packet[1:9]
    plain = bytes([acknowledged]) + b"\0\0\0\0" * acknowledged + (theirs if acknowledged else b"") + b"\0\0\0\0"
    return Key(static, server=True).wrap(bytes([opcode << 3]) + os.urandom(8), struct.pack(">II", 1, 0), plain)


def endpoint(**changes):
    def handler(peer):
        packet = peer.packet()
        # An endpoint ignores clients without its key.
        if Key(STATIC, server=False).unwrap(packet) == b"\0\0\0\0\0" and packet[0] >> 3 == 7:
            answer = reply(packet, **changes)
            peer.send(struct.pack(">H", len(answer)) + answer)

    return handler


def test_an_endpoint_without_tls_behind_its_key(ask, ask_briefly, key):
    with servers.tcp(endpoint()) as port:
        assert "closed the connection during the TLS handshake" in ask(openvpn=f"127.0.0.1:{port}", key=key)
    with servers.udp(lambda packet: [reply(packet)]) as port:
        assert "no complete answer in time" in ask_briefly(openvpn=f"127.0.0.1:{port}", key=key, transport="udp")


def test_an_endpoint_that_never_ends_its_handshake(ask, key):
    """Packets without valid TLS, in the wrong order, duplicated, and of another session."""

    def handler(peer):
        first = peer.packet()
        answer = reply(first)
        peer.send(struct.pack(">H", len(answer)) + answer)
        for number in (3, 2, 2, 1, 1, 9) * 40:
            content = struct.pack(">I", number) + b"\x16\x03\x03\x40\x00"
            header = bytes([4 << 3]) + (answer[1:9] if number % 2 else b"12345678")
            packet = Key(STATIC, server=True).wrap(header, struct.pack(">II", number + 1, 0), b"\0" + content)
            peer.send(struct.pack(">H", len(packet)) + packet)
        peer.hang()

    with servers.tcp(handler) as port:
        assert ask(openvpn=f"127.0.0.1:{port}", key=key)


def sends(data):
    return lambda peer: (peer.packet(), peer.send(data))


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (lambda peer: peer.packet(), "closed the connection without an answer"),
        (endpoint(static=bytes(256)), "another tls-crypt key"),
        (endpoint(opcode=7), "an answer to another packet"),
        (endpoint(session=b"12345678"), "an answer to another packet"),
        (endpoint(acknowledged=0), "an answer to another packet"),
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "what answers is not OpenVPN"),
        (sends(b"\x00\x0e\x40" + b"\0" * 13), "what answers is not OpenVPN"),
        (lambda peer: (peer.packet(), peer.drip(b"\xff")), "time"),
        (lambda peer: peer.hang(), "time"),
        (lambda peer: peer.reset(), "reset"),
    ],
)
def test_what_is_no_openvpn(ask, ask_briefly, key, handler, problem):
    asked = ask_briefly if problem == "time" else ask
    with servers.tcp(handler) as port:
        assert problem.lower() in asked(openvpn=f"127.0.0.1:{port}", key=key).lower()


@pytest.mark.parametrize(
    "text", ["", "x" * 100, "-----BEGIN OpenVPN Static key V1-----\nabc\n-----END OpenVPN Static key V1-----\n", None]
)
def test_a_wrong_key_is_one_line_without_it(ask, tmp_path, text):
    path = tmp_path / "wrong.key"
    if text is None:
        key_file(path, STATIC[:128])
    else:
        path.write_text(text)
    line = ask(openvpn="127.0.0.1:1", key=str(path))
    assert f"{path} is not an OpenVPN static key of 2048 bits" in line
    assert STATIC[:4].hex() not in line


def test_a_key_that_is_too_long_or_absent(ask, tmp_path):
    (tmp_path / "long").write_bytes(b"x" * 100_000)
    assert "more than 65536" in ask(openvpn="127.0.0.1:1", key=str(tmp_path / "long"))
    assert "No such file" in ask(openvpn="127.0.0.1:1", key=str(tmp_path / "absent"))


def test_without_cryptography(ask, key, monkeypatch):
    load = builtins.__import__

    def missing(name, *arguments):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "python3-cryptography" in ask(openvpn="127.0.0.1:1", key=key)


@pytest.mark.skipif(not OPENVPN, reason="openvpn is not installed")
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("ours", [True, False])
def test_openvpn_itself(ask, ask_briefly, ask_patiently, pki, tmp_path, transport, ours):
    """The real server answers clients with its key, and no others."""
    good, other = tmp_path / "good.key", key_file(tmp_path / "other.key")
    subprocess.run([OPENVPN, "--genkey", "secret", str(good)], check=True, capture_output=True, timeout=60)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(OPENVPN, "--dev", "null", "--tls-server", "--dh", "none", "--local", "127.0.0.1", "--port", str(port)),
        *("--proto", "tcp4-server" if transport == "tcp" else "udp4", "--tls-crypt", str(good)),
        *("--ca", str(pki / "ca.crt"), "--cert", str(pki / "server.crt"), "--key", str(pki / "server.key")),
    ]
    endpoint = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        output = []
        for line in endpoint.stdout:
            output.append(line)
            if "Listening for incoming TCP connection" in line or "UDPv4 link remote" in line:
                break
        else:
            pytest.fail("".join(output))
        health = {"openvpn": f"127.0.0.1:{port}", "transport": transport}
        if ours:
            until = time.monotonic() + servers.UNHEALTHY
            while "refused" in (answer := ask_patiently(**health, key=str(good)) or ""):
                assert time.monotonic() < until  # it reports that it listens just before it does
            assert answer == ""
        else:
            assert (ask_briefly if transport == "udp" else ask)(**health, key=other)
    finally:
        endpoint.kill()
        endpoint.wait()
        endpoint.stdout.close()
