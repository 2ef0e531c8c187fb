#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_image_info
short_description: What a store of images holds
version_added: 0.1.0
description:
  - Lists the images of a store and what each says of itself, and which of the wanted ones are missing. Read-only.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  store:
    description: Folder of the images.
    type: path
    default: /var/lib/unikernels/images
  wanted:
    description: Digests to look for.
    type: list
    elements: str
    default: []
  verify:
    description: Read every image and compare it with its digest, and look for what does not belong there.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: List the images of a host
  unikernels.xen.mirage_image_info:
    store: "{{ store }}"
    verify: true
  register: images
"""

RETURN = r"""
images:
  description: The stored images, each with C(sha256), C(path), C(size), C(target), C(standin), C(name).
  returned: always
  type: list
  elements: dict
names:
  description: Name to the digests that it means and meant before, the present one first.
  returned: always
  type: dict
problems:
  description: One line for everything that is not as it should be.
  returned: with O(verify=true)
  type: list
  elements: str
missing:
  description: Digests of O(wanted) that are not in the store.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, fsck, listing, names


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "wanted": {"type": "list", "elements": "str", "default": []},
            "verify": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    images = listing(module.params["store"])
    there = {image["sha256"] for image in images}
    missing = [digest for digest in module.params["wanted"] if digest not in there]
    try:
        problems = {"problems": fsck(module.params["store"])} if module.params["verify"] else {}
        module.exit_json(changed=False, images=images, missing=missing, names=names(module.params["store"]), **problems)
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
