# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Get the archives that disks are made from to a host: find what it lacks, pack it, copy it, let the host verify it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import digest_of
from ansible_collections.unikernels.xen.plugins.module_utils.service.content_disk import SUFFIX
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_archive import pack
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import stated

MODULE = "unikernels.xen.content_store"


def ship(action: ActionBase, contents: Mapping[str, str], variables: dict[str, Any]) -> str:
    """Return why it failed; "" if the host has all ``contents`` (digest -> folder on the controller), or in check mode."""
    answer = _call(action, {"wanted": sorted(contents)}, variables)
    missing = answer.get("missing")
    if answer.get("failed") or not isinstance(missing, list):
        return _reason(answer)
    # A host's answer is not trusted: only what was asked for is sent.
    missing = [digest for digest in sorted(contents) if digest in missing]
    if not missing or action._task.check_mode:
        return ""
    folder = action._make_tmp_path()
    try:
        paths = [_copied(action, folder, digest, contents[digest], variables) for digest in missing]
        action._fixup_perms2((folder, *paths))
        answer = _call(action, {"wanted": sorted(contents), "arrived": folder}, variables)
    except BuildError as error:
        return f"web_content: {error}"
    except OSError as error:
        return f"web_content: {error.filename or 'its archive'}: {error.strerror}"
    finally:
        action._remove_tmp_path(folder)
    return _reason(answer) if answer.get("failed") else ""


def _copied(action: ActionBase, folder: str, digest: str, content: str, variables: dict[str, Any]) -> str:
    """Return the path on the host."""
    with tempfile.TemporaryDirectory(dir=constants.DEFAULT_LOCAL_TMP) as here:
        archive = os.path.join(here, digest + SUFFIX)
        with open(archive, "wb") as file:
            pack(content, file)
        if digest_of(archive) != digest:
            raise BuildError(f"{content} has changed since this run read it; run again when nothing writes there")
        path: str = action._connection._shell.join_path(folder, digest + SUFFIX)
        with stated(f"{variables.get('inventory_hostname')}: content {digest[:12]}", archive):
            action._transfer_file(archive, path)
        return path


def _call(action: ActionBase, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = action._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables)
    return answer


def _reason(answer: Mapping[str, Any]) -> str:
    return f"the host did not take in the content of web servers: {answer.get('msg') or 'it answered nothing'}"
