# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: silent
type: stdout
short_description: Prints nothing
version_added: 0.2.0
description:
  - For tasks that run while an inventory is read (P(unikernels.xen.xen_domains#inventory)).
author:
  - unikernels.xen authors (@unikernels)
"""

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "unikernels.xen.silent"
