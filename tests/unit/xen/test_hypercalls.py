"""What Xen's bindings report, in our words."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.xen.hypercalls import Hypercalls

ALIVE = {"domid": 7, "dying": 0, "shutdown": 0, "crashed": 0, "paused": 0, "shutdown_reason": 0, "handle": [0] * 16}


def test_cpus_that_are_on():
    """A CPU that smt=off has turned off has no core, and still a node."""

    class Bindings:
        @staticmethod
        def topologyinfo():
            return {"max_cpu_index": 3, "cpu_to_core": [0, None, 1, None], "cpu_to_node": [0, 0, 1, 1]}

    assert Hypercalls(Bindings()).cpu_nodes() == {0: 0, 2: 1}


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
