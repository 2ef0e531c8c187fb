# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host may boot, kept by the host itself in ``/etc/xen/unikernels/policy`` (JSON).

A run passes in what its variables say, and `merge` decides what the policy becomes. It can only become stricter: a run from a
controller whose variables are missing or old permits nothing new. `decide` says whether an image may boot. The rest of the file
is EDGE: it reads and writes the policy, and inspects images.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import signer_lines, strict_json
from .elf import printable
from .signature import SIGNATURE, SignatureError, key_blob, key_blobs, read_signature, signing_key_of, verified
from .store import DIGEST, SUFFIX, StoreError, digest_of, names_and_problems, read_own, read_text, write_whole

FOLDER = "/etc/xen/unikernels"
FILE = "policy"
REQUIRED, OPTIONAL = "required", "optional"
RESET = "unikernel_images_policy_reset: true"


# A definition's tokens, as xl reads them (xen/tools/libs/util/libxlu_cfg_l.l).
_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\#[^\n]*|(?P<word>[A-Za-z_]\w*)|(?P<mark>[^\s\w])""", re.DOTALL
)
_ANY = "%DOMAIN%"
_MAX_HOPS = 40


class PolicyError(Exception):
    """One line: what is wrong with a policy, or with what a run wants to change in it."""


# -- pure ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """``allowed_signers``: lines as in ssh-keygen(1); ``revoked_keys``: "TYPE BASE64"; ``kernels``: digests outside a store.

    In the settings of a run, None means: not set.
    """

    signature: str | None = None
    allowed_signers: tuple[str, ...] | None = None
    revoked_keys: tuple[str, ...] | None = None
    kernels: tuple[str, ...] | None = None

    @property
    def required(self) -> bool:
        """True if signatures are required, which is the default without any declaration."""
        return self.signature != OPTIONAL


def signers(text: str) -> tuple[str, ...]:
    """The lines of an allowed_signers file; PolicyError for one that is none."""
    rows = signer_lines.lines(text)
    for number, line in rows:
        problem = signer_lines.problem(line)
        if problem:
            raise PolicyError(f"unikernel_images_allowed_signers: line {number} {problem}")
    return tuple(dict.fromkeys(line for _number, line in rows))


def revocations(text: str) -> tuple[str, ...]:
    """Return the keys in a file of revoked public keys, without comments. Raise PolicyError for a line without a key."""
    keys = []
    for number, line in signer_lines.lines(text):
        fields = line.split()
        at = next((i for i in range(len(fields) - 1) if key_blob(" ".join(fields[i : i + 2]))), None)
        if at is None:
            raise PolicyError(f"unikernel_images_revoked_keys: line {number} has no public key, as in 'ssh-ed25519 AAAA...'")
        keys.append(" ".join(fields[at : at + 2]))
    return tuple(dict.fromkeys(keys))


def merge(held: Policy | None, given: Policy, reset: bool) -> tuple[Policy, list[str]]:
    """Return the new policy, and one line for each setting that was refused because it would permit more.

    ``held``: the host's policy, None if it has none yet. What ``given`` does not set stays. Raise PolicyError if no image could
    boot.
    """
    if held is None or reset:
        return replace(given, revoked_keys=given.revoked_keys or ()), []
    lines = []
    signature = held.signature if given.signature is None or held.signature == REQUIRED else given.signature
    if given.signature == OPTIONAL and signature == REQUIRED:
        lines.append(f"unikernel_images_signature: stays required, as the host's policy has it ({RESET} changes that)")
    allowed, refused = _narrowed(held.allowed_signers, given.allowed_signers)
    if held.allowed_signers and given.allowed_signers and not allowed:
        raise PolicyError(
            "unikernel_images_allowed_signers: the host's policy knows none of these lines, so no image could boot"
            f" ({RESET} replaces them)"
        )
    kernels, unknown = _narrowed(held.kernels, given.kernels)
    for variable, lost in (("unikernel_images_allowed_signers", refused), ("unikernel_images_kernels", unknown)):
        lines += [f"{variable}: {printable(line)[:100]}: is not added to the host's policy ({RESET} does that)" for line in lost]
    revoked = tuple(dict.fromkeys([*(held.revoked_keys or ()), *(given.revoked_keys or ())]))
    return Policy(signature, allowed, revoked, kernels), lines


def _narrowed(held: tuple[str, ...] | None, given: tuple[str, ...] | None) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the lines that both have, and those that only ``given`` has. A host without lines takes all of ``given``."""
    if held is None or given is None:
        return (given if held is None else held), []
    return tuple(line for line in held if line in given), [line for line in given if line not in held]


