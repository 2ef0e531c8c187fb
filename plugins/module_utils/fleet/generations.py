# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Numbered generations of what was applied to a host: which to keep, which is the previous one, how two differ. Pure.

A generation is the whole declaration of a host that its domains were created from, with the digests of its images. A rollback
makes a new generation that says which one it repeats. So the previous generation is always the one before the last new
declaration: rolling back twice ends in the same place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import generation_guests
from .plain import MAX_DEPTH, inside, one_line

KEEP = 20
# Texts that may contain keys are kept only in this many generations.
KEEP_KEYS = 2
# How many differing options of a domain are named.
MAX_PATHS = 12
APPLIED, FAILED = "applied", "failed"
_KEYS = re.compile(r"PRIVATE KEY-----|Static key V1|^; (?:secondary|primary \S+) \S+ \S+ hmac-", re.MULTILINE)
_WORDS = re.compile(r"[\w .,:;@/+=()-]{0,200}")


class GenerationError(ValueError):
    """One line: why a generation can't be read or rolled back to."""


@dataclass(frozen=True)
class Generation:
    number: int
    domains: list[dict[str, Any]] = field(default_factory=list)  # as xen_domains takes them
    images: dict[str, str] = field(default_factory=dict)  # domain -> name of its image
    time: str = ""
    by: str = ""
    revision: str = ""
    rollout: str = ""
    result: str = APPLIED
    repeats: int = 0  # the generation that was rolled back to; 0: none, this is a new declaration
    dropped: bool = False  # texts that may contain keys were removed
    guests: dict[str, Any] | None = None  # publish, accept and reach of the domains; None: not known

    @property
    def names(self) -> list[str]:
        return [str(domain.get("name")) for domain in self.domains]

    @property
    def digest(self) -> str:
        """A digest of the declaration, whatever the order in which it was written."""
        domains = sorted(self.domains, key=lambda domain: str(domain.get("name")))
        return hashlib.sha256(json.dumps(domains, sort_keys=True).encode("utf-8")).hexdigest()

    def declares_as(self, other: Generation) -> bool:
        """Whether both declare the same, as far as both know the rules of their networks."""
        return self.digest == other.digest and generation_guests.agree(self.guests, other.guests)


def text_of(generation: Generation) -> str:
    return json.dumps({"format": 1, **dataclasses.asdict(generation)}, sort_keys=True, indent=1) + "\n"


def read(text: str) -> Generation:
    """Parse a generation. Raise GenerationError if the text is cut off, of another format, or not ours."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != 1:
            raise GenerationError("is of another format")
        values["guests"] = generation_guests.read(values.get("guests"))
        generation = Generation(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise GenerationError(str(error) if isinstance(error, GenerationError) else "is not a complete generation") from None
    kinds = [(generation.number, int), (generation.domains, list), (generation.images, dict), (generation.repeats, int)]
    kinds += [(getattr(generation, name), str) for name in ("time", "by", "revision", "rollout", "result")]
    whole = all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in kinds) and generation.number > 0
    whole = whole and all(isinstance(image, str) for image in generation.images.values()) and isinstance(generation.dropped, bool)
    whole = whole and all(map(_is_domain, generation.domains)) and len(set(generation.names)) == len(generation.names)
    if not whole:
        raise GenerationError("is not a complete generation")
    return generation


def _is_domain(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    disks = value.get("disks", [])
    return isinstance(disks, list) and all(isinstance(disk, dict) for disk in disks)


def plain_words(text: Any) -> str:
    """Return what a run says of itself as one short line."""
    words = " ".join(str(text).split())[:200]
    return words if _WORDS.fullmatch(words) else re.sub(r"[^\w .,:;@/+=()-]", "?", words)


def merged(kept: list[Generation], new: Generation) -> Generation:
    """Return ``new`` plus the domains of the newest generation that it doesn't mention: they keep running."""
    newest = max(kept, key=lambda one: one.number, default=Generation(0))
    domains = [one for one in newest.domains if str(one.get("name")) not in new.names]
    images = {name: image for name, image in newest.images.items() if name not in new.names}
    return dataclasses.replace(new, domains=domains + new.domains, images={**images, **new.images})


def present(generation: Generation) -> Generation:
    """Return the generation without the domains that it declares absent."""
    domains = [one for one in generation.domains if one.get("state") != "absent"]
    names = {str(one.get("name")) for one in domains}
    images = {name: image for name, image in generation.images.items() if name in names}
    return dataclasses.replace(generation, domains=domains, images=images)


