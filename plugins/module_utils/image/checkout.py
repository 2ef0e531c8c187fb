# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A git repository at one revision, as a folder. A full commit that is there already costs no process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess

from .mirage import BuildError, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
_URL = re.compile(r"(https?|ssh|git|file)://[^\s-][^\s]*|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s-][^\s]*")
_SECONDS = 300


def is_url(source: str) -> bool:
    return _URL.fullmatch(source) is not None


def local_folder(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _git(*arguments: str, folder: str | None = None) -> str:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BuildError("there is no git: apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"git {arguments[0]} did not end within {_SECONDS} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        fatal = [line for line in lines if line.startswith(("fatal:", "ERROR:"))] or lines[-1:]
        raise BuildError(" ".join(fatal) or f"git {arguments[0]} failed ({done.returncode})")
    return done.stdout.strip()


def checkout(url: str, revision: str, subfolder: str, work: str) -> Source:
    """The folder of ``url`` at ``revision`` (a commit, tag or branch), below ``work``. BuildError."""
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise BuildError(f"version: {revision!r} is not a revision of git")
    root = os.path.join(work, "git", hashlib.sha256(url.encode()).hexdigest()[:16])
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            commit = revision if COMMIT.fullmatch(revision) else _resolve(url, revision)
            tree = os.path.join(root, commit)
            if not os.path.isdir(tree):
                _fetch(url, commit, tree)
        except BuildError as error:
            raise BuildError(f"source {url}: version {revision}: {error}") from error
    folder = os.path.join(tree, subfolder)
    if os.path.commonpath([os.path.realpath(folder), os.path.realpath(tree)]) != os.path.realpath(tree):
        raise BuildError(f"subfolder: {subfolder} leads out of the repository")
    return Source(folder, url, commit)


def _resolve(url: str, revision: str) -> str:
    found = [line.split("\t") for line in _git("ls-remote", "--", url, revision, f"{revision}^{{}}").splitlines()]
    if not found:
        raise BuildError("the repository has no such branch or tag")
    # An annotated tag is listed twice; the line with ^{} is the commit.
    return next((commit for commit, name in found if name.endswith("^{}")), found[0][0])


def _fetch(url: str, commit: str, tree: str) -> None:
    draft = tree + ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _git("init", "-q", draft)
        _git("fetch", "-q", "--depth", "1", "--", url, commit, folder=draft)
        _git("-c", "advice.detachedHead=false", "checkout", "-q", "FETCH_HEAD", folder=draft)
        os.rename(draft, tree)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
