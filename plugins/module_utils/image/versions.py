# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The highest version that a host has had of each image name, in ``/etc/xen/unikernels/versions`` (JSON).

An old image keeps its valid signature. Its age is known by its version, which is part of what is signed. A name may mean an older
image than before only by a rollback, and the file records since when.

`refusal` and `after` are pure; `held_by` and `keep_versions` are the edge.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import strict_json
from .elf import printable
from .policy import RESET, PolicyError
from .provenance import MAX_VERSION
from .store import DIGEST, NAME, read_own, write_json

FILE = "versions"


@dataclass(frozen=True)
class Highest:
    """``sha256``: the image with that version; ``back_to``, ``since``: the older image that a rollback gave the name."""

    version: int
    sha256: str
    back_to: str = ""
    since: str = ""


@dataclass(frozen=True)
class Arrived:
    """A validly signed image under one name."""

    sha256: str
    version: int


# -- pure ---------------------------------------------------------------------------------------------


def is_older(held: Highest | None, arrived: Arrived) -> bool:
    """True if the name has had a newer image. A second signature of the same image doesn't count; versions are unique."""
    return held is not None and held.sha256 != arrived.sha256 and arrived.version <= held.version


def refusal(name: str, held: Highest | None, arrived: Arrived) -> str:
    """Return why ``name`` may not mean what arrived; "" if it may."""
    if held is None or not is_older(held, arrived):
        return ""
    return (
        f"image {name} ({arrived.sha256[:12]}): is older (version {arrived.version or 'none'}) than {held.sha256[:12]} (version"
        f" {held.version}), which this host has had; playbooks/rollback.yml goes back, and"
        " unikernel_images_sign_again: true signs it as the newest"
    )


def after(held: Mapping[str, Highest], arrived: Mapping[str, Arrived], now: str) -> tuple[dict[str, Highest], list[str]]:
    """Return (the highest versions once the names mean what arrived, one line for each name that goes back to an older image)."""
    result, lines = dict(held), []
    for name, image in arrived.items():
        before = held.get(name)
        if before is None or not is_older(before, image):
            # The same image may arrive with an older statement, from another controller.
            highest = max(image.version, before.version if before and before.sha256 == image.sha256 else 0)
            result[name] = Highest(highest, image.sha256)
        elif before.back_to != image.sha256:
            result[name] = Highest(before.version, before.sha256, image.sha256, now)
            lines.append(
                f"image {name}: goes back to {image.sha256[:12]} (version {image.version or 'none'}), older than"
                f" {before.sha256[:12]} (version {before.version})"
            )
    return result, lines


def parse(text: bytes) -> dict[str, Highest]:
    """Return name -> highest version. Raise PolicyError for anything else: an unreadable file permits nothing."""
    try:
        content = strict_json.loads(text)
        return {name: _highest(name, entry) for name, entry in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"is not a list of versions; {RESET} writes it again") from error


def _highest(name: str, entry: Any) -> Highest:
    version, sha256 = entry["version"], entry["sha256"]
    back_to, since = entry.get("back_to", ""), entry.get("since", "")
    digests_are_right = DIGEST.fullmatch(sha256) and (not back_to or DIGEST.fullmatch(back_to))
    if not NAME.fullmatch(name) or not digests_are_right or type(version) is not int or not 0 <= version < MAX_VERSION:
        raise ValueError(name)
    return Highest(version, sha256, back_to, printable(since)[:40])


def rows(highest: Mapping[str, Highest]) -> dict[str, dict[str, Any]]:
    """Return the rows that `parse` reads."""
    return {
        name: {
            "version": entry.version,
            "sha256": entry.sha256,
            **({"back_to": entry.back_to, "since": entry.since} if entry.back_to else {}),
        }
        for name, entry in highest.items()
    }


# -- edge ---------------------------------------------------------------------------------------------


def held_by(folder: str) -> dict[str, Highest]:
    """Return what the host has had. Raise PolicyError if that can't be read."""
    path = os.path.join(folder, FILE)
    try:
        return parse(read_own(path))
    except FileNotFoundError:
        return {}
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def keep_versions(folder: str, highest: Mapping[str, Highest]) -> None:
    os.makedirs(folder, mode=0o755, exist_ok=True)
    write_json(os.path.join(folder, FILE), rows(highest))
