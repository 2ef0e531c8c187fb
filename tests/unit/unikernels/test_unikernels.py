"""Our unikernels' folders: each is built alone from a copy, so both contain what they have in common."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib

UNIKERNELS = pathlib.Path(__file__).parents[3] / "unikernels"
OWN = {"config.ml", "unikernel.ml"}
EVERYWHERE = {"bounded.ml", "counters.ml", "lifecycle.ml", "monitor.ml", "syslog.ml"}


def test_what_stands_in_two_folders_is_the_same_in_both():
    texts = {}
    for path in sorted(UNIKERNELS.glob("*/*.ml")):
        if path.name not in OWN:
            texts.setdefault(path.name, {})[path.parent.name] = path.read_text()
    differing = [f"{name}: {', '.join(found)}" for name, found in texts.items() if len(set(found.values())) > 1]
    assert not differing
    assert {"disk.ml", "bounded.ml"} <= {name for name, found in texts.items() if len(found) > 1}
    assert {name for name, found in texts.items() if len(found) == 3} == EVERYWHERE


def test_each_ends_when_the_toolstack_asks_for_it():
    waits = {path.parent.name for path in UNIKERNELS.glob("*/unikernel.ml") if "until_shutdown" in path.read_text()}
    assert waits == {"web", "dns", "vpn"}
