"""One fleet for all tests of this folder: FLEET_HOSTS hosts (12; `make test-all` uses 50), each with the image `one`."""

import os

import pytest

from .fleet import Fleet

# With fewer, the last wave is too small.
HOSTS = max(6, int(os.environ.get("FLEET_HOSTS", "12")))


@pytest.fixture(scope="session")
def started():
    if os.geteuid():
        pytest.skip("namespaces of hosts need root")
    fleet = Fleet(HOSTS)
    try:
        yield fleet.start()
    finally:
        fleet.stop()


@pytest.fixture
def fleet(started):
    """The fleet with `one` on each host, whatever the previous test left."""
    for name in started.names:
        started.dead(name, False)
        started.slow(name, 0)
        started.fill(name, False)
    started.inventory("one")
    if started.served() != {"one": started.names}:
        started.rollout(image="one", rollout={"waves": ["100%"]})
        assert started.served() == {"one": started.names}
        started.inventory("one")  # without a rollout
    return started
