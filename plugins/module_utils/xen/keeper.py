# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Restart domains that stopped by themselves, in Dom0, without a controller. `plan.keep` decides; this observes and acts.

It acts only while it holds the host's lock, which it never waits for: a run or the host's boot that has it decides what runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ..domain.observed import defined_uuid
from ..domain.spec import NEXT, PREVIOUS, Watchdog
from ..domain.xl_config import notes_of
from ..health.checks import ask
from ..plan import keep
from ..wait import until
from . import console, restarts
from .events import Events
from .hypercalls import Hypercalls, bindings
from .lock import Lock, LockError
from .observation import AUTOSTART, DEFINITIONS, autostart_path, definition_path, intent_path, parse_list
from .watch import XL_LOGS
from .xenstore import Xenstore
from .xl import ToolstackError, last_words, must, xl

# Seconds between two looks: if xenstore reports each end, and if it doesn't.
SECONDS, SECONDS_WITHOUT_EVENTS = 30.0, 10.0
# Seconds until the next try when a run has the lock; seconds that a domain may take to be destroyed.
BUSY_SECONDS, DESTROY_SECONDS = 2.0, 30.0
# Seconds within which a domain is built; a guest that hasn't shut down this long after a request ignores it.
BUILD_SECONDS, ASKED_SECONDS = 10.0, 600.0
# How many last lines may contain Solo5's exit code; an earlier one belongs to an earlier start.
_EXIT_LINES = 3
_LOG_BYTES = 65536
# Health checks made at once; one takes seconds if nothing answers.
_CHECKS = 4
VERIFY, VERIFY_SECONDS = "/usr/local/sbin/unikernels-verify", 120


@dataclass(frozen=True)
class Found:
    """A domain as Xen reports it now."""

    name: str
    domid: int
    state: str
    reason: str
    uuid: str


@dataclass
class Track:
    """What is remembered of a defined domain between looks."""

    domid: int = 0
    since: float = 0.0  # when this domain id was first seen
    ended_at: float = 0.0
    asked_at: float = 0.0
    logs: dict[tuple[str, int], int] = field(default_factory=dict)  # (path, inode) -> bytes already read
    rebuilds: int = 0
    failures: int = 0
    healthy: bool = False
    next_check: float = 0.0
    check: Future[str | None] | None = None


