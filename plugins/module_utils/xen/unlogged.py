# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module whose parameters may hold secrets deep inside."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


class UnloggedModule(AnsibleModule):  # type: ignore[misc]
    """Ansible writes a module's parameters to the host's log, and masks only what is not inside a list or mapping."""

    def _log_invocation(self) -> None:
        return None
