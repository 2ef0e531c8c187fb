# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Pack a unikernel's sources into one file for a builder on another machine. Equal sources give equal bytes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator

from .sandbox import private
from .sources import source_files
from .steps import BuildError
from .store import INCOMING, digest_of

_NAMED = re.compile(r"(.+)-[0-9a-f]{64}\.tar")


def pack(folder: str, overlay: tuple[tuple[str, str], ...], name: str, target: str, check: bool) -> tuple[bool, str]:
    """Pack the sources of ``folder``, overlaid with each (path inside, folder), as ``target``/NAME-SHA256.tar.

    Return (whether it is, or in check mode would be, written; its path).
    """
    private(target)
    handle, draft = tempfile.mkstemp(prefix=INCOMING, dir=target)
    os.close(handle)
    try:
        _write(folder, overlay, draft)
        path = os.path.join(target, f"{name}-{digest_of(draft)}.tar")
        changed = not os.path.exists(path)
        if changed and not check:
            with open(draft, "rb") as file:
                os.fsync(file.fileno())  # the name has the digest, so the content is never checked again
            os.rename(draft, path)
        return changed, path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def name_of(path: str) -> str | None:
    """Return the name given to ``pack`` from the file's name; None if it is not one of its files."""
    found = _NAMED.fullmatch(os.path.basename(path))
    return found.group(1) if found and os.path.isfile(path) else None


def _write(folder: str, overlay: tuple[tuple[str, str], ...], path: str) -> None:
    files = {inside: os.path.join(folder, inside) for inside in source_files(folder)}
    for place, laid in overlay:
        below = os.path.normpath(place) + "/"
        files = {inside: full for inside, full in files.items() if not inside.startswith(below)}
        files.update({below + inside: os.path.join(laid, inside) for inside in source_files(laid)})
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for inside, full in sorted(files.items()):
            member, status = tarfile.TarInfo(inside), os.lstat(full)
            if stat.S_ISREG(status.st_mode):
                member.size, member.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                with open(full, "rb") as file:
                    archive.addfile(member, file)
            elif stat.S_ISLNK(status.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(full)
                archive.addfile(member)
            else:
                raise BuildError(f"source {folder}: {inside} is neither a file nor a link")


@contextlib.contextmanager
def unpacked(path: str, work: str) -> Iterator[str]:
    """Unpack ``path`` into a folder below ``work``, for the time of the context. Raise BuildError."""
    private(work)
    with tempfile.TemporaryDirectory(prefix="sources-", dir=os.path.realpath(work)) as folder:
        try:
            with tarfile.open(path, "r:") as archive:
                room = os.path.getsize(path)
                for member in archive:
                    room -= member.size
                    if member.issparse() or room < 0:  # our archives have neither, and a sparse file could fill the disk
                        raise tarfile.TarError(f"{member.name} is larger than the archive")
                    _unpack(archive, member, folder)
        except (OSError, tarfile.TarError) as error:
            raise BuildError(f"source {path}: cannot be unpacked: {error}") from error
        yield folder


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: str) -> None:
    full = os.path.join(folder, member.name)
    parent = os.path.dirname(full)
    if os.path.normpath(full) != full or os.path.commonpath([os.path.realpath(parent), folder]) != folder:
        raise tarfile.TarError(f"{member.name} leads out of it")
    os.makedirs(parent, exist_ok=True)
    content = archive.extractfile(member) if member.isreg() else None
    if member.issym():
        os.symlink(member.linkname, full)
    elif content:
        with open(full, "xb") as file:
            shutil.copyfileobj(content, file)
        os.chmod(full, 0o755 if member.mode & 0o100 else 0o644)
    else:
        raise tarfile.TarError(f"{member.name} is neither a file nor a link")
