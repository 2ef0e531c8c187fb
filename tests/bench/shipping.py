"""What shipping an image costs, in time and bytes on the wire, to one host of the lab and to two at once.

    make bench            (after make site; LAB_HOSTS=2 for the second column, whose machine needs no Xen)

The machines of a lab share two processors, so the cost of a second host is measured over a link of LINK kbit/s, which is what
hosts wait for elsewhere. Fails only on an error.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from tests.guests import guest
from tests.integration.conftest import Dom0, playbook, run

SIZE = 4 << 20  # bytes, like a unikernel without debug information; ssh can't compress it
LINK = 1000
STORE = "/root/bench-images"
RECEIVED = "cat /sys/class/net/$(ip -o route get 10.0.2.2 | sed 's/.* dev \\([^ ]*\\).*/\\1/')/statistics/rx_bytes"


class Shipping:
    def __init__(self, folder):
        self.folder = folder
        self.book, self.image = folder / "shipping.yml", folder / "bench.xen"

    def renew(self):
        self.image.write_bytes(guest(os.urandom(SIZE), memory_size=2 * SIZE))

    def play(self, hosts, *tasks, link=None):
        """Return the seconds, and the bytes that the first host received."""
        self.book.write_text(json.dumps([{"hosts": ",".join(one.name for one in hosts), "gather_facts": False, "tasks": tasks}]))
        options = ["-e", json.dumps({"ansible_sftp_extra_args": f"-l {link}"})] if link else []
        before, began = int(hosts[0](RECEIVED)), time.monotonic()
        playbook(str(self.book), *options)
        return time.monotonic() - began, int(hosts[0](RECEIVED)) - before

    def role(self, hosts, **named):
        variables = {
            "unikernel_images_wanted": {"bench": {"file": str(self.image)}},
            "unikernel_images_controller": str(self.folder / "controller"),
            "unikernel_images_store": STORE,
            "unikernel_images_signature": "optional",
        }
        include = {"name": "unikernels.xen.unikernel_images"}
        return self.play(hosts, {"ansible.builtin.include_role": include, "vars": variables}, **named)

    def copy(self, hosts, **named):
        options = {"src": str(self.image), "dest": "/root/bench-copy.xen", "mode": "0644"}
        return self.play(hosts, {"ansible.builtin.copy": options}, **named)


def row(what, measured, floor):
    seconds, received = measured
    print(f"| {what} | {seconds:.1f} s = {seconds / floor:.1f} x | {received / 1e6:.2f} MB |", flush=True)


def main():
    names = json.loads(run("ansible-inventory", "--list").stdout)["xen_hosts"]["hosts"]
    hosts = [Dom0(name) for name in names]
    one = hosts[:1]
    with tempfile.TemporaryDirectory() as name:
        shipping = Shipping(pathlib.Path(name))
        for host in hosts:
            host(f"mkdir -p {STORE}")
        try:
            floor = min(shipping.play(one, {"ansible.builtin.command": "true", "changed_when": False}) for _round in range(2))
            print(f"| an image of {SIZE >> 20} MiB, to one host | time | received |")
            print("|---|---|---|")
            row("a play of one `command: true`", floor, floor[0])
            shipping.renew()
            row("the role, a new image", shipping.role(one), floor[0])
            row("the role, nothing new", shipping.role(one), floor[0])
            row("`copy` alone, a new image", shipping.copy(one), floor[0])
            row("`copy` alone, nothing new", shipping.copy(one), floor[0])
            print()
            if len(hosts) < 2:
                print("To two hosts at once: LAB_HOSTS=2 make lab, then this again with LAB_HOSTS=2.\n")
                return
            print(f"| over a link of {LINK} kbit/s | to one host | to two at once |")
            print("|---|---|---|")
            shipping.role(hosts)
            idle = [shipping.role(some)[0] for some in (one, hosts[:2])]
            print(f"| nothing new | {idle[0]:.1f} s | {idle[1]:.1f} s = {idle[1] / idle[0]:.2f} x |", flush=True)
            busy = []
            for some in (one, hosts[:2]):
                shipping.renew()
                busy.append(shipping.role(some, link=LINK)[0])
            print(f"| a new image | {busy[0]:.1f} s | {busy[1]:.1f} s = {busy[1] / busy[0]:.2f} x |\n")
        finally:
            for host in hosts:
                host(f"rm -rf {STORE} /root/bench-copy.xen")


if __name__ == "__main__":
    main()
