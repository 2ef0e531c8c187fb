# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for the networks that a host offers."""

from __future__ import annotations

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.network.offered import main_bridge, offered_networks


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"offered_networks": offered_networks, "main_bridge": main_bridge}
