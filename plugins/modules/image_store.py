#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_store
short_description: Ship images to a host's store, verify their signatures, and remove unused images
version_added: 0.1.0
description:
  - Copies missing images to the host from a store on the controller, any number of them in one or two calls on the host. Files
    are verified by their digest before they get their name.
  - Before a name means an image, its signature is checked under the host's policy, a file below O(trust). A run only makes that
    policy stricter; options that are not set leave it as it is. Check mode predicts refusals too.
  - A signature binds a version, the time when it made the image its name's newest. A host refuses an image that is older than
    one that the name has meant, unless O(rollback=true).
  - With O(state=signed) images in the controller's store are signed and verified; no connection to a host is made.
  - It is carried out by an action plugin, so it needs a controller.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  shipping:
    description: Set by the action plugin of the same name. Not for tasks.
    type: dict
  state:
    description: Whether images are to be V(stored) on the host, or V(signed) and checked on the controller alone.
    type: str
    choices: [stored, signed]
    default: stored
  store:
    description: Folder of the images on the host.
    type: path
    default: /var/lib/unikernels/images
  controller:
    description: Folder of the controller's own store, from which images are shipped.
    type: path
  wanted:
    description: >-
      Name to the sha256 of its image, or to what M(unikernels.xen.mirage_image) returned. In check mode an image that is not
      built yet has no digest.
    type: dict
    default: {}
  origins:
    description: >-
      Name of an image in O(wanted) to its declared origin, as P(unikernels.xen.unikernel_images#role) takes it. A statement that
      names another source is not signed. Images without an origin here are signed without that check.
    type: dict
    version_added: 0.2.0
  names:
    description: Names of O(wanted) to work on. All by default.
    type: list
    elements: str
  arrived:
    description: Folder on the host with files that were copied there by other means; they are moved into the store.
    type: path
  mirrors:
    description: >-
      Addresses of copies of a store, on any static HTTP(S) file server, tried in this order. The controller ships what none of
      them has. Files from there are used only if their digest is right.
    type: list
    elements: str
    default: []
  mirror_timeout:
    description: Seconds that all transfers from mirrors may take together.
    type: int
    default: 600
  ca_file:
    description: File on the host with the certificates of authorities that mirrors are checked against, instead of the system's.
    type: path
  signature:
    description: >-
      Whether each image of O(wanted) must be signed by an allowed signer, V(required), or may be unsigned, V(optional). By
      default the host's policy decides, which is V(required) for a new host.
    type: str
    choices: [required, optional]
  allowed_signers:
    description: File on the controller with the allowed signers, see ssh-keygen(1), ALLOWED SIGNERS.
    type: str
  revoked_keys:
    description: File on the controller with one revoked public key in a line; what these signed is refused.
    type: str
  kernels:
    description: Digests of kernels and ramdisks outside the store that domains may boot where signatures are required.
    type: list
    elements: str
  signing_key:
    description: >-
      Key file on the controller that signs O(wanted) with O(state=signed); the public one of a key that C(ssh-agent) holds.
      A key that logs in to a machine is refused.
    type: str
  valid_days:
    description: >-
      Days after which a signature made by O(state=signed) expires, 0 for never. It is renewed after half of them.
    type: int
    default: 0
    version_added: 0.2.0
  sign_again:
    description: >-
      Let O(state=signed) give signed images a new version, so that hosts that have had a newer image of the name accept them.
    type: bool
    default: false
    version_added: 0.2.0
  rollback:
    description: >-
      Accept images that are older than ones that their name has meant on this host. C(versions) below O(trust) records that a
      name means an older image, and since when.
    type: bool
    default: false
    version_added: 0.2.0
  policy_reset:
    description: Replace the host's policy by the options of this task, even if that makes it less strict.
    type: bool
    default: false
  trust:
    description: Folder of the host's policy. Empty for a store without one.
    type: path
    default: /etc/xen/unikernels
  judge:
    description: Return in RV(stops) which defined domains could not start under the policy that results.
    type: bool
    default: false
  keep:
    description: >-
      Remove images that no domain uses, except the last 1 + this many images of each name. Without it nothing is removed.
    type: int
  definitions:
    description: Folder of the domains' definitions; what they name is in use.
    type: path
    default: /etc/xen/unikernels
  generations:
    description: Folder of the host's generations; what they name is in use, too.
    version_added: 0.3.0
    type: path
    default: /var/lib/unikernels/generations
seealso:
  - module: unikernels.xen.mirage_image
  - module: unikernels.xen.mirage_image_info
"""

EXAMPLES = r"""
- name: Store an image on the controller
  unikernels.xen.mirage_image:
    store: "{{ store }}"
    file: "{{ image_file }}"
    name: hello
  register: hello

- name: Sign it
  unikernels.xen.image_store:
    state: signed
    controller: "{{ store }}"
    wanted: "{{ {'hello': hello} }}"
    signing_key: "{{ signing_key }}"
    allowed_signers: "{{ allowed_signers }}"

- name: Ship it to the host, and keep two images of each name for a way back
  unikernels.xen.image_store:
    store: "{{ host_store }}"
    controller: "{{ store }}"
    wanted: "{{ {'hello': hello} }}"
    allowed_signers: "{{ allowed_signers }}"
    trust: "{{ host_policy }}"
    keep: 2
"""

RETURN = r"""
missing:
  description: Files of wanted images that were found nowhere.
  returned: success
  type: list
  elements: str
taken:
  description: Digests of the images that this call added.
  returned: success
  type: list
  elements: str
signers:
  description: Name to the signer of its image, where signatures are required.
  returned: success
  type: dict
versions:
  description: >-
    Name to the highest version that this host has had of it, C(version), and the digest of the image that has it,
    C(sha256). After a rollback C(back_to) is the image that the name means, C(since) when
    that began.
  returned: success
  type: dict
  version_added: 0.2.0
removed:
  description: Files that were (in check mode, would be) removed.
  returned: success
  type: list
  elements: str
stops:
  description: With O(judge=true), one line for each defined domain that could not start under the host's policy.
  returned: success
  type: list
  elements: str
notes:
  description: >-
    One line for each option that the host's policy did not accept, for each name that goes back to an older image, and for each
    mirror that lacked a file.
  returned: success
  type: list
  elements: str
policy:
  description: The host's policy, as it is from now on; none for a store without one.
  returned: success
  type: dict
"""

from ansible_collections.unikernels.xen.plugins.module_utils.image.addresses import AddressModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.arrival import receive
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError
from ansible_collections.unikernels.xen.plugins.module_utils.image.shipping import request_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError


def main() -> None:
    module = AddressModule(
        argument_spec={
            "state": {"type": "str", "choices": ["stored", "signed"], "default": "stored"},
            "store": {"type": "path", "default": "/var/lib/unikernels/images"},
            "controller": {"type": "path"},
            "wanted": {"type": "dict", "default": {}},
            "origins": {"type": "dict"},
            "names": {"type": "list", "elements": "str"},
            "arrived": {"type": "path"},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "mirror_timeout": {"type": "int", "default": 600},
            "ca_file": {"type": "path"},
            "signature": {"type": "str", "choices": ["required", "optional"]},
            "allowed_signers": {"type": "str"},
            "revoked_keys": {"type": "str", "no_log": False},
            "kernels": {"type": "list", "elements": "str"},
            "signing_key": {"type": "str", "no_log": False},
            "valid_days": {"type": "int", "default": 0},
            "sign_again": {"type": "bool", "default": False},
            "rollback": {"type": "bool", "default": False},
            "policy_reset": {"type": "bool", "default": False},
            "trust": {"type": "path", "default": "/etc/xen/unikernels"},
            "judge": {"type": "bool", "default": False},
            "keep": {"type": "int"},
            "definitions": {"type": "path", "default": "/etc/xen/unikernels"},
            "generations": {"type": "path", "default": "/var/lib/unikernels/generations"},
            # What the action plugin passes to the module: files, texts, arrived, final.
            "shipping": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        result = receive(request_of(module.params, module.check_mode))
    except (StoreError, SignatureError, PolicyError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['store']}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