def next_of(kept: list[Generation], new: Generation) -> Generation | None:
    """Return ``new`` with its number: the newest's if the declaration is the same; None if there is nothing to write."""
    newest = max(kept, key=lambda one: one.number, default=None)
    if newest is None:
        return dataclasses.replace(new, number=1)
    # Who doesn't know the rules leaves them as they are.
    guests = newest.guests if new.guests is None else new.guests
    if newest.declares_as(new) and not newest.dropped and (newest.result == FAILED or new.result == APPLIED):
        if newest.result == new.result:
            return dataclasses.replace(newest, guests=guests) if newest.guests is None and guests is not None else None
        return dataclasses.replace(new, number=newest.number, repeats=new.repeats or newest.repeats, guests=guests)
    return dataclasses.replace(new, number=newest.number + 1, guests=guests)


def too_old(numbers: list[int]) -> list[int]:
    return sorted(numbers)[:-KEEP]


def without_keys(kept: list[Generation]) -> list[Generation]:
    """Return the generations that still contain keys though they are too old for that, without the keys."""
    lean = []
    for generation in sorted(kept, key=lambda one: one.number)[:-KEEP_KEYS]:
        domains = [{**domain, "disks": [_lean(disk) for disk in domain["disks"]]} if "disks" in domain else domain
                   for domain in generation.domains]  # fmt: skip
        if domains != generation.domains:
            lean.append(dataclasses.replace(generation, domains=domains, dropped=True))
    return lean


def _lean(disk: Any) -> Any:
    holds = isinstance(disk, dict) and isinstance(disk.get("content"), str) and _KEYS.search(disk["content"])
    return {**{key: value for key, value in disk.items() if key != "content"}, "dropped": True} if holds else disk


def target_of(kept: list[Generation], to: Any, rollouts: Mapping[str, int] | None = None) -> Generation:
    """Return the generation that ``to`` names: C(previous), a number, or C(rollout=ID). Raise GenerationError with the choices.

    ``rollouts``: rollout -> the generation that the host had at its end; it may be an older one, which that rollout did not
    change.
    """
    ordered = sorted(kept, key=lambda one: one.number)
    known = ", ".join(f"{one.number}" for one in ordered if one.result == APPLIED) or "none"
    if str(to) == "previous":
        declared = [one for one in ordered if not one.repeats]
        latest = declared[-1] if declared else None
        before = [one for one in ordered if latest and one.number < latest.number and one.result == APPLIED]
        others = [one for one in before if latest and not one.declares_as(latest)]
        if not others:
            raise GenerationError("to: the host has no generation before the newest declaration")
        return others[-1]
    if str(to).startswith("rollout="):
        return _of_rollout(ordered, str(to)[len("rollout=") :], rollouts or {})
    if not re.fullmatch(r"[1-9][0-9]{0,8}", str(to)):
        raise GenerationError(f"to: is {str(to)!r}, must be previous, the number of a generation ({known}), or rollout=ID")
    chosen = next((one for one in ordered if one.number == int(to)), None)
    if chosen is None:
        raise GenerationError(f"to: the host has no generation {to}; it has {known}")
    return chosen


def _of_rollout(ordered: list[Generation], rollout: str, rollouts: Mapping[str, int]) -> Generation:
    declared = [one for one in ordered if one.rollout == rollout and not one.repeats and one.result == APPLIED]
    declared = declared or [one for one in ordered if one.number == rollouts.get(rollout)]
    if not declared:
        names = sorted({one.rollout for one in ordered if one.rollout and not one.repeats} | set(rollouts))
        raise GenerationError(
            f"to: the host has no generation of rollout {plain_words(rollout)}; it has {', '.join(names) or 'none'}"
        )
    return declared[-1]


def to_apply(kept: list[Generation], target: Generation, names: list[str]) -> list[dict[str, Any]]:
    """Return the options for xen_domains that bring ``target`` back: its domains, and later ones declared absent."""
    later = {name for one in kept if one.number > target.number for name in one.names}
    unknown = sorted(set(names) - set(target.names) - later)
    if unknown:
        known, missing = ", ".join(sorted(target.names)) or "none", ", ".join(map(repr, unknown))
        raise GenerationError(f"rollback: generation {target.number} has no unikernel {missing} (it has {known})")
    wanted = [domain for domain in target.domains if not names or domain.get("name") in names]
    lost = [f"{domain['name']}" for domain in wanted for disk in domain.get("disks", []) if disk.get("dropped")]
    if lost:
        raise GenerationError(
            f"rollback: generation {target.number}: keys on a disk of {', '.join(lost)} are kept only for the last {KEEP_KEYS}"
            " generations: declare the earlier state and deploy it"
        )
    gone = later - set(target.names)
    return wanted + [{"name": name, "state": "absent"} for name in sorted(gone) if not names or name in names]