def decide(policy: Policy, *, where: str, digest: str, in_store: str | None, declared: str | None, signed: str) -> str | None:
    """Return why a kernel may not boot; None if it may.

    ``digest``: the file's present one; ``in_store``: the one in its path, None outside a store; ``declared``: the one that the
    user declares; ``signed``: what is wrong with its signature, "" if nothing.
    """
    if in_store is not None and in_store != digest:
        return f"{where}: was altered: its sha256 is {digest}; the next run of site.yml ships it again"
    if declared and declared.lower() != digest:
        return f"{where}: its sha256 is {digest}, declared is {declared.lower()}"
    if in_store is not None:
        return f"{where}: {signed}" if signed else None
    if not policy.required or declared or digest in (policy.kernels or ()):
        return None
    return (
        f"{where}: is not in the image store, and this host requires signatures; use image:, or allow its digest"
        f" (unikernel_images_kernels: [{digest}])"
    )


def parse(text: bytes) -> Policy:
    """Parse a policy. Raise PolicyError for anything else: an unreadable policy permits nothing."""
    try:
        content = strict_json.loads(text)
        if not isinstance(content, dict) or type(content.get("version")) is not int or content["version"] != 1:
            raise ValueError("no version 1")
        if not set(content) <= {"version", "signature", "allowed_signers", "revoked_keys", "kernels"}:
            raise ValueError("a key of another version")
        lists: dict[str, tuple[str, ...] | None] = {}
        for key in ("allowed_signers", "revoked_keys", "kernels"):
            value = content.get(key)
            if value is not None and not (isinstance(value, list) and all(isinstance(line, str) for line in value)):
                raise ValueError(key)
            lists[key] = None if value is None else tuple(value)
        if content.get("signature") not in (None, REQUIRED, OPTIONAL):
            raise ValueError("signature")
    except (ValueError, TypeError) as error:
        raise PolicyError(f"is not a policy of images; {RESET} writes it again") from error
    return Policy(content.get("signature"), **lists)


def as_text(policy: Policy) -> str:
    content: dict[str, Any] = {"version": 1, "signature": policy.signature}
    for key in ("allowed_signers", "revoked_keys", "kernels"):
        value = getattr(policy, key)
        content[key] = None if value is None else list(value)
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


# -- edge ---------------------------------------------------------------------------------------------


def held_by(folder: str) -> Policy | None:
    """Return the host's policy; None if it has none yet. Raise PolicyError if it can't be read, or others can remove it."""
    path = os.path.join(folder, FILE)
    try:
        problem = open_to_others(folder) if os.path.isdir(folder) else ""
        if problem:
            raise PolicyError(problem)
        policy = parse(read_own(path))
        # Required is what it means, so a later `optional` is less strict.
        return replace(policy, signature=policy.signature or REQUIRED)
    except FileNotFoundError:
        return _before_policies(folder)
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from error


