# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check out a git repository at one revision. A full commit that is cached costs no process.

A cached tree is compared with the commit's own digests each time; if it differs, it is fetched again. git gets a URL's password
through its environment, so that no statement, message, log, process list or folder name contains it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote, urlsplit

from . import git_tree
from .elf import printable
from .request import Source
from .sandbox import MIB, private, too_large
from .steps import BuildError
from .store import hold, write_json, write_whole

COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
# What a user means as an address, also one that is refused: https:/host, me:password@host:path.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(:/|::).*|[^/@\s]+@[A-Za-z0-9.-]+:.*", re.DOTALL)
_ADDRESS = re.compile(r"(https|ssh|file)://[^\s-][^\s]*|[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s-][^\s]*")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
# What `git rev-parse --local-env-vars` lists, for a run that a hook of git's started, and what prints every word that is sent.
_OF_ANOTHER_REPOSITORY = re.compile(
    "GIT_(ALTERNATE_OBJECT_DIRECTORIES|CONFIG|CONFIG_PARAMETERS|OBJECT_DIRECTORY|DIR|WORK_TREE|IMPLICIT_WORK_TREE|GRAFT_FILE"
    "|INDEX_FILE|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|SHALLOW_FILE|COMMON_DIR|NAMESPACE|QUARANTINE_PATH"
    "|TRACE.*|CURL_VERBOSE)"
)
# Of git's and ssh's words these are no reason.
_ADVICE = ("Please make sure you have", "and the repository exists", "hint:", "warning:", "Warning:")
_NO_REASON = "fatal: Could not read from remote repository."
_SECONDS = 300
# How long a killed process may take to end; then it is left behind.
_KILL_SECONDS = 5
# Bytes that git may write below its folder, print, and use as memory. A server of git's sends without end if it wants to.
_DISK = 2 * git_tree.MAX_BYTES
_OUTPUT = 64 * MIB
_MEMORY = 4096 * MIB
# Seconds between two looks at what it wrote.
_LOOK = 0.2
# Files beside a tree that prove it is the commit's.
_COMMIT_TEXT, _MODULES = ".commit", ".modules"
# Attributes that would make files differ from git's objects.
_AS_IT_IS = "* -text -ident -filter -working-tree-encoding\n"


@dataclass(frozen=True)
class Address:
    """``url``: for git, without a password; ``user``, ``password``: those of the URL."""

    url: str
    user: str = ""
    password: str = ""


def is_url(source: str) -> bool:
    return _URL.fullmatch(source) is not None


def is_revision(version: str) -> bool:
    return _REVISION.fullmatch(version) is not None and ".." not in version


