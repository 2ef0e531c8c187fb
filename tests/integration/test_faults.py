"""Whatever dies during a run, the next run converges and leaves nothing over. Each fault is really provoked."""

import json
import os
import signal
import subprocess
import time

import pytest

from .conftest import wait_until

pytestmark = pytest.mark.usefixtures("idle_services")

# Found before the real xl in Dom0's PATH: after its Nth call it kills the module that called it, with SIGKILL.
KILLER = """#!/bin/sh
n=$(($(cat /root/xl-calls 2>/dev/null || echo 0) + 1))
echo $n >/root/xl-calls
[ "$n" = "$(cat /root/xl-kill-at)" ] || exec /usr/sbin/xl "$@"
/usr/sbin/xl "$@" >/dev/null 2>&1
kill -9 $PPID
"""


@pytest.fixture
def declare(engine_server, images, cleared):
    """Call the module's function once in Dom0. Return its steps, or its refusal; None if it was killed."""

    def call(memory=16, **options):
        one = {"name": "try", "kernel": images["idle"], "memory": memory, "settle": 0, "shutdown_timeout": 0, **options}
        answer = engine_server(one)
        return answer[0] if isinstance(answer, list) else answer

    return call


def killed_at(dom0, call):
    """Kill the next run after its ``call``-th call of xl."""
    put = "cat >/usr/local/sbin/xl; chmod 755 /usr/local/sbin/xl"
    dom0(f"rm -f /root/xl-calls; echo {call} >/root/xl-kill-at; {put}", data=KILLER)


def assert_whole(dom0, memory):
    """Assert that it runs as declared, that nothing is left over, and that definition and link agree with it."""
    look = "/usr/sbin/xl list; echo ==; /usr/sbin/xl list -l try; echo ==; cat /etc/xen/auto/try.cfg"
    table, config, definition = dom0(look).split("==\n")
    rows = [line for line in table.splitlines() if line.startswith("try")]
    assert [row.split()[0] for row in rows] == ["try"], f"left over: {rows}"
    assert " --p--- " not in rows[0]
    assert json.loads(config)[0]["config"]["b_info"]["max_memkb"] == memory * 1024
    assert f"memory = {memory}\n" in definition


def test_killed_at_any_call_of_xl_the_next_run_converges(declare, dom0):
    """Kill a replacement after its first call of xl, after its second, and so on until it completes."""
    declare(16)
    memory, call = 16, 0
    while True:
        call += 1
        assert call < 20, "a replacement has fewer calls"
        killed_at(dom0, call)
        wanted = 20 if memory == 16 else 16
        result = declare(wanted)
        dom0("rm -f /usr/local/sbin/xl")
        if result is not None:
            break
        assert declare(wanted)["failed"] is False
        assert_whole(dom0, wanted)
        assert declare(wanted)["steps"] == []
        memory = wanted
    assert call >= 4, "build, two new names, and the end of the old one"
    assert result["failed"] is False
    assert_whole(dom0, wanted)


def test_killed_while_it_is_first_made(declare, dom0):
    for call in (1, 2):
        killed_at(dom0, call)
        declare(16)
        dom0("rm -f /usr/local/sbin/xl")
        assert declare(16)["failed"] is False
        assert_whole(dom0, 16)
        dom0("xl destroy try; rm -f /etc/xen/unikernels/try.cfg /etc/xen/auto/try.cfg")


def test_killed_while_it_recreates(declare, dom0):
    declare(16)
    for call, wanted in ((1, 20), (2, 16)):
        killed_at(dom0, call)
        declare(wanted, update="recreate")
        dom0("rm -f /usr/local/sbin/xl")
        assert declare(wanted, update="recreate")["failed"] is False
        assert_whole(dom0, wanted)


def test_killed_in_a_warm_replacement_the_next_run_converges(declare, dom0, images):
    """Killed after the creation, after the first new name and after the second."""
    warm = {"kernel": images["service"], "update": "warm", "ready": "ready", "ready_within": 120}
    declare(16, **warm)
    for call, wanted in ((1, 20), (2, 16), (3, 20)):
        killed_at(dom0, call)
        assert declare(wanted, **warm) is None, "the run was not killed"
        dom0("rm -f /usr/local/sbin/xl")
        assert declare(wanted, **warm)["failed"] is False
        assert_whole(dom0, wanted)
        assert declare(wanted, **warm)["steps"] == []


