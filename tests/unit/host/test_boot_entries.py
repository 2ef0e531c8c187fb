"""The boot that worked and the one on trial, from GRUB's menu and from what runs."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_entries as grub
from ansible_collections.unikernels.xen.plugins.module_utils.host.boot_menu import (
    kept_arguments,
    linux_arguments,
    lost_arguments,
    other_arguments,
)

from .test_boot_menu import LINUX, MENU, XEN

PLAIN = "BOOT_IMAGE=/boot/vmlinuz-6.1.0-56-amd64 root=UUID=dfac ro console=tty0 quiet"
RELEASE = "6.1.0-56-amd64"


def test_what_a_menu_has():
    plain, xen, recovery = grub.entries(MENU)
    assert (plain.title, plain.under_xen, plain.kernel) == ("Debian GNU/Linux", False, f"/boot/vmlinuz-{RELEASE}")
    assert plain.files == [f"/boot/vmlinuz-{RELEASE}", f"/boot/initrd.img-{RELEASE}"]
    assert xen.under_xen and recovery.under_xen
    assert xen.files == ["/boot/xen-4.17-amd64.gz", f"/boot/vmlinuz-{RELEASE}", f"/boot/initrd.img-{RELEASE}"]
    assert grub.xen_entry(MENU) == xen
    assert grub.xen_entry("") is None


def test_the_entry_to_try_is_xens_first_with_a_way_back():
    entry = grub.xen_entry(MENU.replace("\techo\t'Loading Xen", "\tsavedefault\n\techo\t'Loading Xen"))
    text = grub.own_entry(entry, grub.TRY)
    (tried,) = grub.entries(text)
    assert "--id unikernels-try {" in text and "--unrestricted" in text
    assert tried.linux_line == f"{LINUX} panic=30 unikernels.boot=try"
    assert tried.xen_line == grub.xen_entry(MENU).xen_line
    assert tried.files == entry.files
    assert "savedefault" not in text
    # None of the added words makes the running boot differ from the menu's.
    assert other_arguments(MENU, XEN, tried.linux_line) is False


def test_the_entry_that_worked_has_files_of_its_own():
    text = grub.own_entry(grub.xen_entry(MENU), grub.GOOD, "unikernels-ab")
    (good,) = grub.entries(text)
    own = "/boot/unikernels-ab"
    assert good.files == [f"{own}/xen-4.17-amd64.gz", f"{own}/vmlinuz-{RELEASE}", f"{own}/initrd.img-{RELEASE}"]
    assert [grub.on_host(path) for path in good.files] == good.files
    # The entry that worked is the source of the next one.
    again = grub.own_entry(good, grub.GOOD, "unikernels-cd")
    assert "unikernels-ab" not in again and again.count("unikernels.boot=") == 1 and again.count("panic=30") == 1
    both = grub.HEAD + text + grub.own_entry(grub.xen_entry(MENU), grub.TRY)
    assert grub.part_of(both, grub.GOOD) == text
    assert grub.part_of(both, grub.TRY) == both[len(grub.HEAD + text) :]
    assert grub.part_of("", grub.TRY) == ""


def test_a_panic_that_was_declared_stays():
    menu = MENU.replace("console=hvc0 quiet", "console=hvc0 panic=5")
    assert grub.entries(grub.own_entry(grub.xen_entry(menu), grub.TRY))[0].linux_line.endswith("panic=5 unikernels.boot=try")


@pytest.mark.parametrize("panic", ["panic=0", "panic=", "panic=x", "panic=5 panic=0", "panic=08", "panic=99999999999"])
def test_a_panic_that_waits_for_ever_does_not(panic):
    menu = MENU.replace("console=hvc0 quiet", f"console=hvc0 {panic}")
    assert grub.entries(grub.own_entry(grub.xen_entry(menu), grub.TRY))[0].linux_line.endswith(
        f"{panic} panic=30 unikernels.boot=try"
    )


@pytest.mark.parametrize(
    ("xen", "linux", "title"),
    [
        (XEN, LINUX, "Debian GNU/Linux, with Xen hypervisor"),
        (XEN, f"{LINUX} panic=30 unikernels.boot=try", "Debian GNU/Linux, with Xen hypervisor"),
        ("", PLAIN, "Debian GNU/Linux"),
        ("placeholder dom0_mem=9M", "placeholder root=UUID=dfac ro single", "Debian GNU/Linux, with Xen 4.17-amd64 and Linux"),
    ],
)
def test_the_entry_of_what_runs(xen, linux, title):
    entry = grub.running_entry([MENU], xen, linux, RELEASE)
    assert entry in grub.entries(MENU)
    assert entry.title.startswith(title)


def test_what_runs_and_is_in_no_menu_any_more_gets_an_entry_with_its_own_lines():
    entry = grub.running_entry([MENU], f"{XEN} sched=credit", "placeholder root=/dev/vda1 ro x=a;b", RELEASE)
    assert entry.xen_line == f"{XEN} sched=credit"
    assert entry.linux_line == "placeholder root=/dev/vda1 ro 'x=a;b'"
    plain = grub.running_entry([MENU], "", "BOOT_IMAGE=/vmlinuz root=LABEL=root ro", RELEASE)
    assert plain.linux_line == "root=LABEL=root ro"
    assert grub.running_entry([MENU], XEN, LINUX, "7.0") is None
    assert grub.running_entry([""], "", PLAIN, RELEASE) is None


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/boot/xen-4.17-amd64.gz", "/boot/xen-4.17-amd64.gz"),
        ("/xen-4.17-amd64.gz", "/boot/xen-4.17-amd64.gz"),
        ("/@rootfs/boot/xen-4.17-amd64.gz", "/boot/xen-4.17-amd64.gz"),
        ("/unikernels-ab/xen.gz", "/boot/unikernels-ab/xen.gz"),
    ],
)
def test_where_a_file_of_grubs_is_on_the_host(path, there):
    assert grub.on_host(path) == there


def test_which_entry_booted():
    assert grub.booted(LINUX) == grub.booted(f"{LINUX} unikernels.boot=x") == ""
    assert grub.booted(f"{LINUX} unikernels.boot=try") == "try"


def test_grubs_environment():
    text = "# GRUB Environment Block\nsaved_entry=unikernels-good\nnext_entry=\n###############"
    assert grub.environment(text) == {"saved_entry": "unikernels-good", "next_entry": ""}
    assert grub.environment("") == {}


MOUNTS = """22 1 254:1 / / rw,noatime shared:1 - ext4 /dev/vda1 rw
30 22 0:30 / /home rw shared:2 master:3 - btrfs /dev/sdb rw
31 22 8:2 / /boot rw - ext4 /dev/sda2 rw
broken
"""


def test_which_file_system_grub_would_write_to():
    assert grub.mount_of(MOUNTS, "/boot/grub") == ("8:2", "ext4")
    assert grub.mount_of(MOUNTS, "/bootstrap") == ("254:1", "ext4")
    assert grub.mount_of(MOUNTS, "/home/x") == ("0:30", "btrfs")
    assert grub.mount_of("", "/boot/grub") == ("", "")


@pytest.mark.parametrize(
    ("filesystem", "device", "reason"),
    [
        ("ext4", "/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/vda1", ""),
        ("vfat", "/sys/devices/x/block/nvme0n1/nvme0n1p2", ""),
        ("btrfs", "/sys/dev/block/0:30", "GRUB can't write to btrfs"),
        ("ext4", "/sys/devices/virtual/block/dm-0", "device mapper"),
        ("ext4", "/sys/devices/virtual/block/md127/md127p1", "software RAID"),
    ],
)
def test_where_grub_can_write(filesystem, device, reason):
    found = grub.unwritable(filesystem, device)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("machine", "named", "line", "lost"),
    [
        ("net.ifnames=0 quiet", "console=hvc0", "net.ifnames=0 console=hvc0", "quiet"),
        ("cryptdevice=UUID=1:r root=/dev/r console=ttyS0", "quiet", "cryptdevice=UUID=1:r root=/dev/r console=ttyS0 quiet", ""),
        ("console=ttyS0,115200", "console=hvc0 clocksource=xen", "console=hvc0 clocksource=xen", "console=ttyS0,115200"),
        ("root=/dev/sda1 mitigations=off", "root=/dev/sdb1", "root=/dev/sdb1", "root=/dev/sda1 mitigations=off"),
        ("rd.luks.uuid=1 rd.luks.uuid=2", "rd.luks.uuid=2", "rd.luks.uuid=2", "rd.luks.uuid=1"),
        # A driver's option, without which the network card or the disk is not found.
        ("ixgbe.allow_unsupported_sfp=1 mpt3sas.max_queue_depth=9", "quiet",
         "ixgbe.allow_unsupported_sfp=1 mpt3sas.max_queue_depth=9 quiet", ""),
        ("vlan=e.5:e bond=b:e,f nameserver=::1 rd_LVM_LV=a/b", "quiet",
         "vlan=e.5:e bond=b:e,f nameserver=::1 rd_LVM_LV=a/b quiet", ""),
        ("pcie_aspm=off acpi_osi=Linux ds=nocloud nomodeset", "quiet",
         "pcie_aspm=off acpi_osi=Linux ds=nocloud nomodeset quiet", ""),
        # Not between the quotes of a shell file.
        ('root=$(reboot) ip=`a` init="/x" net.ifnames=0', "quiet", "net.ifnames=0 quiet", 'root=$(reboot) ip=`a` init="/x"'),
        # Nothing is named: the machine's line stays as it is.
        ("net.ifnames=0 quiet", "", "", ""),
        ("", "console=hvc0", "console=hvc0", ""),
    ],
)  # fmt: skip
def test_what_the_machine_needs_it_keeps(machine, named, line, lost):
    assert linux_arguments(machine.split(), named.split()) == line.split()
    assert lost_arguments(machine.split(), named.split()) == lost.split()
    assert kept_arguments(["net.ifnames=1"], ["net.ifnames=0"]) == []
