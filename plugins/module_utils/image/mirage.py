# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. From OCaml source to an image in the store: ``mirage configure -t xen``, ``make depends``, ``make build``.

The key of a build is a digest of everything that goes into it, so a build that was done is found again without starting
a process. A build happens in a folder of its own below the work folder, under a lock of its own that its children hold as
well: a second build of the same key waits, also for the orphans of one that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import operator
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any

from . import provenance, signature
from .elf import ImageError, inspect_file
from .sources import LOCK, digest_of_sources, source_files
from .store import describe, digest_of, image_path, put, write_whole

# 1: raised whenever the same sources would be built in another way.
RECIPE = 2
# The switch of the toolchain's opam root.
SWITCH = "mirage"
# Sources say nothing about time; every image is as old as this (2020-01-01).
EPOCH = "1577836800"
_RANGE = re.compile(r"\(\*\s*mirage\s+((?:(?:>=|<=|<|>|=)\s*[0-9][0-9.]*\s*&?\s*)+)\*\)")
_BOUND = re.compile(r"(>=|<=|<|>|=)\s*([0-9][0-9.]*)")
_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt, "=": operator.eq}
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=.*)?")
# An orphan of a killed build ends soon: its pipe is gone.
_LOCK_SECONDS = 60
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(Exception):
    """One line: which step of which build failed, and the tool's own reason."""


@dataclass(frozen=True)
class Toolchain:
    """What mirage_builder made in ``folder``; ``versions``: tool name to version."""

    folder: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Source:
    """``folder`` holds config.ml. ``uri`` and ``revision`` say where it came from, for the statement."""

    folder: str
    uri: str
    revision: str = ""


@dataclass(frozen=True)
class Request:
    name: str
    source: Source
    configure: tuple[str, ...] = ()
    update_lock: bool = False
    timeout: int = 3600
    signing_key: str = ""
    verify_reproducible: bool = False
    overlay: tuple[tuple[str, str], ...] = ()  # (path in the source's folder, folder that is put there)


@dataclass
class Result:
    changed: bool
    cached: bool
    manifest: dict[str, Any] = field(default_factory=dict)


