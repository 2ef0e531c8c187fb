# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's change to another network, which is undone by itself unless it is confirmed. Pure: the program and its states.

The program runs by itself on the host, for the connection over which it was started breaks. Its state is one line of a file.
"""

from __future__ import annotations

# What it has written so far.
NOTHING, UP, KEPT, BACK = "", "up", "kept", "put back"
STATES = (NOTHING, UP, KEPT, BACK)
UNDO_UNIT = "unikernels-xen-network-undo.service"

PROGRAM = r"""#!/bin/sh
# Written by unikernels.xen: put a bridge over the uplink; without a confirmation the old network returns.
uplink=$1 bridge=$2 seconds=$3 file=$4 units=$5
cd "$(dirname "$0")" || exit 1
put() { cp "$1" "$file.unikernels-new" && chmod 0644 "$file.unikernels-new" && sync && mv "$file.unikernels-new" "$file"; }
# A host that dies before the confirmation boots with the old network.
guard() {
  cat >"$units/unikernels-xen-network-undo.service" <<END
[Unit]
Description=The old network, for nobody has confirmed the new one
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target networking.service
Wants=network-pre.target
ConditionPathExists=$PWD/pending
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cp "$PWD/old" "$file" && rm "$PWD/pending" && echo "put back" >"$PWD/state"'
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
sleep 1
guard || exit 1
ifdown --force "$uplink"
put new
ip address flush dev "$uplink"
if ifup "$uplink" "$bridge"; then
  echo up >state
  while [ "$seconds" -gt 0 ]; do
    [ -e confirmed ] && { unguard; echo kept >state; exit 0; }
    seconds=$((seconds - 1))
    sleep 1
  done
fi
ifdown --force "$bridge" "$uplink"
put old
ip link delete "$bridge" 2>/dev/null
ifup "$uplink"
unguard
echo "put back" >state
"""


def state_of(text: str) -> str:
    """The state in the program's file; anything else than its own words is none."""
    return text.strip() if text.strip() in STATES else NOTHING


def ended(state: str) -> bool:
    """Whether the start has come to an end, good or bad."""
    return state in (UP, BACK)


def needs_confirmation(state: str, bridge_there: bool) -> bool:
    """Whether the program still waits. ValueError when there is nothing to keep."""
    if not bridge_there or state == BACK:
        raise ValueError("is not there; the old network was put back")
    return state == UP
