"""Unit tests get a plain environment: without the developer's proxies, languages, git hooks and options of Ansible or the lab."""

import os

_FOLDERS = {"ANSIBLE_HOME", "LAB_CACHE", "LAB_DIR"}
_GIT = {"commit.gpgsign": "false", "core.autocrlf": "false", "core.hooksPath": "/dev/null"}

for _name in {*os.environ} - _FOLDERS:
    if _name.lower().endswith("_proxy") or _name.startswith(("ANSIBLE_", "GIT_", "LAB_", "UNIKERNELS_")):
        del os.environ[_name]
os.environ.pop("LANGUAGE", None)
os.environ.update(LC_ALL="C.UTF-8", GIT_CONFIG_COUNT=str(len(_GIT)))
for _number, (_name, _value) in enumerate(_GIT.items()):
    os.environ.update({f"GIT_CONFIG_KEY_{_number}": _name, f"GIT_CONFIG_VALUE_{_number}": _value})
