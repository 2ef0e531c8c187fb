# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that check whether a machine can be a Xen host and whether its declaration fits."""

from __future__ import annotations

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ROLE_KEYS, declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Declaration
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import one_line
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_menu, preflight
from ansible_collections.unikernels.xen.plugins.module_utils.host.variables import is_on


def _declarations(unikernels: list[dict[str, Any]], host: str) -> list[Declaration]:
    found = []
    for one in unikernels:
        plain = {key: value for key, value in one.items() if key not in ROLE_KEYS} if isinstance(one, dict) else one
        # The image's file is not known yet; any absolute path serves as placeholder. Also without an image, so that a misspelt
        # "image" is reported as the unknown key that it is.
        found.append(declaration_of(plain, host, kernel=None if isinstance(one, dict) and one.get("kernel") else "/image"))
    return found


def placement_problems(
    unikernels: list[dict[str, Any]], info: dict[str, Any], dom0_memory: int, bridge: str, host: str,
    domain_cpus: Any = "", smt: Any = True,
) -> list[str]:  # fmt: skip
    """Return one line for each reason why the host can't run what is declared for it."""
    declarations = _declarations(unikernels, host)
    lines = preflight.placement_refusals(declarations, info, int(dom0_memory), bridge)
    return lines + preflight.pinning_refusals(declarations, info, domain_cpus, is_on(smt))


def host_problems(info: dict[str, Any], dom0_memory: int, bridge: str, manage_network: bool) -> list[str]:
    """Return one line for each reason why a machine can't be a Xen host."""
    lines = preflight.host_refusals(info, int(dom0_memory), bridge, is_on(manage_network))
    return [one_line(line) for line in lines]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "placement_problems": placement_problems,
            "host_problems": host_problems,
            "twin_problems": preflight.twin_refusals,
            "differing_arguments": boot_menu.differing_arguments,
        }
