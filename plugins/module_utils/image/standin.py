# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Build a stand-in: a Debian kernel and one Debian program in one PVH image.

A stand-in answers the boot arguments and protocols of a unikernel on machines where OCaml's
packages can't be had. It is labelled as such in its own ELF notes, so every listing can tell.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from typing import Any

from . import provenance, signature
from .pvh_wrap import cpio, payload_of, wrap
from .store import StoreError, describe, image_path, put, write_whole

# Raised when the bytes of an image change for the same input.
RECIPE = "1"
PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "nginx-light", "unbound", "openvpn")
PROGRAMS = {"web": "usr/sbin/nginx", "dns": "usr/sbin/unbound", "vpn": "usr/sbin/openvpn"}
MODULES = {
    "web": ("xen-netfront",),
    "dns": ("xen-netfront", "xen-blkfront"),
    "vpn": ("xen-netfront", "xen-blkfront", "tun"),
}
# Before "--" for Linux, behind it for us: what a user declares is never read by the kernel. Without the CPU's feature 4
# (its time stamp counter, which Xen's clock stands for) and with a given loop count, Linux does not look 100,000 times for a
# timer chip that a PVH domain has not: half of its time to boot where each look is emulated.
PREFIX = "console=hvc0 quiet loglevel=1 panic=-1 clearcpuid=4 lpj=4000000 cryptomgr.notests 8250.nr_uarts=0 mitigations=off -- "


def _digest_of_folder(folder: str) -> str:
    digest = hashlib.sha256()
    for path, content in _files(folder):
        digest.update(json.dumps([path, len(content)]).encode())
        digest.update(content)
    return digest.hexdigest()


def _files(folder: str) -> list[tuple[str, bytes]]:
    found = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found.append((os.path.relpath(path, folder), file.read()))
    return found


def _debian_tree(cache: str, suite: str, sources: list[str]) -> str:
    """The folder with the packages' files, extracted, made once for each suite and list of packages."""
    name = hashlib.sha256(json.dumps([suite, PACKAGES]).encode()).hexdigest()[:16]
    tree = os.path.join(cache, f"tree-{suite}-{name}")
    if os.path.isdir(tree):
        return tree
    if os.geteuid() != 0:
        raise StoreError("building a stand-in needs root on the controller: run the task with become: true")
    if not shutil.which("mmdebstrap"):
        raise StoreError("building a stand-in needs mmdebstrap on the controller: apt-get install mmdebstrap")
    os.makedirs(cache, exist_ok=True)
    work = tempfile.mkdtemp(prefix=".tree-", dir=cache)
    try:
        command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=root", "--include=" + ",".join(PACKAGES)]
        command += ["--aptopt=Acquire::Check-Valid-Until false", "--aptopt=APT::Install-Recommends false"]
        command += [suite, os.path.join(work, "tree"), *sources]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200, check=False)
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
            raise StoreError(f"mmdebstrap could not get Debian {suite}'s packages: {' '.join(last)}")
        os.rename(os.path.join(work, "tree"), tree)
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"mmdebstrap did not end within {error.timeout:.0f} s: is the package mirror reachable?") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tree


def _libraries(tree: str, program: str) -> dict[str, str]:
    """Name -> path of every shared library that the program needs, found inside the tree."""
    loader = os.path.realpath(os.path.join(tree, "lib64/ld-linux-x86-64.so.2"))
    folders = [os.path.join(tree, part, "x86_64-linux-gnu") for part in ("lib", "usr/lib")]
    command = [loader, "--library-path", ":".join(folders), "--list", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise StoreError(f"{program}: {done.stderr.strip() or 'its libraries cannot be found'}")
    found = {}
    for line in done.stdout.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            found[name] = rest.rsplit(" (", 1)[0]
    return found


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
    # The kernel runs /sbin/poweroff when Xen asks for a shutdown.
    add("sbin/poweroff", b'#!/bin/busybox sh\necho "shutdown requested" >/dev/hvc0\nexec /bin/busybox poweroff -f\n', 0o755)
    add("bin/busybox", _read(os.path.join(tree, "bin/busybox")), 0o755)
    add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    add("etc/group", b"root:x:0:\n")
    program = os.path.join(tree, PROGRAMS[service])
    add(PROGRAMS[service], _read(program), 0o755)
    add("lib64/ld-linux-x86-64.so.2", _read(os.path.join(tree, "lib64/ld-linux-x86-64.so.2")), 0o755)
    for name, path in _libraries(tree, program).items():
        add("lib/x86_64-linux-gnu/" + name, _read(path), 0o755)
    modules = []
    for name in MODULES[service]:
        paths = glob.glob(os.path.join(tree, f"lib/modules/*/kernel/drivers/**/{name}.ko*"), recursive=True)
        if not paths:
            raise StoreError(f"Debian's kernel has no module {name}")
        at = "modules.d/" + os.path.basename(paths[0])
        add(at, _read(paths[0]))
        modules.append("/" + at)
    add("modules", "".join(path + "\n" for path in modules).encode())
    folder("dev")
    entries["dev/console"] = (stat.S_IFCHR | 0o600, b"5,1")
    if service == "web":
        add("etc/nginx/mime.types", _read(os.path.join(tree, "etc/nginx/mime.types")))
        folder("content")
        for path, data in _files(content or ""):
            add("content/" + path, data)
    return cpio([(path, mode, data) for path, (mode, data) in entries.items()])


def _vmlinux(bzimage: str) -> bytes:
    try:
        command, payload = payload_of(_read(bzimage))
        return subprocess.run(command, input=payload, capture_output=True, timeout=120, check=True).stdout
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"{bzimage}: cannot unpack the kernel: {error}") from error


