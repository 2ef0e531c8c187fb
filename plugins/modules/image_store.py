#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_store
short_description: Take images into a host's store, check who signed them, and remove what nothing uses
version_added: 0.1.0
description:
  - One call for a host's images, whatever their number. What arrived is verified by its digest and renamed into its
    place; what is missing comes from a mirror where one is given, or is named for the caller to ship.
  - Before a name means an image, its signature is checked, where signatures are required.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  store:
    description: Folder of the images.
    type: path
    default: /var/lib/unikernels/images
  wanted:
    description: Name to the sha256 of the image that it is to mean.
    type: dict
    default: {}
  sidecars:
    description: File name of a statement or signature to its sha256; one that differs here is missing, for it was made anew.
    type: dict
    default: {}
  shipped:
    description: >-
      What an earlier call named as missing has been shipped: an image that has not arrived whole is an error now, not missing.
    type: bool
    default: false
  statements:
    description: >-
      Files of O(wanted) that are texts, by file name: descriptions, statements and signatures, each a few KB. Those that
      are missing are written, so that images alone are left to ship.
    type: dict
    default: {}
  mirror:
    description: >-
      Address of a copy of a store, on any static HTTP(S) file server. A download that was cut goes on where it was. What
      comes from there is believed for its digest alone.
    type: str
  signature:
    description: Whether each image of O(wanted) must be signed by one who may, V(required), or may be unsigned, V(optional).
    type: str
    choices: [required, optional]
    default: required
  allowed_signers:
    description: Text of the file of that name, see ssh-keygen(1). It is kept in O(trust), for checks by hand.
    type: str
  revoked_keys:
    description: Text with one public key in a line; what these signed is refused.
    type: str
  trust:
    description: Folder for O(allowed_signers) and O(revoked_keys).
    type: path
    default: /etc/xen/unikernels
  keep:
    description: >-
      Remove images that no domain uses, and that none of the last 1 + this many meanings of a name is. Without it nothing
      is removed.
    type: int
  definitions:
    description: Folder of the domains' definitions; what they name is in use.
    type: path
    default: /etc/xen/unikernels
seealso:
  - module: unikernels.xen.mirage_image
  - module: unikernels.xen.mirage_image_info
"""

EXAMPLES = r"""
- name: Let a name mean an image that is there, and keep two for a way back
  unikernels.xen.image_store:
    store: "{{ store }}"
    wanted: "{{ {'hello': hello.sha256} }}"
    signature: optional
    keep: 2
"""

RETURN = r"""
missing:
  description: Files that are neither in the store nor have arrived whole, to be shipped into it as C(.incoming-FILE).
  returned: success
  type: list
  elements: str
taken:
  description: Digests of the images that this call took in.
  returned: success
  type: list
  elements: str
signers:
  description: Name to who signed its image, where signatures are required.
  returned: success
  type: dict
removed:
  description: Files that were (in check mode, would be) removed.
  returned: success
  type: list
  elements: str
