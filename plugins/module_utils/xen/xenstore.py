# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read from and write to xenstore through its socket, many keys at once, and never block forever.

The C library's bindings have no time limit: a xenstored that hangs would hang us. The protocol is
xen/include/public/io/xs_wire.h: each message begins with a header of four 32-bit words (type, request, transaction, length) in
the machine's byte order; requests on one connection are answered in order.
"""

from __future__ import annotations

import os
import socket
import struct

from .xl import ToolstackError

SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket")
SECONDS = 20.0
_HEADER = struct.Struct("=IIII")
_DIRECTORY, _READ, _WRITE, _ERROR = 1, 2, 11, 16
# Requests in flight at once: their answers must fit into the socket's buffers.
_BATCH = 64


class Xenstore:
    """``with Xenstore() as store:``; raise ToolstackError if xenstored can't be reached or doesn't answer."""

    def __init__(self, timeout: float = SECONDS) -> None:
        self.timeout = timeout

    def __enter__(self) -> Xenstore:
        path = next((path for path in SOCKETS if os.path.exists(path)), SOCKETS[0])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self.timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ToolstackError(
                f"xenstored can't be reached ({path}: {error}); restarting it needs a reboot of the host"
            ) from None
        # Buffered: a system call for each header and each body would take most of the time where these are slow.
        self._answers = self._socket.makefile("rb")
        return self

    def __exit__(self, *_reason: object) -> None:
        self._answers.close()
        self._socket.close()

    def read(self, paths: list[str]) -> list[str | None]:
        """Return the values of the paths; None for one that is missing."""
        return [None if one is None else one.decode("utf-8", "replace") for one in self._ask(_READ, paths)]

    def directories(self, paths: list[str]) -> list[list[str]]:
        """Return the names below each path; [] for one that is missing."""
        return [
            [] if one is None else [name for name in one.decode().split("\0") if name] for one in self._ask(_DIRECTORY, paths)
        ]

    def write(self, path: str, value: str) -> None:
        """Write a value; ToolstackError if xenstored refuses."""
        if self._send(_WRITE, [path.encode() + b"\0" + value.encode()]) == [None]:
            raise ToolstackError(f"xenstored refused to write {path}")

    def _ask(self, kind: int, paths: list[str]) -> list[bytes | None]:
        return self._send(kind, [path.encode() + b"\0" for path in paths])

    def _send(self, kind: int, bodies: list[bytes]) -> list[bytes | None]:
        """Return the answer to each message; None for an error."""
        answers: list[bytes | None] = []
        try:
            for begin in range(0, len(bodies), _BATCH):
                batch = bodies[begin : begin + _BATCH]
                self._socket.sendall(b"".join(_HEADER.pack(kind, 0, 0, len(body)) + body for body in batch))
                for _body in batch:
                    answered, _request, _transaction, length = _HEADER.unpack(self._receive(_HEADER.size))
                    body = self._receive(length)
                    answers.append(None if answered == _ERROR else body)
        except (OSError, struct.error) as error:
            raise ToolstackError(
                f"xenstored does not answer ({error}, limit {self.timeout:.0f} s); domains keep running, but nothing can be"
                " changed until it does: see 'systemctl status xenstored' and /var/log/xen"
            ) from None
        return answers

    def _receive(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise OSError("it closed the connection")
        return data
