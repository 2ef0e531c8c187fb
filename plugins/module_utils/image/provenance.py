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
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, unquote

from .elf import printable

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://unikernels.xen/build/mirage/v1"
GIVEN_TYPE = "https://unikernels.xen/build/given/v1"


_PURL = "pkg:opam/"
_PACKAGE = re.compile(r'^\s*"([A-Za-z0-9_+-]+)"\s*\{\s*=\s*"([^"\n]+)"', re.MULTILINE)


class ProvenanceError(ValueError):
    """One line: why this is no statement about this image."""


def statement(
    name: str,
    digest: str,
    *,
    built: bool,
    parameters: dict[str, Any],
    materials: list[dict[str, Any]],
    builder: dict[str, str],
    key: str,
    version: str = "",
) -> bytes:
    """The statement's text, one form for one content.

    ``parameters``: what was asked for; ``materials``: SLSA's resolvedDependencies, each with ``uri`` or ``name`` and
    ``digest``; ``builder``: tool name to version, with ``id``; ``version``: the image's own, which a signature then binds.
    """
    if version:
        parameters = {**parameters, "version": version}
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
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


def read(text: bytes, digest: str) -> dict[str, Any]:
    """The statement about the image ``digest``; ProvenanceError when it is none, or about another image."""
    try:
        content = json.loads(text)
        kinds = (content["_type"], content["predicateType"])
        subjects = [(subject["name"], subject["digest"]["sha256"]) for subject in content["subject"]]
        parameters = content["predicate"]["buildDefinition"]["externalParameters"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProvenanceError("it is not an in-toto statement") from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ProvenanceError(f"it is of type {printable(str(kinds[0]))!r}, not {STATEMENT_TYPE!r} with {PREDICATE_TYPE!r}")
    if not subjects or {sha256 for _name, sha256 in subjects if isinstance(sha256, str)} != {digest}:
        raise ProvenanceError(f"it is about another image ({printable(str([sha256 for _name, sha256 in subjects]))})")
    if not all(isinstance(name, str) and isinstance(sha256, str) for name, sha256 in subjects) or not isinstance(
        parameters, dict
    ):
        raise ProvenanceError("it is not an in-toto statement")
    return dict(content)


def names_of(statement: dict[str, Any]) -> list[str]:
    """The names that a statement, as `read` gave it, says its image has."""
    return [subject["name"] for subject in statement["subject"]]


def version_of(statement: dict[str, Any]) -> str:
    """The image's version that a statement, as `read` gave it, has; "" for none."""
    return str(statement["predicate"]["buildDefinition"]["externalParameters"].get("version", ""))


def renamed(text: bytes, digest: str, names: list[str]) -> bytes:
    """The statement about ``digest`` with exactly these names; ``text`` itself where it has them."""
    content = read(text, digest)
    if sorted(names_of(content)) == sorted(names):
        return text
    content["subject"] = [{"name": name, "digest": {"sha256": digest}} for name in sorted(names)]
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def package_materials(lock: str | bytes) -> list[dict[str, Any]]:
    """The packages that a lock file (opam-monorepo's) builds in, as SLSA's resolvedDependencies, by name.

    They are the lines of its ``depends``: ``"NAME" {= "VERSION" & ?vendor}``. The address is a package URL.
    """
    text = lock.decode("utf-8", "replace") if isinstance(lock, bytes) else lock
    versions = dict(_PACKAGE.findall(text))
    return [{"name": name, "uri": f"{_PURL}{name}@{quote(version, safe='')}"} for name, version in sorted(versions.items())]


def packages(statement: dict[str, Any]) -> list[dict[str, str]]:
    """Name and version of each package that a statement, as `read` gave it, says was built in."""
    materials = statement["predicate"]["buildDefinition"].get("resolvedDependencies")
    rows = []
    for material in materials if isinstance(materials, list) else []:
        uri = material.get("uri") if isinstance(material, dict) else None
        if isinstance(uri, str) and uri.startswith(_PURL):
            name, _at, version = uri[len(_PURL) :].partition("@")
            rows.append({"name": printable(unquote(name)), "version": printable(unquote(version))})
    return sorted(rows, key=lambda row: (row["name"], row["version"]))
