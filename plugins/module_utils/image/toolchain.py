# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Install MirageOS's toolchain in its own folder: an opam root with one switch, and ``versions.json`` when complete.

``versions.json`` is written last and has the requested versions: a toolchain with it is not checked again. An interrupted
installation has none, and is resumed after the last step in ``steps.json``, since building a compiler takes long.
``settings.json`` tells builds how to get packages.

Packages are fetched first, then built without network: their build scripts are foreign code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field

from . import opam_root, sandbox
from .building import helpers, local_path, proxies
from .request import SWITCH, Settings
from .sandbox import Cell, Limits
from .steps import BuildError, Steps, packages_done
from .store import hold, write_json, write_whole

# Report a dead address within seconds, before the hour that a compiler takes on a slow machine.
_REACH_SECONDS = 15
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9_+-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.~+-]*")
_ADDRESS = re.compile(r"(https|git\+https|file|git\+file)://[^\s\"\\]+|/[^\s\"\\]*")
# Mirrors may use http: everything from them has a digest.
_MIRROR = re.compile(r"https?://[^\s\"\\]+|file:///[^\s\"\\]*|/[^\s\"\\]*")
_LIMITS = Limits(disk=40 << 30)
# After this step there is a compiler, which is worth keeping.
_COMPILED = "opam install compiler"


@dataclass(frozen=True)
class Wanted:
    """``packages``: name -> version; ``archive``: URL or folder of opam's archive, "" for opam's default.

    ``mirrors``: where package sources are looked up first; ``overlays``: repository that `mirage` requests -> its replacement.
    """

    folder: str
    ocaml: str
    packages: dict[str, str]
    archive: str = ""
    opam: str = "opam"
    timeout: int = 7200
    proxy: str = ""
    mirrors: tuple[str, ...] = ()
    overlays: dict[str, str] = field(default_factory=dict)
    sandbox: bool = True

    def settings(self) -> Settings:
        return Settings(self.proxy, self.mirrors, self.overlays, self.archive)

    def versions(self) -> dict[str, str]:
        return {**self.packages, "ocaml": self.ocaml, "archive": self.archive}


def refusal(wanted: Wanted) -> str | None:
    for name, version in {**wanted.packages, "ocaml": wanted.ocaml}.items():
        if not _PACKAGE.fullmatch(name) or not _VERSION.fullmatch(version):
            return f"mirage_builder_packages: {name}: {version!r}: expected a package and its version, as in mirage: 4.11.1"
    if "mirage" not in wanted.packages:
        return "mirage_builder_packages: mirage is missing"
    for option, addresses, pattern in (
        ("mirrors", wanted.mirrors, _MIRROR), ("overlays", tuple(wanted.overlays.values()), _ADDRESS),
    ):  # fmt: skip
        for address in addresses:
            if _has_user(address):
                return f"mirage_builder_{option}: {_shown(address)}: {_NO_USER}"
            if not pattern.fullmatch(address):
                return f"mirage_builder_{option}: {_shown(address)!r}: expected an address that begins with https://, or a folder"
            if local_path(address) and not os.path.isdir(local_path(address)):
                return f"mirage_builder_{option}: {address}: there is no such folder"
    if _has_user(wanted.archive):
        return f"mirage_builder_archive: {_shown(wanted.archive)}: {_NO_USER}"
    if wanted.archive and not _ADDRESS.fullmatch(wanted.archive):
        where = f"mirage_builder_archive: {_shown(wanted.archive)!r}"
        return f"{where}: expected an address that begins with https:// or git+https://, or a folder"
    return None


_NO_USER = "an address with a user or password would be visible in statements and to builds; use a local copy"


def _has_user(address: str) -> bool:
    return re.match(r"[a-z+]*://[^/]*@", address) is not None


def _shown(address: str) -> str:
    """Return an address without its password."""
    return re.sub(r"//[^/@]*@", "//", address)


