"""A double of the engine: a host is a folder, its domains a file in it. It replaces the real one's file in a copy.

A host's folder is the one that contains its images' folder. Hosts named in the file `refused` beside the folders refuse a domain
whose kernel's digest is all `b`.
"""

from __future__ import annotations

import json
import os
from typing import Any


class Refused(Exception):
    pass


def converge(options: list[dict[str, Any]], check: bool, *_rest: Any, **_named: Any) -> list[dict[str, Any]]:
    results = []
    for one in options:
        kernel = one.get("kernel") or os.environ["DOUBLE_OF_HOSTS"] + "/none/images/x"
        host = os.path.dirname(os.path.dirname(kernel))
        path = os.path.join(host, "domains.json")
        domains = json.loads(open(path, encoding="utf-8").read()) if os.path.exists(path) else {}
        changed = domains.get(one["name"]) != one
        with open(os.path.join(os.path.dirname(host), "refused"), encoding="utf-8") as file:
            failed = "b" * 64 in kernel and os.path.basename(host) in file.read().split()
        if changed and not check and not failed:
            os.makedirs(host, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump({**domains, one["name"]: one}, file)
        words = {"name": one["name"], "state": "running", "steps": [], "differs": [], "msg": f"domain {one['name']}: not healthy"}
        diff = {"before": {}, "after": {}}
        results.append({**words, "changed": changed and not failed, "failed": failed, "diff": diff})
    return results
