# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The metrics of a Xen host as Prometheus reads them. Pure: what was read in, lines out.

The text is a file for node_exporter's textfile collector. docs/monitoring.md says what each metric is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A metric as Prometheus describes it (TYPE and HELP)."""

    kind: str
    help: str


@dataclass(frozen=True)
class Sample:
    """One value of the family ``name``."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


# In the order of the file.
FAMILIES: dict[str, Family] = {
    "xen_host_info": Family("gauge", "Xen and Linux that run; 1."),
    "xen_host_under_xen": Family("gauge", "Whether the machine runs under Xen."),
    "xen_host_cpus": Family("gauge", "CPUs of the machine."),
    "xen_host_memory_bytes": Family("gauge", "Memory of the machine."),
    "xen_host_memory_free_bytes": Family("gauge", "Memory that no domain has."),
    "xen_host_domains": Family("gauge", "Domains of the host, without Dom0, by state."),
    "xen_host_reboot_pending": Family("gauge", "Whether another Xen, kernel or command line waits for a reboot."),
    "xen_host_boot_unconfirmed": Family("gauge", "Whether this boot is on trial and nothing has confirmed it."),
    "xen_host_boot_returned": Family("gauge", "Whether the host has returned from a boot that failed."),
    "xen_host_updates_pending": Family("gauge", "Packages with a newer version in the lists on the host."),
    "xen_host_package_lists_timestamp_seconds": Family("gauge", "When apt last read its lists."),
    "xen_host_lock_held_seconds": Family("gauge", "How long the same process has held the collection's lock; 0 when it is free."),
    "xen_host_generation": Family("gauge", "Number of the declaration that was applied last."),
    "xen_host_generation_applied": Family("gauge", "Whether that declaration was applied as a whole."),
    "xen_host_images": Family("gauge", "Images in the store."),
    "xen_host_image_store_bytes": Family("gauge", "Disk space of the image store."),
    "xen_host_filtered_packets_total": Family("counter", "Packets of domains that no domain may send, by rule chain."),
    "xen_domain_info": Family("gauge", "What a domain is; 1."),
    "xen_domain_state": Family("gauge", "1 for the state that the domain is in."),
    "xen_domain_start_time_seconds": Family("gauge", "When the domain was created."),
    "xen_domain_cpu_seconds_total": Family("counter", "CPU time of the domain."),
    "xen_domain_vcpus": Family("gauge", "Virtual CPUs of the domain."),
    "xen_domain_memory_bytes": Family("gauge", "Memory of the domain."),
    "xen_domain_restarts_total": Family("counter", "Times that the domain was started after it had died."),
    "xen_domain_restarts_given_up": Family("gauge", "Whether the domain died too often and is no longer started."),
    "xen_domain_network_receive_bytes_total": Family("counter", "Bytes that the domain received."),
    "xen_domain_network_receive_packets_total": Family("counter", "Packets that the domain received."),
    "xen_domain_network_receive_drops_total": Family("counter", "Packets for the domain that it did not take in time."),
    "xen_domain_network_transmit_bytes_total": Family("counter", "Bytes that the domain sent."),
    "xen_domain_network_transmit_packets_total": Family("counter", "Packets that the domain sent."),
    "xen_domain_network_spoofed_packets_total": Family("counter", "Packets with addresses that are not the domain's, dropped."),
    "xen_domain_disk_read_bytes_total": Family("counter", "Bytes that the domain read from the disk."),
    "xen_domain_disk_written_bytes_total": Family("counter", "Bytes that the domain wrote to the disk."),
    "xen_domain_console_bytes_total": Family("counter", "Bytes that the domain printed, at least."),
    "xen_domain_generation": Family("gauge", "Number of the declaration with which the domain last changed."),
    "xen_domain_healthy": Family("gauge", "Whether the domain passed its declared health check."),
    "xen_domain_health_check_duration_seconds": Family("gauge", "Time that the health check took."),
    "xen_collector_success": Family("gauge", "Whether this part of the host could be read."),
    "xen_collector_duration_seconds": Family("gauge", "Time that reading took."),
    "xen_collector_timestamp_seconds": Family("gauge", "When this was read."),
}
# States of a domain; "stopped": defined, but not running.
STATES = ("running", "paused", "shutdown", "crashed", "dying", "stopped")
_TRAFFIC = {
    "xen_domain_network_receive_bytes_total": "received_bytes",
    "xen_domain_network_receive_packets_total": "received_packets",
    "xen_domain_network_receive_drops_total": "dropped_packets",
    "xen_domain_network_transmit_bytes_total": "sent_bytes",
    "xen_domain_network_transmit_packets_total": "sent_packets",
}
_MIB = 1 << 20
# Labels for a domain's name, which its owner chose; others may have domains on this host too.
MAX_LABEL = 200
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def sample(name: str, value: Any, **labels: Any) -> Sample:
    """Return a value of a family; KeyError if the table lacks it."""
    FAMILIES[name]
    return Sample(name, float(value), tuple((key, str(text)) for key, text in labels.items()))


def text_of(samples: Iterable[Sample]) -> str:
    """Return the file's text. A duplicate series would invalidate all of it, so the first one wins."""
    rows: dict[str, dict[str, str]] = {}
    for one in samples:
        series = one.name + _labels(one.labels)
        rows.setdefault(one.name, {}).setdefault(series, _number(one.value))
    lines = []
    for name, family in FAMILIES.items():
        if name in rows:
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
            lines += [f"{series} {value}" for series, value in rows[name].items()]
    return "\n".join([*lines, ""])


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(text)}"' for key, text in labels) + "}"


