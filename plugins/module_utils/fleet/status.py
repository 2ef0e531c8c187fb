# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a fleet, computed from the hosts' answers: as rows, as a table for a terminal, and as one HTML page. Pure."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .plain import number
from .rollout_status import page_part

# What is known of a host.
PARTS = ("host", "domains", "generations", "health", "drift")
# No machine has more MiB than that.
_MAX_NUMBER = 1 << 40
# With more hosts than this, the terminal shows a summary.
MAX_TABLE = 60


@dataclass
class DomainStatus:
    name: str
    state: str
    image: str = ""
    sha256: str = ""
    standin: bool = False
    health: str = "not asked"
    drift: str = ""
    memory: int = 0
    # What may reach it, and what it may open itself; None: everything.
    accept: list[str] | None = None
    reach: list[str] | None = None
    antispoofing: bool = True

    @property
    def well(self) -> bool:
        return not self.drift and self.health in ("healthy", "not asked")


@dataclass
class HostStatus:
    name: str
    reached: bool = True
    notes: list[str] = field(default_factory=list)
    xen: str = ""
    free_memory: int = 0
    generation: str = ""
    rollout: str = ""
    applied: str = ""
    # Packages with a newer version, and those of them from a security archive; -1: not known.
    updates: int = -1
    security_updates: int = 0
    domains: list[DomainStatus] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return self.reached and not self.notes and all(domain.well for domain in self.domains)

    @property
    def word(self) -> str:
        return "not reached" if not self.reached else "as declared" if self.well else "look at it"


def status_of(name: str, results: Mapping[str, Any]) -> HostStatus:
    """Return one host's status. ``results``: what the modules returned for each of `PARTS`."""
    host = HostStatus(name)
    info, domains, generations, health, drift = (_mapping(results.get(key)) for key in PARTS)
    if info.get("unreachable") or not info:
        return HostStatus(name, False, [_line(info.get("msg") or "gave no answer")])
    for key, result in (("machine", info), ("domains", domains), ("generations", generations), ("drift", drift)):
        if result.get("failed"):
            host.notes.append(_line(f"{key}: {result.get('msg')}"))
    facts = _mapping(info.get("host"))
    host.xen, host.free_memory = _line(facts.get("xen_version") or ""), _number(facts.get("free_memory"))
    if facts and not facts.get("under_xen"):
        host.notes.append("does not run under Xen")
    if facts.get("pending_reboot"):
        host.notes.append("waits for a reboot")
    if facts.get("updates_problem"):
        host.notes.append(_line(f"updates: {facts['updates_problem']}"))
    elif isinstance(facts.get("updates"), list):
        host.updates, host.security_updates = len(facts["updates"]), len(_items(facts.get("security_updates")))
    host.notes += _under_way(generations)
    newest = _newest(host, generations)
    answers, differs = _answers(health), _differs(drift)
    declared = {str(one.get("name")): one for one in _mappings(newest.get("domains"))}
    running = {str(one.get("name")): one for one in _mappings(domains.get("domains")) if one.get("domid") != 0}
    for domain in sorted(declared.keys() | running.keys()):
        if domain in declared or running[domain].get("owner") != "other":
            status = _domain(domain, declared.get(domain), running.get(domain), answers, bool(newest))
            other = _line(f"has other {', '.join(differs[domain])} than declared") if differs.get(domain) else ""
            status.drift = "; ".join(filter(None, [status.drift, other]))
            host.domains.append(status)
    return host


def _differs(drift: Mapping[str, Any]) -> dict[str, list[str]]:
    """Map each domain to the options in which it differs from its declaration, besides those that `_domain` compares."""
    return {
        str(one.get("name")): [str(path) for path in _items(one.get("differs")) if path not in ("image", "kernel", "memory")]
        for one in _mappings(drift.get("domains"))
    }


def _newest(host: HostStatus, generations: Mapping[str, Any]) -> dict[str, Any]:
    kept = _mappings(generations.get("generations"))
    if not kept:
        return {}
    newest = kept[-1]
    host.generation, host.rollout = _line(newest.get("number")), _line(newest.get("rollout") or "")
    repeats = f", repeats {newest['repeats']}" if newest.get("repeats") else ""
    host.applied = _line(f"{newest.get('time')} {newest.get('by') or ''}".strip() + repeats)
    if newest.get("result") == "failed":
        host.notes.append(f"generation {host.generation} failed")
    host.notes += [_line(f"generation {problem}") for problem in _items(generations.get("problems"))]
    return newest


