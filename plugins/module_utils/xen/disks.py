# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Files that become a domain's disks: made once, grown, never overwritten.

A new file is written beside its place and renamed, so that what is there is whole. Mode 0600: it may
hold keys. Nothing is ever created or removed below /dev: a volume that is not there is none of ours to make.

A source comes from anywhere, and QEMU follows the names of other files that it may have in it (CVE-2024-32498): such a source is
refused, and the rest is converted by a user who can read nothing but a copy of it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import struct
import subprocess
import tempfile
import threading

from ..domain.spec import BLOCK, Origin, padded
from ..image.store import write_whole
from .observation import disk_size
from .xl import ToolstackError

# Converting is bound by the disk; a stuck NFS server must not hold the host's lock for ever.
QEMU_IMG_SECONDS = 3600


# What this process has made.
_made: dict[str, Origin] = {}
_making = threading.Lock()

# Who converts a source.
_NOBODY = "nobody"
# Of a source's head, what its format and the names in it are read from; a VMDK's descriptor is within.
_HEAD_BYTES = 1 << 20
# desc_offset and DESC_SIZE of QEMU's block/vmdk.c.
_VMDK_TEXT_AT, _VMDK_TEXT_BYTES = 0x200, 20 * 512


def place_problem(path: str) -> str | None:
    """Why no file may be made or removed there; None when it may."""
    real = os.path.realpath(path)
    if real == "/dev" or real.startswith("/dev/"):
        return "is below /dev, where nothing is created or removed: is its volume group active?"
    return no_disk(path)


def no_disk(path: str) -> str | None:
    """Why what is there, or would be, can be no domain's disk; /proc/kcore is a file, and is Dom0's memory."""
    real = os.path.realpath(path)
    kernels = next((top for top in ("/proc", "/sys") if real == top or real.startswith(top + "/")), "")
    return f"is below {kernels}, which holds the kernel's own files and no disks" if kernels else None


def make(origin: Origin) -> None:
    """Make the file. ToolstackError, in one line, and nothing left behind when that fails."""
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
            # MirageOS's block front end sees whole blocks only: the tail of the last one would be lost.
            os.truncate(draft, -(-os.path.getsize(draft) // BLOCK) * BLOCK)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        # Never over a file that was created in the meantime; but several domains may read one, and each has it made.
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
    """To its declared size. Its domain must not run: a guest doesn't expect it."""
    problem = names_another(origin.path, origin.format)
    if problem:
        raise ToolstackError(f"disk {origin.path}: {problem}")
    try:
        _enlarge(origin.path, origin)
    except OSError as error:
        raise ToolstackError(f"disk {origin.path}: {error.strerror or error}") from error


def remove(path: str) -> None:
    problem = place_problem(path)
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
    # Beside the draft, so that it is on a file system with room for it; nobody can reach it but through its own folder.
    nobody = pwd.getpwnam(_NOBODY)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=os.path.dirname(draft)) as folder:
        source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
        shutil.copyfile(origin.source, source)
        form = source_format(source)
        problem = source_problem(source)  # of the copy, because the original may have changed in the meantime
        if problem:
            raise ToolstackError(f"disk {origin.path}: source {origin.source}: {problem}")
        for path in (source, folder):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        # The folders above may be root's alone: it works in its own, by relative names.
        qemu_img("convert", "-q", "-f", form, "-O", origin.format, "source", "target", folder=folder, user=nobody)
        _take(target, draft)


def _take(made: str, draft: str) -> None:
    """What another user has made becomes root's, in the draft's place."""
    handle = os.open(made, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ToolstackError(f"disk {draft}: what was converted is no file")
        os.fchown(handle, 0, 0)
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    os.replace(made, draft)


def source_format(path: str) -> str:
    """raw, qcow2, vmdk, vpc or vdi, by the file's first bytes, so that QEMU guesses nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ToolstackError(f"disk source {path}: {error.strerror}") from error
    # QEMU's block/qcow2.c, vmdk.c (sparse and descriptor), vpc.c, vdi.c.
    if head[:4] == b"QFI\xfb":
        return "qcow2"
    if head[:4] == b"KDMV" or head.startswith(b"# Disk DescriptorFile"):
        return "vmdk"
    if head[:8] == b"conectix":
        return "vpc"
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi"
    return "raw"


def names_another(path: str, form: str) -> str | None:
    """Would QEMU, which opens a domain's qcow2 disk as root, read another file because of it? One line, or None.

    A raw disk is opened by its declared format, whatever its guest has written to it.
    """
    return source_problem(path) if form == "qcow2" else None


def source_problem(path: str) -> str | None:
    """Does a disk image name another file, whose content its reader would get? One line, or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 512))
            tail = file.read(512)
    except OSError as error:
        return error.strerror or str(error)
    form = source_format(path)
    checks = {"qcow2": _qcow2_names, "vmdk": _vmdk_names, "vpc": _vpc_names, "vdi": _vdi_names}
    names = checks[form](head, tail) if form in checks else ""
    return (
        f"{names}: an image that takes its content from another file is refused; flatten it first (qemu-img convert)"
        if names
        else None
    )


def _qcow2_names(head: bytes, _tail: bytes) -> str:
    """QEMU's docs/interop/qcow2.txt: the backing file's offset is in bytes 8 to 15; incompatible features in 72 to 79, of
    which bit 2 is an external data file; version 2 has none."""
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
    """VMware's Virtual Disk Format 5.0: a sparse extent has its descriptor in it, of which QEMU follows extents and parents."""
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
    # QEMU looks for a parent here, whatever the header says of the descriptor's place.
    if b"parentfilenamehint" in head[_VMDK_TEXT_AT : _VMDK_TEXT_AT + _VMDK_TEXT_BYTES].lower():
        return "it has a parent"
    kinds = {line.split(b"=", 1)[1].strip(b' "\r') for line in lower.splitlines() if line.startswith(b"createtype")}
    return "" if kinds <= {b"monolithicsparse", b"streamoptimized"} else "it consists of several files"


def _vpc_names(head: bytes, tail: bytes) -> str:
    """Microsoft's VHD specification 1.0: the disk type is in bytes 60 to 63 of the footer: 2 fixed, 3 dynamic, 4 differencing."""
    footer = head if head[:8] == b"conectix" else tail
    kind = struct.unpack_from(">I", footer, 60)[0] if len(footer) >= 64 else 0
    return "" if kind in (2, 3) else "it has a parent" if kind == 4 else f"it is of type {kind}"


def _vdi_names(head: bytes, _tail: bytes) -> str:
    """QEMU's block/vdi.c: the image type is in bytes 76 to 79: 1 dynamic, 2 static; others are differences to a parent."""
    kind = struct.unpack_from("<I", head, 76)[0] if len(head) >= 80 else 0
    return "" if kind in (1, 2) else "it has a parent"


def qemu_img(*arguments: str, folder: str | None = None, user: pwd.struct_passwd | None = None) -> str:
    """Its output. As ``user``, with no right of root's left, where one is given."""
    command = ["qemu-img", *arguments]
    if user:
        drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
        command = [*drop, "--inh-caps=-all", "--bounding-set=-all", *command]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", cwd=folder,
            timeout=QEMU_IMG_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ToolstackError("qemu-img is not installed on this host: apt-get install qemu-utils") from None
    except subprocess.TimeoutExpired:
        raise ToolstackError(f"'qemu-img {arguments[0]}' timed out after {QEMU_IMG_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise ToolstackError(f"'qemu-img {' '.join(arguments)}' failed ({done.returncode}): {lines[-1]}")
    return done.stdout
