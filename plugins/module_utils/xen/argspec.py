# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A list of domains by the argument spec of the module xen_domain, so that the same words mean the same in both modules.

Not as suboptions of xen_domains, whose documentation would be xen_domain's once more.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..domain.fields import DOMAIN, argument_spec


def typed(domains: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], set[str], list[str]]:
    """The domains' options with Ansible's types and defaults, what must be in no log, and one line for each problem."""
    validator = ArgumentSpecValidator(argument_spec(DOMAIN))
    options, secrets, problems = [], set(), []
    for index, domain in enumerate(domains):
        where = f"domain {domain['name']}" if isinstance(domain.get("name"), str) else f"domains[{index}]"
        try:
            result = validator.validate(_given(domain))
        except (ArithmeticError, ValueError) as error:  # a number without an end, on which Ansible's own conversion fails
            problems.append(f"{where}: {error}")
            continue
        secrets |= result._no_log_values
        problems += [f"{where}: {' '.join(message.split())}" for message in result.error_messages]
        options.append(result.validated_parameters)
    return options, secrets, problems


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, which means not given; in devices too."""
    given = {key: value for key, value in options.items() if value is not None}
    for key in ("interfaces", "disks"):
        if isinstance(given.get(key), list):
            given[key] = [
                {option: value for option, value in device.items() if value is not None} if isinstance(device, dict) else device
                for device in given[key]
            ]
    return given
