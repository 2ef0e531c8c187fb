# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check that an OpenVPN endpoint answers a client that has its tls-crypt key, with a valid certificate.

We send a reset (P_CONTROL_HARD_RESET_CLIENT_V2) wrapped with the key. The answer is wrapped too and acknowledges our random
session id: only a live endpoint with that key can send it. Then TLS begins, just far enough to get the endpoint's certificate,
which is verified if the file with the key also has the CA. No session is established and no client certificate is needed.
(OpenVPN's doc/tls-crypt-v2.txt and src/openvpn/tls_crypt.h; openvpn-rfc.)
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import re
import ssl
import struct
import time
from collections.abc import Callable

from ..domain.spec import Health
from .connection import Datagrams, Stream, connect, read_file

# Opcodes: the upper five bits of a packet's first byte.
_CONTROL, _ACK, _CLIENT_RESET, _SERVER_RESET = 4, 5, 7, 8
_SESSION, _PACKET_ID, _TAG = 8, 8, 32  # bytes
_HEADER = 1 + _SESSION
_WRAPPED = _HEADER + _PACKET_ID + _TAG
_KEY_BYTES = 256  # a static key: per direction 64 bytes for the cipher and 64 for the HMAC, of which 32 are used
_MAX_KEY_FILE = 65536
_MAX_PACKET = 4096
# A handshake takes about ten packets; whatever sends more is no endpoint.
_MAX_PACKETS = 64
# Bytes of TLS in one packet, as OpenVPN's own clients send it.
_MAX_PAYLOAD = 1000
_CLOSES = "it closed the connection during the TLS handshake"
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

        # Encrypts and decrypts alike: counter mode, whose initial counter is the tag.
        crypt = Cipher(algorithms.AES(self._cipher), modes.CTR(tag[:16])).encryptor()
        return crypt.update(data) + crypt.finalize()

    def wrap(self, header: bytes, packet_id: bytes, plain: bytes) -> bytes:
        tag = self._tag(header, packet_id, plain)
        return header + packet_id + tag + self._crypt(tag, plain)

    def unwrap(self, packet: bytes) -> bytes | None:
        """Return a packet's content; None if it was not wrapped with this key."""
        if len(packet) < _WRAPPED:
            return None
        header, packet_id, tag = packet[:_HEADER], packet[_HEADER : _HEADER + _PACKET_ID], packet[_WRAPPED - _TAG : _WRAPPED]
        plain = self._crypt(tag, packet[_WRAPPED:])
        return plain if hmac.compare_digest(self._tag(header, packet_id, plain), tag) else None


def static_key(path: str) -> bytes:
    """Return the 256 bytes of a file that ``openvpn --genkey`` wrote."""
    text = read_file(path, _MAX_KEY_FILE).decode("latin-1")
    inside = re.search(r"-----BEGIN OpenVPN Static key V1-----([0-9a-fA-F\s]*)-----END OpenVPN Static key V1-----", text)
    key = bytes.fromhex("".join(inside.group(1).split())) if inside and len("".join(inside.group(1).split())) % 2 == 0 else b""
    if len(key) != _KEY_BYTES:
        raise OSError(f"key: {path} is not an OpenVPN static key of {_KEY_BYTES * 8} bits")
    return key


def client_reset(static: bytes, session: bytes) -> bytes:
    packet_id = struct.pack(">II", 1, int(time.time()) & 0xFFFFFFFF)
    # No acknowledgements; the first packet of the control channel.
    return Key(static, server=False).wrap(bytes([_CLIENT_RESET << 3]) + session, packet_id, b"\0" + struct.pack(">I", 0))


def problem_of(packet: bytes, static: bytes, session: bytes) -> str | None:
    """Return None if ``packet`` answers our reset, else what it is."""
    plain = Key(static, server=True).unwrap(packet)
    if plain is None:
        return "what answers is not OpenVPN, or has another tls-crypt key"
    acknowledged = plain[0] if plain else 0
    theirs = plain[1 + 4 * acknowledged : 1 + 4 * acknowledged + _SESSION]
    if packet[0] >> 3 != _SERVER_RESET or not acknowledged or theirs != session:
        return "an answer to another packet"
    return None


def _parts(plain: bytes, has_id: bool) -> tuple[int | None, bytes]:
    """Return number and content of a control packet; (None, b"") for a bare acknowledgement."""
    acknowledged = plain[0] if plain else 0
    rest = plain[1 + 4 * acknowledged + (_SESSION if acknowledged else 0) :]
    if not has_id or len(rest) < 4:
        return None, b""
    return struct.unpack(">I", rest[:4])[0], rest[4:]


class Conversation:
    """Our side of the control channel, after the resets: it acknowledges everything and puts it in order."""

    def __init__(self, static: bytes, session: bytes, reset: bytes, send: Callable[[bytes], None]) -> None:
        self._ours, self._server = Key(static, server=False), Key(static, server=True)
        self._session, self._theirs, self._send = session, reset[1:_HEADER], send
        self._sent, self._wrapped = 0, 1  # the reset was message 0 and wrapped packet 1
        self._expected = 1
        self._early: dict[int, bytes] = {}
        self._acknowledge = [0]

    def _packet(self, opcode: int, rest: bytes) -> bytes:
        self._wrapped += 1
        acks, self._acknowledge = self._acknowledge, []
        plain = bytes([len(acks)]) + b"".join(struct.pack(">I", number) for number in acks)
        plain += (self._theirs if acks else b"") + rest
        packet_id = struct.pack(">II", self._wrapped, int(time.time()) & 0xFFFFFFFF)
        return self._ours.wrap(bytes([opcode << 3]) + self._session, packet_id, plain)

    def say(self, data: bytes) -> None:
        for start in range(0, len(data), _MAX_PAYLOAD):
            self._sent += 1
            self._send(self._packet(_CONTROL, struct.pack(">I", self._sent) + data[start : start + _MAX_PAYLOAD]))

    def take(self, packet: bytes) -> bytes:
        """Return the TLS data that is complete with this packet."""
        plain = self._server.unwrap(packet)
        if plain is None or packet[1:_HEADER] != self._theirs:
            return b""
        number, content = _parts(plain, packet[0] >> 3 == _CONTROL)
        if number is None:
            return b""
        if number >= self._expected and len(self._early) < _MAX_PACKETS:
            self._early[number] = content
        self._acknowledge = [number]
        self._send(self._packet(_ACK, b""))
        complete = b""
        while self._expected in self._early:
            complete += self._early.pop(self._expected)
            self._expected += 1
        return complete


def _context(authorities: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities:
        context.load_verify_locations(cadata=authorities)
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def _ended(certificate: bytes | None) -> str | None:
    """Check the expiry of a certificate that can't be verified for lack of a CA."""
    if not certificate:
        return "it presents no certificate"
    from cryptography import x509

    found = x509.load_der_x509_certificate(certificate)
    # Before cryptography 42 the time has no zone; it is UTC.
    after = getattr(found, "not_valid_after_utc", None) or found.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    return f"its certificate expired on {after:%Y-%m-%d}" if after.timestamp() < time.time() else None


def certificate_problem(conversation: Conversation, receive: Callable[[], bytes], authorities: str) -> str | None:
    """Return None if the endpoint's certificate is valid: issued by one of ``authorities`` (PEM) if any, and not expired."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context(authorities).wrap_bio(incoming, outgoing)
    for _round in range(_MAX_PACKETS):
        try:
            tls.do_handshake()
            return None if authorities else _ended(tls.getpeercert(binary_form=True))
        except ssl.SSLWantReadError:
            conversation.say(outgoing.read())
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not valid: {error.verify_message}"
        except ssl.SSLError as error:
            # Up to TLS 1.2 the endpoint asks for our certificate before the handshake completes; by then we have verified its
            # own.
            asks = "alert" in str(error.reason or "").lower() and tls.version() in (None, "TLSv1.2")
            return None if asks and authorities else f"no TLS behind its tls-crypt key: {error.reason or error}"
        packet = receive()
        if not packet:
            return _CLOSES
        incoming.write(conversation.take(packet))
    return "it sends more packets than a TLS handshake has"


def prepare(health: Health) -> bytes:
    """Return the static key."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise OSError(_MISSING) from None
    return static_key(health.key)


def authorities_in(path: str) -> str:
    """Return the certificates (PEM) in the key's file."""
    text = read_file(path, _MAX_KEY_FILE).decode("latin-1")
    return "\n".join(re.findall(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----", text))


def check(health: Health, deadline: float) -> str | None:
    static, session = prepare(health), os.urandom(_SESSION)
    reset = client_reset(static, session)
    with (_OverUdp if health.transport == "udp" else _OverTcp)(health, deadline) as wire:
        wire.send(reset)
        answer = wire.receive()
        if not answer:
            return "it closed the connection without an answer: it is not OpenVPN, or has another tls-crypt key"
        problem = problem_of(answer, static, session)
        if problem:
            return problem
        conversation = Conversation(static, session, answer, wire.send)
        try:
            return certificate_problem(conversation, wire.receive, authorities_in(health.key))
        except ConnectionError:  # a reset instead of an orderly close
            return _CLOSES


class _OverTcp:
    def __init__(self, health: Health, deadline: float) -> None:
        self._stream = Stream(connect(health.address, health.port, deadline), deadline)
        self._reader = self._stream.makefile("rb")

    def __enter__(self) -> _OverTcp:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()

    def send(self, packet: bytes) -> None:
        self._stream.sendall(len(packet).to_bytes(2, "big") + packet)

    def receive(self) -> bytes:
        size = int.from_bytes(self._reader.read(2), "big")
        return self._reader.read(min(size, _MAX_PACKET))


class _OverUdp:
    def __init__(self, health: Health, deadline: float) -> None:
        self._socket = Datagrams(health.address, health.port, deadline)
        self._last = b""

    def __enter__(self) -> _OverUdp:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.__exit__()

    def send(self, packet: bytes) -> None:
        self._last = packet
        self._socket.send(packet)

    def receive(self) -> bytes:
        return self._socket.receive(again=self._last)