def local_folder(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def address_of(url: str) -> Address:
    """BuildError for what is not fetched from, without the words of the address that may be secret."""
    if _CONTROL.search(unquote(url)):
        raise BuildError("source: the address has a line break or another control character")
    scheme = re.split("://|::", url)[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)", url) else ""
    if scheme in ("http", "git"):
        raise BuildError(
            f"source: {scheme}:// can be read and altered by anyone on the network path; use an https:// or ssh:// address"
        )
    if not _ADDRESS.fullmatch(url):
        if not scheme:
            raise BuildError("source: an address must be as in https://host/path, ssh://host/path or git@host:path")
        raise BuildError(f"source: an address that begins with {scheme!r} is not supported; use an https:// or ssh:// address")
    if not scheme:
        return Address(url)
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        parts.port  # noqa: B018  (ValueError where it is none)
    except ValueError as error:
        raise BuildError(f"source: the address cannot be read: {error}") from error
    if parts.query or parts.fragment:
        raise BuildError(
            "source: an address has no ? or # part; the revision is version, and a token goes before the host's name"
        )
    if unquote(host).startswith("-"):
        raise BuildError("source: the name of the address's host begins with '-'")
    if scheme != "https":
        host = f"{parts.username}@{host}" if parts.username else host
        user = password = ""
    return Address(parts._replace(netloc=host).geturl(), user, password)


def _is_ours(path: str) -> None:
    """Refuse another local user's repository: it could contain hooks and configuration of theirs."""
    with contextlib.suppress(FileNotFoundError):
        owner = os.stat(path).st_uid
        if owner not in (0, os.geteuid()):
            raise BuildError(f"source file://{path}: belongs to another user of this machine; use a copy that you own")


# git's credential helper; it prints what is in its environment.
_HELPER = '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$UNIKERNELS_USER" "$UNIKERNELS_PASSWORD"; }; f'


def _environment(address: Address) -> dict[str, str]:
    settings = {"core.hooksPath": "/dev/null", "protocol.allow": "never", "fetch.recurseSubmodules": "false"}
    settings.update({f"protocol.{name}.allow": "always" for name in ("https", "ssh", "file")})
    environment = {
        **{name: value for name, value in os.environ.items() if not _OF_ANOTHER_REPOSITORY.fullmatch(name)},
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
    }
    if address.user or address.password:
        settings["credential.helper"] = _HELPER
        environment.update(UNIKERNELS_USER=address.user, UNIKERNELS_PASSWORD=address.password)
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (name, value) in enumerate(settings.items()):
        environment.update({f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value})
    return environment


def _git(address: Address, *arguments: str, folder: str | None = None) -> bytes:
    """Run git, bounded in time, disk, memory and what it prints. Return its output."""
    bounds = ["prlimit", f"--data={_MEMORY}", "--core=0", "--"] if shutil.which("prlimit") else []
    if not shutil.which("git"):
        raise BuildError("there is no git: apt-get install git")
    name = next(word for word in arguments if not word.startswith("-") and "=" not in word)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*bounds, "git", *arguments], cwd=folder, env=_environment(address), stdin=subprocess.DEVNULL, stdout=output,
            stderr=errors, start_new_session=True, umask=0o077,
        )  # fmt: skip
        try:
            _wait(process, name, folder, (output, errors))
        finally:
            with contextlib.suppress(ProcessLookupError):  # kills ssh as well
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)
        if process.returncode:
            errors.seek(0)
            raise BuildError(_reason(errors.read(MIB).decode("utf-8", "replace")) or f"git {name} failed ({process.returncode})")
        output.seek(0)
        return output.read()


def _wait(process: subprocess.Popen[bytes], name: str, folder: str | None, printed: tuple[IO[bytes], ...]) -> None:
    """Wait for git. Raise BuildError if it takes or writes too much."""
    until, pause = time.monotonic() + _SECONDS, _LOOK
    ended = False
    while not ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(pause, max(until - time.monotonic(), 0.01)))
            ended = True
        began = time.monotonic()
        if not ended and began >= until:
            raise BuildError(f"git {name} did not end within {_SECONDS} s")
        why = f"it printed more than {_OUTPUT // MIB} MiB" if any(_length(file) > _OUTPUT for file in printed) else None
        # What an init or ls-tree that ended wrote is not worth a process.
        why = why or (
            too_large(folder, _DISK, 2 * git_tree.MAX_FILES) if folder and (not ended or name in ("fetch", "checkout")) else None
        )
        if why:
            raise BuildError(f"git {name} was ended: {why}")
        pause = max(_LOOK, 10 * (time.monotonic() - began))


def _length(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _reason(errors: str) -> str:
    """Why git failed, in a line: what its server and ssh said is of foreign origin."""
    lines = [printable(line.strip()) for line in errors.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_ADVICE)]
    fatal = [number for number, line in enumerate(lines) if line.startswith(("fatal:", "ERROR:"))]
    if not fatal:
        return lines[-1] if lines else ""
    # ssh says why, in the line before.
    first = fatal[0] - 1 if fatal[0] and lines[fatal[0]] == _NO_REASON else fatal[0]
    return " ".join([lines[first], *(lines[number] for number in fatal if number != first)])


