# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what a user wrote, in the words of the modules' options, to a `Declaration`. Pure.

`declaration_of` returns it or raises `SpecError` with one line that names the domain, the option and
what is allowed. Everything that later reaches an xl file, a boot line or a path has passed here.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import uuid as uuids
from typing import Any

from ..network.antispoof import ClaimError, own
from .cpus import cpu_set, cpu_text
from .options import Reader, SpecError
from .spec import (
    CONTROL,
    DISK_FORMATS,
    EVENT_ACTIONS,
    HEALTH_KINDS,
    STATES,
    TYPES,
    UPDATES,
    USUAL_MTU,
    Address,
    Declaration,
    Disk,
    Domain,
    Health,
    Interface,
    Origin,
    content_path,
    derived_mac,
    derived_uuid,
    rate_text,
    script_path,
)
from .xl_config import quote

# Solo5's xen platform code keeps the command line in 8192 bytes and cuts longer ones silently.
ARGUMENTS_MOST = 8191
# xenstore and file names; "~" is ours (see spec.NEXT).
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
RESERVED_NAMES = ("Domain-0", "Xenstore", "auto")
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # Linux IFNAMSIZ - 1
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
VDEV = re.compile(r"(xvd|hd|sd)[a-z]{1,2}[0-9]{0,2}")
GROUP = re.compile(r"[a-z][a-z0-9-]{0,30}")
# The hotplug script is a name in /etc/xen/scripts or a path; xl splits a vif at commas.
SCRIPT = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./-]{0,200}")
# xl's own grammar of a rate (xen/tools/libs/util/libxlu_vif.c), without octal and the like.
RATE = re.compile(r"([1-9][0-9]{0,9})([GMK]?)([Bb])/s(?:@([1-9][0-9]{0,6})(us|ms|s))?")
_RATE_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_INTERVAL_FACTORS = {"us": 1, "ms": 1000, "s": 1_000_000}
_RATE_INTERVAL = 50_000  # microseconds, xl's default
_UINT32 = (1 << 32) - 1
# What our own options write; extra_config must not say it again.
OUR_KEYS = (
    *("name", "type", "builder", "uuid", "kernel", "memory", "maxmem", "vcpus", "maxvcpus", "cpus", "cpu_weight", "cap"),
    *("cmdline", "root", "extra", "vif", "disk", "on_poweroff", "on_reboot", "on_crash"),
)
_MIB = 1 << 20


def _interface_address(reader: Reader, option: str) -> str:
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


def _gateway(reader: Reader, option: str, address: str) -> str:
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


def _device(reader: Reader, option: str, default: str | None) -> str:
    value = reader.text(option, default)
    if value != default and not DEVICE.fullmatch(value):
        raise reader.fail(option, f"{value!r} is not the name of a network device")
    return value


def _rate(reader: Reader) -> str:
    value = reader.text("rate", "")
    if not value:
        return ""
    found = RATE.fullmatch(value)
    if not found:
        raise reader.fail("rate", f"is {value!r}, must be as in 10Mb/s, 500KB/s or 10Mb/s@20ms")
    number, factor, unit, interval, scale = found.groups()
    per_second = int(number) * _RATE_FACTORS[factor] // (8 if unit == "b" else 1)
    usecs = int(interval) * _INTERVAL_FACTORS[scale] if interval else _RATE_INTERVAL
    per_interval = per_second * usecs // 1_000_000
    if not per_interval or per_second > _UINT32 or usecs > 1_000_000:
        raise reader.fail("rate", f"is {value!r}, must be 1 byte an interval to 34 Gb/s, and the interval at most 1 s")
    return rate_text(per_interval, usecs)


def _own(reader: Reader, addresses: list[Address], antispoofing: bool) -> str:
    """What the vif may send from, as it stands in the definition."""
    value = reader.text("ip", "")
    try:
        return own([one.address for one in addresses], value, antispoofing)
    except ClaimError as error:
        raise reader.fail("ip", str(error)) from None


def _script(reader: Reader) -> str:
    value = reader.text("script", "")
    if value and not SCRIPT.fullmatch(value):
        raise reader.fail("script", f"{value!r} is neither a name in /etc/xen/scripts nor a plain path")
    return script_path(value)


