#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vpn_ca
short_description: Record on a host which CA its VPN endpoints serve, and refuse another one
version_added: 0.2.0
description:
  - "Keeps three files of mode C(0600) in a folder of each endpoint: which CA it serves, what its health check needs (the
    tls-crypt key and the CA's certificate, no private key), and when its certificates end."
  - Fails if the controller has another CA, or none, for an endpoint whose CA this host knows, because its clients could no
    longer connect. O(endpoints[].new_ca=true) accepts the other CA.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Refuses what a run would refuse, and reports whether files would change.
    support: full
  diff_mode:
    description: Keys are not shown.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: debian
    support: full
options:
  endpoints:
    description: The C(pkis) that M(unikernels.xen.declared) returns; those of other hosts are ignored.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Host of the endpoint.
        type: str
      name:
        description: Name of the endpoint.
        type: str
        required: true
      folder:
        description: Folder on the controller, named in a refusal.
        type: str
        default: ""
      ca:
        description: SHA-256 of the CA's public key; empty while the controller has no CA.
        type: str
        default: ""
      health:
        description: What a health check needs.
        type: str
        default: ""
      ends:
        description: Name of each certificate to its expiry.
        type: dict
        default: {}
      new_ca:
        description: Accept another CA than the known one.
        type: bool
        default: false
      remote:
        description: Not used here.
        type: str
      port:
        description: Not used here.
        type: int
      clients:
        description: Not used here.
        type: list
        elements: str
      days:
        description: Not used here.
        type: int
      ca_days:
        description: Not used here.
        type: int
      renew_days:
        description: Not used here.
        type: int
  host:
    description: Only endpoints of this host count; empty for all of O(endpoints).
    type: str
    default: ""
  path:
    description: Folder on the host.
    type: path
    default: /var/lib/unikernels/vpn
seealso:
  - module: unikernels.xen.vpn_keys
"""

EXAMPLES = r"""
- name: Refuse another CA
  unikernels.xen.vpn_ca:
    endpoints: "{{ fleet.pkis }}"
    host: "{{ inventory_hostname }}"

- name: Read how long certificates are good
  unikernels.xen.vpn_ca:
  register: vpn
"""

RETURN = r"""
lines:
  description: For each endpoint that the host knows, for how many more days its certificates are valid.
  returned: success
  type: list
  elements: str
  sample: ["vpn: server 88 days, ca 3560 days, first client alice 3 days"]
days:
  description: Endpoint to the name of each certificate and the days until its end, negative after it.
  returned: success
  type: dict
  sample: {vpn: {ca: 3560, server: 88, alice: 3}}
"""

import time

from ansible_collections.unikernels.xen.plugins.module_utils.host.vpn_served import FOLDER, ServedError, days_left, keep
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule


def main() -> None:
    endpoint = {
        "host": {"type": "str"},
        "name": {"type": "str", "required": True},
        "folder": {"type": "str", "default": ""},
        "ca": {"type": "str", "default": ""},
        "health": {"type": "str", "default": "", "no_log": True},
        "ends": {"type": "dict", "default": {}},
        "new_ca": {"type": "bool", "default": False},
        "remote": {"type": "str"},
        "port": {"type": "int"},
        "clients": {"type": "list", "elements": "str"},
        "days": {"type": "int"},
        "ca_days": {"type": "int"},
        "renew_days": {"type": "int"},
    }
    module = UnloggedModule(
        argument_spec={
            "endpoints": {"type": "list", "elements": "dict", "default": [], "options": endpoint},
            "host": {"type": "str", "default": ""},
            "path": {"type": "path", "default": FOLDER},
        },
        supports_check_mode=True,
    )
    params = module.params
    mine = [each for each in params["endpoints"] if params["host"] in ("", each["host"])]
    shown = {"path": params["path"], "endpoints": [each["name"] for each in mine]}
    try:
        changed = keep(params["path"], mine, write=not module.check_mode)
        lines, days = days_left(params["path"], time.time())
    except ServedError as error:
        module.fail_json(msg=str(error), invocation={"module_args": shown})
    except OSError as error:
        module.fail_json(msg=f"{error.filename or params['path']}: {error.strerror}", invocation={"module_args": shown})
    module.exit_json(changed=changed, lines=lines, days=days, invocation={"module_args": shown})


if __name__ == "__main__":
    main()
