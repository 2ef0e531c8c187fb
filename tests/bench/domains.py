"""How fast the domain engine is, compared with the alternatives, as ratios from one run on the real lab.

    make bench            (after make site; LAB_* choose the lab)

Prints a table in Markdown. Fails only on an error: machines are shared, and a clock proves no bug.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Host, Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.plan.lifecycle import plan

from tests import preloaded
from tests.guests import guest, service
from tests.integration.conftest import PORTS, QUICK_INVENTORY, Dom0, playbook

COUNTS = (1, 10, 50)
KERNEL = "/root/bench.xen"
SERVICE = "/root/bench-service.xen"
DEFINITION = f'name = "{{name}}"\ntype = "pvh"\nkernel = "{KERNEL}"\nmemory = 8\nmaxmem = 8\nvcpus = 1\n'
WEB = f"http://127.0.0.1:{PORTS['HTTP']}/"


def declared(index):
    return {"name": f"bench{index:02}", "kernel": KERNEL, "memory": 8, "state": "paused", "autostart": False}


def play(folder, *tasks):
    """Return the seconds that ansible-playbook takes with these tasks."""
    book = folder / "bench.yml"
    book.write_text(json.dumps([{"hosts": "xen1", "gather_facts": False, "tasks": list(tasks)}]))
    began = time.monotonic()
    playbook(str(book))
    return time.monotonic() - began


def by_hand(folder, names):
    """Return what people write today: a template for each file, a query for each domain, and a command if it is missing."""
    (folder / "domain.cfg.j2").write_text(DEFINITION.format(name="{{ item }}"))
    template = {"src": str(folder / "domain.cfg.j2"), "dest": "/root/bench-{{ item }}.cfg", "mode": "0644"}
    return [
        {"ansible.builtin.template": template, "loop": names},
        {"ansible.builtin.command": "xl list {{ item }}", "loop": names, "register": "found", "failed_when": False,
         "changed_when": False},
        {"ansible.builtin.command": "xl create -p /root/bench-{{ item.item }}.cfg", "loop": "{{ found.results }}",
         "when": "item.rc != 0"},
    ]  # fmt: skip


def no_change(dom0, folder):
    print("| domains | one `xen_domains` | the module itself, in Dom0", end=" ")
    print("| a loop of `xl` and `template` | a loop of `xen_domain` | one `xl list -l` |")
    print("|---|---|---|---|---|---|")
    flat = {}
    for count in COUNTS:
        domains = [declared(index) for index in range(count)]
        task = {"unikernels.xen.xen_domains": {"domains": domains, "parallel": 1}}
        play(folder, task)  # now they exist
        hand = by_hand(folder, [one["name"] for one in domains])
        for one in domains:  # and so are their files
            dom0(f"cat >/root/bench-{one['name']}.cfg", data=DEFINITION.format(name=one["name"]))
        floor_task = {"ansible.builtin.command": "xl list -l", "changed_when": False}
        ours = min(play(folder, task) for _round in range(2))
        floor = min(play(folder, floor_task) for _round in range(2))
        # Measure slow ones once: the ratio shown is in the dozens.
        manual = play(folder, *hand)
        loop = play(folder, {"unikernels.xen.xen_domain": "{{ item }}", "loop": domains}) if count <= 10 else None
        inside, memory = in_dom0(dom0, domains)
        flat[count] = ours
        single = f"{loop:.1f} s = {loop / ours:.1f} x" if loop else "not run"
        print(
            f"| {count} | {ours:.1f} s | {inside:.2f} s | {manual:.1f} s = **{manual / ours:.1f} x** | {single}"
            f" | {floor:.1f} s = {floor / ours:.2f} x |"
        )
    print(f"\nFrom {COUNTS[0]} to {COUNTS[-1]} domains ours takes {flat[COUNTS[-1]] / flat[COUNTS[0]]:.2f} times as long.")
    print(f"Peak memory of the module in Dom0 at {COUNTS[-1]} domains: {memory} MiB.\n")


def in_dom0(dom0, domains):
    """Return (seconds, MiB) of the module's own function in Dom0, including imports."""
    out = dom0.engine(
        f"""
        import resource, time
        began = time.monotonic()
        load("apply.converge").converge({domains!r}, False, print)
        print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        """
    )
    seconds, memory = out.split()
    return float(seconds), int(memory)


