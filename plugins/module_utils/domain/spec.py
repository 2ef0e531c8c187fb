# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain should be: typed, checked, in one canonical form. Pure.

`domain_of` takes what a user wrote, in the words of the modules' options, and returns a `Domain`
or raises `SpecError` with one line that names the domain, the option and what is allowed.
Everything that later reaches an xl file, a boot line or a path has passed here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

# Solo5's xen platform code keeps the command line in 8192 bytes and cuts longer ones silently.
ARGUMENTS_MOST = 8191
# xenstore and file names; "~" is ours (see NEXT), so a user's name can't have it.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
RESERVED_NAMES = ("Domain-0", "Xenstore", "auto")
BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # Linux IFNAMSIZ - 1
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
VDEV = re.compile(r"(xvd|hd|sd)[a-z]{1,2}[0-9]{0,2}")
GROUP = re.compile(r"[a-z][a-z0-9-]{0,30}")
# Xen's own OUI, for addresses that the toolstack hands out.
MAC_PREFIX = "00:16:3e"
# "unik" in ASCII: every domain that we made has a UUID that begins so. It stays true over
# creation, renaming and reboots, and needs no second step that could be missed.
UUID_MARK = "756e696b"
NEXT, PREVIOUS = "~next", "~prev"

STATES = ("running", "paused", "stopped", "absent")
EVENT_ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
DISK_FORMATS = ("raw", "qcow2", "vmdk")
HEALTH_KINDS = ("http", "tcp", "dns", "openvpn", "console")


class SpecError(ValueError):
    """One line: which domain, which option, what is allowed."""


@dataclass(frozen=True)
class Interface:
    bridge: str
    mac: str


@dataclass(frozen=True)
class Disk:
    path: str
    vdev: str
    format: str = "raw"
    access: str = "r"  # r | w


@dataclass(frozen=True)
class Domain:
    """The part of a declaration that Xen itself can be asked for. Memory in MiB."""

    name: str
    uuid: str
    kernel: str
    memory: int
    vcpus: int = 1
    type: str = "pvh"
    arguments: str = ""
    interfaces: tuple[Interface, ...] = ()
    disks: tuple[Disk, ...] = ()
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "preserve"


@dataclass(frozen=True)
class Health:
    """How a started domain proves that it serves. ``target`` depends on ``kind``; ``within`` in seconds."""

    kind: str
    target: str
    within: int = 30
    expect: str = ""


@dataclass(frozen=True)
class Declaration:
    """A `Domain` with what we do about it."""

    domain: Domain
    state: str = "running"
    autostart: bool = True
    adopt: bool = False
    health: Health | None = None
    addresses: tuple[tuple[str, str], ...] = ()  # (bridge, address/prefix) of every interface
    shutdown_timeout: int = 10
    settle: int = 2
    extra: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def name(self) -> str:
        return self.domain.name


def owned(uuid: str) -> bool:
    return uuid.replace("-", "").startswith(UUID_MARK)


def derived_uuid(host: str, name: str) -> str:
    """Stable over recreation: the mark, then a digest of host and name; version 8 of RFC 9562 (our own layout)."""
    digest = hashlib.sha256(f"{host}\0{name}".encode()).hexdigest()
    return f"{UUID_MARK}-{digest[:4]}-8{digest[4:7]}-8{digest[7:10]}-{digest[10:22]}"


def derived_mac(host: str, name: str, index: int) -> str:
    digest = hashlib.sha256(f"{host}\0{name}\0{index}".encode()).hexdigest()
    return f"{MAC_PREFIX}:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