class Keeper:
    def __init__(self, hypercalls: Hypercalls | None = None) -> None:
        self.hypercalls = hypercalls
        self.events = Events()
        self._tracks: dict[str, Track] = {}
        self._pool = ThreadPoolExecutor(_CHECKS)

    def run(self) -> None:
        """Run forever."""
        while True:
            try:
                pause = self.round()
            except (ToolstackError, OSError) as error:
                _say(f"nothing is known of the host's domains now: {error}")
                pause = SECONDS_WITHOUT_EVENTS
            self._await(pause)

    def _await(self, seconds: float) -> None:
        by_path = {f"/local/domain/{track.domid}/control/shutdown": track for track in self._tracks.values() if track.domid}
        self.events.watch({"@releaseDomain", "@introduceDomain", *by_path})
        for path in self.events.wait(seconds):
            if path in by_path:
                self._note_request(path, by_path[path])

    @staticmethod
    def _note_request(path: str, track: Track) -> None:
        """Record a request to shut down, read from control/shutdown.

        The toolstack writes the request there and the guest clears it. Both also write there while the domain is built, and the
        key is removed with its domain.
        """
        try:
            with Xenstore() as store:
                wanted = store.read([path])[0]
        except ToolstackError:
            wanted = None
        if wanted or (wanted is not None and time.time() - track.since > BUILD_SECONDS):
            track.asked_at = time.time()

    def round(self) -> float:
        """Look at all domains once and do what is due. Return the seconds until the next look."""
        texts = _definitions()
        self._tracks = {name: self._tracks.get(name) or Track() for name in texts}
        domains = self._domains() if texts else []
        pause = SECONDS if self.events.connected or not texts else SECONDS_WITHOUT_EVENTS
        for name, text in texts.items():
            try:
                pause = min(pause, self._look_after(name, text, domains))
            except Exception as error:  # whatever is wrong with one domain, look after the others
                _say(f"domain {name}: {type(error).__name__}: {error}")
                pause = min(pause, SECONDS_WITHOUT_EVENTS)
        return max(0.1, pause)

    def _look_after(self, name: str, text: str, domains: list[Found]) -> float:
        """Decide and act for one domain. Return the seconds until the next look."""
        action = self._decide(name, text, domains)
        if isinstance(action, keep.Leave):
            self._tracks[name].ended_at = 0.0
            return self._next_check(name, text)
        left = action.at - time.time() if isinstance(action, keep.Start) else 0.0
        if left > 0:
            return left
        self._act_alone(name)
        return BUSY_SECONDS

    # -- looking ---------------------------------------------------------------------------------

    def _domains(self) -> list[Found]:
        if self.hypercalls:
            infos = self.hypercalls.domains()
            with Xenstore() as store:
                names = store.read([f"/local/domain/{info['domid']}/name" for info in infos])
            return [
                Found(name, info["domid"], info["state"], info["reason"], info["uuid"])
                for info, name in zip(infos, names)
                if name
            ]
        out = must("list", "-v")
        rows = re.findall(r"^(\S+)\s+(\d+)\s.*\s([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s", out, re.MULTILINE)
        states = parse_list(out)
        return [
            Found(name, int(domid), *states[int(domid)][:2], uuid) for name, domid, uuid in rows if int(domid) in states
        ]  # fmt: skip

    def _decide(self, name: str, text: str, domains: list[Found]) -> keep.Action:
        now = time.time()
        policy = _policy(text)
        seen = self._seen(name, text, domains, now)
        past = restarts.past_of(restarts.read(name))
        track = self._tracks[name]
        if keep.why(policy, seen, past) and not (0 < track.ended_at <= now):
            track.ended_at = now
        return keep.decide(policy, seen, past, track.ended_at, now)

    def _seen(self, name: str, text: str, domains: list[Found], now: float) -> keep.Seen:
        track = self._tracks[name]
        domain = next((domain for domain in domains if domain.name == name), None)
        guarded = _guarded(name, text, domain, domains)
        log, age = self._log(name, track, now)
        ending = keep.ending_of(log)
        last = domain.domid if domain else track.domid
        if ending and last and ending.domid != last:
            ending = None
        if domain and domain.domid != track.domid:
            track.domid, track.since, track.asked_at = domain.domid, now, 0.0
            track.failures, track.healthy, track.check = 0, False, None
        if guarded:
            track.rebuilds = 0
        elif domain and domain.state == "running":
            self._ask(track, notes_of(text)["watchdog"], now)
        else:
            track.failures = 0
        ended = domain is None or domain.state == "shutdown"
        return keep.Seen(
            state=domain.state if domain else "gone",
            reason=domain.reason if domain else "",
            ending=ending,
            ending_age=age,
            exit_code=_exit_code(name) if ended else None,
            guarded=guarded,
            asked=now - track.asked_at < ASKED_SECONDS,
            failures=track.failures,
            rebuilds=track.rebuilds,
            alive_for=now - track.since,
        )

    def _log(self, name: str, track: Track, now: float) -> tuple[str, float]:
        """Return (end of the log of the domain's daemon, its age) and count the restarts in what is new of it.

        The log is named after the domain at creation, which may have been NAME~next.
        """
        latest, written, logs = "", 0.0, {}
        for path in (f"{XL_LOGS}/xl-{name}.log", f"{XL_LOGS}/xl-{name}{NEXT}.log"):
            try:
                with open(path, "rb") as file:
                    status = os.fstat(file.fileno())
                    file.seek(max(0, status.st_size - _LOG_BYTES))
                    tail = file.read(_LOG_BYTES)
            except OSError:
                continue
            size, known = status.st_size, (path, status.st_ino)
            # At the first look, a log reports what happened before.
            begin = track.logs.get(known, 0 if track.logs else size)
            track.rebuilds += keep.rebuilds_of(tail[-(size - begin) :].decode("utf-8", "replace")) if size > begin else 0
            logs[known] = size
            if status.st_mtime >= written:
                latest, written = tail.decode("utf-8", "replace"), status.st_mtime
        # Never empty after the first look, even if there is no log yet.
        track.logs = {("", 0): 0, **logs}
        return latest, now - written

    # -- the health check of one that runs ---------------------------------------------------------

    def _ask(self, track: Track, watchdog: Watchdog | None, now: float) -> None:
        if watchdog is None:
            track.failures = 0
            return
        if track.check and track.check.done():
            if track.check.result() is None:
                track.failures, track.healthy = 0, True
            elif track.healthy or now - track.since >= watchdog.health.within:
                track.failures += 1
            track.check, track.next_check = None, now + watchdog.every
        if track.check is None and not now < track.next_check <= now + watchdog.every:
            track.check = self._pool.submit(ask, watchdog.health)

    def _next_check(self, name: str, text: str) -> float:
        if notes_of(text)["watchdog"] is None:
            return SECONDS
        track = self._tracks[name]
        return 1.0 if track.check else max(0.1, track.next_check - time.time())

    # -- acting ------------------------------------------------------------------------------------

    def _act_alone(self, name: str) -> None:
        """Act with the lock held and after another look: a run may have ended since the last one."""
        try:
            with Lock(wait=0) as lock:
                text = _definitions().get(name)
                if text is None:
                    return
                action = self._decide(name, text, self._domains())
                if isinstance(action, keep.Start) and action.at > time.time():
                    return
                lock.note(f"unikernels-keeper: looks after {name}")
                self._act(name, text, action)
        except LockError:
            return  # the holder decides what runs

    def _act(self, name: str, text: str, action: keep.Action) -> None:
        track, limit = self._tracks[name], _policy(text).limit
        record, now = restarts.read(name), time.time()
        lines = console.lines(name, most=restarts.MAX_LINES)
        code = _exit_code(name)
        if isinstance(action, keep.Forgive):
            restarts.write(name, {**record, "gave_up": False, "pending": False})
            _say(f"domain {name}: it was started by hand and runs: it is watched again")
        elif isinstance(action, keep.Count):
            for _rebuild in range(track.rebuilds):
                record = restarts.with_event(record, action.reason, now, 1, lines, None, False)
            track.rebuilds = 0
            restarts.write(name, record)
            _say(f"domain {name}: {action.reason}")
        elif isinstance(action, keep.GiveUp):
            track.rebuilds = 0
            restarts.write(name, restarts.with_event(record, action.reason, now, 0, lines, code, True))
            ended = self._end_loop(name, track) if action.end else ""
            _say(
                f"domain {name}: {action.reason}; it was started {limit.starts} times within {limit.within} s and is left as it"
                f" is{ended}; what it printed is in {restarts.path_of(name)}"
            )
        elif isinstance(action, keep.Start):
            self._start_again(name, _policy(text), action.reason, lines, code)

    def _start_again(self, name: str, policy: keep.Policy, reason: str, lines: list[str], code: int | None) -> None:
        now, refusal = time.time(), _refusal(name)
        record = restarts.with_event(restarts.read(name), refusal or reason, now, not refusal, lines, code, bool(refusal))
        # Recorded before the start: if this process dies half-way, the start counts, and is tried again.
        restarts.write(name, {**record, "pending": not refusal})
        if refusal:
            _say(f"domain {name}: {reason}; it is not started again: {refusal}")
            return
        problem = self._start(name)
        if not problem:
            restarts.write(name, record)
        count = len(keep.recent_starts(policy, restarts.past_of(record), now))
        limit = f"{count} of {policy.limit.starts} times within {policy.limit.within} s"
        _say(f"domain {name}: {reason}; {problem or 'started again'} ({limit})")

    def _start(self, name: str) -> str:
        """Destroy what is left of the domain and create it. Return what went wrong, or ""."""
        track = self._tracks[name]
        track.ended_at, track.failures = 0.0, 0
        domain = self._find(name)
        if domain and not self._destroy(domain):
            return "'xl destroy' did not end it"
        code, out, err = xl("create", definition_path(name))
        # The next look finds a new id, to which no request to shut down applies.
        track.domid = 0
        return f"'xl create' failed: {last_words(err + out)}" if code else ""

    def _find(self, name: str) -> Found | None:
        return next((domain for domain in self._domains() if domain.name == name), None)

    def _destroy(self, domain: Found) -> bool:
        xl("destroy", str(domain.domid))
        return until(lambda: all(other.domid != domain.domid for other in self._domains()), DESTROY_SECONDS)

    def _end_loop(self, name: str, track: Track) -> str:
        """Destroy a domain that restarts in a loop. Pause it first, so that it can't restart; between two starts that fails."""

        def ended() -> bool:
            domain = self._find(name)
            if domain is None:
                ending = keep.ending_of(self._log(name, track, time.time())[0])
                return ending is None or not ending.action.endswith("restart")
            if domain.state in ("running", "paused"):
                xl("pause", str(domain.domid))
            paused = self._find(name)
            return bool(paused and paused.domid == domain.domid and paused.state != "shutdown" and self._destroy(paused))

        done = until(ended, DESTROY_SECONDS)
        track.rebuilds = 0
        return ", ended" if done else ", and could not be ended"


