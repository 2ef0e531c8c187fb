# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that a folder is what a git commit says, from the commit's text and the files, without a process.

A commit's name is the digest of its text, which contains the digest of its tree, which contains those of all files: to change a
file unnoticed takes another one with the same digest. Source of the formats: git's gitformat-pack(5) and git-hash-object(1).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat


def _object(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}".encode() + b"\0" + content, usedforsecurity=False).digest()


def tree_of(commit: str, text: bytes) -> str | None:
    """Return the tree that the commit's text names; None if it is not this commit's text."""
    found = re.match(rb"tree ([0-9a-f]{40})\n", text)
    return found.group(1).decode() if found and _object("commit", text).hex() == commit else None


def digest_of_folder(folder: str, modules: dict[str, str]) -> str:
    """Return git's tree digest of this folder. ``modules``: path of a submodule -> its commit."""
    return _folder(folder, "", modules).hex()


def _folder(root: str, below: str, modules: dict[str, str]) -> bytes:
    entries = []
    for entry in os.scandir(os.path.join(root, below)):
        path = below + entry.name
        name, mode = os.fsencode(entry.name), entry.stat(follow_symlinks=False).st_mode
        if path in modules and stat.S_ISDIR(mode) and not os.listdir(entry.path):
            entries.append((name, b"160000 " + name, bytes.fromhex(modules[path])))
        elif stat.S_ISDIR(mode):
            entries.append((name + b"/", b"40000 " + name, _folder(root, path + "/", modules)))
        elif stat.S_ISLNK(mode):
            entries.append((name, b"120000 " + name, _object("blob", os.fsencode(os.readlink(entry.path)))))
        elif stat.S_ISREG(mode):
            with open(entry.path, "rb") as file:
                entries.append((name, (b"100755 " if mode & 0o100 else b"100644 ") + name, _object("blob", file.read())))
        else:
            entries.append((name, b"0 " + name, b""))  # something that no git tree contains
    return _object("tree", b"".join(head + b"\0" + digest for _order, head, digest in sorted(entries)))
