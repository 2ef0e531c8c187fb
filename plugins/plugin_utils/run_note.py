# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Who runs this, and from which revision of the inventory; hosts record it."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.owners import owner_name


def who() -> str:
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (OSError, KeyError):  # a user id without a name
        return f"{os.getuid()}@{platform.node()}"


def revision_of(path: str) -> str:
    """Return the commit of the inventory's folder, with a plus if it has changes; "" outside git."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if not os.path.isdir(folder):
        return ""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and _git(folder, "status", "--porcelain", "--", ".") else "")


def owner_of(path: str) -> str:
    """Return an inventory's name for hosts to record: equal for all clones of its repository."""
    place = os.path.abspath(path)
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    if not os.path.isdir(folder):
        return owner_name("", "", platform.node(), place)
    inside = _git(folder, "rev-parse", "--show-prefix")
    inside = os.path.join(inside, "" if folder == place else os.path.basename(place)).rstrip("/")
    return owner_name(_git(folder, "config", "--get", "remote.origin.url"), inside, platform.node(), place)


def _git(folder: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
