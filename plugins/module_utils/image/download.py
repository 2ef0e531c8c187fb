# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A file from an HTTP(S) server, going on where an earlier download was cut (RFC 9110, 14)."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url

from .store import StoreError


def download(module: AnsibleModule, url: str, path: str) -> bool:
    """Get ``url`` into ``path``, keeping what is there of it; False where the server has no such file.

    What arrives is whatever the server sends: the caller knows its digest. StoreError says why nothing came.
    """
    there = os.path.getsize(path) if os.path.exists(path) else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    response, info = fetch_url(module, url, headers=headers, timeout=60)
    if info["status"] == 404:
        return False
    if info["status"] == 416:  # nothing is after what is there: it has arrived whole
        return True
    if info["status"] not in (200, 206):
        raise StoreError(f"url {url}: {info['msg']}")
    with open(path, "ab" if info["status"] == 206 else "wb") as file:
        while block := response.read(1 << 20):
            file.write(block)
    return True
