#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vpn_keys
short_description: Create and renew keys, certificates and profiles of VPN endpoints on the controller
version_added: 0.2.0
description:
  - Creates what is missing in the folder of an endpoint, renews certificates before they end, and writes a profile for each
    client. No host is asked. Everything is a file of PEM with mode C(0600) in the layout of easy-rsa.
  - A renewed certificate keeps its key. The previous one stays valid, so a client can install its new profile later.
  - A client that is no longer declared loses its profile. If it is declared again it gets a new key, and its old profile stays
    refused.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Reports what would be created and renewed.
    support: full
  diff_mode:
    description: Keys are not shown.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: all
    support: full
options:
  endpoints:
    description: What M(unikernels.xen.declared) returns as C(pkis).
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Host of the endpoint.
        type: str
        required: true
      name:
        description: Name of the endpoint.
        type: str
        default: vpn
      folder:
        description: Folder on the controller.
        type: path
        required: true
      remote:
        description: Address or name that clients connect to.
        type: str
        required: true
      port:
        description: TCP port that clients connect to.
        type: int
        default: 1194
      clients:
        description: Names of the clients.
        type: list
        elements: str
        required: true
      new_ca:
        description: Create a CA if the folder has lost it, and replace certificates of another CA.
        type: bool
        default: false
      days:
        description: Days for which certificates are valid.
        type: int
        default: 1825
      ca_days:
        description: Days for which the CA's certificate is valid.
        type: int
        default: 3650
      renew_days:
        description: Days before their expiry when certificates are renewed.
        type: int
        default: 90
      ca:
        description: Not used here; see M(unikernels.xen.vpn_ca).
        type: str
        default: ""
      health:
        description: Not used here; see M(unikernels.xen.vpn_ca).
        type: str
        default: ""
      ends:
        description: Not used here; see M(unikernels.xen.vpn_ca).
        type: dict
        default: {}
seealso:
  - module: unikernels.xen.declared
  - module: unikernels.xen.vpn_ca
"""

EXAMPLES = r"""
- name: Create and renew keys
  unikernels.xen.vpn_keys:
    endpoints: "{{ fleet.pkis }}"
  run_once: true
"""

RETURN = r"""
msg:
  description: What was done, or in check mode would be, a line each.
  returned: success
  type: list
  elements: str
  sample: ["xen1: vpn: wrote /srv/vpn/xen1/alice.ovpn, hand it to alice"]
ends:
  description: Host to endpoint to the name of each certificate (C(ca), C(server), the clients) and its expiry.
  returned: success
  type: dict
  sample: {xen1: {vpn: {alice: "2031-11-26T10:00:00Z"}}}
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Fail: the action plugin should have run instead. The options are here for checks of the documentation."""
    endpoint = {
        "host": {"type": "str", "required": True},
        "name": {"type": "str", "default": "vpn"},
        "folder": {"type": "path", "required": True},
        "remote": {"type": "str", "required": True},
        "port": {"type": "int", "default": 1194},
        "clients": {"type": "list", "elements": "str", "required": True},
        "new_ca": {"type": "bool", "default": False},
        "days": {"type": "int", "default": 1825},
        "ca_days": {"type": "int", "default": 3650},
        "renew_days": {"type": "int", "default": 90},
        "ca": {"type": "str", "default": ""},
        "health": {"type": "str", "default": "", "no_log": True},
        "ends": {"type": "dict", "default": {}},
    }
    AnsibleModule(
        argument_spec={"endpoints": {"type": "list", "elements": "dict", "required": True, "options": endpoint}},
        supports_check_mode=True,
    ).fail_json(msg="vpn_keys runs on the controller; this file only documents it")


if __name__ == "__main__":
    main()
