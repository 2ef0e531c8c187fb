# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Debian packages as a folder of files, without root.

One cell with the network fetches them: apt verifies each with Debian's keys. A second cell without a network unpacks them. No
script and no program of a package is run. Where bubblewrap can't create a cell, root still does both as the user for builds.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import sandbox
from .sandbox import Cell, Limits, SandboxError
from .shared_objects import ObjectError, libraries
from .steps import BuildError, Steps
from .store import StoreError, write_whole

_SECONDS = 1200
_LIMITS = Limits(memory=2 << 30, processes=256, disk=4 << 30, files=2 << 30)
_MAX_FILE = 1 << 30
_MAX_LINKS = 40
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# Keys of the machine's own; mmdebstrap adds Debian's from /usr/share/keyrings.
_KEYS = ("/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d", "/etc/apt/keyrings")
_HINT = "; is Debian's mirror reachable? unikernel_images_sources names another one"
_SUITE = re.compile(r"[a-z][a-z0-9.-]{0,63}")
_ARCHIVES = "root/var/cache/apt/archives"
# Not `dpkg-deb --extract`, which replaces the links of a merged /usr by folders.
_UNPACK = """
set -eo pipefail
for package; do
  dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --no-same-owner --exclude=./dev
done
"""


def tree_of(cache: str, suite: str, packages: tuple[str, ...], sources: list[str]) -> str:
    """Return the folder with the packages' files, made once for each suite and list of packages.

    ``sources``: lines of a sources.list; by default mmdebstrap's own.
    """
    name = hashlib.sha256(json.dumps([suite, packages]).encode()).hexdigest()[:16]
    tree = os.path.join(cache, f"tree-{suite}-{name}")
    if os.path.isdir(tree):
        return tree
    if not _SUITE.fullmatch(suite):
        raise StoreError(f"suite: {suite!r} is not the name of a Debian release, such as bookworm")
    for program, package in (("mmdebstrap", "mmdebstrap"), ("dpkg-deb", "dpkg")):
        if not shutil.which(program):
            raise StoreError(f"building a stand-in needs {program} on the controller: apt-get install {package}")
    os.makedirs(cache, mode=0o700, exist_ok=True)
    steps = Steps(
        f"Debian {suite}", os.path.join(cache, "debian.log"), os.path.join(cache, "progress"), _SECONDS, without_network=_HINT
    )
    steps.begin()
    place = Place.on_this_machine(cache)
    final = tempfile.mkdtemp(prefix=".tree-", dir=cache)
    try:
        debs = _fetch(steps, place, suite, packages, sources)
        unpacked = _unpack(steps, place, debs)
        shutil.move(unpacked, os.path.join(final, "tree"))
        os.rename(os.path.join(final, "tree"), tree)
    except (BuildError, SandboxError) as error:
        raise StoreError(str(error)) from error
    finally:
        steps.finish()
        sandbox.remove(place.folder, final)
    return tree


@dataclass(frozen=True)
class Place:
    """Where packages are unpacked, and how: ``celled`` False if root only drops its rights."""

    folder: str
    celled: bool

    @classmethod
    def on_this_machine(cls, cache: str) -> Place:
        why = sandbox.refusal()
        if why is None:
            return cls(os.path.realpath(tempfile.mkdtemp(prefix=".debian-", dir=cache)), True)
        if os.geteuid() != 0:
            raise StoreError(f"building a stand-in needs a sandbox, and {why}; or run the task as root (become: true)")
        # The user for builds can't enter the folders above the cache.
        folder = os.path.realpath(tempfile.mkdtemp(prefix="unikernels-debian-", dir="/var/tmp"))
        os.chmod(folder, 0o711)  # noqa: S103
        return cls(folder, False)

    def make(self, name: str) -> str:
        """Create a folder in which the user for builds may write."""
        folder = os.path.join(self.folder, name)
        os.mkdir(folder, 0o755)  # bubblewrap enters it with no capability of root
        return folder

    def cell(self, folder: str, visible: Iterable[str], network: bool, environment: Mapping[str, str]) -> Cell:
        sandbox.give(folder)
        return Cell(
            folder, {**_ENVIRONMENT, "HOME": folder, **environment}, visible=tuple(visible), network=network, limits=_LIMITS,
            enabled=self.celled,
        )  # fmt: skip

    def command(self, command: list[str]) -> list[str]:
        if self.celled:
            return command
        uid = sandbox.this_machine().builder
        return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--", *command]