def _escaped(text: str) -> str:
    clean = _CONTROL.sub("?", text[:MAX_LABEL]).encode("utf-8", "replace").decode()
    return clean.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# -- the host --------------------------------------------------------------------------------------


def host_samples(info: Mapping[str, Any]) -> list[Sample]:
    """Return the samples of a host as `xl info` and the collector describe it. None means unknown and is left out."""
    found = [
        sample("xen_host_info", 1, xen=info["xen"], kernel=info["kernel"], debian=info["debian"]),
        sample("xen_host_under_xen", info["under_xen"]),
        sample("xen_host_reboot_pending", info["reboot_pending"]),
        sample("xen_host_boot_unconfirmed", info["boot_unconfirmed"]),
        sample("xen_host_boot_returned", info["boot_returned"]),
    ]
    plain = {
        "xen_host_cpus": info.get("cpus"),
        "xen_host_package_lists_timestamp_seconds": info.get("lists_read"),
        "xen_host_lock_held_seconds": info.get("lock_held"),
        "xen_host_images": info.get("images"),
        "xen_host_image_store_bytes": info.get("image_bytes"),
    }
    found += [sample(name, value) for name, value in plain.items() if value is not None]
    sizes = {"xen_host_memory_bytes": info.get("memory"), "xen_host_memory_free_bytes": info.get("free_memory")}
    return found + [sample(name, value * _MIB) for name, value in sizes.items() if value is not None]


def update_samples(security: int, every: int) -> list[Sample]:
    """Return the samples of pending security updates, and of all pending updates."""
    return [
        sample("xen_host_updates_pending", security, kind="security"),
        sample("xen_host_updates_pending", every, kind="all"),
    ]


def generation_samples(generations: list[dict[str, Any]]) -> list[Sample]:
    """Return the samples of the applied generations, oldest first.

    Each has number, applied, and domains: name -> anything that can be compared.
    """
    if not generations:
        return []
    newest = generations[-1]
    found = [
        sample("xen_host_generation", newest["number"]),
        sample("xen_host_generation_applied", newest["applied"]),
    ]
    for name, declared in newest["domains"].items():
        since = newest["number"]
        for earlier in reversed(generations[:-1]):
            if earlier["domains"].get(name) != declared:
                break
            since = earlier["number"]
        found.append(sample("xen_domain_generation", since, domain=name))
    return found


# -- its domains -----------------------------------------------------------------------------------


def state_of(facts: Mapping[str, Any]) -> str:
    """Return a domain's state, one of STATES."""
    state = str(facts["state"])
    if state == "shutdown" and facts.get("shutdown_reason") == "crash":
        return "crashed"
    return state if state in STATES else "shutdown"


