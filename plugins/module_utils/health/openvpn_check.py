# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Does an OpenVPN endpoint answer the first packet of a client that has its tls-crypt key?

A reset (P_CONTROL_HARD_RESET_CLIENT_V2) that is wrapped with the key is answered by one that is wrapped too and
acknowledges ours by our session's random number: nothing but a live endpoint with that key can say it. No session comes
of it, and no certificate is needed. (OpenVPN's doc/tls-crypt-v2.txt and src/openvpn/tls_crypt.h; openvpn-rfc.)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import struct
import time

from ..domain.spec import Health
from .connection import Datagrams, Stream, connect, read_file

_CLIENT_RESET, _SERVER_RESET = 7, 8  # opcodes, in the upper five bits of a packet's first byte
_SESSION, _PACKET_ID, _TAG = 8, 8, 32  # bytes
_HEADER = 1 + _SESSION
_WRAPPED = _HEADER + _PACKET_ID + _TAG
_KEY_BYTES = 256  # a static key: for each direction 64 bytes for the cipher and 64 for the HMAC; 32 of them count
_MAX_KEY_FILE = 65536
_MAX_PACKET = 4096
_MISSING = "the Python library cryptography is missing where this runs (Debian's python3-cryptography, by the role xen_host)"


class Key:
    """One direction of a tls-crypt key."""

    def __init__(self, static: bytes, server: bool) -> None:
        half = static[: _KEY_BYTES // 2] if server else static[_KEY_BYTES // 2 :]
        self._cipher, self._hmac = half[:32], half[64:96]

    def _tag(self, *parts: bytes) -> bytes:
        return hmac.new(self._hmac, b"".join(parts), hashlib.sha256).digest()

    def _crypt(self, tag: bytes, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        # The same both ways in counter mode, which begins at the tag.
        crypt = Cipher(algorithms.AES(self._cipher), modes.CTR(tag[:16])).encryptor()
        return crypt.update(data) + crypt.finalize()

    def wrap(self, header: bytes, packet_id: bytes, plain: bytes) -> bytes:
        tag = self._tag(header, packet_id, plain)
        return header + packet_id + tag + self._crypt(tag, plain)

    def unwrap(self, packet: bytes) -> bytes | None:
        """What was in it; None when it was not wrapped with this key."""
        if len(packet) < _WRAPPED:
            return None
        header, packet_id, tag = packet[:_HEADER], packet[_HEADER : _HEADER + _PACKET_ID], packet[_WRAPPED - _TAG : _WRAPPED]
        plain = self._crypt(tag, packet[_WRAPPED:])
        return plain if hmac.compare_digest(self._tag(header, packet_id, plain), tag) else None


def static_key(path: str) -> bytes:
    """The 256 bytes of a file that ``openvpn --genkey`` wrote."""
    text = read_file(path, _MAX_KEY_FILE).decode("latin-1")
    inside = re.search(r"-----BEGIN OpenVPN Static key V1-----([0-9a-fA-F\s]*)-----END OpenVPN Static key V1-----", text)
    key = bytes.fromhex("".join(inside.group(1).split())) if inside and len("".join(inside.group(1).split())) % 2 == 0 else b""
    if len(key) != _KEY_BYTES:
        raise OSError(f"key: {path} is not an OpenVPN static key of {_KEY_BYTES * 8} bits")
    return key


def client_reset(static: bytes, session: bytes) -> bytes:
    packet_id = struct.pack(">II", 1, int(time.time()) & 0xFFFFFFFF)
    # Nothing acknowledged; the first packet of the control channel.
    return Key(static, server=False).wrap(bytes([_CLIENT_RESET << 3]) + session, packet_id, b"\0" + struct.pack(">I", 0))


def problem_of(packet: bytes, static: bytes, session: bytes) -> str | None:
    """None when ``packet`` answers our reset."""
    plain = Key(static, server=True).unwrap(packet)
    if plain is None:
        return "something else than OpenVPN answers, or one with another tls-crypt key"
    acknowledged = plain[0] if plain else 0
    theirs = plain[1 + 4 * acknowledged : 1 + 4 * acknowledged + _SESSION]
    if packet[0] >> 3 != _SERVER_RESET or not acknowledged or theirs != session:
        return "an answer to another packet than ours"
    return None


def prepare(health: Health) -> bytes:
    """The key."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise OSError(_MISSING) from None
    return static_key(health.key)


def check(health: Health, deadline: float) -> str | None:
    static, session = prepare(health), os.urandom(_SESSION)
    packet = client_reset(static, session)
    answer = (_over_udp if health.transport == "udp" else _over_tcp)(health, packet, deadline)
    if not answer:
        return "it closes without an answer: no OpenVPN, or one with another tls-crypt key"
    return problem_of(answer, static, session)


def _over_tcp(health: Health, packet: bytes, deadline: float) -> bytes:
    with Stream(connect(health.address, health.port, deadline), deadline) as stream:
        stream.sendall(len(packet).to_bytes(2, "big") + packet)
        reader = stream.makefile("rb")
        size = int.from_bytes(reader.read(2), "big")
        return reader.read(min(size, _MAX_PACKET))


def _over_udp(health: Health, packet: bytes, deadline: float) -> bytes:
    with Datagrams(health.address, health.port, deadline) as socket:
        socket.send(packet)
        return socket.receive(again=packet)
