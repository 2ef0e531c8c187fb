"""The lab's machines: QEMU's command line, whose process is whose, and how a machine is saved and stopped."""

# SPDX-License-Identifier: GPL-3.0-or-later

import os
import signal
import socket
import subprocess
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.lab import machine as lab
from ansible_collections.unikernels.xen.plugins.module_utils.lab import qemu
from ansible_collections.unikernels.xen.plugins.module_utils.lab.qemu import Machine


def after(words, option):
    return words[words.index(option) + 1]


def test_the_command_line_holds_what_a_machine_is_declared_to_be():
    forward = {"protocol": "udp", "port": 5353, "to_address": "10.0.2.102", "to_port": 53}
    machine = Machine("xen1", "/labs/a,b", memory=1024, cpus=3, ssh_port=2209, forwards=(forward,))
    words = qemu.command_line(machine, accelerated=False)
    assert (after(words, "-m"), after(words, "-smp"), after(words, "-accel")) == ("1024", "3", "tcg,thread=multi,tb-size=512")
    assert after(words, "-pidfile") == "/labs/a,b/pid"
    assert "file=/labs/a,,b/overlay.qcow2," in after(words, "-drive"), "QEMU reads two commas as one of the name"
    network = after(words, "-netdev")
    assert "hostfwd=tcp:127.0.0.1:2209-10.0.2.15:22" in network
    assert "hostfwd=udp:127.0.0.1:5353-10.0.2.102:53" in network
    assert machine.ports() == [("tcp", 2209), ("udp", 5353)]
    assert "-loadvm" not in words
    assert after(qemu.command_line(machine, accelerated=True), "-accel") == "kvm"
    saved = Machine("xen1", "/labs/a", snapshot="provisioned")
    assert after(qemu.command_line(saved, accelerated=False), "-loadvm") == "provisioned"


def test_other_settings_have_another_digest():
    def digest(**changes):
        return qemu.digest_of(Machine("xen1", "/lab", **changes), False)

    different = [digest(), digest(memory=1), digest(ssh_port=1), digest(qemu="/q"), digest(disks=("1G",))]
    different += [digest(user_data="a"), digest(user_data="b")]
    assert len(set(different)) == len(different)
    assert digest(boot_timeout=1) == digest(snapshot="a") == digest(), "how it is started is no setting of the machine"


def test_more_disks_and_networks_have_places_of_their_own_on_the_bus():
    machine = Machine("xen1", "/lab/machines/xen1", disks=("4G", "512M"), networks=("storage", "backup"))
    words = qemu.command_line(machine, False)
    places = [part for word in words for part in word.split(",") if part.startswith("addr=")]
    assert len(places) == len(set(places)) and {"addr=0x6", "addr=0x7", "addr=0x10", "addr=0x11"} <= set(places)
    assert "file=/lab/machines/xen1/disk2.qcow2,if=none" in " ".join(words)
    assert all("localaddr=127.0.0.1" in word for word in words if "mcast=" in word), "it never leaves the controller"


def network_of(name, folder, network):
    words = qemu.command_line(Machine(name, folder, networks=(network,)), False)
    return next(word.split("mcast=")[1] for word in words if "mcast=" in word), [word for word in words if "mac=" in word][-1]


def test_a_network_connects_the_machines_of_one_lab_that_name_it():
    group, mac = network_of("xen1", "/lab/machines/xen1", "storage")
    other_group, other_mac = network_of("xen2", "/lab/machines/xen2", "storage")
    assert group == other_group and mac != other_mac
    assert network_of("xen1", "/lab/machines/xen1", "backup")[0] != group
    assert network_of("xen1", "/lab2/machines/xen1", "storage")[0] != group


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"disks": ("4",)}, "disks[0]: is '4', must be a size such as 4G or 512M"),
        ({"disks": ("1G,file=/etc/shadow",)}, "disks[0]: is '1G,file=/etc/shadow', must be a size such as 4G or 512M"),
        ({"disks": ("1G",) * 9}, "disks: has 9 entries, at most 8 are possible"),
        ({"networks": ("a", "a")}, "networks[1]: is 'a', must be a name such as storage, each once"),
        ({"networks": ("A B",)}, "networks[0]: is 'A B', must be a name such as storage, each once"),
        (
            {"disks": ("1G",), "snapshot": "x"},
            "disks: a machine with more disks can't be saved, and can't start from a saved state",
        ),
        ({"network_config": "version: 2"}, "network_config: is for cloud-init, which needs user_data"),
        ({"disks": ("1G",), "networks": ("a",), "user_data": "#cloud-config"}, ""),
    ],
)
def test_a_machine_that_can_not_be_is_refused(options, line):
    assert Machine("xen1", "/lab", **options).problem() == line


