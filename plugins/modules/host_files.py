#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Several files and folders of a host in one round trip
version_added: 0.1.0
description:
  - Writes files atomically and makes folders, all in one task, because a round trip is what costs.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Shows the files' changes.
    support: full
options:
  files:
    description: The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: The whole text, or with O(files[].block=true) the text between two marks.
        type: str
        required: true
      mode:
        description: Octal permissions. The owner is the user who runs the task.
        type: str
        default: "0644"
      block:
        description: Keep the rest of the file and write only a marked block at its end.
        type: bool
        default: false
  folders:
    description: The folders, parents first.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Octal permissions.
        type: str
        default: "0755"
"""

EXAMPLES = r"""
- name: Write two files
  unikernels.xen.host_files:
    folders:
      - path: /tmp/example
        mode: "0700"
    files:
      - path: /tmp/example/one
        content: "1\n"
      - path: /tmp/example/secret
        content: "2\n"
        mode: "0600"
"""

RETURN = r"""
changed_paths:
  description: What was (in check mode, would be) changed.
  returned: always
  type: list
  elements: str
"""

import os
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import write_whole

BEGIN = "# BEGIN unikernels.xen"
END = "# END unikernels.xen"


def with_block(text: str, block: str) -> str:
    """``text`` with our block at its end, in place of the one that it has."""
    before, found, rest = text.partition(BEGIN + "\n")
    if found:
        rest = rest.partition(END + "\n")[2]
    if before and not before.endswith("\n"):
        before += "\n"
    return f"{before}{rest}{BEGIN}\n{block.rstrip()}\n{END}\n"


def main() -> None:
    entry = {"path": {"type": "path", "required": True}}
    file_options = {
        **entry,
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "block": {"type": "bool", "default": False},
    }
    folder_options = {**entry, "mode": {"type": "str", "default": "0755"}}
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_options},
            "folders": {"type": "list", "elements": "dict", "default": [], "options": folder_options},
        },
        supports_check_mode=True,
    )
    changed: list[str] = []
    diffs: list[dict[str, str]] = []
    try:
        for folder in module.params["folders"]:
            path, mode = folder["path"], int(folder["mode"], 8)
            if not os.path.isdir(path) or stat.S_IMODE(os.stat(path).st_mode) != mode:
                changed.append(path)
                if not module.check_mode:
                    os.makedirs(path, exist_ok=True)
                    os.chmod(path, mode)
        for one in module.params["files"]:
            path, mode = one["path"], int(one["mode"], 8)
            old, old_mode = "", None
            if os.path.exists(path):
                with open(path, encoding="utf-8", newline="") as file:
                    old = file.read()
                old_mode = stat.S_IMODE(os.stat(path).st_mode)
            new = with_block(old, one["content"]) if one["block"] else one["content"]
            if old != new or old_mode != mode:
                changed.append(path)
                diffs.append({"before": old, "after": new, "before_header": path, "after_header": path})
                if not module.check_mode:
                    write_whole(path, new.encode("utf-8"), mode)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{getattr(error, 'filename', None) or path}: {getattr(error, 'strerror', None) or error}")
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