def toolchain(folder: str) -> Toolchain:
    path = os.path.join(folder, "versions.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return Toolchain(folder, {str(tool): str(version) for tool, version in found.items()})
    except FileNotFoundError as error:
        raise BuildError(f"toolchain {folder}: no MirageOS toolchain is there; the role mirage_builder makes one") from error
    except (OSError, ValueError, AttributeError) as error:
        raise BuildError(f"toolchain {folder}: {path} cannot be read: {error}; run the role mirage_builder again") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def range_refusal(config: str, installed: str) -> str | None:
    """Why the installed mirage may not read this config.ml, by the range in its first comment; None when it may."""
    found = _RANGE.search(config)
    if not found:
        return None
    for sign, bound in _BOUND.findall(found.group(1)):
        if not _COMPARE[sign](_numbers(installed), _numbers(bound)):
            return f"config.ml is for mirage {found.group(1).strip()}, installed is {installed}"
    return None


def configure_refusal(option: str) -> str | None:
    """Why this is no option for ``mirage configure`` that a user may give; None when it is."""
    if not _OPTION.fullmatch(option) or "\n" in option:
        return f"configure: {option!r}: expected an option as in --name=value"
    if re.match(r"(-t|--target)(?![a-z-])", option):
        return f"configure: {option!r}: the target is always xen, for nothing else boots under Xen"
    if re.match(r"(-f|--file|-o|--output)(?![a-z-])", option):
        return f"configure: {option!r}: is not for you to set; name the image with 'name'"
    return None


def key_of(request: Request, tools: Toolchain) -> str:
    """Digest of sources, lock file, configure options and toolchain: the same key gives the same image."""
    sources, lock = digest_of_sources(request.source.folder)
    over = [(path, digest_of_sources(folder)[0]) for path, folder in request.overlay]
    parts = [RECIPE, sources, over, None if request.update_lock else lock, list(request.configure), tools.versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def built(store: str, key: str) -> dict[str, Any] | None:
    """The manifest of the image that was built for the key, while it is in the store."""
    try:
        with open(os.path.join(store, "keys", key), encoding="ascii") as file:
            digest = file.read().strip()
    except FileNotFoundError:
        return None
    return describe(store, digest) if os.path.exists(image_path(store, digest)) else None


def config_of(folder: str, overlay: tuple[tuple[str, str], ...]) -> str:
    """The text of a unikernel's config.ml. BuildError where the folder is none's, or what is put over it is not there."""
    try:
        with open(os.path.join(folder, "config.ml"), encoding="utf-8", errors="replace") as file:
            config = file.read()
    except OSError as error:
        raise BuildError(f"source {folder}: not a unikernel's folder: there is no config.ml in it") from error
    for path, laid in overlay:
        if os.path.isabs(path) or ".." in path.split("/") or not path.strip("./"):
            raise BuildError(f"overlay: {path!r}: expected a folder inside the source's folder")
        if not os.path.isdir(laid):
            raise BuildError(f"overlay: {path}: {laid} is not a folder")
    return config


def refusals(request: Request, tools: Toolchain) -> None:
    """BuildError for what can be known before anything is started."""
    folder = request.source.folder
    config = config_of(folder, request.overlay)
    for option in request.configure:
        refusal = configure_refusal(option)
        if refusal:
            raise BuildError(refusal)
    refusal = range_refusal(config, tools.versions.get("mirage", ""))
    if refusal:
        raise BuildError(f"source {folder}: {refusal}")
    locks = [path for path in source_files(folder) if LOCK.fullmatch(path)]
    if not locks and not request.update_lock:
        raise BuildError(
            f"source {folder}: there is no lock file mirage/NAME-xen.opam.locked, so nobody can say what would be built in;"
            " update_lock: true makes one to commit"
        )


def build(store: str, work: str, request: Request, tools: Toolchain, check: bool) -> Result:
    """Build the image unless it is there. BuildError, StoreError or SignatureError; the store is as before then."""
    refusals(request, tools)
    key = key_of(request, tools)
    if not request.update_lock:
        found = built(store, key)
        if found and not request.verify_reproducible:
            return _found(store, found, key, request, check)
    if check:
        return Result(True, False, {"sha256": None, "path": None, "key": key})
    os.makedirs(work, mode=0o755, exist_ok=True)
    with _locked(os.path.join(work, key + ".lock"), request.timeout) as lock:
        found = built(store, key)  # by another one, while this one waited
        if found and not request.verify_reproducible and not request.update_lock:
            return _found(store, found, key, request, check)
        return _build(store, work, key, request, tools, lock)


@contextlib.contextmanager
def _locked(path: str, seconds: int) -> Iterator[int]:
    until = time.monotonic() + seconds + _LOCK_SECONDS
    with open(path, "a", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise BuildError(f"another build of the same image still holds {path} after {seconds} s") from None
                time.sleep(0.1)
        yield file.fileno()


def _build(store: str, work: str, key: str, request: Request, tools: Toolchain, lock: int) -> Result:
    run = _Run(request, tools, os.path.join(work, "progress"), os.path.join(work, f"{request.name}-{key[:12]}.log"), lock)
    folder = os.path.join(work, key)
    images = []
    try:
        for attempt in ("", "-again") if request.verify_reproducible else ("",):
            images.append(run.once(folder + attempt))
        if len(images) == 2:
            _compare(images[0], images[1], request.name)
        try:
            target = inspect_file(images[0]).target
        except (ImageError, OSError) as error:
            raise BuildError(f"{request.name}: what make build left is not an image: {error} (log: {run.log})") from error
        if target != "xen":
            raise BuildError(f"{request.name}: what make build left has no note of Solo5 for xen (log: {run.log})")
        digest = digest_of(images[0])
        text = _statement(digest, key, request, tools, run.lock_digest)
        if request.signing_key:
            signature.sign(text, request.signing_key)  # a key that does not sign is known before anything is stored
        extra = {"name": request.name, "key": key, "source": request.source.uri}
        changed, _manifest = put(store, images[0], digest, extra, False)
        changed = signature.attach(store, digest, text, request.signing_key, False) or changed
        os.makedirs(os.path.join(store, "keys"), mode=0o755, exist_ok=True)
        write_whole(os.path.join(store, "keys", key if not request.update_lock else run.key_after), digest.encode(), 0o644)
        return Result(changed or run.new_lock, False, {**describe(store, digest), "key": key, "log": run.log})
    finally:
        for attempt in ("", "-again"):
            shutil.rmtree(folder + attempt, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(run.progress)


def _statement(digest: str, key: str, request: Request, tools: Toolchain, lock_digest: str) -> bytes:
    sources, _lock = digest_of_sources(request.source.folder)
    source: dict[str, Any] = {"uri": request.source.uri, "digest": {"sha256": sources}}
    if request.source.revision:
        source["digest"]["gitCommit"] = request.source.revision
    return provenance.statement(
        request.name, digest, built=True, parameters={"target": "xen", "configure": list(request.configure)},
        materials=[
            source, {"name": "lock file", "digest": {"sha256": lock_digest}},
            *({"name": path, "digest": {"sha256": digest_of_sources(laid)[0]}} for path, laid in request.overlay),
        ],
        builder={"id": os.uname().nodename, **tools.versions}, key=key,
    )  # fmt: skip


def _found(store: str, found: dict[str, Any], key: str, request: Request, check: bool) -> Result:
    """An image that was built before; a signature may be missing yet."""
    changed = False
    if request.signing_key:
        changed = signature.attach(store, found["sha256"], b"", request.signing_key, check)
    return Result(changed, True, {**found, "key": key})


def _compare(one: str, other: str, name: str) -> None:
    with open(one, "rb") as first, open(other, "rb") as second:
        left, right = first.read(), second.read()
    if left == right:
        return
    at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
    raise BuildError(
        f"{name}: not reproducible: two builds of the same sources differ from byte {at} on"
        f" ({len(left)} and {len(right)} bytes); nothing was stored"
    )


def _copy(source: str, folder: str) -> None:
    for path in source_files(source):
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        shutil.copy2(os.path.join(source, path), os.path.join(folder, path), follow_symlinks=False)


class _Run:
    """The steps of one build, with one log, one time limit and one line of progress."""

    def __init__(self, request: Request, tools: Toolchain, progress: str, log: str, lock: int) -> None:
        self.request, self.tools, self.progress, self.log, self.lock = request, tools, progress, log, lock
        self.until = time.monotonic() + request.timeout
        self.new_lock, self.lock_digest, self.key_after = False, "", ""
        with open(log, "w", encoding="utf-8"):
            pass

    def once(self, folder: str) -> str:
        """Build in ``folder``; the path of the image."""
        shutil.rmtree(folder, ignore_errors=True)
        _copy(self.request.source.folder, folder)
        for path, laid in self.request.overlay:
            shutil.rmtree(os.path.join(folder, path), ignore_errors=True)
            _copy(laid, os.path.join(folder, path))
        self.step(folder, "mirage configure", ["mirage", "configure", "-t", "xen", "--color=never", *self.request.configure])
        if self.request.update_lock and not self.new_lock:
            self.step(folder, "make lock", ["make", "lock"])
            self.take_lock(folder)
        for step in ("install-switch", "pull"):
            self.step(folder, f"make {step}", ["make", step])
        # `make build` ends with 0 also when nothing was built (mirage 4.11): the file is the proof.
        for old in glob.glob(os.path.join(glob.escape(folder), "dist", "*.xen")):
            os.unlink(old)
        self.step(folder, "make build", ["make", "build"])
        images = glob.glob(os.path.join(glob.escape(folder), "dist", "*.xen"))
        if len(images) != 1:
            raise BuildError(f"{self.request.name}: make build left {len(images) or 'no'} image in dist/: {self.reason()}")
        # Half of a unikernel's file is its symbols: a host has no use for them, and OCaml's backtraces don't need them.
        with contextlib.suppress(ImageError):
            if inspect_file(images[0]).debug_info:
                self.step(folder, "strip", ["strip", "--strip-all", images[0]])
        (lock,) = self.locks(folder)[:1] or [""]
        if lock:
            with open(lock, "rb") as file:
                self.lock_digest = hashlib.sha256(file.read()).hexdigest()
        return images[0]

    def locks(self, folder: str) -> list[str]:
        return sorted(glob.glob(os.path.join(glob.escape(folder), "mirage", "*.opam.locked")))

    def take_lock(self, folder: str) -> None:
        """The lock file that was made becomes a source, to be committed."""
        found = self.locks(folder)
        if not found:
            raise BuildError(f"{self.request.name}: make lock made no lock file: {self.reason()}")
        for path in found:
            target = os.path.join(self.request.source.folder, "mirage", os.path.basename(path))
            with open(path, "rb") as file:
                text = file.read()
            old = b""
            with contextlib.suppress(FileNotFoundError), open(target, "rb") as file:
                old = file.read()
            if old != text:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                write_whole(target, text, 0o644)
                self.new_lock = True
        request = replace(self.request, update_lock=False)
        self.key_after = key_of(request, self.tools)

    def environment(self, folder: str) -> dict[str, str]:
        """Nothing of the user's but what the toolchain needs: the same everywhere."""
        kept = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
        switch = os.path.join(self.tools.folder, "opam", SWITCH)
        lib = os.path.join(switch, "lib")
        path = [os.path.join(switch, "bin"), os.path.join(self.tools.folder, "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            **kept, "PATH": ":".join(path), "HOME": folder, "OPAMROOT": os.path.join(self.tools.folder, "opam"),
            # What `opam env` says: dune finds the switch's libraries by the first.
            "OPAM_SWITCH_PREFIX": switch, "CAML_LD_LIBRARY_PATH": f"{lib}/stublibs:{lib}/ocaml/stublibs:{lib}/ocaml",
            "OPAMYES": "1", "OPAMCOLOR": "never", "OPAMSWITCH": SWITCH, "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "SOURCE_DATE_EPOCH": EPOCH, "BUILD_PATH_PREFIX_MAP": f"/build={folder}", "DUNE_CACHE": "disabled",
        }  # fmt: skip

    def step(self, folder: str, what: str, command: list[str]) -> None:
        left = self.until - time.monotonic()
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"== {what}\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    command, cwd=folder, env=self.environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, pass_fds=[self.lock], umask=0o022,
                )  # fmt: skip
            except OSError as error:
                raise BuildError(f"{self.request.name}: {what}: {command[0]}: {error.strerror}") from error
        code = self.wait(process, what, left)
        if code:
            raise BuildError(f"{self.request.name}: {what} failed ({code}): {self.reason()}")

    def wait(self, process: subprocess.Popen[bytes], what: str, seconds: float) -> int:
        began = time.monotonic()
        try:
            while True:
                try:
                    return process.wait(0.2 if time.monotonic() - began < 5 else 2)
                except subprocess.TimeoutExpired:
                    pass
                with open(self.log, "rb") as log:
                    last = self.last_lines(log, 1)
                line = f"{self.request.name}: {what}: {last[-1][:100] if last else ''}\n"
                with contextlib.suppress(OSError), open(self.progress, "w", encoding="utf-8") as file:
                    file.write(line)
                if time.monotonic() - began >= seconds:
                    raise BuildError(
                        f"{self.request.name}: {what} was ended: the build took longer than its {self.request.timeout} s"
                        f" (log: {self.log})"
                    )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def last_lines(self, log: IO[bytes], count: int) -> list[str]:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 16384))
        text = _COLOURS.sub("", log.read().decode("utf-8", "replace"))
        return [line for line in text.splitlines() if line.strip()][-count:]

    def reason(self) -> str:
        """What the tool says went wrong: the compiler's file, line and error, or the last line that says error."""
        with open(self.log, "rb") as log:
            lines = self.last_lines(log, 400)
        return f"{reason(lines)} (log: {self.log})"


def reason(lines: list[str]) -> str:
    """One line out of a build's log.

    OCaml's compiler says ``File "x.ml", line 3, characters 2-9:``, the source, then ``Error: ...`` with indented
    lines behind it; mirage, opam and make begin a line with their name, or ``[ERROR]``.
    """
    start = max((i for i, line in enumerate(lines) if line.startswith("== ")), default=-1)
    lines = lines[start + 1 :]
    for at, line in enumerate(lines):
        if re.match(r'File "[^"]+", lines? \d+', line):
            for behind in range(at + 1, min(at + 12, len(lines))):
                if re.match(r"\s*Error\b", lines[behind]):
                    words = [lines[behind].strip()]
                    for more in lines[behind + 1 : behind + 4]:
                        if not more.startswith(" "):
                            break
                        words.append(more.strip())
                    return f"{line.rstrip(':')}: {' '.join(words)}"
    for pattern in (r"\[ERROR\]", r"(mirage|opam|dune|opam-monorepo|git|fatal|error)\b.*:", r"Error\b"):
        for at, line in enumerate(lines):
            if re.match(pattern, line, re.IGNORECASE) and not line.startswith("make"):
                # opam-monorepo names the packages that it means in a list below.
                named = [more[2:].strip() for more in lines[at + 1 : at + 20] if re.match(r"- \S+$", more)]
                return line.strip() + (f" ({', '.join(named)})" if named else "")
    return lines[-1].strip() if lines else "it said nothing"
