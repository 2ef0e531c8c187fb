# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. MirageOS's toolchain in a folder of its own: an opam root with one switch, and ``versions.json`` when it is whole.

``versions.json`` is written last and names what was asked for: a toolchain that has it is not looked at again. One whose
making was cut has none, and goes on behind the last step that ``steps.json`` has, for a compiler takes long to build.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass

from .mirage import SWITCH, BuildError
from .mirage import reason as reason_of
from .store import write_whole

# A dead address is told within seconds; a compiler takes an hour on a slow machine.
_REACH_SECONDS = 15
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9_+-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.~+-]*")


@dataclass(frozen=True)
class Wanted:
    """``packages``: name to version; ``archive``: address or folder of opam's archive, "" for the one that opam knows."""

    folder: str
    ocaml: str
    packages: dict[str, str]
    archive: str = ""
    opam: str = "opam"
    timeout: int = 7200
    proxy: str = ""

    def versions(self) -> dict[str, str]:
        return {**self.packages, "ocaml": self.ocaml, "archive": self.archive}


def refusal(wanted: Wanted) -> str | None:
    for name, version in {**wanted.packages, "ocaml": wanted.ocaml}.items():
        if not _PACKAGE.fullmatch(name) or not _VERSION.fullmatch(version):
            return f"packages: {name}: {version!r}: expected the name of a package and its version, as in mirage: 4.11.1"
    if "mirage" not in wanted.packages:
        return "packages: mirage is missing"
    return None


def present(folder: str) -> dict[str, str]:
    try:
        with open(os.path.join(folder, "versions.json"), encoding="utf-8") as file:
            return {str(name): str(version) for name, version in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def make(wanted: Wanted, check: bool) -> bool:
    """Make the toolchain unless it is there; whether that is a change. BuildError."""
    words = refusal(wanted)
    if words:
        raise BuildError(words)
    if present(wanted.folder) == wanted.versions():
        return False
    _reach(wanted)
    if check:
        return True
    os.makedirs(wanted.folder, mode=0o755, exist_ok=True)
    with open(os.path.join(wanted.folder, ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if present(wanted.folder) != wanted.versions():
            _make(wanted)
    return True


def _reach(wanted: Wanted) -> None:
    """Is the archive there? Asked before anything is compiled."""
    if not shutil.which(wanted.opam):
        raise BuildError(f"opam: there is no {wanted.opam}: apt-get install opam")
    address = re.sub(r"^git\+", "", wanted.archive).partition("#")[0]
    if not address:
        return  # opam init says it
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
    elif not os.path.isdir(re.sub(r"^file://", "", address)):
        why = "no such folder"
    if why:
        raise BuildError(f"archive {wanted.archive}: cannot be reached: {why}; give a proxy, or a mirror's folder or address")


def _make(wanted: Wanted) -> None:
    log = os.path.join(wanted.folder, "toolchain.log")
    done = _begun(wanted)
    if not done:
        _clear(wanted.folder)
    archive = ["default", wanted.archive] if wanted.archive else []
    packages = [f"{name}.{version}" for name, version in sorted(wanted.packages.items())]
    steps = [
        ("opam init", ["init", "--bare", "--no-setup", "--disable-sandboxing", *archive]),
        ("opam switch create", ["switch", "create", SWITCH, f"ocaml-base-compiler.{wanted.ocaml}"]),
        ("opam install", ["install", f"--switch={SWITCH}", *packages]),
    ]
    if "opam switch create" in done:
        steps = [("opam update", ["update"]), steps[-1]]  # the archive may have what was missing
    elif done:
        _clear(wanted.folder)  # half a switch: nothing in it is worth much
        done = []
    with open(log, "a" if done else "w", encoding="utf-8"):
        pass
    for what, arguments in steps:
        _run(wanted, what, arguments, log)
        done.append(what)
        text = json.dumps({"versions": wanted.versions(), "done": done})
        write_whole(os.path.join(wanted.folder, "steps.json"), text.encode(), 0o644)
    bin_folder = os.path.join(wanted.folder, "bin")
    if not os.path.lexists(bin_folder):
        os.symlink(os.path.join("opam", SWITCH, "bin"), bin_folder)
    own = os.path.join(wanted.folder, "opam", SWITCH, "bin", "opam")
    if not os.path.lexists(own):
        os.symlink(os.path.realpath(shutil.which(wanted.opam) or wanted.opam), own)
    if not os.path.exists(os.path.join(bin_folder, "mirage")):
        raise BuildError(f"opam install left no mirage in {bin_folder} (log: {log})")
    text = json.dumps(wanted.versions(), indent=1, sort_keys=True) + "\n"
    write_whole(os.path.join(wanted.folder, "versions.json"), text.encode(), 0o644)


def _begun(wanted: Wanted) -> list[str]:
    """The steps that a run before this one did for the same versions."""
    try:
        with open(os.path.join(wanted.folder, "steps.json"), encoding="utf-8") as file:
            begun = json.load(file)
        return [str(step) for step in begun["done"]] if begun["versions"] == wanted.versions() else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _clear(folder: str) -> None:
    for name in ("versions.json", "steps.json", "opam", "bin"):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def _run(wanted: Wanted, what: str, arguments: list[str], log: str) -> None:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": wanted.folder, "OPAMROOT": os.path.join(wanted.folder, "opam"),
        "OPAMYES": "1", "OPAMCOLOR": "never", "OPAMROOTISOK": "1", "LC_ALL": "C.UTF-8",
        "OPAMJOBS": str(os.cpu_count() or 1),
    }  # fmt: skip
    if wanted.proxy:
        environment.update(http_proxy=wanted.proxy, https_proxy=wanted.proxy)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"== {what}\n")
        file.flush()
        try:
            code = subprocess.run(
                [wanted.opam, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                timeout=wanted.timeout, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{what} was ended after {wanted.timeout} s (log: {log})") from error
    if code:
        with open(log, encoding="utf-8", errors="replace") as file:
            raise BuildError(f"{what} failed ({code}): {reason_of(file.read().splitlines())} (log: {log})")
