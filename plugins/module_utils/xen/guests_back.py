# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Put the rules for a host's domains (publish, accept, reach) back as an earlier generation has them.

The host's networks stay as they are: it knows itself how they were declared.
"""

from __future__ import annotations

import dataclasses
import os

from ..network import reach_rules
from ..network.guests import Guests
from ..network.offered import STATE
from ..network.plan import make_plan
from ..network.reading import NetworkError
from . import networks


def limits_back(guests: Guests, check: bool) -> bool:
    """Put accept and reach into force. Return whether something changed. Before the domains, so that none runs without them."""
    if not guests.limits and not os.path.exists(reach_rules.RULES):
        return False
    return bool(networks.limit(guests.limits, check)["changed"])


def published_back(guests: Guests, check: bool) -> bool:
    """Publish these ports. Return whether something changed. After the domains, so that no port leads to a missing one."""
    if not os.path.exists(STATE):
        if guests.published or guests.proxied:
            raise NetworkError(f"publish: {STATE} is gone: run the role xen_host (playbooks/provision.yml)")
        return False
    reading = networks.observe()
    wanted = dataclasses.replace(guests, limits=[])
    if reading.state.guests.plain() == wanted.plain():
        return False
    plan = make_plan(reading.state.networks, wanted, reading)
    if plan.devices:
        raise NetworkError(
            f"network {', '.join(plan.devices)}: is not on the host as it was declared: run the role xen_host"
            " (playbooks/provision.yml)"
        )
    if not check:
        networks.carry_out(plan, networks.SECONDS)
    return True
