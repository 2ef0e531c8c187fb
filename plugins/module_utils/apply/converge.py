# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Everything behind the modules' options: read, observe, plan, check, carry out, look again."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from typing import Any

from ..domain.checks import clashes, cpu_refusal, outside_networks, removed_disks, shared_disks, strangers
from ..domain.compare import view, with_image
from ..domain.declaration import declaration_of, declarations_of
from ..domain.observed import Host, Observed, base_name
from ..domain.options import SpecError
from ..domain.spec import CONTENT_PATH, CPU_WEIGHT, Declaration
from ..plan.lifecycle import in_order, memory_shortage, plan
from ..plan.plan import Plan
from ..plan.recovery import described
from ..xen import console, former_disks
from ..xen.domain_facts import image_name
from ..xen.hypercalls import bindings
from ..xen.lock import Lock, LockError
from ..xen.network import bridge_networks, offered
from ..xen.observation import available, observe
from ..xen.shared_storage import with_shared
from ..xen.xl import ToolstackError
from . import preconditions
from .perform import Performer
from .results import Diff, Result
from .runner import Outcome, Runner

# How long, in seconds, to wait for a domain that is dying as a run begins: Xen frees the memory of a large one page by page.
DYING_SECONDS, _BETWEEN = 60, 0.5
MAX_PARALLEL = 64


class Refused(Exception):
    """One line; nothing on the host was changed."""


