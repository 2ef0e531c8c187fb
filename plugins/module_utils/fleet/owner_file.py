# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The file that lists a host's owners."""

from __future__ import annotations

import os

from ..image.store import LOCK_SECONDS, hold, write_whole
from . import owners
from .owners import OwnerError

FILE = "/var/lib/unikernels/owners.json"


def claim(path: str, owner: str, purge: bool, take_over: bool, check: bool) -> None:
    """Record that ``owner`` deploys to this host. Raise OwnerError, one line, if it must not."""
    late = OwnerError(f"another run has been changing it for {LOCK_SECONDS} s")
    try:
        if check:
            _claimed(path, owner, purge, take_over)
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        # Of two inventories that deploy at once for the first time, neither may be lost: the other would purge its domains.
        with hold(f"{path}.lock", LOCK_SECONDS, late):
            before, after = _claimed(path, owner, purge, take_over)
            if after != before:
                write_whole(path, owners.text_of(after).encode("utf-8"), 0o600)
    except (OSError, UnicodeDecodeError) as error:
        raise OwnerError(f"{path}: {getattr(error, 'strerror', None) or 'is not text'}") from None
    except OwnerError as error:
        raise OwnerError(
            f"{path}: {error}; -e take_ownership=true replaces it" if "not whole" in str(error) else str(error)
        ) from None


def _claimed(path: str, owner: str, purge: bool, take_over: bool) -> tuple[list[str], list[str]]:
    """Return the owners before and after."""
    try:
        with open(path, encoding="utf-8") as file:
            before = owners.read(file.read())
    except FileNotFoundError:
        before = []
    except OwnerError:
        if not take_over:
            raise
        before = []
    return before, owners.claimed(before, owner, purge, take_over)
