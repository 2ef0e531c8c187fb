"""A double of Xen under a simulated host: `xl`, xenstore's socket and tools, and guests that answer HTTP.

It is not a hypervisor. `xl`'s messages, exit codes and output come from the recording double of tests/unit/apply (Xen 4.17); this
one adds a process that keeps the domains while a fleet works. Everything around it is real: the host's files, its network
namespace with a bridge, and a network device for each vif.

A guest's kernel decides its behaviour: one that contains UNHEALTHY runs and answers nobody.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import os
import struct
import subprocess

from tests.unit.apply.recording_xl import Store, Xen

UNHEALTHY = b"this guest answers nobody"
CONSOLES = "/var/log/xen/console"
MEMORY = 16384
_HEADER = struct.Struct("=IIII")
_DIRECTORY, _READ, _ERROR = 1, 2, 16


class Host(Xen):
    """One host's hypervisor. ``arguments``: the file with Xen's command line."""

    def __init__(self, arguments):
        super().__init__()
        self.arguments = arguments

    # -- xl, as a process asks for it ------------------------------------------------------------

    def command(self, argv):
        """Return (exit code, output, error output) of `xl` or a tool of xenstore."""
        tool, *words = [os.path.basename(argv[0]), *argv[1:]]
        if tool == "xl":
            if not hasattr(self, "xl_" + words[0].replace("-", "_")):
                return 2, "", f"xl: the double knows no {words[0]}\n"
            done = self.run(["xl", *words])
            del self.calls[:-200]
            return done.returncode, done.stdout, done.stderr + "\n" * bool(done.stderr)
        return getattr(self, tool.replace("-", "_"))(*words)

    def xl_list(self, flag="-v", name=None):
        return super().xl_list(flag, name)

    def xl_info(self, *_flags):
        with open(self.arguments, encoding="utf-8") as file:
            arguments = file.read().strip()
        free = MEMORY - sum(record["config"]["memory"] for record in self.domains.values())
        facts = {
            "host": os.uname().nodename, "nr_cpus": 4, "nr_nodes": 1, "cores_per_socket": 4, "threads_per_core": 1,
            "virt_caps": "pv hvm hap", "total_memory": MEMORY, "free_memory": free, "xen_version": "4.17.5-double",
            "xen_scheduler": "credit2", "xen_commandline": arguments,
        }  # fmt: skip
        return 0, "".join(f"{key:23}: {value}\n" for key, value in facts.items()), ""

    def add(self, name, text, state="running"):
        record = super().add(name, text, state)
        for device, vif in _vifs(record):
            guest = device.replace("vif", "guest")
            _run("ip", "link", "add", device, "type", "veth", "peer", "name", guest)
            _run("ip", "link", "set", device, "up", "master", vif["bridge"])
            _run("vif-bridge", "online", device, vif.get("mac", ""), vif.get("ip", ""))
        if state == "running":
            self._boot(name, record)
        return record

    def xl_create(self, *words):
        """Destroy a domain whose vif a hotplug script refuses."""
        try:
            return super().xl_create(*words)
        except subprocess.CalledProcessError as error:
            name = next(reversed(self.domains))
            self.xl_destroy(name)
            return 3, "", f"libxl: error: {' '.join(error.cmd)}: {error.stderr.strip()}"

    def xl_unpause(self, word):
        name = self._named(word)
        answer = super().xl_unpause(name)
        if not answer[0]:
            self._boot(name, self.domains[name])
        return answer

    def xl_destroy(self, word):
        record = self.domains.get(self._named(word))
        answer = super().xl_destroy(word)
        if record:
            for device, _vif in _vifs(record):
                subprocess.run(["vif-bridge", "offline", device, "", ""], capture_output=True, check=False)
                subprocess.run(["ip", "link", "del", device], capture_output=True, check=False)
        return answer

    def xl_shutdown(self, word):
        return self.xl_destroy(word)  # it listens, and is quick

    @staticmethod
    def _boot(name, record):
        with open(record["config"]["kernel"], "rb") as file:
            record["answers"] = UNHEALTHY not in file.read()
        os.makedirs(CONSOLES, exist_ok=True)
        with open(f"{CONSOLES}/guest-{name}.log", "a", encoding="utf-8") as file:
            file.write("a double of a guest\n" + ("ready\n" if record["answers"] else ""))

    # -- guests ----------------------------------------------------------------------------------

    def answer(self, address):
        """Return the answer of the guest with this address to a request; None if there is none."""
        for name, record in self.domains.items():
            addresses = " ".join(record["config"].get("vif", [])).replace(",", " ").split()
            if f"ip={address}" in addresses and record["state"] == "running":
                body = f"{name} {os.path.basename(record['config']['kernel'])}\n".encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                return head + body if record["answers"] else None
        return None

    # -- xenstore --------------------------------------------------------------------------------

    def tree(self):
        tree = Store(self)._tree()
        tree["/local/domain/0/name"] = "Domain-0"
        for record in self.domains.values():
            for index, vif in enumerate(record["config"].get("vif", [])):
                for key, value in (word.split("=", 1) for word in vif.split(",")):
                    tree[f"/local/domain/0/backend/vif/{record['domid']}/{index}/{key}"] = value
        return tree

    def xenstore(self):
        return Store(self)

    def xenstore_read(self, path):
        value = self.tree().get(path)
        return (1, "", f"xenstore-read: couldn't read path {path}\n") if value is None else (0, value + "\n", "")

    def xenstore_exists(self, path):
        return int(not any(key == path or key.startswith(path + "/") for key in self.tree())), "", ""

    def xenstore_ls(self, _flag, path):
        rows = sorted((key, value) for key, value in self.tree().items() if key.startswith(path + "/"))
        return 0, "".join(f'{key} = "{value}"\n' for key, value in rows), ""

    def message(self, data):
        """Return (answer to the first complete message, bytes consumed); (b"", 0) if it is incomplete."""
        if len(data) < _HEADER.size:
            return b"", 0
        kind, request, transaction, length = _HEADER.unpack_from(data)
        if len(data) < _HEADER.size + length:
            return b"", 0
        path = data[_HEADER.size : _HEADER.size + length].rstrip(b"\0").decode()
        tree = self.tree()
        below = sorted({key[len(path) + 1 :].split("/")[0] for key in tree if key.startswith(path.rstrip("/") + "/")})
        body = None
        if kind == _READ and path in tree:
            body = tree[path].encode()
        elif kind == _DIRECTORY and below:
            body = "".join(f"{name}\0" for name in below).encode()
        if body is None:
            kind, body = _ERROR, b"ENOENT\0"
        return _HEADER.pack(kind, request, transaction, len(body)) + body, _HEADER.size + length


def _vifs(record):
    """Return (network device, declaration) of each vif."""
    vifs = [dict(word.split("=", 1) for word in vif.split(",")) for vif in record["config"].get("vif", [])]
    return [(f"vif{record['domid']}.{index}", vif) for index, vif in enumerate(vifs)]


def _run(*words):
    subprocess.run(words, capture_output=True, text=True, check=True)
