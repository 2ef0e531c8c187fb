# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn a user's options for interfaces and disks into `Interface`, `Disk` and `Origin`. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import partial

from ..network.antispoof import ClaimError, own, reserved
from ..network.names import NAME, vif_refusal
from .options import Reader, kind_of, shown
from .spec import Address, Disk, Interface, Origin, content_path, derived_mac, plain_path, rate_text, script_path

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
VDEV = re.compile(r"(xvd|hd|sd)[a-z]{1,2}[0-9]{0,2}")
MIN_MTU_IPV6 = 1280  # RFC 8200
GROUP = re.compile(r"[a-z][a-z0-9-]{0,30}")
# The hotplug script: a name in /etc/xen/scripts or a path. No comma, at which xl splits a vif.
SCRIPT = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./-]{0,200}")
# xl's own grammar of a rate (xen/tools/libs/util/libxlu_vif.c), without octal numbers and the like.
RATE = re.compile(r"([1-9][0-9]{0,9})([GMK]?)([Bb])/s(?:@([1-9][0-9]{0,6})(us|ms|s))?")
_RATE_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_INTERVAL_FACTORS = {"us": 1, "ms": 1000, "s": 1_000_000}
_RATE_INTERVAL = 50_000  # microseconds, xl's default
_MAX_UINT32 = (1 << 32) - 1
_MIB = 1 << 20


# -- interfaces --------------------------------------------------------------------------------------


def interface(reader: Reader, host: str, name: str, index: int) -> Interface:
    """Read one interface; its problems are added to ``reader``."""
    reader.attempt("", reader.finish, None)
    address, address6, gateway, gateway6 = _addresses(reader)
    antispoofing = reader.value("antispoofing")
    device = Interface(
        bridge=reader.attempt("bridge", lambda: _bridge(reader), ""),
        mac=reader.attempt("mac", lambda: _mac(reader, derived_mac(host, name, index)), ""),
        ip=reader.attempt("ip", lambda: _own(reader, [text for text in (address, address6) if text], antispoofing), ""),
        rate=reader.attempt("rate", lambda: _rate(reader), ""),
        script=reader.attempt("script", lambda: _script(reader), ""),
        vifname=reader.attempt("vifname", lambda: _vifname(reader), ""),
        mtu=reader.value("mtu"),
        antispoofing=antispoofing,
        address=address,
        gateway=gateway,
        address6=address6,
        gateway6=gateway6,
        group=reader.attempt("group", lambda: _group(reader), ""),
    )
    if device.mtu < MIN_MTU_IPV6 and (address6 or ":" in address):
        reader.problems += reader.fail("mtu", f"is {device.mtu}, but IPv6 needs {MIN_MTU_IPV6}").problems
    return device


def claimed(device: Interface) -> list[Address]:
    """Return the addresses that an interface declares."""
    return [Address(device.bridge, value, device.mac) for value in (device.address, device.address6) if value]


def _addresses(reader: Reader) -> tuple[str, str, str, str]:
    """Return address, address6, gateway and gateway6."""
    address = reader.attempt("address", partial(_address, reader, "address"), "")
    address6 = reader.attempt("address6", partial(_address, reader, "address6"), "")
    if address6 and ":" not in address6:
        reader.problems += reader.fail("address6", f"{address6} is not an IPv6 address").problems
    elif address6 and ":" in address:
        reader.problems += reader.fail("address6", "is given, but address is an IPv6 address already").problems
    gateways, on_link = [], reader.value("gateway_on_link")
    for option, beside, value in (("gateway", "address", address), ("gateway6", "address6", address6)):
        # A gateway can't be checked without a valid address.
        if beside in reader.failed:
            gateways.append("")
        else:
            gateways.append(reader.attempt(option, partial(_gateway, reader, option, value, on_link), ""))
    return address, address6, gateways[0], gateways[1]


