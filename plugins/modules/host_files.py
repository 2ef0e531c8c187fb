#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Write several files and folders of a host in one round trip
version_added: 0.1.0
description:
  - Writes files atomically and creates folders in one task, because each round trip takes time.
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
      diff:
        description: Whether C(--diff) prints the file's change. V(false) is for programs, whose text clutters the diff.
        version_added: 0.2.0
        type: bool
        default: true
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
  links:
    description: Symbolic links. Their folders are created.
    version_added: 0.2.0
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the link.
        type: path
        required: true
      target:
        description: Where it leads.
        type: str
        required: true
  absent:
    description: Files and links that must not exist.
    version_added: 0.2.0
    type: list
    elements: path
    default: []
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.host.files import FilesError, apply


def main() -> None:
    path = {"type": "path", "required": True}
    options = {
        "files": {
            "path": path,
            "content": {"type": "str", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "block": {"type": "bool", "default": False},
            "diff": {"type": "bool", "default": True},
        },
        "folders": {"path": path, "mode": {"type": "str", "default": "0755"}},
        "links": {"path": path, "target": {"type": "str", "required": True}},
    }
    argument_spec = {key: {"type": "list", "elements": "dict", "default": [], "options": value} for key, value in options.items()}
    argument_spec["absent"] = {"type": "list", "elements": "path", "default": []}
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    try:
        changes = apply(module.params, module.check_mode)
    except FilesError as error:
        module.fail_json(msg=str(error))
    # With --diff, a strategy prints every diff that a module returns; 'diff: false' of a task only reaches the module.
    shown = {"diff": changes.diffs} if module._diff else {}
    module.exit_json(changed=bool(changes.paths), changed_paths=changes.paths, **shown)


if __name__ == "__main__":
    main()
