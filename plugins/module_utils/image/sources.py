# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files of a folder are a unikernel's sources, read without starting git: for most runs only ask whether they changed.

The patterns of ``.gitignore`` are those of gitignore(5): comments, ``!``, a leading, middle or trailing slash, ``*``,
``?``, ``[...]`` and ``**``. Files that git tracks although a pattern matches them are not known here: don't ignore sources.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator

# What `mirage configure` and a build leave in a folder (mirage 4.11), wherever that folder ignores nothing.
# The lock file mirage/NAME-xen.opam.locked is a source: it says which packages are built in.
LOCK = re.compile(r"mirage/[^/]+\.opam\.locked")
LEFT_BY_A_BUILD = re.compile(
    r"(_build|dist|duniverse|\.git|mirage)/.*|(Makefile|dune|dune-project|dune-workspace|dune\.build|dune\.config|\.mirage\.config|\.git)"
)


def _pattern(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    """(what a path below the .gitignore's folder must match, negated, folders only)."""
    line = re.sub(r"(?<!\\) +$", "", line.rstrip("\n"))
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    if negated:
        line = line[1:]
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    anchored = "/" in line
    line = line.lstrip("/")
    out, at = "", 0
    while at < len(line):
        char = line[at]
        if line.startswith("**/", at) and (at == 0 or line[at - 1] == "/"):
            out, at = out + "(?:.*/)?", at + 3
        elif line.startswith("/**", at) and at + 3 == len(line):
            out, at = out + "/.+", at + 3
        elif char == "*":
            while line.startswith("*", at):
                at += 1
            out += "[^/]*"
        elif char == "?":
            out, at = out + "[^/]", at + 1
        elif char == "[" and (end := line.find("]", at + 2)) > 0:
            inner = line[at + 1 : end].replace("\\", "\\\\")
            out, at = out + "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]", end + 1
        else:
            if char == "\\" and at + 1 < len(line):
                at += 1
                char = line[at]
            out, at = out + re.escape(char), at + 1
    try:
        return re.compile(out if anchored else "(?:.*/)?" + out), negated, folders_only
    except re.error:
        return None  # git matches nothing with it, neither do we


def source_files(folder: str) -> list[str]:
    """The sources below ``folder``, as sorted relative paths."""
    return sorted(_walk(folder, "", []))


def _walk(root: str, below: str, rules: list[tuple[str, re.Pattern[str], bool, bool]]) -> Iterator[str]:
    here = os.path.join(root, below)
    try:
        with open(os.path.join(here, ".gitignore"), encoding="utf-8", errors="surrogateescape") as file:
            found = [pattern for pattern in map(_pattern, file) if pattern]
            rules = [*rules, *((below, *pattern) for pattern in found)]
    except FileNotFoundError:
        pass
    for name in os.listdir(here):
        path = below + name
        is_folder = stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode)
        may_hide = not LOCK.fullmatch(path) and not (is_folder and path == "mirage")
        if may_hide and (LEFT_BY_A_BUILD.fullmatch(path + "/" if is_folder else path) or _ignored(path, is_folder, rules)):
            continue
        if is_folder:
            yield from _walk(root, path + "/", rules)
        else:
            yield path


def _ignored(path: str, is_folder: bool, rules: list[tuple[str, re.Pattern[str], bool, bool]]) -> bool:
    """The last rule that matches says it."""
    for below, pattern, negated, folders_only in reversed(rules):
        if (is_folder or not folders_only) and path.startswith(below) and pattern.fullmatch(path[len(below) :]):
            return not negated
    return False


def digest_of_sources(folder: str) -> tuple[str, str | None]:
    """(digest of all sources but the lock file, digest of the lock file or None). Names, contents and execute bits count."""
    digest, lock = hashlib.sha256(), None
    for path in source_files(folder):
        full = os.path.join(folder, path)
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            content, kind = os.readlink(full).encode("utf-8", "surrogateescape"), "link"
        else:
            with open(full, "rb") as file:
                content = file.read()
            kind = "program" if status.st_mode & 0o100 else "file"
        one = hashlib.sha256(content).hexdigest()
        if LOCK.fullmatch(path):
            lock = one
        else:
            digest.update(f"{kind} {one} ".encode() + path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest(), lock
