"""Compare what GRUB's menu gives the next boot with what runs."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.boot_menu import (
    differing_arguments,
    other_arguments,
    written_arguments,
)

# As Debian 12's update-grub writes it, shortened.
MENU = """
menuentry 'Debian GNU/Linux' --class debian {
	linux	/boot/vmlinuz-6.1.0-56-amd64 root=UUID=dfac ro console=tty0 quiet
	initrd	/boot/initrd.img-6.1.0-56-amd64
}
menuentry 'Debian GNU/Linux, with Xen hypervisor' --class xen {
	echo	'Loading Xen 4.17-amd64 ...'
        if [ "$grub_platform" = "pc" -o "$grub_platform" = "" ]; then
            xen_rm_opts=
        else
            xen_rm_opts="no-real-mode edd=off"
        fi
	multiboot2	/boot/xen-4.17-amd64.gz placeholder dom0_mem=768M,max:768M console=com1  ${xen_rm_opts}
	echo	'Loading Linux 6.1.0-56-amd64 ...'
	module2	/boot/vmlinuz-6.1.0-56-amd64 placeholder root=UUID=dfac ro console=hvc0 quiet
	module2	--nounzip   /boot/initrd.img-6.1.0-56-amd64
}
menuentry 'Debian GNU/Linux, with Xen 4.17-amd64 and Linux 6.1.0-56-amd64 (recovery mode)' --class xen {
	multiboot2	/boot/xen-4.17-amd64.gz placeholder dom0_mem=9M ${xen_rm_opts}
	module2	/boot/vmlinuz-6.1.0-56-amd64 placeholder root=UUID=dfac ro single
}
"""
XEN = "placeholder dom0_mem=768M,max:768M console=com1"
LINUX = "placeholder root=UUID=dfac ro console=hvc0 quiet"


@pytest.mark.parametrize(
    ("xen", "linux", "other"),
    [
        (XEN, LINUX, False),
        # GRUB's script adds these for Xen on UEFI machines; Linux may lack the placeholder.
        (f"{XEN} no-real-mode edd=off", LINUX.removeprefix("placeholder "), False),
        (f"{XEN} spec-ctrl=no", LINUX, True),
        ("placeholder dom0_mem=768M,max:768M", LINUX, True),
        (XEN, f"{LINUX} clocksource=xen", True),
        (XEN, "placeholder root=UUID=dfac ro quiet", True),
    ],
)
def test_the_menu_is_told_from_what_runs(xen, linux, other):
    assert other_arguments(MENU, xen, linux) is other


@pytest.mark.parametrize(
    "menu", ["", MENU.replace("multiboot2", "linux"), MENU.replace("/vmlinuz", "/bsd"), "multiboot2 /boot/xen-4"]
)
def test_a_menu_without_xen_says_nothing(menu):
    assert other_arguments(menu, XEN, LINUX) is False


# As grub.cfg.j2 writes it.
PART = """# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.
XEN_OVERRIDE_GRUB_DEFAULT=1
GRUB_CMDLINE_XEN="dom0_mem=768M,max:768M console=com1"
GRUB_CMDLINE_LINUX_XEN_REPLACE="console=hvc0"
"""


@pytest.mark.parametrize(
    ("part", "xen", "linux", "differing"),
    [
        (PART, ["dom0_mem=768M,max:768M", "console=com1"], ["console=hvc0"], []),
        # A host that another version of the role configured with the same arguments is not rebooted.
        (PART.replace("undone", "overwritten"), ["dom0_mem=768M,max:768M", "console=com1"], ["console=hvc0"], []),
        ("", ["dom0_mem=768M,max:768M"], [], []),
        (
            PART,
            ["dom0_mem=1024M,max:1024M", "console=com1"],
            ["console=hvc0"],
            ["dom0_mem=1024M,max:1024M", "dom0_mem=768M,max:768M"],
        ),
        (PART, ["dom0_mem=768M,max:768M"], ["console=hvc0"], ["console=com1"]),
        (PART, ["dom0_mem=768M,max:768M", "console=com1"], ["console=hvc0", "loglevel=4"], ["loglevel=4"]),
        (PART, ["dom0_mem=768M,max:768M", "console=com1"], [], ["console=hvc0"]),
        # Written, and withdrawn before it ever ran.
        (PART.replace("com1", "com2"), ["dom0_mem=768M,max:768M", "console=com1"], ["console=hvc0"], []),
        # An argument of Xen is none of Linux.
        (PART, ["dom0_mem=768M,max:768M", "console=com1", "quiet"], ["console=hvc0"], ["quiet"]),
    ],
)
def test_what_a_boot_would_bring_or_take_away(part, xen, linux, differing):
    info = {"xen_arguments": XEN, "linux_arguments": LINUX, "written_arguments": written_arguments(part)}
    assert differing_arguments(info, xen, linux) == differing


def test_a_machine_before_its_first_boot_of_xen_lacks_all_of_it():
    info = {"xen_arguments": "", "linux_arguments": "root=UUID=dfac ro", "written_arguments": []}
    assert differing_arguments(info, ["console=com1"], ["console=hvc0"]) == ["console=com1", "console=hvc0"]
