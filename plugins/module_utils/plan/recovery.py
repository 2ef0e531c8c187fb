# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one way back: from whatever a change left behind to the domain that was there before. Pure.

A run that fails and the next run after one that died use the same functions. The facts come from Xen (names that end in ``~next``
and ``~prev``) and from the intent, a file that a change writes before it creates anything and that `Define` removes:

- an intent: the change was not completed. If what runs under the name matches the intent, it was never healthy.
- a ``~prev`` without an intent: the new domain is healthy and defined; only destroying the old one was left to do.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

from ..domain.compare import differences
from ..domain.observed import Host, Observed, defined_memory
from ..domain.spec import NEXT, PREVIOUS, Declaration, Domain
from ..domain.xl_config import EXTRA, extra_config, notes_of, xl_config
from .plan import Former, Phase
from .replace import healthy, live
from .steps import (
    Autostart,
    Build,
    Define,
    Destroy,
    ForgetConsole,
    JoinBridge,
    LeaveBridge,
    NoAutostart,
    Pause,
    RemoveIntent,
    Rename,
    ReopenConsoles,
    Step,
    Undefine,
    Unpause,
)

# Used in place of a definition when nobody can know the options that Xen doesn't report.
_UNKNOWN = f"{EXTRA}\ninterrupted = unknown\n"


@lru_cache(maxsize=4)  # a plan asks for the same text several times in a row, then never again
def _said(text: str) -> dict[str, Any]:
    return {"extra_config": extra_config(text), **notes_of(text)}


def described(observed: Observed, text: str | None) -> Observed:
    """Return ``observed`` with the options that Xen doesn't report filled in from ``text``, which it was created from."""
    known = _said(text or "")
    if all(getattr(observed.domain, key) == value for key, value in known.items()):
        return observed
    return dataclasses.replace(observed, domain=dataclasses.replace(observed.domain, **known))


def runs(observed: Observed, text: str) -> bool:
    """True if the domain was created from this text."""
    return _text_of(described(observed, text).domain) == text


def _origin(name: str, host: Host) -> tuple[str | None, bool]:
    """Return the text from which the domain under this name was created, and whether it has been seen healthy.

    The text is `_UNKNOWN` if an interrupted change differs only in options that Xen doesn't report: nobody can tell the two
    apart.
    """
    current, intent, definition = host.find(name), host.intents.get(name), host.definitions.get(name)
    if current is None or intent is None:
        return definition, definition is not None
    if host.find(name + PREVIOUS):
        return intent.text, False
    if not runs(current, intent.text):
        return definition, definition is not None
    if definition is None or definition == intent.text or not runs(current, definition):
        return intent.text, False
    return _UNKNOWN, True


def confirmed(name: str, host: Host) -> bool:
    """True if the domain under this name was seen healthy, or if none runs."""
    current = host.find(name)
    return current is None or not current.alive or _origin(name, host)[1]


def former_of(name: str, host: Host) -> Former:
    """Return what a change that begins now, or one that was interrupted, rolls back to."""
    previous, current, intent = host.find(name + PREVIOUS), host.find(name), host.intents.get(name)
    definition = host.definitions.get(name)
    old: Observed | None = None
    if previous:
        old = dataclasses.replace(previous, domain=dataclasses.replace(previous.domain, name=name))
    elif current and current.alive and (intent is None or confirmed(name, host)):
        old = current
    if intent and intent.former in ("running", "paused"):
        state = intent.former
    elif old:
        state = "running" if previous else old.state
    else:
        state = "stopped" if definition is not None else "absent"
    text = definition
    if text is None and old and old.domain.kernel:
        text = _text_of(old.domain)
    known = described(old, definition).domain if old else None
    return Former(state, old.domid if old else 0, known, text, definition, name in host.autostart)


def _text_of(domain: Domain) -> str | None:
    """Return the definition of a domain; None if xl can't express it (a foreign domain with a tab in its arguments)."""
    try:
        return xl_config(domain)
    except ValueError:
        return None


