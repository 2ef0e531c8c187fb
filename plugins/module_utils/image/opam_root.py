# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Make an opam root for one build: copies of opam's few own files, links into the toolchain's root for all else."""

from __future__ import annotations

import os
import re
import shutil

# Files that each run of opam writes, and that are of no use to others.
_FRESH = ("log", "download-cache")
_LEFT = ("build", "sources", "backup", "remove")


def make(toolchain: str, switch: str, target: str, repositories: bool) -> None:
    """Make ``target``. ``repositories``: copy them too, for a build that changes them."""
    os.makedirs(os.path.join(target, switch))
    for name in _FRESH:
        os.mkdir(os.path.join(target, name))
    for entry in os.scandir(toolchain):
        place = os.path.join(target, entry.name)
        if entry.name in (*_FRESH, switch):
            continue
        if entry.is_file(follow_symlinks=False):
            shutil.copyfile(entry.path, place)
        elif entry.name == "repo" and repositories:
            shutil.copytree(entry.path, place, symlinks=True)
        else:
            os.symlink(entry.path, place)
    for entry in os.scandir(os.path.join(toolchain, switch)):
        place = os.path.join(target, switch, entry.name)
        if entry.name == ".opam-switch":
            shutil.copytree(
                entry.path, place, symlinks=True, ignore=lambda _folder, names: [name for name in names if name in _LEFT]
            )
        else:
            os.symlink(entry.path, place)


def with_mirrors(config: str, mirrors: tuple[str, ...]) -> str:
    """Return opam's ``config`` with these archive mirrors first; opam has no command to set them."""
    config = re.sub(r"(?ms)^archive-mirrors:\s*(\[.*?\]|\"[^\"]*\")\n", "", config)
    listed = " ".join('"' + mirror.replace("\\", "\\\\").replace('"', '\\"') + '"' for mirror in mirrors)
    return config.rstrip("\n") + "\n" + (f"archive-mirrors: [{listed}]\n" if mirrors else "")


def set_mirrors(root: str, mirrors: tuple[str, ...]) -> None:
    path = os.path.join(root, "config")
    if not os.path.exists(path) or os.path.islink(path):
        return
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if with_mirrors(text, mirrors) != text:
        with open(path, "w", encoding="utf-8") as file:
            file.write(with_mirrors(text, mirrors))