"""

import glob
import os
import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import download
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError, verify
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    DIGEST,
    INCOMING,
    KINDS,
    DamagedArrival,
    StoreError,
    digest_of,
    image_path,
    point,
    remove,
    take,
    unused,
    write_whole,
)


def is_missing(store: str, file: str, sidecars: dict[str, Any]) -> bool:
    path = os.path.join(store, file)
    return not os.path.exists(path) or (file in sidecars and digest_of(path) != sidecars[file])


def keep_trust(params: dict[str, Any], check: bool) -> tuple[bool, str, str]:
    """(changed, path of allowed signers, path of revoked keys)."""
    changed, paths = False, []
    for option in ("allowed_signers", "revoked_keys"):
        path = os.path.join(params["trust"], option)
        paths.append(path if params[option] else "")
        if params[option] is None:
            continue
        try:
            with open(path, encoding="utf-8") as file:
                old = file.read()
        except FileNotFoundError:
            old = ""
        if old != params[option]:
            changed = True
            if not check:
                os.makedirs(params["trust"], mode=0o755, exist_ok=True)
                write_whole(path, params[option].encode(), 0o644)
    return changed, paths[0], paths[1]


def used_by_domains(definitions: str) -> set[str]:
    """Digests that a definition, or a domain that runs, names as its kernel."""
    used: set[str] = set()
    libxl = "/var/lib/xen/userdata-d.*"
    for path in [*glob.glob(os.path.join(definitions, "*.cfg")), *glob.glob(libxl)]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                used.update(re.findall(r"([0-9a-f]{64})\.xen", file.read()))
        except FileNotFoundError:
            continue
    return used


def run(module: AnsibleModule) -> dict[str, Any]:
    params, check = module.params, module.check_mode
    store, wanted = params["store"], {str(name): str(digest) for name, digest in params["wanted"].items()}
    for name, digest in wanted.items():
        if not DIGEST.fullmatch(digest):
            raise StoreError(f"wanted: {name}: {digest!r} is not 64 hexadecimal digits")
    texts = {f"{digest}.{kind}" for digest in wanted.values() for kind in KINDS if kind != "xen"}
    for file in params["statements"]:
        if file not in texts:
            raise StoreError(f"statements: {file!r} is not a description, statement or signature of an image of wanted")
    changed, signers_file, revoked = keep_trust(params, check)
    missing, taken = [], []
    unwritten: set[str] = set()
    for digest in sorted(set(wanted.values())):
        kinds = [kind for kind in KINDS if is_missing(store, f"{digest}.{kind}", params["sidecars"])]
        if params["mirror"] and not check:
            os.makedirs(store, mode=0o755, exist_ok=True)
            for kind in kinds:
                file = f"{digest}.{kind}"
                download(module, f"{params['mirror'].rstrip('/')}/{file}", os.path.join(store, INCOMING + file))
        given = [kind for kind in kinds if f"{digest}.{kind}" in params["statements"]]
        if check:
            unwritten.update(f"{digest}.{kind}" for kind in given)
        elif given:
            os.makedirs(store, mode=0o755, exist_ok=True)
            for kind in given:
                file = f"{digest}.{kind}"
                write_whole(os.path.join(store, file), params["statements"][file].encode(), 0o644)
        changed, kinds = changed or bool(given), [kind for kind in kinds if kind not in given]
        try:
            arrived, absent = take(store, digest, kinds, check)
        except DamagedArrival:
            if params["shipped"] or params["mirror"]:
                raise
            arrived, absent = [], kinds  # a run that was killed left a part of it
        changed = changed or bool(arrived)
        if arrived and "xen" in arrived:
            taken.append(digest)
        if "xen" in absent and params["mirror"]:
            if not check:
                raise StoreError(f"mirror {params['mirror']}: has no image {digest}")
            changed, absent = True, []
        if "xen" in absent and params["shipped"]:
            raise StoreError(f"image {digest}: has not arrived in {store}: run again")
        missing += [f"{digest}.{kind}" for kind in absent]
    signers = {}
    for name, digest in wanted.items():
        awaited = {f"{digest}.xen", *params["sidecars"]}.intersection(missing) | unwritten
        if not os.path.exists(image_path(store, digest)) or any(file.startswith(digest) for file in awaited):
            continue  # the caller has it, ships it and calls again
        if params["signature"] == "required":
            if not signers_file:
                raise SignatureError("allowed_signers: is required to check signatures; give it, or signature: optional")
            signers[name] = verify(store, digest, signers_file, revoked)
        changed = point(store, name, digest, check) or changed
    removed = []
    if params["keep"] is not None:
        used = used_by_domains(params["definitions"]) | set(wanted.values())
        removed = unused(store, used, params["keep"], time.time())
        if not check:
            remove(removed)
    return {"changed": changed or bool(removed), "missing": missing, "taken": taken, "signers": signers, "removed": removed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "wanted": {"type": "dict", "default": {}},
            "sidecars": {"type": "dict", "default": {}},
            "shipped": {"type": "bool", "default": False},
            "statements": {"type": "dict", "default": {}},
            "mirror": {"type": "str"},
            "signature": {"type": "str", "choices": ["required", "optional"], "default": "required"},
            "allowed_signers": {"type": "str"},
            "revoked_keys": {"type": "str", "no_log": False},
            "trust": {"type": "path", "default": "/etc/xen/unikernels"},
            "keep": {"type": "int"},
            "definitions": {"type": "path", "default": "/etc/xen/unikernels"},
        },
        supports_check_mode=True,
    )
    if module.params["keep"] is not None and module.params["keep"] < 0:
        module.fail_json(msg="keep: must be 0 or more")
    try:
        result = run(module)
    except (StoreError, SignatureError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['store']}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
