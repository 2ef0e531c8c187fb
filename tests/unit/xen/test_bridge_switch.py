"""A network change is undone automatically: the real program, with our own commands instead of ifupdown."""

import os
import subprocess
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network import switch
from ansible_collections.unikernels.xen.plugins.module_utils.network.switch import BACK, KEPT, NOTHING, UP, FileChange, Switch
from ansible_collections.unikernels.xen.plugins.module_utils.xen import bridge_switch

WITHIN = 20


class Host:
    def __init__(self, folder, ifup="exit 0"):
        self.folder, self.file, self.units = folder / "network", folder / "interfaces", folder / "units"
        tools = folder / "tools"
        for one in (self.folder, self.units, tools):
            one.mkdir()
        for name in ("ifdown", "ip", "systemctl", "sync", "sleep"):
            self.tool(tools / name, "exit 0")
        self.tool(tools / "ifup", f'echo "ifup $*" >>{folder}/log\n{ifup}')
        self.file.write_text("old\n")
        scripts = {"down": ["ifdown --force ens3"], "up": ["ifup ens3 xenbr0"], "up-old": ["ifup ens3"]}
        (self.folder / "files").mkdir()
        for name, (text, mode) in Switch((FileChange(str(self.file), "old\n", "new\n"),), scripts).folder().items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(mode)
        self.log, self.tools = folder / "log", tools

    @staticmethod
    def tool(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def start(self, seconds=3):
        words = [str(self.folder / "switch"), str(seconds), str(self.units)]
        return subprocess.Popen(words, env={"PATH": f"{self.tools}:{os.environ['PATH']}"})

    def state(self):
        file = self.folder / "state"
        return switch.state_of(file.read_text()) if file.exists() else NOTHING

    def wait(self, state):
        until = time.monotonic() + WITHIN
        while self.state() != state:
            assert time.monotonic() < until, self.state()
            time.sleep(0.01)


def test_without_a_confirmation_the_old_network_returns(tmp_path):
    host = Host(tmp_path)
    assert host.start().wait(WITHIN) == 0
    assert host.state() == BACK
    assert host.file.read_text() == "old\n"
    assert host.log.read_text().splitlines() == ["ifup ens3 xenbr0", "ifup ens3"]
    assert list(host.units.iterdir()) == [] and not (host.folder / "pending").exists()


def test_what_does_not_come_up_is_put_back_at_once(tmp_path):
    host = Host(tmp_path, ifup='[ "$#" = 1 ]')
    assert host.start(seconds=1000000).wait(WITHIN) == 0
    assert host.state() == BACK
    assert host.file.read_text() == "old\n"


def test_a_confirmation_keeps_the_new_network(tmp_path):
    host = Host(tmp_path)
    Host.tool(host.tools / "sleep", "exec /bin/sleep 0.05")
    running = host.start(seconds=1000000)
    host.wait(UP)
    assert host.file.read_text() == "new\n"
    # A host that dies now boots with the old network: a unit waits until the confirmation.
    unit = (host.units / switch.UNDO_UNIT).read_text()
    assert f"ConditionPathExists={host.folder}/pending" in unit and (host.folder / "pending").exists()
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))[len("ExecStart=") :].split()
    (host.folder / "confirmed").touch()
    assert running.wait(WITHIN) == 0
    assert host.state() == KEPT
    assert host.file.read_text() == "new\n"
    assert list(host.units.iterdir()) == [] and not (host.folder / "pending").exists()
    # What that unit would have done.
    (host.folder / "pending").touch()
    subprocess.run(command, check=True)
    assert (host.file.read_text(), host.state(), (host.folder / "pending").exists()) == ("old\n", BACK, False)


@pytest.mark.parametrize("text", ["", "kept up", "UP", "\0", "put  back"])
def test_an_unknown_state_is_none(text):
    assert switch.state_of(text) == NOTHING


@pytest.fixture
def edge(tmp_path, monkeypatch):
    monkeypatch.setattr(bridge_switch, "FOLDER", str(tmp_path / "network"))
    monkeypatch.setattr(bridge_switch, "INTERFACES", str(tmp_path / "interfaces"))
    monkeypatch.setattr(bridge_switch, "KEPT_SECONDS", 0)
    monkeypatch.setattr(bridge_switch, "bridges", lambda: ["xenbr0"])
    (tmp_path / "network").mkdir()
    return tmp_path


def test_confirming_has_changed_something_only_when_something_waited(edge):
    assert bridge_switch.confirm("xenbr0", check=False) is False
    (edge / "network/state").write_text("kept\n")
    assert bridge_switch.confirm("xenbr0", check=False) is False
    (edge / "network/state").write_text("up\n")
    assert bridge_switch.confirm("xenbr0", check=True) is True
    assert not (edge / "network/confirmed").exists()