def key_of(service: str, files: str, content: str | None, suite: str) -> str:
    """What the image depends on, as one digest: the same key gives the same image."""
    parts = [RECIPE, service, suite, PREFIX, list(PACKAGES), list(MODULES[service])]
    for name in ("init", "service-" + service):
        parts.append(hashlib.sha256(_read(os.path.join(files, name))).hexdigest())
    parts.append(_digest_of_folder(content) if content else "")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _give_to_invoker(*paths: str) -> None:
    """Root is needed for mmdebstrap alone; what is left belongs to the user who called sudo."""
    owner = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and owner.isdigit():
        for path in paths:
            os.chown(path, int(owner), -1)


def build(
    store: str, cache: str, service: str, files: str, content: str | None, suite: str, sources: list[str], check: bool
) -> tuple[bool, dict[str, Any]]:
    """Put the stand-in for ``service`` into the store; (changed, manifest). One process-free look when it is there."""
    if service == "web" and not (content and os.path.isdir(content)):
        raise StoreError(f"content: {content or 'not given'} is not a folder; a web image serves a folder")
    key = key_of(service, files, content, suite)
    found = _built(store, cache, key)
    if found:
        return False, found
    if check:
        return True, {"sha256": None, "path": None, "target": "standin", "standin": True, "key": key}
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _built(store, cache, key)  # by another run, while this one waited
        return (False, found) if found else _build(store, cache, service, files, content, suite, sources, key)


def _built(store: str, cache: str, key: str) -> dict[str, Any] | None:
    """The manifest of the stand-in that was built for the key, if it is still in the store."""
    try:
        digest = _read(os.path.join(cache, "built-" + key)).decode().strip()
    except FileNotFoundError:
        return None
    whole = all(os.path.exists(path) for path in (image_path(store, digest), os.path.join(store, digest + signature.STATEMENT)))
    return describe(store, digest) if whole else None


def _build(
    store: str, cache: str, service: str, files: str, content: str | None, suite: str, sources: list[str], key: str
) -> tuple[bool, dict[str, Any]]:
    tree = _debian_tree(cache, suite, sources)
    kernels = glob.glob(os.path.join(tree, "boot/vmlinuz-*-cloud-amd64"))
    if not kernels:
        raise StoreError(f"Debian {suite}'s packages brought no kernel: remove {tree} and run again")
    vmlinux = _vmlinux(kernels[0])
    description = f"stand-in for {service}: {os.path.basename(kernels[0])} with {os.path.basename(PROGRAMS[service])}"
    joined = wrap(vmlinux, _initramfs(tree, service, files, content), PREFIX, description)
    built = os.path.join(cache, "built-" + key)
    draft = os.path.join(cache, f".draft-{service}-{os.getpid()}")
    try:
        write_whole(draft, joined, 0o644)
        changed, manifest = put(store, draft, None, {"name": service, "key": key, "source": "standin"}, False)
        told = provenance.statement(
            f"stand-in for {service}", manifest["sha256"], built=False, parameters={"service": service, "suite": suite},
            materials=[{"name": os.path.basename(kernels[0])}], builder={"id": os.uname().nodename}, key=key,
        )  # fmt: skip
        signature.attach(store, manifest["sha256"], told, "", False)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
    write_whole(built, manifest["sha256"].encode(), 0o644)
    image = manifest["path"]
    _give_to_invoker(cache, built, store, image, os.path.splitext(image)[0] + ".json")
    return changed, manifest
