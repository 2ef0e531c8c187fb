# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was seen on a host in one go: its domains as Xen reports them, and the files beside them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from .spec import CONTENT_PATH, Domain, owned, plain_path


def base_name(name: str) -> str:
    """The name that a user declared, of a domain and of both sides of its replacement."""
    return name.split("~")[0]


# A disk's path in a definition, as xl_config quotes it.
_TARGET, _ESCAPED = re.compile(r'target=((?:[^"\\]|\\.)*)"'), re.compile(r"\\(.)")
# The first line of an intent: the state of the domain before the change.
_REPLACES = "# replaces: "


@dataclass(frozen=True)
class Intent:
    """What a change was about to make of a domain when the run died, or is about to: the text of its definition to be."""

    text: str
    former: str  # its state before: running, paused, stopped or absent

    def content(self) -> str:
        """The file that holds it; `intent_of` reads it."""
        return f"{_REPLACES}{self.former}\n{self.text}"


def intent_of(content: str) -> Intent:
    head, _newline, text = content.partition("\n")
    return Intent(text, head[len(_REPLACES) :]) if head.startswith(_REPLACES) else Intent(content, "running")


def defined_uuid(text: str) -> str:
    found = re.search(r'^uuid = "([0-9a-f-]{36})"$', text, re.MULTILINE)
    return found.group(1) if found else ""


def defined_memory(text: str) -> int:
    """MiB; 0 where the text names none."""
    found = re.search(r"^memory = ([0-9]{1,9})$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


@dataclass(frozen=True)
class Observed:
    """A domain as Xen reports it. ``state``: running, paused, shutdown or dying."""

    domid: int
    state: str
    domain: Domain
    max_vcpus: int = 0  # 0: as many as it uses
    shutdown_reason: str = ""
    cpu_seconds: float = 0.0

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


@dataclass(frozen=True)
class Host:
    """Everything that was observed on one host in one go. Memory in MiB, files in bytes."""

    domains: tuple[Observed, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    autostart: frozenset[str] = frozenset()
    free_memory: int = 0
    cpus: int = 0  # 0: not known
    default_cpus: str = ""  # where xl.conf lets domains run; "": everywhere
    disk_sizes: dict[str, int] = field(default_factory=dict)  # of the files that are there
    content_disks: tuple[str, ...] = ()  # paths of all disks made from content

    @cached_property
    def _by_name(self) -> dict[str, Observed]:
        return {one.domain.name: one for one in reversed(self.domains)}

    @cached_property
    def _contents(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.content_disks:
            shape = CONTENT_PATH.fullmatch(path)
            if shape:
                found.setdefault(shape.group(1), []).append(path)
        return found

    def find(self, name: str) -> Observed | None:
        return self._by_name.get(name)

    def contents_of(self, name: str) -> list[str]:
        """Paths of the disks made from content that was declared for the domain, now or earlier."""
        return self._contents.get(name, [])

    @cached_property
    def _defining(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        # An intent is written when its disks are there.
        begun = [(name, intent.text) for name, intent in self.intents.items()]
        for name, text in [*self.definitions.items(), *begun]:
            for quoted in _TARGET.findall(text):
                found.setdefault(plain_path(_ESCAPED.sub(r"\1", quoted)), []).append(name)
        return found

    def defining(self, path: str) -> list[str]:
        """The names under which a definition, or a change that was begun, has a disk at ``path``, however it is spelt."""
        return self._defining.get(plain_path(path), [])

    @property
    def ours(self) -> set[str]:
        """The names of which something of ours is here: a domain, a file, or what a dead run has left of one."""
        running = {base_name(observed.domain.name) for observed in self.domains if self.owns(observed)}
        return running.union(self.definitions, self.intents, self.autostart, self._contents)

    def owns(self, observed: Observed) -> bool:
        """Ours: created by us (by its UUID) or adopted (the definition we keep has its UUID)."""
        if observed.domid == 0:
            return False
        base = base_name(observed.domain.name)
        return owned(observed.domain.uuid) or defined_uuid(self.definitions.get(base, "")) == observed.domain.uuid
