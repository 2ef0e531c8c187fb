# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The commands of one build, each in a cell.

There are two kinds of cells. Foreign code (config.ml, dune rules, Makefiles) gets the build's folder and no network. opam and
opam-monorepo get the network and a folder of their own, which contains nothing that foreign code wrote except names of packages.
Only this module carries files between them, and only regular files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from dataclasses import replace

from . import lock_file, opam_root, sandbox
from .elf import ImageError, inspect_file, printable
from .request import SWITCH, Request, Settings, Toolchain
from .sandbox import Cell, Limits, SandboxError
from .sources import LOCK, read, source_files
from .steps import BuildError, Steps
from .store import write_whole

# The timestamp of everything in an image (2020-01-01), so that builds are reproducible.
EPOCH = "1577836800"
_IMAGE = 1 << 30
_TEXT = 16 << 20
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def local_path(address: str) -> str:
    """Return the folder that a user's address means; "" if it is a URL."""
    path = re.sub(r"^(git\+)?file://", "", address).partition("#")[0]
    return path if path.startswith("/") else ""


def proxies(settings: Settings) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return {**kept, "http_proxy": settings.proxy, "https_proxy": settings.proxy} if settings.proxy else kept


def helpers(settings: Settings) -> tuple[str, ...]:
    """Return the user's folders that opam may read: the archive, its mirrors, the overlays."""
    return tuple(filter(None, map(local_path, (settings.archive, *settings.mirrors, *settings.overlays.values()))))


