# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image came from, as an in-toto statement with a SLSA provenance predicate.

The shapes are those of in-toto's Statement v1 and SLSA's Provenance v1. The statement names the image by its sha256, so
that a signature over the statement is one over the image.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://unikernels.xen/build/mirage/v1"
GIVEN_TYPE = "https://unikernels.xen/build/given/v1"


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
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


def read(text: bytes, digest: str) -> dict[str, Any]:
    """The statement about the image ``digest``; ProvenanceError when it is none, or about another image."""
    try:
        found = json.loads(text)
        kinds, subjects = (found["_type"], found["predicateType"]), [one["digest"]["sha256"] for one in found["subject"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProvenanceError("it is not an in-toto statement") from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ProvenanceError(f"it is of type {str(kinds[0])[:80]!r}, not {STATEMENT_TYPE!r} with {PREDICATE_TYPE!r}")
    if subjects != [digest]:
        raise ProvenanceError(f"it is about another image ({str(subjects)[:80]})")
    return dict(found)
