# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain in its canonical form, and what we do with it. Pure.

`declaration.declaration_of` makes these objects from what a user wrote, `xl_config` from what Xen reports.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass, field

# Characters that neither an xl file nor a boot line can hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Xen's own OUI, for addresses that the toolstack assigns.
MAC_PREFIX = "00:16:3e"
# "unik" in ASCII: the UUID of every domain that we created begins with it. That survives creation, renaming and reboots, and
# needs no second step that could be missed.
UUID_MARK = "756e696b"
# The suffixes of both sides of a replacement; a user's name can't contain "~".
NEXT, PREVIOUS = "~next", "~prev"
# Bytes of a block: MirageOS's block front end (mirage-block-xen, lib/front/blkfront.ml, minimum_sector_size) ignores a shorter
# rest at the end of a disk.
BLOCK = 4096
# Where disks made from a declaration's content are kept.
DISKS = "/var/lib/unikernels/disks"
# The paths that content_path returns; the group is the domain's name.
CONTENT_PATH = re.compile(re.escape(DISKS) + r"/(.+)-(?:xvd|hd|sd)[a-z0-9]+-[0-9a-f]{16}\.img")

# Memory that Xen needs in addition to a guest's (page tables, shared pages): 9.2 MiB measured, rounded up.
OVERHEAD_MIB = 12

# A domain's default CPU weight in Xen's credit schedulers.
CPU_WEIGHT = 256

# LIBXL_DEVICE_NIC_MTU_DEFAULT in xen/tools/libs/light: libxl then uses the bridge's MTU.
USUAL_MTU = 1500

# The block script of the role xen_host; it holds a lock as long as the domain has the disk.
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
    script: str = ""  # absolute path; "": Xen's default script
    vifname: str = ""
    mtu: int = USUAL_MTU
    antispoofing: bool = True
    # Not compared: these reach the guest in its boot line and don't change the device.
    address: str = field(default="", compare=False)
    gateway: str = field(default="", compare=False)
    address6: str = field(default="", compare=False)
    gateway6: str = field(default="", compare=False)
    group: str = field(default="", compare=False)


@dataclass(frozen=True)
class Address:
    """A declared address of an interface; ``address`` includes the prefix."""

    bridge: str
    address: str
    mac: str


@dataclass(frozen=True)
class Disk:
    path: str
    vdev: str
    format: str = "raw"
    access: str = "r"  # r | w
    shared: bool = False  # on storage shared by several hosts: attached by SHARED_SCRIPT, which locks it


@dataclass(frozen=True)
class Origin:
    """What to make a missing disk file from: size, source or content (exactly one), or source with size."""

    path: str
    format: str
    size: int = 0  # bytes; an older, smaller file is grown
    source: str = ""  # a file that is copied, or converted by qemu-img, once
    content: str | None = None  # written to the beginning, padded with zeros; the path contains its digest


@dataclass(frozen=True)
class RestartLimit:
    """A domain that was restarted this often within this many seconds is not restarted again."""

    starts: int = 5
    within: int = 600


@dataclass(frozen=True)
class Watchdog:
    """The health check that Dom0 repeats for a running domain, and its interval in seconds."""

    every: int
    health: Health


@dataclass(frozen=True)
class Domain:
    """The part of a declaration that Xen can report. Memory in MiB."""

    name: str
    uuid: str
    kernel: str
    memory: int
    ramdisk: str = ""
    maxmem: int = 0  # 0: as memory
    vcpus: int = 1
    cpus: str = ""  # CPU numbers, as in 0-3,8; "": wherever the host lets domains run
    cpu_weight: int = CPU_WEIGHT
    cap: int = 0  # percent of one CPU; 0: no cap
    type: str = "pvh"
    arguments: str = ""
    interfaces: tuple[Interface, ...] = ()
    disks: tuple[Disk, ...] = ()
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "preserve"
    service: str = ""  # a word for listings, unknown to Xen
    # Unknown to Xen too: the keeper in Dom0 reads these from the definition.
    restart: str = "never"
    restart_limit: RestartLimit = RestartLimit()
    watchdog: Watchdog | None = None
    extra_config: tuple[tuple[str, int | str | tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Health:
    """The check that a started domain must pass. `health.health_of` makes it, fully parsed and validated."""

    kind: str
    target: str  # as the user wrote it: for messages; of kind console, the pattern
    within: int = 30  # seconds
    expect: str = ""  # http: the status; dns: the answer in canonical form
    command: tuple[str, ...] = ()
    address: str = ""  # the name or address to connect to, without brackets
    port: int = 0
    name: str = ""  # http: the name in the certificate (and SNI); dns: the name to query
    host: str = ""  # http: the header Host
    path: str = ""  # http: with the query string
    tls: bool = False
    ca: str = ""  # a file on the host with the only trusted authorities
    insecure: bool = False  # accept any certificate that has not expired
    contains: str = ""  # http: text expected in the first part of the body
    record: str = "A"  # dns: the record type
    transport: str = "udp"  # dns: udp | tcp | both; openvpn: tcp | udp
    signed: bool = False  # dns: the answer must have a signature that is valid now
    key: str = ""  # openvpn: a file on the host with the endpoint's tls-crypt key


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
    remove_disks: bool = False  # with state: absent
    addresses: tuple[Address, ...] = ()
    shutdown_timeout: int = 10
    settle: int = 2
    ready: str = ""  # update: warm: a pattern for the new domain's console
    ready_within: int = 60

    @property
    def name(self) -> str:
        return self.domain.name


def script_path(script: str) -> str:
    """Return the path of a hotplug script as libxl finds it: a bare name is in /etc/xen/scripts. "" for Xen's default."""
    path = script if "/" in script or not script else "/etc/xen/scripts/" + script
    return "" if path == "/etc/xen/scripts/vif-bridge" else path


def plain_path(path: str) -> str:
    """Return one spelling for all spellings of a path. Symbolic links can be resolved only on the host."""
    return posixpath.normpath("/" + path.lstrip("/"))


def owned(uuid: str) -> bool:
    return uuid.replace("-", "").startswith(UUID_MARK)


def derived_uuid(host: str, name: str) -> str:
    """Return a UUID that stays the same when a domain is recreated: our mark, then a digest of host and name.

    Version 8 of RFC 9562, in our own layout.
    """
    digest = hashlib.sha256(f"{host}\0{name}".encode()).hexdigest()
    return f"{UUID_MARK}-{digest[:4]}-8{digest[4:7]}-8{digest[7:10]}-{digest[10:22]}"


def derived_mac(host: str, name: str, index: int) -> str:
    digest = hashlib.sha256(f"{host}\0{name}\0{index}".encode()).hexdigest()
    return f"{MAC_PREFIX}:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


def content_path(name: str, vdev: str, content: str) -> str:
    """Return the path of a disk made from content. It has the digest: other content is another disk, which needs a new domain."""
    return f"{DISKS}/{name}-{vdev}-{hashlib.sha256(padded(content)).hexdigest()[:16]}.img"


def padded(content: str) -> bytes:
    """Return the bytes of a disk made from content: whole blocks, at least one."""
    data = content.encode("utf-8")
    return data + b"\0" * (-len(data) % BLOCK or (0 if data else BLOCK))


def rate_text(bytes_per_interval: int, interval: int) -> str:
    """Return a vif's rate, as libxl stores it (bytes in ``interval`` microseconds), as text that xl reads back exactly."""
    if not bytes_per_interval or not interval:
        return ""
    return f"{-(-bytes_per_interval * 1_000_000 // interval)}B/s@{interval}us"
