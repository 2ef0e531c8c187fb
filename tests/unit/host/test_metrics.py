"""The metrics of a host: their text, their values for each domain, and what alerts and the dashboard make of them."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.host import metrics
from ansible_collections.unikernels.xen.plugins.module_utils.network import antispoof
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = ROOT / "roles/xen_monitor/files"
SERIES = re.compile(r'[a-z_]+(?:\{[a-z]+="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\n"])*")*\})? -?[0-9.e+-]+')
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian's package prometheus)")

HOST = {
    "xen": "4.17.5",
    "kernel": "6.1.0-41-amd64",
    "debian": "12",
    "under_xen": True,
    "reboot_pending": False,
    "boot_unconfirmed": False,
    "boot_returned": False,
    "cpus": 4,
    "memory": 2560,
    "free_memory": 700,
    "lists_read": 1764200000,
    "lock_held": 0,
}
WWW = {
    "name": "www",
    "domid": 3,
    "state": "running",
    "shutdown_reason": "",
    "owner": "unikernels.xen",
    "autostart": True,
    "restarts": {"count": 2, "gave_up": False},
    "image": {"name": "web", "sha256": "a" * 64, "standin": False},
    "cpu_seconds": 12.5,
    "vcpus": 1,
    "memory": 64,
    "started": 1764201000,
    "printed": 4096,
    "disks_used": [{"disk": "xvda", "read": 512, "written": 1024}],
    "traffic": [
        {
            "device": "vif3.0",
            "sent_bytes": 10,
            "sent_packets": 1,
            "received_bytes": 20,
            "received_packets": 2,
            "dropped_packets": 0,
            "spoofed": 7,
        }
    ],
}
DNS = {**WWW, "name": "dns", "domid": None, "state": "stopped", "image": {}, "autostart": False}


def simulated():
    """Every metric of a host with a running and a defined domain."""
    generation = {"number": 2, "applied": True, "domains": {"www": {"memory": 64}}}
    return [
        *metrics.host_samples({**HOST, "images": 3, "image_bytes": 1 << 20}),
        *metrics.update_samples(0, 4),
        *metrics.generation_samples([{**generation, "number": 1}, generation]),
        *metrics.domain_samples([WWW, DNS]),
        *metrics.filter_samples({"common_arp": 3, "vif_vif3.0": 7}),
        *metrics.health_samples({"www": (True, 0.012)}),
        metrics.sample("xen_collector_success", 1, part="host"),
        metrics.sample("xen_collector_duration_seconds", 0.5),
        metrics.sample("xen_collector_timestamp_seconds", 1764202000),
    ]


def value(samples, name, **labels):
    (found,) = [one.value for one in samples if one.name == name and labels.items() <= dict(one.labels).items()]
    return found


def test_every_metric_of_the_table_is_written_and_documented():
    assert {one.name for one in simulated()} == set(metrics.FAMILIES)
    page = (ROOT / "docs/monitoring.md").read_text()
    assert [name for name in metrics.FAMILIES if f"`{name}`" not in page] == []


@promtool
def test_names_and_text_are_as_prometheus_wants_them():
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=metrics.text_of(simulated()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_domain_in_its_own_view():
    samples = simulated()
    assert value(samples, "xen_domain_network_receive_bytes_total", domain="www", interface="0") == 20
    assert value(samples, "xen_domain_network_transmit_bytes_total", domain="www") == 10
    assert value(samples, "xen_domain_network_spoofed_packets_total", domain="www") == 7
    assert value(samples, "xen_domain_memory_bytes", domain="www") == 64 << 20
    assert value(samples, "xen_domain_info", domain="www", image="web", digest="a" * 64, autostart="true", standin="false") == 1
    assert value(samples, "xen_domain_state", domain="dns", state="stopped") == 1
    assert value(samples, "xen_domain_state", domain="dns", state="running") == 0
    assert value(samples, "xen_host_domains", state="running") == 1
    # A stopped domain has no CPU time, which would look like a counter reset.
    assert [one for one in samples if one.name == "xen_domain_cpu_seconds_total" and ("domain", "dns") in one.labels] == []


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("running", "", "running"),
        ("shutdown", "crash", "crashed"),
        ("shutdown", "poweroff", "shutdown"),
        ("rebooting", "", "shutdown"),
        ("stopped", "", "stopped"),
    ],
)
def test_a_state_is_one_of_the_table(state, reason, expected):
    assert metrics.state_of({"state": state, "shutdown_reason": reason}) == expected


def test_what_is_not_known_is_left_out():
    names = {one.name for one in metrics.host_samples({key: HOST[key] for key in list(HOST)[:7]})}
    assert "xen_host_memory_bytes" not in names
    assert "xen_host_package_lists_timestamp_seconds" not in names


def test_a_series_that_is_there_twice_is_written_once():
    text = metrics.text_of(metrics.domain_samples([WWW, {**WWW, "domid": 4, "cpu_seconds": 99}]))
    assert text.count('xen_domain_cpu_seconds_total{domain="www"}') == 1
    assert 'xen_domain_cpu_seconds_total{domain="www"} 12.5' in text


@given(st.text(), st.floats(min_value=0, max_value=1e18))
def test_whatever_a_domain_is_called_the_text_can_be_read(name, seconds):
    text = metrics.text_of(metrics.domain_samples([{**WWW, "name": name, "cpu_seconds": seconds}]))
    # Only '\n' ends a line here; str.splitlines would split at more.
    rows = text.split("\n")
    assert rows.pop() == ""
    assert [row for row in rows if not row.startswith("# ") and not SERIES.fullmatch(row)] == []
    text.encode("utf-8")


def test_a_generation_is_that_of_the_last_change():
    rows = [
        {"number": number, "applied": True, "domains": {"www": www, "dns": "same"}}
        for number, www in ((1, "old"), (2, "new"), (3, "new"))
    ]
    samples = metrics.generation_samples(rows)
    assert value(samples, "xen_domain_generation", domain="www") == 2
    assert value(samples, "xen_domain_generation", domain="dns") == 1
    assert value(samples, "xen_host_generation") == 3
    assert metrics.generation_samples([]) == []


def test_drops_are_those_of_rules_that_drop():
    def rule(chain, *statements):
        return {"rule": {"chain": chain, "expr": list(statements)}}

    counter = {"counter": {"packets": 5, "bytes": 300}}
    listing = {
        "nftables": [
            {"metainfo": {}},
            rule("vif_vif3.0", {"match": {}}, counter, {"drop": None}),
            rule("vif_vif3.0", counter, {"drop": None}),
            rule("vif_vif3.0", counter, {"accept": None}),
            rule("common", {"drop": None}),
        ]
    }
    assert metrics.dropped(listing) == {"vif_vif3.0": 10}
    assert metrics.dropped({}) == metrics.dropped([]) == {}


@pytest.mark.parametrize(
    ("before", "size", "grown"), [(None, 500, 0), (100, 500, 400), (500, 500, 0), (500, 20, 20), ("x", 5, 0)]
)
def test_a_log_that_began_again_has_grown_by_what_it_has(before, size, grown):
    assert metrics.grown(before, size) == grown


def test_the_holder_of_the_lock_is_not_one_that_waits():
    locks = (
        "1: POSIX  ADVISORY  WRITE 700 00:19:77 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 812 00:19:77 0 EOF\n"
        "2: -> FLOCK  ADVISORY  WRITE 900 00:19:77 0 EOF\n"
    )
    assert metrics.lock_holder(locks, 77) == 812
    assert metrics.lock_holder(locks, 7) == 0


# -- alerts and the dashboard ----------------------------------------------------------------------


def named(text):
    return set(re.findall(r"\bxen_(?:host|domain|collector)_[a-z_]+", text))


@pytest.mark.parametrize("name", ["prometheus-rules.yml", "grafana-dashboard.json"])
def test_rules_and_dashboard_name_metrics_that_exist(name):
    assert named((FILES / name).read_text()) - set(metrics.FAMILIES) == set()


def test_the_dashboard_has_no_two_panels_in_one_place():
    dashboard = json.loads((FILES / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _y in cells)


# Alert -> the series that must fire it within an hour, in promtool's notation, and one that must not.
ALERTS = {
    "XenHostWithoutXen": ("xen_host_under_xen", "0x60", "1x60"),
    "XenMetricsStale": ("xen_collector_timestamp_seconds", "0x60", "0+60x60"),
    "XenCollectorFailed": ('xen_collector_success{part="domains"}', "0x60", "1x60"),
    "XenHostReturnedFromBoot": ("xen_host_boot_returned", "1x60", "0x60"),
    "XenHostBootUnconfirmed": ("xen_host_boot_unconfirmed", "1x60", "0x60"),
    "XenHostLockHeld": ("xen_host_lock_held_seconds", "4000x60", "100x60"),
    "XenHostDeclarationNotApplied": ("xen_host_generation_applied", "0x60", "1x60"),
    "XenDomainUnhealthy": ('xen_domain_healthy{domain="www"}', "0x60", "1x60"),
    "XenDomainSlow": ('xen_domain_health_check_duration_seconds{domain="www"}', "3x60", "0.1x60"),
    "XenDomainRestarts": ('xen_domain_restarts_total{domain="www"}', "0+1x60", "1x60"),
    "XenDomainGivenUp": ('xen_domain_restarts_given_up{domain="www"}', "1x60", "0x60"),
    "XenDomainSpoofs": ('xen_domain_network_spoofed_packets_total{domain="www",interface="0"}', "0+600x60", "0+1x60"),
    "XenDomainFloodsConsole": ('xen_domain_console_bytes_total{domain="www"}', "0+6000000x60", "0+6000x60"),
}
# Alerts that take days, and one with two series.
LONG = {
    "XenHostRebootPending": ("xen_host_reboot_pending", "1x100", "0x100"),
    "XenHostSecurityUpdates": ('xen_host_updates_pending{kind="security"}', "1x100", "0x100"),
    "XenHostPackageListsOld": ("xen_host_package_lists_timestamp_seconds", "0x200", "0+3600x200"),
}


def alerts_firing(tmp_path, series, interval, at):
    """Return the alerts that fire at a time, evaluated by promtool: it prints them because none are expected."""
    asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": at, "exp_samples": []}
    inputs = [{"series": text, "values": values} for text, values in series]
    test = {
        "rule_files": [str(FILES / "prometheus-rules.yml")],
        "evaluation_interval": interval,
        "tests": [{"interval": interval, "input_series": inputs, "promql_expr_test": [asked]}],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert "got:" in output or not done.returncode, output
    return re.findall(r'alertname=\\?"(\w+)', output)


def with_instance(series):
    return series.replace("{", '{instance="a",') if "{" in series else series + '{instance="a"}'


@promtool
def test_each_alert_fires_for_its_reason_alone(tmp_path):
    for cases, interval, at in ((ALERTS, "1m", "55m"), (LONG, "1h", "96h")):
        bad = [(with_instance(series), values) for series, values, _good in cases.values()]
        good = [(with_instance(series), values) for series, _bad, values in cases.values()]
        assert sorted(alerts_firing(tmp_path, good, interval, at)) == []
        if cases is LONG:  # eight days old in the end
            bad[-1] = (bad[-1][0], "-800000x200")
        assert sorted(alerts_firing(tmp_path, bad, interval, at)) == sorted(cases)


@promtool
def test_a_domain_that_is_not_to_run_is_not_reported_as_down(tmp_path):
    def domain(name, autostart):
        labels = f'instance="a",domain="{name}"'
        return [
            (f'xen_domain_state{{{labels},state="running"}}', "0x60"),
            (f'xen_domain_info{{{labels},autostart="{autostart}"}}', "1x60"),
        ]

    assert alerts_firing(tmp_path, domain("dns", "false"), "1m", "30m") == []
    assert alerts_firing(tmp_path, domain("www", "true"), "1m", "30m") == ["XenDomainDown"]


def test_every_alert_is_tried():
    rules = yaml.safe_load((FILES / "prometheus-rules.yml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert names == {*ALERTS, *LONG, "XenDomainDown"}


@pytest.mark.skipif(
    not shutil.which("nft") or subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs nft and network namespaces",
)
def test_drops_of_the_real_filter(tmp_path):
    """The table as the role loads it, with one vif, in nft's own JSON."""
    rules = (ROOT / "roles/xen_host/files/antispoof.nft").read_text()
    rules += antispoof.added(antispoof.vif("vif3.0", "00:16:3e:00:00:01", "192.0.2.10"))
    (tmp_path / "rules.nft").write_text(rules)
    script = f"nft -f {tmp_path}/rules.nft && nft -j list table bridge unikernels"
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "not supported" in done.stderr:
        pytest.skip("this kernel has no packet filter of bridges")
    drops = metrics.dropped(json.loads(done.stdout))
    assert drops["vif_vif3.0"] == 0 and {"guest", "common", "common_arp", "common_icmp6"} <= set(drops)
    assert {dict(one.labels)["chain"] for one in metrics.filter_samples(drops)} == set(drops) - {"vif_vif3.0"}