def _interface(reader: Reader, host: str, name: str, index: int) -> tuple[Interface, list[str], list[Address]]:
    bridge = _device(reader, "bridge", None)
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
            addresses.append(Address(bridge, address, mac))
            arguments.append(f"{prefix}{family}={address}")
            if gateway:
                arguments.append(f"{prefix}{family}-gateway={gateway}")
    if len(addresses) == 2 and ":" in addresses[0].address:
        raise reader.fail("address6", "is given, but address is an IPv6 address already")
    antispoofing = reader.flag("antispoofing", True)
    interface = Interface(
        bridge=bridge,
        mac=mac,
        ip=_own(reader, addresses, antispoofing),
        rate=_rate(reader),
        script=_script(reader),
        vifname=_device(reader, "vifname", ""),
        mtu=reader.number("mtu", USUAL_MTU, 68, 65535, "bytes"),  # the least of RFC 791
        antispoofing=antispoofing,
    )
    reader.finish()
    return interface, arguments, addresses


def _disk(reader: Reader, name: str, index: int) -> tuple[Disk, Origin | None]:
    vdev = reader.text("vdev", "xvd" + "abcdefghijklmnop"[index % 16])
    if not VDEV.fullmatch(vdev):
        raise reader.fail("vdev", f"is {vdev!r}, must be a virtual device such as xvda")
    form = reader.choice("format", "raw", DISK_FORMATS)
    access = reader.choice("access", "r", ("r", "w"))
    shared = reader.flag("shared", False)
    if form == "qcow2":
        # xen_block_drive_create in QEMU's hw/block/xen-block.c: the mode is the file's alone, and its locking is off.
        if access != "w":
            raise reader.fail("access", "must be w with format qcow2, which QEMU can't give for reading only (or format: raw)")
        if shared:
            raise reader.fail(
                "format", "must be raw on storage that several hosts have, for QEMU locks no qcow2 disk under Xen"
                " (or shared: false where no other host uses it)",
            )  # fmt: skip
    size = reader.number("size", 0, 0, 1 << 30, "MiB") * _MIB
    source = _path(reader, "source", "")
    content = reader.options.get("content")
    reader.known.append("content")
    if content is not None:
        if not isinstance(content, str):
            raise reader.fail("content", f"must be text, not {type(content).__name__}")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise reader.fail("content", "is not valid text (UTF-8)") from None
        for option in ("path", "source", "size"):
            if reader.options.get(option):
                raise reader.fail("content", f"goes without {option}: the file is named after the content")
        if access != "r" or form != "raw":
            raise reader.fail("content", "makes a raw disk for reading only; data that a domain writes needs a path")
    path = content_path(name, vdev, content) if content is not None else _path(reader, "path", None)
    reader.known.append("path")
    reader.finish()
    made = size or source or content is not None
    origin = Origin(path, form, size, source, content) if made else None
    return Disk(path, vdev, form, access, shared), origin


def _path(reader: Reader, option: str, default: str | None) -> str:
    value = reader.text(option, default)
    if value and (not value.startswith("/") or value != value.strip()):
        raise reader.fail(option, f"{value!r} must be an absolute path")
    return value


def _cpus(reader: Reader) -> str:
    """CPU numbers and ranges, ^ takes away, as xl's own option; "" for all."""
    value = reader.options.get("cpus")
    reader.known.append("cpus")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise reader.fail("cpus", f"must be CPU numbers, as in 0-3,8, not {value!r}")
    try:
        chosen = cpu_set(str(value))
    except ValueError as error:
        raise reader.fail("cpus", str(error)) from None
    if chosen is not None and not chosen:
        raise reader.fail("cpus", f"is {str(value)!r}, which leaves no CPU")
    return cpu_text(chosen or set())


def _uuid(reader: Reader, default: str) -> str:
    value = reader.text("uuid", default)
    try:
        return str(uuids.UUID(value))
    except ValueError:
        raise reader.fail("uuid", f"is {value!r}, must be as in 756e696b-1234-8234-8234-123456789abc") from None


