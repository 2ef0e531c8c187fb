"""Bad input: one clear line and a non-zero exit code, before any host is changed. The commands are the user's."""

import hashlib
import json
import os
import socket

import pytest

from tests.guests import guest

from .conftest import PORTS, playbook, run

LOCAL = ["ansible", "localhost", "-c", "local", "-e", "ansible_python_interpreter=/usr/bin/python3", "-m"]


def unikernel(**changes):
    return {"name": "extra", "image": "extra", "memory": 32, "interfaces": [], **changes}


def interface(address="10.0.2.110/24", **more):
    return {"bridge": "xenbr0", "address": address, **more}


@pytest.fixture
def refused(dom0, tmp_path):
    """Run site.yml with these variables; it must fail with each of the given words in a line, and change nothing."""

    def site(words, variables, before_hosts=True):
        image = tmp_path / "good.xen"
        if not image.exists():
            image.write_bytes(guest())
        variables = {"unikernel_images": {"extra": {"file": str(image)}}, **variables}
        path = tmp_path / "variables.json"
        path.write_text(json.dumps(variables))
        before = dom0.domains()
        done = playbook("site.yml", "-e", f"@{path}", check=False)
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0
        assert [one for one in words if one not in output] == [], output[-6000:]
        assert "Traceback" not in output
        # A task on the controller for a host is shown as "xen1 -> localhost".
        assert "changed: [xen1]" not in done.stdout
        assert dom0.domains() == before
        if before_hosts:
            assert "Boot the machine" not in done.stdout, "a host was asked before the refusal"

    return site


def test_every_wrong_declaration_is_reported_in_one_run(refused):
    unikernels = [
        unikernel(name="typo", memroy=32),
        unikernel(name="twice"),
        unikernel(name="twice"),
        unikernel(name="www"),
        unikernel(name="a", interfaces=[interface(mac="00:16:3e:00:00:01")]),
        unikernel(name="b", interfaces=[interface("10.0.2.111/24", mac="00:16:3e:00:00:01")]),
        unikernel(name="c", interfaces=[interface("10.0.2.102/24")]),
        unikernel(name="line", arguments=["--hello=a\nb"]),
        unikernel(name="imageless", image="nosuch"),
    ]
    words = [
        "7 mistakes in the declaration:",
        "xen1: domain typo: unknown key 'memroy'; known are",
        "domain twice: declared twice",
        "xen1: web_name: 'www' is the name of unikernels[3] too; a name is unique on its host",
        "domains a and b have the same MAC 00:16:3e:00:00:01",
        "have the same address 10.0.2.102 on xenbr0",
        "domain line: arguments: '--hello=a\\nb' must not contain a newline",
        "domain imageless: image: 'nosuch' is not in unikernel_images",
    ]
    refused(words, {"unikernels": unikernels})


def test_every_wrong_image_is_reported_in_one_run(refused, tmp_path):
    contents = {
        "script": b"#!/bin/sh\n",
        "truncated": guest()[:4097],
        "hvt": guest(target=1),
        "no-pvh": guest(pvh=False),
        "other": guest(),
    }
    images = {name: {"file": str(tmp_path / f"{name}.xen")} for name in contents}
    for name, data in contents.items():
        (tmp_path / f"{name}.xen").write_bytes(data)
    images["other"]["sha256"] = "0" * 64
    images["far"] = {"url": "http://127.0.0.1:1/x", "sha256": "0" * 64}
    words = [
        "not an ELF file",
        "the file is truncated",
        "built for Solo5 target 'hvt'",
        "no PVH entry",
        f"its sha256 is {hashlib.sha256(guest()).hexdigest()}, declared is {'0' * 64}",
        "url http://127.0.0.1:1/x",
    ]
    refused(words, {"unikernels": [unikernel(name=name, image=name) for name in images], "unikernel_images": images})


def test_an_address_outside_the_bridge_network(refused):
    words = "domain extra: address 192.0.2.7 is outside the network of xenbr0 (10.0.2.0/24)"
    refused([words], {"unikernels": [unikernel(interfaces=[interface("192.0.2.7/24")])]}, before_hosts=False)


def test_more_memory_than_the_host_has_left(refused):
    refused(["MiB beside Dom0: declare less memory"], {"unikernels": [unikernel(memory=100000)]}, before_hosts=False)


