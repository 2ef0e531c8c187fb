# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image came from, as an in-toto statement with a SLSA provenance predicate.

The shapes are those of in-toto's Statement v1 and SLSA's Provenance v1. The statement names the image by its sha256, so
that a signature over the statement is one over the image.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, unquote

from . import strict_json
from .elf import printable

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://unikernels.xen/build/mirage/v1"
GIVEN_TYPE = "https://unikernels.xen/build/given/v1"


PURL = "pkg:opam/"
_PACKAGE = re.compile(r'^\s*"([A-Za-z0-9_+-]+)"\s*\{\s*=\s*"([^"\n]+)"', re.MULTILINE)


_EXPIRES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# Versions are times of signing, as numbers: 20261127193045. One of a year with five digits is nobody's.
MAX_VERSION = 10**14


class ProvenanceError(ValueError):
    """One line: why this is no statement about this image."""


@dataclass(frozen=True)
class Claim:
    """What a statement says of its image under one name. ``version``: 0 for none; ``expires``: UTC, "" for never."""

    version: int = 0
    expires: str = ""

    def expired(self, now: datetime) -> bool:
        return bool(self.expires) and self.expires <= now.strftime(_TIME)


def statement(
    name: str,
    digest: str,
    *,
    built: bool,
    parameters: dict[str, Any],
    materials: list[dict[str, Any]],
    builder: dict[str, str],
    key: str,
) -> bytes:
    """The statement's text, one form for one content.

    ``parameters``: what was asked for; ``materials``: SLSA's resolvedDependencies, each with ``uri`` or ``name`` and
    ``digest``; ``builder``: tool name to version, with ``id``.
    """
    versions = {tool: version for tool, version in builder.items() if tool != "id"}
    found = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE if built else GIVEN_TYPE,
                "externalParameters": parameters,
                "internalParameters": {"key": key},
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": builder.get("id", ""), "version": versions},
                "metadata": {"finishedOn": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
        },
    }
    return as_text(found)


def as_text(statement: dict[str, Any]) -> bytes:
    return (json.dumps(statement, indent=1, sort_keys=True) + "\n").encode()


def read(text: bytes, digest: str) -> dict[str, Any]:
    """The statement about the image ``digest``; ProvenanceError when it is none, or about another image."""
    try:
        content = strict_json.loads(text)
        kinds = (content["_type"], content["predicateType"])
        subjects = [(subject["name"], subject["digest"]["sha256"]) for subject in content["subject"]]
        parameters = content["predicate"]["buildDefinition"]["externalParameters"]
        notes = [subject.get("annotations", {}) for subject in content["subject"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProvenanceError("it is not an in-toto statement") from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ProvenanceError(f"it is of type {printable(str(kinds[0]))!r}, not {STATEMENT_TYPE!r} with {PREDICATE_TYPE!r}")
    if not subjects or {sha256 for _name, sha256 in subjects if isinstance(sha256, str)} != {digest}:
        raise ProvenanceError(f"it is about another image ({printable(str([sha256 for _name, sha256 in subjects]))})")
    if not all(isinstance(name, str) and isinstance(sha256, str) for name, sha256 in subjects) or not isinstance(
        parameters, dict
    ):
        raise ProvenanceError("it is not an in-toto statement")
    if len({name for name, _sha256 in subjects}) != len(subjects):
        raise ProvenanceError("it has a name twice")
    for note in notes:
        _check_claim(note)
    return dict(content)


def _check_claim(note: Any) -> None:
    """What is said of a name is a `Claim`, or the statement is none: half of one must not count as none."""
    if not isinstance(note, dict):
        raise ProvenanceError("it is not an in-toto statement")
    version, expires = note.get("version", 0), note.get("expires", "")
    if type(version) is not int or not 0 <= version < MAX_VERSION:
        raise ProvenanceError(f"its version {printable(str(version))[:40]} is not a time of signing, as in 20261127193045")
    if not isinstance(expires, str) or (expires and not _EXPIRES.fullmatch(expires)):
        raise ProvenanceError(f"it expires {printable(str(expires))[:40]!r}, which is not a time, as in 2027-01-31T00:00:00Z")


def claims_of(statement: dict[str, Any]) -> dict[str, Claim]:
    """Name to what a statement, as `read` gave it, says of the image under it."""
    return {
        subject["name"]: Claim(note.get("version", 0), note.get("expires", ""))
        for subject in statement["subject"]
        for note in [subject.get("annotations", {})]
    }


def version_at(now: datetime) -> int:
    """The version of what is signed at that time: a later one is a greater number, and people can read it."""
    return int(now.strftime("%Y%m%d%H%M%S"))


def claim_for(old: Claim, others: list[int], now: datetime, valid_days: int, again: bool) -> Claim:
    """What to sign of an image under one name, with what was signed of it before, and versions of the name's other images.

    The image that a name means has the highest version: one that is built, or that a name comes back to, gets a new one, and
    one that has it keeps it. A statement that expires is renewed when half of its time is over.
    """
    # A version that is later than tomorrow was planted, or came from a clock that was wrong.
    highest = max([version for version in others if version <= version_at(now + timedelta(days=1))], default=0)
    version = old.version
    if again or version <= highest:
        version = max(version_at(now), highest + 1, version + 1 if again else 0)
    if not valid_days:
        return Claim(version)
    until = [(now + timedelta(days=days)).strftime(_TIME) for days in (valid_days / 2, valid_days)]
    kept = version == old.version and until[0] <= old.expires <= until[1]
    return Claim(version, old.expires if kept else until[1])


def restated(text: bytes, digest: str, claims: dict[str, Claim]) -> bytes:
    """The statement about ``digest`` that says exactly this; ``text`` itself where it does."""
    content = read(text, digest)
    if claims_of(content) == claims and len(content["subject"]) == len(claims):
        return text
    content["subject"] = [_subject(name, digest, claim) for name, claim in sorted(claims.items())]
    return as_text(content)


def _subject(name: str, digest: str, claim: Claim) -> dict[str, Any]:
    note = {"version": claim.version, "expires": claim.expires}
    said = {key: value for key, value in note.items() if value}
    return {"name": name, "digest": {"sha256": digest}, **({"annotations": said} if said else {})}


def package_materials(lock: str | bytes) -> list[dict[str, Any]]:
    """The packages that a lock file (opam-monorepo's) builds in, as SLSA's resolvedDependencies, by name.

    They are the lines of its ``depends``: ``"NAME" {= "VERSION" & ?vendor}``. The address is a package URL.
    """
    text = lock.decode("utf-8", "replace") if isinstance(lock, bytes) else lock
    versions = dict(_PACKAGE.findall(text))
    return [{"name": name, "uri": f"{PURL}{name}@{quote(version, safe='')}"} for name, version in sorted(versions.items())]


def packages(statement: dict[str, Any]) -> list[dict[str, str]]:
    """Name and version of each package that a statement, as `read` gave it, says was built in."""
    materials = statement["predicate"]["buildDefinition"].get("resolvedDependencies")
    rows = []
    for material in materials if isinstance(materials, list) else []:
        uri = material.get("uri") if isinstance(material, dict) else None
        if isinstance(uri, str) and uri.startswith(PURL):
            name, _at, version = uri[len(PURL) :].partition("@")
            rows.append({"name": printable(unquote(name)), "version": printable(unquote(version))})
    return sorted(rows, key=lambda row: (row["name"], row["version"]))
