# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A part of a wave's bake: wait, and meanwhile run the checks that are made from the controller."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

from ansible.utils.display import Display
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import course
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import State, moment_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import Rollout
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.watching import Watch
from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import ask_all, declared_checks
from ansible_collections.unikernels.xen.plugins.plugin_utils import outside


def bake(state: State, rollout: Rollout, wave: int, variables: Mapping[str, Any], until: int, failed: set[str]) -> dict[str, Any]:
    """Watch until ``until`` seconds after the bake began, or until too much is bad. ``failed``: hosts that failed already."""
    deployed = variables["unikernels_xen_deployed"]
    earlier = variables.get("unikernels_xen_bake") or {}
    earlier = earlier if earlier.get("wave") == wave else {}
    bad, ill = str(earlier.get("bad") or ""), dict(earlier.get("ill") or {})
    began, end = float(deployed["began"]), float(deployed["began"]) + until
    queries, health, extra = Watch(rollout.failures), Watch(rollout.failures), rollout.failures
    checks = _checks(rollout, [host for host in deployed["watched"] if host not in ill], variables)
    _line(state, wave, began, rollout)
    while not bad and len(failed | set(ill)) <= state.max_failed:
        asked = time.time()
        # By number: two servers may get the same query, and one query may have two bounds.
        queries.take({str(index): bad for index, bad in enumerate(outside.ask_all(rollout.queries))})
        health.take(_answers(checks))
        bad = "; ".join(queries.bad.values())
        ill.update({name.partition("\n")[0]: words for name, words in health.bad.items()})
        over = time.time() >= end
        # A check that first fails at the very end still gets its remaining tries.
        if over and not (extra and (queries.doubtful or health.doubtful)):
            break
        extra -= 1 if over else 0
        pause = asked + rollout.every - time.time()
        time.sleep(max(0.0, pause if over else min(pause, end - time.time())))
    over = bool(bad) or len(failed | set(ill)) > state.max_failed
    return {"wave": wave, "over": over, "bad": bad, "ill": ill, "msg": [bad] if bad else []}


def _line(state: State, wave: int, began: float, rollout: Rollout) -> None:
    """Print the progress for whoever follows the run on a terminal."""
    spent = int(time.time() - began)
    now = moment_of(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    if rollout.bake:
        Display().display(
            f"{course.progress(state, wave, now, rollout.bake)}; watched {min(spent, rollout.bake)} of {rollout.bake} s"
        )


def _checks(rollout: Rollout, hosts: list[str], variables: Mapping[str, Any]) -> list[Any]:
    """Return the health checks to run from the controller. Each name is HOST, a newline, and the domain."""
    if "controller" not in rollout.watchers:
        return []
    texts, checks = (variables.get("unikernels_xen_fleet") or {}).get("hosts", {}), []
    for host in hosts:
        try:
            for name, health in declared_checks(json.loads(texts.get(host, "{}")).get("unikernels", [])):
                checks.append((f"{host}\n{name}", dataclasses.replace(health, within=min(health.within, rollout.every))))
        except SpecError:
            continue
    return checks


def _answers(checks: list[Any]) -> dict[str, str]:
    return {
        answer["name"]: f"from the controller: {answer['msg']}".replace("\n", " ") if not answer["healthy"] else ""
        for answer in (ask_all(checks) if checks else [])
    }
