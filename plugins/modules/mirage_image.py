#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirage_image
short_description: Build an image from OCaml source, or take a finished file, into a store
version_added: 0.1.0
description:
  - From O(source), the folder of a MirageOS unikernel or a git repository, it builds an image for Xen with the toolchain that
    the role P(unikernels.xen.mirage_builder#role) installed. A build with the same sources, lock file, options and toolchain is
    not repeated, and starts no process. The source's folder stays as it is.
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
      - A repository's URL begins with V(https://), V(ssh://), V(file://) or is as in V(git@git.example.net:web.git). A user and
        password in it are passed only to git; no statement, message or log contains them.
      - Links in it that lead out of it are refused.
      - What C(.gitignore) names, and what a build leaves, is not part of the sources.
      - What C(block_of_file) in C(config.ml) names is V(xvdb) and the next ones on Xen, see
        O(unikernels.xen.xen_domain#module:disks[].vdev).
    type: str
  version:
    description: Commit, tag or branch of the git repository, exactly as named there. A full commit is fetched only once.
    type: str
  require_commit:
    description: Accept only a full commit as O(version), because tags and branches can be moved.
    type: bool
    default: false
    version_added: 0.2.0
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
      Folders that replace parts of the source before it is built: path inside the source's folder to a folder on the machine
      where the task runs, for example what a web server serves. A change in them causes a build.
    type: dict
    default: {}
  update_lock:
    description: >-
      Create the lock file C(mirage/NAME-xen.opam.locked) in the source's folder, to be committed, or at O(lock). It is created
      again when sources, options or toolchain have changed, or when it was edited. Without this option the lock file must
      exist, because it lists what is built in.
    type: bool
    default: false
  lock:
    description: >-
      Lock file to use, on the machine where the task runs, in place of one in the source's folder: for a project that has none.
      With O(update_lock=true) it is created there.
    type: path
    version_added: 0.2.0
  lock_text:
    description: The text of such a lock file, if it is not on the machine where the task runs.
    type: str
    version_added: 0.2.0
  sandbox:
    description:
      - Run foreign code (C(config.ml), dune rules) in a sandbox of bubblewrap, with no network, no home, no agent, and nothing
        to write but the build's folder, with limits for memory, processes, disk and time; if root starts it, as user
        C(unikernels-build) or, without such a user, under an unused user id.
      - A machine without such a sandbox refuses to build. V(false) runs foreign code as the user who builds, with access to all
        files of that user.
    type: bool
    default: true
    version_added: 0.2.0
  verify_reproducible:
    description: Build twice, in different folders, and fail if the images differ.
    type: bool
    default: false
  toolchain:
    description: Folder of the toolchain, as P(unikernels.xen.mirage_builder#role) installs it.
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
      Private key file of ssh that signs the image's statement, or the public one of a key that C(ssh-agent) holds. Images that
      another key signed are signed again.
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
      A name for this image; the store keeps the previous images of a name, to roll back to. Letters, digits and C(. _ + -). An
      image that is built takes the folder's name where none is given.
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
  description: The image's digest; none in check mode if it is not built yet.
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
  description: Whether it is a stand-in for a unikernel.
  returned: success
  type: bool
cached:
  description: Whether the image existed, so that nothing was built or downloaded.
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
  description: Path of the in-toto statement of where the image came from.
  returned: success
  type: str
sidecars:
  description: File names of the statement and the signature, if they exist, to their sha256.
  returned: success
  type: dict
origin:
  description: >-
    The source that it was built from, or the file or address of a finished image, as its statement has it, C(uri) and C(digest).
  returned: when the image is there
  type: dict
  version_added: 0.2.0
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

from ansible_collections.unikernels.xen.plugins.module_utils.image.acquire import acquire
from ansible_collections.unikernels.xen.plugins.module_utils.image.addresses import AddressModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import download
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError


def main() -> None:
    module = AddressModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "source": {"type": "str"},
            "version": {"type": "str"},
            "require_commit": {"type": "bool", "default": False},
            "subfolder": {"type": "str", "default": ""},
            "configure": {"type": "list", "elements": "str", "default": []},
            "overlay": {"type": "dict", "default": {}},
            "update_lock": {"type": "bool", "default": False},
            "lock": {"type": "path"},
            "lock_text": {"type": "str"},
            "sandbox": {"type": "bool", "default": True},
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
        mutually_exclusive=[("file", "url", "source"), ("lock", "lock_text")],
        required_one_of=[("file", "url", "source")],
        required_by={"url": ["sha256"]},
        supports_check_mode=True,
    )
    params = module.params
    try:
        changed, result = acquire(params, module.check_mode, lambda url, path, digest: download(url, path, sha256=digest))
    except (StoreError, BuildError, SignatureError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or params['store']}: {error.strerror}")
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
