#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_domain_info
short_description: List the domains of a Xen host and their configuration
version_added: 0.1.0
description:
  - Reads the domains of a host from Xen itself, in one round trip, whatever their number. Read-only.
  - Domain-0 is left out; domains that others created are included.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  names:
    description: Only these domains. By default all.
    type: list
    elements: str
    default: []
  console_lines:
    description: How many of the last lines of each domain's console to return.
    type: int
    default: 0
seealso:
  - module: unikernels.xen.xen_domain
  - module: unikernels.xen.xen_host_info
"""

EXAMPLES = r"""
- name: What runs here?
  unikernels.xen.xen_domain_info:
    console_lines: 5
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.domains | items2dict(key_name='name', value_name='state') }}"
"""

RETURN = r"""
domains:
  description:
    - One entry for each domain, in the order of their ids, and after these the ones that are defined and do not run.
    - The options of M(unikernels.xen.xen_domain) have the same names and values here (C(kernel), C(memory), C(vcpus), C(cpus),
      C(cpu_weight), C(cap), C(arguments), C(interfaces), C(disks), C(on_crash) and so on), so that they can be declared again; a
      domain that does not run has only C(kernel) of these.
    - C(arguments) is a list of words; one line of text where it is not written as this collection writes it (another
      system's command line). Addresses at its head are C(address), C(gateway), C(address6), C(gateway6) and C(group) of
      C(interfaces) instead, in their order.
    - C(extra_config) is read from the definition, because Xen does not report it.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain. One that ends in C(~next) or C(~prev) belongs to a replacement.
      type: str
    domid:
      description: Xen's number of the running domain.
      type: int
    uuid:
      description: UUID of the domain.
      type: str
    state:
      description: V(running), V(paused), V(shutdown) (ended and kept), V(dying) or V(stopped) (defined, not running).
      type: str
    shutdown_reason:
      description: Why it ended, for V(shutdown), as in V(crash) or V(poweroff).
      type: str
    owner:
      description: V(unikernels.xen) created it, it was V(adopted), or it is an V(other) domain, which is never touched.
      type: str
    defined:
      description: Whether this collection keeps a definition of it.
      type: bool
    autostart:
      description: Whether it starts with the host.
      type: bool
    service:
      description: The declared service.
      type: str
    accept:
      description: What may reach the domain; null for all that its networks let through.
      type: list
      elements: str
      sample: [tcp/443, tcp/22 from 192.0.2.0/24]
    reach:
      description: What the domain may open itself; null for everything. The same for both domains of a replacement.
      type: list
      elements: str
      sample: [udp/53 to 9.9.9.9]
    restarts:
      description:
        - How often the host itself has started it again since the last run that created or changed it (C(count)), C(last) and
          C(reason) of the last end, and whether the host C(gave_up), after which the domain is left as it is.
        - See O(unikernels.xen.xen_domain#module:restart).
      type: dict
      sample: {count: 2, last: "2026-11-27T03:00:12+0000", reason: "it ended by itself, reason crash", gave_up: false}
    image:
      description: >-
        The store's description of its kernel (C(sha256), C(name), C(target), C(standin)); empty for a kernel elsewhere.
      type: dict
    cpu_seconds:
      description: CPU time that it has used.
      type: float
    uptime_seconds:
      description: Seconds since it was created.
      type: int
    traffic:
      description: For each interface, the device in Dom0 and the counters from the domain's view.
      type: list
      elements: dict
    console:
      description: The last lines of its console.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.domain_facts import domain_facts
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import available, observe
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "console_lines": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    lines = module.params["console_lines"]
    if not 0 <= lines <= 10000:
        module.fail_json(msg=f"console_lines: is {lines}, must be 0..10000")
    refuse_others(module, "look at the domains")
    if not available():
        module.fail_json(msg="this host does not run under Xen (no /proc/xen/capabilities): run the role xen_host first")
    try:
        found = domain_facts(observe(scheduling=True), module.params["names"], lines)
    except (ToolstackError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, domains=found)


if __name__ == "__main__":
    main()
