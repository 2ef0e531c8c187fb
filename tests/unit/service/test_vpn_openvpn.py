"""OpenVPN itself with our configurations and profiles in network namespaces: a server like the stand-in's, and clients."""

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import pathlib
import shutil
import subprocess
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.health import health_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import Reader
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.module_utils.service.vpn_config import Tunnel, configuration
from ansible_collections.unikernels.xen.plugins.plugin_utils import pki as pkis
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki_writer import bring_up_to_date

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
NETWORK = ipaddress.IPv4Network("10.8.0.0/24")
BEHIND = ipaddress.IPv4Network("192.0.2.0/24")
ENDPOINT, FAR, FAR6 = "10.99.0.1", "192.0.2.2", "2001:db8:99::1"
# Seconds for a handshake on a busy machine.
SECONDS = 40
UP = "Initialization Sequence Completed"
ARRANGE = f"""
. {ROOT}/roles/unikernel_images/files/standin/service-vpn
insmod() {{ :; }}
finish() {{ exit "$1"; }}
if command -v busybox >/dev/null; then ip() {{ busybox ip "$@"; }}; fi
CLIENTS=$2 config=$1
shift 2
for network; do set_option --forward "$network"; done
arrange "$config"
"""


def ip(*arguments, check=True):
    command = ["ip", *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": PATH})


class World:
    """The endpoint's machine, two clients' machines, and one behind the endpoint."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {name: f"vpn{os.getpid()}{name}" for name in "sabn"}
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.keys = Keys(str(folder / "pki"), ENDPOINT, 1194, ("alice", "bob"))

    def make(self):
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        self.ip("s", "addr", "add", f"{ENDPOINT}/32", "dev", "lo")
        self.ip("s", "addr", "add", f"{FAR6}/128", "dev", "lo")
        for number, name in enumerate("abn"):
            device, peer, first = (
                f"v{os.getpid()}{name}",
                f"w{os.getpid()}{name}",
                "192.0.2." if name == "n" else f"10.99.{number + 1}.",
            )
            ip("link", "add", device, "netns", self.names["s"], "type", "veth", "peer", "name", peer, "netns", self.names[name])
            for end, where, link in ((1, "s", device), (2, name, peer)):
                self.ip(where, "addr", "add", f"{first}{end}/24", "dev", link)
                self.ip(where, "addr", "add", f"2001:db8:{number}::{end}/64", "dev", link, "nodad")
                self.ip(where, "link", "set", link, "up")
            if name != "n":
                self.ip(name, "route", "add", "default", "via", f"{first}1")
                self.ip(name, "-6", "route", "add", "default", "via", f"2001:db8:{number}::1")

    def end(self):
        for name in self.names.values():
            ip("netns", "del", name, check=False)

    def ip(self, where, *arguments):
        return ip("-n", self.names[where], *arguments)

    def inside(self, where, *command):
        return ["ip", "netns", "exec", self.names[where], *command]

    def run(self, where, *command):
        done = subprocess.run(
            self.inside(where, *command),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        return done.returncode == 0

    def reaches(self, where, address):
        return self.run(where, "ping", "-c1", "-W2", "-i0.2", address)

    def bring(self, **changes):
        """Keys as a run leaves them."""
        return bring_up_to_date(dataclasses.replace(self.keys, **changes), self.now, True)[0]

    def material(self, clients):
        wanted = dataclasses.replace(self.keys, clients=clients)
        return pkis.material_of(pkis.read(self.keys.folder, clients), wanted, self.now)

    @contextlib.contextmanager
    def openvpn(self, where, config, *more):
        log = self.folder / f"{where}-{time.monotonic_ns()}.log"
        with open(log, "w") as output:
            process = subprocess.Popen(
                self.inside(where, "openvpn", "--config", str(config), *more),
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": PATH},
            )
        try:
            yield log
        finally:
            process.terminate()
            process.wait(30)

    @contextlib.contextmanager
    def endpoint(self, clients=("alice", "bob"), **changes):
        tunnel = Tunnel(NETWORK, clients=clients, kind="standin", **changes)
        config = self.folder / "endpoint.conf"
        folder = self.folder / "clients"
        shutil.rmtree(folder, ignore_errors=True)
        config.write_text(configuration(tunnel, self.material(clients)).replace("/run/clients", str(folder)))
        self.ip("s", "rule", "flush")
        self.ip("s", "rule", "add", "from", "all", "lookup", "main", "prio", "32766")
        self.run("s", "nft", "flush", "ruleset")
        self.run("s", "sysctl", "-q", "net.ipv4.ip_forward=0")
        assert self.run("s", "sh", "-c", ARRANGE, "sh", str(config), str(folder), *map(str, tunnel.forwarded))
        with self.openvpn("s", config) as log:
            wait(log, "Initialization Sequence Completed")
            yield log

    @contextlib.contextmanager
    def client(self, where, name, *more, profile=None):
        with self.openvpn(where, profile or f"{self.keys.folder}/{name}.ovpn", *more) as log:
            yield log

    @contextlib.contextmanager
    def both(self):
        """alice, who has the first address 10.8.0.2, and bob."""
        with self.client("a", "alice") as alice:
            wait(alice, UP)
            with self.client("b", "bob") as bob:
                wait(bob, UP)
                yield alice, bob


def wait(log, words, count=1):
    until = time.monotonic() + SECONDS
    while log.read_text().count(words) < count:
        assert time.monotonic() < until, f"{words!r} is not {count} times in:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("network namespaces and tun devices need root")
    for tool in ("openvpn", "ip", "nft", "ping"):
        if not shutil.which(tool, path=PATH):
            pytest.skip(f"{tool} is not installed")
    made = World(tmp_path_factory.mktemp("vpn"))
    try:
        try:
            made.make()
            made.ip("s", "tuntap", "add", "dev", "tunx", "mode", "tun")
            made.ip("s", "link", "del", "tunx")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel makes no such network: {error.stderr}")
        made.bring()
        yield made
    finally:
        made.end()


def test_clients_connect_with_their_profiles_and_reach_the_endpoint_and_each_other(world):
    with world.endpoint(), world.both() as (alice, _bob):
        assert world.reaches("a", "10.8.0.1") and world.reaches("b", "10.8.0.1")
        assert world.reaches("a", "10.8.0.3") and world.reaches("b", "10.8.0.2")
        assert not world.reaches("a", FAR), "nothing behind the endpoint was declared"
        assert "TLSv1.3" in alice.read_text() and "AES-256-GCM" in alice.read_text()


def test_clients_that_are_kept_apart_reach_the_endpoint_alone(world):
    with world.endpoint(between_clients=False), world.both():
        assert world.reaches("a", "10.8.0.1") and world.reaches("b", "10.8.0.1")
        assert not world.reaches("a", "10.8.0.3") and not world.reaches("b", "10.8.0.2")
    with world.endpoint(between_clients=False, routes=(BEHIND,), nat=True), world.both():
        assert world.reaches("a", "10.8.0.1") and world.reaches("a", FAR)
        assert not world.reaches("a", "10.8.0.3"), "forwarding is on, and yet not between them"


def test_a_network_behind_the_endpoint_by_routing_and_by_nat(world):
    with world.endpoint(routes=(BEHIND,)), world.client("a", "alice") as alice:
        wait(alice, UP)
        assert not world.reaches("a", FAR), "it has no way back"
        world.ip("n", "route", "add", "10.8.0.0/24", "via", "192.0.2.1")
        assert world.reaches("a", FAR)
        world.ip("n", "route", "del", "10.8.0.0/24")
    with world.endpoint(routes=(BEHIND,), nat=True, resolvers=("192.0.2.53",)), world.client("a", "alice") as alice:
        wait(alice, UP)
        assert world.reaches("a", FAR)
        assert "route 192.0.2.0 255.255.255.0" in alice.read_text() and "dhcp-option DNS 192.0.2.53" in alice.read_text()
        # A client that takes more addresses than it was given gets no further.
        world.ip("a", "route", "add", "10.99.2.0/24", "dev", "tun0")
        assert not world.reaches("a", "10.99.2.2")


def test_everything_through_the_endpoint_and_no_ipv6_beside_it(world):
    world.ip("n", "addr", "add", "198.51.100.7/32", "dev", "lo")
    world.ip("s", "route", "add", "198.51.100.7/32", "via", FAR)
    assert world.reaches("a", FAR6)
    with world.endpoint(everything=True, nat=True), world.client("a", "alice") as alice:
        wait(alice, UP)
        assert world.reaches("a", "198.51.100.7")
        assert world.reaches("a", ENDPOINT), "the tunnel itself goes its old way"
        assert not world.reaches("a", FAR6)
    assert world.reaches("a", FAR6)


def test_a_client_has_its_own_address_and_no_other_gets_it(world):
    addresses = {"bob": ipaddress.IPv4Address("10.8.0.2")}
    with world.endpoint(addresses=addresses), world.client("a", "alice") as alice, world.client("b", "bob") as bob:
        wait(alice, UP)
        wait(bob, UP)
        assert "ifconfig 10.8.0.2 255.255.255.0" in bob.read_text()
        assert "ifconfig 10.8.0.3 255.255.255.0" in alice.read_text() and world.reaches("a", "10.8.0.2")


def test_over_ipv6_outside(world, tmp_path):
    profile = tmp_path / "six.ovpn"
    profile.write_text(
        pathlib.Path(world.keys.folder, "alice.ovpn").read_text().replace(f"remote {ENDPOINT} ", f"remote {FAR6} ")
    )
    with world.endpoint(ipv6=True), world.client("a", "alice", profile=profile) as alice, world.client("b", "bob") as bob:
        wait(alice, UP)
        wait(bob, UP)
        assert world.reaches("a", "10.8.0.1")


def test_a_client_that_is_no_longer_declared_is_refused_with_its_old_profile_and_others_come_back(world, tmp_path):
    old = tmp_path / "old-bob.ovpn"
    shutil.copy(f"{world.keys.folder}/bob.ovpn", old)
    with contextlib.ExitStack() as stack:
        with world.endpoint():
            alice = stack.enter_context(world.client("a", "alice", "--connect-retry", "1", "1"))
            bob = stack.enter_context(world.client("b", "bob", "--connect-retry", "1", "1", profile=old))
            wait(alice, UP)
            wait(bob, UP)
        world.bring(clients=("alice",))
        with world.endpoint(clients=("alice",)) as log:
            wait(alice, UP, 2)
            assert world.reaches("a", "10.8.0.1")
            wait(log, "TLS Error: TLS handshake failed")
            assert bob.read_text().count(UP) == 1
        # Declared again, he gets a new key: the lost one does not become valid again.
        world.bring()
        with world.endpoint() as log:
            wait(log, "TLS Error: TLS handshake failed")
            wait(alice, UP, 3)
            assert bob.read_text().count(UP) == 1
    with world.endpoint(), world.client("b", "bob") as bob:
        wait(bob, UP)


def test_certificates_are_renewed_with_a_client_connected_that_keeps_its_old_profile(world, tmp_path):
    old = tmp_path / "old-alice.ovpn"
    shutil.copy(f"{world.keys.folder}/alice.ovpn", old)
    before = pkis.read(world.keys.folder, ("alice",))
    with contextlib.ExitStack() as stack:
        with world.endpoint():
            alice = stack.enter_context(world.client("a", "alice", "--connect-retry", "1", "1", profile=old))
            wait(alice, UP)
        # As in a run to which all of them, and the CA, seem to expire soon.
        lines = world.bring(renew_days=1826, days=1827, ca_days=36500)
        after = pkis.read(world.keys.folder, ("alice",))
        assert (
            "renewed the certificate of the server" in str(lines)
            and after.certificates["server"] != before.certificates["server"]
        )
        with world.endpoint():
            wait(alice, UP, 2)
            assert world.reaches("a", "10.8.0.1")
    with world.endpoint(), world.client("b", "alice") as alice:
        wait(alice, UP)


def test_a_health_check_sees_a_certificate_that_ended_and_one_of_another_ca(world, tmp_path):
    def asked(ca):
        key = tmp_path / "health.pem"
        key.write_text((pathlib.Path(world.keys.folder, "tls-crypt.key").read_text()) + ca)
        program = (
            "import sys, time\n"
            "from ansible_collections.unikernels.xen.plugins.module_utils.domain.health import health_of\n"
            "from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import Reader\n"
            "from ansible_collections.unikernels.xen.plugins.module_utils.health.checks import ask\n"
            f"print(ask(health_of(Reader('x', {{}}), {{'openvpn': '{ENDPOINT}:1194', 'key': {str(key)!r}}})))\n"
        )
        done = subprocess.run(
            world.inside("s", os.sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT / ".collections")},
        )  # fmt: skip
        return done.stdout.strip() or done.stderr

    assert health_of(Reader("x", {}), {"openvpn": "a:1", "key": "/k"})
    good = pathlib.Path(world.keys.folder, "pki/ca.crt").read_text()
    other = dataclasses.replace(world.keys, folder=str(tmp_path / "other"))
    bring_up_to_date(other, world.now, True)
    with world.endpoint():
        assert asked(good) == "None" and asked("") == "None"
        assert "its certificate is not valid: " in asked((tmp_path / "other/pki/ca.crt").read_text())
    # An endpoint whose keys nobody has renewed.
    folder = world.keys.folder
    shutil.copytree(folder, tmp_path / "kept")
    try:
        shutil.rmtree(folder)
        old = dataclasses.replace(world.keys, days=1400)
        bring_up_to_date(old, world.now - datetime.timedelta(days=1500), True)
        good = pathlib.Path(folder, "pki/ca.crt").read_text()
        with world.endpoint():
            assert "its certificate is not valid: certificate has expired" in asked(good)
            assert "its certificate expired on " in asked("")
    finally:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
