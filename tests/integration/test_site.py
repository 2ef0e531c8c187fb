"""What the README promises, in its order: services answer, a second run changes nothing, all comes back after a reboot."""

import json
import os
import re
import signal
import subprocess

import pytest

from .conftest import KEPT, PORTS, dig, http, playbook, run, wait_until

SERVICES = {"www", "dns", "vpn"}


def changed(done):
    return done.counts["xen1"]["changed"]


fresh = pytest.mark.skipif(KEPT, reason="KEEP_LAB: the lab may be one that was kept")


@fresh
def test_check_mode_works_on_a_fresh_machine(site):
    assert site.fresh_check.counts["xen1"]["failed"] == 0
    # Check mode predicts: install Xen, create the bridge, reboot, create the domains.
    assert site.fresh_check.counts["xen1"]["changed"] >= 5


@fresh
def test_a_bridge_that_does_not_come_up_is_undone(site):
    assert site.failed_bridge.returncode != 0
    assert "did not come up, the old network was put back" in " ".join(site.failed_bridge.stdout.split())


def test_three_services_answer(site):
    assert "It answers" in http()
    assert dig() == "10.0.2.101"
    assert dig("+tcp") == "10.0.2.101"


def test_it_says_plainly_that_standins_run(site):
    assert site.stdout.count("runs a STAND-IN, not a unikernel") == 3
    assert "What to type next:" in site.stdout


def test_the_resolver_refuses_nothing_it_is_for_and_answers_nxdomain(site):
    done = run("dig", "+time=3", "@127.0.0.1", "-p", str(PORTS["DNS"]), "nosuch.lab.example", "A")
    assert "status: NXDOMAIN" in done.stdout


# Query from an address that is no client's. The answer goes to the gateway, so it is read off the wire. Prints the return codes.
STRANGER = """
import socket, struct, time
DNS, STRANGER, GATEWAY = (socket.inet_aton(one) for one in ("10.0.2.102", "192.0.2.9", "10.0.2.2"))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
wire.settimeout(1)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

def ask(name, address, number, flags=0x100):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", number, flags, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, address, DNS)
    raw.sendto(head + struct.pack(">4H", 5353, 53, 8 + len(question), 0) + question, (socket.inet_ntoa(DNS), 0))

def answer(name, number):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        ask(name, STRANGER, number)
        try:
            while True:
                frame = wire.recv(2000)
                if frame[12:16] == DNS and frame[9] == 17:
                    answered.add(struct.unpack(">H", frame[28:30])[0])
                if number in answered:
                    return frame[31] & 15
        except socket.timeout:
            pass

answered = set()
print(answer("www.lab.example", 4711), answer("example.org", 4712))
# Whoever answers answers can be set upon another of its kind, or upon itself, and never stops.
for address in (STRANGER, GATEWAY):
    ask("www.lab.example", address, 4713, flags=0x8180)
print(answer("www.lab.example", 4714), 4713 in answered)
# QEMU lets who asks from outside come from where the domain last answered to.
ask("www.lab.example", GATEWAY, 4715)
"""


def test_a_stranger_gets_the_zones_and_no_more(site, dom0):
    zone, rest, after, answers_answers = dom0("python3 -", data=STRANGER).split()
    assert (zone, after) == ("0", "0"), "NOERROR (RFC 1035, 4.1.1)"
    assert rest in ("5", "9"), "REFUSED, or the unikernel's NOTAUTH (RFC 8945, 5.2 and RFC 2136, 2.2)"
    assert answers_answers == "False"
    assert dig() == "10.0.2.101"


def profile(site):
    return re.search(r"openvpn --config (\S+\.ovpn)", site.stdout).group(1)


