# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Build a stand-in: a Debian kernel and a Debian program in one PVH image.

A stand-in answers a unikernel's boot arguments and protocols on machines where OCaml's packages are not available. Its own ELF
notes mark it as such, so that every listing can tell.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
import subprocess
from dataclasses import dataclass
from typing import Any

from . import provenance, signature, sources
from .debian_tree import libraries_of, path_in, read_in, tree_of
from .elf import printable
from .origin import STANDIN
from .pvh_wrap import cpio, payload_of, wrap
from .steps import BuildError
from .store import StoreError, describe, hold, image_path, put, write_whole

# Seconds for fetching packages on a slow line, and for the steps after it.
_LOCK_SECONDS = 1500
# Raise this number when the image's bytes change for equal input.
RECIPE = "2"
PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "nginx-light", "unbound", "openvpn", "nftables")
LINKER = "lib64/ld-linux-x86-64.so.2"
PROGRAMS = {"web": "usr/sbin/nginx", "dns": "usr/sbin/unbound", "vpn": "usr/sbin/openvpn"}
MODULES = {
    "web": ("xen-netfront", "xen-blkfront"),
    "dns": ("xen-netfront", "xen-blkfront"),
    "vpn": ("xen-netfront", "xen-blkfront", "tun"),
}
# Programs and modules that a service needs to translate addresses; each module after those that it depends on.
NAT_PROGRAM = {"vpn": "usr/sbin/nft"}
NAT_MODULES = {
    "vpn": ("libcrc32c", "nfnetlink", "nf_tables", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nft_chain_nat",
            "nft_masq"),
}  # fmt: skip
# Before "--" for Linux, after it for us: the kernel never reads what a user declares. Without the CPU's feature 4 (its time stamp
# counter, which Xen's clock replaces) and with a given loop count, Linux doesn't probe 100,000 times for a timer chip that a PVH
# domain lacks: half of the boot time where each probe is emulated.
PREFIX = "console=hvc0 quiet loglevel=1 panic=-1 clearcpuid=4 lpj=4000000 cryptomgr.notests 8250.nr_uarts=0 mitigations=off -- "


@dataclass(frozen=True)
class Wanted:
    """``files``: folder with the stand-ins' init process and services; ``mirrors``: lines of a sources.list."""

    service: str
    files: str
    content: str | None
    suite: str
    mirrors: list[str]


def _digest_of_folder(folder: str) -> str:
    digest = hashlib.sha256()
    for path, content in content_files(folder):
        digest.update(json.dumps([path, len(content)]).encode())
        digest.update(content)
    return digest.hexdigest()


def content_files(folder: str) -> list[tuple[str, bytes]]:
    """Return (path, content) of the files to serve. Raise BuildError for a path that leads out of the folder.

    Content may come from people who must not read the builder's files.
    """
    found = []
    for root, folders, names in os.walk(folder):
        sources.check_depth(folder, os.path.relpath(root, folder))
        folders.sort()
        for name in sorted([*names, *(each for each in folders if os.path.islink(os.path.join(root, each)))]):
            path = os.path.relpath(os.path.join(root, name), folder)
            sources.check(folder, path)
            full = os.path.join(root, name)
            if os.path.isdir(full):
                raise BuildError(
                    f"{folder}: {printable(path)}: is a link to a folder, and only files are served; put a folder there"
                )
            if not os.path.exists(full):
                raise BuildError(f"{folder}: {printable(path)}: is a link to nothing; remove it")
            inside = os.path.relpath(os.path.realpath(full), os.path.realpath(folder))
            sources.check(folder, inside)
            found.append((path, sources.read(folder, inside)))
    return found


def _module(tree: str, name: str) -> str:
    folder = os.path.join(tree, path_in(tree, "lib/modules"))
    paths = glob.glob(os.path.join(glob.escape(folder), f"*/kernel/**/{name}.ko*"), recursive=True)
    if not paths:
        raise StoreError(f"Debian's kernel has no module {name}")
    return os.path.relpath(paths[0], tree)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _initramfs(tree: str, service: str, files: str, content: str | None) -> bytes:
    entries: dict[str, tuple[int, bytes]] = {}

    def folder(path: str) -> None:
        while path and path not in entries:
            entries[path] = (stat.S_IFDIR | 0o755, b"")
            path = os.path.dirname(path)

    def add(path: str, data: bytes, mode: int = 0o644) -> None:
        folder(os.path.dirname(path))
        entries[path] = (stat.S_IFREG | mode, data)

    for path in ("sbin", "usr/bin", "usr/sbin", "root"):
        folder(path)
    add("init", _read(os.path.join(files, "init")), 0o755)
    add("service", _read(os.path.join(files, "service-" + service)), 0o755)
    # The kernel runs /sbin/poweroff when Xen requests a shutdown.
    add("sbin/poweroff", b'#!/bin/busybox sh\necho "shutdown requested" >/dev/hvc0\nexec /bin/busybox poweroff -f\n', 0o755)
    add("bin/busybox", read_in(tree, "bin/busybox"), 0o755)
    add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    add("etc/group", b"root:x:0:\n")
    add(LINKER, read_in(tree, LINKER), 0o755)
    for inside in filter(None, (PROGRAMS[service], NAT_PROGRAM.get(service))):
        add(inside, read_in(tree, inside), 0o755)
        for name, path in libraries_of(tree, inside).items():
            if name != os.path.basename(LINKER):
                add("lib/x86_64-linux-gnu/" + name, read_in(tree, path), 0o755)
    for file, names in (("modules", MODULES[service]), ("modules-nat", NAT_MODULES.get(service, ()))):
        paths = [_module(tree, name) for name in names]
        for path in paths:
            add("modules.d/" + os.path.basename(path), read_in(tree, path))
        add(file, "".join(f"/modules.d/{os.path.basename(path)}\n" for path in paths).encode())
    folder("dev")
    entries["dev/console"] = (stat.S_IFCHR | 0o600, b"5,1")
    if service == "web":
        add("etc/nginx/mime.types", read_in(tree, "etc/nginx/mime.types"))
        folder("content")
        for path, data in content_files(content) if content else ():
            add("content/" + path, data)
    return cpio([(path, mode, data) for path, (mode, data) in entries.items()])


