"""Run commands on the lab that make site made, and draw what they print as a terminal: the picture of the README.

    make picture        (tools/picture.py FILE.svg)

Nothing is written by hand: each line was printed by the run, cut to the width of the picture. "..." is for lines left out.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import html
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTH, LINE, LETTER = 100, 19, 8.43
# What is typed, and which of the lines that it prints are shown.
PLAY = "ansible-playbook playbooks/deploy.yml --diff"
HTTP = f"http://127.0.0.1:{os.environ.get('LAB_HTTP_PORT', '8080')}/"
STEPS = (
    (f"curl -s {HTTP} | grep h1", r"."),
    (
        f"{PLAY} -e web_memory=192",
        r"^(TASK .*domains|[-+ ] +(memory|image|state):|@@|changed: .*www|  *(www|.*replaced)|xen1 +:)",
    ),
    (
        f'{PLAY} -e web_memory=200 -e \'{{"web_health": {{"http": "http://10.0.2.101/missing", "within": 15}}}}\'',
        r"(did not|not healthy|rolled|put back|status 404|answered|www: |xen1 +:)",
    ),
    (f"curl -s {HTTP} | grep h1", r"."),
    ("tools/lab-ssh xen1 xl list", r"."),
)
COLOURS = (
    (r"^\$ ", "#ffffff"), (r"^\+", "#7ee787"), (r"^-", "#ff7b72"), (r"^(changed|TASK)", "#e3b341"),
    (r"(fatal|failed=1|did not|not healthy)", "#ff7b72"),
)  # fmt: skip


def lines_of(command: str, shown: str) -> list[str]:
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "UNIKERNELS_PROGRESS_ALWAYS": "false"}
    began = time.monotonic()
    words = ["bash", "-c", command]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    took = time.monotonic() - began
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build/picture.log", "a", encoding="utf-8") as log:
        log.write(f"$ {command}\n{done.stdout}{done.stderr}\n")
    printed = [re.sub(r"\*{4,}$", "", line).rstrip() for line in done.stdout.splitlines()]
    lines: list[str] = []
    for line in printed:
        if line and re.search(shown, line):
            lines += [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."]
        elif line and lines and lines[-1] != "...":
            lines.append("...")
    if lines and lines[-1] == "...":
        lines.pop()
    typed = f"$ {command}"
    note = f"  # {took:.0f} s" if took >= 2 else ""
    folded = [typed[at : at + WIDTH] for at in range(0, len(typed), WIDTH)]
    return [*folded[:-1], folded[-1] + note, *lines, ""]


def colour_of(line: str) -> str:
    return next((colour for pattern, colour in COLOURS if re.search(pattern, line)), "#adbac7")


def drawn(lines: list[str]) -> str:
    height = (len(lines) + 2) * LINE
    width = int(WIDTH * LETTER) + 32
    rows = "\n".join(
        f'<text x="16" y="{(number + 2) * LINE}" fill="{colour_of(line)}">{html.escape(line)}</text>'
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
    lines = [line for command, shown in STEPS for line in lines_of(command, shown)]
    pathlib.Path(target).write_text(drawn(lines[:-1]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
