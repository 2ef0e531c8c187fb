"""The simulated hosts of a fleet: each is a process in its own namespaces, with a file system, a network and a double of Xen.

    /usr/bin/python3 -m tests.fleet.machines FOLDER NAME...      as root, in a mount namespace of its own

Real are the files below the host's root (a tmpfs; /usr is this machine's, read-only), its bridge and devices, every module that
Ansible runs there, and what that calls. Doubles replace Xen (tests/doubles/dom0.py), systemctl, dpkg-query, apt-get and the boot
loader (tests/fleet/tools), and /proc/xen with /proc/cmdline, which only a kernel under Xen has.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import ctypes
import os
import pathlib
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import traceback

HERE = pathlib.Path(__file__).resolve().parent
NEWNS, NEWUTS, NEWNET = 0x00020000, 0x04000000, 0x40000000
RDONLY, REMOUNT, BIND, MOVE, REC, PRIVATE = 1, 32, 4096, 8192, 16384, 1 << 18
PDEATHSIG, CAPBSET_DROP, SYS_BOOT = 1, 24, 22
DISK = "160m"
# One byte for each module that ran.
CALLS = "/run/calls"
FOLDERS = """
    usr etc root tmp proc sys dev local boot/grub run/xenstored var/lib var/log/xen var/tmp
    etc/default/grub.d etc/grub.d etc/systemd/system etc/sysctl.d etc/modprobe.d etc/ssh/sshd_config.d etc/apt/apt.conf.d
    etc/xen/scripts etc/xen/unikernels etc/xen/auto var/lib/unikernels/images var/lib/unikernels/disks
"""
ETC = """
    alternatives debian_version group host.conf hosts ld.so.cache ld.so.conf ld.so.conf.d localtime netconfig nsswitch.conf
    os-release passwd protocols services shells ssl
"""
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def mount(source, target, kind=None, flags=0, data=None):
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    checked(libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]))


def bind(source, target, read_only=False):
    mount(source, target, None, BIND | REC)
    if read_only:
        mount(None, target, None, REMOUNT | BIND | RDONLY)


def build_root(folder, name):
    """Build the host's file system, and enter it."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    mount("fleet", root, "tmpfs", 0, f"size={DISK},mode=755")
    for path in FOLDERS.split():
        (root / path).mkdir(parents=True)
    (root / "var/run").symlink_to("/run")
    for path in ("tmp", "var/tmp"):
        (root / path).chmod(0o1777)
    for path in pathlib.Path("/").iterdir():
        if path.is_symlink() and os.readlink(path).startswith("usr/"):  # bin, lib, ...
            (root / path.name).symlink_to(os.readlink(path))
    for path in (pathlib.Path("/etc", word) for word in ETC.split()):
        if path.is_dir():
            shutil.copytree(path, root / "etc" / path.name, symlinks=True)
        elif path.exists():
            shutil.copy2(path, root / "etc" / path.name, follow_symlinks=False)
    (root / "boot/double-of-xen-arguments").write_text("placeholder\n")
    (root / "etc/hostname").write_text(f"{name}\n")
    shutil.copytree(folder.parent.parent / "local", root / "local", dirs_exist_ok=True, symlinks=True)
    bind("/usr", root / "usr", read_only=True)
    bind(root / "local", root / "usr/local")
    for name in ("shutdown", "reboot", "halt", "poweroff"):
        if os.path.exists(f"/usr/sbin/{name}"):
            bind("/usr/bin/false", root / "usr/sbin" / name)
    bind("/dev", root / "dev")
    # What Python has not imported yet.
    preloaded = folder.parent.parent / "preloaded"
    (root / preloaded.relative_to("/")).mkdir(parents=True)
    bind(preloaded, root / preloaded.relative_to("/"), read_only=True)
    mount("sysfs", root / "sys", "sysfs")
    build_proc(root / "proc")
    os.chdir(root)
    mount(".", "/", None, MOVE)
    checked(libc.chroot(b"."))
    os.chdir("/")


def build_proc(folder):
    """Make a folder of links to the real /proc, with a Dom0's own entries: Linux allows no additions to /proc."""
    mount("proc", folder, "tmpfs", 0, "size=1m,mode=755")
    (folder / "real").mkdir()
    mount("proc", folder / "real", "proc")
    (folder / "xen").mkdir()
    (folder / "xen/capabilities").write_text("control_d\n")
    (folder / "cmdline").write_text("placeholder root=/dev/double ro console=hvc0\n")
    for name in os.listdir(folder / "real"):
        if not name.isdigit() and not (folder / name).exists():
            (folder / name).symlink_to(f"real/{name}")