def _vmlinux(tree: str, bzimage: str) -> bytes:
    try:
        command, payload = payload_of(read_in(tree, bzimage))
        return subprocess.run(command, input=payload, capture_output=True, timeout=120, check=True).stdout
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"{bzimage}: cannot unpack the kernel: {error}") from error


def key_of(service: str, files: str, content: str | None, suite: str) -> str:
    """Return a digest of everything that determines the image: equal keys give equal images."""
    parts = [RECIPE, service, suite, PREFIX, list(PACKAGES), [*MODULES[service], *NAT_MODULES.get(service, ())]]
    for name in ("init", "service-" + service):
        parts.append(hashlib.sha256(_read(os.path.join(files, name))).hexdigest())
    parts.append(_digest_of_folder(content) if content else "")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _give_to_invoker(*paths: str) -> None:
    """Give the results of a task that ran as root to the user who called sudo."""
    owner = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and owner.isdigit():
        for path in paths:
            os.chown(path, int(owner), -1)


def build(store: str, cache: str, wanted: Wanted, check: bool) -> tuple[bool, dict[str, Any]]:
    """Put the stand-in into the store. Return (changed, manifest). If it exists, no process is started."""
    if wanted.service == "web" and wanted.content and not os.path.isdir(wanted.content):
        raise StoreError(f"content: {wanted.content} is not a folder; a web image serves a folder")
    key = key_of(wanted.service, wanted.files, wanted.content, wanted.suite)
    found = _built(store, cache, key)
    if found:
        return False, found
    if check:
        return True, {"sha256": None, "path": None, "target": "standin", "standin": True, "key": key}
    os.makedirs(cache, mode=0o700, exist_ok=True)
    path = os.path.join(cache, ".lock")
    for left in (path, os.path.join(cache, "debian.log")):
        # A run as root left it in this user's folder.
        if os.path.exists(left) and not os.access(left, os.W_OK):
            os.unlink(left)
    late = StoreError(f"another run still builds a stand-in after {_LOCK_SECONDS} s (it holds {path})")
    with hold(path, _LOCK_SECONDS, late):
        found = _built(store, cache, key)  # built by another run while this one waited
        return (False, found) if found else _build(store, cache, wanted, key)


def _built(store: str, cache: str, key: str) -> dict[str, Any] | None:
    """Return the manifest of the stand-in built for the key, if it is still in the store."""
    try:
        digest = _read(os.path.join(cache, "built-" + key)).decode().strip()
    except FileNotFoundError:
        return None
    whole = all(os.path.exists(path) for path in (image_path(store, digest), os.path.join(store, digest + signature.STATEMENT)))
    return describe(store, digest) if whole else None


def _build(store: str, cache: str, wanted: Wanted, key: str) -> tuple[bool, dict[str, Any]]:
    service, suite = wanted.service, wanted.suite
    tree = tree_of(cache, suite, PACKAGES, wanted.mirrors)
    kernels = glob.glob(os.path.join(glob.escape(tree), "boot/vmlinuz-*-cloud-amd64"))
    if not kernels:
        raise StoreError(f"Debian {suite}'s packages brought no kernel: remove {tree} and run again")
    vmlinux = _vmlinux(tree, os.path.relpath(kernels[0], tree))
    description = f"stand-in for {service}: {os.path.basename(kernels[0])} with {os.path.basename(PROGRAMS[service])}"
    joined = wrap(vmlinux, _initramfs(tree, service, wanted.files, wanted.content), PREFIX, description)
    built = os.path.join(cache, "built-" + key)
    draft = os.path.join(cache, f".draft-{service}-{os.getpid()}")
    try:
        write_whole(draft, joined, 0o644)
        changed, manifest = put(store, draft, None, {"name": service, "key": key, "source": "standin"}, False)
        told = provenance.statement(
            f"stand-in for {service}", manifest["sha256"], built=False, parameters={"service": service, "suite": suite},
            materials=[{"uri": STANDIN + service}, {"name": os.path.basename(kernels[0])}],
            builder={"id": os.uname().nodename}, key=key,
        )  # fmt: skip
        signature.attach(store, manifest["sha256"], told, "", False)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
    write_whole(built, manifest["sha256"].encode(), 0o644)
    image = manifest["path"]
    _give_to_invoker(cache, built, store, image, os.path.splitext(image)[0] + ".json")
    return changed, manifest
