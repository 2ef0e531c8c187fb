# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change of a host's network that is undone automatically unless it is confirmed. Pure: the program and its states.

The program runs on the host on its own, since the connection that started it breaks. Its state is one line in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The states that it writes.
NOTHING, UP, KEPT, BACK = "", "up", "kept", "put back"
STATES = (NOTHING, UP, KEPT, BACK)
UNDO_UNIT = "unikernels-xen-network-undo.service"

PROGRAM = r"""#!/bin/sh
# Written by unikernels.xen: put another network into place; without a confirmation the old one returns.
# files/N.path, N.old, N.new, N.mode: a file (without .old or .new it is absent then); down, up, down-new, up-old: the commands
# before and after the files, on the way there and on the way back; boot: what a boot with the old files needs.
seconds=$1 units=$2
cd "$(dirname "$0")" || exit 1
# A host that dies before the confirmation boots with the old network.
guard() {
  cat >"$units/unikernels-xen-network-undo.service" <<END
[Unit]
Description=The old network, for nobody has confirmed the new one
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target networking.service systemd-networkd.service NetworkManager.service systemd-sysctl.service
Wants=network-pre.target
ConditionPathExists=$PWD/pending
[Service]
Type=oneshot
ExecStart=/bin/sh $PWD/back
[Install]
WantedBy=sysinit.target
END
  : >pending && sync && systemctl --no-reload enable unikernels-xen-network-undo.service
}
unguard() {
  rm -f pending
  systemctl --no-reload disable unikernels-xen-network-undo.service
  rm -f "$units/unikernels-xen-network-undo.service"
}
way_back() {
  sh ./down-new
  sh ./put old
  sh ./up-old
  unguard
  echo "put back" >state
}
# What a run that was killed has left.
[ "$seconds" = return ] && { way_back; exit 0; }
sleep 1
guard || exit 1
sh ./down
sh ./put new
if sh -e ./up; then
  echo up >state
  while [ "$seconds" -gt 0 ]; do
    [ -e confirmed ] && { unguard; echo kept >state; exit 0; }
    seconds=$((seconds - 1))
    sleep 1
  done
fi
way_back
"""

PUT = r"""# sh put old|new
cd "$(dirname "$0")" || exit 1
for entry in files/*.path; do
  file=$(cat "$entry") number=${entry%.path}
  if [ -e "$number.$1" ]; then
    mkdir -p "$(dirname "$file")"
    # What was there keeps its mode: it may hold a password.
    mode=$(stat -c %a "$file" 2>/dev/null) || mode=$(cat "$number.mode")
    # Of a name that no manager reads, should this end here.
    new=$(dirname "$file")/.unikernels-new.$(basename "$file")
    cp "$number.$1" "$new" && chmod "$mode" "$new" && sync && mv "$new" "$file"
  else
    rm -f "$file"
  fi
done
"""

# Run by the unit at boot.
RETURN = r"""cd "$(dirname "$0")" || exit 1
sh ./put old
sh ./boot
rm -f pending
echo "put back" >state
"""

SCRIPTS = ("down", "up", "down-new", "up-old", "boot")


@dataclass(frozen=True)
class FileChange:
    """A file's text before and after. None: there is no file."""

    path: str
    before: str | None
    after: str | None
    mode: int = 0o644


@dataclass(frozen=True)
class Switch:
    """Everything that the program needs. Each script is a list of shell lines; ``up`` stops at the first line that fails."""

    files: tuple[FileChange, ...]
    scripts: Mapping[str, list[str]] = field(default_factory=dict)

    def folder(self) -> dict[str, tuple[str, int]]:
        """Map the name of each file in the program's folder to its text and mode."""
        found = {"switch": (PROGRAM, 0o700), "put": (PUT, 0o600), "back": (RETURN, 0o600)}
        for name in SCRIPTS:
            found[name] = ("".join(f"{line}\n" for line in self.scripts.get(name, [])), 0o600)
        for number, change in enumerate(self.files):
            found[f"files/{number:03}.path"] = (change.path + "\n", 0o600)
            found[f"files/{number:03}.mode"] = (f"{change.mode:04o}\n", 0o600)
            for name, text in (("old", change.before), ("new", change.after)):
                if text is not None:
                    found[f"files/{number:03}.{name}"] = (text, 0o600)
        return found


def state_of(text: str) -> str:
    """Return the state in the program's file; "" for any other text."""
    return text.strip() if text.strip() in STATES else NOTHING


def ended(state: str) -> bool:
    """True if the start is over, successful or not."""
    return state in (UP, BACK)


def needs_confirmation(state: str, bridge_there: bool) -> bool:
    """True if the program still waits for confirmation. Raise ValueError if there is nothing to keep."""
    if not bridge_there or state == BACK:
        raise ValueError("is not there; the old network was put back")
    return state == UP
