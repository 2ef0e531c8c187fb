"""A fleet's status: every host is a row, what needs attention comes first, and the page is self-contained."""

import html.parser
import json
import re

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.status import (
    PARTS,
    DomainStatus,
    HostStatus,
    as_json,
    page,
    status_of,
    summary,
    table,
)
from hypothesis import given
from hypothesis import strategies as st

A, B = "a" * 64, "b" * 64


def domain(name="www", sha256=A, **more):
    return {"name": name, "domid": 3, "state": "running", "owner": "unikernels.xen", "memory": 32,
            "image": {"sha256": sha256, "name": "web", "standin": False}, **more}  # fmt: skip


def declared(name="www", **more):
    return {"name": name, "image": "web", "sha256": A, "state": "running", "memory": 32, **more}


def results(domains=(), wanted=(), health=None, **host):
    facts = {"xen_version": "4.17.7", "free_memory": 900, "under_xen": True, "pending_reboot": False, **host}
    generation = {"number": 7, "time": "2026-11-27T10:00:00Z", "by": "alice@c", "result": "applied", "domains": list(wanted)}
    return {"host": {"host": facts}, "domains": {"domains": [{"name": "Domain-0", "domid": 0}, *domains]},
            "generations": {"generations": [generation]}, "health": health or {"healthy": ["www"]}}  # fmt: skip


def test_a_host_as_declared():
    host = status_of("xen1", results([domain(), domain("other", owner="other")], [declared()]))
    assert host.well and host.word == "as declared"
    (www,) = host.domains
    assert (www.health, www.drift, www.sha256) == ("healthy", "", A)
    assert (host.generation, host.applied) == ("7", "2026-11-27T10:00:00Z alice@c")


def test_what_may_reach_what_is_a_table_of_each_host():
    limited = domain(accept=["tcp/443", "tcp/22 from <b>"], reach=[])
    host = status_of(
        "xen1", results([limited, domain("open", interfaces=[{"antispoofing": False}])], [declared(), declared("open")])
    )
    opened, www = host.domains
    assert (www.accept, www.reach, opened.accept, opened.reach) == (["tcp/443", "tcp/22 from <b>"], [], None, None)
    shown = page([host], "now")
    assert '<td data-name="Reached by">tcp/443, tcp/22 from &lt;b&gt;</td><td data-name="Reaches">nothing</td>' in shown
    assert '<td data-name="Reached by">everything</td><td data-name="Reaches">everything, from any address</td>' in shown
    assert json.loads(as_json([host], "now"))["hosts"][0]["domains"][1]["reach"] == []


def test_drift_and_health_and_reboots_are_said():
    wanted = [declared(), declared("dns"), declared("mail", state="stopped")]
    health = {"failed": True, "msg": "domain www: not healthy after 5 s: no answer // domain x: y"}
    running = [domain(sha256=B, memory=64), domain("mail", state="stopped"), domain("extra"), domain("www~prev")]
    host = status_of("xen1", results(running, wanted, health, pending_reboot=True))
    drift = {one.name: one.drift for one in host.domains}
    assert drift == {
        "www": "runs another image than declared; has 64 MiB, declared 32",
        "dns": "is missing, declared running",
        "mail": "",
        "extra": "is not declared",
        "www~prev": "is left of a replacement",
    }
    assert host.notes == ["waits for a reboot"]
    assert next(one for one in host.domains if one.name == "www").health.startswith(
        "unhealthy: domain www: not healthy after 5 s"
    )
    answers = {"answers": [{"name": "www", "healthy": False, "msg": "refused"}], "healthy": []}
    assert status_of("xen1", results([domain()], [declared()], answers)).domains[0].health == "unhealthy: refused"


def test_every_option_that_differs_is_drift_and_memory_may_be_text():
    answers = results([domain(), domain("dns", memory=64)], [declared(), declared("dns", memory="32")])
    answers["drift"] = {"domains": [
        {"name": "www", "differs": ["image", "memory", "arguments", "interfaces[0].rate"]}, {"name": "dns", "differs": []},
        {"name": "gone", "differs": ["cap"]}, {"differs": 3}, 7,
    ]}  # fmt: skip
    dns, www = status_of("xen1", answers).domains
    assert www.drift == "has other arguments, interfaces[0].rate than declared"
    assert dns.drift == "has 64 MiB, declared 32"
    answers["drift"] = {"failed": True, "msg": "domain www: kernel: /s/x.xen does not exist"}
    assert status_of("xen1", answers).notes == ["drift: domain www: kernel: /s/x.xen does not exist"]