class _Reader:
    """Takes options out of a mapping one by one; every refusal names the domain and the option."""

    def __init__(self, where: str, options: dict[str, Any]) -> None:
        self.where = where
        self.options = {key: value for key, value in options.items() if value is not None}
        self.known: list[str] = []

    def fail(self, option: str, problem: str) -> SpecError:
        return SpecError(f"{self.where}: {option}: {problem}")

    def text(self, option: str, default: str | None = None) -> str:
        self.known.append(option)
        value = self.options.get(option, default)
        if value is None:
            raise self.fail(option, "is required")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.fail(option, f"must be text, not {type(value).__name__}")
        value = str(value)
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise self.fail(option, "must not contain a newline or another control character")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.fail(option, "is not valid text (UTF-8)") from None
        return value

    def number(self, option: str, default: int, low: int, high: int, unit: str) -> int:
        self.known.append(option)
        value = self.options.get(option, default)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(option, f"must be a whole number of {unit}, not {value!r}")
        if not low <= value <= high:
            raise self.fail(option, f"is {value}, must be {low}..{high} {unit}")
        return value

    def flag(self, option: str, default: bool) -> bool:
        self.known.append(option)
        value = self.options.get(option, default)
        if not isinstance(value, bool):
            raise self.fail(option, f"must be true or false, not {value!r}")
        return value

    def choice(self, option: str, default: str | None, choices: tuple[str, ...]) -> str:
        value = self.text(option, default)
        if value not in choices:
            raise self.fail(option, f"is {value!r}, must be one of {', '.join(choices)}")
        return value

    def items(self, option: str) -> list[_Reader]:
        self.known.append(option)
        value = self.options.get(option, [])
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            raise self.fail(option, "must be a list of mappings")
        return [_Reader(f"{self.where}: {option}[{index}]", item) for index, item in enumerate(value)]

    def finish(self, *ignored: str) -> None:
        unknown = sorted(str(key) for key in self.options if key not in self.known and key not in ignored)
        if unknown:
            raise SpecError(
                f"{self.where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(sorted(self.known))}"
            )


def _interface_address(reader: _Reader, option: str) -> str:
    value = reader.text(option, "")
    if not value:
        return ""
    try:
        if "/" not in value:
            raise ValueError
        address = ipaddress.ip_interface(value)
    except ValueError:
        raise reader.fail(option, f"is {value!r}, must be ADDRESS/PREFIX, as in 10.0.0.10/24") from None
    network = address.network
    if network.version == 4 and network.prefixlen < 31 and address.ip in (network[0], network[-1]):
        raise reader.fail(option, f"{address.ip} is the network or broadcast address of {network}")
    return str(address)


def _gateway(reader: _Reader, option: str, address: str) -> str:
    value = reader.text(option, "")
    if not value:
        return ""
    try:
        gateway = ipaddress.ip_address(value)
    except ValueError:
        raise reader.fail(option, f"is {value!r}, must be an address") from None
    if not address:
        raise reader.fail(option, "needs an address beside it")
    network = ipaddress.ip_interface(address).network
    if gateway.version != network.version or gateway not in network:
        raise reader.fail(option, f"{value} is not in the interface's network {network}")
    return value


def _interface(reader: _Reader, host: str, name: str, index: int) -> tuple[Interface, list[str], list[tuple[str, str]]]:
    bridge = reader.text("bridge")
    if not BRIDGE.fullmatch(bridge):
        raise reader.fail("bridge", f"{bridge!r} is not the name of a network device")
    mac = reader.text("mac", derived_mac(host, name, index)).lower()
    if not MAC.fullmatch(mac):
        raise reader.fail("mac", f"is {mac!r}, must be six bytes, as in 00:16:3e:01:02:03")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise reader.fail("mac", f"{mac} is not the address of one card (multicast or zero); even first byte, please")
    group = reader.text("group", "")
    if group and not GROUP.fullmatch(group):
        raise reader.fail("group", f"is {group!r}, must be lower-case letters, digits and '-', as in management")
    prefix = f"--{group}-" if group else "--"
    arguments, addresses = [], []
    for option, gateway_option in (("address", "gateway"), ("address6", "gateway6")):
        address = _interface_address(reader, option)
        gateway = _gateway(reader, gateway_option, address)
        if address:
            family = f"ipv{ipaddress.ip_interface(address).version}"
            if option == "address6" and family != "ipv6":
                raise reader.fail(option, f"{address} is not an IPv6 address")
            addresses.append((bridge, address))
            arguments.append(f"{prefix}{family}={address}")
            if gateway:
                arguments.append(f"{prefix}{family}-gateway={gateway}")
    if len(addresses) == 2 and ":" in addresses[0][1]:
        raise reader.fail("address6", "is given, but address is an IPv6 address already")
    reader.finish()
    return Interface(bridge, mac), arguments, addresses


