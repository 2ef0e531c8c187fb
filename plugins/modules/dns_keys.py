#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dns_keys
short_description: Create, add and remove keys that zones are signed with
version_added: 0.2.0
description:
  - Reads C(dns_sign) of all hosts of the play, and creates the first key of each zone that has none, in the folder on the
    controller. No host is asked. A key is a file of PEM with mode C(0600), named C(ZONE.NUMBER.pem).
  - M(unikernels.xen.declared) signs with all keys that a zone has, so a key is replaced by adding one, and removing the older one
    when the parent zone names both.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Reports which files would be created and removed.
    support: full
  diff_mode:
    description: Keys are not shown.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: all
    support: full
options:
  algorithm:
    description:
      - Kind of the keys that are created. Signatures of both kinds are short, and accepted by the resolvers in use.
      - V(ecdsap256sha256) needs dnspython 2.7 and cryptography 43 with OpenSSL 3.2 on the controller, as in Debian 13.
    type: str
    choices: [ed25519, ecdsap256sha256]
    default: ed25519
  new:
    description: Zone that gets a second key. If it has two already, nothing is done.
    type: str
    default: ""
  remove:
    description: Zone that loses the older one of its two keys. If it has one, nothing is done.
    type: str
    default: ""
seealso:
  - module: unikernels.xen.declared
"""

EXAMPLES = r"""
- name: Create keys of zones that have none
  unikernels.xen.dns_keys:
  run_once: true

- name: Begin to replace the key of a zone
  unikernels.xen.dns_keys:
    new: example.org
  run_once: true
"""

RETURN = r"""
msg:
  description: What was done, or in check mode would be, and the DS record of each key, a line each.
  returned: success
  type: list
  elements: str
  sample: ["created /srv/keys/dns/example.org.1.pem", "example.org. IN DS 7140 15 2 85d6c69d..."]
ds:
  description: Zone to the DS records for its parent zone, one for each of its keys.
  returned: success
  type: dict
  sample: {example.org: ["example.org. IN DS 7140 15 2 85d6c69d..."]}
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Fail: the action plugin should have run instead. The options are here for checks of the documentation."""
    AnsibleModule(
        argument_spec={
            "algorithm": {"type": "str", "choices": ["ed25519", "ecdsap256sha256"], "default": "ed25519"},
            "new": {"type": "str", "default": ""},
            "remove": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    ).fail_json(msg="dns_keys runs on the controller; this file only documents it")


if __name__ == "__main__":
    main()