def converge(
    options: list[dict[str, Any]],
    check: bool,
    warn: Callable[[str], None],
    purge: bool = False,
    lock_timeout: int = 60,
    parallel: int = 1,
    stop_at_failure: bool = False,
    verbose: bool = False,
    returns: bool = False,
) -> list[Result]:
    """Make every domain of ``options`` what it is declared to be. Raise `Refused` before anything changes.

    At most ``parallel`` domains are changed at once; with ``stop_at_failure`` none is started after one has failed. With
    ``verbose`` a prediction lists the primitives of its steps too. ``returns``: the options are a previous generation, whose
    disks were made then.
    """
    if not 1 <= parallel <= MAX_PARALLEL:
        raise Refused(f"parallel: is {parallel}, must be 1..{MAX_PARALLEL}")
    declarations = _declared(options)
    if os.geteuid() != 0:
        raise Refused("only root can manage domains on this host: set become: true")
    if not available():
        if not check:
            raise Refused("this host does not run under Xen (no /proc/xen/capabilities): run the role xen_host first")
        warn("this host does not run under Xen yet: predicting for a host without domains")
        return [_predicted(plan(declaration, Host(free_memory=1 << 30)), verbose) for declaration in declarations]
    try:
        if check:
            return [_predicted(each, verbose) for each in _plans(declarations, purge, returns, False, warn)[0]]
        with Lock(lock_timeout) as lock:
            plans, host = _plans(declarations, purge, returns, True, warn)
            return _carry_out(declarations, plans, host, lock, parallel, stop_at_failure)
    except (LockError, ToolstackError) as error:
        raise Refused(str(error)) from error
    except OSError as error:  # before anything began: the runner handles its own errors
        raise Refused(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def _declared(options: list[dict[str, Any]]) -> list[Declaration]:
    try:
        declarations = declarations_of([with_shared(each) for each in options], platform.node())
    except SpecError as error:
        raise Refused(str(error)) from error
    _refuse(clashes(declarations) + outside_networks(declarations, bridge_networks(), offered()))
    return declarations


def _refuse(problems: list[str]) -> None:
    if problems:
        raise Refused("; and ".join(dict.fromkeys(problems)))


def _look(declarations: list[Declaration]) -> Host:
    files = {origin.path: origin.format for declaration in declarations for origin in declaration.origins}
    scheduling = any(declaration.domain.cpu_weight != CPU_WEIGHT or declaration.domain.cap for declaration in declarations)
    host = observe(files, scheduling)
    # Only a missing disk raises the question of who had it.
    missing = [path for path in files if path not in host.disk_sizes and not CONTENT_PATH.fullmatch(path)]
    return dataclasses.replace(host, former_disks=former_disks.read()) if missing else host


def _settled(declarations: list[Declaration], purge: bool, warn: Callable[[str], None]) -> Host:
    """Observe the host once none of these domains is dying: until then Xen keeps its name, its memory and its disks."""
    names = {declaration.name for declaration in declarations}
    host = _look(declarations)

    def ending() -> list[Observed]:
        dying = [one for one in host.domains if one.state == "dying"]
        return [one for one in dying if base_name(one.domain.name) in names or (purge and host.owns(one))]

    end = time.monotonic() + DYING_SECONDS
    while ending() and time.monotonic() < end:
        time.sleep(_BETWEEN)
        host = _look(declarations)
    for one in ending():
        warn(f"domain {one.domain.name}: has been ending for {DYING_SECONDS} s (id {one.domid}); Xen keeps its name until then")
    return host


def _plans(
    declarations: list[Declaration], purge: bool, returns: bool, real: bool, warn: Callable[[str], None]
) -> tuple[list[Plan], Host]:
    """Plan every declaration, after all checks that need the host."""
    host = _settled(declarations, purge, warn)
    plans, problems = [], []
    if purge:
        kept = {declaration.name for declaration in declarations}
        for name in sorted(host.ours - kept):
            try:
                declarations = [*declarations, declaration_of({"name": name, "state": "absent"}, platform.node())]
            except SpecError as error:
                problems.append(f"purge: {error}; rename or remove it by hand")
    for declaration in declarations:
        try:
            plans.append(plan(declaration, host))
        except SpecError as error:
            problems.append(str(error))
    problems += filter(None, [memory_shortage(plans, host)])
    problems += strangers(declarations, host.domains) + shared_disks(declarations, host.domains)
    problems += removed_disks(declarations, host)
    present = [declaration for declaration in declarations if declaration.state != "absent"]
    problems += filter(None, [cpu_refusal(declaration.domain, host) for declaration in present])
    kernels = preconditions.Kernels()
    problems += preconditions.report([preconditions.check(each, host, kernels, returns) for each in plans], real, warn)
    _refuse(problems)
    return plans, host


def _carry_out(
    declarations: list[Declaration], plans: list[Plan], host: Host, lock: Lock, parallel: int, stop_at_failure: bool
) -> list[Result]:
    if not any(each.phases or each.cleanup for each in plans):
        return [_result(each, {"failed": False, "steps": []}, host, host) for each in plans]
    hypercalls = bindings()
    runner = Runner(lambda: _look(declarations), lambda: Performer(hypercalls), lock.note, host.free_memory)
    ordered = in_order(plans, host)
    outcomes, seen = runner.run(ordered, parallel, stop_at_failure)
    by_name = {each.name: outcome for each, outcome in zip(ordered, outcomes)}
    return [_result(each, by_name[each.name], host, seen) for each in plans]


def _predicted(each: Plan, verbose: bool) -> Result:
    result: Result = {
        "name": each.name,
        "state": each.declaration.state,
        "changed": each.changed,
        "failed": False,
        "steps": each.titles,
        "differs": list(each.differs),
        "diff": _diff(each.before, each.after),
    }
    if verbose:
        result["primitives"] = [str(step) for step in each.steps]
    return result


def _diff(before: dict[str, Any], after: dict[str, Any]) -> Diff:
    """Return a diff; if the sides differ, image names replace the store's paths."""
    if before == after:
        return {"before": before, "after": after}
    return {"before": with_image(before, image_name), "after": with_image(after, image_name)}


def _result(each: Plan, outcome: Outcome, before: Host, after: Host | None) -> Result:
    result: Result = {
        "name": each.name,
        "state": _state(each.name, after) if after else "unknown",
        "changed": _differs(each, outcome, before, after) if outcome["failed"] and after else bool(outcome["steps"]),
        "differs": list(each.differs),
        "diff": _diff(each.before, each.after),
        "failed": outcome["failed"],
        "steps": outcome["steps"],
    }
    for key in ("downtime_ms", "skipped", "msg", "rolled_back"):
        if key in outcome:
            result[key] = outcome[key]
    if outcome["failed"]:
        result["console"] = outcome.get("console", [])[-console.LINES :]
        result["diff"] = _diff(each.before, _view(each, after) if after else {"state": "unknown"})
    return result


def _differs(each: Plan, outcome: Outcome, before: Host, after: Host) -> bool:
    """True if a domain is not as it was before a failed run. Disks that were made or grown stay so."""
    disks = any(title.startswith(("make_disk ", "grow_disk ")) for title in outcome["steps"])
    return disks or _view(each, before) != _view(each, after)


def _state(name: str, host: Host) -> str:
    observed = host.find(name)
    if observed:
        return observed.state
    return "stopped" if name in host.definitions else "absent"


def _view(each: Plan, host: Host) -> dict[str, Any]:
    """Return what was observed of a domain, in the words of the options."""
    observed = host.find(each.name)
    domain = described(observed, host.definitions.get(each.name)).domain if observed else None
    return view(domain, _state(each.name, host), each.name in host.autostart, each.wanted)