def test_cloud_init_finds_the_name_and_the_key_beside_the_text(tmp_path):
    machine = Machine("xen1", str(tmp_path), disks=("8M",), user_data="#cloud-config\n", public_key="ssh-ed25519 AAAA")
    lab._make_disks(machine)
    lab._make_disks(machine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk1.qcow2", "seed"]
    assert (tmp_path / "seed/user-data").read_text() == "#cloud-config\n"
    assert '"public-keys": ["ssh-ed25519 AAAA"]' in (tmp_path / "seed/meta-data").read_text()
    assert (tmp_path / "seed").stat().st_mode & 0o077 == 0
    assert "label=CIDATA,read-only=on" in " ".join(qemu.command_line(machine, False))
    assert qemu.seed_files(Machine("xen1", "/lab")) == {}


def test_another_qemu_runs_with_its_own_libraries_and_firmware():
    assert qemu.program(None, "qemu-img") == (["qemu-img"], {})
    words, environment = qemu.program("/q", "qemu-system-x86_64")
    assert words[0].startswith("/q/") and "/q/usr/bin/qemu-system-x86_64" in words
    assert after(words, "-L") == "/q/usr/share/qemu"
    assert environment == {"QEMU_MODULE_DIR": "/q/usr/lib/x86_64-linux-gnu/qemu"}
    assert "-L" not in qemu.program("/q", "qemu-img")[0]


@pytest.mark.parametrize("name", ["", "A", "a b", "a\nquit", "1a", "x" * 40])
def test_a_name_that_the_monitor_would_misread_is_refused(name, tmp_path):
    for step in (lab.start, lab.save):
        with pytest.raises(lab.MachineError, match="snapshot: is '"):
            step(Machine("xen1", str(tmp_path), snapshot=name, disk="/d"))


def test_a_machine_is_known_by_its_whole_folder():
    arguments = b"qemu\0-pidfile\0/lab/machines/xen10/pid\0-drive\0file=/lab/machines/xen10/overlay.qcow2\0"
    assert qemu.is_machine(arguments, "/lab/machines/xen10")
    assert not qemu.is_machine(arguments, "/lab/machines/xen1")
    assert not qemu.is_machine(b"less\0/lab/machines/xen10/pid\0", "/lab/machines/xen10")
    assert not qemu.is_machine(b"", "/lab")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", "7.2.22"),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", "10.0.13"),
        ("something else", "of an unknown version"),
    ],
)
def test_the_version(text, version):
    assert qemu.version_of(text) == version


@pytest.mark.parametrize(
    ("version", "accelerated", "hangs"),
    [("7.2.22", False, True), ("10.0.13", False, False), ("11.0", False, False), ("7.2.22", True, False),
     ("of an unknown version", False, True)],
)  # fmt: skip
def test_which_qemu_may_hang_a_unikernel_that_waits(version, accelerated, hangs):
    assert qemu.hangs_unikernels(version, accelerated) is hangs


@pytest.mark.parametrize(
    ("flags", "nested", "can"),
    [
        (["svm"], {"kvm_amd": "1\n"}, True),
        (["vmx"], {"kvm_intel": "Y\n"}, True),
        (["vmx"], {"kvm_amd": "1"}, False),
        (["svm"], {"kvm_amd": "0"}, False),
        ([], {"kvm_amd": "1", "kvm_intel": "Y"}, False),
    ],
)
def test_acceleration_needs_the_flag_and_nesting(flags, nested, can):
    assert qemu.can_nest(flags, nested) is can


def test_the_end_of_a_console():
    assert qemu.last_lines("a\n\n b \nc\n", 2) == " b\nc"
    assert qemu.last_lines("\n") == "(nothing was written to the console)"


def process_with(folder, code):
    """A process that looks like the QEMU of the machine in ``folder``, with its id in the pid file."""
    words = ["python3", "-c", code, "-pidfile", f"{folder}/pid"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    (folder / "pid").write_text(str(process.pid))
    return process


WAIT = "import signal\nprint('ready', flush=True)\nsignal.pause()"
DEAF = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{WAIT}"


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setattr(lab, "PATIENCE", 0.2)


def test_it_is_ended_politely_and_else_by_force(tmp_path):
    for code, end in ((WAIT, signal.SIGTERM), (DEAF, signal.SIGKILL)):
        folder = tmp_path / end.name
        folder.mkdir()
        process = process_with(folder, code)
        assert lab.process_of(str(folder)) == process.pid
        assert lab.remove(Machine("x", str(folder)), check_mode=True)["changed"] and process.poll() is None
        lab.end_process(str(folder), patience=0.3 if end == signal.SIGKILL else 20)
        assert process.wait(10) == -end
        assert lab.remove(Machine("x", str(folder)))["changed"] and not folder.exists()
        assert not lab.remove(Machine("x", str(folder)))["changed"]


def test_one_that_survives_everything_is_reported(tmp_path, monkeypatch, patience):
    process = process_with(tmp_path, WAIT)
    monkeypatch.setattr(lab.os, "kill", lambda pid, number: None)
    try:
        with pytest.raises(lab.MachineError, match=f"process {process.pid} .* survived SIGKILL"):
            lab.remove(Machine("x", str(tmp_path)))
        assert tmp_path.exists(), "its files are still in use"
    finally:
        monkeypatch.undo()
        process.kill()
        process.wait(10)


@pytest.fixture
def answering(tmp_path):
    """A monitor that answers each command with our text, and records its commands."""
    asked = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "monitor"))
    server.listen(1)

    def serve(text):
        def run():
            connection, _address = server.accept()
            connection.sendall(b"QEMU 7.2.22 monitor - type 'help'\r\n(qemu) ")
            asked.append(connection.recv(1000).decode())
            connection.sendall(f"{asked[-1]}\r\n{text}(qemu) ".encode())
            connection.recv(1)

        threading.Thread(target=run, daemon=True).start()
        return asked

    yield serve
    server.close()