def test_a_lost_connection_does_not_stop_the_work(play, images, cleared, dom0, tmp_path):
    """The controller and its ssh die; the module in Dom0 completes its work, and a concurrent run waits for it."""
    options = {"name": "try", "kernel": images["idle"], "memory": 16, "settle": 8, "shutdown_timeout": 0}
    book = tmp_path / "lost.yml"
    book.write_text(json.dumps([{"hosts": "xen1", "gather_facts": False, "tasks": [{"unikernels.xen.xen_domain": options}]}]))
    # A separate connection, which dies with it.
    alone = {**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none"}
    victim = subprocess.Popen(["ansible-playbook", str(book)], stdout=subprocess.DEVNULL, start_new_session=True, env=alone)
    wait_until(lambda: "try" in dom0.domains(), 120, "the domain")
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait(30)
    done = play({"unikernels.xen.xen_domain": {**options, "lock_timeout": 120}})
    assert done.counts["xen1"]["failed"] == 0
    assert_whole(dom0, 16)


def test_a_full_disk_loses_nothing(declare, dom0):
    """Nothing can be written: the run fails before it creates anything, and the old domain runs as defined."""
    declare(16)
    before = dom0("cat /etc/xen/unikernels/try.cfg")
    dom0(
        "cp -a /etc/xen/unikernels /root/definitions && mount -t tmpfs -o size=64k,mode=755 full /etc/xen/unikernels"
        " && cp -a /root/definitions/. /etc/xen/unikernels/; cat /dev/zero >/etc/xen/unikernels/filler 2>/dev/null; true"
    )
    try:
        failed = declare(20)
        assert failed["failed"]
        assert "write intent try" in failed["msg"] and "No space left on device" in failed["msg"]
        assert not failed["changed"] and failed["state"] == "running"
        assert dom0("cat /etc/xen/unikernels/try.cfg") == before, "half a definition"
        assert not dom0("ls -A /etc/xen/unikernels | grep incoming || true")
    finally:
        dom0("umount /etc/xen/unikernels; rm -rf /root/definitions")
    assert declare(20)["failed"] is False
    assert_whole(dom0, 20)


# Fills the file system of the definitions before a domain is created: the intent is written, the definition can't be.
FILLER = """#!/bin/sh
[ "$1" != create ] || cat /dev/zero >/etc/xen/unikernels/filler 2>/dev/null
exec /usr/sbin/xl "$@"
"""


@pytest.mark.parametrize("update", ["standby", "recreate"])
def test_a_disk_that_fills_in_a_replacement_brings_the_old_domain_back(declare, dom0, update):
    """The new domain is healthy but can't be defined: after a reboot the old one would run."""
    declare(16)
    before = dom0("cat /etc/xen/unikernels/try.cfg")
    dom0(
        "cp -a /etc/xen/unikernels /root/definitions && mount -t tmpfs -o size=64k,mode=755 full /etc/xen/unikernels"
        " && cp -a /root/definitions/. /etc/xen/unikernels/"
    )
    dom0("cat >/usr/local/sbin/xl; chmod 755 /usr/local/sbin/xl", data=FILLER)
    try:
        failed = declare(20, update=update)
        assert failed["failed"] and failed["rolled_back"], failed
        assert "define try" in failed["msg"] and "No space left on device" in failed["msg"]
        assert failed["state"] == "running"
        assert dom0("cat /etc/xen/unikernels/try.cfg") == before
        assert dom0("ls -A /etc/xen/unikernels | grep '^[.]try' || true") == "", "an intent, or half a definition"
        assert_whole(dom0, 16)
    finally:
        dom0("rm -f /usr/local/sbin/xl; umount /etc/xen/unikernels; rm -rf /root/definitions")
    assert declare(20, update=update)["failed"] is False
    assert_whole(dom0, 20)


def test_a_disk_that_does_not_fit_leaves_nothing_behind(declare, dom0):
    dom0("mkdir -p /root/small && mount -t tmpfs -o size=1m small /root/small")
    try:
        dom0("head -c 3000000 /dev/urandom >/root/big")
        failed = declare(16, disks=[{"path": "/root/small/try.img", "source": "/root/big"}])
        assert failed["failed"] and "No space left on device" in failed["msg"], failed
        assert failed["changed"] is False
        assert dom0("ls -A /root/small") == ""
        assert "try" not in dom0.domains()
    finally:
        dom0("umount /root/small; rm -f /root/big")


def test_a_xenstored_that_does_not_answer_is_told_in_time(declare, dom0):
    declare(16)
    first = dom0.domains()["try"]
    dom0("pkill -STOP xenstored")
    try:
        refused = declare(20)["refused"]
    finally:
        dom0("pkill -CONT xenstored")
    assert "xenstored does not answer" in refused
    assert dom0.domains()["try"] == first
    assert declare(20)["failed"] is False
    assert_whole(dom0, 20)


def test_a_bridge_that_vanishes_while_a_domain_is_recreated_is_a_failure_that_says_what_runs(declare, dom0):
    """Only xl notices. The old domain has ended, and can't be built without its bridge either; the next run converges.

    Where the old domain still runs, it continues: tests/unit/apply/test_converge.py.
    """
    dom0("ip link add trybr0 type bridge && ip link set trybr0 up")
    try:
        vif = {"interfaces": [{"bridge": "trybr0"}], "update": "recreate"}
        declare(16, **vif)
        dom0(
            "cat >/usr/local/sbin/xl; chmod 755 /usr/local/sbin/xl",
            data='#!/bin/sh\n[ "$1" != create ] || ip link del trybr0 2>/dev/null\nexec /usr/sbin/xl "$@"\n',
        )
        failed = declare(20, **vif)
        assert failed["failed"] and not failed["rolled_back"], failed
        assert "Xen could not build it" in failed["msg"] and "it could not be undone" in failed["msg"]
        assert failed["state"] == "stopped" and "try" not in dom0.domains()
        dom0("rm -f /usr/local/sbin/xl; ip link add trybr0 type bridge && ip link set trybr0 up")
        assert declare(20, **vif)["failed"] is False
        assert_whole(dom0, 20)
    finally:
        dom0("rm -f /usr/local/sbin/xl; xl destroy try; ip link del trybr0; true")


def test_a_domain_that_ends_after_its_health_check_is_a_failure(declare, dom0):
    """Its check passes, but it ends before the run does."""
    declare(16)
    dom0("cat >/root/healthy; chmod 755 /root/healthy", data="#!/bin/sh\n/usr/sbin/xl destroy try\n")
    failed = declare(20, health={"command": ["/root/healthy"]})
    dom0("rm /root/healthy")
    assert failed["failed"] and failed["rolled_back"], failed
    assert "it was healthy, but is gone at the end of the run" in failed["msg"]
    assert "the old domain was started again and is running" in failed["msg"]
    assert_whole(dom0, 16)


def test_a_boot_loop_takes_nobodys_place(declare, dom0, images):
    """A domain that reboots in a loop never becomes healthy, and is gone once the old one is back."""
    declare(16)
    first = dom0.domains()["try"]
    for update in ("standby", "recreate"):
        failed = declare(20, kernel=images["loops"], settle=2, update=update)
        assert failed["failed"] and failed["rolled_back"], failed
        assert "it restarted" in failed["msg"] and "before it was healthy" in failed["msg"]
        assert failed["state"] == "running"
        assert_whole(dom0, 16)
        assert update == "recreate" or dom0.domains()["try"] == first


# One byte of a header every second, forever.
DRIPS = """
import socket, time
server = socket.create_server(("127.0.0.1", 8099))
while True:
    connection = server.accept()[0]
    try:
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(1)
    except OSError:
        pass
"""


def test_a_health_check_that_never_ends_holds_nothing_up(declare, dom0):
    declare(16)
    first = dom0.domains()["try"]
    dom0("cat >/root/drips.py; systemd-run --unit drips python3 /root/drips.py", data=DRIPS)
    try:
        wait_until(lambda: "8099" in dom0("ss -ltn"), 60, "a server that drips")
        began = time.monotonic()
        failed = declare(20, health={"http": "http://127.0.0.1:8099/", "within": 5})
        assert time.monotonic() - began < 60
    finally:
        dom0("systemctl stop drips")
    assert "not healthy after 5 s" in failed["msg"] and failed["rolled_back"], failed
    assert dom0.domains()["try"] == first
