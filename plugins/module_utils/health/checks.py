# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Ask a service, in its own protocol, whether it serves. Standard library only.

Each check makes one attempt and returns None when the service answered as declared, else one
line that says what came instead. Waiting and repeating is the caller's.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
import struct
import subprocess
import urllib.error
import urllib.request

from ..domain.spec import Health

# One attempt: longer than a slow answer, short enough to try again soon.
ATTEMPT_SECONDS = 5.0
COMMAND_SECONDS = 30.0


def _address(target: str, default_port: int) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
        host, port = target, str(default_port)
    return host.strip("[]"), int(port)


def _http(health: Health) -> str | None:
    class _Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_arguments: object, **_named: object) -> None:
            return None  # the status that was declared is the status of this URL

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
    try:
        with opener.open(health.target, timeout=ATTEMPT_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, http.client.HTTPException) as error:
        return f"{health.target}: {getattr(error, 'reason', error)}"
    return None if str(status) == health.expect else f"{health.target}: status {status}, expected {health.expect}"


def _tcp(health: Health) -> str | None:
    try:
        socket.create_connection(_address(health.target, 0), ATTEMPT_SECONDS).close()
    except OSError as error:
        return f"{health.target}: {error}"
    return None


def _encode_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _skip_name(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] >= 0xC0:
            return at + 2
        at += 1 + data[at]
    return at + 1


def dns_query(name: str, server: tuple[str, int], timeout: float) -> tuple[int, list[str]]:
    """(response code, IPv4 addresses) for the A records of ``name``, asked over UDP (RFC 1035)."""
    identity = random.randrange(1 << 16)
    question = struct.pack(">6H", identity, 0x0100, 1, 0, 0, 0) + _encode_name(name) + struct.pack(">2H", 1, 1)
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect(server)
        sock.send(question)
        data = sock.recv(4096)
    if len(data) < 12 or struct.unpack_from(">H", data)[0] != identity:
        raise OSError("an answer to another question")
    try:
        flags, questions, answers = struct.unpack_from(">3H", data, 2)
        at = 12
        for _index in range(questions):
            at = _skip_name(data, at) + 4
        addresses = []
        for _index in range(answers):
            at = _skip_name(data, at)
            kind, _class, _ttl, size = struct.unpack_from(">HHIH", data, at)
            at += 10
            if kind == 1 and size == 4:
                addresses.append(socket.inet_ntoa(data[at : at + 4]))
            at += size
    except (IndexError, struct.error) as error:
        raise OSError("a malformed answer") from error
    return flags & 15, addresses


def _dns(health: Health) -> str | None:
    name, server = health.target.split("@", 1)
    try:
        code, addresses = dns_query(name, _address(server, 53), ATTEMPT_SECONDS)
    except OSError as error:
        return f"{health.target}: {error}"
    if code:
        return f"{health.target}: response code {code}"
    if health.expect and health.expect not in addresses:
        return f"{health.target}: answered {', '.join(addresses) or 'nothing'}, expected {health.expect}"
    return None if addresses else f"{health.target}: no address in the answer"


# OpenVPN's first packet of a client: opcode P_CONTROL_HARD_RESET_CLIENT_V2 (7), of a server: 8;
# opcode in the upper five bits; over TCP each packet has a 16-bit length before it
# (openvpn-rfc, and src/openvpn/ssl_pkt.h of OpenVPN).
_CLIENT_RESET, _SERVER_RESET = 7, 8


def _openvpn(health: Health) -> str | None:
    """Does an OpenVPN endpoint take the connection and stay? It answers a reset only to holders of its tls-crypt
    key, which a health check must not have; without that key a live endpoint closes on our unsigned packet."""
    packet = bytes([_CLIENT_RESET << 3]) + os.urandom(8) + b"\0" + b"\0\0\0\0"
    try:
        with socket.create_connection(_address(health.target, 1194), ATTEMPT_SECONDS) as sock:
            sock.settimeout(ATTEMPT_SECONDS)
            sock.sendall(struct.pack(">H", len(packet)) + packet)
            answer = sock.recv(3)
    except OSError as error:
        return f"{health.target}: {error}"
    if not answer or (len(answer) == 3 and answer[2] >> 3 == _SERVER_RESET):
        return None
    return f"{health.target}: something else than OpenVPN answers"


def _command(health: Health) -> str | None:
    try:
        done = subprocess.run(
            health.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"'{health.target}' did not end within {COMMAND_SECONDS:.0f} s"
    except OSError as error:
        return f"'{health.target}': {error.strerror}"
    words = " | ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
    return f"'{health.target}' ended with {done.returncode}: {words}" if done.returncode else None


_CHECKS = {"command": _command, "http": _http, "tcp": _tcp, "dns": _dns, "openvpn": _openvpn}


def ask(health: Health) -> str | None:
    """None when the service answers as declared, else one line. Not for kind ``console``."""
    return _CHECKS[health.kind](health)
