"""Run every example in the modules' documentation as written, with other names and addresses."""

import ast
import base64
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import put

from tests.doubles import HELLO, make_opam, make_toolchain
from tests.guests import guest

from .conftest import ROOT, playbook

MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
ONLY_LOOK = {"network_health", "service_health", "service_watch", "xen_console"}  # read-only, on the site's own domains
ON_THE_CONTROLLER = {
    "dns_keys", "image_store", "mirage_image", "mirage_image_info", "mirage_toolchain", "qemu_machine", "source_archive",
    "standin_image",
}  # fmt: skip


# What the examples of dns_keys find declared.
ZONE = """$TTL 300
@ SOA ns.example.org. hostmaster.example.org. 1 3600 600 86400 300
@ NS ns
ns A 192.0.2.53
"""
# Only predicted: what would reboot or reserve the host, change its networks, or record something to roll back to.
IN_CHECK_MODE = {"xen_boot", "xen_generation", "xen_networks", "xen_rollout"}
# These need a previous generation; test_images rolls back to one.
ELSEWHERE = {"xen_generation_info", "xen_rollback"}


def examples(module):
    tree = ast.parse((ROOT / f"plugins/modules/{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXAMPLES":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no EXAMPLES")


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ELSEWHERE])
def test_the_examples_run(module, dom0, images, tmp_path):
    text = examples(module)
    # The site's own domains must not change.
    for old, new in (("name: www", "name: example"), ("10.0.2.101", "10.0.2.121"), ("10.0.2.104", "10.0.2.124")):
        if module not in ONLY_LOOK:
            text = text.replace(old, new)
    text = text.replace("/srv/www/", f"{tmp_path}/")
    local = module in ON_THE_CONTROLLER
    disk = next(iter((pathlib.Path(_lab_cache()) / "disks").glob("*.qcow2")))
    if local:
        (tmp_path / "disks").mkdir()
        (tmp_path / "disks/bookworm.qcow2").symlink_to(disk)
    else:
        (tmp_path / "image.xen").write_bytes(guest())
        dom0("cat >/root/image.xen.b64 && base64 -d /root/image.xen.b64 >/root/image.xen", data=_base64(guest()))
    variables = {
        # As quick as a unikernel; a Linux guest boots for half a minute here, three times.
        "web_kernel": images["service"],
        "store": str(tmp_path / "store") if local else "/root/store",
        "cache": _lab_cache() + "/standins",
        "image_file": "/root/image.xen",
        "domains": [],
        "fleet": {"pkis": []},
        "standin_files": str(ROOT / "roles/unikernel_images/files/standin"),
    }
    if module == "dns_keys":
        variables.update(
            dns_sign={"keys": str(tmp_path / "keys")},
            dns_zones={"example.org": ZONE},
            dns_interfaces=[{"bridge": "xenbr0", "address": "10.0.2.102/24"}],
        )
    if local:
        variables.update(_sources(tmp_path))
        variables.update({"lab_folder": str(tmp_path), "lab_ssh_port": 12299, "ansible_python_interpreter": "/usr/bin/python3"})
    tasks = yaml.safe_load(text)
    play = {"hosts": "localhost" if local else "xen1", "gather_facts": False, "vars": variables, "tasks": tasks}
    if local:
        play["connection"] = "local"
    else:
        removal = {
            "unikernels.xen.xen_domains": {
                "domains": [{"name": "example", "state": "absent"}, {"name": "www2", "state": "absent"}]
            }
        }
        # The example of xen_domains purges, so only in check mode: the site's domains are ours too.
        play["tasks"] = [{**task, "check_mode": True} if "unikernels.xen.xen_domains" in task else task for task in tasks]
        play["post_tasks"] = [removal] if module.startswith("xen_domain") else []
    path = tmp_path / "examples.yml"
    path.write_text(json.dumps([play]))
    done = playbook(str(path), *(["--check"] if module in IN_CHECK_MODE else []))
    assert "Traceback" not in done.stdout


def _sources(folder):
    """Make what the image-building examples refer to: sources, a git repository, a toolchain, a key, a stored image."""
    for source in ("hello", "repository"):
        shutil.copytree(HELLO, folder / source)
    git = ["git", "-C", str(folder / "repository"), "-c", "user.name=t", "-c", "user.email=t@example.net"]
    for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    (folder / "allowed_signers").write_text(f"alice@example.net {(folder / 'key.pub').read_text()}")
    (folder / "advisories.json").write_text("[]")
    (folder / "image.xen").write_bytes(guest())
    _changed, stored = put(str(folder / "store"), str(folder / "image.xen"), None, {}, False)
    return {
        "unikernel_source": str(folder / "hello"), "git_url": f"file://{folder}/repository", "git_commit": commit,
        "work": str(folder / "work"), "toolchain": make_toolchain(folder / "tools"), "signing_key": str(folder / "key"),
        "toolchain_folder": str(folder / "made"), "opam_archive": str(folder / "archive"),
        "opam": make_opam(folder / "path", folder / "archive"), "allowed_signers": str(folder / "allowed_signers"),
        "host_store": str(folder / "host"), "host_policy": str(folder / "etc"), "advisories": str(folder / "advisories.json"),
        "hello": {"sha256": stored["sha256"]}, "image_file": str(folder / "image.xen"),
    }  # fmt: skip


def _lab_cache():
    return os.environ.get("LAB_CACHE") or str(pathlib.Path.home() / ".cache/unikernels.xen")


def _base64(data):
    return base64.b64encode(data).decode()
