# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Files for a domain's disks: made once, grown, never overwritten.

A new file is written to a temporary name and renamed, so a file that exists is complete. Mode 0600: it may hold keys. Nothing is
ever created or removed below /dev: making a missing volume is not our task.

A source may come from anywhere, and may contain names of other files that QEMU would read (CVE-2024-32498). Such a source is
refused; any other is converted by a user who can read nothing but a copy of it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import threading

from ..domain.spec import BLOCK, Origin, padded
from ..image.store import write_whole
from ..process import run
from .mounts import file_system, mounted
from .observation import disk_size
from .xl import ToolstackError

# Converting is as slow as the disk; a stuck NFS server must not hold the host's lock forever.
QEMU_IMG_SECONDS = 3600


# The disks that this process has made, by path.
_made: dict[str, Origin] = {}
_making = threading.Lock()

# The user who converts a source.
_NOBODY = "nobody"
# How much of a source is searched for its format and names of other files; includes a VMDK's descriptor.
_HEAD_BYTES = 1 << 20
# desc_offset and DESC_SIZE of QEMU's block/vmdk.c.
_VMDK_TEXT_AT, _VMDK_TEXT_BYTES = 0x200, 20 * 512
# A VMDK's descriptor as vmdk_probe there finds it: comments and empty lines, then the version.
_VMDK_DESCRIPTOR = re.compile(rb"(?:\s*#[^\n]*\n)*\s*version=[1-3]\s")
# Formats that may take their content from another file, and that we don't convert (QEMU's block/qed.h, vhdx.h, vmdk.c,
# parallels.c, bochs.c): as a raw disk, a guest would find a header in place of its data.
_UNREAD = {
    b"QED\0": "QED",
    b"vhdxfile": "VHDX",
    b"COWD": "VMDK of ESX",
    b"WithoutFreeSpace": "Parallels",
    b"WithouFreSpacExt": "Parallels",
    b"Bochs Virtual HD Image": "Bochs",
}
# The kernel's own file systems, wherever they are mounted. /proc/kcore, for example, is Dom0's memory.
_KERNELS = {"/proc": {"proc"}, "/sys": {"sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "efivarfs"}}


def place_problem(path: str) -> str | None:
    """Return why no file may be made or removed at the path; None if it may. A folder below /dev may be mounted elsewhere too."""
    real = os.path.realpath(path)
    if _below(real, "/dev") or file_system(real, mounted()) == "devtmpfs":
        return "is below /dev, where nothing is created or removed: is its volume group active?"
    return no_disk(path)


def no_disk(path: str) -> str | None:
    """Return why the path can't be a disk, existing or not; None if it can."""
    real = os.path.realpath(path)
    kind = file_system(real, mounted())
    kernels = next((top for top, kinds in _KERNELS.items() if _below(real, top) or kind in kinds), "")
    return f"is below {kernels}, which holds the kernel's own files and no disks" if kernels else None


def removal_problem(path: str) -> str | None:
    """Return why the disk at the path can't be removed; None if it can, or is gone already."""
    problem = place_problem(path)
    if problem or not os.path.lexists(path):
        return problem
    if os.path.islink(path):
        return f"is a link, and without it {os.path.realpath(path)} would remain: declare that path"
    return None if os.path.isfile(path) else "is not a file; only files are removed"


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def make(origin: Origin) -> None:
    """Make the file. If that fails, raise ToolstackError (one line) and leave nothing behind."""
    problem = place_problem(origin.path)
    if problem:
        raise ToolstackError(f"disk {origin.path}: {problem}")
    folder = os.path.dirname(origin.path)
    draft = ""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if origin.content is not None:
            write_whole(origin.path, padded(origin.content), 0o600)
            return
        handle, draft = tempfile.mkstemp(prefix=".incoming-", dir=folder)
        os.close(handle)
        if origin.source:
            _copy(origin, draft)
        elif origin.format == "raw":
            os.truncate(draft, origin.size)
        else:
            qemu_img("create", "-q", "-f", origin.format, draft, str(origin.size))
        _enlarge(draft, origin)
        if origin.format == "raw":
            # Round up to whole blocks: MirageOS's block front end would ignore a shorter rest.
            os.truncate(draft, -(-os.path.getsize(draft) // BLOCK) * BLOCK)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        # link() never replaces a file that appeared meanwhile; the disk of several domains is made once.
        with _making:
            if _made.get(origin.path) != origin or not os.path.exists(origin.path):
                os.link(draft, origin.path)
                _made[origin.path] = origin
    except FileExistsError:
        raise ToolstackError(
            f"disk {origin.path}: it was created by another program during the run and was not changed; run again"
        ) from None
    except OSError as error:
        raise ToolstackError(f"disk {origin.path}: {error.strerror or error}") from error
    finally:
        if draft:
            os.unlink(draft)


def grow(origin: Origin) -> None:
    """Grow a disk to its declared size. No running domain may have it open, since guests don't expect that."""
    problem = names_another(origin.path, origin.format)
    if problem:
        raise ToolstackError(f"disk {origin.path}: {problem}")
    try:
        _enlarge(origin.path, origin)
    except OSError as error:
        raise ToolstackError(f"disk {origin.path}: {error.strerror or error}") from error


def remove(path: str) -> None:
    problem = removal_problem(path)
    if problem:
        raise ToolstackError(f"disk {path}: {problem}")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _enlarge(path: str, origin: Origin) -> None:
    size = disk_size(path, origin.format)
    if size is None or size >= origin.size:
        return
    if origin.format == "raw":
        os.truncate(path, origin.size)
    else:
        qemu_img("resize", "-q", "-f", origin.format, path, str(origin.size))


def _copy(origin: Origin, draft: str) -> None:
    problem = source_problem(origin.source)
    if problem:
        raise ToolstackError(f"disk {origin.path}: source {origin.source}: {problem}")
    if source_format(origin.source) == origin.format == "raw" and not stat.S_ISBLK(os.stat(origin.source).st_mode):
        shutil.copyfile(origin.source, draft)
        return
    # In a folder of its own beside the draft, where there is room for it and nobody else can reach it.
    nobody = pwd.getpwnam(_NOBODY)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=os.path.dirname(draft)) as folder:
        source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
        shutil.copyfile(origin.source, source)
        form = source_format(source)
        problem = source_problem(source)  # checked on the copy: the original may have changed meanwhile
        if problem:
            raise ToolstackError(f"disk {origin.path}: source {origin.source}: {problem}")
        for path in (source, folder):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        # The folders above may be closed to this user, so it works in its own folder by relative names.
        qemu_img("convert", "-q", "-f", form, "-O", origin.format, "source", "target", folder=folder, user=nobody)
        os.chown(folder, 0, 0)  # from here on that user, whatever it may have started, changes nothing in it
        _take(target, draft)


def _take(made: str, draft: str) -> None:
    """Move a file that another user has made over the draft, owned by root."""
    handle = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # opening a pipe would block forever
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ToolstackError(f"disk {draft}: what was converted is no file")
        os.fchown(handle, 0, 0)
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    os.replace(made, draft)


def source_format(path: str) -> str:
    """Return raw, qcow2, vmdk, vpc or vdi by the file's first bytes, so that QEMU doesn't guess."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ToolstackError(f"disk source {path}: {error.strerror}") from error
    # QEMU's block/qcow2.c, vmdk.c (sparse and descriptor), vpc.c, vdi.c.
    if head[:4] == b"QFI\xfb":
        return "qcow2"
    if head[:4] == b"KDMV" or head.startswith(b"# Disk DescriptorFile") or _VMDK_DESCRIPTOR.match(head):
        return "vmdk"
    if head[:8] == b"conectix":
        return "vpc"
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi"
    return "raw"


def names_another(path: str, form: str) -> str | None:
    """Return one line if the disk makes QEMU, which opens qcow2 disks as root, read another file; else None.

    A raw disk is opened by its declared format, whatever its guest has written to it.
    """
    return source_problem(path) if form == "qcow2" else None


def source_problem(path: str) -> str | None:
    """Return one line if a disk image names another file, whose content a reader would get, or can't be read; else None."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 512))
            tail = file.read(512)
    except OSError as error:
        return error.strerror or str(error)
    form = source_format(path)
    unread = next((name for magic, name in _UNREAD.items() if head.startswith(magic)), "")
    if unread:
        return f"it is an image of the format {unread}, which is not converted: convert it first (qemu-img convert -O qcow2)"
    checks = {"qcow2": _qcow2_names, "vmdk": _vmdk_names, "vpc": _vpc_names, "vdi": _vdi_names}
    names = checks[form](head, tail) if form in checks else ""
    return (
        f"{names}: an image that takes its content from another file is refused; flatten it first (qemu-img convert)"
        if names
        else None
    )


def _qcow2_names(head: bytes, _tail: bytes) -> str:
    """Check a qcow2 header (QEMU's docs/interop/qcow2.txt).

    Bytes 8 to 15 are the offset of the backing file's name. Bytes 72 to 79 are the incompatible features, of which bit 2 is an
    external data file; version 2 has none.
    """
    if len(head) < 72:
        return "it is cut off"
    version, backing = struct.unpack_from(">IQ", head, 4)
    if version not in (2, 3):
        return f"it is qcow2 of version {version}"
    features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
    if backing:
        return "it has a backing file"
    if features & 4:
        return "it has an external data file"
    return f"it has features that are not known ({features:#x})" if features & ~0x1F else ""


def _vmdk_names(head: bytes, _tail: bytes) -> str:
    """Check a VMDK header (VMware's Virtual Disk Format 5.0).

    A sparse extent contains its descriptor, whose extents and parents QEMU follows.
    """
    if head[:4] != b"KDMV":
        return "it is a descriptor of other files"
    if len(head) < 44 or not struct.unpack_from("<Q", head, 12)[0]:
        return "it is a descriptor of other files"
    offset, sectors = struct.unpack_from("<QQ", head, 28)
    text = head[offset * 512 : (offset + sectors) * 512] if offset else b""
    if offset and (offset + sectors) * 512 > len(head):
        return "its descriptor is out of reach"
    lower = text.lower()
    if b"parentfilenamehint" in lower or (b"parentcid" in lower and b"parentcid=ffffffff" not in lower.replace(b" ", b"")):
        return "it has a parent"
    # QEMU looks for a parent here, wherever the header puts the descriptor.
    if b"parentfilenamehint" in head[_VMDK_TEXT_AT : _VMDK_TEXT_AT + _VMDK_TEXT_BYTES].lower():
        return "it has a parent"
    kinds = {line.split(b"=", 1)[1].strip(b' "\r') for line in lower.splitlines() if line.startswith(b"createtype")}
    return "" if kinds <= {b"monolithicsparse", b"streamoptimized"} else "it consists of several files"


def _vpc_names(head: bytes, tail: bytes) -> str:
    """Check a VHD footer (Microsoft's VHD specification 1.0): bytes 60 to 63 are the type: 2 fixed, 3 dynamic, 4 differencing."""
    footer = head if head[:8] == b"conectix" else tail
    kind = struct.unpack_from(">I", footer, 60)[0] if len(footer) >= 64 else 0
    return "" if kind in (2, 3) else "it has a parent" if kind == 4 else f"it is of type {kind}"


def _vdi_names(head: bytes, _tail: bytes) -> str:
    """Check a VDI header (QEMU's block/vdi.c): bytes 76 to 79 are the type: 1 dynamic, 2 static, others differ from a parent."""
    kind = struct.unpack_from("<I", head, 76)[0] if len(head) >= 80 else 0
    return "" if kind in (1, 2) else "it has a parent"


def qemu_img(*arguments: str, folder: str | None = None, user: pwd.struct_passwd | None = None) -> str:
    """Run qemu-img and return its output. ``user``: run as this user, without any capability of root."""
    command = ["qemu-img", *arguments]
    if user:
        drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
        command = [*drop, "--inh-caps=-all", "--bounding-set=-all", *command]
    try:
        done = run(command, QEMU_IMG_SECONDS, cwd=folder)
    except FileNotFoundError:
        raise ToolstackError("qemu-img is not installed on this host: apt-get install qemu-utils") from None
    except subprocess.TimeoutExpired:
        raise ToolstackError(f"'qemu-img {arguments[0]}' timed out after {QEMU_IMG_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise ToolstackError(f"'qemu-img {' '.join(arguments)}' failed ({done.returncode}): {lines[-1]}")
    return done.stdout