def test_pending_updates_are_shown_but_are_no_drift():
    host = status_of("xen1", results([domain()], [declared()], updates=["a", "b", "c"], security_updates=["b"]))
    assert host.well and (host.updates, host.security_updates) == (3, 1)
    assert "3 (1 security)" in table([host])[1] and "<span>3 updates, 1 security</span>" in page([host], "now")
    assert json.loads(as_json([host], "now"))["hosts"][0]["security_updates"] == 1
    unknown = status_of("xen1", results([domain()], [declared()], updates=[], updates_problem="E: dpkg was\ninterrupted"))
    assert unknown.notes == ["updates: E: dpkg was interrupted"] and unknown.updates == -1
    assert status_of("xen1", results(updates="many")).updates == -1
    huge = status_of("xen1", results(free_memory=10**400))
    assert huge.free_memory == 0 and len(table([huge])[1]) < 100


def test_a_host_that_is_not_reached_is_a_row():
    host = status_of("dead", {"host": {"unreachable": True, "msg": "Connection\nrefused"}})
    assert (host.reached, host.word, host.notes) == (False, "not reached", ["Connection refused"])
    assert status_of("silent", {}).word == "not reached"
    failed = status_of("x", {**results(), "domains": {"failed": True, "msg": "xl: no"}})
    assert failed.notes == ["domains: xl: no"]


def fleet(count):
    hosts = [
        HostStatus(f"xen{number}", xen="4.17", domains=[DomainStatus("www", "running", health="healthy")])
        for number in range(count)
    ]
    hosts[count // 2] = HostStatus("broken", False, ["no route"])
    return hosts


def test_the_table_shows_what_to_look_at_first():
    lines = table(fleet(5))
    assert lines[1].startswith("broken") and lines[2] == "    no route"
    assert len(lines) == 1 + 5 + 1 + 1
    assert lines[-1] == "5 hosts: 4 as declared, 0 to look at, 1 not reached; 4 domains, 0 unhealthy"
    lines = table(fleet(1000))
    assert len(lines) == 5 and lines[-2] == "and 999 hosts as declared"


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "action")]


def test_the_page_asks_nobody_and_shows_text_as_text():
    evil = '"><script>alert(1)</script><img src=http://x/>'
    hosts = fleet(5)
    hosts.append(HostStatus(evil, notes=[evil], domains=[DomainStatus(evil, evil, evil, evil, True, evil, evil)]))
    text = page(hosts, "now")
    links = Links()
    links.feed(text)
    assert links.found == [] and links.tags.count("script") == 1 and "img" not in links.tags
    assert "default-src 'none'" in text
    assert "STAND-IN" in text
    # Not by colour alone: each state has a sign and a word.
    assert "✕ not reached" in text and "✓ as declared" in text
    assert len(page(fleet(1000), "now")) < 1_500_000
    assert json.loads(as_json(hosts, "now"))["summary"] == summary(hosts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["host", "domains", "generations", "health", "failed", "msg", "name", "image", "state", "sha256", "domid",
                         "answers", "healthy", "number", "problems", "memory", "unreachable", "result", "differs",
                         "updates", "security_updates", "updates_problem"]), inner, max_size=5),
    max_leaves=14,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(PARTS), JSON))
def test_any_answer_is_a_row(answers):
    host = status_of("x", answers)
    text = "\n".join(table([host])) + page([host], "now") + as_json([host], "now")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


@pytest.mark.parametrize("odd", ["\x1b[2J", "\x9b2J", "\u202etxt", "\u2066", "\u2028", "\ud800"])
def test_nothing_that_a_host_says_moves_a_cursor_or_turns_a_line(odd):
    domain = {"name": odd, "state": odd, "image": {"name": odd, "sha256": odd}}
    newest = {"number": odd, "rollout": odd, "time": odd, "domains": [{"name": odd, "state": odd, "sha256": odd}]}
    answers = {
        "host": {"host": {"xen_version": odd, "under_xen": True}},
        "domains": {"domains": [domain]},
        "generations": {"generations": [newest], "problems": [odd]},
        "health": {"answers": [{"name": odd, "msg": odd}]},
    }
    host = status_of("x", answers)
    assert host.domains[0].health.startswith("unhealthy")
    for text in (*table([host]), page([host], "now").replace("\n", "")):
        assert text.isprintable()


@pytest.mark.parametrize("odd", [1, True, "x", {"a": 1}, [1, None]])
def test_an_answer_of_another_type_is_a_row(odd):
    answers = {"host": {"host": {}}, "generations": {"generations": [{}], "problems": odd}, "health": {"healthy": odd}}
    assert status_of("x", answers).reached