def _address(reader: Reader, option: str) -> str:
    value = reader.text(option, "")
    if not value:
        return ""
    try:
        if "/" not in value:
            raise ValueError
        address = ipaddress.ip_interface(value)
    except ValueError:
        raise reader.fail(option, f"is {shown(value)}, must be ADDRESS/PREFIX, as in 10.0.0.10/24") from None
    network = address.network
    if address.ip.is_multicast or address.ip.is_loopback or address.ip.is_unspecified:
        raise reader.fail(option, f"{address.ip} can't be a domain's own: it is multicast, loopback or zero")
    mapped = getattr(address.ip, "ipv4_mapped", None)
    if mapped:
        raise reader.fail(option, f"is {shown(value)}, an IPv4 address written as one of IPv6: write {mapped}/PREFIX")
    if "%" in value:
        raise reader.fail(option, f"is {shown(value)}, must be without a zone (%...)")
    if network.version == 4 and network.prefixlen < 31 and address.ip in (network[0], network[-1]):
        raise reader.fail(option, f"{address.ip} is the network or broadcast address of {network}")
    return str(address)


def _gateway(reader: Reader, option: str, address: str, on_link: bool) -> str:
    value = reader.text(option, "")
    if not value:
        return ""
    try:
        gateway = ipaddress.ip_address(value)
    except ValueError:
        raise reader.fail(option, f"is {shown(value)}, must be an address") from None
    if not address:
        raise reader.fail(option, "needs an address beside it")
    network = ipaddress.ip_interface(address).network
    if "%" in value:
        raise reader.fail(option, f"is {shown(value)}, must be without a zone (%...)")
    if gateway.version != network.version or reserved(ipaddress.ip_network(gateway)):
        raise reader.fail(option, f"{value} can't be the gateway of {address}")
    if network.version == 4 and network.prefixlen < 31 and gateway in (network[0], network[-1]):
        raise reader.fail(option, f"{value} is the network or broadcast address of {network}")
    # A single address has no neighbours, and a link-local gateway is always on the link: both are resolved there (RFC 3021,
    # 4291).
    asked = network.num_addresses == 1 or gateway.is_link_local or on_link
    if gateway not in network and not asked:
        raise reader.fail(
            option,
            f"{value} is not in the interface's network {network}; if it is on the link anyway, set gateway_on_link: true",
        )
    if gateway == ipaddress.ip_interface(address).ip:
        raise reader.fail(option, f"{value} is the interface's own address")
    return value


