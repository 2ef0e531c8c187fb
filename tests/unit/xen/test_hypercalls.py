"""What Xen's bindings report, in our words."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.xen.hypercalls import Hypercalls

ALIVE = {"domid": 7, "dying": 0, "shutdown": 0, "crashed": 0, "paused": 0, "shutdown_reason": 0, "handle": [0] * 16}


@pytest.mark.parametrize(
    "flags, seen",
    [
        ({}, ("running", "")),
        ({"paused": 1}, ("paused", "")),
        ({"shutdown": 1}, ("shutdown", "poweroff")),
        ({"shutdown": 1, "shutdown_reason": 4}, ("shutdown", "watchdog")),
        # A domain that xl shows as -b-sc-, as Xen 4.17 reported it.
        ({"crashed": 1, "shutdown_reason": 3}, ("shutdown", "crash")),
        ({"crashed": 1, "shutdown_reason": 3, "dying": 1}, ("dying", "crash")),
    ],
)
def test_a_domains_state(flags, seen):
    class Bindings:
        @staticmethod
        def domain_getinfo(_first, _most):
            return [{**ALIVE, "domid": 0}, {**ALIVE, **flags}]

    (domain,) = Hypercalls(Bindings()).domains()
    assert (domain["state"], domain["reason"]) == seen
