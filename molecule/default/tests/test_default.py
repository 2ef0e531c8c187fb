"""What a role developer wants to see: Dom0 from inside, the services from outside."""

import os
import pathlib
import subprocess
import time

HTTP = f"http://127.0.0.1:{os.environ.get('LAB_HTTP_PORT', '8080')}/"
DNS = os.environ.get("LAB_DNS_PORT", "5353")
LAB = pathlib.Path(os.environ.get("LAB_DIR") or pathlib.Path.home() / ".cache/unikernels.xen/lab")


def test_dom0_runs_under_xen(host):
    assert host.file("/proc/xen/capabilities").content_string.strip() == "control_d"
    assert "hvm" in host.check_output("xl info virt_caps").split()


def test_dom0_has_its_fixed_memory(host):
    assert "dom0_mem=768M,max:768M" in host.check_output("xl info xen_commandline")


def test_the_bridge_carries_the_uplink(host):
    assert host.interface("xenbr0").exists
    assert "10.0.2.15" in host.interface("xenbr0").addresses
    assert host.file("/sys/class/net/xenbr0/brif/ens3").exists


def test_consoles_are_logged_and_bounded(host):
    assert host.file("/var/log/xen/console/guest-www.log").size > 0
    assert host.mount_point("/var/log/xen/console").filesystem == "tmpfs"
    assert host.check_output("systemctl is-active unikernels-consoles.timer") == "active"
    assert "--replace-escape" in host.check_output("pgrep -a xenconsoled")


def test_domains_start_with_the_host(host):
    for name in ("www", "dns", "vpn"):
        assert host.file(f"/etc/xen/auto/{name}.cfg").linked_to == f"/etc/xen/unikernels/{name}.cfg"


def test_images_are_what_their_names_say(host):
    names = 'for f in *.xen; do echo "${f%.xen}  $f"; done'
    host.run_expect([0], f"cd /var/lib/unikernels/images && {names} | sha256sum --check --quiet")


def test_the_web_server_answers_curl():
    headers = subprocess.check_output(["curl", "-si", "-m", "10", HTTP], text=True)
    assert headers.startswith("HTTP/1.1 200")
    assert "It answers" in headers


def test_the_resolver_answers_dig_over_udp_and_tcp():
    for option in ("+notcp", "+tcp"):
        command = ["dig", "+short", option, "@127.0.0.1", "-p", DNS, "www.lab.example", "A"]
        assert subprocess.check_output(command, text=True).strip() == "10.0.2.101"


def test_the_vpn_endpoint_answers_openvpn():
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    profile = LAB / "vpn/xen1/client.ovpn"
    client = subprocess.Popen([*sudo, "openvpn", "--config", str(profile), "--dev", "tun-molecule"])
    try:
        until = time.monotonic() + 60
        ping = ["ping", "-I", "tun-molecule", "-c", "1", "-W", "1", "10.8.0.1"]
        while subprocess.run(ping, capture_output=True, check=False).returncode:
            assert time.monotonic() < until, "no ping through the tunnel within 60 s"
            time.sleep(0.5)
    finally:
        subprocess.run([*sudo, "kill", str(client.pid)], check=False)
        client.wait(20)
