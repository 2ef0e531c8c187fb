#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: content_store
short_description: Keep the archives that a host's disks are made from
version_added: 0.2.0
description:
  - Reports which archives C(/var/lib/unikernels/content) lacks, verifies those that have arrived by their digests, and removes
    those that no generation of the host names.
  - M(unikernels.xen.xen_domains) calls it with what its O(unikernels.xen.xen_domains#module:contents) has.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  wanted:
    description: SHA-256 of each archive that the host must have.
    type: list
    elements: str
    required: true
  arrived:
    description: Folder on the host with archives that have arrived, each C(SHA256.tar). Without it nothing is changed.
    type: path
"""

EXAMPLES = r"""
- name: Find which archives the host lacks
  unikernels.xen.content_store:
    wanted: [9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08]
  register: contents
"""

RETURN = r"""
missing:
  description: Digests of archives that the host lacks.
  returned: success
  type: list
  elements: str
taken:
  description: Digests of archives that were taken in.
  returned: success
  type: list
  elements: str
removed:
  description: Files that were removed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.contents import receive
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError
from ansible_collections.unikernels.xen.plugins.module_utils.service.content_disk import STORE


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "wanted": {"type": "list", "elements": "str", "required": True},
            "arrived": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = receive(STORE, params["wanted"], params["arrived"] or "", module.check_mode)
    except StoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or STORE}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