def _service(reader: Reader) -> str:
    value = reader.text("service", "")
    if value and not GROUP.fullmatch(value):
        raise reader.fail("service", f"is {value!r}, must be lower-case letters, digits and '-', as in web")
    return value


def _extra_config(reader: Reader) -> tuple[tuple[str, str], ...]:
    value = reader.options.get("extra_config")
    reader.known.append("extra_config")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise reader.fail("extra_config", "must be a mapping of xl.cfg keys to values")
    return tuple(sorted((str(key), _extra_value(reader, str(key), item)) for key, item in value.items()))


def _extra_value(reader: Reader, key: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", key):
        raise reader.fail("extra_config", f"{key!r} is not a key of xl.cfg")
    if key in OUR_KEYS:
        raise reader.fail("extra_config", f"{key} has an option of its own")
    try:
        if isinstance(value, bool):
            return str(int(value))
        if isinstance(value, int):
            return str(value)
        if isinstance(value, str):
            return quote(value)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return "[" + ", ".join(quote(one) for one in value) + "]"
    except ValueError as error:
        raise reader.fail("extra_config", f"{key}: {error}") from None
    raise reader.fail("extra_config", f"{key}: must be a number, true or false, text, or a list of text")


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
        if CONTROL.search(str(word)):
            raise fail("arguments", f"{str(word)!r} must not contain a newline or another control character")
    return [str(word) for word in words if str(word)]


def _command(reader: Reader) -> tuple[str, ...]:
    words = reader.options.get("command")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise reader.fail("command", "must be a list of words, a program and its arguments; no shell reads it")
    if not words[0].startswith("/"):
        raise reader.fail("command", f"{words[0]!r} must be the absolute path of a program on the host")
    if any("\0" in word for word in words):
        raise reader.fail("command", "must not contain a zero byte")
    return tuple(words)


def _health(reader: Reader, value: Any) -> Health | None:
    reader.known.append("health")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise reader.fail("health", "must be a mapping, as in {http: 'http://10.0.0.10/', within: 30}")
    inner = Reader(f"{reader.where}: health", value)
    kinds = [kind for kind in HEALTH_KINDS if kind in inner.options]
    if len(kinds) != 1:
        raise reader.fail("health", f"must have exactly one of {', '.join(HEALTH_KINDS)}")
    inner.known += HEALTH_KINDS
    command = _command(inner) if kinds[0] == "command" else ()
    target = " ".join(map(shlex.quote, command)) if command else inner.text(kinds[0])
    if kinds[0] == "http" and not re.fullmatch(r"https?://[^\s]+", target):
        raise inner.fail("http", f"is {target!r}, must be a URL, as in http://10.0.0.10/")
    if kinds[0] in ("tcp", "openvpn") and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):[0-9]{1,5}", target):
        raise inner.fail(kinds[0], f"is {target!r}, must be ADDRESS:PORT")
    if kinds[0] == "dns" and not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}@(\[[0-9a-fA-F:]+\]|[^\s:@]+)(:[0-9]{1,5})?", target):
        raise inner.fail("dns", f"is {target!r}, must be NAME@ADDRESS or NAME@ADDRESS:PORT")
    if kinds[0] == "console":
        _pattern(inner, "console")
    expect = inner.text("status", "200") if kinds[0] == "http" else inner.text("answer", "") if kinds[0] == "dns" else ""
    if kinds[0] == "http" and not re.fullmatch(r"[1-5][0-9][0-9]", expect):
        raise inner.fail("status", f"is {expect!r}, must be an HTTP status, as in 200")
    health = Health(kinds[0], target, inner.number("within", 30, 1, 3600, "seconds"), expect, command)
    inner.finish()
    return health