def test_the_monitor_is_asked_and_its_refusal_is_ours(tmp_path, answering):
    asked = answering("")
    lab.monitor(str(tmp_path), "savevm a")
    assert asked == ["savevm a\n"]
    answering("Error: Snapshot 'a' does not exist\r\n")
    with pytest.raises(lab.MachineError, match="refused 'loadvm a': Error: Snapshot 'a' does not exist"):
        lab.monitor(str(tmp_path), "loadvm a")


def test_a_monitor_that_is_not_there_or_silent(tmp_path):
    with pytest.raises(lab.MachineError, match="did not answer to 'savevm a'"):
        lab.monitor(str(tmp_path), "savevm a")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "monitor"))
        server.listen(1)
        with pytest.raises(lab.MachineError, match="did not answer to 'savevm a'"):
            lab.monitor(str(tmp_path), "savevm a", seconds=0.2)


def test_a_machine_is_saved_once(tmp_path, answering):
    folder, disk = tmp_path / "monitor.d", tmp_path / "saved/a.qcow2"
    folder.mkdir()
    machine = Machine("xen1", str(folder), disk=str(disk), snapshot="a")
    with pytest.raises(lab.MachineError, match="machine xen1 does not run"):
        lab.save(machine)
    process = process_with(folder, WAIT)
    (folder / "overlay.qcow2").write_bytes(b"its disk")
    os.symlink(tmp_path / "monitor", folder / "monitor")
    asked = answering("")
    assert lab.save(machine, check_mode=True)["changed"] and not disk.exists() and asked == []
    assert lab.save(machine) == {"changed": True}
    process.wait(10)
    assert asked == ["savevm a\n"]
    assert disk.read_bytes() == b"its disk" and disk.stat().st_mode & 0o777 == 0o400
    assert not folder.exists()
    assert lab.save(machine) == {"changed": False}


def test_what_a_start_is_refused_for(tmp_path, monkeypatch):
    machine = Machine("xen1", str(tmp_path / "m"), disk=str(tmp_path / "none"), ssh_port=1)
    monkeypatch.setattr(lab, "version", lambda folder: "1.2.3")
    monkeypatch.setattr(lab.shutil, "which", lambda name: None if name == "qemu-img" else name)
    with pytest.raises(lab.MachineError, match="qemu-img is missing on the controller"):
        lab.start(machine)
    monkeypatch.setattr(lab.shutil, "which", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(lab.MachineError, match=f"port {port}/tcp on 127.0.0.1 is in use by another program"):
            lab.start(Machine("xen1", str(tmp_path / "m"), disk="/d", ssh_port=port))
    monkeypatch.setattr(lab, "port_is_free", lambda protocol, port: True)
    assert lab.start(machine, check_mode=True)["changed"] and not (tmp_path / "m").exists()
    with pytest.raises(lab.MachineError, match="none does not exist"):
        lab.start(machine)
    monkeypatch.setattr(lab, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(lab.MachineError, match="MiB of disk space left, the lab needs"):
        lab.start(machine)


def test_no_sshd_names_the_qemu_and_shows_the_console(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "console.log").write_text("booting\nKernel panic\n")
    monkeypatch.setattr(lab, "sshd_answers", lambda port: False)
    machine = Machine("xen1", str(folder), boot_timeout=0)
    with pytest.raises(lab.MachineError, match=r"xen1 \(QEMU 1.2\) ended while it booted; (?s:.*)Kernel panic"):
        lab._wait_for_sshd(machine, "1.2")
    monkeypatch.setattr(lab, "process_of", lambda folder: 1)
    with pytest.raises(lab.MachineError, match=r"xen1 \(QEMU 1.2\): no sshd after 0 s; (?s:.*)Kernel panic"):
        lab._wait_for_sshd(machine, "1.2")


def test_a_machine_with_other_settings_is_not_taken_for_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "process_of", lambda folder: 1)
    monkeypatch.setattr(lab, "version", lambda folder: "1.2")
    monkeypatch.setattr(lab, "sshd_answers", lambda port: True)
    machine = Machine("xen1", str(tmp_path))
    (tmp_path / "settings").write_text(qemu.digest_of(machine, lab.nested_acceleration()))
    assert lab.start(machine) == {
        "changed": False, "accelerator": "kvm" if lab.nested_acceleration() else "tcg",
        "console": str(tmp_path / "console.log"), "qemu_version": "1.2",
        "hangs_unikernels": not lab.nested_acceleration(),
    }  # fmt: skip
    with pytest.raises(lab.MachineError, match="machine xen1 runs with other settings"):
        lab.start(Machine("xen1", str(tmp_path), memory=1))
