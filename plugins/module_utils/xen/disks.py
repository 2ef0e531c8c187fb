# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Files that become a domain's disks: made once, grown, never overwritten.

A new file is written beside its place and renamed, so that what is there is whole. Mode 0600: it may
hold keys.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile

from ..domain.spec import Origin, padded
from ..image.store import write_whole
from .observation import disk_size
from .xl import ToolstackError

# Converting is bound by the disk; a stuck NFS server must not hold the host's lock for ever.
QEMU_IMG_SECONDS = 3600


def make(origin: Origin) -> None:
    """Make the file. ToolstackError, in one line, and nothing left behind when that fails."""
    folder = os.path.dirname(origin.path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if origin.content is not None:
        write_whole(origin.path, padded(origin.content), 0o600)
        return
    handle, draft = tempfile.mkstemp(prefix=".incoming-", dir=folder)
    os.close(handle)
    try:
        if origin.source:
            _copy(origin, draft)
        elif origin.format == "raw":
            os.truncate(draft, origin.size)
        else:
            qemu_img("create", "-q", "-f", origin.format, draft, str(origin.size))
        _enlarge(draft, origin)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        # Never over a file that has come meanwhile.
        os.link(draft, origin.path)
    except FileExistsError:
        message = f"disk {origin.path}: it came into being meanwhile and was left alone; run again"
        raise ToolstackError(message, unchanged=True) from None
    except OSError as error:
        raise ToolstackError(f"disk {origin.path}: {error.strerror or error}", unchanged=True) from error
    finally:
        os.unlink(draft)


def grow(origin: Origin) -> None:
    """To its declared size. Its domain must not run: a guest doesn't expect it."""
    try:
        _enlarge(origin.path, origin)
    except OSError as error:
        raise ToolstackError(f"disk {origin.path}: {error.strerror or error}") from error


def remove(path: str) -> None:
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
    form = source_format(origin.source)
    if form == origin.format == "raw" and not stat.S_ISBLK(os.stat(origin.source).st_mode):
        shutil.copyfile(origin.source, draft)
    else:
        qemu_img("convert", "-q", "-f", form, "-O", origin.format, origin.source, draft)


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


def qemu_img(*arguments: str) -> str:
    command = ["qemu-img", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=QEMU_IMG_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ToolstackError("qemu-img is not installed on this host: apt-get install qemu-utils") from None
    except subprocess.TimeoutExpired:
        raise ToolstackError(f"'{' '.join(command)}' did not end within {QEMU_IMG_SECONDS} s") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise ToolstackError(f"'{' '.join(command)}' failed ({done.returncode}): {words[-1]}", unchanged=True)
    return done.stdout
