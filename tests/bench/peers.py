"""The same job with this collection, with community.libvirt and libvirt's Xen driver, and with a loop of xl and template.

    make bench-peers            (on a lab with Xen; LAB_* choose it. PEERS="1 10" for other numbers of domains)

N small domains are created, run again without changes, one is changed, one is destroyed by hand, all are removed. Prints tables
in Markdown: seconds of ansible-playbook, tasks, processes in Dom0, and what each noticed. libvirt and its Python are installed
into the lab; community.libvirt comes from PyPI's package `ansible`.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from tests import preloaded
from tests.guests import guest
from tests.integration.conftest import QUICK_INVENTORY, Dom0, playbook, run

ANSIBLE = "ansible==12.3.0"
CACHE = pathlib.Path(os.environ.get("LAB_CACHE", pathlib.Path.home() / ".cache/unikernels.xen")) / "peers"
KERNEL = "/root/peers.xen"
COUNTS = tuple(int(word) for word in os.environ.get("PEERS", "1 10 30").split())
XL = 'name = "{name}"\ntype = "pvh"\nkernel = "%s"\nmemory = {memory}\nmaxmem = {memory}\nvcpus = 1\n' % KERNEL
XML = (
    "<domain type='xen'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64'>xenpvh</type><kernel>%s</kernel></os></domain>" % KERNEL
)
Tasks = list[dict[str, object]]


def ours(domains: dict[str, int], state: str, folder: pathlib.Path) -> Tasks:
    rows = [
        {"name": name, "state": state, **({"kernel": KERNEL, "memory": memory, "settle": 0} if state == "running" else {})}
        for name, memory in domains.items()
    ]
    return [{"unikernels.xen.xen_domains": {"domains": rows, "parallel": 4}}]


def libvirt(domains: dict[str, int], state: str, folder: pathlib.Path) -> Tasks:
    module, names = "community.libvirt.virt", list(domains)
    connection = {"uri": "xen:///system"}
    if state == "absent":
        return [
            {module: {"name": "{{ item }}", "state": "destroyed", **connection}, "loop": names},
            {module: {"name": "{{ item }}", "command": "undefine", **connection}, "loop": names},
        ]
    rows = [{"name": name, "xml": XML.format(name=name, memory=memory)} for name, memory in domains.items()]
    return [
        {module: {"command": "define", "xml": "{{ item.xml }}", **connection}, "loop": rows},
        {module: {"name": "{{ item }}", "state": "running", **connection}, "loop": names},
    ]


def by_hand(domains: dict[str, int], state: str, folder: pathlib.Path) -> Tasks:
    """Return what people write: a template for each file, a query for each domain, a command if the answer requires one."""
    (folder / "peer.cfg.j2").write_text(XL.format(name="{{ item.name }}", memory="{{ item.memory }}"), encoding="utf-8")
    rows = [{"name": name, "memory": memory} for name, memory in domains.items()]
    look: dict[str, object] = {"ansible.builtin.command": "xl list {{ item.name }}", "loop": rows, "register": "looked",
                               "failed_when": False, "changed_when": False}  # fmt: skip
    if state == "absent":
        return [
            look,
            {
                "ansible.builtin.command": "xl destroy {{ item.item.name }}",
                "loop": "{{ looked.results }}",
                "when": "item.rc == 0",
            },
            {"ansible.builtin.file": {"path": "/root/{{ item.name }}.cfg", "state": "absent"}, "loop": rows},
        ]
    template = {"src": str(folder / "peer.cfg.j2"), "dest": "/root/{{ item.name }}.cfg", "mode": "0600"}
    return [
        {"ansible.builtin.template": template, "loop": rows, "register": "written"},
        look,
        {"ansible.builtin.command": "xl destroy {{ item.0.item.name }}", "when": "item.0 is changed and item.1.rc == 0",
         "loop": "{{ written.results | zip(looked.results) }}"},
        {"ansible.builtin.command": "xl create /root/{{ item.0.item.name }}.cfg", "when": "item.0 is changed or item.1.rc != 0",
         "loop": "{{ written.results | zip(looked.results) }}"},
    ]  # fmt: skip


WAYS = {"`xen_domains`": ours, "`community.libvirt.virt`": libvirt, "`xl` and `template`": by_hand}


@dataclasses.dataclass
class Run:
    seconds: float
    tasks: int
    processes: int
    changed: int
    failed: bool = False


def play(dom0: Dom0, folder: pathlib.Path, tasks: Tasks) -> Run:
    """One play; a way that fails at its job is a result too."""
    book = folder / "peers.yml"
    book.write_text(json.dumps([{"hosts": "xen1", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    # Counted inside Dom0: each fork between two samples.
    before = int(dom0("sed -n 's/^processes //p' /proc/stat"))
    began = time.monotonic()
    done = playbook(str(book), check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        print(done.stdout[-1500:], done.stderr[-500:], file=sys.stderr)
    processes = int(dom0("sed -n 's/^processes //p' /proc/stat")) - before
    items = len(re.findall(r"^(?:ok|changed|skipping|failed|fatal): \[xen1\]", done.stdout, re.MULTILINE))
    return Run(seconds, items, processes, done.counts.get("xen1", {}).get("changed", 0), bool(done.returncode))


def memory_of(dom0: Dom0, name: str) -> int:
    """Return the MiB of the domain that runs under this name; 0 if none does."""
    rows = [line.split() for line in dom0("xl list").splitlines()[1:]]
    return next((int(row[2]) for row in rows if row[0] == name), 0)


def job(dom0: Dom0, folder: pathlib.Path, way: str, count: int) -> dict[str, object]:
    """Create, run again, change one, repair one, remove. Return a Run for each, and what was noticed."""
    tasks = WAYS[way]
    domains = {f"peer{index:02}": 8 for index in range(count)}
    changed = {**domains, "peer00": 12}
    runs: dict[str, object] = {}
    runs["create"] = play(dom0, folder, tasks(domains, "running", folder))
    runs["nothing to change"] = play(dom0, folder, tasks(domains, "running", folder))
    runs["change one"] = play(dom0, folder, tasks(changed, "running", folder))
    runs["changed"] = memory_of(dom0, "peer00") == 12
    dom0("xl destroy peer00")
    runs["one was destroyed"] = play(dom0, folder, tasks(changed, "running", folder))
    runs["restored"] = memory_of(dom0, "peer00") == 12
    # By hand, and with other values than declared.
    by_hand = XL.format(name="peer00", memory=16)
    dom0(f"xl destroy peer00; printf '%s' '{by_hand}' >/root/other.cfg; xl create -q /root/other.cfg; rm /root/other.cfg")
    met = play(dom0, folder, tasks(changed, "running", folder))
    now = memory_of(dom0, "peer00")
    runs["noticed"] = "replaced" if now == 12 else "the run fails, and names it" if met.failed else "not noticed"
    # As it was, so that each way has the same to remove.
    if now != 12:
        dom0("xl destroy peer00")
        play(dom0, folder, tasks(changed, "running", folder))
    runs["remove"] = play(dom0, folder, tasks(changed, "absent", folder))
    left = [name for name in dom0.domains() if name.startswith("peer")]
    runs["removed"] = not left
    for name in left:  # the next way begins without them
        dom0(f"xl destroy {name}")
    return runs


STEPS = ("create", "nothing to change", "change one", "one was destroyed", "remove")


def tables(results: dict[tuple[str, int], dict[str, object]], counts: tuple[int, ...]) -> None:
    for count in counts:
        print(f"\n| {count} domain{'s' if count > 1 else ''}: seconds, tasks, processes in Dom0 | " + " | ".join(STEPS) + " |")
        print("|---" * (len(STEPS) + 1) + "|")
        for way in WAYS:
            cells = []
            for step in STEPS:
                one, base = results[way, count][step], results["`xen_domains`", count][step]
                assert isinstance(one, Run) and isinstance(base, Run)
                ratio = "" if one is base else f" = **{one.seconds / base.seconds:.1f} x**"
                cells.append(f"{one.seconds:.1f} s{ratio}, {one.tasks}, {one.processes}" + (", **failed**" if one.failed else ""))
            print(f"| {way} | " + " | ".join(cells) + " |")
    print("\n| | second run | another memory declared | destroyed by hand | created by hand with another memory | removed |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        last = results[way, counts[-1]]
        again = last["nothing to change"]
        assert isinstance(again, Run)
        print(
            f"| {way} | {'changed=0' if again.changed == 0 else f'changed={again.changed}'} |"
            f" {'the domain has it' if last['changed'] else 'the domain keeps the old one'} |"
            f" {'created again' if last['restored'] else 'not created as declared'} |"
            f" {last['noticed']} | {'all' if last['removed'] else 'not all'} |"
        )


def collection() -> pathlib.Path:
    """Return a folder with community.libvirt beside this collection."""
    folder = CACHE / "ansible_collections"
    if not (folder / "community/libvirt/MANIFEST.json").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), ANSIBLE)
        with zipfile.ZipFile(next(CACHE.glob("ansible-*.whl"))) as wheel:
            names = [name for name in wheel.namelist() if name.startswith("ansible_collections/community/libvirt/")]
            wheel.extractall(CACHE, [name for name in names if "/tests/" not in name])
    return CACHE


# Only what the driver for Xen needs: dpkg takes a minute for ten packages on an emulated machine.
#
# libvirt's driver starts only if its map of CPUs has a model of which the host lacks no feature. Every model requires "vme",
# which QEMU doesn't emulate, or "sep", which Xen hides on AMD's CPUs (libvirt's x86Decode, QEMU's TCG_FEATURES, Xen's init_amd).
# On such a CPU the simplest model loses "vme". No domain depends on the model: they are PVH, and their XML names no CPU.
INSTALL = """set -e
dpkg-query -W -f '${db:Status-Status}' libvirt-daemon-driver-xen 2>/dev/null | grep -qx installed || {
  apt-get -q update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \\
    libvirt-daemon-driver-xen libvirt-clients python3-libvirt python3-lxml >/dev/null
}
# Its daemon brings the driver for QEMU along, which ends it where this user of the package libvirt-daemon-system is missing.
getent passwd libvirt-qemu >/dev/null || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin libvirt-qemu
grep -qw vme /proc/cpuinfo || sed -i "/name='vme'/d" /usr/share/libvirt/cpu_map/x86_486.xml
systemctl is-active -q peers-libvirtd || systemd-run -q --unit=peers-libvirtd --service-type=notify libvirtd
# Where libvirt's driver for Xen does not start, virsh waits without end.
timeout 120 virsh -c xen:///system version --daemon || { journalctl -u peers-libvirtd -n 20 -o cat --no-pager >&2; exit 1; }
"""


def start_of_ansible(folder: pathlib.Path) -> None:
    began = time.monotonic()
    subprocess.run(["ansible-playbook", "--version"], check=True, capture_output=True)
    version = time.monotonic() - began
    book = folder / "start.yml"
    book.write_text(
        '[{"hosts": "localhost", "gather_facts": false, "connection": "local", "tasks": [{"debug": {}}]}]', encoding="utf-8"
    )
    began = time.monotonic()
    playbook("-i", "localhost,", str(book))
    print(f"\nThe controller's start: `ansible-playbook --version` {version:.1f} s; a play of one `debug` without hosts"
          f" {time.monotonic() - began:.1f} s.")  # fmt: skip


def main() -> None:
    dom0 = Dom0()
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = f"{ROOT / '.collections'}:{collection()}"
    print(dom0(INSTALL, timeout=1800).strip(), file=sys.stderr)
    # Else what is measured is, in all ways alike, how an emulated machine starts Python.
    preloaded.install(dom0.command)
    os.environ["ANSIBLE_INVENTORY"] = QUICK_INVENTORY
    subprocess.run([*dom0.command, f"cat >{KERNEL}"], input=guest(), check=True)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        start_of_ansible(folder)
        for count in COUNTS:
            for way in WAYS:
                results[way, count] = job(dom0, folder, way, count)
                print(f"{way}, {count}: {results[way, count]}", file=sys.stderr, flush=True)
            tables(results, tuple(one for one in COUNTS if one <= count))


if __name__ == "__main__":
    main()
