# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A store's content for people: images with their packages and advisories, names, and everything that is wrong."""

from __future__ import annotations

import os
import re
from typing import Any

from . import advisories, provenance
from .arrival import definitions_in
from .signature import STATEMENT
from .store import DIGEST, fsck, listing, names_and_problems, read_text


def overview(
    store: str, wanted: list[str], verify: bool, packages: bool, known: str | None, definitions: str = ""
) -> dict[str, Any]:
    """Return the overview. ``known``: text of advisories, AdvisoriesError if invalid. Nothing in the store makes this fail."""
    database = [] if known is None else advisories.read(known)
    images = listing(store)
    names, problems = names_and_problems(store)
    problems += [image["problem"] for image in images if image.get("problem")]
    for image in images if packages or known is not None else []:
        image["packages"], problem = packages_of(store, image["sha256"])
        problems += [problem] if problem else []
        if known is not None:
            image["vulnerable"] = advisories.vulnerable(image["packages"], database)
    there = {image["sha256"] for image in images}
    return {
        "images": images,
        "names": names,
        "missing": [digest for digest in wanted if digest not in there],
        "problems": fsck(store) if verify else problems,
        **({} if known is None else {"vulnerable": _vulnerable(images, names, definitions)}),
    }


def _vulnerable(images: list[dict[str, Any]], names: dict[str, list[str]], definitions: str) -> list[str]:
    """Return one line for each vulnerable package in an image that a domain's definition uses."""
    users: dict[str, list[str]] = {}
    for path in definitions_in(definitions):
        with open(path, encoding="utf-8", errors="replace") as file:
            for digest in set(re.findall(rf"({DIGEST.pattern})[.]xen", file.read())):
                users.setdefault(digest, []).append(os.path.splitext(os.path.basename(path))[0])
    lines = []
    for image in images:
        digest = image["sha256"]
        called = ", ".join(name for name, digests in names.items() if digest in digests) or "of no name"
        for hit in image["vulnerable"] if digest in users else []:
            package = f"{hit['name']} {hit['version']}: {hit['advisory']}"
            lines.append(f"{', '.join(users[digest])}: image {called} ({digest[:12]}) has {package}")
    return lines


def packages_of(store: str, digest: str) -> tuple[list[dict[str, str]], str]:
    """Return (the packages built into an image, what is wrong with its statement or "")."""
    path = os.path.join(store, digest + STATEMENT)
    try:
        return provenance.packages(provenance.read(read_text(path), digest)), ""
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError) as error:
        return [], f"statement {path}: {getattr(error, 'strerror', None) or error}"