def domain_samples(facts: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """Return the samples of domains as xen_domain_info describes them."""
    found, counts = [], dict.fromkeys(STATES, 0)
    for one in facts:
        counts[state_of(one)] += 1
        found += _domain(one)
    return [sample("xen_host_domains", count, state=state) for state, count in counts.items()] + found


def _word(value: Any) -> str:
    return "true" if value else "false"


def _domain(facts: Mapping[str, Any]) -> list[Sample]:
    name, image, state = facts["name"], facts["image"], state_of(facts)
    digest = image.get("sha256") or ""
    found = [
        sample(
            "xen_domain_info", 1, domain=name, owner=facts["owner"], image=image.get("name") or "", digest=digest,
            standin=_word(image.get("standin")), autostart=_word(facts["autostart"]),
        ),
        *(sample("xen_domain_state", state == one, domain=name, state=one) for one in STATES),
        sample("xen_domain_restarts_total", facts["restarts"]["count"], domain=name),
        sample("xen_domain_restarts_given_up", facts["restarts"]["gave_up"], domain=name),
    ]  # fmt: skip
    if facts.get("domid") is None:
        return found
    found += [
        sample("xen_domain_cpu_seconds_total", facts["cpu_seconds"], domain=name),
        sample("xen_domain_vcpus", facts["vcpus"], domain=name),
        sample("xen_domain_memory_bytes", facts["memory"] * _MIB, domain=name),
    ]
    if facts.get("started") is not None:
        found.append(sample("xen_domain_start_time_seconds", facts["started"], domain=name))
    for index, vif in enumerate(facts["traffic"]):
        found += [sample(metric, vif[key], domain=name, interface=index) for metric, key in _TRAFFIC.items()]
        if vif.get("spoofed") is not None:
            found.append(sample("xen_domain_network_spoofed_packets_total", vif["spoofed"], domain=name, interface=index))
    for disk in facts.get("disks_used", []):
        labels = {"domain": name, "disk": disk["disk"]}
        found.append(sample("xen_domain_disk_read_bytes_total", disk["read"], **labels))
        found.append(sample("xen_domain_disk_written_bytes_total", disk["written"], **labels))
    if facts.get("printed") is not None:
        found.append(sample("xen_domain_console_bytes_total", facts["printed"], domain=name))
    return found


def health_samples(answers: Mapping[str, tuple[bool, float]]) -> list[Sample]:
    """Return the samples of health checks. ``answers``: domain -> (passed, seconds)."""
    found = [sample("xen_domain_healthy", healthy, domain=name) for name, (healthy, _seconds) in answers.items()]
    return found + [
        sample("xen_domain_health_check_duration_seconds", seconds, domain=name) for name, (_healthy, seconds) in answers.items()
    ]


# -- the packet filter -----------------------------------------------------------------------------


def dropped(listing: Any) -> dict[str, int]:
    """Map each chain to the packets that its rules dropped, from `nft -j list table bridge unikernels`."""
    found: dict[str, int] = {}
    rows = listing.get("nftables", []) if isinstance(listing, dict) else []
    for row in rows:
        rule = row.get("rule", {}) if isinstance(row, dict) else {}
        statements = rule.get("expr", [])
        if not any("drop" in statement for statement in statements):
            continue
        chain = str(rule.get("chain", ""))
        for statement in statements:
            counter = statement.get("counter")
            if isinstance(counter, dict):
                found[chain] = found.get(chain, 0) + int(counter.get("packets", 0))
    return found


def filter_samples(drops: Mapping[str, int]) -> list[Sample]:
    """Return the samples of the chains that all vifs share; a vif's own chain counts for its domain."""
    return [
        sample("xen_host_filtered_packets_total", count, chain=chain)
        for chain, count in drops.items()
        if not chain.startswith("vif_")
    ]


# -- what must be remembered -----------------------------------------------------------------------


def grown(before: Any, size: int) -> int:
    """Return how many bytes a log has grown since it had ``before`` bytes (None: unknown). If it is shorter, it was rotated."""
    if not isinstance(before, int) or isinstance(before, bool):
        return 0
    return size - before if size >= before else size


def lock_holder(locks: str, inode: int) -> int:
    """Return from /proc/locks the process that holds the file's flock; 0 for none. Waiting ones have an arrow."""
    for line in locks.splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return int(words[4]) if words[4].isdigit() else 1
    return 0
