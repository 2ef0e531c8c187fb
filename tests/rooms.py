"""Print how much of each room of the plugins the unit tests run, from coverage's JSON report: python tests/rooms.py REPORT.

It fails if fewer branches were taken than the room's floor: mistakes in these rooms can lose a service.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import pathlib
import sys

# Percent of the branches.
FLOORS = {"module_utils/plan": 95, "module_utils/apply": 90, "module_utils/health": 90, "module_utils/domain": 90}


def room_of(path):
    """plugins/module_utils/domain/spec.py -> module_utils/domain; plugins/modules/x.py -> modules."""
    parts = pathlib.PurePath(path).parts
    parts = parts[parts.index("plugins") + 1 : -1]
    return "/".join(parts) or "."


def shares(files):
    """Return room -> (lines run, lines, branches taken, branches)."""
    rooms = {}
    for path, data in files.items():
        summary = data["summary"]
        keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
        before = rooms.get(room_of(path), (0,) * len(keys))
        rooms[room_of(path)] = tuple(count + summary[key] for count, key in zip(before, keys))
    return rooms


def percent(part, whole):
    return 100 * part // whole if whole else 100


def main():
    report = json.loads(pathlib.Path(sys.argv[1]).read_text())
    low = []
    print("\n== Lines that the unit tests run and branches that they take, room by room")
    for room, (ran, lines, taken, branches) in sorted(shares(report["files"]).items()):
        floor = FLOORS.get(room)
        print(
            f"{room:24} {ran:5} of {lines:5} {percent(ran, lines):4} %   {taken:5} of {branches:5} {percent(taken, branches):4} %"
            + (f"  at least {floor} %" if floor else "")
        )
        if floor and percent(taken, branches) < floor:
            low.append(room)
    totals = report["totals"]
    print(f"{'in all':24} {percent(totals['covered_lines'], totals['num_statements']):18} %"
          f" {percent(totals['covered_branches'], totals['num_branches']):21} %")  # fmt: skip
    if low:
        sys.exit(f"too few branches are taken in {', '.join(low)}")


if __name__ == "__main__":
    main()