def _before_policies(folder: str) -> Policy | None:
    """Return the policy of a host from version 0.1, which had only the two files."""
    texts: dict[str, str] = {}
    for file in ("allowed_signers", "revoked_keys"):
        path = os.path.join(folder, file)
        try:
            texts[file] = read_text(path).decode("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise PolicyError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not any(texts.values()):
        return None
    return Policy(None, signers(texts.get("allowed_signers", "")) or None, revocations(texts.get("revoked_keys", "")), None)


def keep(folder: str, policy: Policy, check: bool) -> bool:
    """Write the policy, and its lists as files for ssh-keygen, for checks by hand. Return whether anything changes."""
    files = {
        "allowed_signers": "".join(line + "\n" for line in policy.allowed_signers or ()),
        "revoked_keys": "".join(line + "\n" for line in policy.revoked_keys or ()),
        FILE: as_text(policy),
    }
    changed = False
    for file, text in files.items():
        path = os.path.join(folder, file)
        old = None
        with contextlib.suppress(OSError, ValueError):  # what others may have written is written again
            old = read_own(path).decode("utf-8", "replace")
        if (old or "") == text:
            continue
        changed = True
        if not check:
            os.makedirs(folder, mode=0o755, exist_ok=True)
            write_whole(path, text.encode(), 0o644)
    return changed


@contextlib.contextmanager
def signature_files(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield the paths of the allowed signers and of the revoked keys ("" for none), as files for ssh-keygen."""
    with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
        paths = []
        for file, lines in (("allowed_signers", policy.allowed_signers), ("revoked_keys", policy.revoked_keys)):
            paths.append(os.path.join(folder, file))
            with open(paths[-1], "w", encoding="utf-8") as opened:
                opened.writelines(line + "\n" for line in lines or ())
        yield paths[0], paths[1] if policy.revoked_keys else ""


def signature_of(store: str, digest: str, policy: Policy, names: list[str]) -> tuple[str, str, int]:
    """Return (signer of a stored image, what is wrong with the signature under ``policy`` or "", the signed version).

    It must be signed under one of ``names``. Even where signatures are optional, a revoked key's is wrong.
    """
    if not policy.required:
        return "", "was signed by a key that is revoked" if _revoked(store, digest, policy) else "", 0
    if not policy.allowed_signers:
        return "", "the host's policy has no allowed signers (unikernel_images_allowed_signers)", 0
    problem = "is an image of no name that this host knows"
    with signature_files(policy) as (allowed, revoked):
        for name in names:
            try:
                signer, version = verified(store, digest, allowed, revoked, name)
                return signer, "", version
            except SignatureError as error:
                problem = str(error).replace(allowed, "the policy")
    return "", problem, 0


def _revoked(store: str, digest: str, policy: Policy) -> bool:
    try:
        blob = signing_key_of(read_signature(os.path.join(store, digest + SIGNATURE)))
    except (OSError, ValueError):
        return False
    return bool(blob) and blob in key_blobs("\n".join(policy.revoked_keys or ()))


def _on_the_way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each folder and link on the way to a file, and the file itself, as the kernel finds it."""
    place, waiting, hops = "/", path.split("/"), 0
    while waiting:
        part = waiting.pop(0)
        if part in ("", ".", ".."):
            place = os.path.dirname(place) if part == ".." else place
            continue
        step = os.path.join(place, part)
        status = os.lstat(step)
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            place = step
            continue
        hops, target = hops + 1, os.readlink(step)
        if hops > _MAX_HOPS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        place, waiting = "/" if target.startswith("/") else place, target.split("/") + waiting


def _replaceable(path: str, policy: Policy | None) -> str:
    """Where signatures are required: why what is verified may not be what boots, because somebody else can write in between."""
    if policy is None or not policy.required:
        return ""
    try:
        return open_to_others(path)
    except OSError as error:
        return error.strerror or str(error)


def open_to_others(path: str) -> str:
    """Return why others than root and this user may replace what is at ``path``; "" where nobody may. OSError."""
    for place, status in _on_the_way(path):
        mode, is_link = status.st_mode, stat.S_ISLNK(status.st_mode)
        # In a folder like /tmp nobody replaces what belongs to somebody else.
        is_open = not is_link and not mode & stat.S_ISVTX and bool(mode & 0o002 or (mode & 0o020 and status.st_gid))
        if status.st_uid not in (0, os.geteuid()) or is_open:
            return f"users other than root may write {place}: chown root {place}; chmod go-w {place}"
    return ""


def _digest(path: str, policy: Policy | None) -> tuple[str, str]:
    """Return a file's digest as it is now, and "" or why it can't be trusted."""
    try:
        return digest_of(path), _replaceable(path, policy)
    except OSError as error:
        return "", str(error.strerror)


def check_bootable(path: str, name: str, policy: Policy | None, digest: str | None = None) -> str | None:
    """Return one line why the domain ``name`` may not boot the kernel at ``path``; None if it may.

    The digest is computed from the file now. ``policy``: the host's (`held_by`). Without one, only an altered image, or one other
    than the declared ``digest``, is refused.
    """
    where = f"domain {name}: kernel {path}"
    store, file = os.path.split(os.path.realpath(path))
    stem, suffix = os.path.splitext(file)
    in_store = stem if suffix == SUFFIX and DIGEST.fullmatch(stem) else None
    actual, problem = _digest(path, policy)
    if problem:
        return f"{where}: {problem}"
    signed = ""
    if in_store == actual and policy is not None:
        try:
            readable, _problems = names_and_problems(store)
            known = [image for image, digests in readable.items() if actual in digests]
            signed = signature_of(store, actual, policy, known)[1]
        except (SignatureError, StoreError, OSError) as error:
            signed = str(error)
    effective = policy or Policy(OPTIONAL)
    return decide(effective, where=where, digest=actual, in_store=in_store, declared=digest, signed=signed)


def check_ramdisk(path: str, name: str, policy: Policy | None) -> str | None:
    """Return why the domain ``name`` may not boot with this initial RAM disk; None if it may. No signature covers one."""
    if policy is None or not policy.required:
        return None
    where = f"domain {name}: ramdisk {path}"
    digest, problem = _digest(path, policy)
    if problem:
        return f"{where}: {problem}"
    if digest in (policy.kernels or ()):
        return None
    return (
        f"{where}: this host requires signatures, and a ramdisk has none; allow its digest (unikernel_images_kernels: [{digest}])"
    )


def assigned(definition: str, key: str) -> list[str]:
    """Return the texts that a definition assigns to a key of xl.cfg, in its order; xl uses the last one."""
    values, before = [], ("", "")
    for token in _TOKEN.finditer(definition):
        if token["text"] and before == (key, "="):
            values.append(re.sub(r"\\(.)", r"\1", token["text"][1:-1], flags=re.DOTALL))
        if token.lastgroup:
            before = (before[1], token[0])
    return values


def check_definition(path: str, policy: Policy | None, known: dict[str, str | None]) -> str | None:
    """Return why a definition's domain may not boot. ``known`` caches answers by kernel, which many domains may share."""
    name = os.path.splitext(os.path.basename(path))[0]
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    kernels = assigned(text, "kernel")
    for kernel in kernels:  # all of them must pass
        if kernel not in known:
            known[kernel] = check_bootable(kernel, _ANY, policy)
        problem = known[kernel]
        if problem:
            return problem.replace(_ANY, name, 1)
    if not kernels and policy is not None and policy.required:
        return f"domain {name}: names no kernel, and this host requires signatures"
    return next(filter(None, (check_ramdisk(ramdisk, name, policy) for ramdisk in assigned(text, "ramdisk") if ramdisk)), None)
