#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_toolchain
short_description: Install MirageOS's toolchain at pinned versions, in a folder of its own
version_added: 0.1.0
description:
  - An opam root with one switch of OCaml, solo5, ocaml-solo5, mirage and opam-monorepo, apart from any user's C(~/.opam). A
    complete toolchain is left as it is; other versions recreate it. An interrupted build resumes after the last completed step.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  folder:
    description: Where it is.
    type: path
    default: /opt/unikernels/toolchain
  ocaml:
    description: Version of OCaml.
    type: str
    required: true
  packages:
    description: Package of opam to its version; C(mirage) must be one.
    type: dict
    required: true
  archive:
    description: >-
      Address of opam's package archive or a mirror of it, with C(#revision) behind a C(git+) address, or a folder. Empty for
      the one that opam itself knows. An unreachable archive is reported within seconds, before anything is compiled.
    type: str
    default: ""
  opam:
    description: Path of the program opam, if not Debian's.
    type: str
    default: opam
  proxy:
    description: HTTP proxy for opam, in builds too. Never part of a log or a statement.
    type: str
    default: ""
  mirrors:
    description:
      - Addresses or folders where opam looks for the sources of packages first, its C(archive-mirrors). A file of them is
        C(ALGORITHM/FIRST-TWO-DIGITS/DIGEST), as C(opam admin cache) and an opam root's C(download-cache) have it.
      - Builds use them too.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  overlays:
    description: >-
      Package repositories that C(mirage configure) asks for when a lock file is made, name to the address or folder where they
      are to be got instead.
    type: dict
    default: {}
    version_added: 0.2.0
  sandbox:
    description: Run the build scripts of packages in a sandbox, as in M(unikernels.xen.mirage_image).
    type: bool
    default: true
    version_added: 0.2.0
  timeout:
    description: Seconds that each step may take.
    type: int
    default: 7200
seealso:
  - module: unikernels.xen.mirage_image
"""

EXAMPLES = r"""
- name: Make the toolchain from a mirror in a folder
  unikernels.xen.mirage_toolchain:
    folder: "{{ toolchain_folder }}"
    archive: "{{ opam_archive }}"
    opam: "{{ opam }}"
    ocaml: 5.4.1
    packages:
      mirage: 4.11.2
      opam-monorepo: 0.4.3
      solo5: 0.12.1
      ocaml-solo5: 1.3.3
"""

RETURN = r"""
versions:
  description: Versions of the toolchain's parts.
  returned: success
  type: dict
"""

import re

from ansible_collections.unikernels.xen.plugins.module_utils.image.addresses import AddressModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.toolchain import Wanted, make


def main() -> None:
    module = AddressModule(
        argument_spec={
            "folder": {"type": "path", "default": "/opt/unikernels/toolchain"},
            "ocaml": {"type": "str", "required": True},
            "packages": {"type": "dict", "required": True},
            "archive": {"type": "str", "default": ""},
            "opam": {"type": "str", "default": "opam"},
            "proxy": {"type": "str", "default": ""},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "overlays": {"type": "dict", "default": {}},
            "sandbox": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 7200},
        },
        supports_check_mode=True,
    )
    packages = {str(name): str(version) for name, version in module.params["packages"].items()}
    overlays = {str(name): str(address) for name, address in module.params["overlays"].items()}
    mirrors = tuple(module.params["mirrors"])
    wanted = Wanted(**{**module.params, "packages": packages, "overlays": overlays, "mirrors": mirrors})
    try:
        changed = make(wanted, module.check_mode)
    except BuildError as error:
        module.fail_json(msg=re.sub("^(toolchain: )?", "toolchain: ", str(error)))
    except OSError as error:
        module.fail_json(msg=f"toolchain: {error.filename}: {error.strerror}")
    module.exit_json(changed=changed, versions=wanted.versions())


if __name__ == "__main__":
    main()
