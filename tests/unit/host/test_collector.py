"""The collector on a simulated Dom0, with the files that the role installs and nothing else of the collection."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Health
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import generation_folder
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import Generation
from ansible_collections.unikernels.xen.plugins.module_utils.host import audit_facts, collector

from .test_metrics import DNS, WWW, value

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/xen_monitor"
XL_INFO = (
    "nr_cpus                : 4\nxen_version            : 4.17.5\ntotal_memory           : 2559\nfree_memory            : 700\n"
    "xen_commandline        : placeholder dom0_mem=1024M\n"
)


@pytest.fixture
def dom0(tmp_path, monkeypatch):
    """A Xen host with two domains; ``collect()`` reads it like the timer and returns the samples."""
    facts = [json.loads(json.dumps(one)) for one in (WWW, DNS)]
    monkeypatch.setattr(collector, "available", lambda: True)
    monkeypatch.setattr(collector, "must", lambda *_words: XL_INFO)
    monkeypatch.setattr(collector, "observe", lambda: None)
    monkeypatch.setattr(collector, "domain_facts", lambda *_arguments: json.loads(json.dumps(facts)))
    monkeypatch.setattr(collector, "waiting_updates", lambda: {"openssl": True, "less": False})
    monkeypatch.setattr(collector.start_times, "of", lambda domids: dict.fromkeys(domids, 1764200000.0))
    monkeypatch.setattr(collector, "_disks", lambda: {3: [{"disk": "xvda", "read": 512, "written": 0}]})
    monkeypatch.setattr(collector, "_drops", lambda: {"vif_vif3.0": 4, "common": 1})
    monkeypatch.setattr(collector, "_PACKAGES", (str(tmp_path / "status"),))
    monkeypatch.setattr(collector, "GENERATIONS", str(tmp_path / "generations"))
    monkeypatch.setattr(collector, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(collector.console, "path_of", lambda name: str(tmp_path / f"guest-{name}.log"))
    (tmp_path / "status").write_text("")
    (tmp_path / "images" / "names").mkdir(parents=True)
    (tmp_path / "images" / ("a" * 64 + ".xen")).write_bytes(b"x" * 100_000)
    domain = {"name": "www", "memory": 64, "health": {"tcp": f"127.0.0.1:{free_port()}"}}
    generation_folder.record(str(tmp_path / "generations"), Generation(0, domains=[domain]), check=False)

    def collect(health=True):
        memory = tmp_path / "memory.json"
        reading = collector.Collector(str(tmp_path / "images"), collector._remembered(str(memory)), health)
        samples = reading.run()
        memory.write_text(json.dumps(reading.kept))
        return samples

    collect.folder = tmp_path
    return collect


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_host_and_its_domains(dom0):
    samples = dom0()
    assert value(samples, "xen_host_info", xen="4.17.5") == 1
    assert value(samples, "xen_host_memory_free_bytes") == 700 << 20
    assert value(samples, "xen_host_updates_pending", kind="security") == 1
    assert value(samples, "xen_host_updates_pending", kind="all") == 2
    assert value(samples, "xen_host_images") == 1
    assert value(samples, "xen_host_image_store_bytes") >= 100_000
    assert value(samples, "xen_host_generation") == 1
    assert value(samples, "xen_domain_start_time_seconds", domain="www") == 1764200000
    assert value(samples, "xen_domain_disk_read_bytes_total", domain="www", disk="xvda") == 512
    assert value(samples, "xen_domain_network_spoofed_packets_total", domain="www") == 4
    assert value(samples, "xen_host_filtered_packets_total", chain="common") == 1
    # Nothing listens there.
    assert value(samples, "xen_domain_healthy", domain="www") == 0
    assert {one.value for one in samples if one.name == "xen_collector_success"} == {1}


def test_a_service_that_answers_is_healthy_and_its_time_is_taken(monkeypatch):
    monkeypatch.setattr(collector, "lacking", lambda _health: None)
    monkeypatch.setattr(collector, "ask", lambda _health: time.sleep(0.01))
    healthy, seconds = collector._asked(Health(kind="tcp", target="", within=1))
    assert healthy and 0.01 <= seconds < 5


def test_without_health_checks_none_is_made(dom0, monkeypatch):
    monkeypatch.setattr(collector, "ask", lambda _health: pytest.fail("asked"))
    assert [one for one in dom0(health=False) if one.name == "xen_domain_healthy"] == []


def test_a_part_that_can_not_be_read_takes_no_other_away(dom0, monkeypatch, capsys):
    def fails():
        raise audit_facts.UpdatesError("pending updates are not known:\nE: dpkg was interrupted")

    monkeypatch.setattr(collector, "waiting_updates", fails)
    samples = dom0()
    assert value(samples, "xen_collector_success", part="updates") == 0
    assert value(samples, "xen_collector_success", part="domains") == 1
    assert [one for one in samples if one.name == "xen_host_updates_pending"] == []
    # One line, and of the priority that the unit lets through.
    assert capsys.readouterr().err == ("<4>unikernels-metrics: updates: pending updates are not known: E: dpkg was interrupted\n")


def test_apt_is_asked_again_only_when_packages_or_lists_have_changed(dom0, monkeypatch):
    calls = []
    monkeypatch.setattr(collector, "waiting_updates", lambda: calls.append(1) or {"less": False})
    dom0(), dom0()
    assert len(calls) == 1
    os.utime(dom0.folder / "status", (1, 1))
    assert value(dom0(), "xen_host_updates_pending", kind="all") == 1
    assert len(calls) == 2


def test_what_a_domain_prints_is_counted_across_the_logs_rotation(dom0):
    log = dom0.folder / "guest-www.log"

    def printed():
        return value(dom0(), "xen_domain_console_bytes_total", domain="www")

    log.write_bytes(b"x" * 1000)
    assert printed() == 0
    log.write_bytes(b"x" * 1500)
    assert printed() == 500
    log.write_bytes(b"x" * 200)
    assert printed() == 700


@pytest.mark.parametrize("text", ["", "[]", "{", '{"consoles": 3, "lock": {}, "updates": []}', "[" * 5000])
def test_a_memory_of_any_form_is_no_reason_to_fail(dom0, text):
    (dom0.folder / "memory.json").write_text(text)
    assert {one.value for one in dom0() if one.name == "xen_collector_success"} == {1}


def test_the_locks_age_is_that_of_its_holder(dom0, monkeypatch):
    (dom0.folder / "lock").write_text("")
    inode = os.stat(dom0.folder / "lock").st_ino
    holder = {"pid": 812}
    read = collector.read
    monkeypatch.setattr(
        collector, "read",
        lambda path: f"1: FLOCK  ADVISORY  WRITE {holder['pid']} 00:19:{inode} 0 EOF\n" if path == "/proc/locks" else read(path),
    )  # fmt: skip
    clock = [1000.0]
    monkeypatch.setattr(collector.time, "time", lambda: clock[0])
    ages = []
    for now, pid in ((1000, 812), (1090, 812), (1100, 900)):
        clock[0], holder["pid"] = now, pid
        ages.append(value(dom0(), "xen_host_lock_held_seconds"))
    assert ages == [0, 90, 0]


def test_a_host_without_xen_has_no_domains_and_no_failure(dom0, monkeypatch):
    monkeypatch.setattr(collector, "available", lambda: False)
    samples = dom0()
    assert value(samples, "xen_host_under_xen") == 0
    assert [one for one in samples if one.name.startswith("xen_domain_state")] == []
    assert {one.value for one in samples if one.name == "xen_collector_success"} == {1}


def test_what_the_role_installs_is_all_that_the_collector_imports(tmp_path):
    """Dom0 has neither Ansible nor the collection."""
    modules = yaml.safe_load((ROLE / "vars/main.yml").read_text())["xen_monitor_modules"]
    for name in modules:
        target = tmp_path / "module_utils" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / "plugins/module_utils" / name).read_bytes())
    folders = {folder["path"] for folder in yaml.safe_load((ROLE / "vars/main.yml").read_text())["xen_monitor_library_folders"]}
    assert {os.path.dirname(f"/usr/local/lib/unikernels-metrics/module_utils/{name}") for name in modules} <= folders
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        + "".join(f"import module_utils.{name[:-3].replace('/', '.')}\n" for name in modules)
        + "from module_utils.host.collector import main\n"
        + f"code = main({str(tmp_path)!r}, '/nonexistent', True, {str(tmp_path / 'memory.json')!r})\n"
        + "print(code, [name for name in sys.modules if 'ansible' in name])"
    )
    # Without a PATH: this machine's own apt would take seconds.
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={"PATH": ""})
    assert done.stdout == "0 []\n", done.stderr
    text = (tmp_path / "unikernels_xen.prom").read_text()
    assert "xen_host_under_xen 0\n" in text
    assert os.stat(tmp_path / "unikernels_xen.prom").st_mode & 0o777 == 0o644
    assert os.stat(tmp_path / "memory.json").st_mode & 0o777 == 0o600


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collector, "waiting_updates", dict)
    assert collector.main(str(tmp_path / "missing"), str(tmp_path), False, str(tmp_path / "memory.json")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"<3>unikernels-metrics: {tmp_path}/missing: No such file or directory"
