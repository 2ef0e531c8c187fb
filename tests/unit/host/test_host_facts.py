"""What is read on a host, from texts of Linux and Debian."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import audit_facts, boot, facts

INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx hypervisor\n"


@pytest.fixture
def files(monkeypatch):
    """path -> text; other files don't exist."""
    texts = {}
    for module in (audit_facts, boot, facts):
        monkeypatch.setattr(module, "read", lambda path: texts.get(path, ""))
    monkeypatch.setattr(
        audit_facts.glob, "glob", lambda pattern: [path for path in texts if path.startswith(pattern.rstrip("*"))]
    )
    monkeypatch.setattr(audit_facts.os.path, "exists", lambda path: path in texts)
    return texts


@pytest.mark.parametrize(
    ("sources", "available"),
    [
        ("deb http://mirror.example.net/debian bookworm main\n", False),
        ("deb http://mirror.example.net/debian bookworm main non-free-firmware\n", True),
        ("# deb http://mirror.example.net/debian bookworm main non-free-firmware\n", False),
        ("Types: deb\nComponents: main non-free-firmware\n", True),
    ],
)
def test_microcode_can_be_had_where_its_component_is(files, sources, available):
    files.update({"/proc/cpuinfo": INTEL.replace(" hypervisor", ""), "/etc/apt/sources.list.d/debian": sources})
    assert audit_facts.microcode() == {
        "package": "intel-microcode",
        "installed": False,
        "available": available,
        "virtual": False,
    }


def test_a_virtual_machine_is_known_under_xen_too(files):
    files.update({"/proc/cpuinfo": INTEL})
    assert audit_facts.microcode()["virtual"] is True
    # Every Dom0 has the flag; there the firmware's strings decide.
    files["/proc/xen/capabilities"] = "control_d"
    assert audit_facts.microcode()["virtual"] is False
    files["/sys/class/dmi/id/sys_vendor"] = "QEMU"
    assert audit_facts.microcode()["virtual"] is True


ADVERTISED = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00450003    ens3\n"
STATIC = ADVERTISED.replace("00450003", "00000003")
IPV4 = "Iface\tDestination\tGateway\nens3\t00000000\t0202000A\n"


@pytest.mark.parametrize(
    ("ipv6", "ipv4", "client", "needs"),
    [
        (ADVERTISED, IPV4, "192.0.2.7", False),
        (ADVERTISED, IPV4, "2001:db8::7", True),
        (ADVERTISED, "Iface\n", "192.0.2.7", True),
        (STATIC, IPV4, "2001:db8::7", False),
        ("", "", "", False),
        ("garbage\n", IPV4, "", False),
    ],
)
def test_router_advertisements_that_a_host_needs(files, monkeypatch, ipv6, ipv4, client, needs):
    monkeypatch.setenv("SSH_CONNECTION", f"{client} 50000 192.0.2.1 22")
    files.update({"/proc/net/ipv6_route": ipv6, "/proc/net/route": ipv4})
    assert audit_facts.needs_router_advertisements() is needs


def test_who_logs_in(files, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "::ffff:192.0.2.7 50000 ::ffff:192.0.2.1 22")
    monkeypatch.setenv("SUDO_USER", "no-such-user")
    files.update({"/etc/ssh/sshd_config": "Port 2222\n"})
    assert audit_facts.ssh() == {
        "sshd": True,
        "user": "no-such-user",
        "key": False,
        "client": "192.0.2.7",
        "port": 2222,
        "ports": [2222],
    }
    files["/root/.ssh/authorized_keys"] = "# none\n\nssh-ed25519 AAAA me\n"
    assert audit_facts.ssh()["key"] is True
    files.pop("/root/.ssh/authorized_keys")
    files["/etc/ssh/sshd_config"] = "TrustedUserCAKeys /etc/ssh/ca.pub\n"
    assert audit_facts.ssh()["key"] is True


