# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a lock file of opam-monorepo: which sources are built in, and what the toolchain must have. Pure.

The fields are opam-monorepo's: ``depends`` (package, exact version), ``x-opam-monorepo-root-packages``,
``x-opam-monorepo-opam-provided`` and ``x-opam-monorepo-duniverse-dirs`` (address, folder, digests). A file that opam could read
in another way than this module is refused: a statement would name other packages than those that are built in.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .elf import printable
from .provenance import PURL

_TEXT = r'"((?:[^"\\]|\\.)*)"'
_TOKEN = re.compile(_TEXT + r"|([\[\]])")
# Texts and comments of an opam file, the last one maybe without its end: else each of thousands would be looked for to the end of
# the file. Comments nest, which is refused here (opam-file-format's opamLexer.mll).
_OPAQUE = re.compile(r'"""(?:\\.|[^\\])*?(?:"""|\\?\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|#[^\n]*|\(\*.*?(?:\*\)|\Z)', re.DOTALL)
_ENDED = re.compile(r'"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\])*"|#[^\n]*|\(\*.*?\*\)', re.DOTALL)
_DEPENDS = re.compile(_TEXT + r"\s*(\{[^{}]*\})?")
_PACKAGE = re.compile(r"[A-Za-z0-9_+-]+")
_EXACT = re.compile(r'\{\s*=\s*"([A-Za-z0-9._+~-]+)"')
_FIELDS = ("depends", "x-opam-monorepo-root-packages", "x-opam-monorepo-opam-provided", "x-opam-monorepo-duniverse-dirs")
_DIGEST = re.compile(r"(md5|sha1|sha256|sha384|sha512)=[0-9a-f]{32,128}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]* (https|git\+https)://[^\s\"]+")
_FILE_PIN = re.compile(r'"git\+file://([^"#]*)(?:#[^"]*)?"')
_COMMIT = re.compile(r"git\+[^#]+#[0-9a-f]{40}")


@dataclass(frozen=True)
class Lock:
    """``provided``: packages that the switch must have; ``sources``: (address, its digests), in ``folders``.

    ``packages``: (name, version). ``problem``: why the file can't be read in one way only; "" if it can.
    """

    roots: tuple[str, ...]
    provided: tuple[str, ...]
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    folders: tuple[str, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def read(text: str) -> Lock:
    """Parse a lock file; missing fields are empty."""
    problem = _unreadable(text)
    if problem:
        return Lock((), (), (), problem=problem)
    depends, roots, provided, directories = (_field(text, name) for name in _FIELDS)
    groups = [group for group in _groups(directories) if group]
    packages = [(name, found.group(1) if (found := _EXACT.match(rest)) else "") for name, rest in _DEPENDS.findall(depends)]
    inexact = [name for name, version in packages if not version or not _PACKAGE.fullmatch(name)]
    return Lock(
        tuple(re.findall(_TEXT, roots)),
        tuple(re.findall(_TEXT, provided)),
        tuple((group[0], tuple(group[2:])) for group in groups),
        tuple("".join(group[1:2]) for group in groups),
        tuple(sorted(packages)),
        f"it has no exact version of {printable(next(filter(str.strip, inexact), 'a package'))[:60]}" if inexact else "",
    )


def _unreadable(text: str) -> str:
    mask, last = _masked(text), ""
    for part in _OPAQUE.finditer(text):
        last = part[0]
    if "*)" in mask or (last and not _ENDED.fullmatch(last)):
        return "it has a string or a comment without an end"
    twice = [name for name in _FIELDS if len(_places(mask, name)) > 1]
    return f"it has the field {twice[0]} twice" if twice else ""


def materials(lock: Lock) -> list[dict[str, Any]]:
    """Return what a lock file builds in as SLSA's resolvedDependencies: packages by their package URL, sources by their digests.

    A source has no ``uri``, which stands only for what a user declares as an image's source (`origin`).
    """
    rows: list[dict[str, Any]] = [
        {"name": name, "uri": f"{PURL}{name}@{quote(version, safe='')}"} for name, version in lock.packages
    ]
    for (address, digests), folder in zip(lock.sources, lock.folders):
        place, _mark, commit = address.partition("#")
        known = {kind: digest for kind, _equals, digest in (word.partition("=") for word in digests) if digest}
        if not known and _COMMIT.fullmatch(address):
            known = {"gitCommit": commit}
        rows.append({"name": f"duniverse/{folder}", "downloadLocation": _shown(place), "digest": known})
    return rows


def _shown(address: str) -> str:
    """Return an address without user, password and query."""
    return printable(re.sub("//[^/?]*@", "//", address).partition("?")[0])


def refusal(lock: Lock, root: str, toolchain: dict[str, str]) -> str | None:
    """Return why the lock file can't be built; None if it can. ``root``: the package in its file name."""
    if lock.problem:
        return lock.problem
    if lock.roots and root not in lock.roots:
        return f"it was made for {printable(', '.join(lock.roots))}, not for {root}; update_lock: true creates one"
    missing = sorted(set(lock.provided) - set(toolchain))
    if missing:
        return f"it needs {printable(', '.join(missing))} in the toolchain; add them to mirage_builder_packages"
    for address, digests in lock.sources:
        if not any(_DIGEST.fullmatch(digest) for digest in digests) and not _COMMIT.fullmatch(address):
            return f"it has no digest for {_shown(address)}, so what would be built in is unknown"
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


def _masked(text: str) -> str:
    """Return an opam file with spaces in place of its texts and comments."""
    return _OPAQUE.sub(lambda part: " " * len(part[0]), text)


def _plain(text: str) -> str:
    """Return an opam file with spaces in place of its comments, and in its long texts, which no field of ours has."""
    return _OPAQUE.sub(_without_long, text)


def _without_long(part: re.Match[str]) -> str:
    if part[0].startswith('"""'):
        return '"' + " " * (len(part[0]) - 2) + '"'
    return part[0] if part[0].startswith('"') else " " * len(part[0])


def _places(mask: str, name: str) -> list[int]:
    """Return where the values of a field begin."""
    return [found.end() for found in re.finditer(rf"(?<![\w:+-]){re.escape(name)}\s*:(?!\w)\s*", mask)]


def _field(text: str, name: str) -> str:
    """Return the text of a field's value: a word, or a list up to its closing bracket."""
    places = _places(_masked(text), name)
    if not places:
        return ""
    text, depth = _plain(text), 0
    for token in _TOKEN.finditer(text, places[0]):
        depth += {"[": 1, "]": -1}.get(token.group(2) or "", 0)
        if depth == 0:
            return text[places[0] : token.end()]
    return text[places[0] :]


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
