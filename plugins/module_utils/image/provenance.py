# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image came from, as an in-toto statement with a SLSA provenance predicate.

The formats are in-toto's Statement v1 and SLSA's Provenance v1. The statement names the image by its sha256, so a signature over
the statement covers the image.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote

from . import strict_json
from .elf import printable

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://unikernels.xen/build/mirage/v1"
GIVEN_TYPE = "https://unikernels.xen/build/given/v1"


PURL = "pkg:opam/"


_EXPIRES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# A version is the time of signing as a number: 20261127193045. Five-digit years are not ours.
MAX_VERSION = 10**14


class ProvenanceError(ValueError):
    """One line: why this is not a statement about this image."""


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
    """Return the statement's text. Equal content gives equal text.

    ``parameters``: the request; ``materials``: SLSA's resolvedDependencies, each with ``uri`` or ``name`` and ``digest``;
    ``builder``: tool -> version, and ``id``.
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
    """Parse the statement about the image ``digest``. Raise ProvenanceError if it is none, or about another image."""
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
    """Raise ProvenanceError unless the annotations of a name are a valid `Claim`: half of one must not count as none."""
    if not isinstance(note, dict):
        raise ProvenanceError("it is not an in-toto statement")
    version, expires = note.get("version", 0), note.get("expires", "")
    if type(version) is not int or not 0 <= version < MAX_VERSION:
        raise ProvenanceError(f"its version {printable(repr(version))[:40]} is not a time of signing, as in 20261127193045")
    if not isinstance(expires, str) or (expires and not _is_time(expires)):
        raise ProvenanceError(f"it expires {printable(str(expires))[:40]!r}, which is not a time, as in 2027-01-31T00:00:00Z")


def _is_time(text: str) -> bool:
    try:
        return _EXPIRES.fullmatch(text) is not None and datetime.strptime(text, _TIME) is not None
    except ValueError:  # the 30th of February
        return False


def claims_of(statement: dict[str, Any]) -> dict[str, Claim]:
    """Map each name to what a statement from `read` says of the image under it."""
    return {
        subject["name"]: Claim(note.get("version", 0), note.get("expires", ""))
        for subject in statement["subject"]
        for note in [subject.get("annotations", {})]
    }


def version_at(now: datetime) -> int:
    """Return the version for a time of signing: it grows with time, and people can read it."""
    return int(now.strftime("%Y%m%d%H%M%S"))


def claim_for(old: Claim, others: list[int], now: datetime, valid_days: int, again: bool) -> Claim:
    """Return the claim to sign for an image under one name.

    ``old``: its previous claim; ``others``: versions of the name's other images; ``again``: sign as the newest. The image that a
    name currently means has the highest version: a new image, or one that the name returns to, gets a new version. A claim that
    expires is renewed after half of its validity.
    """
    # Ignore versions beyond tomorrow: they were planted, or come from a wrong clock.
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
    """Return the statement about ``digest`` with exactly these claims; unchanged if it has them."""
    content = read(text, digest)
    if claims_of(content) == claims and len(content["subject"]) == len(claims):
        return text
    content["subject"] = [_subject(name, digest, claim) for name, claim in sorted(claims.items())]
    return as_text(content)


def _subject(name: str, digest: str, claim: Claim) -> dict[str, Any]:
    note = {"version": claim.version, "expires": claim.expires}
    said = {key: value for key, value in note.items() if value}
    return {"name": name, "digest": {"sha256": digest}, **({"annotations": said} if said else {})}


def packages(statement: dict[str, Any]) -> list[dict[str, str]]:
    """Return name and version of each package that a statement from `read` lists as built in."""
    materials = statement["predicate"]["buildDefinition"].get("resolvedDependencies")
    rows = []
    for material in materials if isinstance(materials, list) else []:
        uri = material.get("uri") if isinstance(material, dict) else None
        if isinstance(uri, str) and uri.startswith(PURL):
            name, _at, version = uri[len(PURL) :].partition("@")
            rows.append({"name": printable(unquote(name)), "version": printable(unquote(version))})
    return sorted(rows, key=lambda row: (row["name"], row["version"]))