def _mac(reader: Reader, derived: str) -> str:
    value = reader.options.get("mac", derived)
    number = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if isinstance(value, str) and re.fullmatch("[0-9]{9,13}", value):  # Ansible turned the number into text
        number = int(value)
    if 60**5 <= number < 100 * 60**5:
        # YAML 1.1 reads digits separated by colons as a number in base 60.
        digits = [number // 60**power % 60 for power in range(4, -1, -1)]
        text = ":".join(f"{digit:02}" for digit in (number // 60**5, *digits))
        raise reader.fail("mac", f'is {number}, which YAML read as a number; write it in quotes: "{text}"')
    mac = reader.text("mac", derived).lower()
    if not MAC.fullmatch(mac):
        raise reader.fail("mac", f"is {shown(mac)}, must be six bytes, as in 00:16:3e:01:02:03")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise reader.fail("mac", f"{mac} is not a unicast MAC address; its first byte must be even (and not all bytes zero)")
    return mac


def _bridge(reader: Reader) -> str:
    value = reader.text("bridge", None)
    if not NAME.fullmatch(value):
        raise reader.fail("bridge", f"{shown(value)} is not the name of a network device")
    return value


def _vifname(reader: Reader) -> str:
    value = reader.text("vifname", "")
    refused = vif_refusal(value) if value else ""
    if refused:
        raise reader.fail("vifname", f"{shown(value)} {refused}")
    return value


def _group(reader: Reader) -> str:
    value = reader.text("group", "")
    if value and not GROUP.fullmatch(value):
        raise reader.fail("group", f"is {shown(value)}, must be lower-case letters, digits and '-', as in management")
    return value


def _rate(reader: Reader) -> str:
    value = reader.text("rate", "")
    if not value:
        return ""
    shape = RATE.fullmatch(value)
    if not shape:
        raise reader.fail("rate", f"is {shown(value)}, must be as in 10Mb/s, 500KB/s or 10Mb/s@20ms")
    number, factor, unit, interval, scale = shape.groups()
    per_second = int(number) * _RATE_FACTORS[factor] // (8 if unit == "b" else 1)
    usecs = int(interval) * _INTERVAL_FACTORS[scale] if interval else _RATE_INTERVAL
    per_interval = per_second * usecs // 1_000_000
    if not per_interval or per_second > _MAX_UINT32 or usecs > 1_000_000:
        raise reader.fail("rate", f"is {value!r}, must be 1 byte an interval to 34 Gb/s, and the interval at most 1 s")
    return rate_text(per_interval, usecs)


def _own(reader: Reader, addresses: list[str], antispoofing: bool) -> str:
    """Return the addresses that the vif may send from, as xl's ip= has them."""
    try:
        return own(addresses, reader.text("ip", ""), antispoofing)
    except ClaimError as error:
        raise reader.fail("ip", str(error)) from None


def _script(reader: Reader) -> str:
    value = reader.text("script", "")
    if value and not SCRIPT.fullmatch(value):
        raise reader.fail("script", f"{shown(value)} is neither a name in /etc/xen/scripts nor a plain path")
    return script_path(value)


# -- disks -------------------------------------------------------------------------------------------


def disk(reader: Reader, name: str, index: int) -> tuple[Disk, Origin | None]:
    """Read one disk and what its file is made from; its problems are added to ``reader``."""
    reader.attempt("", reader.finish, None)
    vdev = reader.attempt("vdev", lambda: _vdev(reader, "xvd" + "abcdefghijklmnop"[index % 16]), "")
    form, access, shared, size = (reader.value(option) for option in ("format", "access", "shared", "size"))
    source = reader.attempt("source", lambda: path_of(reader, "source", ""), "")
    content = reader.attempt("content", lambda: _content(reader, access, form), None)
    if form == "qcow2" and not reader.failed & {"access", "shared"}:
        reader.attempt("format", lambda: _qcow2(reader, access, shared), None)
    if reader.options.get("content") is not None:
        path = content_path(name, vdev, content or "")
    else:
        path = reader.attempt("path", lambda: _disk_path(reader), "")
    made = bool(size or source or content is not None)
    if made and below_dev(path):
        option = "size" if size else "source"
        reader.problems += reader.fail(
            option, f"can't be combined with {path}: nothing is created below /dev; a device must exist, and has its own size"
        ).problems
    return Disk(path, vdev, form, access, shared), Origin(path, form, size * _MIB, source, content) if made else None


def below_dev(path: str) -> bool:
    """True if a path is below /dev, however it is spelt. Symbolic links can be resolved only on the host."""
    plain = plain_path(path)
    return plain == "/dev" or plain.startswith("/dev/")


def path_of(reader: Reader, option: str, default: str | None) -> str:
    """Read an absolute path on the host."""
    value = reader.text(option, default)
    if value and value[0] in "~$":
        raise reader.fail(option, f"{shown(value)} must be an absolute path; ~ and $ are not expanded")
    if value and (not value.startswith("/") or value != value.strip()):
        raise reader.fail(option, f"{shown(value)} must be an absolute path")
    return value


def _disk_path(reader: Reader) -> str:
    path = path_of(reader, "path", None)
    if path.endswith(","):
        # target= in libxlu_disk_l.l.
        raise reader.fail("path", f"{shown(path)} ends with a comma, which xl cuts off: rename the file")
    return path


def _vdev(reader: Reader, default: str) -> str:
    value = reader.text("vdev", default)
    if not VDEV.fullmatch(value):
        raise reader.fail("vdev", f"is {shown(value)}, must be a virtual device such as xvda")
    return value


def _content(reader: Reader, access: str, form: str) -> str | None:
    """Read content, the only option that may have several lines."""
    content = reader.options.get("content")
    if content is None:
        return None
    if not isinstance(content, str):
        raise reader.fail("content", f"must be text, not {kind_of(content)}")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise reader.fail("content", "is not valid text (UTF-8)") from None
    for option in ("path", "source", "size"):
        if reader.options.get(option):
            raise reader.fail("content", f"can't be combined with {option}: the file is named after the content")
    if access != "r" or form != "raw":
        raise reader.fail("content", "creates a read-only raw disk; a disk that the domain writes needs a path")
    return content


def _qcow2(reader: Reader, access: str, shared: bool) -> None:
    # xen_block_drive_create in QEMU's hw/block/xen-block.c applies the mode only to the file layer, and switches locking off.
    if access != "w":
        raise reader.fail("access", "qcow2 disks can't be read-only; set access: w or format: raw")
    if shared:
        raise reader.fail(
            "format", "must be raw on shared storage, because QEMU locks no qcow2 disk under Xen"
            " (or shared: false where no other host uses it)",
        )  # fmt: skip
