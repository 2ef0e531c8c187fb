# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Bring several files, links and folders of a host to their declared state; each file is written atomically."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

from ..image.store import sync_folder, write_whole

BEGIN = "# BEGIN unikernels.xen"
END = "# END unikernels.xen"


class FilesError(Exception):
    """One line: which path can't be made as declared, and why."""


@dataclass
class Changes:
    """What was changed, or would be."""

    paths: list[str] = field(default_factory=list)
    diffs: list[dict[str, str]] = field(default_factory=list)


def with_block(text: str, block: str) -> str:
    """Return ``text`` with our block at its end, replacing an earlier one. Nothing else is lost, however the file was edited."""
    lines = block.rstrip().split("\n")
    kept: list[str] = []
    rows = text.removesuffix("\n").split("\n") if text else []
    while rows:
        row = rows.pop(0)
        if row == BEGIN:
            # Up to our end mark; if that was deleted, only as far as the lines are certainly ours.
            end = next((place for place, inner in enumerate(rows) if inner in (BEGIN, END)), None)
            if end is not None and rows[end] == END:
                rows = rows[end + 1 :]
            else:
                while rows and rows[0] in lines:
                    rows.pop(0)
        elif row != END:
            kept.append(row)
    return "\n".join([*kept, BEGIN, *lines, END, ""])


def apply(wanted: dict[str, Any], check_mode: bool) -> Changes:
    """Make folders, files and links as ``wanted`` (the options of the module host_files), and remove those declared absent."""
    changes = Changes()
    for kind, carry_out in (("folders", _folder), ("files", _file), ("links", _link)):
        for entry in wanted[kind]:
            _checked(entry["path"], carry_out, entry, changes, check_mode)
    for path in wanted["absent"]:
        _checked(path, _absent, {"path": path}, changes, check_mode)
    return changes


def _checked(path: str, carry_out: Any, entry: dict[str, Any], changes: Changes, check_mode: bool) -> None:
    try:
        carry_out(entry, changes, check_mode)
    except (OSError, ValueError) as error:
        raise FilesError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"mode is {text!r}, must be octal, as in 0644")
    return mode


def _folder(entry: dict[str, Any], changes: Changes, check_mode: bool) -> None:
    path, mode = entry["path"], _mode(entry["mode"])
    if os.path.isdir(path) and stat.S_IMODE(os.stat(path).st_mode) == mode:
        return
    changes.paths.append(path)
    if not check_mode:
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)


def _file(entry: dict[str, Any], changes: Changes, check_mode: bool) -> None:
    path, mode = entry["path"], _mode(entry["mode"])
    old, old_mode = "", None
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            old = file.read()
        old_mode = stat.S_IMODE(os.stat(path).st_mode)
    new = with_block(old, entry["content"]) if entry["block"] else entry["content"]
    if (old, old_mode) == (new, mode):
        return
    changes.paths.append(path)
    if entry.get("diff", True):
        shown = {"before": old, "after": new, "before_header": path, "after_header": path}
        # Bytes that aren't text are kept in the file, and replaced in what is shown, since JSON can't carry them.
        changes.diffs.append({key: text.encode("utf-8", "replace").decode() for key, text in shown.items()})
    if not check_mode:
        write_whole(path, new.encode("utf-8", "surrogateescape"), mode)


def _link(entry: dict[str, Any], changes: Changes, check_mode: bool) -> None:
    path, target = entry["path"], entry["target"]
    if os.path.islink(path) and os.readlink(path) == target:
        return
    changes.paths.append(path)
    if not check_mode:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.unikernels"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)
        sync_folder(os.path.dirname(path))


def _absent(entry: dict[str, Any], changes: Changes, check_mode: bool) -> None:
    path = entry["path"]
    if not os.path.lexists(path):
        return
    changes.paths.append(path)
    if not check_mode:
        os.unlink(path)
