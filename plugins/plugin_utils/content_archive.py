# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Pack the folder of a web server into the archive that its disk is made from, and find that archive's digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import local_folder
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import check
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.service import content_disk

_PIECE = 1 << 20


class _Target(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Digest:
    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.sha256.update(data)


def digest_of(folder: str) -> str:
    """Return the digest of the folder's archive without writing it. BuildError or OSError for what can't be served."""
    digest = _Digest()
    pack(folder, digest)
    return digest.sha256.hexdigest()


def pack(folder: str, target: _Target) -> None:
    """Write the archive of the folder. The same files give the same bytes, whoever owns them and whenever they were written."""
    folder = local_folder(folder)
    target.write(content_disk.top())
    for path in _paths(folder):
        check(folder, path)
        inside = os.path.relpath(os.path.realpath(os.path.join(folder, path)), os.path.realpath(folder))
        check(folder, inside)
        handle = os.open(os.path.join(folder, inside), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            _add(f"{folder}: {path}", os.fsencode(path), file, target)
    target.write(content_disk.END)


def _paths(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=refuse)
    return sorted(os.path.relpath(os.path.join(root, name), folder) for root, _folders, names in walk for name in names)


def _add(where: str, path: bytes, file: BinaryIO, target: _Target) -> None:
    size, sha256 = os.fstat(file.fileno()).st_size, hashlib.sha256()
    for piece in _pieces(file, size):
        sha256.update(piece)
    try:
        target.write(content_disk.header(path, size, sha256.hexdigest()))
    except ValueError as error:
        raise BuildError(f"{where}: {error}") from None
    file.seek(0)
    written = 0
    for piece in _pieces(file, size):
        written += len(piece)
        target.write(piece)
    # Other bytes of the same length are found where the archive's digest is compared.
    if written != size or os.fstat(file.fileno()).st_size != size:
        raise BuildError(f"{where}: changed while it was read; run again when nothing writes there")
    target.write(content_disk.padding(size))


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """No more than ``size`` bytes, however fast the file grows."""
    while piece := file.read(min(_PIECE, size)):
        size -= len(piece)
        yield piece
