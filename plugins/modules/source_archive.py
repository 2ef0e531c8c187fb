#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: source_archive
short_description: Pack a unikernel's sources into one file, for a builder that is another machine
version_added: 0.1.0
description:
  - Writes a tar file that is named by its content, so that unchanged sources are not sent again.
    M(unikernels.xen.mirage_image) builds from it.
  - Leaves out what C(.gitignore) names and what a build creates.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  source:
    description: Folder with C(config.ml) on the machine where the task runs.
    type: path
    required: true
  overlay:
    description: Folders that are copied over the source's, as in M(unikernels.xen.mirage_image).
    type: dict
    default: {}
  name:
    description: Name of the image that will be built. Letters, digits and C(. _ + -). By default the folder's name.
    type: str
    default: ""
  folder:
    description: Where the archive is written.
    type: path
    required: true
seealso:
  - module: unikernels.xen.mirage_image
"""

EXAMPLES = r"""
- name: Pack a unikernel's sources
  unikernels.xen.source_archive:
    source: "{{ unikernel_source }}"
    folder: "{{ work }}/sources"
  register: packed

- name: Build from them
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    work: "{{ work }}"
    toolchain: "{{ toolchain }}"
    source: "{{ packed.path }}"
"""

RETURN = r"""
path:
  description: The archive, C(NAME-SHA256.tar) in O(folder).
  returned: success
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.archive import pack
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import local_folder
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError, config_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import NAME


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "overlay": {"type": "dict", "default": {}},
            "name": {"type": "str", "default": ""},
            "folder": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    source = local_folder(params["source"])
    name = params["name"] or os.path.basename(source)
    if not NAME.fullmatch(name):
        module.fail_json(msg=f"name: {name!r} may have letters, digits and . _ + - only, at most 64")
    overlay = tuple((str(path), local_folder(str(folder))) for path, folder in sorted(params["overlay"].items()))
    try:
        config_of(source, overlay)
        changed, path = pack(source, overlay, name, params["folder"], module.check_mode)
    except BuildError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or source}: {error.strerror}")
    module.exit_json(changed=changed, path=path)


if __name__ == "__main__":
    main()
