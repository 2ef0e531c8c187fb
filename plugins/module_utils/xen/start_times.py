# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. When each domain was created.

libxl keeps that in /vm/UUID of xenstore. Both domains of a replacement have the same UUID: the second overwrites the first one's
time, and libxl removes the whole record with whichever ends first, after which ``xl uptime`` has no answer for the other. So each
domain that we build gets a note of its own, which ends with it, and the record is put back for the domain that remains.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from .xenstore import Xenstore
from .xl import ToolstackError

_RECORD = ("uuid", "name", "start_time")


def of(domids: list[int]) -> dict[int, float]:
    """Map each domain id to the time of its creation in seconds since the epoch; without those that xenstore doesn't know."""
    with Xenstore() as store:
        times = _read(store, domids)
    return {domid: float(value) for domid, value in times.items() if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value)}


def note(domid: int) -> None:
    """Note the time of a domain that libxl has just built. Only listings need it, so nothing fails for want of it."""
    with contextlib.suppress(ToolstackError), Xenstore() as store:
        for time in _read(store, [domid]).values():
            store.write(_ours(domid), time)


@contextlib.contextmanager
def kept(domid: int) -> Iterator[None]:
    """Put back the record of the domain that has the same UUID as ``domid``, which is destroyed meanwhile."""
    other: int | None = None
    record: dict[str, str] = {}
    with contextlib.suppress(ToolstackError), Xenstore() as store:
        other, record = _shared(store, domid)
    yield
    if other is None:
        return
    with contextlib.suppress(ToolstackError), Xenstore() as store:
        (path,) = store.read([f"/local/domain/{other}/vm"])  # None: it has ended too
        if path is not None and store.read([f"{path}/uuid"]) == [None]:
            for key, value in record.items():
                store.write(f"{path}/{key}", value)


def _shared(store: Xenstore, domid: int) -> tuple[int | None, dict[str, str]]:
    """Return the other domain with this one's UUID and the record that is right for it."""
    (domids,) = store.directories(["/local/domain"])
    paths = dict(zip(domids, store.read([f"/local/domain/{one}/vm" for one in domids])))
    mine = paths.pop(str(domid), None)
    others = [int(one) for one, path in paths.items() if path == mine and one.isdigit()]
    if mine is None or not others:
        return None, {}
    (name, uuid), times = store.read([f"/local/domain/{others[0]}/name", f"{mine}/uuid"]), _read(store, others[:1])
    values = (uuid, name, times.get(others[0]))
    return others[0], {key: value for key, value in zip(_RECORD, values) if value is not None}


def _ours(domid: int) -> str:
    return f"/local/domain/{domid}/unikernels/start_time"


def _read(store: Xenstore, domids: list[int]) -> dict[int, str]:
    """Map domain ids to what is noted, else to libxl's own time."""
    paths = store.read([f"/local/domain/{domid}/vm" for domid in domids])
    ours = store.read([_ours(domid) for domid in domids])
    libxls = store.read([f"{path or '/none'}/start_time" for path in paths])
    found = {domid: note or time for domid, note, time in zip(domids, ours, libxls)}
    return {domid: time for domid, time in found.items() if time}
