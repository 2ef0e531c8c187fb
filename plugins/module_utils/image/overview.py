# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What a store holds, for people: images with their packages and advisories, names, and all that is wrong."""

from __future__ import annotations

import os
from typing import Any

from . import advisories, provenance
from .signature import STATEMENT
from .store import fsck, listing, names_and_problems, read_text


def overview(store: str, wanted: list[str], verify: bool, packages: bool, known: str | None) -> dict[str, Any]:
    """``known``: text of advisories. AdvisoriesError where it is none; nothing in the store makes this fail."""
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
    }


def packages_of(store: str, digest: str) -> tuple[list[dict[str, str]], str]:
    """(what was built into an image, what is wrong with its statement or "")."""
    path = os.path.join(store, digest + STATEMENT)
    try:
        return provenance.packages(provenance.read(read_text(path), digest)), ""
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError) as error:
        return [], f"statement {path}: {getattr(error, 'strerror', None) or error}"
