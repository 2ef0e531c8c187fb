# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain should be, in one canonical form, and what we do about it. Pure.

`declaration.declaration_of` makes these from what a user wrote; `xl_config` from what Xen reports.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass, field

# What neither an xl file nor a boot line can hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Xen's own OUI, for addresses that the toolstack hands out.
MAC_PREFIX = "00:16:3e"
# "unik" in ASCII: every domain that we made has a UUID that begins so. It stays true over
# creation, renaming and reboots, and needs no second step that could be missed.
UUID_MARK = "756e696b"
# The names of a replacement: "~" is ours, so a user's name can't have it.
NEXT, PREVIOUS = "~next", "~prev"
# MirageOS's block front end (mirage-block-xen, lib/front/blkfront.ml, minimum_sector_size) sees no part of a disk that is
# less than this many bytes.
BLOCK = 4096
# Where disks are kept that are made from content given in the declaration.
DISKS = "/var/lib/unikernels/disks"
# As content_path names them; the group is the domain's name.
CONTENT_PATH = re.compile(re.escape(DISKS) + r"/(.+)-(?:xvd|hd|sd)[a-z0-9]+-[0-9a-f]{16}\.img")

# What Xen itself needs beside a guest's memory (page tables, shared pages): measured 9.2 MiB, rounded up.
OVERHEAD_MIB = 12

# A domain's usual share, the default of Xen's credit schedulers.
CPU_WEIGHT = 256

# LIBXL_DEVICE_NIC_MTU_DEFAULT in xen/tools/libs/light: with it the bridge's own counts.
USUAL_MTU = 1500

# The block script of the role xen_host that holds a lock while a domain has the disk.
SHARED_SCRIPT = "block-unikernels"

STATES = ("running", "paused", "stopped", "absent")
TYPES = ("pvh", "pv")
EVENT_ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
DISK_FORMATS = ("raw", "qcow2")
HEALTH_KINDS = ("http", "tcp", "dns", "openvpn", "console", "command")
UPDATES = ("standby", "warm", "recreate", "never")
RESTARTS = ("always", "on-failure", "never")


@dataclass(frozen=True)
class Interface:
    bridge: str
    mac: str
    ip: str = ""  # the addresses and networks that it may send from, separated by spaces
    rate: str = ""  # BYTESB/s@MICROSECONDSus, see rate_text
    script: str = ""  # whole path; "": Xen's usual one
    vifname: str = ""
    mtu: int = USUAL_MTU
    antispoofing: bool = True
    # What the guest itself is to use stands in its boot line; equality of two interfaces is about the device.
    address: str = field(default="", compare=False)
    gateway: str = field(default="", compare=False)
    address6: str = field(default="", compare=False)
    gateway6: str = field(default="", compare=False)
    group: str = field(default="", compare=False)


@dataclass(frozen=True)
class Address:
    """One that an interface was declared to have; ``address`` with its prefix."""

    bridge: str
    address: str
    mac: str


@dataclass(frozen=True)
class Disk:
    path: str
    vdev: str
    format: str = "raw"
    access: str = "r"  # r | w
    shared: bool = False  # on storage that several hosts have: attached by SHARED_SCRIPT, which locks it


@dataclass(frozen=True)
class Origin:
    """What a disk's file is made from when it is not there. Exactly one of size, source, content is set, or source and size."""

    path: str
    format: str
    size: int = 0  # bytes; an older, smaller file is grown
    source: str = ""  # copied, or converted by qemu-img, once
    content: str | None = None  # written from sector 0, padded with zeros; its digest is in the path


@dataclass(frozen=True)
class RestartLimit:
    """A domain that was started again so often within so many seconds is left as it is."""

    starts: int = 5
    within: int = 600


@dataclass(frozen=True)
class Watchdog:
    """What Dom0 asks a running domain, and after how many seconds again."""

    every: int
    health: Health


