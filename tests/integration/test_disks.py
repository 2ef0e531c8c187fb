"""Disks made from a declaration: once, completely, and never over existing data."""

import pytest

from .conftest import hold, wait_until

FOLDER = "/var/lib/unikernels/disks"

pytestmark = pytest.mark.usefixtures("idle_services", "cleared")


@pytest.fixture
def with_disks(engine_server, images):
    """Declare `try` with disks. Return the result of xen_domains, or its refusal."""

    def declare(*disks, **options):
        one = {"name": "try", "kernel": images["idle"], "memory": 16, "settle": 0, "shutdown_timeout": 0}
        answer = engine_server({**one, "disks": list(disks), **options})
        return answer[0] if isinstance(answer, list) else {"msg": answer["refused"]}

    return declare


def test_an_empty_disk_is_made_once_grown_and_never_shrunk(with_disks, dom0):
    path = f"{FOLDER}/try-data.img"
    disk = {"path": path, "access": "w", "size": 4}
    assert with_disks(disk)["steps"][0] == f"make_disk try {path}"
    assert dom0(f"stat -c '%s %a' {path}").split() == [str(4 << 20), "600"]
    dom0(f"echo precious | dd of={path} conv=notrunc 2>/dev/null")
    assert with_disks(disk)["changed"] is False
    grown = with_disks({**disk, "size": 6})
    assert grown["steps"] == ["recreate try"], grown
    assert dom0(f"stat -c %s {path}").strip() == str(6 << 20)
    assert dom0("xenstore-read /libxl/$(xl domid try)/device/vbd/51712/params").strip() == path
    assert "shrinking would lose data" in with_disks({**disk, "size": 5})["msg"]
    with_disks({**disk, "size": 6}, state="absent")
    assert dom0(f"head -c 8 {path}") == "precious", "data outlives its domain"
    dom0(f"mv {path} {path}.away")
    assert "was a disk of this domain and is gone" in with_disks({**disk, "size": 6})["msg"], "nothing defines it any more"
    dom0(f"mv {path}.away {path}")
    removed = with_disks({**disk, "size": 6}, state="absent", disks_on_absent="remove")
    assert removed["steps"] == [f"remove_disk try {path}"]
    dom0(f"test ! -e {path}")
    assert with_disks(disk)["steps"][0] == f"make_disk try {path}", "it was removed as declared"


def test_a_copy_and_a_conversion(with_disks, dom0):
    """A raw file is copied; a vmdk is converted to a raw disk, which xl can attach without QEMU."""
    dom0("command -v qemu-img >/dev/null || apt-get -qq -y --no-install-recommends install qemu-utils >/dev/null", timeout=600)
    dom0("head -c 1048576 /dev/urandom >/root/source.img && qemu-img convert -O vmdk /root/source.img /root/source.vmdk")
    made = with_disks(
        {"path": f"{FOLDER}/try-copy.img", "source": "/root/source.img"},
        {"path": f"{FOLDER}/try-converted.img", "source": "/root/source.vmdk", "size": 2, "access": "w"},
    )
    assert made["failed"] is False, made
    for name in ("copy", "converted"):
        dom0(f"cmp -n 1048576 /root/source.img {FOLDER}/try-{name}.img")
    assert dom0(f"stat -c %s {FOLDER}/try-converted.img").strip() == str(2 << 20)
    dom0("rm /root/source.*")


def test_a_block_device_is_attached_as_it_is(with_disks, dom0):
    device = dom0("truncate -s 4M /root/device.img && losetup -f --show /root/device.img").strip()
    try:
        assert with_disks({"path": device, "access": "w"})["failed"] is False
        assert dom0("xenstore-read /libxl/$(xl domid try)/device/vbd/51712/params").strip() == device
        assert with_disks({"path": device, "access": "w"})["changed"] is False
        with_disks({"path": device, "access": "w"}, state="absent", disks_on_absent="remove")
        dom0(f"test -b {device} && test -e /root/device.img")
    finally:
        dom0(f"losetup -d {device}; rm /root/device.img", check=False)


def test_qcow2_without_qemu_in_dom0_is_refused_in_one_line(with_disks, dom0):
    dom0("mv /usr/libexec/xen-qemu-system-i386 /root/qemu 2>/dev/null; true")
    try:
        refused = with_disks({"path": f"{FOLDER}/try.qcow2", "format": "qcow2", "access": "w", "size": 4})
    finally:
        dom0("mv /root/qemu /usr/libexec/xen-qemu-system-i386 2>/dev/null; true")
    assert "format qcow2 needs QEMU in Dom0: set xen_host_qemu: true" in refused["msg"]
    dom0(f"test ! -e {FOLDER}/try.qcow2")


