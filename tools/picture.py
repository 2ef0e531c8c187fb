"""Draw the output of two runs of site.yml as a terminal: the picture in the README.

    make picture                                              (on the lab that make site made)
    python tools/picture.py docs/run.svg build/site.log       (draw what earlier runs printed)

Nothing is written by hand: a run printed each line, which is cut to the picture's width; others are left out.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import html
import pathlib
import re
import sys

WIDTH, LINE, LETTER = 92, 19, 8.43
# The sections of a run, its result, and Ansible's counts.
SHOWN = re.compile(
    r"^PLAY \[(Check the decl|Get and|Boot the|Turn|Run the|Check the health|Print what)"
    r"|^    - '?(xen1 runs|  (www|dns|vpn): |  curl|  dig)"
    r"|^xen1 +: ok="
)
COLOURS = (
    (r"^\$ ", "#ffffff"), (r"^PLAY", "#79c0ff"), (r"changed=[1-9]", "#e3b341"), (r"changed=0", "#7ee787"),
    (r"running,", "#7ee787"), (r"runs Xen", "#ffffff"),
)  # fmt: skip


def lines_of(log: str) -> list[str]:
    """Return the lines to show: each command after "$ ", then, once, the lines of its output that SHOWN matches."""
    lines: list[str] = []
    for block in re.split(r"^\$ ", log, flags=re.MULTILINE)[1:]:
        typed, *printed = block.splitlines()
        lines += ["", f"$ {typed}"]
        seen: set[str] = set()
        for line in printed:
            line = re.sub(r" \*{3,}$", "", line).rstrip()
            if SHOWN.search(line) and line not in seen:
                seen.add(line)
                lines.append(re.sub(r"^    - '?(.*?)'?$", r"    \1", line)[:WIDTH])
    return lines[1:]


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
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f"""<!-- Made by tools/picture.py from runs on the lab. SPDX-License-Identifier: GPL-3.0-or-later -->
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Two runs of site.yml on the lab">
<style>text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }}</style>
<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>
{rows}
</svg>
"""


def main(target: str, log: str) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", pathlib.Path(log).read_text(encoding="utf-8"))
    pathlib.Path(target).write_text(drawn(lines_of(text)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