def build_network(number):
    """Make a bridge with the addresses that guests of this host may have."""
    subprocess.run(
        ["ip", "-batch", "-"], check=True, text=True, capture_output=True,
        input=f"link set lo up\nlink add xenbr0 type bridge\naddr add 10.77.255.{number}/16 dev xenbr0\nlink set xenbr0 up\n"
        f"route add default via 10.77.255.254\nroute add local 10.77.{number}.0/24 dev lo\n",
    )  # fmt: skip


class Machine:
    """Answers a host's processes: a Python with Ansible loaded, `xl`, xenstore, and the guests' addresses."""

    def __init__(self, xen, server):
        self.xen, self.server, self.ready = xen, server, selectors.DefaultSelector()
        self.modules = []  # ids of the processes that run modules
        for path, accepted in ((server.SOCKET, self.python), ("/run/double-of-xen", self.xl), ("/run/xenstored/socket", None)):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            self.listen(listener, accepted or self.follow(self.xenstore))
        guests = socket.create_server(("0.0.0.0", 80), backlog=64)
        self.listen(guests, self.follow(self.http))

    def listen(self, listener, accepted):
        listener.listen(64)
        self.ready.register(listener, selectors.EVENT_READ, lambda: accepted(listener.accept()[0]))

    def follow(self, answer):
        """Collect a connection's bytes until ``answer`` consumes them."""

        def accepted(connection):
            data = bytearray()

            def readable():
                try:
                    part = connection.recv(65536)
                    data.extend(part)
                    if part and answer(connection, data):
                        return
                except OSError:
                    pass
                self.ready.unregister(connection)
                connection.close()

            self.ready.register(connection, selectors.EVENT_READ, readable)

        return accepted

    def python(self, connection):
        pid = os.fork()
        if pid == 0:
            self.ready.close()
            status = self.server.run(connection)
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send(bytes([status & 255]))
            os._exit(status & 255)
        connection.close()
        self.modules.append(pid)
        with open(CALLS, "a", encoding="ascii") as file:
            file.write(".")

    def xl(self, connection):
        """Run xl for a program that passes its output's descriptor; its arguments are in /proc."""
        descriptors, pid = self.server.received(connection)
        try:
            with open(f"{self.server.PROC}/{pid}/cmdline", "rb") as file:
                argv = file.read().decode("utf-8", "replace").split("\0")[:-1]
            code, out, err = self.xen.command(argv)
            with open(descriptors[1], "w", encoding="utf-8", closefd=False) as file:
                file.write(out)
            with open(descriptors[2], "w", encoding="utf-8", closefd=False) as file:
                file.write(err)
            connection.send(bytes([code]))
        except OSError:
            pass  # it was killed meanwhile
        except Exception:  # an error in the double ends the call, not the host
            os.write(descriptors[2], traceback.format_exc().encode())
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()

    def xenstore(self, connection, data):
        while True:
            answer, size = self.xen.message(data)
            if not size:
                return True
            del data[:size]
            connection.sendall(answer)

    def http(self, connection, data):
        if b"\r\n\r\n" in data:
            connection.sendall(self.xen.answer(connection.getsockname()[0]) or b"")
            return False
        return True

    def serve(self):
        while True:
            for key, _events in self.ready.select():
                key.data()
            self.modules = [pid for pid in self.modules if not os.waitpid(pid, os.WNOHANG)[0]]


def host(folder, name, number, server, double):
    """Runs in a process of its own."""
    libc.prctl(PDEATHSIG, signal.SIGKILL)  # die with the fleet
    checked(libc.prctl(CAPBSET_DROP, SYS_BOOT, 0, 0, 0))  # whatever happens in there, this machine must not reboot
    os.setsid()
    checked(libc.unshare(NEWNS | NEWUTS | NEWNET))
    mount(None, "/", None, REC | PRIVATE)
    socket.sethostname(name)
    platform._uname_cache = None  # cached for this machine by an import
    build_network(number)
    build_root(folder, name)
    os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", HOME="/root")
    server.PROC = "/proc/real"
    machine = Machine(double.Host("/boot/double-of-xen-arguments"), server)
    os.write(1, f"{name}\n".encode())
    machine.serve()


def main():
    libc.prctl(PDEATHSIG, signal.SIGKILL)  # die with the tests, however they stop
    folder, *names = sys.argv[1:]
    folder = pathlib.Path(folder)
    sys.path.insert(0, str(folder / "preloaded"))
    import server

    server.load()
    sys.path.insert(1, str(HERE.parents[1]))
    from tests.doubles import dom0 as double

    for number, name in enumerate(names, 1):
        own = folder / "hosts" / name
        own.mkdir(parents=True)
        pid = os.fork()
        if pid == 0:
            try:
                host(own, name, number, server, double)
            finally:
                os._exit(1)
        (own / "pid").write_text(f"{pid}\n")
    signal.pause()


if __name__ == "__main__":
    main()