@pytest.mark.parametrize(
    ("line", "left", "unconfirmed", "returned"),
    [
        ("root=/dev/vda1 unikernels.boot=try", "old\nearly\n", True, ""),
        ("root=/dev/vda1 unikernels.boot=good", "old\nearly\nlate\n", False, "late"),
        ("root=/dev/vda1", "old\n", False, boot._EARLY),
        # Prepared in this very boot, so not yet tried.
        ("root=/dev/vda1", "this\nearly\n", False, ""),
        ("root=/dev/vda1", "", False, ""),
    ],
)
def test_how_a_boot_came_about(files, line, left, unconfirmed, returned):
    files.update({"/proc/cmdline": line, boot.RETURNED: left, "/proc/sys/kernel/random/boot_id": "this\n"})
    state = boot.state()
    assert (state["unconfirmed"], state["returned"]) == (unconfirmed, returned)


@pytest.mark.parametrize(
    ("config", "ports"),
    [
        ("", [22]),
        ("#Port 2222\n", [22]),
        ("Port 22\nport 2222\n", [22, 2222]),
        ("ListenAddress 192.0.2.1\nListenAddress ::1\n", [22]),
        ("ListenAddress 192.0.2.1:2222\nListenAddress [2001:db8::1]:2200\n", [2200, 2222]),
        ("Port 22\nListenAddress host.example:2222\n", [22, 2222]),
    ],
)
def test_every_port_of_sshd_is_found(files, config, ports):
    files.update({"/etc/ssh/sshd_config": config})
    assert audit_facts.ssh()["ports"] == ports


@pytest.mark.parametrize(
    ("parts", "linux", "xen", "overrides"),
    [
        ({}, [], [], []),
        (
            {"grub": 'GRUB_CMDLINE_LINUX="net.ifnames=0 quiet"\nGRUB_CMDLINE_XEN="com1=9600 console=com1"\n'},
            ["net.ifnames=0", "quiet"],
            ["com1=9600", "console=com1"],
            [],
        ),
        # What many guides write; GRUB puts it last.
        ({"grub": 'GRUB_CMDLINE_XEN_DEFAULT="dom0_mem=4G"\nGRUB_CMDLINE_XEN=com1=9600\n'}, [], ["com1=9600", "dom0_mem=4G"], []),
        ({"grub.d/xen.cfg": 'GRUB_CMDLINE_XEN_DEFAULT="dom0_mem=4G"\n'}, [], ["dom0_mem=4G"], ["GRUB_CMDLINE_XEN_DEFAULT"]),
        # Ours is not the machine's own.
        ({"grub.d/unikernels-xen.cfg": 'GRUB_CMDLINE_XEN="dom0_mem=1M"\n'}, [], [], []),
        ({"grub.d/50-cloud.cfg": "GRUB_CMDLINE_XEN=console=com1\n"}, [], ["console=com1"], []),
        ({"grub.d/xen.cfg": "GRUB_CMDLINE_XEN=console=com1\n"}, [], ["console=com1"], ["GRUB_CMDLINE_XEN"]),
        # What comes after ours may add to it.
        ({"grub.d/xen.cfg": 'GRUB_CMDLINE_XEN="$GRUB_CMDLINE_XEN console=com1"\n'}, [], ["console=com1"], []),
        ({"grub.d/zz.cfg": "GRUB_CMDLINE_LINUX_XEN_REPLACE=\n"}, [], [], ["GRUB_CMDLINE_LINUX_XEN_REPLACE"]),
        # A line break, a shell that prints, and a file that ends the shell.
        ({"grub": 'GRUB_CMDLINE_LINUX="a\nb"\necho linux c\n'}, ["a", "b"], [], []),
        ({"grub.d/zz.cfg": "if\n"}, [], [], []),
    ],
)
def test_what_somebody_wrote_for_grub(tmp_path, parts, linux, xen, overrides):
    (tmp_path / "grub.d").mkdir()
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    assert facts.machine_arguments(str(tmp_path)) == {
        "machine_arguments": linux,
        "machine_xen_arguments": xen,
        "boot_overrides": overrides,
    }