def _policy(text: str) -> keep.Policy:
    notes = notes_of(text)
    return keep.Policy(notes["restart"], notes["restart_limit"])


def _definitions() -> dict[str, str]:
    """Return name -> text of the definitions that start with the host and have a restart policy."""
    try:
        names = sorted(entry[: -len(".cfg")] for entry in os.listdir(AUTOSTART) if entry.endswith(".cfg"))
    except OSError:
        return {}
    folder, texts = os.path.realpath(DEFINITIONS), {}
    for name in names:
        if os.path.realpath(autostart_path(name)) != os.path.join(folder, name + ".cfg"):
            continue
        if not os.path.isfile(definition_path(name)):  # opening a pipe would block forever
            continue
        try:
            with open(definition_path(name), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if f'\nname = "{name}"\n' in text and _policy(text).restart != "never":
            texts[name] = text
    return texts


def _guarded(name: str, text: str, domain: Found | None, domains: list[Found]) -> bool:
    """True if somebody else's domain has the name, ours has another name, or a change is under way."""
    uuid = defined_uuid(text)
    other = any(one.uuid == uuid and one.name != name for one in domains)
    leftover = any(one.name in (name + NEXT, name + PREVIOUS) for one in domains)
    return bool(not uuid or other or leftover or os.path.exists(intent_path(name)) or (domain and domain.uuid != uuid))


def _exit_code(name: str) -> int | None:
    found = re.findall(r"solo5_exit\(([0-9]{1,3})\)", "\n".join(console.lines(name, most=_EXIT_LINES)))
    return int(found[-1]) if found else None


def _refusal(name: str) -> str:
    """Return why the check of images at boot refuses the domain; "" if it doesn't, or the host has no such check."""
    if not os.path.exists(VERIFY):
        return ""
    with tempfile.TemporaryDirectory(prefix="unikernels-keeper-") as folder:
        asked, allowed = os.path.join(folder, "asked"), os.path.join(folder, "allowed")
        os.mkdir(asked)
        os.symlink(definition_path(name), os.path.join(asked, name + ".cfg"))
        try:
            done = subprocess.run(
                [VERIFY, asked, allowed], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=VERIFY_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            return f"its image can't be verified: {error}"
        if os.path.lexists(os.path.join(allowed, name + ".cfg")):
            return ""
    return last_words(done.stderr) or "its image is refused"


def _say(line: str) -> None:
    """Write a line to the journal."""
    print(line, flush=True)


def main() -> int:
    if os.geteuid():
        print("unikernels-keeper: must run as root", file=sys.stderr)
        return 1
    Keeper(bindings()).run()
    return 0