def test_qemu_serves_a_qcow2_disk_or_it_is_told_why_not(with_disks, dom0):
    """Installing QEMU takes minutes here: run ansible-playbook playbooks/provision.yml -e xen_host_qemu=true first."""
    if dom0("test -x /usr/libexec/xen-qemu-system-i386 && echo there", check=False).strip() != "there":
        pytest.skip("needs QEMU in Dom0")
    disk = {"path": f"{FOLDER}/try.qcow2", "format": "qcow2", "access": "w"}
    made = with_disks({**disk, "size": 4})
    assert made["steps"][0] == f"make_disk try {disk['path']}", made
    assert dom0("xenstore-read /local/domain/0/backend/qdisk/$(xl domid try)/51712/state").strip() == "2", "waits for the guest"
    assert with_disks({**disk, "size": 4})["changed"] is False
    with_disks({**disk, "size": 4}, state="absent", disks_on_absent="remove")
    # It has a disk's first bytes and nothing else.
    dom0(f"printf 'QFI\\373\\0\\0\\0\\003' >{disk['path']} && truncate -s 4096 {disk['path']}")
    assert "domain try: QEMU in Dom0 did not attach a disk: " in with_disks(disk)["msg"]
    assert "try" not in dom0.domains()
    dom0(f"rm {disk['path']}")


def test_other_content_replaces_the_domain_and_takes_the_old_file_along(with_disks, dom0):
    with_disks({"content": "one\n"})
    first = dom0(f"ls {FOLDER} | grep ^try-xvda").split()
    assert dom0(f"stat -c '%s %a' {FOLDER}/{first[0]}").split() == ["4096", "600"]
    replaced = with_disks({"content": "two\n"})
    assert [step.split()[0] for step in replaced["steps"]] == ["make_disk", "replace", "remove_disk"]
    second = dom0(f"ls {FOLDER} | grep ^try-xvda").split()
    assert len(second) == 1 and second != first
    with_disks({"content": "two\n"}, state="absent")
    assert dom0(f"ls {FOLDER} | grep ^try-xvda || true") == ""


def test_a_disk_that_another_domain_writes_is_refused(with_disks, engine_server, images):
    disk = {"path": f"{FOLDER}/try-shared.img", "size": 1, "access": "w"}
    with_disks(disk)
    other = {"name": "try2", "kernel": images["idle"], "memory": 16, "disks": [{"path": disk["path"]}]}
    refused = engine_server(other)["refused"]
    assert f"disks: {disk['path']} is used by domain try; only one domain may open a disk for writing" in refused


def test_a_disk_on_shared_storage_is_locked_as_long_as_a_domain_has_it(with_disks, dom0):
    """The other host is another process with the file server's lock; here that server is Dom0's kernel."""
    path = f"{FOLDER}/try-shared.img"
    disk = {"path": path, "size": 1, "access": "w", "shared": True}
    free = f"flock --nonblock {path}.lock true"
    with_disks(disk)
    assert dom0(f"{free} || echo locked").strip() == "locked"
    assert dom0(f"head -n 1 {path}.lock").strip() == f"domain try on host {dom0('hostname').strip()}"
    assert with_disks(disk)["changed"] is False
    other = with_disks(disk, memory=20)
    assert other["steps"] == ["recreate try"], other
    assert dom0(f"{free} || echo locked").strip() == "locked"
    dom0("xl destroy try")
    wait_until(lambda: dom0(f"{free} && echo free", check=False).strip() == "free", 30, "the lock to go with its domain")
    # Now another host has it.
    dom0(f"echo 'domain db on host elsewhere' >{path}.lock")
    end = hold(dom0, f"{path}.lock", 600)
    try:
        refused = with_disks(disk, memory=20)
        assert f"{path} is in use, by domain db on host elsewhere; only one domain may open a disk for writing" in refused["msg"]
        by_hand = dom0("xl create /etc/xen/unikernels/try.cfg 2>&1; xl list try 2>&1", check=False)
        assert "try is an invalid domain identifier" in by_hand
    finally:
        dom0(end, check=False)
    # Now the domain's previous instance still has it for some seconds.
    dom0(f"printf 'domain try on host %s\\n%s\\n' $(hostname) $(cat /proc/sys/kernel/random/boot_id) >{path}.lock")
    hold(dom0, f"{path}.lock", 12)
    again = with_disks(disk, memory=20)
    assert again["steps"] == ["create try"], again
