# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: debian_sources
short_description: Returns this machine's Debian mirror as lines of a sources.list
version_added: 0.1.0
description:
  - Reads apt's own configuration, so that a virtual machine or a stand-in is made from the mirror that the controller uses,
    with its security updates, and no host name is written anywhere.
author:
  - unikernels.xen authors (@unikernels)
options:
  _terms:
    description: Names of Debian releases.
    required: true
"""

EXAMPLES = r"""
- name: Show them
  ansible.builtin.debug:
    msg: "{{ lookup('unikernels.xen.debian_sources', 'bookworm', wantlist=true) }}"
"""

RETURN = r"""
_raw:
  description: Lines of a sources.list; none when apt does not say.
  type: list
  elements: str
"""

import subprocess
from typing import Any

from ansible.plugins.lookup import LookupBase

FORMAT = "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)"


def lines_for(listing: str, suite: str) -> list[str]:
    """Return apt's targets (in FORMAT) as lines for another release; a suite such as trixie-security follows the release."""
    found = []
    for line in listing.splitlines():
        parts = line.split("|")
        if len(parts) != 4 or parts[0] != "Debian" or parts[1] != "main":
            continue
        _own, dash, pocket = parts[3].partition("-")
        if pocket not in ("", "updates", "security"):
            continue
        entry = f"deb {parts[2]} {suite}{dash}{pocket} main"
        if entry not in found:
            found.append(entry)
    return found


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        command = ["apt-get", "indextargets", "--format", FORMAT, "Created-By: Packages"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return [entry for suite in terms for entry in lines_for(done.stdout, suite)]
