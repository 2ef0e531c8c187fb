# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check the variables that say how a run deploys: what hosts would refuse in the middle of it is refused before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..domain.options import shown
from .batches import batches_problem
from .notices import targets_of
from .plain import flag, holds_unresolved, number
from .rollout import rollout_of

# As converge takes it.
MAX_PARALLEL = 64


def _flag(value: Any) -> str:
    return "must be true or false" if flag(value) is None else ""


def _parallel(value: Any) -> str:
    read = number(value)
    return "" if read is not None and 1 <= read <= MAX_PARALLEL else f"must be a number of domains, 1..{MAX_PARALLEL}"


def _hosts(value: Any) -> str:
    return "must be a number of hosts; 0: all" if number(value) is None or (number(value) or 0) < 0 else ""


def _host_folder(value: Any) -> str:
    whole = isinstance(value, str) and value.startswith("/") and value.isprintable()
    return "" if whole else "must be the absolute path of a folder on the host"


def _controller_folder(value: Any) -> str:
    whole = isinstance(value, str) and value.isprintable()
    return "" if whole else "must be the path of a folder on the controller"


def _name(value: Any) -> str:
    whole = isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).isprintable()
    return "" if whole else "must be text of one line"


# Variable -> why a value is none of it, without the value; "" if it is.
_CHECKS: dict[str, Callable[[Any], str]] = {
    "unikernel_purge": _flag,
    "take_ownership": _flag,
    "unikernel_parallel": _parallel,
    "unikernel_owner": _name,
    "unikernel_generations_folder": _host_folder,
    "unikernel_images_store": _host_folder,
    "rollout_copy_at_once": _hosts,
    "rollout_journal": _controller_folder,
}
_OTHERS = ("rollout", "rollout_notify", "hosts_at_once")
RUN_VARIABLES = (*_OTHERS, *_CHECKS)


def run_refusals(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each mistake. What could not be resolved was reported already."""
    known = {name: values[name] for name in RUN_VARIABLES if name in values and not holds_unresolved(values[name])}
    lines = rollout_of(known["rollout"])[1] if "rollout" in known else []
    if known.get("rollout_notify"):
        targets_of("rollout_notify", known["rollout_notify"], lines)
    lines += filter(None, [batches_problem(known["hosts_at_once"]) if "hosts_at_once" in known else ""])
    for name, wrong in _CHECKS.items():
        words = wrong(known[name]) if name in known else ""
        lines += [f"{name}: is {shown(known[name])}, {words}"] if words else []
    return lines