@dataclass(frozen=True)
class Domain:
    """The part of a declaration that Xen itself can be asked for. Memory in MiB."""

    name: str
    uuid: str
    kernel: str
    memory: int
    ramdisk: str = ""
    maxmem: int = 0  # 0: as memory
    vcpus: int = 1
    cpus: str = ""  # CPU numbers as in 0-3,8; "": wherever the host lets domains run
    cpu_weight: int = CPU_WEIGHT
    cap: int = 0  # percent of one CPU; 0: none
    type: str = "pvh"
    arguments: str = ""
    interfaces: tuple[Interface, ...] = ()
    disks: tuple[Disk, ...] = ()
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "preserve"
    service: str = ""  # a word for listings; Xen does not know it
    # Nor these, which the keeper in Dom0 reads from the definition.
    restart: str = "never"
    restart_limit: RestartLimit = RestartLimit()
    watchdog: Watchdog | None = None
    extra_config: tuple[tuple[str, int | str | tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Health:
    """The check that a started domain must pass; made by `health.health_of`, which has read and checked all of it."""

    kind: str
    target: str  # as it was written: for messages, and the pattern of kind console
    within: int = 30  # seconds
    expect: str = ""  # http: the status; dns: the answer, in its canonical form
    command: tuple[str, ...] = ()
    address: str = ""  # what is connected to: a name or an address, without brackets
    port: int = 0
    name: str = ""  # http: whose certificate it must be (and SNI); dns: what is asked for
    host: str = ""  # http: the header Host
    path: str = ""  # http: with the query
    tls: bool = False
    ca: str = ""  # a file on the host: the only authorities that count
    insecure: bool = False  # any certificate is good
    contains: str = ""  # http: text in the first part of the body
    record: str = "A"  # dns: the type of record
    transport: str = "udp"  # dns: udp | tcp | both; openvpn: tcp | udp
    key: str = ""  # openvpn: a file on the host, the endpoint's tls-crypt key


@dataclass(frozen=True)
class Declaration:
    """A `Domain` with what we do about it. Times in seconds."""

    domain: Domain
    state: str = "running"
    autostart: bool = True
    adopt: bool = False
    update: str = "standby"
    live: bool = False
    health: Health | None = None
    origins: tuple[Origin, ...] = ()
    uuid_given: bool = False
    remove_disks: bool = False  # with state absent
    addresses: tuple[Address, ...] = ()
    shutdown_timeout: int = 10
    settle: int = 2
    ready: str = ""  # update warm: a pattern on the new domain's console
    ready_within: int = 60

    @property
    def name(self) -> str:
        return self.domain.name


def script_path(script: str) -> str:
    """A hotplug script as libxl finds it: a name is one in /etc/xen/scripts. Xen's usual one is ""."""
    path = script if "/" in script or not script else "/etc/xen/scripts/" + script
    return "" if path == "/etc/xen/scripts/vif-bridge" else path


def plain_path(path: str) -> str:
    """One spelling for all of a path's; what links lead to is seen on the host only."""
    return posixpath.normpath("/" + path.lstrip("/"))


def owned(uuid: str) -> bool:
    return uuid.replace("-", "").startswith(UUID_MARK)


def derived_uuid(host: str, name: str) -> str:
    """Stable over recreation: the mark, then a digest of host and name; version 8 of RFC 9562 (our own layout)."""
    digest = hashlib.sha256(f"{host}\0{name}".encode()).hexdigest()
    return f"{UUID_MARK}-{digest[:4]}-8{digest[4:7]}-8{digest[7:10]}-{digest[10:22]}"


def derived_mac(host: str, name: str, index: int) -> str:
    digest = hashlib.sha256(f"{host}\0{name}\0{index}".encode()).hexdigest()
    return f"{MAC_PREFIX}:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


def content_path(name: str, vdev: str, content: str) -> str:
    """The digest is in the name: other content is another disk, and another disk is another domain."""
    return f"{DISKS}/{name}-{vdev}-{hashlib.sha256(padded(content)).hexdigest()[:16]}.img"


def padded(content: str) -> bytes:
    """What stands on a disk that is made from content: whole blocks, and one at least."""
    data = content.encode("utf-8")
    return data + b"\0" * (-len(data) % BLOCK or (0 if data else BLOCK))


def rate_text(bytes_per_interval: int, interval: int) -> str:
    """What libxl keeps of a vif's rate (bytes in ``interval`` microseconds) as text that xl reads back to just that."""
    if not bytes_per_interval or not interval:
        return ""
    return f"{-(-bytes_per_interval * 1_000_000 // interval)}B/s@{interval}us"
