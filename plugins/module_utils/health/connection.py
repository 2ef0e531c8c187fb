# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Connections on which neither a single step nor all of them together outlast a deadline."""

from __future__ import annotations

import io
import os
import queue
import socket
import stat
import threading
import time
from typing import Any

# Seconds before a datagram without an answer is sent again.
_RESEND_SECONDS = 1.0
MAX_DATAGRAM = 65535


def left(deadline: float) -> float:
    """Return the seconds until ``deadline`` (monotonic), more than 0. Raise TimeoutError after it."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("no complete answer in time")
    return seconds


class Stream(io.RawIOBase):
    """A connected socket, TLS or not. http.client takes it for a socket, `io.BufferedReader` for a file.

    A socket's own timeout applies to each call: a peer that sends a byte now and then would never time out.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(left(self._deadline))
        return self._socket.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        self._socket.close()
        super().close()


def resolve(address: str, port: int, kind: socket.SocketKind, deadline: float) -> list[Any]:
    """Return getaddrinfo's answer. It has no time limit, so a name is resolved in a thread that may be left behind."""
    try:
        return socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    answers: queue.Queue[Any] = queue.Queue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(address, port, type=kind))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=left(deadline))
    except queue.Empty:
        raise TimeoutError(f"the name {address} was not resolved in time") from None
    if isinstance(answer, OSError):
        raise OSError(f"the name {address} is not resolved: {answer.strerror}") from None
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]


def connect(address: str, port: int, deadline: float) -> socket.socket:
    """Connect by TCP to the first address that accepts; each gets its share of the time. The caller closes the socket."""
    infos = resolve(address, port, socket.SOCK_STREAM, deadline)
    problem: OSError = OSError(f"the name {address} has no address")
    for index, (family, kind, protocol, _name, where) in enumerate(infos):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left(deadline) / (len(infos) - index))
            sock.connect(where)
            return sock
        except OSError as error:
            sock.close()
            problem = error
    raise problem


class Datagrams:
    """UDP: sends a request, repeats it if nothing comes, and returns the answers one by one."""

    def __init__(self, address: str, port: int, deadline: float) -> None:
        infos = resolve(address, port, socket.SOCK_DGRAM, deadline)
        # UDP can't tell a dead address. For a name with both families take IPv4, which most services have.
        family, kind, protocol, _name, where = min(infos, key=lambda info: info[0] != socket.AF_INET)
        self._deadline = deadline
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.connect(where)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.settimeout(left(self._deadline))
        self._socket.send(data)

    def receive(self, again: bytes) -> bytes:
        """Return the next answer; ``again`` is sent each second until it comes. Raise TimeoutError at the deadline."""
        while True:
            self._socket.settimeout(min(_RESEND_SECONDS, left(self._deadline)))
            try:
                return self._socket.recv(MAX_DATAGRAM)
            except socket.timeout:  # a different class from TimeoutError before Python 3.10
                self.send(again)


def read_file(path: str, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a file named in a declaration. OSError also if it is no file (a pipe never ends)."""
    descriptor = os.open(path.encode("utf-8"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a file")
        if status.st_size > limit:
            raise OSError(f"{path} has {status.st_size} bytes, more than {limit}")
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)