def way_back(name: str, host: Host, former: Former) -> list[Step]:
    """Return the steps from what is seen now to what was there before; [] if it is still there, or if there was nothing."""
    current, standby, previous = host.find(name), host.find(name + NEXT), host.find(name + PREVIOUS)
    steps: list[Step] = [Destroy(name + NEXT)] if standby else []
    returns = True
    if previous and not previous.alive and former.text is not None:
        # It crashed beside the new one and was preserved: renaming it would not revive it.
        steps.append(Destroy(name + PREVIOUS))
        previous = None
    if previous:
        steps += [Destroy(name)] if current else []
        # Until the rename it is NAME~prev, which a later run would put back in any case.
        steps += [JoinBridge(name + PREVIOUS), Rename(name + PREVIOUS, name), ReopenConsoles()]
        if former.state == "running":
            steps.append(Unpause(name))
        elif former.state == "paused" and previous.state == "running":
            steps.append(Pause(name))
    elif current and current.alive and former.domain and current.domid == former.domid:
        steps += _as_it_was(name, current, former.state, former.domain)
    elif former.alive and former.text is not None:
        steps += [Destroy(name)] if current else []
        steps.append(Build(name, former.text, defined_memory(former.text), "format=qcow2" in former.text))
        steps += [Unpause(name)] if former.state == "running" else []
    else:
        returns = current is None
    return steps + _files(name, host, former, returns)


def _as_it_was(name: str, current: Observed, state: str, domain: Domain) -> list[Step]:
    """Bring back the old domain that still has its name."""
    if state == "running" and current.state == "paused":
        return [JoinBridge(name), Unpause(name)]
    if state == "paused" and current.state == "running":
        return [Pause(name)]
    known = dataclasses.replace(current.domain, extra_config=domain.extra_config)
    return live(name, domain, current, tuple(differences(domain, known)), force=True)


def _files(name: str, host: Host, former: Former, returns: bool) -> list[Step]:
    steps: list[Step] = []
    if host.definitions.get(name) != former.definition:
        steps.append(Define(name, former.definition) if former.definition is not None else Undefine(name))
    if (name in host.autostart) != former.autostart:
        steps.append(Autostart(name) if former.autostart else NoAutostart(name))
    # A new domain that stays where there was none before keeps its intent, so that the next run checks it.
    if returns and name in host.intents:
        steps.append(RemoveIntent(name))
    return steps


def resume(declaration: Declaration, wanted: Domain, host: Host, former: Former) -> tuple[list[Phase], Observed | None]:
    """Clear up after an interrupted change. Return the phases, and the domain that runs under the name after them."""
    name = declaration.name
    current, standby, previous = host.find(name), host.find(name + NEXT), host.find(name + PREVIOUS)
    current = current if current and current.state != "dying" else None
    intent = host.intents.get(name)
    current = described(current, _origin(name, host)[0]) if current else None
    cleared = [Phase(f"destroy {name}{NEXT}", (Destroy(name + NEXT),))] if standby else []
    if previous is None:
        return cleared, current
    ended = (Destroy(name + PREVIOUS), ForgetConsole(name + NEXT), ForgetConsole(name + PREVIOUS))
    if declaration.state in ("absent", "stopped") or (intent is None and current and current.alive):
        return [*cleared, Phase(f"destroy {name}{PREVIOUS}", ended, final=True)], current
    if declaration.state == "running" and current and _is(wanted, current, host) and not grows(declaration, current, host):
        # The switch may have been interrupted too.
        steps = (LeaveBridge(name + PREVIOUS), JoinBridge(name), healthy(declaration), Define(name, xl_config(wanted)), *ended)
        return [*cleared, Phase(f"confirm {name}", steps)], current
    back = dataclasses.replace(previous, state=former.state, domain=dataclasses.replace(previous.domain, name=name))
    phase = Phase(f"put_back {name}", tuple(way_back(name, host, former)))
    return [phase], described(back, host.definitions.get(name))


def _is(wanted: Domain, current: Observed, host: Host) -> bool:
    same = current.state == "running" and current.domain.uuid == wanted.uuid
    return same and not differences(wanted, current.domain, host.default_cpus)


def grows(declaration: Declaration, current: Observed, host: Host) -> bool:
    """True if the domain has a disk open that has to grow; it must stop first."""
    paths = {disk.path for disk in current.domain.disks}
    return any(
        origin.path in paths and origin.path in host.disk_sizes and host.disk_sizes[origin.path] < origin.size
        for origin in declaration.origins
    )
