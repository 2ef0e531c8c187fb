# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The controller's half of image_store: find out what a host lacks, copy it there, and let the host take it in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.image import versions
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import printable
from ansible_collections.unikernels.xen.plugins.module_utils.image.origin import Origin, naming, origin_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import (
    Policy,
    PolicyError,
    parse,
    signature_files,
    signature_of,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.shipping import (
    given_policy,
    settings_problem,
    unsigned_problem,
    wanted_images,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import (
    NEW_KEY,
    SignatureError,
    attach,
    is_touched,
    key_problem,
    public_half,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    KINDS,
    SUFFIX,
    StoreError,
    digest_of,
    image_path,
    locked,
    read_text,
)
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import stated

MODULE = "unikernels.xen.image_store"
# What the action alone has a use for.
_OURS = ("state", "controller", "origins", "signing_key", "allowed_signers", "revoked_keys", "valid_days", "sign_again")
# The digest of a file that is yet to be written: no file has it.
_YET = "0" * 64
MAX_DAYS = 36500


def _files(store: str, digests: list[str]) -> dict[str, dict[str, Any]]:
    """Return what the controller has of these images: file name -> sha256 and size."""
    files = {}
    for digest in digests:
        for kind in KINDS:
            path = os.path.join(store, f"{digest}.{kind}")
            if store and os.path.isfile(path):
                # An image's name is its digest, which the host verifies.
                sha256 = digest if kind == "xen" else digest_of(path)
                files[f"{digest}.{kind}"] = {"sha256": sha256, "size": os.path.getsize(path)}
    return files


class ActionModule(ActionBase):  # type: ignore[misc]
    # Make no temporary folder on the host until something is copied there.
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.vars, self.check = task_vars or {}, bool(self._task.check_mode)
        args = dict(self._task.args)
        self.store = os.path.expanduser(str(args.get("controller") or ""))
        self.key = os.path.expanduser(str(args.get("signing_key") or ""))
        try:
            problem = settings_problem(args)
            if problem:
                raise StoreError(problem)
            self.valid_days, self.again = _days(args.get("valid_days")), _flag(args.get("sign_again"))
            if args.get("names") is not None and not isinstance(args["names"], list):
                raise StoreError("names: must be a list")
            wanted = args.get("wanted") or {}
            if not isinstance(wanted, dict):
                raise StoreError("wanted: must be a mapping of name to digest")
            images = wanted_images(wanted, args.get("names"))
            self.origins = _origins(args.get("origins"), wanted, images)
            texts = {option: self._text(args, option) for option in ("allowed_signers", "revoked_keys")}
            if args.get("state") == "signed":
                given = given_policy({"signature": args.get("signature"), **texts})
                return {**result, "changed": self._sign(images, given)}
            module_args = {
                key: value for key, value in args.items() if key not in (*_OURS, "wanted", "names") and value is not None
            }
            module_args.update({option: text for option, text in texts.items() if text is not None})
            module_args["wanted"] = {name: digest for name, digest in images.items() if digest}
            result.update(self._ship(images, module_args))
        except (StoreError, SignatureError, PolicyError, BuildError) as error:
            raise AnsibleActionFail(_role_words(str(error))) from error
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or self.store}: {error.strerror}") from error
        for note in result.pop("notes", []):
            # Not into the result: ansible-core 2.21 refuses text there.
            self._display.warning(f"{self.vars.get('inventory_hostname', '')}: {note}")
        return result

    def _text(self, args: dict[str, Any], option: str) -> str | None:
        """Return the text of the file that an option names; None if the option is not set."""
        path = os.path.expanduser(str(args.get(option) or ""))
        if not path:
            return None
        try:
            return read_text(path if os.path.isabs(path) else self._find_needle("files", path)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PolicyError(f"unikernel_images_{option}: {path}: is not text: give lines of public keys, not a KRL") from error
        except Exception as error:  # the loader has many of its own
            reason = getattr(error, "strerror", None) or (
                str(error) if isinstance(error, ValueError) else "no such file on the controller"
            )
            raise PolicyError(f"unikernel_images_{option}: {path}: {reason}") from error

    def _sign(self, images: dict[str, str], given: Policy) -> bool:
        """Sign and verify the controller's images, and report which unbuilt ones will be refused."""
        self._refuse_key_of_hosts()
        self._try_key(given)
        unbuilt = self._unbuilt(images)
        self._refuse_unbuilt(unbuilt if images else [""], given)
        built = {name: digest for name, digest in images.items() if name not in unbuilt}
        changed = False
        if self.key and built:
            with locked(self.store):
                changed = bool(self._attached(built))
        if not given.required or not built:
            return changed
        problem = unsigned_problem(given, list(built), "no key is needed for what is signed already")
        if problem:
            raise PolicyError(problem)
        if changed and self.check:
            return changed  # check mode: the key, which was tested, would sign them
        for name, digest in built.items():
            _signer, problem, _version = signature_of(self.store, digest, given, [name])
            if problem:
                more = "" if self.key else "; set unikernel_images_signing_key to sign it"
                raise SignatureError(problem.replace("the policy", "unikernel_images_allowed_signers") + more)
        return changed

    def _attached(self, built: dict[str, str]) -> list[str]:
        """Add names, versions and signatures to statements. Return the digests that this changes, or would change."""
        changed = []
        if not self.check and is_touched(self.key):
            self._display.display(f"{self.key} is in a device: touch that once for each image that has yet to be signed")
        for digest in sorted(set(built.values())):
            names = tuple(sorted(name for name in built if built[name] == digest))
            origins = tuple(self.origins[name] for name in names if name in self.origins)
            if attach(self.store, digest, b"", self.key, self.check, names, self.valid_days, self.again, naming(digest, origins)):
                changed.append(digest)
        return changed

    def _yet_to_be_signed(self, images: dict[str, str]) -> list[str]:
        """Return the digests that a real run would have signed by now, in check mode."""
        built = {name: digest for name, digest in images.items() if digest}
        if not self.check or not self.key or not self.store:
            return []
        return self._attached({name: digest for name, digest in built.items() if os.path.exists(image_path(self.store, digest))})

    def _unbuilt(self, images: dict[str, str]) -> list[str]:
        """Return the names of images that the controller doesn't have yet; in check mode their digest may be known already."""
        return [
            name
            for name, digest in images.items()
            if not digest or (self.check and self.store and not os.path.exists(image_path(self.store, digest)))
        ]

    def _refuse_unbuilt(self, names: list[str], policy: Policy) -> None:
        """Refuse unbuilt images that would not be accepted. ``names``: [""] for no particular one, before anything is built."""
        key = self.key or ("" if names != [""] else "may come later")
        problem = unsigned_problem(policy, names, key)
        if problem:
            raise PolicyError(problem)

    def _refuse_key_of_hosts(self) -> None:
        """Refuse a signing key that logs in to a host. The host checks its signers too, but only later."""
        for variable in ("ansible_ssh_private_key_file", "ansible_private_key_file"):
            login = os.path.expanduser(str(self._templar.template(self.vars.get(variable)) or "")) if self.key else ""
            blob = public_half(self.key) if login else b""
            if blob and blob == public_half(login):
                raise SignatureError(
                    f"signing_key: {self.key} is the key that Ansible logs in to {self.vars.get('inventory_hostname')} with"
                    f" ({variable}); images need a key of their own: {NEW_KEY}"
                )

    def _try_key(self, policy: Policy, whose: str = "unikernel_images_allowed_signers") -> None:
        """Refuse a key whose signatures would be refused, before anything is built or signed."""
        if not policy.required or not self.key or not policy.allowed_signers:
            return
        with signature_files(policy) as (allowed, revoked):
            problem = key_problem(self.key, allowed, revoked)
        if problem:
            raise SignatureError(problem.replace(allowed, whose))

    def _ship(self, images: dict[str, str], module_args: dict[str, Any]) -> dict[str, Any]:
        files = _files(self.store, sorted({digest for digest in images.values() if digest}))
        signed_first = self._yet_to_be_signed(images)
        for file, entry in files.items():
            if file.partition(".")[0] in signed_first and "provenance" in file:
                entry["sha256"] = _YET
        first = self._call(module_args, {"files": files, "final": False})
        if first.get("failed"):
            return first
        missing = [file for file in first.get("missing", []) if file in files]
        if self.check:
            if first.get("policy"):
                self._predict(images, missing, first, bool(module_args.get("rollback")))
            return {**first, "changed": first["changed"] or bool(first["missing"]) or "" in images.values()}
        lost = [file for file in first.get("missing", []) if file.endswith(SUFFIX) and file not in files]
        if lost and (self.store or module_args.get("mirrors") or module_args.get("arrived")):
            reasons = first.get("notes") or [f"image {lost[0].partition('.')[0]}: is neither on the host nor in {self.store}"]
            raise StoreError("; ".join(reasons))
        return self._deliver(module_args, files, missing, first) if missing else first

    def _deliver(
        self, module_args: dict[str, Any], files: dict[str, Any], missing: list[str], first: dict[str, Any]
    ) -> dict[str, Any]:
        """Copy the images, send the texts, and let the host take them in."""
        texts = {}
        for file in missing:
            if not file.endswith(SUFFIX):
                texts[file] = read_text(os.path.join(self.store, file)).decode("utf-8", "replace")
        folder = self._make_tmp_path()
        try:
            paths = []
            for file in missing:
                if file.endswith(SUFFIX):
                    paths.append(self._connection._shell.join_path(folder, file))
                    source = os.path.join(self.store, file)
                    with stated(f"{self.vars.get('inventory_hostname')}: image {file[:12]}", source):
                        self._transfer_file(source, paths[-1])
            if paths:
                self._fixup_perms2((folder, *paths))
            shipping = {"files": files, "texts": texts, "arrived": folder, "final": True}
            # The mirrors were tried in the first call.
            second = self._call({**module_args, "mirrors": []}, shipping)
        finally:
            self._remove_tmp_path(folder)
        if second.get("failed"):
            return second
        notes = [*first.get("notes", []), *(note for note in second.get("notes", []) if note not in first.get("notes", []))]
        joined = {key: sorted({*first.get(key, []), *second.get(key, [])}) for key in ("taken", "removed")}
        return {**second, **joined, "changed": first["changed"] or second["changed"], "notes": notes}

    def _call(self, module_args: dict[str, Any], shipping: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**module_args, "shipping": shipping}, task_vars=self.vars
        )
        answer.pop("invocation", None)  # every text once more
        return answer if answer.get("failed") else _understood(answer)

    def _predict(self, images: dict[str, str], missing: list[str], first: dict[str, Any], rollback: bool) -> None:
        """Refuse in check mode what the host's own policy would refuse in a real run."""
        policy, held = _policy_of(first["policy"]), _versions_of(first.get("versions"))
        there = {file.partition(".")[0] for file in first["missing"]}
        self._refuse_unbuilt([name for name in self._unbuilt(images) if not images[name] or images[name] in there], policy)
        incomplete = {file.partition(".")[0] for file in missing}
        for name, digest in images.items():
            if digest not in incomplete:
                continue
            if self.key and self._yet_to_be_signed({name: digest}):
                self._try_key(policy, "the host's policy")  # a real run would have signed it, as the newest
                continue
            _signer, problem, version = signature_of(self.store, digest, policy, [name])
            if problem:
                raise SignatureError(problem.replace("the policy", "the host's policy"))
            problem = versions.refusal(name, held.get(name), versions.Arrived(digest, version))
            if problem and policy.required and not rollback:
                raise PolicyError(problem)


def _origins(declared: Any, wanted: dict[str, Any], names: Iterable[str]) -> dict[str, Origin]:
    """Where each image must come from, with what the task that got it reports."""
    origins = {} if declared is None else declared
    if not (isinstance(origins, dict) and all(isinstance(origin, dict) for origin in origins.values())):
        raise StoreError("origins: must be a mapping of name to origin")
    # Plain values of what may be Ansible's own: they are written into a statement.
    reports = {name: json.loads(json.dumps(wanted[name].get("origin"))) for name in names if isinstance(wanted[name], dict)}
    return {name: origin_of(name, origins[name], reports.get(name)) for name in names if name in origins}


def _flag(value: Any) -> bool:
    try:
        return bool(boolean(value or False))
    except TypeError:
        raise StoreError(f"unikernel_images_sign_again: is {value!r}, must be true or false") from None


def _days(value: Any) -> int:
    days = str(0 if value in (None, "") else value)
    if not days.isascii() or not days.isdigit() or int(days) > MAX_DAYS:
        raise StoreError(
            f"unikernel_images_valid_days: is {value!r}, must be a number of days from 0 (never expires) to {MAX_DAYS}"
        )
    return int(days)


def _versions_of(answer: Any) -> dict[str, versions.Highest]:
    """Parse the versions that a host reports; its answer is not trusted."""
    return versions.parse(json.dumps(answer or {}).encode())


def _policy_of(held: Any) -> Policy:
    try:
        return parse(json.dumps({**held, "version": 1}).encode())
    except (PolicyError, TypeError) as error:
        raise StoreError("the host's answer has no policy of images; is the collection there another version?") from error


def _understood(answer: dict[str, Any]) -> dict[str, Any]:
    """What a host answers comes from outside, and is shown: StoreError for what the module does not answer."""
    if not isinstance(answer.get("changed"), bool):
        raise StoreError("the host's answer has no 'changed': what ran there was not the module image_store")
    for key in ("missing", "taken", "removed", "notes", "stops"):
        lines = answer.get(key, [])
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise StoreError(f"the host's answer has {key!r}, which is not a list of lines")
        answer[key] = [printable(line) for line in lines]
    return answer


def _role_words(message: str) -> str:
    """Return a message that names the variable that the user set."""
    return f"unikernel_images_{message}" if message.startswith(("signing_key:", "allowed_signers:")) else message