def test_the_vpn_carries_a_ping(site):
    path = profile(site)
    assert os.stat(path).st_mode & 0o077 == 0, "a profile has a private key in it"
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    client = subprocess.Popen([*sudo, "openvpn", "--config", path, "--dev", "tun-test"], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(
            lambda: run("ping", "-I", "tun-test", "-c", "1", "-W", "1", "10.8.0.1", check=False).returncode == 0,
            60,
            "a ping through the tunnel",
        )
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(20)


def test_no_secret_is_printed(site):
    for text in (site.stdout, site.stderr, "" if KEPT else site.fresh_check.stdout):
        assert "PRIVATE KEY" not in text
        assert "Static key" not in text


def test_private_keys_are_private_on_the_host(dom0):
    modes = dom0("stat -c %a /var/lib/unikernels/disks /var/lib/unikernels/disks/vpn-*.img /etc/xen/unikernels/*.cfg").split()
    assert set(modes) == {"700", "600"}


def test_a_second_run_changes_nothing(site, dom0):
    before = dom0.domains()
    second = playbook("site.yml")
    assert changed(second) == 0, second.changes
    assert dom0.domains() == before


def test_a_destroyed_domain_comes_back(site, dom0):
    before = dom0.domains()
    dom0("xl destroy www")
    assert changed(playbook("site.yml", "--tags", "deploy")) == 1
    after = dom0.domains()
    assert set(after) == SERVICES
    assert (after["dns"], after["vpn"]) == (before["dns"], before["vpn"]), "the others are not touched"
    assert "It answers" in http()


def test_a_kernel_swapped_by_hand_is_put_right(site, dom0):
    config = dom0("cat /etc/xen/unikernels/www.cfg")
    other = re.search(r'kernel = "(.*)"', dom0("cat /etc/xen/unikernels/dns.cfg")).group(1)
    own = re.search(r'kernel = "(.*)"', config).group(1)
    dom0("cat >/root/swapped.cfg && xl destroy www && xl create -p /root/swapped.cfg", data=config.replace(own, other))
    predicted = playbook("site.yml", "--tags", "deploy", "--check", "--diff")
    assert changed(predicted) == 1
    digests = [path.rpartition("/")[2][:12] for path in (other, own)]
    assert all(f"({digest})" in predicted.stdout for digest in digests), "--diff shows which image runs and which should"
    playbook("site.yml", "--tags", "deploy")
    assert own in dom0("xl list -l www")
    assert "It answers" in http()


def test_killed_in_the_middle_the_next_run_converges(site, dom0):
    """kill -9 the whole run while it replaces a domain: the next run leaves nothing over."""
    own = re.search(r'kernel = "(.*)"', dom0("cat /etc/xen/unikernels/www.cfg")).group(1)
    arguments = ["-e", '{"web_arguments": {"name": "killed"}}']
    victim = subprocess.Popen(
        ["ansible-playbook", "playbooks/deploy.yml", *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: any("~" in name for name in dom0.domains()), 240, "a domain that stands by")
    os.killpg(victim.pid, signal.SIGKILL)
    dom0("pkill -9 -x python3", check=False)  # the module, which Ansible feeds through a pipe
    victim.wait(30)
    playbook("site.yml", "--tags", "deploy")
    assert set(dom0.domains()) == SERVICES, "no paused or nameless leftover"
    assert own in dom0("xl list -l www")
    assert "killed" not in dom0("xl list -l www")


@pytest.mark.parametrize(
    "changes",
    [{"xen_host_linux_arguments": "console=hvc0 clocksource=xen quiet loglevel=4"}, {"xen_host_xen_arguments": "console=com1"}],
    ids=["another for Dom0's kernel", "one less for Xen"],
)
def test_other_arguments_take_a_reboot(site, changes):
    predicted = playbook("playbooks/provision.yml", "--check", "-e", json.dumps(changes))
    assert "Reboot into Xen (1 to 5 minutes)] **************\nchanged: [xen1]" in predicted.stdout
    assert changed(predicted) == 2, "GRUB's configuration and the reboot"


def test_after_a_reboot_everything_is_there_without_a_run(site, dom0):
    """An unannounced reboot in the middle of a replacement: the last healthy domain comes back."""
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = dom0(boot)
    arguments = ["-e", '{"web_arguments": {"name": "rebooted"}}']
    victim = subprocess.Popen(
        ["ansible-playbook", "playbooks/deploy.yml", *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: any("~" in name for name in dom0.domains()), 240, "a domain that stands by")
    dom0("systemctl reboot --force --force", check=False)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait(30)
    wait_until(lambda: dom0(boot, check=False) not in ("", before), 600, "another boot of the machine")
    # A run that begins while the host starts its domains waits for all of them.
    starts = "systemctl is-active xendomains"
    wait_until(lambda: dom0(starts, check=False).strip() in ("activating", "active"), 300, "xendomains' begin")
    assert changed(playbook("playbooks/deploy.yml")) == 0
    # A machine that starts three domains may be too busy for one more connection.
    assert wait_until(lambda: dom0(starts, check=False).strip(), 120, "an answer of systemctl") == "active"
    wait_until(lambda: "It answers" in http() and dig() == "10.0.2.101", 900, "the services after a reboot")
    wait_until(lambda: set(dom0.domains()) == SERVICES, 120, "all three domains")
    assert "rebooted" not in dom0("xl list -l www")
    assert changed(playbook("site.yml", "--check", "--diff")) == 0, "a check of what is as declared predicts nothing"
