# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Wait for events in xenstore: a domain was created or ended, or a key was written.

The protocol is xen/include/public/io/xs_wire.h, see `xenstore`. xenstored answers a watch, and fires it once when it is set.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from .xenstore import SOCKETS

_HEADER = struct.Struct("=IIII")
_WATCH, _UNWATCH, _EVENT = 4, 5, 15
_PART = 65536
# A message has at most XENSTORE_PAYLOAD_MAX bytes.
_MAX_BODY = 4096
# A domain that ends causes several events at once; wait this long for the others.
_SETTLE_SECONDS = 0.2


class Events:
    """One connection to xenstored. Without xenstored `wait` only sleeps; `watch` tries to connect again."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._data = b""
        self._watched: set[str] = set()
        self._fired: set[str] = set()

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def watch(self, paths: set[str]) -> None:
        """Watch exactly these paths."""
        if self._socket is None and not self._connect():
            return
        for kind, changed in ((_WATCH, paths - self._watched), (_UNWATCH, self._watched - paths)):
            for path in sorted(changed):
                self._send(kind, f"{path}\0{path}\0".encode())
        self._fired &= paths
        self._watched = set(paths)

    def wait(self, seconds: float) -> set[str]:
        """Wait until a watched path fires, at most ``seconds``; return the paths. The first firing of each watch is ignored."""
        end, changed = time.monotonic() + seconds, set()
        while time.monotonic() < end:
            if self._socket is None:
                time.sleep(max(0.0, end - time.monotonic()))
                break
            ready, _writable, _errors = select.select([self._socket], [], [], max(0.0, end - time.monotonic()))
            for path in self._receive() if ready else []:
                if path in self._fired:
                    changed.add(path)
                    # Return at once for a key, which must be read before its domain is gone.
                    end = min(end, time.monotonic() + (_SETTLE_SECONDS if path.startswith("@") else 0.0))
                self._fired.add(path)
        return changed

    def _connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(next((path for path in SOCKETS if os.path.exists(path)), SOCKETS[0]))
            connection.settimeout(5.0)
        except OSError:
            connection.close()
            return False
        self._socket, self._data, self._watched, self._fired = connection, b"", set(), set()
        return True

    def _send(self, kind: int, body: bytes) -> None:
        if self._socket:
            try:
                self._socket.sendall(_HEADER.pack(kind, 0, 0, len(body)) + body)
            except OSError:
                self.close()

    def _receive(self) -> list[str]:
        try:
            part = self._socket.recv(_PART) if self._socket else b""
        except OSError:
            part = b""
        if not part:
            self.close()
            return []
        self._data += part
        paths = []
        while len(self._data) >= _HEADER.size:
            kind, _request, _transaction, length = _HEADER.unpack_from(self._data)
            if length > _MAX_BODY:
                self.close()
                break
            if len(self._data) < _HEADER.size + length:
                break
            body, self._data = self._data[_HEADER.size : _HEADER.size + length], self._data[_HEADER.size + length :]
            if kind == _EVENT:
                # The body is the changed path, then the token: the watched path.
                paths.append(body.split(b"\0")[1].decode("utf-8", "replace"))
        return paths

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket, self._watched = None, set()
