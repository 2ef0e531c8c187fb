"""Prepare antsibull-docs' pages and the first page for the site. usage: prepare.py SOURCES"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import re
import sys

# "unikernels.xen.xen_domain module -- Manage one ..." with the line below it.
TITLE = re.compile(r"^unikernels\.xen\.(\S+ \w+) -- (.+)\n\++$", re.MULTILINE)
# The theme shows a page's contents beside it.
CONTENTS = re.compile(r"^\.\. contents::\n(?:   +:\w+:.*\n)+", re.MULTILINE)


def page(text: str) -> str:
    """Shorten the title for the sidebar, and make what the plugin does the first sentence."""
    text = TITLE.sub(lambda found: f"{found[1]}\n{'+' * len(found[1])}\n\n**{found[2]}**", text)
    return CONTENTS.sub("", text)


def index(text: str, root: pathlib.Path) -> str:
    """Fill lists that contain * with the existing pages."""
    lines = []
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+ )\* <(\w+)/\*/README>", line)
        if found:
            names = sorted(path.parent.name for path in root.glob(f"{found[2]}/*/README.md"))
            lines += [f"{found[1]}{name} <{found[2]}/{name}/README>" for name in names]
        elif not re.fullmatch(r"docs/\w+", line) or (root / f"{line}.md").exists():
            lines.append(line)
    return "\n".join(lines) + "\n"


def main(folder: str) -> None:
    root = pathlib.Path(folder)
    for path in (root / "collections").glob("*.rst"):
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
    path = root / "collections/index.rst"
    path.write_text(path.read_text(encoding="utf-8").replace("Unikernels.Xen\n", "All options\n", 1), encoding="utf-8")
    path = root / "index.md"
    path.write_text(index(path.read_text(encoding="utf-8"), root), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
