#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: standin_image
short_description: Build a stand-in, a Linux image in place of a unikernel
version_added: 0.1.0
description:
  - Joins a Debian kernel, a small initramfs and one program of Debian into one PVH image that takes the boot arguments of a
    MirageOS unikernel and serves HTTP, DNS or OpenVPN. For controllers that can't get OCaml's packages.
  - It is not a unikernel, and its ELF notes, the store's listing and its console state that.
  - The first time it needs mmdebstrap where it runs. The packages are fetched in a sandbox (bubblewrap) and unpacked in another
    one without a network, as the user for builds if root runs the module; no program or script of them is run.
  - If bubblewrap can't create a sandbox, root only drops its rights, and any other user gets an error.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  service:
    description: What it serves.
    type: str
    choices: [web, dns, vpn]
    required: true
  files:
    description: Folder with the stand-ins' first process and services (role P(unikernels.xen.unikernel_images#role)).
    type: path
    required: true
  store:
    description: Folder of the images.
    type: path
    default: /var/lib/unikernels/images
  cache:
    description: Folder for Debian's packages and for what was built before.
    type: path
    required: true
  content:
    description: Folder to serve, for O(service=web). Links that lead out of it are refused.
    type: path
  suite:
    description: Debian release to take kernel and program from.
    type: str
    default: bookworm
  signing_key:
    description: Key file of ssh that signs the stand-in's statement, see M(unikernels.xen.mirage_image).
    type: path
  sources:
    description: Lines of a sources.list to take them from. By default mmdebstrap's own.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Build a stand-in for the DNS resolver
  unikernels.xen.standin_image:
    service: dns
    files: "{{ standin_files }}"
    store: "{{ store }}"
    cache: "{{ cache }}"
"""

RETURN = r"""
sha256:
  description: The image's digest; none in check mode when it has yet to be built.
  returned: success
  type: str
path:
  description: Where it is stored.
  returned: success
  type: str
sidecars:
  description: The statement's and the signature's file name, where they are, to their sha256.
  returned: success
  type: dict
origin:
  description: What its statement says that it is, C(uri).
  returned: success
  type: dict
  version_added: 0.2.0
standin:
  description: Always true.
  returned: success
  type: bool
"""

from ansible_collections.unikernels.xen.plugins.module_utils.image.addresses import AddressModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.origin import STANDIN
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError, attach, sidecars
from ansible_collections.unikernels.xen.plugins.module_utils.image.standin import PROGRAMS, Wanted, build
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError


def main() -> None:
    module = AddressModule(
        argument_spec={
            "service": {"type": "str", "choices": list(PROGRAMS), "required": True},
            "files": {"type": "path", "required": True},
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "cache": {"type": "path", "required": True},
            "content": {"type": "path"},
            "suite": {"type": "str", "default": "bookworm"},
            "signing_key": {"type": "path", "no_log": False},
            "sources": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wanted = Wanted(params["service"], params["files"], params["content"], params["suite"], params["sources"])
        changed, manifest = build(params["store"], params["cache"], wanted, module.check_mode)
        if params["signing_key"] and manifest["sha256"]:
            changed = attach(params["store"], manifest["sha256"], b"", params["signing_key"], module.check_mode) or changed
        if manifest["sha256"]:
            manifest["sidecars"] = sidecars(params["store"], manifest["sha256"])
    except (StoreError, BuildError, SignatureError, OSError) as error:
        module.fail_json(msg=f"stand-in for {params['service']}: {error}")
    module.exit_json(changed=changed, origin={"uri": STANDIN + params["service"]}, **manifest)


if __name__ == "__main__":
    main()
