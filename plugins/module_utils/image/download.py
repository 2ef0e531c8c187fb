# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Download from an HTTP(S) server that may be slow, broken or hostile: bounded in size and time.

A download that was killed is resumed (RFC 9110, 14). After a failure nothing of the file is left. A server may compress the file
(gzip, RFC 9110, 8.4.1.3); the unpacked size is bounded in the same way.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import shutil
import threading
import time
import urllib.error
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from ansible.module_utils.urls import open_url

from .elf import printable
from .store import MAX_IMAGE, StoreError, digest_of

SECONDS = 600
# Give up on a server that sends nothing for this many seconds.
_STALLED_SECONDS = 30
_BLOCK = 1 << 16
# Resume an interrupted transfer as long as each attempt makes progress.
_ATTEMPTS = 4
_MAX_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def shown(url: str) -> str:
    """Return a URL as it may be shown and logged: without user, password and query."""
    return printable(re.sub("//[^/?#]*@", "//", url).partition("?")[0])


class _CutShort(Exception):
    """The connection ended before the file was complete."""


def download(
    url: str, path: str, size: int | None = None, sha256: str | None = None, seconds: float = SECONDS,
    ca_file: str | None = None, limit: int = MAX_IMAGE,
) -> bool:  # fmt: skip
    """Get ``url`` into ``path``, resuming what a killed run left there. Return False if the server has no such file.

    Write at most ``size`` bytes, or ``limit`` if the size is unknown, within ``seconds``; verify ``sha256`` if given. Raise
    StoreError if that fails; then there is no file.
    """
    if not re.match("https?://", url):
        raise StoreError(f"url {shown(url)}: must begin with https:// or http://")
    try:
        return _download(url, path, size, sha256, time.monotonic() + seconds, ca_file, limit)
    except StoreError as error:
        _remove(path)
        raise StoreError(f"url {shown(url)}: {error}") from error
    except OSError as error:
        _remove(path)
        raise StoreError(f"url {shown(url)}: {path}: {error.strerror or error}") from error


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _download(url: str, path: str, size: int | None, sha256: str | None, until: float, ca_file: str | None, limit: int) -> bool:
    most = limit if size is None else size
    before = os.path.getsize(path) if os.path.exists(path) else 0
    if before > most or size is None:
        _remove(path)  # not a part of this file, or nobody can tell what is missing
        before = 0
    free = shutil.disk_usage(os.path.dirname(path)).free
    if size is not None and size - before > free:
        raise StoreError(f"{os.path.dirname(path)}: has {free} bytes free, the file needs {size - before} more")
    for attempt in range(_ATTEMPTS):
        there = os.path.getsize(path) if os.path.exists(path) else 0
        if size is not None and there == size:
            break
        try:
            if not _get(url, path, there, size, most, until, ca_file):
                _remove(path)
                return False
            break
        except _CutShort as error:
            after = os.path.getsize(path) if os.path.exists(path) else 0
            if size is None or after <= there or attempt == _ATTEMPTS - 1:
                raise StoreError(f"the connection ended after {after} bytes, before the file did") from error
    if size is not None and os.path.getsize(path) != size:
        raise StoreError(f"the server's file has {os.path.getsize(path)} bytes, expected are {size}")
    if sha256 and digest_of(path) != sha256:
        raise StoreError(f"the server's file has the sha256 {digest_of(path)}, expected is {sha256}; it was removed: run again")
    return True


def _get(url: str, path: str, there: int, size: int | None, most: int, until: float, ca_file: str | None) -> bool:
    """Make one request. Return False if there is no such file."""
    reply = _Reply(url, there, until, ca_file)
    status = reply.status
    if status == 404:
        return False
    if status == 416 and there:
        raise StoreError("the server has less of the file than is here; what was here is removed: run again")
    if status not in (200, 206):
        raise StoreError(f"the server answers {status} {printable(reply.reason)}".strip())
    if status == 206:
        _check_range(reply.headers.get("Content-Range") or "", there, size)
    written = there if status == 206 else 0
    packed = (reply.headers.get("Content-Encoding") or "identity").strip().lower()
    if packed not in ("identity", "gzip") or (packed == "gzip" and status == 206):
        raise StoreError(f"the server sends the file as {printable(packed)[:40]!r}, expected gzip or the file as it is")
    announced = "" if packed == "gzip" else reply.headers.get("Content-Length") or ""
    if re.fullmatch("[0-9]{1,18}", announced) and written + int(announced) > most:
        raise StoreError(f"the server announces {written + int(announced)} bytes, expected are {size or f'at most {most}'}")
    with open(path, "ab" if status == 206 else "wb") as file:
        for block in unpacked(reply.blocks()) if packed == "gzip" else reply.blocks():
            written += len(block)
            if written > most:
                raise StoreError(f"the server sends more than the {most} bytes that are expected")
            file.write(block)
    return True


