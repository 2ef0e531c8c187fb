"""Run commands on a lab with Xen, and draw what they print as a terminal: the picture of the README.

    make picture        (on the lab that make site made; its www is removed first, and make site brings it back)

Nothing is written by hand: each line was printed by the run, folded at the width of the picture. "..." is for lines left out. The
images are those of the lab tests, which boot at once, as unikernels do.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import html
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from tests import preloaded
from tests.guests import ENDS, guest, service
from tests.integration.conftest import QUICK_INVENTORY, Dom0

WIDTH, LINE, LETTER = 96, 19, 8.43
HTTP = f"http://127.0.0.1:{os.environ.get('LAB_HTTP_PORT', '8080')}/"
PLAY = """- name: Run the web server
  hosts: xen1
  gather_facts: false
  tasks:
    - name: Run www
      unikernels.xen.xen_domain:
        name: www
        kernel: /root/{{ image }}.xen
        memory: 16
        arguments: {port: 80}
        interfaces: [{bridge: xenbr0, address: 10.0.2.101/24, gateway: 10.0.2.2}]
        health: {http: "http://10.0.2.101/", status: 200, within: 60}
"""
RESULT = r"^(changed|ok|fatal|xen1 +:|[-+ ]  *(kernel|image)|.*msg:)"
# What is typed, and which of the lines that it prints are shown.
STEPS = (
    ("cat www.yml", r"."),
    ("ansible-playbook www.yml -e image=first", RESULT),
    (f"curl -s {HTTP}", r"."),
    ("ansible-playbook www.yml -e image=second --diff", RESULT),
    (f"curl -s {HTTP}", r"."),
    ("ansible-playbook www.yml -e image=broken", RESULT),
    (f"curl -s {HTTP}", r"."),
    ("ansible-playbook www.yml -e image=second", RESULT),
)
COLOURS = (
    (r"^\$ ", "#ffffff"), (r"^\+", "#7ee787"), (r"^(-|fatal|ERROR)|failed=1", "#ff7b72"), (r"^changed", "#e3b341"),
    (r"^(ok|xen1)", "#7ee787"), (r"msg:", "#ffa657"),
)  # fmt: skip


def lines_of(command: str, shown: str, folder: str) -> list[str]:
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    began = time.monotonic()
    words = ["bash", "-c", command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)
    took = time.monotonic() - began
    print(f"$ {command}\n{done.stdout}{done.stderr}", file=sys.stderr, flush=True)
    lines: list[str] = []
    for line in done.stdout.replace(folder, "").splitlines():
        line = re.sub(r" \*{3,}$", "", line).rstrip()
        if line and re.search(shown, line):
            lines += [line[at : at + WIDTH] for at in range(0, len(line), WIDTH)]
        elif line and lines and lines[-1] != "..." and "ansible-playbook" not in command:
            lines.append("...")
    return [f"$ {command}" + (f"    # {took:.0f} s" if took >= 2 else ""), *lines, ""]


def colour_of(line: str) -> str:
    return next((colour for pattern, colour in COLOURS if re.search(pattern, line)), "#adbac7")


def drawn(lines: list[str]) -> str:
    height = (len(lines) + 2) * LINE
    width = int(WIDTH * LETTER) + 32
    rows = "\n".join(
        f'<text x="16" y="{(number + 2) * LINE - 6}" fill="{colour_of(line)}">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    )
    return f"""<!-- Made by tools/picture.py from a run on the lab. SPDX-License-Identifier: GPL-3.0-or-later -->
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A run on the lab">
<style>text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }}</style>
<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>
{rows}
</svg>
"""


def main(target: str) -> None:
    dom0 = Dom0()
    preloaded.install(dom0.command)
    os.environ["ANSIBLE_INVENTORY"] = QUICK_INVENTORY
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".collections")
    dom0("xl destroy www; rm -f /etc/xen/auto/www.cfg /etc/xen/unikernels/www.cfg", check=False)
    for name, image in (("first", service("first")), ("second", service("second")), ("broken", guest(ENDS))):
        subprocess.run([*dom0.command, f"cat >/root/{name}.xen"], input=image, check=True)
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "www.yml").write_text(PLAY, encoding="utf-8")
        lines = [line for command, shown in STEPS for line in lines_of(command, shown, folder)]
    pathlib.Path(target).write_text(drawn(lines[:-1]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
