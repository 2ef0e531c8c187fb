"""One run at a time on a host: how long the next one waits, and what it reports."""

import fcntl
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.xen.lock import BOOT, Lock, LockError

from tests.conftest import ROOT


@pytest.fixture
def held(tmp_path):
    """held(words): another run holds the lock and its note; closing the returned file releases it."""
    path = tmp_path / "lock"

    def hold(words):
        file = path.open("w+")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(words)
        file.flush()
        return file

    return path, hold


def test_another_run_is_waited_for_so_long_and_named(held):
    path, hold = held
    with hold("process 7, 12:00:00: replace www\n"), pytest.raises(LockError) as refused, Lock(0, str(path)):
        pass
    assert "another run works on this host (process 7, 12:00:00: replace www); waited 0 s" in str(refused.value)
    with Lock(0, str(path)):
        pass


def test_the_start_of_a_hosts_domains_is_waited_for_in_any_case(held):
    path, hold = held
    boot = hold(f"{BOOT} starts the domains of this host\n")
    released = threading.Event()

    def end():
        released.set()
        boot.close()

    timer = threading.Timer(0.5, end)
    timer.start()
    with Lock(0, str(path)):
        assert released.is_set()
    timer.join()


def test_the_role_says_it_with_the_same_words():
    assert f'b"{BOOT} ' in (ROOT / "roles/xen_host/files/unikernels-domains").read_text()
