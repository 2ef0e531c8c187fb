# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk of a web server's content: a tar archive (POSIX.1-1988's ustar), named after its digest. Pure.

The headers are written here, not by Python's tarfile, which has written other bytes for the same files in other versions: each
controller must get the same digest, or the domain would be replaced by turns.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from ..domain.spec import DISKS

# Where a host keeps archives, and where our unikernel and its stand-in look for theirs.
STORE = "/var/lib/unikernels/content"
SUFFIX = ".tar"
VDEV = "xvdb"
BLOCK = 512
ARCHIVE = re.compile(rf"([0-9a-f]{{64}})\{SUFFIX}")
# No file's digest: what a declaration has before its folder was read.
UNKNOWN = "0" * 64
_MAX_NAME, _MAX_PREFIX = 100, 155
# Hexadecimal digits of a file's SHA-256 that its owner's name has: the field has room for 31.
_TAG = 24
# name, mode, uid, gid, size, mtime, sum, kind, link, magic, owner, group, device, prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s16s155s12x")


def disk(name: str, digest: str) -> dict[str, Any]:
    """Return the disk of the domain ``name``. Other content has another path: it is another disk, which needs a new domain."""
    path = f"{DISKS}/{name}-{VDEV}-{digest[:16]}.img"
    return {"path": path, "source": f"{STORE}/{digest}{SUFFIX}", "vdev": VDEV, "access": "r", "format": "raw"}


def header(path: bytes, size: int, sha256: str) -> bytes:
    """Return the header of a file. ``sha256``: of its content, of which its entity tag is made. ValueError for a long path."""
    prefix, name = _split(path)
    return _with_sum(_packed(name, prefix, b"0", 0o644, size, sha256[:_TAG].encode()))


def top() -> bytes:
    """Return the first header, of the folder itself: no file's name is where programs look for the kind of a disk."""
    return _with_sum(_packed(b"./", b"", b"5", 0o755, 0, b""))


def padding(size: int) -> bytes:
    """Return what follows the content of a file."""
    return bytes(-size % BLOCK)


# Two empty blocks.
END = bytes(2 * BLOCK)


def _packed(name: bytes, prefix: bytes, kind: bytes, mode: int, size: int, owner: bytes) -> bytes:
    none = b"0000000"
    return _HEADER.pack(
        name, b"%07o" % mode, none, none, b"%011o" % size, b"%011o" % 0, b" " * 8, kind, b"", b"ustar\0" b"00", owner, b"", b"",
        prefix,
    )  # fmt: skip


def _with_sum(packed: bytes) -> bytes:
    return packed[:148] + b"%06o\0 " % sum(packed) + packed[156:]


def _split(path: bytes) -> tuple[bytes, bytes]:
    if len(path) <= _MAX_NAME:
        return b"", path
    at = path.find(b"/", len(path) - _MAX_NAME - 1)
    if at < 1 or at > _MAX_PREFIX or at == len(path) - 1:
        raise ValueError(
            f"its path has {len(path)} bytes; {_MAX_NAME} are possible, or {_MAX_PREFIX} up to a / and {_MAX_NAME} behind it"
        )
    return path[:at], path[at + 1 :]
