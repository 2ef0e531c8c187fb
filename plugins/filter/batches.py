# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A filter for the number of hosts that change at once."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.batches import batches_problem


def batches(hosts_at_once: Any) -> Any:
    """Return ``hosts_at_once`` as a play's C(serial): a number of hosts, a share such as "25%", or a list of these."""
    problem = batches_problem(hosts_at_once)
    if problem:
        raise AnsibleFilterError(problem)
    return hosts_at_once


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "batches": batches,
        }
