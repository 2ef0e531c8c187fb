"""What GRUB's menu says that the next boot gets, against what runs."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.boot_menu import other_arguments

# As update-grub of Debian 12 writes it, shortened.
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
        # Xen has them from GRUB's script on a machine with UEFI; Linux may be given no placeholder.
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
