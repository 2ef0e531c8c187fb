# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find a unikernel's source files without starting git: most runs only ask whether they changed.

pathspec reads ``.gitignore``. Files that git tracks although a pattern matches them can't be recognized: don't ignore sources.
Anything but files, and links that stay within the folder, is refused: content may come from people who must not read the
builder's files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from .elf import printable
from .steps import BuildError

pathspec: Any
try:
    import pathspec
except ImportError:
    pathspec = None

# What `mirage configure` and a build leave in a folder (mirage 4.11), ignored even without a .gitignore. The lock file
# mirage/NAME-xen.opam.locked is a source: it determines the packages that are built in.
LOCK = re.compile(r"mirage/[^/]+\.opam\.locked")
LEFT_BY_A_BUILD = re.compile(
    r"(_build|dist|duniverse|\.git|mirage)/.*|(Makefile|dune|dune-project|dune-workspace|dune\.build|dune\.config|\.mirage\.config|\.git)"
)
_HOPS = 40
# Folders in folders: no project needs more.
MAX_DEPTH = 100
# Bytes of one file. A file with holes has terabytes that are nowhere.
MAX_FILE = 4 << 30


def source_files(folder: str) -> list[str]:
    """Return the sources below ``folder`` as sorted relative paths. Raise BuildError for what can't be one."""
    return sorted(_walk(folder, "", [], None))


def _walk(root: str, below: str, lines: list[str], spec: Any) -> Iterator[str]:
    here = os.path.join(root, below)
    check_depth(root, below)
    more = _patterns(here, below)
    if more:
        if pathspec is None:
            raise BuildError(f"{here}.gitignore: reading it needs Python's pathspec: apt-get install python3-pathspec")
        lines = [*lines, *more]
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
    for name in os.listdir(here):
        path = below + name
        is_folder = stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode)
        shown = path + "/" if is_folder else path
        may_hide = not LOCK.fullmatch(path) and not (is_folder and path == "mirage")
        if may_hide and (LEFT_BY_A_BUILD.fullmatch(shown) or (spec and spec.match_file(shown))):
            continue
        if is_folder:
            yield from _walk(root, path + "/", lines, spec)
        else:
            check(root, path)
            yield path


def _patterns(here: str, below: str) -> list[str]:
    """Return the lines of a folder's .gitignore, rewritten for the top folder."""
    path = os.path.join(here, ".gitignore")
    if not os.path.isfile(path) or os.path.islink(path):
        return []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [_from_the_top(line.rstrip("\n"), below) for line in file]


def _from_the_top(line: str, below: str) -> str:
    if not below or not line.strip() or line.startswith("#"):
        return line
    sign = "!" if line.startswith("!") else ""
    line = line[len(sign) :]
    folder = re.sub(r"([*?\[\]\\!#])", r"\\\1", below)
    inner = line.rstrip().rstrip("/")
    return f"{sign}/{folder}{line.lstrip('/')}" if "/" in inner else f"{sign}/{folder}**/{line}"


def check_depth(folder: str, path: str) -> None:
    """Raise BuildError for a path that leads through too many folders."""
    if path.count("/") > MAX_DEPTH:
        raise BuildError(f"{folder}: has folders in more than {MAX_DEPTH} others, such as {printable(path[:60])}...; remove them")


def check(folder: str, path: str) -> None:
    """Raise BuildError unless ``path`` below ``folder`` is a regular file, or a link that stays below it at each hop."""
    status = os.lstat(os.path.join(folder, path))
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        why = _leads_out(folder, path)
        if why:
            raise BuildError(f"{folder}: {printable(path)}: is a link {why}; put the file itself there")
    elif not stat.S_ISREG(mode):
        raise BuildError(f"{folder}: {printable(path)}: is neither a file nor a link to one: remove it")
    elif status.st_size > MAX_FILE:
        raise BuildError(
            f"{folder}: {printable(path)}: has {status.st_size} bytes, more than the {MAX_FILE} that a file may have here"
        )


def _leads_out(folder: str, path: str) -> str | None:
    """Return why a link is refused. A dangling link inside the folder is accepted, as git does."""
    parts: list[str] = []
    waiting, hops = path.split("/"), 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            if not parts:
                return f"to {printable(os.readlink(os.path.join(folder, path)))}, which leads out of the folder"
            parts.pop()
        elif part not in ("", "."):
            full = os.path.join(folder, *parts, part)
            if not os.path.islink(full):
                parts.append(part)
                continue
            target, hops = os.readlink(full), hops + 1
            if hops > _HOPS:
                return "that leads to itself"
            if os.path.isabs(target):
                return f"to {printable(target)}, which leads out of the folder"
            waiting = target.split("/") + waiting
    return None


def read(folder: str, path: str) -> bytes:
    """Read a file that ``check`` accepted. Fails if it has become a link since."""
    with open(os.open(os.path.join(folder, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read()


def digest_of_sources(folder: str) -> tuple[str, str | None]:
    """Return (digest of all sources but the lock file, digest of the lock file or None), over names, contents, execute bits."""
    digest, lock = hashlib.sha256(), None
    for path in source_files(folder):
        full = os.path.join(folder, path)
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            content, kind = os.readlink(full).encode("utf-8", "surrogateescape"), "link"
        else:
            content = read(folder, path)
            kind = "program" if status.st_mode & 0o100 else "file"
        one = hashlib.sha256(content).hexdigest()
        if LOCK.fullmatch(path):
            lock = one
        else:
            digest.update(f"{kind} {one} ".encode() + path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest(), lock
