#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_image
short_description: Put a unikernel's image into a store
version_added: 0.1.0
description:
  - Takes a finished image from a file or a URL, checks that Xen can boot it as PVH and that its digest is the declared one,
    and stores it under its sha256. An image that is there is never written again.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Not supported.
    support: none
options:
  store:
    description: Folder of the images.
    type: path
    default: /var/lib/unikernels/images
  file:
    description: A finished image on the machine where the task runs.
    type: path
  url:
    description: Where to get a finished image. Needs O(sha256).
    type: str
  sha256:
    description: Digest that the image must have.
    type: str
  name:
    description: A name for the description beside the image.
    type: str
    default: ""
seealso:
  - module: unikernels.xen.mirage_image_info
"""

EXAMPLES = r"""
- name: Store an image that 'make build' left
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    file: "{{ image_file }}"
    name: hello
  register: hello
"""

RETURN = r"""
sha256:
  description: The image's digest.
  returned: success
  type: str
path:
  description: Where it is stored.
  returned: success
  type: str
size:
  description: Its size in bytes.
  returned: success
  type: int
target:
  description: V(xen) for a Solo5 image, V(standin), or V(pvh) for another PVH kernel.
  returned: success
  type: str
standin:
  description: Whether it only stands in for a unikernel.
  returned: success
  type: bool
devices:
  description: Devices that its Solo5 manifest names.
  returned: success
  type: list
  elements: dict
"""

import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, describe, image_path, put


def download(module: AnsibleModule, url: str, folder: str) -> str:
    response, info = fetch_url(module, url, timeout=60)
    if info["status"] != 200:
        raise StoreError(f"url {url}: {info['msg']}")
    path = os.path.join(folder, "image")
    with open(path, "wb") as file:
        while True:
            block = response.read(1 << 20)
            if not block:
                return path
            file.write(block)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "file": {"type": "path"},
            "url": {"type": "str"},
            "sha256": {"type": "str"},
            "name": {"type": "str", "default": ""},
        },
        mutually_exclusive=[("file", "url")],
        required_one_of=[("file", "url")],
        required_by={"url": ["sha256"]},
        supports_check_mode=True,
    )
    params = module.params
    digest = (params["sha256"] or "").lower()
    if params["sha256"] and not re.fullmatch("[0-9a-f]{64}", digest):
        module.fail_json(msg=f"sha256: {params['sha256']!r} is not 64 hexadecimal digits")
    try:
        if params["url"]:
            if os.path.exists(image_path(params["store"], digest)):
                module.exit_json(changed=False, **describe(params["store"], digest))
            with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
                path = download(module, params["url"], folder)
                extra = {"name": params["name"], "source": params["url"]}
                changed, manifest = put(params["store"], path, digest, extra, module.check_mode)
        else:
            extra = {"name": params["name"], "source": os.path.basename(params["file"])}
            changed, manifest = put(params["store"], params["file"], digest or None, extra, module.check_mode)
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, **manifest)


if __name__ == "__main__":
    main()
