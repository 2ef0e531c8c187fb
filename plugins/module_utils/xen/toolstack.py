# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The hypervisor through ``xl``: observe all domains in one go, perform one step of a plan."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable

from ..domain.plan import Host, Observed, Step
from ..domain.spec import NEXT, PREVIOUS, Declaration, Domain, Health
from ..domain.xl_config import domain_from_libxl, xl_config
from ..health.checks import ask
from ..image.store import write_whole
from .journal import Lock

DEFINITIONS = "/etc/xen/unikernels"
AUTOSTART = "/etc/xen/auto"
CONSOLES = "/var/log/xen/console"
XL_LOGS = "/var/log/xen"
# Far above what was measured under emulation (5.7 s for a create with a vif); below it xl is stuck.
XL_SECONDS = 180
# xl's own words for states, by the letter in the fifth column of `xl list`.
_LETTERS = (("d", "dying"), ("s", "shutdown"), ("c", "shutdown"), ("p", "paused"))
CONSOLE_LINES = 10
# SHUTDOWN_reboot in Xen's public header xen/include/public/sched.h; a triple fault counts as one.
_REASON_REBOOT = "1"
# xl's daemon takes a moment to build a rebooting domain anew; meanwhile its name is in no list.
REBOOT_SECONDS = 30


class ToolstackError(Exception):
    """One line: what was tried, what Xen said, what runs now. ``console``: the domain's last lines."""

    def __init__(self, message: str, console: list[str] | None = None, rolled_back: bool = False) -> None:
        super().__init__(message)
        self.console = console or []
        self.rolled_back = rolled_back


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Parsing config")]
    # xl prints the cause first and the consequences after it.
    return "; ".join(lines[:3])


