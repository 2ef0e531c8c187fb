"""Run what is sent on stdin in a fork of this process, which has the collection's module_utils and their imports loaded.

It runs in the environment and folder of the requesting process; the exit status returns as one byte. A module whose own
module_utils differ from the loaded ones gets its own.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import array
import importlib
import os
import pathlib
import pkgutil
import signal
import socket
import struct
import sys
import traceback
import zipimport
import zlib

ROOT = pathlib.Path(__file__).parent
PLUGINS = "ansible_collections/unikernels/xen/plugins"
SOCKET = "/run/preloaded-python"
PROC = "/proc"
LIBRARIES = """
    concurrent.futures contextlib copy dataclasses datetime email.message enum errno fcntl functools gzip hashlib
    http.client http.cookiejar ipaddress json logging multiprocessing pathlib platform random re secrets selectors shlex
    shutil ssl stat string subprocess tempfile threading typing urllib.parse urllib.request uuid zipfile zipimport
"""
ANSIBLE = ("basic", "urls", "common.respawn", "_internal._ansiballz._loader", "six.moves.urllib.error")


class ZipsToo(list):
    """A package's own path, and that of the module's archive."""

    def __init__(self, package):
        super().__init__(sys.modules[package].__path__)
        self.folder = package.replace(".", "/")

    def __iter__(self):
        yield from super().__iter__()
        yield from (f"{path}/{self.folder}" for path in sys.path if path.endswith(".zip"))


def load():
    for name in [*LIBRARIES.split(), *(f"ansible.module_utils.{name}" for name in ANSIBLE)]:
        importlib.import_module(name)
    for part in pkgutil.iter_modules(sys.modules["ansible.module_utils.common"].__path__):
        importlib.import_module(f"ansible.module_utils.common.{part.name}")
    digests = {}  # an empty file, as Ansible makes for packages, has 0
    for path in sorted(ROOT.glob(f"{PLUGINS}/module_utils/**/*.py")):
        name = str(path.relative_to(ROOT))
        digests[name] = zlib.crc32(path.read_bytes())
        importlib.import_module(name.removesuffix(".py").replace("/", "."))
    # Other collections come in the module's archive alone.
    for package in ("ansible", "ansible_collections", PLUGINS.replace("/", ".")):
        sys.modules[package].__path__ = ZipsToo(package)
    sys.path[0] = ""
    loader = sys.modules["ansible.module_utils._internal._ansiballz._loader"]
    run_module = loader.run_module

    def run_with_its_own(**named):
        forget_if_other(named["modlib_path"], digests)
        run_module(**named)

    loader.run_module = run_with_its_own


def forget_if_other(archive, digests):
    """Make a module whose ``archive`` differs from what was loaded import its own files."""
    zipimport.zipimporter(archive)  # reads the archive's directory once for all imports from it
    brought = zipimport._zip_directory_cache[archive]
    ours = [name for name in brought if name.startswith(f"{PLUGINS}/module_utils/")]
    if any(digests.get(name, 0) != brought[name][7] for name in ours):  # by zlib's crc32
        for name in [name for name in sys.modules if name.partition(".")[0] == "ansible_collections"]:
            del sys.modules[name]


def received(connection):
    """Return (stdin, stdout and stderr of the requesting process, its id)."""
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(12))
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return array.array("i", ancillary[0][2]), pid


def run(connection):
    """Act as the requesting process. Return its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    descriptors, pid = received(connection)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    with open(f"{PROC}/{pid}/environ", "rb") as file:
        pairs = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
    os.environb.clear()
    os.environb.update({name: value for name, _, value in pairs})
    os.chdir(f"{PROC}/{pid}/cwd")
    os.setsid()
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("python3")
    main = sys.modules["__main__"] = type(sys)("__main__")
    sys.argv = [""]
    with open(0, "rb", closefd=False) as stdin:
        code = compile(stdin.read(), "<stdin>", "exec")
    try:
        exec(code, main.__dict__)  # noqa: S102 (what it is for)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve():
    load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    server = socket.socket(socket.AF_UNIX)
    os.umask(0o077)
    server.bind(SOCKET)
    os.umask(0o022)
    server.listen(16)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            status = run(connection)
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send(bytes([status & 255]))
            os._exit(status & 255)
        connection.close()


if __name__ == "__main__":
    serve()
