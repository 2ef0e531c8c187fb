# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Run the steps of a build: each a command in a cell, with one log, one time limit, and one line of progress."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from typing import IO

from . import sandbox
from .sandbox import Cell

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What a terminal or a log viewer would interpret.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Seconds between two checks of the limits; each check walks through the build's folder. Memory fills faster than a disk.
_LOOK_SECONDS = 0.5
_MEMORY_SECONDS = 0.2
_REASON_MAX = 2000

_UNREACHABLE = re.compile(r"(?i)could ?n.t resolve|resolution|unreachable|timed out|connect|download failed|curl|wget")
_NO_INTERNET = (
    "; where the internet is not reached, give mirage_builder_mirrors (copies of the packages' sources),"
    " mirage_builder_overlays or mirage_builder_proxy and run playbooks/builder.yml"
)


class BuildError(Exception):
    """One line: which step of which build failed, and the tool's own reason."""


class Steps:
    """``name``: what is built. ``keep``: descriptors that children inherit if there is no sandbox to kill them.

    ``without_network``: which variables help if a server can't be reached.
    """

    def __init__(
        self, name: str, log: str, progress: str, timeout: int, keep: tuple[int, ...] = (), without_network: str = _NO_INTERNET
    ) -> None:
        self.name, self.log, self.progress, self.timeout, self.keep = name, log, progress, timeout, keep
        self.without_network = without_network
        self.until = time.monotonic() + timeout

    def begin(self) -> None:
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"):
            pass

    def run(self, cell: Cell, what: str, command: list[str], done: Callable[[], str] = lambda: "") -> None:
        """Run ``command``. Raise BuildError if it fails or exceeds time or limits. ``done``: returns its progress."""
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"== {what}\n")
            log.flush()
            try:
                process = sandbox.start(cell, command, log, self.keep)
            except OSError as error:
                raise BuildError(f"{self.name}: {what}: {error.filename or command[0]}: {error.strerror}") from error
        try:
            code = self._wait(cell, process, what, done)
        finally:
            sandbox.end(process)
        if code:
            # The kernel may have enforced a limit before we checked it.
            passed = sandbox.excess(cell, process, self.log)
            raise BuildError(
                f"{self.name}: {what} was ended: {passed} (log: {self.log})"
                if passed
                else f"{self.name}: {what} failed ({code}): {self.reason()}{self._help() if cell.network else ''}"
            )

    def _wait(self, cell: Cell, process: subprocess.Popen[bytes], what: str, done: Callable[[], str]) -> int:
        look = time.monotonic() + 0.02
        while True:
            try:
                return process.wait(min(max(look - time.monotonic(), 0.01), _MEMORY_SECONDS))
            except subprocess.TimeoutExpired:
                pass
            began = time.monotonic()
            if began >= self.until:
                raise BuildError(
                    f"{self.name}: {what} was ended: the build took longer than its {self.timeout} s (log: {self.log})"
                )
            early = began < look
            passed = sandbox.too_much_memory(cell, process) if early else sandbox.excess(cell, process, self.log)
            if passed:
                raise BuildError(f"{self.name}: {what} was ended: {passed} (log: {self.log})")
            if not early:
                self._tell(what, done)
                # Check less often for a build with many files.
                now = time.monotonic()
                look = min(now + min(max(_LOOK_SECONDS, 10 * (now - began)), 5), self.until)

    def _tell(self, what: str, done: Callable[[], str]) -> None:
        with open(self.log, "rb") as log:
            last = last_lines(log, 1)
        line = f"{self.name}: {what}: {done() or (last[-1][:100] if last else '')} (log: {self.log})\n"
        with contextlib.suppress(OSError), open(self.progress, "w", encoding="utf-8") as file:
            file.write(line)

    def _help(self) -> str:
        """Return a hint which variables help, if the last step failed because the internet was unreachable; "" otherwise."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return self.without_network if _UNREACHABLE.search(file.read().rpartition("== ")[2]) else ""

    def reason(self) -> str:
        """Return why the tool failed: the compiler's file, line and error, or the last line that mentions an error."""
        with open(self.log, "rb") as log:
            lines = last_lines(log, 400)
        return f"{reason(lines)} (log: {self.log})"

    def finish(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.progress)