def _fetch(steps: Steps, place: Place, suite: str, packages: tuple[str, ...], sources: list[str]) -> list[str]:
    """Fetch and verify the packages. Return their files."""
    folder = place.make("fetch")
    install = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only install ' + " ".join(packages)
    command = [
        "mmdebstrap", "--verbose", "--variant=custom", "--mode=chrootless", "--format=directory",
        "--skip=cleanup/apt,output/dev,output/mknod", f"--customize-hook={install}",
        "--aptopt=Acquire::Check-Valid-Until false", "--aptopt=APT::Install-Recommends false",
        suite, os.path.join(folder, "root"),
    ]  # fmt: skip
    if sources:
        # In a file: an address may contain a password, and anybody can list the processes of a machine.
        path = os.path.join(folder, "sources.list")
        write_whole(path, "".join(f"{line}\n" for line in map(copied, sources)).encode(), 0o600)
        command.append(path)
    environment = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    visible = sorted(path for path in {*_KEYS, *local_paths(sources)} if os.path.exists(path))
    steps.run(place.cell(folder, visible, True, environment), "fetching packages", place.command(command))
    archives = os.path.join(folder, _ARCHIVES)
    debs = [path for path in sorted(glob.glob(os.path.join(glob.escape(archives), "*.deb"))) if not os.path.islink(path)]
    if os.path.realpath(archives) != archives or not debs:
        raise StoreError(f"Debian {suite}: apt left no packages (log: {steps.log})")
    return debs


def _unpack(steps: Steps, place: Place, debs: list[str]) -> str:
    """Unpack the packages. Return the folder."""
    folder = place.make("tree")
    cell = place.cell(folder, [os.path.dirname(debs[0])], False, {})
    steps.run(cell, "unpacking packages", place.command(["bash", "-c", _UNPACK, "bash", *debs]))
    sandbox.take(folder)
    os.chmod(folder, 0o755)  # noqa: S103
    return folder


def local_paths(sources: list[str]) -> set[str]:
    """Return the files and folders that lines of a sources.list name: keys, and mirrors on this machine. Pure."""
    found: set[str] = set()
    for line in sources:
        options, _end, rest = line.partition("]") if "[" in line else ("", "", line)
        for keys in re.findall(r"(?i)signed-by=([^\s\]]+)", options):
            found.update(path for path in keys.split(",") if path.startswith("/"))
        found.update(re.findall(r"(?:^|\s)(?:file|copy):(?://)?(/\S+)", rest))
    return {path for path in map(os.path.normpath, found) if path.strip("/")}


def copied(line: str) -> str:
    """Have apt copy the packages of a mirror on this machine to where the others are. Pure."""
    return re.sub(r"(?<=\s)file:(?=/)", "copy:", line)


# -- what is in a tree --------------------------------------------------------------------------------


def path_in(tree: str, path: str) -> str:
    """Return the path below ``tree`` that ``path`` leads to, with links as in a machine whose / is the tree. Raise StoreError."""
    parts: list[str] = []
    waiting, hops = path.split("/"), 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            full = os.path.join(tree, *parts, part)
            if not os.path.islink(full):
                parts.append(part)
                continue
            hops += 1
            if hops > _MAX_LINKS:
                raise StoreError(f"Debian's packages: {path} is a link that leads to itself")
            target = os.readlink(full)
            parts = [] if target.startswith("/") else parts
            waiting = target.split("/") + waiting
    return "/".join(parts)


def read_in(tree: str, path: str) -> bytes:
    """Read a file of the tree, never one of this machine. Raise StoreError."""
    try:
        return sandbox.read(tree, path_in(tree, path), _MAX_FILE)
    except (OSError, SandboxError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"Debian's packages: {path}: {why}; remove {tree} and run again") from error


def libraries_of(tree: str, program: str) -> dict[str, str]:
    """Return name -> path in the tree of each library that a program of the tree needs, without running it. Raise StoreError."""

    def find(name: str) -> str | None:
        paths = (f"{folder}/x86_64-linux-gnu/{name}" for folder in ("lib", "usr/lib"))
        return next((path for path in paths if os.path.isfile(os.path.join(tree, path_in(tree, path)))), None)

    try:
        return libraries(read_in(tree, program), find, lambda path: read_in(tree, path))
    except ObjectError as error:
        raise StoreError(f"Debian's packages: {program}: {error}") from error
