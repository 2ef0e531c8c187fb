"""playbooks/update.yml on a host with services, with packages newer than the installed ones: tests/run boots."""

import pathlib
import threading
import time

import pytest

from .conftest import Dom0, dig, http, playbook, wait_until

REPOSITORY = "/srv/lab-updates"
SOURCES = "/etc/apt/sources.list.d"
SMALL = "bridge-utils"


@pytest.fixture(scope="module")
def dom0():
    """Dom0 with our packages as apt's only source."""
    host = Dom0()
    wait_until(lambda: host("echo up", check=False) == "up\n", 300, "a shell in Dom0")
    host(f"mkdir -p /srv/sources {REPOSITORY}; mv /etc/apt/sources.list {SOURCES}/* /srv/sources/ 2>/dev/null; true")
    host(f"cat >{REPOSITORY}/rebuilt.py", data=pathlib.Path(__file__).with_name("rebuilt.py").read_text())
    yield host
    host(
        f"rm -rf {SOURCES}/* {REPOSITORY}; mv /srv/sources/sources.list /etc/apt/; mv /srv/sources/* {SOURCES}/ 2>/dev/null; true"
    )


@pytest.fixture(scope="module")
def hypervisor(dom0):
    return dom0(
        "dpkg-query -W -f '${Package} ${db:Status-Status}\\n' 'xen-hypervisor-*-amd64' | awk '$2 == \"installed\" {print $1}'"
    ).strip()


def publish(dom0, suffix, *packages):
    dom0(f"rm -rf {REPOSITORY}/*.deb; python3 {REPOSITORY}/rebuilt.py {REPOSITORY} {suffix} {' '.join(packages)}", timeout=600)


def version(dom0, package):
    return dom0(f"dpkg-query -W -f '${{Version}} ${{db:Status-Status}}' {package}")


def update(*arguments):
    return playbook("playbooks/update.yml", *arguments, check=False)


def words(answer):
    return " ".join((answer.stdout + answer.stderr).split())


BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def test_a_held_package_is_refused_and_nothing_is_changed(dom0, hypervisor):
    publish(dom0, "+lab1", SMALL, hypervisor)
    before = version(dom0, SMALL), version(dom0, hypervisor), dom0(BOOT_ID)
    dom0(f"apt-mark hold {hypervisor}")
    try:
        answer = update()
    finally:
        dom0(f"apt-mark unhold {hypervisor}")
    assert f"xen1: {hypervisor}: held (apt-mark hold), so newer versions would not be installed" in words(answer)
    assert answer.counts["xen1"]["changed"] == 0 and answer.counts["xen1"]["failed"] == 1
    assert (version(dom0, SMALL), version(dom0, hypervisor), dom0(BOOT_ID)) == before


def test_a_package_that_can_not_be_installed_is_named_and_the_host_is_not_booted(dom0):
    publish(dom0, "+lab2", f"{SMALL}:postinst")
    boot = dom0(BOOT_ID)
    answer = update()
    assert "xen1: apt could not install the updates, and the host was not booted: dpkg: error processing package" in words(answer)
    # Now it is half installed, which the next run reports before it changes anything.
    answer = update()
    assert answer.counts["xen1"]["changed"] == 0 and f"xen1: {SMALL}: half installed" in words(answer)
    assert dom0(BOOT_ID) == boot
    dom0(f"printf '#!/bin/sh\\n' >/var/lib/dpkg/info/{SMALL}.postinst; dpkg --configure -a")


class Watch(threading.Thread):
    """Measures the longest time for which each service did not answer."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended, self.longest = threading.Event(), {"www": 0.0, "dns": 0.0}

    def run(self):
        last = dict.fromkeys(self.longest, time.monotonic())
        while not self.ended.is_set():
            for name, answers in (("www", "It answers" in http()), ("dns", dig() == "10.0.2.101")):
                now = time.monotonic()
                self.longest[name] = max(self.longest[name], now - last[name])
                last[name] = now if answers else last[name]
            self.ended.wait(0.5)


def test_a_newer_xen_is_tried_confirmed_and_every_service_verified(dom0, hypervisor):
    publish(dom0, "+lab3", SMALL, hypervisor)
    boot, watch = dom0(BOOT_ID), Watch()
    watch.start()
    answer = update()
    watch.ended.set()
    watch.join()
    print("longest times without an answer:", {name: f"{seconds:.0f} s" for name, seconds in watch.longest.items()})
    assert answer.counts["xen1"]["failed"] == 0, answer.stdout[-6000:]
    assert dom0(BOOT_ID) != boot and "unikernels.boot=try" in dom0("cat /proc/cmdline")
    assert "+lab3 installed" in version(dom0, hypervisor) and "+lab3 installed" in version(dom0, SMALL)
    assert "saved_entry=unikernels-good" in dom0("grub-editenv /boot/grub/grubenv list")
    assert set(dom0.domains()) >= {"www", "dns", "vpn"}
    wait_until(lambda: "It answers" in http() and dig() == "10.0.2.101", 60, "the services")
    again = update()
    assert again.counts["xen1"]["failed"] == again.counts["xen1"]["changed"] == 0, again.stdout[-6000:]