def test_a_confirmation_that_comes_too_late_is_an_error(edge):
    (edge / "network/state").write_text("up\n")
    with pytest.raises(bridge_switch.SwitchError, match="came too late"):
        bridge_switch.confirm("xenbr0", check=False)
    (edge / "network/state").write_text("put back\n")
    with pytest.raises(bridge_switch.SwitchError, match="the old network was put back"):
        bridge_switch.confirm("xenbr0", check=False)
    with pytest.raises(bridge_switch.SwitchError, match="bridge br7 is not there"):
        bridge_switch.confirm("br7", check=False)


def test_the_uplinks_file_is_found_where_the_first_reads_it(edge):
    (edge / "interfaces.d").mkdir()
    (edge / "interfaces").write_text("source interfaces.d/*\nauto lo\n")
    (edge / "interfaces.d/b").write_text("iface ens3 inet dhcp\n")
    (edge / "interfaces.d/a").write_text("source ../interfaces\nsource *\n")
    change = bridge_switch.needed("br7", "ens3")
    assert change.path == str(edge / "interfaces.d/b") and "iface br7 inet dhcp" in change.after
    with pytest.raises(bridge_switch.SwitchError, match="no 'iface ens9' stanza"):
        bridge_switch.needed("br7", "ens9")
    assert bridge_switch.needed("xenbr0", "ens3") is None


def test_a_host_without_ifupdown(edge):
    with pytest.raises(bridge_switch.SwitchError, match="is the host's network configured by ifupdown"):
        bridge_switch.needed("br7", "ens3")


def test_a_change_that_waits_is_not_overwritten(edge, monkeypatch):
    monkeypatch.setattr(bridge_switch.subprocess, "run", lambda *_words, **_options: subprocess.CompletedProcess([], 0, "", ""))
    (edge / "network/confirmed").touch()
    with pytest.raises(bridge_switch.SwitchError, match="another change of the network waits for its confirmation"):
        bridge_switch.start(Switch(()), 60, "network inside")
    assert (edge / "network/confirmed").exists()


def test_a_slow_host_is_not_said_to_have_its_old_network_back(edge, monkeypatch):
    code = {"systemctl": 3}
    monkeypatch.setattr(
        bridge_switch.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, code.get(words[0], 0), "", "")
    )
    monkeypatch.setattr(bridge_switch, "UP_SECONDS", 0.3)
    with pytest.raises(bridge_switch.SwitchError) as error:
        bridge_switch.start(Switch(()), 60, "network inside")
    assert str(error.value).startswith("network inside: not up after 0.3 s; without a confirmation the old network returns 60 s")


def test_what_a_killed_run_has_left_is_undone_by_the_next(tmp_path, monkeypatch):
    host = Host(tmp_path)
    Host.tool(host.tools / "systemctl", '[ "$1" != is-active ]')
    Host.tool(host.tools / "sleep", "exec /bin/sleep 0.05")
    running = host.start(seconds=1000000)
    host.wait(UP)
    running.kill()
    running.wait()
    assert host.file.read_text() == "new\n" and (host.folder / "pending").exists()
    monkeypatch.setenv("PATH", f"{host.tools}:{os.environ['PATH']}")
    monkeypatch.setattr(bridge_switch, "FOLDER", str(host.folder))
    monkeypatch.setattr(bridge_switch, "UNITS", str(host.units))
    with pytest.raises(bridge_switch.SwitchError, match="an earlier change was interrupted, and the old network was put back"):
        bridge_switch.start(Switch(()), 60, "network inside")
    assert host.file.read_text() == "old\n" and host.state() == BACK
    assert list(host.units.iterdir()) == [] and not (host.folder / "pending").exists()


def test_a_file_keeps_its_mode(tmp_path):
    host = Host(tmp_path)
    host.file.chmod(0o600)
    assert host.start().wait(WITHIN) == 0
    assert (host.state(), host.file.stat().st_mode & 0o777) == (BACK, 0o600)


def test_files_come_and_go_with_their_modes(tmp_path):
    host = Host(tmp_path)
    added, removed = tmp_path / "there/added", tmp_path / "removed"
    removed.write_text("mine\n")
    for leftover in (host.folder / "files").iterdir():
        leftover.unlink()
    changes = (FileChange(str(added), None, "secret\n", 0o600), FileChange(str(removed), "mine\n", None, 0o640))
    for name, (text, mode) in Switch(changes).folder().items():
        (host.folder / name).write_text(text)
        (host.folder / name).chmod(mode)
    Host.tool(host.tools / "sleep", "exec /bin/sleep 0.05")
    running = host.start(seconds=1000000)
    host.wait(UP)
    assert (added.read_text(), added.stat().st_mode & 0o777, removed.exists()) == ("secret\n", 0o600, False)
    running.terminate()
    running.wait()
    subprocess.run(["sh", str(host.folder / "back")], check=True)
    assert (added.exists(), removed.read_text(), removed.stat().st_mode & 0o777) == (False, "mine\n", 0o640)
