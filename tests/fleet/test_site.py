"""site.yml, status.yml and rollback.yml over a fleet of simulated hosts."""

import json

MAX_TASKS, MAX_CALLS = 40, 8


def tasks(counts):
    return sum(counts[key] for key in ("ok", "skipped", "failed", "rescued", "ignored"))


def test_site_asks_little_of_a_host_that_is_as_declared(fleet):
    fleet.playbook("site.yml")
    before = {name: fleet.calls(name) for name in fleet.names}
    again = fleet.playbook("site.yml")
    assert {counts["changed"] for counts in again.counts.values()} == {0}, again.stdout[-6000:]
    # Also on the first host of the play, which runs those for the whole fleet too.
    assert max(tasks(again.counts[name]) for name in fleet.names) <= MAX_TASKS, again.counts
    calls = {name: fleet.calls(name) - before[name] for name in fleet.names}
    assert max(calls.values()) <= MAX_CALLS, calls


def test_status_has_a_row_for_each_host_also_for_one_that_is_lost(fleet, tmp_path):
    fleet.dead(fleet.names[1])
    report, html = tmp_path / "fleet.json", tmp_path / "fleet.html"
    fleet.playbook("playbooks/status.yml", "-e", f"status_json={report}", "-e", f"status_html={html}", check=False)
    hosts = {host["name"]: host for host in json.loads(report.read_text())["hosts"]}
    assert list(hosts) == fleet.names
    assert [name for name, host in hosts.items() if not host["reached"]] == [fleet.names[1]]
    for name in fleet.names[2:]:
        assert [domain["name"] for domain in hosts[name]["domains"]] == ["www"]
        assert hosts[name]["domains"][0]["health"] == "healthy" and not hosts[name]["domains"][0]["drift"], hosts[name]
        assert (hosts[name]["updates"], hosts[name]["security_updates"]) == (2, 1), hosts[name]
    assert html.read_text().count("<details") == len(fleet.names)


def test_a_rollback_to_the_previous_generation_changes_nothing_the_second_time(fleet):
    fleet.rollout(image="two", rollout={"waves": ["100%"]})
    fleet.playbook("playbooks/rollback.yml")
    assert fleet.served() == {"one": fleet.names}
    again = fleet.playbook("playbooks/rollback.yml")
    assert fleet.served() == {"one": fleet.names}
    assert {counts["changed"] for counts in again.counts.values()} == {0}, again.stdout[-6000:]
