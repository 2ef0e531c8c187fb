#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_image_info
short_description: List the images of a store
version_added: 0.1.0
description:
  - Lists the images of a store with their descriptions, the packages that were built into them, and which wanted images are
    missing. Read-only.
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
  packages:
    description: List the packages of each image that was built from source, as its statement of provenance names them.
    type: bool
    default: false
    version_added: 0.2.0
  advisories:
    description: >-
      Text of advisories in OSV's form, a JSON list or one in each line, of ecosystem C(opam); for example a file that was
      carried to a machine without network. Affected packages are returned for each image. Implies O(packages=true).
    type: str
    version_added: 0.2.0
  definitions:
    description: Folder of the domains' definitions, for RV(vulnerable).
    type: path
    default: /etc/xen/unikernels
    version_added: 0.2.0
  verify:
    description: Read every image, compare it with its digest, and list files that do not belong there.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: List the images of a host
  unikernels.xen.mirage_image_info:
    store: "{{ store }}"
    verify: true
  register: images

- name: Which images have a package that is known to be vulnerable?
  unikernels.xen.mirage_image_info:
    store: "{{ store }}"
    advisories: "{{ lookup('ansible.builtin.file', advisories) | string }}"
  register: images
"""

RETURN = r"""
images:
  description: >-
    The stored images, each with C(sha256), C(path), C(size), C(target), C(standin), C(name), where its description can't be
    used C(problem), with O(packages=true) C(packages) (C(name), C(version)), and with O(advisories) C(vulnerable) (C(name),
    C(version), C(advisory)).
  returned: always
  type: list
  elements: dict
names:
  description: Name to the digests of its image and its previous images, the current one first.
  returned: always
  type: dict
problems:
  description: >-
    One line for each problem: with O(verify=true) of the whole store, else for files that could not be read.
  returned: always
  type: list
  elements: str
vulnerable:
  description: One line for each package with an advisory that an image of a defined domain has.
  returned: with O(advisories)
  type: list
  elements: str
missing:
  description: Digests of O(wanted) that are not in the store.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.advisories import AdvisoriesError
from ansible_collections.unikernels.xen.plugins.module_utils.image.overview import overview
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "wanted": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "bool", "default": False},
            "advisories": {"type": "str"},
            "definitions": {"type": "path", "default": "/etc/xen/unikernels"},
            "verify": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = overview(
            params["store"], params["wanted"], params["verify"], params["packages"], params["advisories"], params["definitions"]
        )
    except AdvisoriesError as error:
        module.fail_json(msg=f"advisories: {error}")
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
