# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse a module that was started without root, in check mode too: it would report what it can't see as missing."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def refuse_others(module: AnsibleModule, work: str, **result: Any) -> None:
    """Fail unless the module runs as root. ``work``: what only root can do on a host; ``result``: what else is returned."""
    if os.geteuid() != 0:
        module.fail_json(msg=f"only root can {work} on this host: set become: true", **result)
