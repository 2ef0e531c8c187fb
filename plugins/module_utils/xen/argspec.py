# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Validate a list of domains by the argument spec of the module xen_domain, so that both modules read the same options.

They are not suboptions of xen_domains because its documentation would then repeat xen_domain's.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..domain.fields import DISK, DOMAIN, Field, argument_spec
from ..domain.options import whole_number


def typed(domains: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the domains' options with Ansible's types and defaults, and the values that must appear in no log.

    Options that Ansible refuses are left as they are: `declaration_of` refuses them too, all at once and naming the domain.
    """
    validator = ArgumentSpecValidator(argument_spec(DOMAIN))
    options, secrets = [], set()
    for domain in domains:
        secrets |= _contents(domain)
        given = _given(domain)
        if not _numbers_hold(given, DOMAIN):
            options.append(given)  # Ansible would convert 1e999999999 digit by digit
            continue
        try:
            result = validator.validate(given)
        except (ArithmeticError, ValueError, TypeError, RecursionError):  # infinity, for example: Ansible's conversion fails
            options.append(given)
        else:
            options.append(given if result.error_messages else result.validated_parameters)
    return options, secrets


def _numbers_hold(options: dict[str, Any], fields: tuple[Field, ...]) -> bool:
    """True if every text given for a number is a whole number of reasonable length."""
    for field in fields:
        value = options.get(field.name)
        if field.type == "int" and isinstance(value, str) and isinstance(whole_number(value), str):
            return False
        devices = value if field.options and isinstance(value, list) else []
        if not all(_numbers_hold(device, field.options) for device in devices if isinstance(device, dict)):
            return False
    return True


def _contents(domain: dict[str, Any]) -> set[str]:
    """Return the values that DISK marks no_log, from options that are not checked yet: a refusal may print them."""
    hidden = [field.name for field in DISK if field.no_log]
    disks = domain.get("disks")
    found = [disk.get(name) for disk in (disks if isinstance(disks, list) else []) if isinstance(disk, dict) for name in hidden]
    return {value for value in found if isinstance(value, str) and value}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Drop null values, which mean "not given"; in devices too."""
    given = {key: value for key, value in options.items() if value is not None}
    for key in ("interfaces", "disks"):
        if isinstance(given.get(key), list):
            given[key] = [
                {option: value for option, value in device.items() if value is not None} if isinstance(device, dict) else device
                for device in given[key]
            ]
    return given