def checkout(url: str, revision: str, subfolder: str, work: str) -> Source:
    """The folder of ``url`` at ``revision`` (a commit, tag or branch), below ``work``. BuildError."""
    if "\0" in subfolder:
        raise BuildError(f"subfolder: {subfolder!r} is not the name of a folder")
    if not is_revision(revision):
        raise BuildError(f"version: {revision!r} is not a revision of git")
    address = address_of(url)
    if address.url.startswith("file://"):
        _is_ours(unquote(urlsplit(address.url).path))
    root = os.path.join(work, "git", hashlib.sha256(address.url.encode()).hexdigest()[:16])
    private(root)
    path = os.path.join(root, ".lock")
    late = BuildError(f"source {address.url}: another run still fetches from it after {_SECONDS} s and holds {path}")
    with hold(path, _SECONDS, late):
        try:
            commit = revision if COMMIT.fullmatch(revision) else _resolve(address, revision)
            tree = os.path.join(root, commit)
            if not _is_commit(tree, commit):
                _fetch(address, commit, tree)
        except BuildError as error:
            raise BuildError(f"source {address.url}: version {revision}: {_without_secrets(str(error), address)}") from error
    folder = os.path.join(tree, subfolder)
    if os.path.commonpath([os.path.realpath(folder), os.path.realpath(tree)]) != os.path.realpath(tree):
        raise BuildError(f"subfolder: {subfolder} leads out of the repository")
    return Source(folder, address.url, commit, top_is_empty(subfolder))


def top_is_empty(subfolder: str) -> str:
    """A folder of a repository as a statement names it."""
    path = os.path.normpath(subfolder) if subfolder else "."
    return "" if path == "." else path


def _without_secrets(words: str, address: Address) -> str:
    for secret in (address.password, address.user):
        words = words.replace(secret, "***") if len(secret) > 3 else words
    return re.sub(r"(https?://)[^/@\s]*@", r"\1", words)


def _resolve(address: Address, revision: str) -> str:
    """Return the commit of exactly this branch or tag: git's own answer includes every ref that ends like it."""
    names = {f"refs/heads/{revision}": "branch", f"refs/tags/{revision}": "tag", f"refs/tags/{revision}^{{}}": "tag"}
    commits: dict[str, str] = {}
    # An annotated tag has two lines; the one with ^{} names the commit and comes second.
    for line in _git(address, "ls-remote", "--", address.url, *names).decode("utf-8", "replace").splitlines():
        commit, _tab, name = line.partition("\t")
        if name in names and COMMIT.fullmatch(commit):
            commits[names[name]] = commit
    if not commits:
        raise BuildError("the repository has no such branch or tag; a commit needs all of its 40 digits")
    if len(set(commits.values())) > 1:
        raise BuildError(
            f"the repository has a branch and a tag of this name: {commits['branch']} and {commits['tag']};"
            " give the commit that you mean"
        )
    return next(iter(commits.values()))


def _is_commit(tree: str, commit: str) -> bool:
    """True if the folder is the commit's tree. A tree without its proof was made by an older version."""
    try:
        with open(tree + _COMMIT_TEXT, "rb") as file:
            wanted = git_tree.tree_of(commit, file.read())
        with open(tree + _MODULES, encoding="utf-8") as text:
            modules = json.load(text)
        return wanted is not None and not os.path.islink(tree) and git_tree.digest_of_folder(tree, modules) == wanted
    except (OSError, ValueError, TypeError):
        return False


def _fetch(address: Address, commit: str, tree: str) -> None:
    draft = tree + ".draft"
    for path in (draft, tree):
        shutil.rmtree(path, ignore_errors=True)
    try:
        _git(address, "init", "-q", "--template=", draft)
        os.makedirs(os.path.join(draft, ".git/info"), exist_ok=True)
        write_whole(os.path.join(draft, ".git/info/attributes"), _AS_IT_IS.encode(), 0o600)
        _git(address, "fetch", "-q", "--depth", "1", "--no-tags", "--", address.url, commit, folder=draft)
        listed = _git(address, "ls-tree", "-r", "-l", "-z", commit, folder=draft)
        why = git_tree.refusal(listed)
        if why:
            raise BuildError(f"the repository {why}")
        _git(address, "-c", "advice.detachedHead=false", "checkout", "-q", commit, folder=draft)
        write_whole(tree + _COMMIT_TEXT, _git(address, "cat-file", "commit", commit, folder=draft), 0o600)
        write_json(tree + _MODULES, git_tree.submodules(listed), 0o600)
        shutil.rmtree(os.path.join(draft, ".git"))
        os.rename(draft, tree)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not _is_commit(tree, commit):
        shutil.rmtree(tree, ignore_errors=True)
        raise BuildError(f"what was fetched is not {commit}")
