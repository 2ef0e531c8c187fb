# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run foreign code in a cell: config.ml, dune rules and the build scripts of packages.

A cell lists what is visible, not what is hidden: Debian's /usr, a few files of /etc, folders to read, and one folder to write. It
has no home, no agent, no /run, its own /proc, and no network unless it fetches. bubblewrap creates it: for root without a user
namespace but as a separate user, for anybody else in a user namespace.

``arguments`` is pure. The rest is a thin edge: inspect this machine, start commands, check bounds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from .elf import printable

MIB = 1 << 20
# The user who runs builds that root starts. If it doesn't exist: a user id that no package or login gets, from systemd's range
# for dynamic users (61184 to 65519).
USER = "unikernels-build"
_FREE_USERS = range(61184, 65520)
# Files of /etc for the linker, the C library and Debian's alternatives; with a network also for names and certificates.
_ETC = (
    "alternatives", "debian_version", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf",
    "os-release", "timezone",
)  # fmt: skip
_ETC_NETWORK = ("ca-certificates", "gai.conf", "hosts", "protocols", "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf")
_ROOT_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# Free disk space that must remain, whatever is written.
_FLOOR = 1 << 30
# Seconds; the kernel kills some thousand processes in less.
_END_SECONDS = 20
# keyctl(2)'s number for x86-64, the only machines that Solo5 builds for Xen on, and its first operation.
_KEYCTL, _JOIN_SESSION_KEYRING = 250, 1
# A build prints a few hundred kilobytes.
LOG = 256 * MIB


class SandboxError(ValueError):
    """One line: why a cell is impossible on this machine."""


@dataclass(frozen=True)
class Limits:
    """``memory``: bytes of all processes together; ``disk``: bytes below the folder; ``files``: bytes of one file.

    ``entries``: files and folders below the folder: empty ones take no bytes, but a file system has a fixed number of them.
    """

    memory: int = 8 << 30
    processes: int = 1024
    disk: int = 16 << 30
    files: int = 4 << 30
    entries: int = 2_000_000


@dataclass(frozen=True)
class Machine:
    """What the arguments depend on. ``links``: symbolic links in / -> targets; ``scope``: systemd can limit a whole build."""

    uid: int
    builder: int
    links: Mapping[str, str]
    scope: bool = False


@dataclass(frozen=True)
class Cell:
    """``folder``: where commands run, and the only place they can write. ``visible``: further paths they can read.

    ``network``: the machine's own. ``enabled``: False if the user disabled the sandbox.
    """

    folder: str
    environment: Mapping[str, str]
    visible: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    network: bool = False
    limits: Limits = field(default_factory=Limits)
    enabled: bool = True


