# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a lock file of opam-monorepo: which sources are built in, and what the toolchain must have. Pure.

The fields are opam-monorepo's: ``x-opam-monorepo-root-packages``, ``x-opam-monorepo-opam-provided`` and
``x-opam-monorepo-duniverse-dirs`` (address, folder, digests).
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

_TEXT = r'"((?:[^"\\]|\\.)*)"'
_TOKEN = re.compile(_TEXT + r"|([\[\]])")
_DIGEST = re.compile(r"(md5|sha1|sha256|sha384|sha512)=[0-9a-f]{32,128}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]* (https|git\+https)://[^\s\"]+")
_FILE_PIN = re.compile(r'"git\+file://([^"#]*)(?:#[^"]*)?"')
_COMMIT = re.compile(r"git\+[^#]+#[0-9a-f]{40}")


@dataclass(frozen=True)
class Lock:
    """``provided``: packages that the switch must have; ``sources``: (address, its digests)."""

    roots: tuple[str, ...]
    provided: tuple[str, ...]
    sources: tuple[tuple[str, tuple[str, ...]], ...]


def read(text: str) -> Lock:
    """Parse a lock file; missing fields are empty."""
    directories = _groups(_field(text, "x-opam-monorepo-duniverse-dirs"))
    return Lock(
        tuple(re.findall(_TEXT, _field(text, "x-opam-monorepo-root-packages"))),
        tuple(re.findall(_TEXT, _field(text, "x-opam-monorepo-opam-provided"))),
        tuple((group[0], tuple(word for word in group[2:])) for group in directories if group),
    )


def refusal(lock: Lock, root: str, toolchain: dict[str, str]) -> str | None:
    """Return why the lock file can't be built; None if it can. ``root``: the package in its file name."""
    if lock.roots and root not in lock.roots:
        return f"it was made for {', '.join(lock.roots)}, not for {root}; update_lock: true creates one"
    missing = sorted(set(lock.provided) - set(toolchain))
    if missing:
        return f"it needs {', '.join(missing)} in the toolchain; add them to mirage_builder_packages"
    for address, digests in lock.sources:
        if not any(_DIGEST.fullmatch(digest) for digest in digests) and not _COMMIT.fullmatch(address):
            return f"it has no digest for {address}, so what would be built in is unknown"
    return None


def pinned(opam: str, folder: str, uri: str, commit: str) -> tuple[str, str]:
    """Return (.opam text with pins of the folders above replaced by pins of the source's own repository, why that fails or "").

    A project with unikernels in subfolders pins the library beside them as ``git+file://`` with the folder above ``folder``, in
    which `mirage configure` ran. A build doesn't have that folder, but the repository ``uri`` at ``commit`` does.
    """
    problem = ""

    def elsewhere(pin: re.Match[str]) -> str:
        nonlocal problem
        path = posixpath.normpath(pin.group(1))
        if not (folder + "/").startswith(path.rstrip("/") + "/"):
            problem = f"config.ml pins {pin.group(1)}, which is no part of its sources; pin an https:// address"
        elif not commit:
            problem = (
                "config.ml pins the folder above its own, which is no part of its sources; give the git repository as source,"
                " with version and subfolder"
            )
        elif not uri.startswith("https://"):
            problem = f"config.ml pins its own repository, which is fetched from https:// only, and source is {uri}"
        return f'"git+{uri}#{commit}"'

    return _FILE_PIN.sub(elsewhere, opam), problem


def other_commit(lock: Lock, uri: str, commit: str) -> str:
    """Return why a lock file doesn't fit the commit to build (if it pins its own repository at another one); "" if it fits."""
    own = f"git+{uri}#"
    others = [address[len(own) :] for address, _digests in lock.sources if address.startswith(own) and address != own + commit]
    if not uri or not commit or not others:
        return ""
    return f"it pins {uri} at {others[0][:12]}, and version is {commit[:12]}; update_lock: true creates one for it"


def repositories(opam: str) -> list[tuple[str, str]]:
    """Return (name, address) of the package repositories that `mirage configure` requests in its .opam file."""
    found = _groups(_field(opam, "x-mirage-extra-repo"))
    return [(group[0], group[1]) for group in found if len(group) == 2 and _REPOSITORY.fullmatch(" ".join(group))]


def _field(text: str, name: str) -> str:
    """Return the text of a field's value: a word, or a list up to its closing bracket."""
    found = re.search(rf"(?m)^{re.escape(name)}:\s*", text)
    if not found:
        return ""
    depth = 0
    for token in _TOKEN.finditer(text, found.end()):
        depth += {"[": 1, "]": -1}.get(token.group(2) or "", 0)
        if depth == 0:
            return text[found.end() : token.end()]
    return text[found.end() :]


def _groups(text: str) -> list[list[str]]:
    """Return the texts in each inner list of a list, including those of nested lists."""
    out: list[list[str]] = []
    depth = 0
    for token in _TOKEN.finditer(text):
        if token.group(2):
            depth += 1 if token.group(2) == "[" else -1
            if token.group(2) == "[" and depth == 2:
                out.append([])
        elif depth >= 2:
            out[-1].append(token.group(1))
    return out
