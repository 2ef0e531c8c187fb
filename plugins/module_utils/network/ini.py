# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of sections with keys, as systemd and NetworkManager read them; comments and order stay. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Section:
    """``[name]`` and the lines below it. Lines above the first section are one without a name."""

    name: str
    lines: list[str] = field(default_factory=list)

    def get(self, key: str) -> list[str]:
        """Return the values of a key, which may occur several times."""
        return [value for name, value in map(split, self.lines) if name == key]

    def kept(self, keep: Callable[[str], bool]) -> Section:
        """Return the section with only the keys that ``keep`` accepts, without comments, which describe what is gone."""
        return Section(self.name, [line for line in self.lines if split(line)[0] and keep(split(line)[0])])


def split(line: str) -> tuple[str, str]:
    """Return key and value of a line; two empty texts if it is none."""
    text = line.strip()
    if not text or text[0] in "#;[" or "=" not in text:
        return "", ""
    key, _equals, value = text.partition("=")
    return key.strip(), value.strip()


def parse(text: str) -> list[Section]:
    sections = [Section("")]
    for line in text.replace("\r\n", "\n").replace("\\\n", " ").split("\n"):
        if line.strip().startswith("[") and line.strip().endswith("]"):
            sections.append(Section(line.strip()[1:-1]))
        else:
            sections[-1].lines.append(line)
    for section in sections:
        while section.lines and not section.lines[-1].strip():
            section.lines.pop()
    return [section for section in sections if section.name or section.lines]


def render(sections: list[Section]) -> str:
    """Return the text, with an empty line between sections."""
    parts = ["\n".join(([f"[{one.name}]"] if one.name else []) + one.lines) for one in sections if one.name or one.lines]
    return "\n\n".join(parts) + "\n"


def values(sections: list[Section], section: str, key: str) -> list[str]:
    return [value for one in sections if one.name == section for value in one.get(key)]
