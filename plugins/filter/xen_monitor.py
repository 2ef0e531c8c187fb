# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for the role xen_monitor: check its variables and configure the exporter."""

from __future__ import annotations

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.host import monitor


def monitor_problems(values: dict[str, Any]) -> list[str]:
    """Return one line for each of the role's variables that is wrong. ``values``: variable -> value."""
    return monitor.variable_refusals(values)


def exporter_arguments(listen: list[str], folder: str, tls: Any) -> list[str]:
    """Return node_exporter's arguments, for a systemd unit."""
    return monitor.exporter_arguments(listen, folder, bool(tls))


def exporter_tls_files(certificate: str, key: str, client_ca: str) -> dict[str, list[Any]]:
    """Return options of host_files: TLS files of node_exporter (folders, files), and those to remove (absent)."""
    return monitor.tls_files(certificate, key, client_ca)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "monitor_problems": monitor_problems,
            "exporter_arguments": exporter_arguments,
            "exporter_tls_files": exporter_tls_files,
        }