def last_lines(log: IO[bytes], count: int) -> list[str]:
    log.seek(max(0, os.fstat(log.fileno()).st_size - 65536))
    text = _CONTROLS.sub(" ", _COLOURS.sub("", log.read().decode("utf-8", "replace")))
    return [line for line in text.splitlines() if line.strip()][-count:]


def packages_done(log: str, step: str) -> str:
    """Return how many packages opam has installed, of how many, from the log; "" if it doesn't say yet."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read().rpartition(f"== {step}\n")[2]
    except OSError:
        return ""
    total = sum(map(int, re.findall(r"(?m)^=====.* (\d+) .*=====", text)))
    installed = re.findall(r"(?m)^\S+ installed (\S+)", text)
    return f"package {len(installed)} of {total}: {installed[-1] if installed else 'the first'}" if total else ""


def reason(lines: list[str]) -> str:
    """Return one line of bounded length from a build's log that says why it failed.

    OCaml's compiler prints ``File "x.ml", line 3, characters 2-9:``, the source, then ``Error: ...`` followed by indented lines;
    mirage, opam and make begin a line with their name, or ``[ERROR]``; apt with ``E:``.
    """
    start = max((i for i, line in enumerate(lines) if line.startswith("== ")), default=-1)
    lines = lines[start + 1 :]
    said = _compilers(lines) or _tools(lines) or (lines[-1].strip() if lines else "it printed nothing")
    return said if len(said) <= _REASON_MAX else said[:_REASON_MAX] + " ..."


def _compilers(lines: list[str]) -> str:
    for at, line in enumerate(lines):
        if not re.match(r'File "[^"]+", lines? \d+', line):
            continue
        for behind in range(at + 1, min(at + 40, len(lines))):
            if re.match(r'File "[^"]+", lines? \d+', lines[behind]):
                break  # where a warning occurred
            if re.match(r"\s*Error\b", lines[behind]):
                words = [lines[behind].strip()]
                for more in lines[behind + 1 :]:
                    if not more.startswith(" "):
                        break
                    words.append(more.strip())
                return f"{line.rstrip(':')}: {' '.join(words)}"
    return ""


# An item of the list that opam-monorepo and opam print below a line that says only that something is wrong.
_NAMED = re.compile(r"\s*- (\S+(?: -> \(problem\).*)?)$")


def _tools(lines: list[str]) -> str:
    for pattern in (r"\[ERROR\]", r"(mirage|opam|dune|opam-monorepo|git|tar|dpkg-deb|fatal|error)\b.*:", r"Error\b", r"E: "):
        for at, line in enumerate(lines):
            if re.match(pattern, line, re.IGNORECASE) and not line.startswith("make"):
                return line.strip() + _list_below(lines[at + 1 :])
    problem = _list_below(lines)
    return next((line.strip() for line in lines if "Can't find all required versions" in line), "") + problem if problem else ""


def _list_below(lines: list[str]) -> str:
    """Return the items of a list: those with problems and the reasons, or else all."""
    problems, names = [], []
    for at, line in enumerate(lines[:200]):
        found = _NAMED.match(line)
        if not found:
            continue
        names.append(found.group(1))
        if "-> (problem)" in line:
            # The reasons are indented further.
            depth = len(line) - len(line.lstrip())
            why = []
            for more in lines[at + 1 : at + 6]:
                if len(more) - len(more.lstrip()) <= depth:
                    break
                why.append(more.strip())
            problems.append(f"{found.group(1).replace(' -> (problem)', '')}: {' '.join(why) or 'no version fits'}")
    words = "; ".join(problems) or ", ".join(names)
    return f" ({words})" if words else ""