# What a declaration may have that is not for a domain but for the roles around it.
ROLE_KEYS = ("image",)


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
    reader = Reader(f"domain {name}", options)
    reader.known += ["name", "arguments"]
    if kernel is not None:
        reader.known += ROLE_KEYS
        reader.options["kernel"] = kernel
    state = reader.choice("state", "running", STATES)
    path = _path(reader, "kernel", "" if state == "absent" else None)

    interfaces, words, addresses = [], [], []
    for index, item in enumerate(reader.items("interfaces")):
        interface, arguments, own = _interface(item, host, name, index)
        interfaces.append(interface)
        words += arguments
        addresses += own
    words += arguments_of(reader.options.get("arguments") or [], reader.fail)
    disks = [_disk(item, name, index) for index, item in enumerate(reader.items("disks"))]
    _no_twins(reader, "disks", "vdev", [disk.vdev for disk, _origin in disks])
    _no_twins(reader, "interfaces", "mac", [interface.mac for interface in interfaces])
    _no_twins(reader, "interfaces", "vifname", [interface.vifname for interface in interfaces if interface.vifname])

    memory = reader.number("memory", 64, 4, 16 << 20, "MiB")
    maxmem = reader.number("maxmem", memory, 4, 16 << 20, "MiB")
    if maxmem < memory:
        raise reader.fail("maxmem", f"is {maxmem}, must be at least memory ({memory}) MiB")
    domain = Domain(
        name=name,
        uuid=_uuid(reader, derived_uuid(host, name)),
        kernel=path,
        memory=memory,
        maxmem=maxmem,
        vcpus=reader.number("vcpus", 1, 1, 128, "vCPUs"),
        cpus=_cpus(reader),
        cpu_weight=reader.number("cpu_weight", 256, 1, 65535, "(256 is a domain's usual share)"),
        cap=reader.number("cap", 0, 0, 12800, "percent of one CPU"),
        type=reader.choice("type", "pvh", TYPES),
        arguments=_argument_line(reader, words),
        interfaces=tuple(interfaces),
        disks=tuple(disk for disk, _origin in disks),
        on_poweroff=reader.choice("on_poweroff", "destroy", EVENT_ACTIONS),
        on_reboot=reader.choice("on_reboot", "restart", EVENT_ACTIONS),
        on_crash=reader.choice("on_crash", "preserve", EVENT_ACTIONS),
        service=_service(reader),
        extra_config=_extra_config(reader),
    )
    declaration = Declaration(
        domain=domain,
        state=state,
        autostart=reader.flag("autostart", state in ("running", "paused")),
        adopt=reader.flag("adopt", False),
        update=reader.choice("update", "standby", UPDATES),
        live=reader.flag("live", False),
        health=_health(reader, reader.options.get("health")),
        origins=tuple(origin for _disk, origin in disks if origin),
        uuid_given=reader.options.get("uuid") is not None,
        remove_disks=reader.choice("disks_on_absent", "keep", ("keep", "remove")) == "remove",
        addresses=tuple(addresses),
        shutdown_timeout=reader.number("shutdown_timeout", 10, 0, 600, "seconds"),
        settle=reader.number("settle", 2, 0, 600, "seconds"),
        ready=_pattern(reader, "ready"),
        ready_within=reader.number("ready_within", 60, 1, 3600, "seconds"),
    )
    if declaration.update == "warm" and not declaration.ready:
        raise reader.fail("ready", "is required with update: warm: the line on its console that tells that it has booted")
    if declaration.update == "warm" and declaration.health and declaration.health.kind == "console":
        raise reader.fail("health", "console says nothing after a warm switch, when the domain has long booted; ask its service")
    reader.finish()
    return declaration


def _no_twins(reader: Reader, option: str, what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise reader.fail(option, f"{what} {value} is used twice")


def _pattern(reader: Reader, option: str) -> str:
    value = reader.text(option, "")
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise reader.fail(option, f"{value!r} is not a regular expression: {error}") from None
    return value


def _argument_line(reader: Reader, words: list[str]) -> str:
    line = " ".join(shlex.quote(word) for word in words)
    try:
        size = len(line.encode("utf-8"))
    except UnicodeEncodeError:
        raise reader.fail("arguments", "are not valid text (UTF-8)") from None
    if size > ARGUMENTS_MOST:
        raise reader.fail("arguments", f"the line has {size} bytes, Solo5 keeps only {ARGUMENTS_MOST}")
    return line