def _disk(reader: _Reader, index: int) -> Disk:
    path = reader.text("path")
    if not path.startswith("/") or path != path.strip():
        raise reader.fail("path", f"{path!r} must be an absolute path")
    vdev = reader.text("vdev", "xvd" + "abcdefghijklmnop"[index % 16])
    if not VDEV.fullmatch(vdev):
        raise reader.fail("vdev", f"is {vdev!r}, must be a virtual device such as xvda")
    disk = Disk(path, vdev, reader.choice("format", "raw", DISK_FORMATS), reader.choice("access", "r", ("r", "w")))
    reader.finish()
    return disk


def arguments_of(value: Any, fail: Any) -> list[str]:
    """Boot arguments as a list: from a list of words, or a mapping (port: 80 -> --port=80).

    In a mapping true gives the bare option, false and null leave it out, and a list repeats it.
    """
    if isinstance(value, dict):
        words: list[Any] = []
        for key, item in value.items():
            for one in item if isinstance(item, list) else [item]:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(key)):
                    raise fail("arguments", f"{key!r} is not the name of an option")
                if one is True:
                    words.append(f"--{key}")
                elif one is not None and one is not False:
                    words.append(f"--{key}={one}")
    elif isinstance(value, list):
        words = value
    else:
        raise fail("arguments", "must be a list of words or a mapping of option to value")
    for word in words:
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            raise fail("arguments", f"{word!r} is not a word")
        if any(ord(char) < 32 or ord(char) == 127 for char in str(word)):
            raise fail("arguments", f"{str(word)!r} must not contain a newline or another control character")
    return [str(word) for word in words if str(word)]


def _health(reader: _Reader, value: Any) -> Health | None:
    reader.known.append("health")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise reader.fail("health", "must be a mapping, as in {http: 'http://10.0.0.10/', within: 30}")
    inner = _Reader(f"{reader.where}: health", value)
    kinds = [kind for kind in HEALTH_KINDS if kind in inner.options]
    if len(kinds) != 1:
        raise reader.fail("health", f"must have exactly one of {', '.join(HEALTH_KINDS)}")
    inner.known += HEALTH_KINDS
    target = inner.text(kinds[0])
    if kinds[0] == "http" and not re.fullmatch(r"https?://[^\s]+", target):
        raise inner.fail("http", f"is {target!r}, must be a URL, as in http://10.0.0.10/")
    if kinds[0] in ("tcp", "openvpn") and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):[0-9]{1,5}", target):
        raise inner.fail(kinds[0], f"is {target!r}, must be ADDRESS:PORT")
    if kinds[0] == "dns" and not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}@(\[[0-9a-fA-F:]+\]|[^\s:@]+)(:[0-9]{1,5})?", target):
        raise inner.fail("dns", f"is {target!r}, must be NAME@ADDRESS or NAME@ADDRESS:PORT")
    if kinds[0] == "console":
        try:
            re.compile(target)
        except re.error as error:
            raise inner.fail("console", f"{target!r} is not a regular expression: {error}") from None
    expect = inner.text("status", "200") if kinds[0] == "http" else inner.text("answer", "") if kinds[0] == "dns" else ""
    if kinds[0] == "http" and not re.fullmatch(r"[1-5][0-9][0-9]", expect):
        raise inner.fail("status", f"is {expect!r}, must be an HTTP status, as in 200")
    health = Health(kinds[0], target, inner.number("within", 30, 1, 3600, "seconds"), expect)
    inner.finish()
    return health


# What a declaration may have that is not for a domain but for the roles around it.
ROLE_KEYS = ("image", "service")


