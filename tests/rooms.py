"""Print how much of each room of the plugins the unit tests run, from coverage's JSON report: python tests/rooms.py REPORT."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import pathlib
import sys


def room_of(path):
    """plugins/module_utils/domain/spec.py -> module_utils/domain; plugins/modules/x.py -> modules."""
    parts = pathlib.PurePath(path).parts
    parts = parts[parts.index("plugins") + 1 : -1]
    return "/".join(parts) or "."


def shares(files):
    """Room -> (lines that ran, lines)."""
    rooms = {}
    for path, data in files.items():
        ran, lines = rooms.get(room_of(path), (0, 0))
        summary = data["summary"]
        rooms[room_of(path)] = (ran + summary["covered_lines"], lines + summary["num_statements"])
    return rooms


def main():
    report = json.loads(pathlib.Path(sys.argv[1]).read_text())
    print("\n== Lines that the unit tests run, room by room")
    for room, (ran, lines) in sorted(shares(report["files"]).items()):
        print(f"{room:24} {ran:5} of {lines:5}  {100 * ran // max(lines, 1):3} %")
    print(f"{'in all':24} {report['totals']['percent_covered']:.0f} %")


if __name__ == "__main__":
    main()