def present(folder: str) -> dict[str, str]:
    try:
        with open(os.path.join(folder, "versions.json"), encoding="utf-8") as file:
            return {str(name): str(version) for name, version in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def make(wanted: Wanted, check: bool) -> bool:
    """Install the toolchain unless it exists. Return whether that is a change. Raise BuildError."""
    words = refusal(wanted)
    if words:
        raise BuildError(words)
    if present(wanted.folder) == wanted.versions():
        return _keep_settings(wanted, check)
    _reach(wanted)
    if check:
        return True
    if not shutil.which(wanted.opam):
        raise BuildError(f"mirage_builder_opam: there is no {wanted.opam}: apt-get install opam")
    try:
        sandbox.require(wanted.sandbox)
        os.makedirs(wanted.folder, mode=0o755, exist_ok=True)
        path = os.path.join(wanted.folder, ".lock")
        late = BuildError(f"another run is still building this toolchain after {wanted.timeout} s (it holds {path})")
        with hold(path, wanted.timeout, late):
            if present(wanted.folder) != wanted.versions():
                _make(wanted)
            _keep_settings(wanted, False)
    except sandbox.SandboxError as error:
        raise BuildError(str(error)) from error
    return True


def _keep_settings(wanted: Wanted, check: bool) -> bool:
    """Save how builds get packages. Return whether it changed. Only the owner can read a proxy's password."""
    settings = asdict(wanted.settings())
    path = os.path.join(wanted.folder, "settings.json")
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
    except (FileNotFoundError, ValueError):
        before = None
    if before == json.loads(json.dumps(settings)):
        return False
    if not check:
        write_json(path, settings, 0o600 if "@" in json.dumps(settings) else 0o644)
    return True


def _reach(wanted: Wanted) -> None:
    """Check that the archive is reachable, before anything is installed or compiled."""
    address = re.sub(r"^git\+", "", wanted.archive).partition("#")[0]
    if not address:
        return  # opam init reports it
    why = ""
    if re.match(r"https?://", address):
        handlers = [urllib.request.ProxyHandler({"http": wanted.proxy, "https": wanted.proxy})] if wanted.proxy else []
        try:
            urllib.request.build_opener(*handlers).open(
                urllib.request.Request(address, method="HEAD"), timeout=_REACH_SECONDS
            ).close()
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}" if error.code >= 500 else ""
        except (OSError, ValueError) as error:
            why = str(getattr(error, "reason", error))
    elif not os.path.isdir(local_path(address)):
        why = "no such folder"
    if why:
        raise BuildError(
            f"archive {_shown(wanted.archive)}: cannot be reached: {why}; give a proxy, or a mirror's folder or address"
            " (mirage_builder_proxy, mirage_builder_archive; sources of packages: mirage_builder_mirrors)"
        )


@dataclass(frozen=True)
class _Step:
    what: str
    arguments: list[str]
    network: bool = False


def _steps(wanted: Wanted, done: list[str]) -> list[_Step]:
    archive = ["default", wanted.archive] if wanted.archive else []
    # bubblewrap inside a cell is not possible everywhere; without a sandbox the user wants none for opam either.
    own = [] if wanted.sandbox and sandbox.nests() else ["--disable-sandboxing"]
    compiler = f"ocaml-base-compiler.{wanted.ocaml}"
    packages = [compiler, *(f"{name}.{version}" for name, version in sorted(wanted.packages.items()))]
    fetch = _Step("opam download", ["install", f"--switch={SWITCH}", "--download-only", *packages], network=True)
    install = _Step("opam install", ["install", f"--switch={SWITCH}", *packages])
    if _COMPILED in done:
        return [_Step("opam update", ["update"], network=True), fetch, install]  # the archive may have what was missing
    return [
        _Step("opam init", ["init", "--bare", "--no-setup", *own, *archive], network=True),
        _Step("opam switch create", ["switch", "create", SWITCH, "--empty"]),
        fetch,
        _Step(_COMPILED, ["install", f"--switch={SWITCH}", compiler]),
        install,
    ]