def declaration_of(options: dict[str, Any], host: str, kernel: str | None = None) -> Declaration:
    """Read one declaration. ``host`` goes into derived MAC and UUID; ``kernel`` replaces the option (roles)."""
    if not isinstance(options, dict):
        raise SpecError(f"a domain must be a mapping, not {type(options).__name__}")
    name = str(options.get("name") or "")
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise SpecError(
            f"domain {name!r}: name: must be 1..63 letters, digits, '_', '.', '-', begin with a letter or digit"
            f" and not be {', '.join(RESERVED_NAMES)}"
        )
    reader = _Reader(f"domain {name}", options)
    reader.known += ["name", "arguments"]
    if kernel is not None:
        reader.known += ROLE_KEYS
        reader.options["kernel"] = kernel
    state = reader.choice("state", "running", STATES)
    path = reader.text("kernel", "" if state == "absent" else None)
    if path and not path.startswith("/"):
        raise reader.fail("kernel", f"{path!r} must be an absolute path on the host")

    interfaces, words, addresses = [], [], []
    for index, item in enumerate(reader.items("interfaces")):
        interface, arguments, own = _interface(item, host, name, index)
        interfaces.append(interface)
        words += arguments
        addresses += own
    words += arguments_of(reader.options.get("arguments") or [], reader.fail)
    line = " ".join(shlex.quote(word) for word in words)
    if len(line.encode("utf-8", "surrogateescape")) > ARGUMENTS_MOST:
        raise reader.fail("arguments", f"the line has {len(line.encode())} bytes, Solo5 keeps only {ARGUMENTS_MOST}")
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise reader.fail("arguments", "are not valid text (UTF-8)") from None

    disks = tuple(_disk(item, index) for index, item in enumerate(reader.items("disks")))
    vdevs = [disk.vdev for disk in disks]
    for vdev in vdevs:
        if vdevs.count(vdev) > 1:
            raise reader.fail("disks", f"vdev {vdev} is used twice")
    macs = [interface.mac for interface in interfaces]
    for mac in macs:
        if macs.count(mac) > 1:
            raise reader.fail("interfaces", f"mac {mac} is used twice")

    domain = Domain(
        name=name,
        uuid=derived_uuid(host, name),
        kernel=path,
        memory=reader.number("memory", 64, 4, 16 << 20, "MiB"),
        vcpus=reader.number("vcpus", 1, 1, 128, "vCPUs"),
        arguments=line,
        interfaces=tuple(interfaces),
        disks=disks,
        on_poweroff=reader.choice("on_poweroff", "destroy", EVENT_ACTIONS),
        on_reboot=reader.choice("on_reboot", "restart", EVENT_ACTIONS),
        on_crash=reader.choice("on_crash", "preserve", EVENT_ACTIONS),
    )
    declaration = Declaration(
        domain=domain,
        state=state,
        autostart=reader.flag("autostart", state in ("running", "paused")),
        adopt=reader.flag("adopt", False),
        health=_health(reader, reader.options.get("health")),
        addresses=tuple(addresses),
        shutdown_timeout=reader.number("shutdown_timeout", 10, 0, 600, "seconds"),
        settle=reader.number("settle", 2, 0, 600, "seconds"),
    )
    reader.finish()
    return declaration


def clashes(declarations: list[Declaration]) -> list[str]:
    """One line for every name, MAC or address that two declarations of one host claim."""
    seen: dict[tuple[str, str], str] = {}
    lines = []
    for declaration in declarations:
        if declaration.state == "absent":
            claims = [("name", declaration.name)]
        else:
            claims = [("name", declaration.name)]
            claims += [("MAC", interface.mac) for interface in declaration.domain.interfaces]
            claims += [
                ("address", f"{ipaddress.ip_interface(address).ip} on {bridge}") for bridge, address in declaration.addresses
            ]
        for what, value in claims:
            other = seen.setdefault((what, value), declaration.name)
            if other != declaration.name:
                lines.append(f"domains {other} and {declaration.name} have the same {what} {value}")
            elif what == "name" and sum(1 for one in declarations if one.name == value) > 1:
                line = f"domain {value}: declared twice; a name is unique on its host"
                if line not in lines:
                    lines.append(line)
    return lines


def outside_networks(declarations: list[Declaration], networks: dict[str, list[str]]) -> list[str]:
    """One line for every address outside the networks of its bridge; a bridge without networks is not judged."""
    lines = []
    for declaration in declarations:
        if declaration.state == "absent":
            continue
        for bridge, address in declaration.addresses:
            ip = ipaddress.ip_interface(address).ip
            own = [ipaddress.ip_interface(network).network for network in networks.get(bridge, [])]
            same = [network for network in own if network.version == ip.version]
            if same and not any(ip in network for network in same):
                lines.append(
                    f"domain {declaration.name}: address {ip} is outside the network of {bridge} ({', '.join(map(str, same))})"
                )
            hosts = [one for one in networks.get(bridge, []) if ipaddress.ip_interface(one).ip == ip]
            if hosts:
                lines.append(f"domain {declaration.name}: address {ip} is the host's own on {bridge}")
    return lines