def _under_way(generations: Mapping[str, Any]) -> list[str]:
    entry = _mapping(_mapping(generations.get("rollouts")).get("under_way"))
    return [_line(f"rollout {entry.get('id')} has been under way since {entry.get('at')}")] if entry else []


def _answers(health: Mapping[str, Any]) -> dict[str, str]:
    """Map each domain to C(healthy) or the answer that came instead."""
    answers = {str(name): "healthy" for name in _items(health.get("healthy"))}
    for answer in _mappings(health.get("answers")):
        answers[str(answer.get("name"))] = "healthy" if answer.get("healthy") else _line(f"unhealthy: {answer.get('msg')}")
    if health.get("failed") and "answers" not in health:
        for line in str(health.get("msg") or "").split(" // "):
            name = line.removeprefix("domain ").split(":", maxsplit=1)[0]
            answers[name] = _line(f"unhealthy: {line}")
    return answers


def _domain(
    name: str, declared: Mapping[str, Any] | None, running: Mapping[str, Any] | None, answers: Mapping[str, str], known: bool
) -> DomainStatus:
    actual = running or {}
    image = _mapping(actual.get("image"))
    state = str(actual.get("state") or "missing")
    status = DomainStatus(
        _line(name), _line(state), _line(image.get("name") or ""), _line(image.get("sha256") or ""), image.get("standin") is True,
        answers.get(name, "not asked"), memory=_number(actual.get("memory")), accept=_limit(actual.get("accept")),
        reach=_limit(actual.get("reach")),
        antispoofing=all(one.get("antispoofing") is not False for one in _mappings(actual.get("interfaces"))),
    )  # fmt: skip
    drift = []
    if declared is None:
        drift = ["is not declared"] if known and "~" not in name else ["is left of a replacement"] if "~" in name else []
    else:
        wanted = str(declared.get("state") or "running")
        if state != wanted:
            drift.append(f"is {state}, declared {wanted}")
        if running and declared.get("sha256") and declared["sha256"] != status.sha256 and wanted != "stopped":
            drift.append("runs another image than declared")
        memory = number(declared.get("memory")) or 0
        if status.memory and memory not in (0, status.memory):
            drift.append(f"has {status.memory} MiB, declared {memory}")
    status.drift = _line("; ".join(drift))
    return status


def _limit(value: Any) -> list[str] | None:
    return [_line(one) for one in value] if isinstance(value, list) else None


def _shown(limit: list[str] | None) -> str:
    return "everything" if limit is None else ", ".join(limit) or "nothing"