def arguments(cell: Cell, command: list[str], machine: Machine, passwd: int = -1) -> list[str]:
    """Return the command line that runs ``command`` in the cell. ``passwd``: a descriptor with the text of /etc/passwd. Pure."""
    if not cell.enabled:
        return [*_FIRST_TO_END, *_bounds(cell.limits), *command]
    root = machine.uid == 0
    out = [*_FIRST_TO_END, *(_scope(cell.limits, root) if machine.scope else []), *_BWRAP]
    if machine.scope and not root:
        out += [word for name in _SESSION for word in ("--unsetenv", name)]
    out += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user"]
    out += [] if cell.network else ["--unshare-net"]
    out += ["--perms", "0755", "--dir", "/etc", "--ro-bind", "/usr", "/usr"]
    for path, target in sorted(machine.links.items()):
        out += ["--symlink", target, path]
    for name in _ETC + (_ETC_NETWORK if cell.network else ()):
        out += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if passwd >= 0:
        out += ["--perms", "0444", "--ro-bind-data", str(passwd), "/etc/passwd"]
    out += ["--proc", "/proc", "--dev", "/dev"]
    out += ["--size", str(64 * MIB), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    out += ["--size", str(512 * MIB), "--perms", "1777", "--tmpfs", "/tmp"]
    for path in _parents([*cell.visible, *cell.writable, cell.folder]):
        out += ["--perms", "0755", "--dir", path]
    for path in cell.visible:
        out += ["--ro-bind", path, path]
    for path in (*cell.writable, cell.folder):
        out += ["--bind", path, path]
    out += ["--remount-ro", "/", "--chdir", cell.folder, "--"]
    if root:
        out += ["setpriv", f"--reuid={machine.builder}", f"--regid={machine.builder}", "--clear-groups", "--"]
    return [*out, *_bounds(cell.limits), *command]


# Without --unshare-user, which root doesn't need: some machines forbid user namespaces.
_BWRAP = (
    "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "cell",
    "--die-with-parent", "--new-session",
)  # fmt: skip


# When memory runs out, the kernel ends a build before anything else. Started by root, a build can't change that.
_FIRST_TO_END = ("choom", "-n", "1000", "--")
# With which systemd-run finds a user's own systemd.
_SESSION = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def _bounds(limits: Limits) -> list[str]:
    """Return the command for the bounds of each process."""
    return [
        "prlimit", f"--nproc={limits.processes}", f"--data={limits.memory}", f"--fsize={limits.files}", "--core=0", "--",
    ]  # fmt: skip


def _scope(limits: Limits, root: bool) -> list[str]:
    """Return the command for the bounds of all processes together."""
    return [
        "systemd-run", *([] if root else ["--user"]), "--scope", "--quiet", "--collect", "-p", f"MemoryMax={limits.memory}",
        "-p", "MemorySwapMax=0", "-p", f"TasksMax={limits.processes}", "--",
    ]  # fmt: skip


def _parents(paths: Iterable[str]) -> list[str]:
    """Return the folders above these paths that the cell must create, outermost first; /usr and / exist."""
    found = set()
    for path in paths:
        while (path := os.path.dirname(path)) not in ("/", ""):
            found.add(path)
    return sorted(path for path in found if path != "/tmp" and not (path + "/").startswith("/usr/"))


# -- this machine -------------------------------------------------------------------------------------


@functools.cache
def this_machine() -> Machine:
    links = {}
    for name in _ROOT_LINKS:
        with contextlib.suppress(OSError):
            links["/" + name] = os.readlink("/" + name)
    uid = os.geteuid()
    return Machine(uid, builder() if uid == 0 else uid, links, _has_scopes(uid))


def builder() -> int:
    """Return the user for builds that root starts."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(USER).pw_uid
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in _FREE_USERS if uid not in taken)


def _has_scopes(uid: int) -> bool:
    """True if systemd, or a user's own one, can limit memory and processes of a whole build; otherwise `excess` checks them."""
    if not os.path.isdir("/run/systemd/system") or not shutil.which("systemd-run"):
        return False
    if uid == 0:
        return _answers([*_scope(Limits(), True), "true"])[0]
    # A user's systemd takes limits that it may not set, and says nothing.
    shell = 'test "$(cat "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/memory.max")" = "$0"'
    return _answers([*_scope(Limits(), False), "sh", "-c", shell, str(Limits().memory)])[0]


def _answers(command: list[str], seconds: int = 30) -> tuple[bool, str]:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = done.stderr.strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"it exited with {done.returncode}"


@functools.cache
def refusal() -> str | None:
    """Return one line why this machine can't create a cell; None if it can. It is tried, not guessed."""
    for program, package in (
        ("bwrap", "bubblewrap"),
        ("setpriv", "util-linux"),
        ("prlimit", "util-linux"),
        ("choom", "util-linux"),
    ):
        if not shutil.which(program):
            return f"there is no {program}: apt-get install {package}"
    cell = Cell("/usr", {})
    works, why = _answers(arguments(cell, ["true"], this_machine()))
    hint = "" if this_machine().uid == 0 else " (sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone allow it)"
    return None if works else f"bubblewrap can't create a sandbox here: {why}{hint}"


def require(enabled: bool) -> None:
    """Raise SandboxError if a sandbox is wanted but impossible."""
    why = refusal() if enabled else None
    if why:
        raise SandboxError(
            f"sandbox: builds run foreign code and {why}; fix that, or set mirage_builder_sandbox: false"
            " (the module's sandbox: false) to run it with your rights, and access to all your files"
        )


@functools.cache
def nests() -> bool:
    """True if opam can have its own sandbox inside a cell: not every machine allows bubblewrap in bubblewrap."""
    inner = ["bwrap", "--unshare-net", "--unshare-pid", "--new-session", "--ro-bind", "/usr", "/usr", "--proc", "/proc"]
    for path, target in sorted(this_machine().links.items()):
        inner += ["--symlink", target, path]
    return refusal() is None and _answers(arguments(Cell("/usr", {}), [*inner, "--dev", "/dev", "true"], this_machine()))[0]


# -- running ------------------------------------------------------------------------------------------


def start(cell: Cell, command: list[str], log: IO[str], keep: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start ``command`` in the cell with its output in ``log``. Without a sandbox it inherits the descriptors ``keep``."""
    machine = this_machine()
    session = {
        name: os.environ[name] for name in _SESSION if name in os.environ and machine.scope and machine.uid and cell.enabled
    }
    lines = f"root:x:0:0::/:/usr/sbin/nologin\nbuilder:x:{machine.builder}:{machine.builder}::{cell.folder}:/bin/sh\n"
    _leave_keys_behind()
    reader, writer = os.pipe()
    try:
        os.write(writer, lines.encode())
        os.close(writer)
        return subprocess.Popen(
            arguments(cell, command, machine, reader), cwd=cell.folder if not cell.enabled else "/",
            env={**cell.environment, **session}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=[reader] if cell.enabled else list(keep), umask=0o022,
        )  # fmt: skip
    finally:
        os.close(reader)


def _leave_keys_behind() -> None:
    """Begin a session without keys: the kernel hands those of a session (Kerberos, encrypted disks) to all its children.

    Where the machine forbids keyctl, builds can't read keys either.
    """
    if os.uname().machine == "x86_64":
        libc = ctypes.CDLL(None, use_errno=True)
        number = ctypes.get_errno() if libc.syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None) < 0 else 0
        if number not in (0, errno.ENOSYS, errno.EPERM):
            raise OSError(number, f"keyctl can't begin a session without keys: {os.strerror(number)}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill everything that a command started: its process group, and with bubblewrap its whole PID namespace (process 1)."""
    first = [pid for pid, _memory in _members(process.pid)][1:2] if process.poll() is None else []
    for pid in first:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits in the kernel is left behind
        process.wait(_END_SECONDS)
    until = time.monotonic() + _END_SECONDS
    while any(os.path.exists(f"/proc/{pid}") for pid in first) and time.monotonic() < until:
        time.sleep(0.01)


def too_much_memory(cell: Cell, process: subprocess.Popen[bytes]) -> str | None:
    """Return the limit of memory if the cell exceeded it, as text; None if it didn't. Takes some milliseconds."""
    members = _members(process.pid) if cell.enabled else iter(())
    if sum(memory for _pid, memory in members) > cell.limits.memory:
        return f"it used more than {cell.limits.memory // MIB} MiB of memory"
    return None


def excess(cell: Cell, process: subprocess.Popen[bytes], log: str) -> str | None:
    """Return which limit the cell exceeded, as text; None if none. Walks through its folder."""
    limits = cell.limits
    memory = too_much_memory(cell, process)
    if memory:
        return memory
    if os.path.getsize(log) > LOG:
        return f"it printed more than {LOG // MIB} MiB"
    return too_large(cell.folder, limits.disk, limits.entries)


def too_large(folder: str, most: int, entries: int) -> str | None:
    """Return why what was written below a folder is too much, as text; None if it is not. ``most``: bytes."""
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < min(_FLOOR, free.f_blocks * free.f_frsize // 50):
        return f"the disk of {folder} is full"
    kibibytes, count = _measured(folder, "-k"), _measured(folder, "--inodes")
    if kibibytes is None or count is None:
        return f"it left folders that cannot be read in {folder}"
    if kibibytes * 1024 > most:
        return f"it wrote more than {most // MIB} MiB"
    return f"it created more than {entries} files and folders" if count > entries else None


def _members(leader: int) -> Iterator[tuple[int, int]]:
    """Yield (process id, memory in bytes) of the leader and all its descendants."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
                resident[int(name)] = int(fields[21]) * os.sysconf("SC_PAGESIZE")
    waiting = [leader]
    while waiting:
        pid = waiting.pop()
        yield pid, resident.get(pid, 0)
        waiting += children.get(pid, [])


def _measured(folder: str, unit: str) -> int | None:
    """Return what du counts below the folder; None if it can't read something, or takes too long. It copes with deep trees."""
    try:
        done = subprocess.run(
            ["du", "-sx", unit, "--", folder], capture_output=True, text=True, errors="replace", timeout=120, check=False,
            env={"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    if "Permission denied" in done.stderr:
        return None
    return int(done.stdout.split()[0]) if done.stdout else 0


# -- folders ------------------------------------------------------------------------------------------


def private(folder: str) -> None:
    """Create a folder, and missing ones above it, for its owner only: images and sources may contain keys.

    Raise PermissionError for one that somebody else made or may write: they could change what is built.
    """
    if os.path.isdir(folder):
        status = os.stat(folder)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o002:
            raise PermissionError(errno.EPERM, "belongs to another user of this machine, or anybody may write there", folder)
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:  # another run made it
            if not os.path.isdir(path):
                raise


def give(*paths: str) -> None:
    """Make the build user own everything below these paths. Only for what foreign code has not touched yet."""
    _own(this_machine().builder, paths)


def take(*paths: str) -> None:
    """Make root own it again."""
    _own(0, paths)


def _own(uid: int, paths: tuple[str, ...]) -> None:
    if this_machine().uid == 0:
        works, why = _answers(["chown", "-hR", f"{uid}:{uid}", "--", *paths], 600)
        if not works:
            raise SandboxError(f"sandbox: {why}")


def remove(*paths: str) -> None:
    """Remove whatever foreign code left: deep trees, missing permissions, links."""
    present = [path for path in paths if os.path.lexists(path)]
    if not present:
        return
    if this_machine().uid != 0:
        subprocess.run(["chmod", "-R", "u+rwX", "--", *present], capture_output=True, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", "--", *present], capture_output=True, check=False)


def read(folder: str, path: str, most: int) -> bytes:
    """Read a regular file that foreign code left below ``folder``: no links in its path, no pipe, at most ``most`` bytes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptors = [os.open(folder, flags | os.O_DIRECTORY)]
    try:
        *above, name = path.split("/")
        for part in above:
            descriptors.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=descriptors[-1]))
        descriptors.append(os.open(name, flags | os.O_NONBLOCK, dir_fd=descriptors[-1]))
        status = os.fstat(descriptors[-1])
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise SandboxError(f"{printable(path)}: is not a plain file")
        if status.st_size > most:
            raise SandboxError(f"{printable(path)}: has {status.st_size} bytes, more than {most}")
        with os.fdopen(os.dup(descriptors[-1]), "rb") as file:
            # Not ``most``: Python would allocate that much memory before it reads a byte.
            return file.read(status.st_size)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def listed(folder: str, path: str, ending: str) -> list[str]:
    """Return the sorted paths below ``folder`` with this ending in its folder ``path``; none if that is a link."""
    full = os.path.join(folder, path)
    if os.path.islink(full) or not os.path.isdir(full):
        return []
    return sorted(f"{path}/{name}" for name in os.listdir(full) if name.endswith(ending))


def links_out(folder: str) -> tuple[str, ...]:
    """Return the files that links in this folder lead to, at each hop, outside of the system's: a cell must see these too."""
    targets = set()
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        path = entry.path
        while os.path.islink(path) and os.path.exists(path):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
            targets.add(os.path.normpath(path))
    return tuple(sorted(target for target in targets if not target.startswith(("/usr/", "/bin/", "/sbin/"))))
