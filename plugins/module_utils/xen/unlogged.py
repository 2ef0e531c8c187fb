# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module class for parameters that hold secrets inside lists or mappings."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


class UnloggedModule(AnsibleModule):  # type: ignore[misc]
    """A module whose parameters are not logged: Ansible writes them to the host's log, masking only top-level ones."""

    def _log_invocation(self) -> None:
        return None