def unpacked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack a gzip file in pieces of bounded size: a few bytes can expand to any number."""
    stream = zlib.decompressobj(wbits=31)
    for block in blocks:
        piece = bytes(_BLOCK)  # a full piece: more output may follow
        while len(piece) == _BLOCK and not stream.eof:
            try:
                piece = stream.decompress(block, _BLOCK)
            except zlib.error:
                raise StoreError("the server's gzip file is damaged") from None
            if piece:
                yield piece
            block = stream.unconsumed_tail
        if stream.eof and (stream.unused_data or block):
            raise StoreError("the server sends more than a gzip file")
    if not stream.eof:
        raise _CutShort


def redirected(url: str, target: str) -> str:
    """Where a server sends who asked for ``url``. From https:// there is no way to what anybody can read and change."""
    address = urljoin(url, target)
    scheme = address.partition(":")[0].lower()
    if scheme not in ("http", "https") or (scheme == "http" and url.lower().startswith("https:")):
        begin = "https://" if url.lower().startswith("https:") else "https:// or http://"
        raise StoreError(f"the server redirects to {shown(address)[:200]}, which does not begin with {begin}")
    return address


def _check_range(header: str, there: int, size: int | None) -> None:
    match = _CONTENT_RANGE.fullmatch(header)
    if not match or int(match.group(1)) != there or (size is not None and match.group(3) not in ("*", str(size))):
        raise StoreError(f"the server answers the range {printable(header)!r}, requested were bytes {there}-")


class _Reply:
    """A server's answer, read by a thread, so that nobody waits for it longer than ``until``."""

    def __init__(self, url: str, there: int, until: float, ca_file: str | None) -> None:
        self.until = until
        self._blocks: queue.Queue[Any] = queue.Queue(maxsize=16)
        self._given_up = threading.Event()
        threading.Thread(target=self._read, args=(url, there, ca_file), daemon=True).start()
        first = self._next()
        self.status, self.reason, self.headers = first if isinstance(first, tuple) else (0, "", {})

    def blocks(self) -> Iterator[bytes]:
        while True:
            block = self._next()
            if block is None:
                return
            yield block

    def _next(self) -> Any:
        try:
            item = self._blocks.get(timeout=max(0.0, self.until - time.monotonic()))
        except queue.Empty:
            self._given_up.set()
            raise StoreError("the transfer did not end within its time") from None
        if isinstance(item, Exception):
            raise item
        return item

    def _put(self, item: Any) -> bool:
        while not self._given_up.is_set() and time.monotonic() < self.until:
            with contextlib.suppress(queue.Full):
                self._blocks.put(item, timeout=0.5)
                return True
        return False

    def _open(self, url: str, headers: dict[str, str], ca_file: str | None) -> Any:
        """The answer; None for an error of the server's, which was put."""
        for _hop in range(_MAX_REDIRECTS + 1):
            try:
                return open_url(
                    url, headers=headers, timeout=_STALLED_SECONDS, ca_path=ca_file, decompress=False, follow_redirects="no"
                )
            except urllib.error.HTTPError as error:
                target = error.headers.get("Location") if error.code in (301, 302, 303, 307, 308) else None
                if not target:
                    self._put((error.code, str(error.reason), {}))
                    return None
                url = redirected(url, target)
        raise StoreError(f"the server redirects more than {_MAX_REDIRECTS} times")

    def _read(self, url: str, there: int, ca_file: str | None) -> None:
        headers = {"Range": f"bytes={there}-"} if there else {"Accept-Encoding": "gzip"}
        try:
            reply = self._open(url, headers, ca_file)
            if reply is None:
                return
            self._put((reply.status, str(reply.reason), reply.headers))
            announced = reply.headers.get("Content-Length") or "0"
            missing = 0 if reply.chunked or not announced.isdecimal() else int(announced)
            # read1 returns what has arrived instead of a whole block, so that a slow server is noticed.
            while block := reply.read1(_BLOCK):
                missing -= len(block)
                if not self._put(block):
                    return
            if missing > 0:
                raise _CutShort
            self._put(None)
        except (http.client.IncompleteRead, ConnectionError, _CutShort):
            self._put(_CutShort())
        except StoreError as error:
            self._put(error)
        except http.client.HTTPException as error:
            self._put(StoreError(f"the server's answer is not HTTP ({type(error).__name__})"))
        except Exception as error:  # turn any error that a server can provoke in a library into one line
            reason = getattr(error, "reason", None) or error
            self._put(StoreError(printable(str(getattr(reason, "strerror", None) or reason or type(error).__name__))))