def test_a_host_that_is_not_debian(refused, dom0):
    dom0("cp /usr/lib/os-release /root/os-release && sed -i 's/^ID=.*/ID=fedora/' /usr/lib/os-release")
    try:
        refused(["xen1: runs fedora 12; xen_host supports Debian 12 and 13"], {}, before_hosts=False)
    finally:
        dom0("cp /root/os-release /usr/lib/os-release")


def test_a_host_without_hardware_virtualization(tmp_path):
    """If this machine lacks it, the machine itself is the refused host."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = file.read().split()
    if "svm" in flags or "vmx" in flags:
        pytest.skip("this machine has VT-x or AMD-V; the refusal is in the unit tests")
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"xen_hosts": {"hosts": {"here": {"ansible_connection": "local", "unikernels": []}}}}))
    done = playbook("-i", str(inventory), "site.yml", check=False)
    assert done.returncode != 0
    assert "here: has no VT-x or AMD-V: enable virtualization in the firmware's setup" in " ".join(done.stdout.split())
    assert done.counts["here"]["changed"] == 0


def test_in_batches_a_failure_leaves_the_hosts_after_it_alone(tmp_path):
    """This machine under three names, in check mode; a wrong variable is refused before any host is contacted."""
    inventory = tmp_path / "hosts.yml"
    hosts = {name: {"ansible_connection": "local"} for name in ("first", "second", "third")}
    hosts["first"]["xen_host_domain_cpus"] = "!"
    inventory.write_text(json.dumps({"xen_hosts": {"hosts": hosts}}))

    def provision(**variables):
        arguments = ["--check", "-i", str(inventory), "-e", json.dumps(variables)]
        done = playbook("playbooks/provision.yml", *arguments, check=False)
        assert done.returncode != 0
        return done.stdout + done.stderr, set(done.counts)

    assert provision()[1] == {"first", "second", "third"}
    assert provision(hosts_at_once=1)[1] == {"first"}
    told, reached = provision(hosts_at_once=2)
    assert reached == {"first", "second"}
    assert "Inspect the machine" not in told, "the second one stops where the first one failed"
    told, reached = provision(hosts_at_once="one")
    assert not reached
    assert "hosts_at_once: is 'one', must be a number of hosts (1), a share of them (25%), or a list of these" in told
    assert "Traceback" not in told


def machine(tmp_path, path=None, **options):
    arguments = json.dumps({"name": "bad", "folder": str(tmp_path / "bad"), "disk": "/nosuch.qcow2", **options})
    book = tmp_path / "machine.yml"
    task = {"unikernels.xen.qemu_machine": json.loads(arguments)}
    if path is not None:
        task["environment"] = {"PATH": path}
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "connection": "local",
                                 "vars": {"ansible_python_interpreter": "/usr/bin/python3"}, "tasks": [task]}]))  # fmt: skip
    done = playbook(str(book), check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_qemu_is_missing(tmp_path):
    assert "qemu-system-x86_64 is missing on the controller: apt-get install" in machine(tmp_path, path="/nowhere")


def test_a_port_of_the_lab_is_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port}/tcp on 127.0.0.1 is in use by another program" in machine(tmp_path, ssh_port=port)


def test_no_disk_space_for_the_lab(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs a small file system of its own, which only root can mount")
    small = tmp_path / "bad"
    small.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small), check=False).returncode:
        pytest.skip("this machine forbids mounts")
    try:
        assert "MiB of disk space left, the lab needs 4096 MiB" in machine(tmp_path, ssh_port=PORTS["SSH"] + 7)
    finally:
        run("umount", str(small))


def test_no_network_to_the_package_mirror(tmp_path):
    options = {
        "lab_cache": str(tmp_path),
        "lab_folder": str(tmp_path / "lab"),
        "lab_sources": ["deb http://127.0.0.1:1/debian bookworm main"],
    }
    done = playbook("playbooks/lab.yml", "-e", json.dumps(options), check=False)
    assert done.returncode != 0
    assert "The lab's disk could not be created from Debian's packages: E:" in " ".join(done.stdout.split())
    assert not [path for path in (tmp_path / "disks").iterdir() if path.suffix != ".lock"]
