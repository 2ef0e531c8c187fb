# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was observed on a host at once: its domains as Xen reports them, and our files. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from .spec import CONTENT_PATH, Domain, owned, plain_path


def base_name(name: str) -> str:
    """Return the declared name of a domain or of either side of its replacement (NAME~next, NAME~prev)."""
    return name.split("~")[0]


# The path of a disk in a definition, as xl_config quotes it.
_TARGET, _ESCAPED = re.compile(r'target=((?:[^"\\]|\\.)*)"'), re.compile(r"\\(.)")
# How the first line of an intent begins; the state of the domain before the change follows.
_REPLACES = "# replaces: "


@dataclass(frozen=True)
class Intent:
    """What a change is about to make of a domain. ``text``: its future definition."""

    text: str
    former: str  # the domain's state before the change: running, paused, stopped or absent

    def content(self) -> str:
        """Return the content of its file; `intent_of` reads it back."""
        return f"{_REPLACES}{self.former}\n{self.text}"


def intent_of(content: str) -> Intent:
    head, _newline, text = content.partition("\n")
    return Intent(text, head[len(_REPLACES) :]) if head.startswith(_REPLACES) else Intent(content, "running")


def defined_paths(text: str) -> set[str]:
    """Return the plain paths of the disks that a definition names."""
    return {plain_path(_ESCAPED.sub(r"\1", quoted)) for quoted in _TARGET.findall(text)}


def defined_uuid(text: str) -> str:
    found = re.search(r'^uuid = "([0-9a-f-]{36})"$', text, re.MULTILINE)
    return found.group(1) if found else ""


def defined_memory(text: str) -> int:
    """Return the memory that a definition names, in MiB; 0 if none."""
    found = re.search(r"^memory = ([0-9]{1,9})$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


@dataclass(frozen=True)
class Observed:
    """A domain as Xen reports it. ``state``: running, paused, shutdown or dying."""

    domid: int
    state: str
    domain: Domain
    max_vcpus: int = 0  # 0: as many as it uses now
    shutdown_reason: str = ""
    cpu_seconds: float = 0.0

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


@dataclass(frozen=True)
class Host:
    """Everything that was observed on one host at once. Memory in MiB, files in bytes."""

    domains: tuple[Observed, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    autostart: frozenset[str] = frozenset()
    free_memory: int = 0
    cpus: int = 0  # one more than the highest number of a CPU; 0: unknown
    default_cpus: str = ""  # where xl.conf lets domains run, of the CPUs that are on; "": everywhere
    disk_sizes: dict[str, int] = field(default_factory=dict)  # of existing files
    content_disks: tuple[str, ...] = ()  # paths of all disks made from content
    former_disks: dict[str, str] = field(
        default_factory=dict
    )  # plain path -> the domain that had it, if a declared disk is missing

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
        """Return the paths of the disks made from content that this domain declares or once declared."""
        return self._contents.get(name, [])

    @cached_property
    def _defining(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        # By the time an intent is written, its disks exist.
        begun = [(name, intent.text) for name, intent in self.intents.items()]
        for name, text in [*self.definitions.items(), *begun]:
            for path in defined_paths(text):
                found.setdefault(path, []).append(name)
        return found

    def defining(self, path: str) -> list[str]:
        """Return the names of domains with a disk at ``path``, however spelt, in their definition or in a begun change."""
        return self._defining.get(plain_path(path), [])

    def users(self, path: str) -> list[str]:
        """Return the domains that have a disk at ``path``, then one that had it and from which no declaration removed it."""
        plain = plain_path(path)
        running = [one for one in self.domains if any(plain_path(disk.path) == plain for disk in one.domain.disks)]
        names = [base_name(one.domain.name) for one in running] + self.defining(path)
        return [*names, self.former_disks[plain]] if plain in self.former_disks else names

    @property
    def ours(self) -> set[str]:
        """Names of which anything of ours is here: a domain, a file, or what a dead run left behind."""
        running = {base_name(observed.domain.name) for observed in self.domains if self.owns(observed)}
        return running.union(self.definitions, self.intents, self.autostart, self._contents)

    def owns(self, observed: Observed) -> bool:
        """True if the domain is ours: we created it (its UUID shows it) or adopted it (our definition has its UUID)."""
        if observed.domid == 0:
            return False
        base = base_name(observed.domain.name)
        return owned(observed.domain.uuid) or defined_uuid(self.definitions.get(base, "")) == observed.domain.uuid
