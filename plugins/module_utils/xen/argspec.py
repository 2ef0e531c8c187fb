# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A list of domains by the argument spec of the module xen_domain, so that the same words mean the same in both modules.

Not as suboptions of xen_domains, whose documentation would be xen_domain's once more.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..domain.fields import DISK, DOMAIN, Field, argument_spec
from ..domain.options import whole_number


def typed(domains: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], set[str]]:
    """The domains' options with Ansible's types and defaults, and what must be in no log.

    What Ansible refuses is left as it is: `declaration_of` refuses it too, in words that name the domain, all at once.
    """
    validator = ArgumentSpecValidator(argument_spec(DOMAIN))
    options, secrets = [], set()
    for domain in domains:
        secrets |= _contents(domain)
        given = _given(domain)
        if not _numbers_hold(given, DOMAIN):
            options.append(given)  # Ansible would work out every digit of 1e999999999
            continue
        try:
            result = validator.validate(given)
        except (ArithmeticError, ValueError, TypeError, RecursionError):  # as a number without an end: Ansible's conversion fails
            options.append(given)
        else:
            options.append(given if result.error_messages else result.validated_parameters)
    return options, secrets


def _numbers_hold(options: dict[str, Any], fields: tuple[Field, ...]) -> bool:
    """Is every text in the place of a number one of reasonable length?"""
    for field in fields:
        value = options.get(field.name)
        if field.type == "int" and isinstance(value, str) and isinstance(whole_number(value), str):
            return False
        devices = value if field.options and isinstance(value, list) else []
        if not all(_numbers_hold(device, field.options) for device in devices if isinstance(device, dict)):
            return False
    return True


def _contents(domain: dict[str, Any]) -> set[str]:
    """What DISK's no_log means, for options that are not checked yet: a refusal prints them."""
    hidden = [field.name for field in DISK if field.no_log]
    disks = domain.get("disks")
    found = [disk.get(name) for disk in (disks if isinstance(disks, list) else []) if isinstance(disk, dict) for name in hidden]
    return {value for value in found if isinstance(value, str) and value}


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
