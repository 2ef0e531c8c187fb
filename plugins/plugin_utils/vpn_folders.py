# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read the folders of a host's VPN endpoints for the declaration. Imports cryptography only if needed."""

from __future__ import annotations

import datetime
import os
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Resolved
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import holds_unresolved
from ansible_collections.unikernels.xen.plugins.module_utils.service import vpn
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import Server, servers
from ansible_collections.unikernels.xen.plugins.module_utils.service.vpn_config import Material


def default_folder(host: str, name: str) -> str:
    return os.path.join(os.path.expanduser("~"), ".local/state/unikernels.xen", host, name)


def _absolute(values: dict[str, Any], key: str) -> None:
    folder = values.get(key)
    if isinstance(folder, str):
        values[key] = os.path.realpath(os.path.expanduser(folder)) if "\0" not in folder else "/"


def with_keys(host: str, values: dict[str, Any], lines: list[str]) -> Resolved:
    """Return ``values`` with absolute folders, and what these contain; add a line for each thing that is wrong there."""
    _absolute(values, "vpn_pki")
    for item in values["vpn_endpoints"] if isinstance(values.get("vpn_endpoints"), list) else []:
        if isinstance(item, dict):
            _absolute(item, "pki")
    mine = {key: value for key, value in values.items() if key.startswith("vpn_")}
    if any(holds_unresolved(value) for value in mine.values()):
        return Resolved(values)
    folders: dict[str, str] = {}
    materials: dict[str, Material] = {}
    for endpoint in servers(vpn.NAME, vpn.OPTIONS, mine, lambda _line: None):
        name = vpn.name_of(endpoint.values)
        folders[name] = default_folder(host, name)
        service = vpn.declare(endpoint.values, "", folders[name])
        # What is wrong in the declaration itself is reported where it is compiled.
        if service.keys is not None:
            material = _read(service.keys, endpoint, lines)
            if material is not None:
                materials[name] = material
    return Resolved(values, folders, materials)


def _read(keys: Any, endpoint: Server, lines: list[str]) -> Material | None:
    from ansible_collections.unikernels.xen.plugins.plugin_utils import pki as pkis

    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        found = pkis.read(keys.folder, keys.clients)
    except pkis.PkiError as error:
        lines.append(endpoint.in_users_words(f"vpn_pki: {error}", vpn.OPTIONS))
        return None
    wrong = pkis.problems(found, keys) or pkis.impossible(found, pkis.due(found, keys, now), now)
    lines += [endpoint.in_users_words(f"vpn_pki: {line}", vpn.OPTIONS) for line in wrong]
    return None if wrong else pkis.material_of(found, keys, now)


def served(folder: str) -> dict[str, Any]:
    """Return what a host records of the CA in ``folder``; see modules/vpn_ca.py."""
    from ansible_collections.unikernels.xen.plugins.plugin_utils import pki as pkis

    try:
        found = pkis.read(folder, ())
    except pkis.PkiError:  # reported already
        return {"ca": "", "health": "", "ends": {}}
    if found.ca is None or not found.tls_crypt:
        return {"ca": "", "health": "", "ends": {}}
    return {"ca": pkis.ca_id(found.ca), "health": f"{found.tls_crypt}\n{pkis.pem(found.ca)}\n", "ends": pkis.ends_of(found)}
