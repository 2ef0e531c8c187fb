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

# A project has some hundred files, opam's package archive 40,000.
MAX_FILES = 200_000
MAX_BYTES = 4 << 30
MAX_DEPTH = 100


def _object(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}".encode() + b"\0" + content, usedforsecurity=False).digest()


def tree_of(commit: str, text: bytes) -> str | None:
    """Return the tree that the commit's text names; None if it is not this commit's text."""
    found = re.match(rb"tree ([0-9a-f]{40})\n", text)
    return found.group(1).decode() if found and _object("commit", text).hex() == commit else None


def refusal(listed: bytes) -> str | None:
    """Return why a tree is not checked out; None if it is. ``listed``: what ``git ls-tree -r -l -z`` prints.

    A few kilobytes of git's objects can name the same folder or zeros a billion times.
    """
    files = total = 0
    for line in listed.split(b"\0"):
        head, _tab, path = line.partition(b"\t")
        size = head.split()[3:]
        files += 1
        total += int(size[0]) if size and size[0].isdigit() else 0
        if path.count(b"/") > MAX_DEPTH:
            return f"has folders in more than {MAX_DEPTH} others"
        if total > MAX_BYTES:
            return f"has files of more than {MAX_BYTES >> 20} MiB"
    return f"has more than {MAX_FILES} files" if files > MAX_FILES else None


def submodules(listed: bytes) -> dict[str, str]:
    """Return path -> commit of the submodules. ``listed``: as for `refusal`."""
    lines = [line.partition(b"\t") for line in listed.split(b"\0") if line.startswith(b"160000 ")]
    return {os.fsdecode(path): head.split()[2].decode() for head, _tab, path in lines}


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