class Building:
    """Builds one request in ``folder`` and others whose names begin with it; ``clean`` removes them all."""

    limits = Limits()

    def __init__(self, request: Request, tools: Toolchain, folder: str, steps: Steps) -> None:
        self.request, self.tools, self.base, self.steps = request, tools, folder, steps
        self.lock_text: bytes | None = None
        # By digest, and verified by opam on each use: one project can't plant code in another's downloads.
        self.downloads = os.path.join(os.path.dirname(folder), "downloads")
        self.lock_path = ""  # relative to the source's folder
        real = os.path.join(tools.folder, "opam")
        bins = (os.path.join(tools.folder, "bin"), os.path.join(real, SWITCH, "bin"))
        # Not the whole folder: settings.json may contain a proxy's password.
        self.visible = (
            *(path for path in (real, bins[0]) if os.path.isdir(path) and not os.path.islink(path)),
            *(target for folder in bins for target in sandbox.links_out(folder)),
        )

    def clean(self) -> None:
        sandbox.remove(*(self.base + part for part in ("", "-again", "-fetch", "-root", ".image", "-again.image")))

    def once(self, attempt: str) -> str:
        """Build in a fresh folder. Return the path of the image."""
        folder = self.base + attempt
        self._lay_out(folder)
        self._configure(folder)
        if self.lock_text is None:
            self._choose_lock(folder)
        self._pull(folder)
        self._compile(folder)
        image = self._take_image(folder)
        self._lock_is_as_it_was(folder)
        return image

    def _give(self, folder: str) -> None:
        if self.request.sandbox:
            sandbox.give(folder)

    # -- what foreign code does ---------------------------------------------------------------------

    def _lay_out(self, folder: str) -> None:
        sandbox.remove(folder)
        _copy(self.request.source.folder, folder)
        for path, laid in self.request.overlay:
            sandbox.remove(os.path.join(folder, path))
            _copy(laid, os.path.join(folder, path))
        self._give(folder)

    def _configure(self, folder: str) -> None:
        command = ["mirage", "configure", "-t", "xen", "--color=never", *self.request.configure]
        self.steps.run(self.cell(folder), "mirage configure", command)

    def _compile(self, folder: str) -> None:
        cell = self.cell(folder)
        # Touch the committed lock file: make would regenerate an older one, and then build something else.
        locks = [path for path in source_files(self.request.source.folder) if LOCK.fullmatch(path)]
        # `make build` exits with 0 even if it built nothing (mirage 4.11): only the file proves it.
        sandbox.remove(*self._in_dist(folder))
        self.steps.run(cell, "make build", ["sh", "-c", 'for lock; do touch -c -- "$lock"; done; exec make build', "sh", *locks])

    def _in_dist(self, folder: str) -> list[str]:
        return [os.path.join(folder, path) for path in sandbox.listed(folder, "dist", ".xen")]

    def _take_image(self, folder: str) -> str:
        images = sandbox.listed(folder, "dist", ".xen")
        if len(images) != 1:
            raise BuildError(f"{self.request.name}: make build left {len(images) or 'no'} image in dist/: {self.steps.reason()}")
        image = self._taken(folder, images[0])
        # Half of a unikernel's file is its symbols: no host needs them, nor do OCaml's backtraces.
        with contextlib.suppress(ImageError):
            if inspect_file(image).debug_info:
                self.steps.run(self.cell(folder), "strip", ["strip", "--strip-all", images[0]])
                image = self._taken(folder, images[0])
        return image

    def _taken(self, folder: str, path: str) -> str:
        try:
            write_whole(folder + ".image", sandbox.read(folder, path, _IMAGE), 0o600)
        except (SandboxError, OSError) as error:
            raise BuildError(
                f"{self.request.name}: make build left no image: {_words(error, path)} (log: {self.steps.log})"
            ) from error
        return folder + ".image"

    def _lock_is_as_it_was(self, folder: str) -> None:
        """Raise BuildError if the build changed the lock file: the statement must name the one that was built."""
        if self.request.update_lock or self.request.lock:
            return  # it was never in the build's folder
        try:
            same = sandbox.read(folder, self.lock_path, _TEXT) == self.lock_text
        except (SandboxError, OSError):
            same = False
        if not same:
            raise BuildError(
                f"{self.request.name}: the build wrote another {self.lock_path} than the committed one; nothing was stored"
            )

    # -- the lock file, and what it names -----------------------------------------------------------

    def _choose_lock(self, folder: str) -> None:
        name = self._package(folder)
        self.lock_path = f"mirage/{name}.opam.locked"
        self.lock_text = self._made_lock(folder, name) if self.request.update_lock else self._given_lock(name)
        lock = lock_file.read(self.lock_text.decode("utf-8", "replace"))
        refusal = lock_file.refusal(lock, name, self._installed())
        if refusal:
            raise BuildError(f"{self.request.name}: lock file {self.request.lock or self.lock_path}: {refusal}")

    def _package(self, folder: str) -> str:
        """Return the package name that configure wrote, NAME-xen."""
        names = [os.path.basename(path)[: -len(".opam")] for path in sandbox.listed(folder, "mirage", "-xen.opam")]
        if len(names) != 1 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", names[0]):
            raise BuildError(
                f"{self.request.name}: mirage configure left {len(names) or 'no'} mirage/NAME-xen.opam (log: {self.steps.log})"
            )
        return names[0]

    def _given_lock(self, name: str) -> bytes:
        if self.request.lock:
            with open(self.request.lock, "rb") as file:
                return file.read(_TEXT)
        try:
            return read(self.request.source.folder, self.lock_path)
        except OSError as error:
            raise BuildError(
                f"{self.request.name}: config.ml names the unikernel {name.removesuffix('-xen')}, and there is no lock file"
                f" {self.lock_path} for it; update_lock: true creates one"
            ) from error

    def _installed(self) -> dict[str, str]:
        """Map each package in the toolchain's switch to its version."""
        folder = os.path.join(self.tools.folder, "opam", SWITCH, ".opam-switch", "packages")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return {**dict(name.split(".", 1) for name in names if "." in name), **self.tools.versions}

    def _made_lock(self, folder: str, name: str) -> bytes:
        """Make the lock file like the Makefile's target `lock`, without running that foreign code: this cell has the network."""
        try:
            opam = sandbox.read(folder, f"mirage/{name}.opam", _TEXT)
        except (SandboxError, OSError) as error:
            raise BuildError(f"{self.request.name}: {_words(error, name)} (log: {self.steps.log})") from error
        source = self.request.source
        text, problem = lock_file.pinned(opam.decode("utf-8", "surrogateescape"), folder, source.uri, source.revision)
        if problem:
            raise BuildError(f"{self.request.name}: {problem}")
        fetch = self._fetch_folder(repositories=True)
        os.mkdir(os.path.join(fetch, "mirage"))
        write_whole(os.path.join(fetch, f"mirage/{name}.opam"), text.encode("utf-8", "surrogateescape"), 0o644)
        self._give(fetch)
        cell = self.fetching(fetch)
        for repository, address in self._overlays(text):
            self.steps.run(cell, f"opam repository add {repository}", ["opam", "repository", "add", repository, address])
        self.steps.run(
            cell, "opam monorepo lock",
            ["opam", "monorepo", "lock", "--require-cross-compile", "--build-only", name, "-l", f"mirage/{name}.opam.locked",
             "--ocaml-version", self.tools.versions.get("ocaml", "")],
        )  # fmt: skip
        try:
            return sandbox.read(fetch, f"mirage/{name}.opam.locked", _TEXT)
        except (SandboxError, OSError) as error:
            raise BuildError(f"{self.request.name}: opam monorepo lock made no lock file: {self.steps.reason()}") from error

    def _overlays(self, opam: str) -> list[tuple[str, str]]:
        """Return the repositories that configure asks for, replaced by the builder's own."""
        return [(name, self.tools.settings.overlays.get(name, address)) for name, address in lock_file.repositories(opam)]

    def _fetch_folder(self, repositories: bool) -> str:
        fetch = self.base + "-fetch"
        root = self.base + "-root"
        sandbox.remove(fetch, root)
        os.mkdir(fetch, 0o755)
        if os.path.isdir(os.path.join(self.tools.folder, "opam", SWITCH)):
            if not os.path.isdir(self.downloads):
                os.mkdir(self.downloads, 0o755)
                self._give(self.downloads)
            opam_root.make(os.path.join(self.tools.folder, "opam"), SWITCH, root, repositories)
            os.mkdir(os.path.join(root, "tmp"))
            os.rmdir(os.path.join(root, "download-cache"))
            os.symlink(self.downloads, os.path.join(root, "download-cache"))
            opam_root.set_mirrors(root, self.tools.settings.mirrors)
            self._give(root)
        return fetch

    def _pull(self, folder: str) -> None:
        """Fetch the sources in the lock file, verified by their digests, into the build's folder."""
        fetch, name = self._fetch_folder(repositories=False), os.path.basename(self.lock_path)
        text = self.lock_text or b""
        write_whole(os.path.join(fetch, name), text, 0o644)
        self._give(fetch)
        sources = os.path.join(fetch, "duniverse")
        total = len(lock_file.read(text.decode("utf-8", "replace")).sources)

        def done() -> str:
            count = len(os.listdir(sources)) if os.path.isdir(sources) else 0
            return f"package {count} of {total}" if total else ""

        command = ["opam", "monorepo", "pull", "-l", name, "-r", fetch]
        self.steps.run(self.fetching(fetch), "opam monorepo pull", command, done)
        place = os.path.join(folder, "duniverse")
        sandbox.remove(place)
        if os.path.isdir(sources) and not os.path.islink(sources):
            os.rename(sources, place)
        sandbox.remove(fetch)

    # -- cells --------------------------------------------------------------------------------------

    def cell(self, folder: str) -> Cell:
        """Return a cell with only what the toolchain needs: the same environment on every machine."""
        root = os.path.join(self.tools.folder, "opam")
        switch = os.path.join(root, SWITCH)
        lib = os.path.join(switch, "lib")
        path = [os.path.join(switch, "bin"), os.path.join(self.tools.folder, "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
        environment = {
            "PATH": ":".join(path), "HOME": folder, "OPAMROOT": root,
            # As `opam env` sets them: dune finds the switch's libraries by the first.
            "OPAM_SWITCH_PREFIX": switch, "CAML_LD_LIBRARY_PATH": f"{lib}/stublibs:{lib}/ocaml/stublibs:{lib}/ocaml",
            "OPAMYES": "1", "OPAMCOLOR": "never", "OPAMSWITCH": SWITCH, "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "SOURCE_DATE_EPOCH": EPOCH, "BUILD_PATH_PREFIX_MAP": f"/build={folder}", "DUNE_CACHE": "disabled",
        }  # fmt: skip
        return Cell(folder, environment, visible=self.visible, limits=self.limits, enabled=self.request.sandbox)

    def fetching(self, folder: str) -> Cell:
        """Return a cell with the network and an opam root of its own."""
        cell = self.cell(folder)
        environment = {
            **cell.environment, **proxies(self.tools.settings), "OPAMVAR_monorepo": "opam-monorepo", "OPAMROOTISOK": "1",
            "OPAMNODEPEXTS": "1", "GIT_CONFIG_GLOBAL": os.path.join(self.tools.folder, "gitconfig"), "GIT_TERMINAL_PROMPT": "0",
        }  # fmt: skip
        root = self.base + "-root"
        writable = (root, self.downloads) if os.path.isdir(root) else ()
        if writable:
            # opam-monorepo temporarily unpacks whole repositories.
            environment.update(OPAMROOT=root, TMPDIR=os.path.join(root, "tmp"))
        helping = (os.path.join(self.tools.folder, "gitconfig"), *helpers(self.tools.settings))
        more = tuple(path for path in helping if os.path.exists(path))
        return replace(cell, environment=environment, visible=(*cell.visible, *more), writable=writable, network=True)


def _words(error: Exception, path: str) -> str:
    return f"{printable(path)}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _copy(source: str, folder: str) -> None:
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for path in source_files(source):
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        full, place = os.path.join(source, path), os.path.join(folder, path)
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(full), place)
        else:
            with open(place, "xb") as file:
                file.write(read(source, path))
            os.chmod(place, 0o755 if status.st_mode & 0o100 else 0o644)
            shutil.copystat(full, place, follow_symlinks=False)
            os.chmod(place, 0o755 if status.st_mode & 0o100 else 0o644)
