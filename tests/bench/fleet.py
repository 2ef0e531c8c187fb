"""What checking a whole fleet costs on the controller: playbooks/validate.yml over 10, 100, 1000 hosts with three unikernels.

python -m tests.bench.fleet [--against COMMIT] [--old-most HOSTS] [HOSTS...]

No host is contacted. With --against that commit's playbook checks the same inventories in the same run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIKERNEL = """\
    - name: u{number}
      image: hello
      memory: 32
      arguments: {{hello: "Hello from {{{{ inventory_hostname }}}}", port: "{{{{ port | default(80) }}}}"}}
      interfaces: [{{bridge: xenbr0, address: "10.{{{{ rack }}}}.{{{{ slot }}}}.{number}/8", gateway: 10.255.255.254}}]
      health: {{http: "http://10.{{{{ rack }}}}.{{{{ slot }}}}.{number}/", within: 30}}
"""


def inventory(folder: pathlib.Path, hosts: int) -> pathlib.Path:
    path = folder / f"hosts-{hosts}.yml"
    lines = ["xen_hosts:", "  hosts:"]
    lines += [f"    xen-{index:04}.example.net: {{rack: {index // 250}, slot: {index % 250}}}" for index in range(hosts)]
    lines += ["  vars:", "    unikernel_images: {hello: {file: /srv/images/hello.xen}}", "    unikernels:"]
    path.write_text("\n".join(lines) + "\n" + "".join(UNIKERNEL.format(number=number) for number in (1, 2, 3)))
    return path


def measure(root: pathlib.Path, path: pathlib.Path) -> tuple[float, float, int]:
    """Return (seconds, CPU seconds, MiB of the largest process) of one run."""
    before = time.monotonic()
    script = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        " used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(used.ru_utime + used.ru_stime, used.ru_maxrss >> 10); sys.exit(done.returncode)"
    )
    command = ["ansible-playbook", "-i", str(path), "playbooks/validate.yml"]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=root, check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(root / "ansible.cfg")},
    )  # fmt: skip
    used, mib = done.stdout.split()
    return time.monotonic() - before, float(used), int(mib)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("hosts", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--old-most", type=int, default=100, help="more hosts are not checked by the other commit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if options.against:
            archive = subprocess.run(["git", "archive", options.against], cwd=ROOT, check=True, capture_output=True).stdout
            (folder / "old").mkdir()
            subprocess.run(["tar", "-x", "-C", str(folder / "old")], input=archive, check=True)
        print("| hosts | now | CPU | a host, CPU | memory | before | CPU | ratio of CPU |\n|---|---|---|---|---|---|---|---|")
        for hosts in options.hosts:
            path = inventory(folder, hosts)
            seconds, used, mib = measure(ROOT, path)
            row = f"| {hosts} | {seconds:.1f} s | {used:.1f} s | {used / hosts * 1000:.0f} ms | {mib} MiB"
            if options.against and hosts <= options.old_most:
                old, old_used, _mib = measure(folder / "old", path)
                row += f" | {old:.1f} s | {old_used:.1f} s | {old_used / used:.1f} x |"
            else:
                row += " | - | - | - |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