class Toolstack:
    def __init__(self, definitions: str = DEFINITIONS, autostart: str = AUTOSTART, consoles: str = CONSOLES) -> None:
        self.definitions = definitions
        self.autostart_folder = autostart
        self.consoles = consoles
        self.log: list[str] = []

    # -- talking to xl ---------------------------------------------------------------------------

    def xl(self, *arguments: str, timeout: float = XL_SECONDS) -> tuple[int, str, str]:
        command = ["xl", *arguments]
        self.log.append(" ".join(command))
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise ToolstackError("xl is not installed on this host: run the role xen_host first") from None
        except subprocess.TimeoutExpired:
            raise ToolstackError(
                f"'{' '.join(command)}' did not end within {timeout:.0f} s; is xenstored alive? See /var/log/xen"
            ) from None
        return done.returncode, done.stdout, done.stderr

    def must(self, *arguments: str) -> str:
        code, out, err = self.xl(*arguments)
        if code:
            raise ToolstackError(f"'xl {' '.join(arguments)}' failed ({code}): {_last_words(err + out)}")
        return out

    # -- observing -------------------------------------------------------------------------------

    @staticmethod
    def available() -> bool:
        """Does this kernel run as the control domain of a Xen host?"""
        try:
            with open("/proc/xen/capabilities", encoding="ascii") as file:
                return "control_d" in file.read()
        except OSError:
            return False

    def observe(self) -> Host:
        """All domains with the configuration they really run with: three processes, whatever their number."""
        for _attempt in range(5):
            states, configurations = self._states(), self._configurations()
            # A domain that is being built or torn down is in one list and not in the other, for a moment.
            if set(states) == set(configurations):
                break
            time.sleep(1)
        return Host(
            domains=tuple(Observed(domid, states[domid], domain) for domid, domain in configurations.items() if domid in states),
            definitions=self._definitions(),
            autostart=self._autostarted(),
            free_memory=int(self.must("info", "free_memory").strip() or 0),
        )

    def _states(self) -> dict[int, str]:
        """Domain id -> state, without Domain-0."""
        found = {}
        for line in self.must("list").splitlines()[1:]:
            columns = re.match(r".*?\s+(\d+)\s+\d+\s+\d+\s+([a-z-]{6})\s", line)
            if columns and columns.group(1) != "0":
                letters = columns.group(2)
                found[int(columns.group(1))] = next((state for letter, state in _LETTERS if letter in letters), "running")
        return found

    def _configurations(self) -> dict[int, Domain]:
        """Domain id -> what it runs with, without Domain-0. xl fails for one that dies meanwhile and prints the rest."""
        code, out, err = self.xl("list", "-l")
        try:
            entries = json.loads(out) if out.strip() else []
        except ValueError as error:
            raise ToolstackError(f"'xl list -l' printed no JSON ({code}): {_last_words(err) or error}") from error
        return {int(entry["domid"]): domain_from_libxl(entry.get("config", {})) for entry in entries if entry.get("domid")}

    def _definitions(self) -> dict[str, str]:
        found = {}
        if os.path.isdir(self.definitions):
            for name in sorted(os.listdir(self.definitions)):
                if name.endswith(".cfg") and not name.startswith("."):
                    with open(os.path.join(self.definitions, name), encoding="utf-8", errors="replace") as file:
                        found[name[: -len(".cfg")]] = file.read()
        return found

    def _autostarted(self) -> frozenset[str]:
        if not os.path.isdir(self.autostart_folder):
            return frozenset()
        return frozenset(
            name[: -len(".cfg")]
            for name in os.listdir(self.autostart_folder)
            if name.endswith(".cfg")
            and os.path.realpath(os.path.join(self.autostart_folder, name)) == os.path.realpath(self._definition(name[:-4]))
        )

    def _definition(self, name: str) -> str:
        return os.path.join(self.definitions, name + ".cfg")

    def state_of(self, name: str) -> str:
        """running, paused, rebooting, shutdown, dying, or gone: one process for one domain."""
        code, out, _err = self.xl("list", "-v", name)
        found = re.search(r"\s([a-z-]{6})\s+[0-9.]+\s+[0-9a-f-]{36}\s+(\S+)", out)
        if code or not found:
            return "gone"
        state = next((state for letter, state in _LETTERS if letter in found.group(1)), "running")
        return "rebooting" if state == "shutdown" and found.group(2) == _REASON_REBOOT else state

    # -- performing ------------------------------------------------------------------------------

    def perform(self, step: Step, declaration: Declaration, lock: Lock) -> None:
        """Do one step. Raise `ToolstackError`; what was running before a failed replace runs again."""
        lock.note(str(step))
        actions: dict[str, Callable[[Step, Declaration], None]] = {
            "destroy": lambda step, _declaration: self.destroy(step.name),
            "put_back": lambda step, _declaration: self.put_back(step.name),
            "confirm": self._confirm,
            "prove": lambda _step, declaration: self.prove(declaration, 0),
            "create": self._create,
            "replace": self._replace,
            "recreate": self._recreate,
            "pause": lambda step, _declaration: self._quiet(self.must("pause", step.name)),
            "unpause": self._unpause,
            "stop": lambda step, declaration: self.stop(step.name, declaration.shutdown_timeout),
            "define": lambda step, _declaration: self._define(step.name, step.text),
            "undefine": lambda step, _declaration: os.unlink(self._definition(step.name)),
            "autostart": lambda step, _declaration: self._autostart(step.name),
            "no_autostart": lambda step, _declaration: os.unlink(self._link(step.name)),
        }
        try:
            actions[step.action](step, declaration)
        except OSError as error:
            raise ToolstackError(f"domain {step.name}: {step.action}: {error.filename}: {error.strerror}") from error

    @staticmethod
    def _quiet(_output: str) -> None:
        return None

    def _link(self, name: str) -> str:
        return os.path.join(self.autostart_folder, name + ".cfg")

    def _define(self, name: str, text: str) -> None:
        os.makedirs(self.definitions, mode=0o755, exist_ok=True)
        write_whole(self._definition(name), text.encode("utf-8"), 0o600)

    def _autostart(self, name: str) -> None:
        os.makedirs(self.autostart_folder, mode=0o755, exist_ok=True)
        temporary = self._link(name) + f".{os.getpid()}"
        os.symlink(self._definition(name), temporary)
        os.rename(temporary, self._link(name))

    def destroy(self, name: str) -> None:
        """End a domain at once and wait until its name is free."""
        code, out, err = self.xl("destroy", name)
        # A domain that is just ending by itself makes destroy fail, and is gone all the same.
        if self._wait(name, ("gone",), 30) != "gone":
            raise ToolstackError(f"domain {name}: 'xl destroy' failed ({code}): {_last_words(err + out)}; it is still there")

    def _wait(self, name: str, states: tuple[str, ...], seconds: float) -> str:
        until = time.monotonic() + seconds
        while True:
            state = self.state_of(name)
            if state in states or time.monotonic() >= until:
                return state
            time.sleep(0.2)

    def stop(self, name: str, timeout: int) -> None:
        """Ask the guest to end, wait at most ``timeout`` seconds, then destroy it."""
        if timeout:
            # Without -w: xl's own waiting has no limit. A guest that doesn't listen makes it fail; so be it.
            try:
                self.xl("shutdown", name, timeout=timeout)
                self._wait(name, ("gone", "shutdown"), timeout)
            except ToolstackError as error:
                self.log.append(str(error))
        if self.state_of(name) != "gone":
            self.destroy(name)

    def put_back(self, name: str) -> None:
        if self.state_of(name) != "gone":
            self.destroy(name)
        self.must("rename", name + PREVIOUS, name)
        self._reopen_consoles()
        self.must("unpause", name)

    def _build(self, domain: Domain, name: str) -> None:
        """Create ``domain`` paused under ``name``."""
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, name + ".cfg")
            write_whole(path, xl_config(domain, name).encode("utf-8"), 0o600)
            code, out, err = self.xl("create", "-p", path)
        if code:
            raise ToolstackError(f"domain {domain.name}: Xen could not build it ({code}): {_last_words(err + out)}")
        state = self.state_of(name)
        if state != "paused":
            raise ToolstackError(f"domain {domain.name}: it was built, but is {state}")

    def _create(self, step: Step, declaration: Declaration) -> None:
        self._build(step.domain or declaration.domain, step.name)
        if declaration.state == "running":
            self._start(declaration)

    def _unpause(self, _step: Step, declaration: Declaration) -> None:
        self._start(declaration)

    def _start(self, declaration: Declaration) -> None:
        mark = self.console_mark(declaration.name)
        self.must("unpause", declaration.name)
        self.prove(declaration, mark)

    def _replace(self, step: Step, declaration: Declaration) -> None:
        name = step.name
        was_running = self.state_of(name) == "running"
        self._build(step.domain or declaration.domain, name + NEXT)
        self.must("pause", name)
        try:
            self.must("rename", name, name + PREVIOUS)
            self.must("rename", name + NEXT, name)
            self._reopen_consoles()
            if declaration.state == "running":
                self._start(declaration)
        except ToolstackError as error:
            console = error.console or self.console_lines(name)
            if self.state_of(name + PREVIOUS) == "gone":  # it never lost its name
                self.destroy(name + NEXT)
                if was_running:
                    self.must("unpause", name)
            else:
                if self.state_of(name + NEXT) != "gone":
                    self.destroy(name + NEXT)
                self.put_back(name)
                if not was_running:
                    self.must("pause", name)
            raise ToolstackError(f"{error}; the former domain was put back and runs", console, True) from error
        self.destroy(name + PREVIOUS)
        for leftover in (NEXT, PREVIOUS):  # of the moment in which they had those names
            if os.path.exists(self.console_path(name + leftover)):
                os.unlink(self.console_path(name + leftover))

    def _recreate(self, step: Step, declaration: Declaration) -> None:
        self.stop(step.name, declaration.shutdown_timeout)
        try:
            self._create(step, declaration)
        except ToolstackError as error:
            console = error.console or self.console_lines(step.name)
            if not step.text:
                raise
            if self.state_of(step.name) != "gone":
                self.destroy(step.name)
            # The definition on disk is still the former one.
            code, out, err = self.xl("create", self._definition(step.name))
            if code:
                raise ToolstackError(
                    f"{error}; and the former domain could not be started again: {_last_words(err + out)}; NOTHING runs"
                    f" under that name, start it with: xl create {self._definition(step.name)}",
                    console,
                ) from error
            raise ToolstackError(f"{error}; the former domain was started again", console, True) from error

    def _confirm(self, step: Step, declaration: Declaration) -> None:
        try:
            self.prove(declaration, 0)
        except ToolstackError as error:
            self.put_back(step.name)
            raise ToolstackError(f"{error}; the former domain was put back and runs", error.console, True) from error
        self.destroy(step.name + PREVIOUS)

    # -- proving that it serves ------------------------------------------------------------------

    def prove(self, declaration: Declaration, mark: int) -> None:
        """Watch a started domain until its health check passes, or for its settle time when it has none.

        A unikernel that refuses its arguments powers itself off at once; that is a failure here.
        """
        health = declaration.health
        began = time.monotonic()
        bound = health.within if health else declaration.settle
        answer: str | None = "no answer yet"
        returns = "restart" in declaration.domain.on_reboot
        while True:
            state = self.state_of(declaration.name)
            if returns and (state == "rebooting" or (state == "gone" and self._restarting(declaration.name))):
                # It asked to be started again (a triple fault asks so too), and xl's daemon does it.
                state = self._wait(declaration.name, ("running",), REBOOT_SECONDS)
            if state != "running":
                raise self._died(declaration, state, time.monotonic() - began, mark)
            if health:
                answer = self._ask(health, declaration.name, mark)
                if answer is None:
                    return
            if time.monotonic() - began >= bound:
                break
            time.sleep(0.3)
        if health:
            console = self.console_lines(declaration.name, mark)
            raise ToolstackError(
                f"domain {declaration.name}: it runs, but is not healthy after {bound} s: {answer}{_tail(console)}", console
            )

    @staticmethod
    def _restarting(name: str) -> bool:
        """Does the daemon that xl leaves for each domain say that it builds it anew? Its log has the name at creation."""
        for path in (f"{XL_LOGS}/xl-{name}.log", f"{XL_LOGS}/xl-{name}{NEXT}.log"):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    if "is restart" in "".join(file.readlines()[-3:]):
                        return True
            except OSError:
                continue
        return False

    def _ask(self, health: Health, name: str, mark: int) -> str | None:
        if health.kind != "console":
            return ask(health)
        found = re.search(health.target, "\n".join(self.console_lines(name, mark, 10000)))
        return None if found else f"no line on its console matches {health.target!r}"

    def _died(self, declaration: Declaration, state: str, seconds: float, mark: int) -> ToolstackError:
        # xenconsoled may be a moment behind the domain's end.
        until = time.monotonic() + 2
        console = self.console_lines(declaration.name, mark)
        while not any("solo5_exit" in line for line in console) and time.monotonic() < until:
            time.sleep(0.2)
            console = self.console_lines(declaration.name, mark)
        code = re.search(r"solo5_exit\((\d+)\)", "\n".join(console))
        why = ""
        if code:
            why = f" with exit code {code.group(1)}" + (" (it refused its boot arguments)" if code.group(1) == "64" else "")
        return ToolstackError(
            f"domain {declaration.name}: it ended by itself {seconds:.0f} s after its start{why}"
            f"{' and is kept in state ' + state if state != 'gone' else ''}{_tail(console)}",
            console,
        )

    # -- consoles --------------------------------------------------------------------------------

    def console_path(self, name: str) -> str:
        return os.path.join(self.consoles, f"guest-{name}.log")

    def console_mark(self, name: str) -> int:
        """Where the console's file ends now, in bytes: what comes later belongs to the next start."""
        try:
            return os.path.getsize(self.console_path(name))
        except OSError:
            return 0

    def console_lines(self, name: str, mark: int = 0, most: int = CONSOLE_LINES) -> list[str]:
        """The last lines of a domain's console since ``mark``, without terminal control characters."""
        try:
            with open(self.console_path(name), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                # Rotated since: everything in the file is new.
                file.seek(max(mark if mark <= size else 0, size - 65536))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        clean = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text)
        return [line.rstrip() for line in clean.splitlines() if line.strip()][-most:]

    @staticmethod
    def _reopen_consoles() -> None:
        """xenconsoled names a console's file when it opens it: after a rename it must open it again."""
        subprocess.run(["pkill", "-HUP", "-x", "xenconsoled"], capture_output=True, timeout=30, check=False)


def _tail(console: list[str]) -> str:
    if not console:
        return "; its console is empty or not logged"
    return "; its console ends: " + " | ".join(console[-4:])