def after(newest: Generation, target: Generation, applied: list[dict[str, Any]], names: list[str]) -> Generation:
    """Return the host's declaration after ``applied`` was carried out: all of the target, or only some of its domains."""
    guests = generation_guests.after(newest.guests, target.guests, names)
    if not names:
        return dataclasses.replace(target, repeats=target.number, guests=guests)
    changed = {str(domain["name"]): domain for domain in applied}
    domains = [changed.pop(str(one.get("name")), one) for one in newest.domains] + list(changed.values())
    domains = [one for one in domains if one.get("state") != "absent"]
    images = {**newest.images, **{name: image for name, image in target.images.items() if name in names}}
    return dataclasses.replace(target, domains=domains, images=images, repeats=target.number, guests=guests)


def differences(old: Generation, new: Generation) -> list[str]:
    """Return what ``new`` declares differently from ``old``, in the words of the options, without values that may be secret."""
    # Rules of which one of them knows nothing are not compared.
    rules = None not in (old.guests, new.guests)
    before, later = _options(old, rules), _options(new, rules)
    lines = [f"{name}: removed" for name in sorted(before.keys() - later.keys())]
    for name, domain in later.items():
        if name not in before:
            lines.append(f"{name}: added")
            continue
        changed = sorted(_differing(before[name], domain, ""))
        words = ["image" if path == "kernel" and name in new.images else path for path in changed]
        if words:
            more = f" and {len(words) - MAX_PATHS} more" if len(words) > MAX_PATHS else ""
            lines.append(f"{name}: other {', '.join(words[:MAX_PATHS])}{more}")
    return [one_line(line) for line in lines]


def _options(generation: Generation, rules: bool) -> dict[str, dict[str, Any]]:
    more = generation_guests.options_of(generation.guests) if rules else {}
    return {name: {**domain, **more.get(name, {})} for name, domain in zip(generation.names, generation.domains)}


def _differing(old: Any, new: Any, where: str, depth: int = 0) -> Iterator[str]:
    """Yield the place of each option that differs, as in interfaces[0].address."""
    if old == new:
        return
    if depth > MAX_DEPTH:
        yield where
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differing(old.get(key), new.get(key), inside(where, key) if where else str(key), depth + 1)
    elif isinstance(old, list) and isinstance(new, list) and all(isinstance(item, dict) for item in old + new):
        for index, (was, later) in enumerate(itertools.zip_longest(old, new)):
            yield from _differing(was, later, f"{where}[{index}]", depth + 1)
    else:
        yield where


def health_checks(kept: Sequence[Generation]) -> list[dict[str, Any]]:
    """Return the name, state and health check of the domains that have one, in the newest generation that was applied."""
    newest = max((one for one in kept if one.result == APPLIED), key=lambda one: one.number, default=None)
    domains = summary_of(newest)["domains"] if newest else []
    return [{key: one[key] for key in ("name", "state", "health") if key in one} for one in domains if one.get("health")]


def summary_of(generation: Generation) -> dict[str, Any]:
    """Return what may be shown of a generation: no arguments and no content of disks."""
    return {
        "number": generation.number, "time": generation.time, "by": generation.by, "revision": generation.revision,
        "rollout": generation.rollout, "result": generation.result, "repeats": generation.repeats,
        "domains": [
            {"name": domain.get("name"), "image": generation.images.get(str(domain.get("name")), ""), "sha256": digest_of(domain),
             "state": domain.get("state", "running"), "memory": domain.get("memory", 64), "health": _asked(domain.get("health"))}
            for domain in generation.domains
        ],
    }  # fmt: skip


def _asked(health: Any) -> Any:
    """Return what may be shown of a health check: the arguments of a command may be secret."""
    return None if isinstance(health, dict) and "command" in health else health


def digest_of(domain: dict[str, Any]) -> str:
    """Return the digest in the path of a stored image; "" for another kernel."""
    digest = re.fullmatch(r".*/([0-9a-f]{64})\.xen", str(domain.get("kernel") or ""))
    return digest.group(1) if digest else ""
