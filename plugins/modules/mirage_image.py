#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_image
short_description: Turn OCaml source, or a finished file, into an image in a store
version_added: 0.1.0
description:
  - From O(source), the folder of a MirageOS unikernel or a git repository, it builds an image for Xen with the toolchain
    that the role P(unikernels.xen.mirage_builder#role) made. A build whose sources, lock file, options and toolchain are those of
    one that was done is not done again, and starts no process. The source's folder stays as it is.
  - A finished image comes from O(file), or from O(url) with its digest.
  - Either way it checks that Xen can boot it as PVH, and stores it under its sha256 together with a statement of where it
    came from. An image that is there is never written again. A failed build leaves store and names as they were.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  store:
    description: Folder of the images.
    type: path
    default: /var/lib/unikernels/images
  source:
    description:
      - Folder with C(config.ml) on the machine where the task runs, or the URL of a git repository, which needs O(version),
        or an archive that M(unikernels.xen.source_archive) made of a folder on another machine.
      - What C(.gitignore) names, and what a build leaves, is not part of the sources.
    type: str
  version:
    description: Commit, tag or branch of the git repository. A full commit is not asked for again.
    type: str
  subfolder:
    description: Folder inside the git repository that holds C(config.ml).
    type: str
    default: ""
  configure:
    description: Options for C(mirage configure), each as in C(--name=value). The target is always C(xen).
    type: list
    elements: str
    default: []
  overlay:
    description: >-
      Folders that are put over the source's before it is built, path inside the source's folder to a folder on the machine
      where the task runs: what a web server serves, for example. They are part of what decides whether to build.
    type: dict
    default: {}
  update_lock:
    description: >-
      Make the lock file C(mirage/NAME-xen.opam.locked) anew and put it into the source's folder, to be committed. Without it
      the lock file must be there, for it says what is built in.
    type: bool
    default: false
  verify_reproducible:
    description: Build twice, in different folders, and fail where the two differ.
    type: bool
    default: false
  toolchain:
    description: Folder of the toolchain, as P(unikernels.xen.mirage_builder#role) makes it.
    type: path
    default: /opt/unikernels/toolchain
  work:
    description: Folder for builds and their logs.
    type: path
    default: /var/cache/unikernels/builds
  timeout:
    description: Seconds that a build may take.
    type: int
    default: 3600
  signing_key:
    description: >-
      Private key file of ssh that signs the image's statement, or the public one of a key that C(ssh-agent) holds.
      What another key signed is signed anew, for keys change.
    type: path
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
    description: >-
      A name that means this image from now on; the store keeps what it meant before, for a way back. Letters, digits and
      C(. _ + -). An image that is built takes the folder's name where none is given.
    type: str
    default: ""
seealso:
  - module: unikernels.xen.mirage_image_info
  - module: unikernels.xen.source_archive
"""

EXAMPLES = r"""
- name: Store an image that 'make build' left
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    file: "{{ image_file }}"
    name: hello
  register: hello

- name: Build an image from a folder, and sign it
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    work: "{{ work }}"
    toolchain: "{{ toolchain }}"
    source: "{{ unikernel_source }}"
    configure:
      - --no-dhcp
    signing_key: "{{ signing_key }}"
  register: web

- name: Build a public unikernel from git, at one commit
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    work: "{{ work }}"
    toolchain: "{{ toolchain }}"
    source: "{{ git_url }}"
    version: "{{ git_commit }}"
    name: unipi
    timeout: 5400
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
cached:
  description: Whether the image was there, so that nothing was built or got.
  returned: success
  type: bool
key:
  description: Digest of sources, lock file, configure options and toolchain of an image that was built.
  returned: success
  type: str
log:
  description: The build's whole log.
  returned: when it was built
  type: str
provenance:
  description: Path of the in-toto statement that says where the image came from.
  returned: success
  type: str
sidecars:
  description: The statement's and the signature's file name, where they are, to their sha256.
  returned: success
  type: dict
devices:
  description: Devices that its Solo5 manifest names.
  returned: success
  type: list
  elements: dict
debug_info:
  description: Whether it has a symbol table, which Xen does not load; what is built from source has none.
  returned: success
  type: bool
"""

import os
import re
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image import mirage, provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.archive import name_of, unpacked
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import checkout, is_url, local_folder
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import download
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    NAME,
    StoreError,
    describe,
    image_path,
    point,
    put,
)


def finished(module: AnsibleModule) -> tuple[bool, dict[str, Any]]:
    """Store a finished image. (changed, manifest)"""
    params, store = module.params, module.params["store"]
    digest = (params["sha256"] or "").lower()
    if params["sha256"] and not re.fullmatch("[0-9a-f]{64}", digest):
        raise StoreError(f"sha256: {params['sha256']!r} is not 64 hexadecimal digits")
    if params["url"] and os.path.exists(image_path(store, digest)):
        changed, manifest = False, describe(store, digest)
    elif params["url"]:
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, "image")
            if not download(params["url"], path, sha256=digest):
                raise StoreError(f"url {params['url']}: the server has no such file")
            changed, manifest = put(store, path, digest, {"name": params["name"], "source": params["url"]}, module.check_mode)
    else:
        extra = {"name": params["name"], "source": os.path.basename(params["file"])}
        changed, manifest = put(store, params["file"], digest or None, extra, module.check_mode)
    if module.check_mode:
        return changed, manifest
    origin = params["url"] or "file:" + os.path.basename(params["file"])
    digest = manifest["sha256"]
    text = provenance.statement(
        params["name"] or digest, digest, built=False, parameters={"origin": origin},
        materials=[{"uri": origin, "digest": {"sha256": digest}}], builder={"id": os.uname().nodename}, key="",
    )  # fmt: skip
    return signature.attach(store, digest, text, params["signing_key"] or "", False) or changed, manifest


def from_source(module: AnsibleModule) -> tuple[bool, dict[str, Any]]:
    """Build an image. (changed, manifest)"""
    params = module.params
    if is_url(params["source"]):
        if not params["version"]:
            raise mirage.BuildError(f"source {params['source']}: a git repository needs version: the revision to build")
        source = checkout(params["source"], params["version"], params["subfolder"], params["work"])
        return build(module, source, os.path.basename(source.folder.rstrip("/")))
    if params["version"] or params["subfolder"]:
        raise mirage.BuildError("version, subfolder: are for a git repository, and source is a folder")
    path = local_folder(params["source"])
    name = name_of(path)
    if not name:
        return build(module, mirage.Source(path, "file:" + os.path.basename(path)), os.path.basename(path))
    if params["update_lock"]:
        raise mirage.BuildError("update_lock: the lock file goes into the source's folder: make it where that folder is")
    with unpacked(path, params["work"]) as folder:
        return build(module, mirage.Source(folder, "file:" + name), name)


def build(module: AnsibleModule, source: mirage.Source, name: str) -> tuple[bool, dict[str, Any]]:
    params = module.params
    tools = mirage.toolchain(params["toolchain"])
    name = params["name"] or name
    request = mirage.Request(
        name, source, tuple(params["configure"]), params["update_lock"], params["timeout"], params["signing_key"] or "",
        params["verify_reproducible"],
        tuple((str(path), local_folder(str(folder))) for path, folder in sorted(params["overlay"].items())),
    )  # fmt: skip
    result = mirage.build(params["store"], params["work"], request, tools, module.check_mode)
    return result.changed, {**result.manifest, "cached": result.cached}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "source": {"type": "str"},
            "version": {"type": "str"},
            "subfolder": {"type": "str", "default": ""},
            "configure": {"type": "list", "elements": "str", "default": []},
            "overlay": {"type": "dict", "default": {}},
            "update_lock": {"type": "bool", "default": False},
            "verify_reproducible": {"type": "bool", "default": False},
            "toolchain": {"type": "path", "default": "/opt/unikernels/toolchain"},
            "work": {"type": "path", "default": "/var/cache/unikernels/builds"},
            "timeout": {"type": "int", "default": 3600},
            "signing_key": {"type": "path", "no_log": False},
            "file": {"type": "path"},
            "url": {"type": "str"},
            "sha256": {"type": "str"},
            "name": {"type": "str", "default": ""},
        },
        mutually_exclusive=[("file", "url", "source")],
        required_one_of=[("file", "url", "source")],
        required_by={"url": ["sha256"]},
        supports_check_mode=True,
    )
    params = module.params
    if params["name"] and not NAME.fullmatch(params["name"]):
        module.fail_json(msg=f"name: {params['name']!r} may have letters, digits and . _ + - only, at most 64")
    try:
        changed, manifest = from_source(module) if params["source"] else finished(module)
        manifest.setdefault("cached", not changed)
        if manifest["sha256"]:
            manifest["sidecars"] = signature.sidecars(params["store"], manifest["sha256"])
            manifest["provenance"] = os.path.join(params["store"], manifest["sha256"] + signature.STATEMENT)
            if params["name"] or params["source"]:
                name = params["name"] or manifest["name"]
                changed = point(params["store"], name, manifest["sha256"], module.check_mode) or changed
    except (StoreError, mirage.BuildError, signature.SignatureError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or params['store']}: {error.strerror}")
    module.exit_json(changed=changed, **manifest)


if __name__ == "__main__":
    main()