def planning():
    print("| domains | planning alone, no Xen | a thousand |")
    print("|---|---|---|")
    for count in (1000, 10000):
        declarations = [declaration_of({"name": f"d{index}", "kernel": "/k"}, "h") for index in range(count)]
        texts = {one.name: xl_config(one.domain) for one in declarations}
        host = Host(tuple(Observed(i + 1, "running", one.domain) for i, one in enumerate(declarations)), texts, frozenset(texts))
        began = time.monotonic()
        for one in declarations:
            plan(one, host)
        elapsed = time.monotonic() - began
        print(f"| {count} | {elapsed * 1000:.0f} ms | {elapsed * 1_000_000 / count:.0f} ms |")
    print()


class Client(threading.Thread):
    """Queries the web server from outside the host every few milliseconds. ``gap``: the longest time without an answer."""

    def __init__(self):
        super().__init__(daemon=True)
        self.gap, self.answers, self.ended = 0.0, 0, threading.Event()

    def run(self):
        last = None
        while not self.ended.is_set():
            try:
                with urllib.request.urlopen(WEB, timeout=1) as answer:
                    answer.read()
                now = time.monotonic()
                self.gap, last = max(self.gap, now - (last or now)), now
                self.answers += 1
            except OSError:
                pass
            self.ended.wait(0.005)

    def wait_for_answers(self, count, seconds=120):
        """Wait for that many more answers, or until the time is over."""
        until, wanted = time.monotonic() + seconds, self.answers + count
        while self.answers < wanted and time.monotonic() < until:
            self.ended.wait(0.05)


def gap_while(change):
    client = Client()
    client.start()
    client.wait_for_answers(20)  # it must see the server up
    change()
    client.wait_for_answers(20)  # and up again
    client.ended.set()
    client.join(5)
    return client.gap


def replacing(dom0, folder, what, kernel, memory):
    """Replace www, served by ``what``, in each way, and measure from outside the host."""

    def replace(more, update):
        options = {
            "name": "www", "kernel": kernel, "memory": memory + more, "arguments": {"port": 80}, "update": update,
            "ready": "ready",
            "interfaces": [{"bridge": "xenbr0", "address": "10.0.2.101/24", "gateway": "10.0.2.2"}], "service": "web",
            "health": {"http": "http://10.0.2.101/", "within": 180}, "shutdown_timeout": 0,
        }  # fmt: skip
        return lambda: play(folder, {"unikernels.xen.xen_domain": options})

    replace(0, "recreate")()
    by_hand = gap_while(lambda: dom0("xl destroy www && xl create /etc/xen/unikernels/www.cfg"))
    print(f"| how {what} gets replaced | without an answer | of destroy and create |")
    print("|---|---|---|")
    print(f"| `xl destroy www && xl create www.cfg` | {by_hand:.2f} s | 1 |")
    for more, update in ((4, "recreate"), (8, "standby"), (12, "warm")):
        gap = gap_while(replace(more, update))
        print(f"| `update: {update}` | {gap:.2f} s | {gap / by_hand:.2f} |", flush=True)
    print()


def main():
    dom0 = Dom0()
    # Otherwise both sides would mostly measure how an emulated machine starts Python.
    preloaded.install(dom0.command)
    os.environ["ANSIBLE_INVENTORY"] = QUICK_INVENTORY
    dom0.ship_engine()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "bench.xen").write_bytes(guest())
        subprocess.run([*dom0.command, f"cat >{KERNEL}"], input=guest(), check=True)
        subprocess.run([*dom0.command, f"cat >{SERVICE}"], input=service("A web server"), check=True)
        standin = re.search(r'kernel = "(.*)"', dom0("cat /etc/xen/unikernels/www.cfg")).group(1)
        try:
            planning()
            no_change(dom0, folder)
            replacing(dom0, folder, "a PVH guest of 10 KB", SERVICE, 16)
            replacing(dom0, folder, "a Linux stand-in", standin, 160)
        finally:
            gone = [{"name": f"bench{index:02}", "state": "absent"} for index in range(max(COUNTS))]
            play(folder, {"unikernels.xen.xen_domains": {"domains": gone, "parallel": 8}})
            dom0("rm -f /root/bench*")
            playbook("site.yml", "--tags", "deploy")


if __name__ == "__main__":
    main()