def _make(wanted: Wanted) -> None:
    log, root = os.path.join(wanted.folder, "toolchain.log"), os.path.join(wanted.folder, "opam")
    done = _begun(wanted)
    if _COMPILED not in done:
        _clear(wanted.folder)  # a partial switch without a compiler is not worth keeping
        done = []
    steps = Steps("toolchain", log, os.path.join(wanted.folder, "progress"), wanted.timeout)
    # git checks who owns a local archive, and that is not the build user.
    write_whole(os.path.join(wanted.folder, "gitconfig"), b"[safe]\n\tdirectory = *\n", 0o644)
    if not done:
        steps.begin()
        os.mkdir(root, 0o755)
    if wanted.sandbox:
        sandbox.give(root)
    try:
        for step in _steps(wanted, done):
            opam_root.set_mirrors(root, wanted.mirrors)
            steps.until = time.monotonic() + wanted.timeout
            steps.run(_cell(wanted, step.network), step.what, [wanted.opam, *step.arguments],
                      lambda what=step.what: packages_done(log, what))  # type: ignore[misc]  # fmt: skip
            done.append(step.what)
            write_json(os.path.join(wanted.folder, "steps.json"), {"versions": wanted.versions(), "done": done})
    finally:
        sandbox.take(root)
        steps.finish()
    _complete(wanted, log)


def _complete(wanted: Wanted, log: str) -> None:
    bin_folder = os.path.join(wanted.folder, "bin")
    switch = os.path.join(wanted.folder, "opam", SWITCH, "bin")
    if os.path.realpath(switch) != os.path.join(os.path.realpath(wanted.folder), "opam", SWITCH, "bin"):
        raise BuildError(f"opam install left a link in place of {switch} (log: {log})")
    if not os.path.lexists(bin_folder):
        os.symlink(os.path.join("opam", SWITCH, "bin"), bin_folder)
    own = os.path.join(switch, "opam")
    if not os.path.lexists(own):
        os.symlink(os.path.realpath(shutil.which(wanted.opam) or wanted.opam), own)
    if not os.path.exists(os.path.join(bin_folder, "mirage")):
        raise BuildError(f"opam install left no mirage in {bin_folder} (log: {log})")
    write_json(os.path.join(wanted.folder, "versions.json"), wanted.versions())


def _begun(wanted: Wanted) -> list[str]:
    """Return the steps that an earlier run completed for the same versions."""
    try:
        with open(os.path.join(wanted.folder, "steps.json"), encoding="utf-8") as file:
            begun = json.load(file)
        there = os.path.isdir(os.path.join(wanted.folder, "opam", SWITCH)) and begun["versions"] == wanted.versions()
        return [str(step) for step in begun["done"]] if there else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _clear(folder: str) -> None:
    for name in ("versions.json", "steps.json", "opam", "bin"):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def _cell(wanted: Wanted, network: bool) -> Cell:
    """Return a cell in which only opam's root can be written: log and notes belong to this module."""
    root = os.path.join(wanted.folder, "opam")
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": root, "OPAMROOT": root, "OPAMYES": "1", "OPAMCOLOR": "never",
        "OPAMROOTISOK": "1", "OPAMNODEPEXTS": "1", "LC_ALL": "C.UTF-8", "OPAMJOBS": str(os.cpu_count() or 1),
        "GIT_CONFIG_GLOBAL": os.path.join(wanted.folder, "gitconfig"), "GIT_TERMINAL_PROMPT": "0",
        **(proxies(wanted.settings()) if network else {}),
    }  # fmt: skip
    opam = os.path.abspath(shutil.which(wanted.opam) or wanted.opam)
    visible = [os.path.join(wanted.folder, "gitconfig"), *(path for path in helpers(wanted.settings()) if os.path.exists(path))]
    if not os.path.realpath(opam).startswith("/usr/"):
        visible.append(opam)
    return Cell(root, environment, tuple(visible), network=network, limits=_LIMITS, enabled=wanted.sandbox)