def table(hosts: list[HostStatus]) -> list[str]:
    """Return lines for a terminal: hosts that need attention first; of many healthy ones only the number."""
    ill, well = [one for one in hosts if not one.well], [one for one in hosts if one.well]
    shown = ill + (well if len(hosts) <= MAX_TABLE else [])
    rows = [["HOST", "IS", "XEN", "FREE MiB", "UPDATES", "GENERATION", "DOMAINS", "HEALTHY"]]
    for host in shown:
        asked = [one for one in host.domains if one.health != "not asked"]
        healthy = sum(one.health == "healthy" for one in asked)
        runs = sum(one.state == "running" for one in host.domains)
        counts = [f"{runs}/{len(host.domains)}", f"{healthy}/{len(asked)}"] if host.reached else ["-", "-"]
        rows.append(
            [host.name, host.word, host.xen or "-", str(host.free_memory), _updates(host) or "-", host.generation or "-", *counts]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, entry in zip(rows, [None, *shown]):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        lines += [f"    {line}" for line in (_details(entry) if entry else [])]
    if len(shown) < len(hosts):
        lines.append(f"and {len(hosts) - len(shown)} hosts as declared")
    return [*lines, summary(hosts)]


def _updates(host: HostStatus) -> str:
    security = f" ({host.security_updates} security)" if host.security_updates else ""
    return f"{host.updates}{security}" if host.updates >= 0 else ""


def _details(host: HostStatus) -> list[str]:
    lines = list(host.notes)
    for domain in host.domains:
        words = [word for word in (domain.drift, domain.health if domain.health.startswith("unhealthy") else "") if word]
        words += ["STAND-IN, not a unikernel"] if domain.standin else []
        lines += [f"{domain.name}: {'; '.join(words)}"] if words else []
    return lines


def summary(hosts: list[HostStatus]) -> str:
    domains = [domain for host in hosts for domain in host.domains]
    lost = sum(not host.reached for host in hosts)
    ill = sum(not host.well for host in hosts) - lost
    well, sick = len(hosts) - lost - ill, sum(domain.health.startswith("unhealthy") for domain in domains)
    return (
        f"{len(hosts)} hosts: {well} as declared, {ill} to look at, {lost} not reached; {len(domains)} domains, {sick} unhealthy"
    )


def as_json(hosts: list[HostStatus], at: str, rollouts: Sequence[dict[str, Any]] = ()) -> str:
    entries = [{**asdict(host), "well": host.well} for host in hosts]
    return json.dumps({"at": at, "summary": summary(hosts), "hosts": entries, "rollouts": list(rollouts)}, indent=1) + "\n"


_STYLE = """
:root{color-scheme:light dark;font:16px/1.45 system-ui,sans-serif}body{margin:0 auto;padding:1rem;max-width:75rem}
h1{font-size:1.4rem;margin:.2rem 0}.bar{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0;align-items:center}
input,select,button{font:inherit;padding:.35rem .5rem}input{flex:1 1 14rem}
details{border:1px solid #8886;border-left:.5rem solid #2a7d46;border-radius:0 .3rem .3rem 0;margin:.3rem 0;padding:.3rem .7rem}
details.look{border-left:.5rem dashed #b35900}details.lost{border-left:.5rem double #b00020}
summary{cursor:pointer;display:grid;grid-template-columns:minmax(12rem,2fr) 9rem minmax(6rem,1fr) 8rem 8rem 9rem 7rem;
gap:.2rem .8rem;align-items:baseline}summary>*{overflow-wrap:anywhere}
summary b::before{content:"\\25b8";display:inline-block;width:1.1rem}details[open]>summary b::before{content:"\\25be"}
details p{margin:.4rem 0}
table{border-collapse:collapse;width:100%;margin:.5rem 0;font-size:.92rem}td,th{text-align:left;padding:.25rem .5rem;
border-bottom:1px solid #8884;vertical-align:top;overflow-wrap:anywhere}.mark{font-weight:700}.standin{font-weight:700;
border:2px dotted;padding:0 .3rem}ul{margin:.3rem 0}@media(max-width:40rem){thead{display:none}tr{display:block;border:1px
solid #8884;margin:.4rem 0}
td{display:flex;gap:.6rem;border:0}td::before{content:attr(data-name);min-width:6rem;opacity:.75}
}@media(max-width:66rem){summary{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}summary span:empty{display:none}
summary b{min-width:100%}}
""".replace("\n", "")
_SCRIPT = """
const list=document.getElementById('hosts'),rows=[...list.children],text=document.getElementById('text'),
which=document.getElementById('which'),order=document.getElementById('order'),count=document.getElementById('count');
function show(){const words=text.value.toLowerCase().split(/\\s+/).filter(Boolean);let shown=0;
for(const row of rows){const fits=words.every(word=>row.dataset.text.includes(word))&&
(!which.value||row.dataset.is===which.value);
row.hidden=!fits;shown+=fits}count.textContent=shown+' of '+rows.length+' hosts'}
function sort(){const key=order.value;rows.sort((a,b)=>key==='free'?a.dataset.free-b.dataset.free:
a.dataset[key].localeCompare(b.dataset[key],undefined,{numeric:true})||a.dataset.name.localeCompare(b.dataset.name,undefined,
{numeric:true}));list.append(...rows)}
text.oninput=which.onchange=show;order.onchange=sort;sort();show();
"""
_MARKS = {"as declared": "✓", "look at it": "▲", "not reached": "✕"}
_CLASSES = {"as declared": "well", "look at it": "look", "not reached": "lost"}
# The order in which the list is sorted at first: what needs attention comes first.
_URGENCY = {"not reached": "1", "look at it": "2", "as declared": "3"}


def page(hosts: list[HostStatus], at: str, rollouts: Sequence[dict[str, Any]] = ()) -> str:
    """Return one self-contained HTML page: it loads nothing from any server."""
    options = "".join(f"<option>{html.escape(word)}</option>" for word in _MARKS)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        " script-src 'unsafe-inline'\"><title>Fleet</title>"
        f"<style>{_STYLE}</style></head><body><h1>Fleet</h1><p>{html.escape(summary(hosts))}<br>as of {html.escape(at)}</p>"
        '<div class="bar"><input id="text" type="search" placeholder="Host, domain, image, digest, note" aria-label="Filter">'
        f'<select id="which" aria-label="Which hosts"><option value="">all hosts</option>{options}</select>'
        '<select id="order" aria-label="Order"><option value="urgency">what to look at first</option><option value="name">name'
        '</option><option value="xen">Xen</option><option value="generation">generation</option><option value="free">free memory'
        '</option></select><span id="count" role="status"></span></div>'
        f'<div id="hosts">{"".join(map(_host_part, hosts))}</div>{page_part(list(rollouts))}'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _host_part(host: HostStatus) -> str:
    words = [host.name, host.word, host.xen, host.applied, host.rollout, *host.notes]
    words += ["security updates"] if host.security_updates else []
    for domain in host.domains:
        words += [domain.name, domain.state, domain.image, domain.sha256, domain.health, domain.drift]
        words += ["stand-in"] if domain.standin else []
    data = {
        "text": " ".join(words).lower(), "is": host.word, "name": host.name, "xen": host.xen, "free": str(host.free_memory),
        "generation": host.generation, "urgency": _URGENCY[host.word],
    }  # fmt: skip
    attributes = "".join(f' data-{key}="{html.escape(value)}"' for key, value in data.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in host.notes)
    facts = [f"Xen {host.xen}" if host.xen else "", f"{host.free_memory} MiB free" if host.reached else ""]
    domains = f"{len(host.domains)} domain{'s' * (len(host.domains) != 1)}"
    security = f", {host.security_updates} security" if host.security_updates else ""
    facts += [f"{host.updates} update{'s' * (host.updates != 1)}{security}" if host.updates > 0 else ""]
    facts += [f"generation {host.generation}" if host.generation else "", domains if host.reached else ""]
    applied = f"{host.applied}, rollout {host.rollout}" if host.rollout else host.applied
    return (
        f'<details class="{_CLASSES[host.word]}"{attributes}{"" if host.well else " open"}>'
        f"<summary><b>{html.escape(host.name)}</b>"
        f'<span class="mark">{_MARKS[host.word]} {html.escape(host.word)}</span>'
        + "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
        + f"</summary>{f'<ul>{notes}</ul>' if notes else ''}"
        + (f"<p>Applied {html.escape(applied)}</p>" if host.applied else "")
        + (_domains_part(host.domains) if host.domains else "")
        + "</details>"
    )


def _domains_part(domains: list[DomainStatus]) -> str:
    names = ("Domain", "State", "Image", "Digest", "Memory", "Reached by", "Reaches", "Health", "Drift")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for domain in domains:
        standin = ' <span class="standin">STAND-IN</span>' if domain.standin else ""
        mark = "✓ " if domain.health == "healthy" else "✕ " if domain.health.startswith("unhealthy") else ""
        cells = [
            html.escape(domain.name), html.escape(domain.state), html.escape(domain.image) + standin,
            html.escape(domain.sha256[:12]), f"{domain.memory} MiB" if domain.memory else "",
            html.escape(_shown(domain.accept)),
            html.escape(_shown(domain.reach)) + ("" if domain.antispoofing else ", from any address"),
            mark + html.escape(domain.health), f"▲ {html.escape(domain.drift)}" if domain.drift else "none",
        ]  # fmt: skip
        rows.append("<tr>" + "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(names, cells)) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [dict(one) for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER else 0


def _line(text: Any) -> str:
    words = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:300]
