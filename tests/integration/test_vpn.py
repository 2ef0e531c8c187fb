"""What an operator later does with the VPN: a client leaves, keys are renewed, a second controller appears."""

import json
import os
import shutil
import subprocess

import pytest

from .conftest import playbook, run, wait_until

UP = "Initialization Sequence Completed"


class Client:
    """Debian's openvpn with a copy of a profile, as on a client."""

    def __init__(self, folder, profile, device):
        self.device, self.log = device, folder / f"{device}.log"
        self.profile = folder / f"{device}.ovpn"
        shutil.copy(profile, self.profile)
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        command = [*sudo, "openvpn", "--config", str(self.profile), "--dev", device, "--dev-type", "tun"]
        command += ["--connect-retry", "1", "2"]
        self.process = subprocess.Popen(command, stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def count(self, words):
        return self.log.read_text().count(words)

    def connected(self, times=1):
        wait_until(
            lambda: self.count(UP) >= times, 120, f"{self.device} connected {times} times:\n{self.log.read_text()[-2000:]}"
        )
        wait_until(
            lambda: run("ping", "-I", self.device, "-c", "1", "-W", "1", "10.8.0.1", check=False).returncode == 0,
            60,
            f"a ping through {self.device}",
        )

    def end(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def deploy(site, tmp_path):
    variables = {}

    def declared(*arguments, **changes):
        variables.update(changes)
        (tmp_path / "vpn.json").write_text(json.dumps(variables))
        return playbook("site.yml", "--tags", "deploy", "-e", f"@{tmp_path}/vpn.json", *arguments)

    yield declared
    playbook("site.yml", "--tags", "deploy")


def test_people_come_and_go_and_keys_are_renewed_with_a_client_connected(site, dom0, deploy, tmp_path):
    folder = os.path.join(os.environ["LAB_DIR"], "vpn", "xen1")
    deploy(vpn_clients=["client", "bob"])
    clients = []
    try:
        clients.append(stays := Client(tmp_path, f"{folder}/client.ovpn", "tun-stays"))
        clients.append(leaves := Client(tmp_path, f"{folder}/bob.ovpn", "tun-leaves"))
        stays.connected()
        wait_until(lambda: leaves.count(UP), 120, "bob connected")
        deploy(vpn_clients=["client"])
        stays.connected(2)
        # Refused at each attempt, with the profile that was valid before.
        wait_until(lambda: leaves.count("Connection reset, restarting") >= 3, 120, "bob refused")
        assert leaves.count(UP) == 1
        done = deploy(vpn_days=1900, vpn_renew_days=1870, vpn_ca_days=36500)
        assert "renewed the certificate of the server" in " ".join(done.stdout.split())
        stays.connected(3)
    finally:
        for client in clients:
            client.end()
    assert dom0("stat -c %a /var/lib/unikernels/vpn /var/lib/unikernels/vpn/vpn/*").split() == ["700", "600", "600", "600"]
    assert "vpn: server 18" in " ".join(playbook("playbooks/status.yml").stdout.split())


def test_a_second_controller_is_refused_and_changes_nothing(site, dom0, deploy, tmp_path):
    before = dom0("xl domid vpn")
    for arguments in (["--check"], []):
        done = playbook("site.yml", "--tags", "deploy", "-e", f"vpn_pki={tmp_path}/other", *arguments, check=False)
        assert done.returncode != 0 and "this host serves CA " in done.stdout and "vpn_new_ca: true" in done.stdout
        assert not (tmp_path / "other").exists()
    assert dom0("xl domid vpn") == before
