"""From source to a signed image on the host to a domain that answers, and back, with the playbooks that a user runs.

opam's archive is not reachable everywhere, so mirage, opam and dune are doubles (tests/doubles). What they build is a real PVH
guest that boots and answers.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import threading

import pytest

from tests import preloaded
from tests.doubles import HELLO, make_toolchain

from .conftest import ROOT, STORE, playbook, run

pytestmark = pytest.mark.usefixtures("idle_services")

ADDRESS = "10.0.2.121"
ASK = f"python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://{ADDRESS}/\", timeout=10).read().decode())'"


class Fleet:
    """A unikernel's source, signing keys, and the variables of a user who declares it."""

    def __init__(self, folder):
        self.folder, self.source = folder, folder / "hello"
        shutil.copytree(HELLO, self.source)
        for name in ("alice", "mallory"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        public = (folder / "alice.pub").read_text()
        (folder / "allowed_signers").write_text(f'alice@example.net namespaces="image@unikernels.xen" {public}')
        self.variables = {
            "unikernel_images_toolchain": make_toolchain(folder / "tools"),
            "unikernel_images_controller": str(folder / "cache"),
            "unikernel_images_signature": "required",
            "unikernel_images_signing_key": str(folder / "alice"),
            "unikernel_images_allowed_signers": str(folder / "allowed_signers"),
            "unikernel_images": {"hello": {"source": str(self.source)}},
            "unikernels": [
                {
                    "name": "try", "image": "hello", "memory": 16, "arguments": {"name": "try"}, "shutdown_timeout": 5,
                    "interfaces": [{"bridge": "xenbr0", "address": f"{ADDRESS}/24"}],
                    "health": {"http": f"http://{ADDRESS}/", "within": 60},
                }
            ],
        }  # fmt: skip

    def inventory(self):
        """The lab's machine without the lab's services, so that these are not checked each time."""
        folder = self.folder / "inventory"
        if not folder.exists():
            (folder / "group_vars/lab").mkdir(parents=True)
            for path in ("lab.yml", "group_vars/lab/host.yml"):
                shutil.copy(ROOT / "inventories/lab" / path, folder / path)
            shutil.copy(preloaded.INVENTORY, folder / "python.yml")
        return str(folder)

    def change(self, old, new):
        path = self.source / "unikernel.ml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def run(self, book, *arguments, check=True, **variables):
        path = self.folder / "variables.json"
        path.write_text(json.dumps({**self.variables, **variables}))
        done = playbook("-i", self.inventory(), book, "-e", f"@{path}", *arguments, check=check)
        assert "Traceback" not in done.stdout + done.stderr
        done.words = " ".join((done.stdout + done.stderr).split())
        done.changed = done.counts["xen1"]["changed"]
        return done


@pytest.fixture(scope="module")
def fleet(dom0, tmp_path_factory):
    dom0("rm -f /etc/xen/unikernels/policy /etc/xen/unikernels/versions")
    yield Fleet(tmp_path_factory.mktemp("fleet"))
    dom0(
        # Remove the policy too: other tests' images are unsigned, and a host never relaxes its policy by itself.
        "xl destroy try 2>/dev/null; cd /etc/xen/unikernels && rm -f try* /etc/xen/auto/try* policy versions"
        " allowed_signers revoked_keys",
        check=False,
    )


def test_from_source_to_a_signed_image_that_answers_and_back(fleet, dom0):
    before = {name: domid for name, domid in dom0.domains().items() if name != "try"}
    fleet.run("playbooks/deploy.yml")
    assert "Hello from one" in dom0(ASK)
    one = dom0.domains()
    assert {name: one[name] for name in before} == before, "the others are not touched"
    again = fleet.run("playbooks/deploy.yml")
    assert (again.changed, dom0.domains()) == (0, one)
    # Change one line of source: one image is built, one domain replaced.
    fleet.change("from one", "from two")
    assert fleet.run("playbooks/deploy.yml", "--check").changed >= 2, "an image to build and a domain to replace"
    assert dom0.domains() == one
    fleet.run("playbooks/deploy.yml")
    assert "Hello from two" in dom0(ASK)
    two = dom0.domains()
    assert two["try"] != one["try"] and {name: two[name] for name in before} == before
    # Rolling back to an image signed by a revoked key is refused; otherwise it works, from what the host has.
    revoked = {"unikernel_images_revoked_keys": str(fleet.folder / "alice.pub")}
    late = fleet.run("playbooks/rollback.yml", check=False, rollback="try", **revoked)
    assert "its signature by alice@example.net is not good: the key is revoked" in late.words and dom0.domains() == two
    # The host keeps its policy: a run without the variables doesn't undo the revocation, only a reset does.
    nothing = {"unikernel_images_allowed_signers": "", "unikernel_images_revoked_keys": ""}
    late = fleet.run("playbooks/rollback.yml", check=False, rollback="try", **nothing)
    assert "the key is revoked" in late.words and dom0.domains() == two
    fleet.run("playbooks/images.yml", unikernel_images_policy_reset=True)
    back = fleet.run("playbooks/rollback.yml", rollback="try")
    assert back.changed == 2
    assert "Hello from one" in dom0(ASK)
    assert not [name for name in dom0.domains() if "~" in name]
    # A rollback names its target, so a second one changes nothing.
    once = dom0.domains()
    assert fleet.run("playbooks/rollback.yml", rollback="try").changed == 0
    assert dom0.domains() == once
    assert dom0("stat -c %a /var/lib/unikernels/generations /var/lib/unikernels/generations/*").split()[:2] == ["700", "600"]
    refused = fleet.run("playbooks/rollback.yml", check=False, rollback=["nosuch"])
    assert "has no unikernel 'nosuch' (it has " in refused.words and dom0.domains() == once


def test_an_older_image_takes_no_newer_ones_place(fleet, dom0):
    """An older image, signed and once on the host, comes again from a controller without the key."""
    fleet.run("playbooks/images.yml")
    newest, older = json.loads(dom0(f"cat {STORE}/names/hello.json"))["history"][:2]
    old = {"unikernel_images": {"hello": {"file": f"{fleet.variables['unikernel_images_controller']}/images/{older}.xen"}}}
    for options in (["--check"], []):
        done = fleet.run("playbooks/images.yml", *options, check=False, unikernel_images_signing_key="", **old)
        assert done.returncode and f"image hello ({older[:12]}): is older (version 20" in done.words
        assert json.loads(dom0(f"cat {STORE}/names/hello.json"))["history"][0] == newest
    # Whoever has the key decides which image is the newest.
    assert fleet.run("playbooks/images.yml", "--check", **old).changed
    assert fleet.run("playbooks/images.yml", **old).changed and not fleet.run("playbooks/images.yml", **old).changed
    assert json.loads(dom0("cat /etc/xen/unikernels/versions"))["hello"]["sha256"] == older
    fleet.run("playbooks/images.yml")
    assert json.loads(dom0("cat /etc/xen/unikernels/versions"))["hello"]["sha256"] == newest


def test_another_machine_builds(fleet, dom0):
    """Build on a host of the inventory, over ssh, with nothing of ours installed: sources go there, each file returns once."""
    packages = "make bubblewrap python3-pathspec"
    dom0(f"dpkg -s {packages} >/dev/null 2>&1 || apt-get -qq -y --no-install-recommends install {packages}", timeout=600)
    with tarfile.open(fleet.folder / "builder.tar", "w", dereference=True) as archive:
        archive.add(fleet.variables["unikernel_images_toolchain"], "tools")
    dom0("mkdir -p /root/builder && base64 -d | tar -x --no-same-owner -C /root/builder",
         data=base64.b64encode((fleet.folder / "builder.tar").read_bytes()).decode())  # fmt: skip
    machine = json.loads(run("ansible-inventory", "-i", fleet.inventory(), "--host", "xen1").stdout)
    builder = {name: value for name, value in machine.items() if name.startswith("ansible_")}
    # Debian's own Python: the preloaded one of the fixture dom0 doesn't see packages that were just installed.
    builder["ansible_python_interpreter"] = "/usr/bin/python3"
    (fleet.folder / "inventory/builder.yml").write_text(json.dumps({"all": {"hosts": {"builder": builder}}}))
    at = {
        "unikernel_images_builder": "builder",
        "unikernel_images_builder_store": "/root/builder/images",
        "unikernel_images_builder_work": "/root/builder/work",
        "unikernel_images_toolchain": "/root/builder/tools",
        "unikernel_images_controller": str(fleet.folder / "elsewhere"),
    }
    fleet.run("playbooks/images.yml", "--check", **at)
    fleet.run("playbooks/images.yml", **at)

    def files(store):
        return {path.name: path.read_bytes() for path in store.glob("*.*") if path.is_file()}

    def built(name, data):
        """The image's statement without what signing adds: no builder has the key, and the version is the time of signing."""
        if not name.endswith(".provenance.json"):
            return hashlib.sha256(data).hexdigest()
        statement = json.loads(data)
        for subject in statement["subject"]:
            subject.pop("annotations", None)
        return statement

    def without_signatures(all_files):
        return {name: built(name, data) for name, data in all_files.items() if not name.endswith(".sig")}

    brought = files(fleet.folder / "elsewhere/images")
    assert sorted(name.partition(".")[2] for name in brought) == ["json", "provenance.json", "provenance.json.sig", "xen"]
    names = dom0("cd /root/builder/images && ls *.*").split()
    there = {name: base64.b64decode(dom0(f"base64 /root/builder/images/{name}")) for name in names}
    assert without_signatures(there) == without_signatures(brought)
    again = fleet.run("playbooks/images.yml", **at)
    assert (
        again.changed == 0
        and "(item=" not in again.stdout.partition("Fetch missing files from the builder")[2].partition("TASK")[0]
    )
    # Lose a part of it.
    image = next(name for name in brought if name.endswith(".xen"))
    os.truncate(fleet.folder / "elsewhere/images" / image, 1000)
    fleet.run("playbooks/images.yml", **at)
    assert without_signatures(brought) == without_signatures(files(fleet.folder / "elsewhere/images"))


def test_a_host_can_be_asked_by_hand(fleet, dom0):
    """Verify by hand as in docs/images.md: sha256sum, ssh-keygen and readelf."""
    image = dom0("grep -o '[0-9a-f]\\{64\\}' /etc/xen/unikernels/try.cfg").strip()
    dom0(f"echo '{image}  {STORE}/{image}.xen' | sha256sum -c")
    said = dom0(
        f"ssh-keygen -Y verify -n image@unikernels.xen -I alice@example.net -f /etc/xen/unikernels/allowed_signers"
        f" -s {STORE}/{image}.provenance.json.sig <{STORE}/{image}.provenance.json"
    )
    assert "Good" in said and image in dom0(f"cat {STORE}/{image}.provenance.json")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"unikernel_images_signing_key": ""}, "is not signed"),
        ({"unikernel_images_signing_key": "mallory"}, "does not allow (unknown, or no longer valid)"),
        ({"unikernel_images_allowed_signers": ""}, "allowed_signers: is required to check signatures"),
    ],
)
def test_what_nobody_signed_who_may_is_refused_before_a_host_is_asked(fleet, dom0, variables, words):
    fleet.change("Hello from", "Hello again from")  # another image, which is not signed yet
    before = dom0.domains()
    if variables.get("unikernel_images_signing_key"):
        variables = {"unikernel_images_signing_key": str(fleet.folder / "mallory")}
    done = fleet.run("site.yml", "--tags", "images,deploy", check=False, **variables)
    fleet.change("Hello again from", "Hello from")
    assert done.returncode != 0 and words in done.words
    assert "changed: [xen1]" not in done.stdout
    assert dom0.domains() == before


def test_an_altered_image_is_named_and_comes_again(fleet, dom0):
    # The declared image, whatever an earlier test rolled back to.
    fleet.run("playbooks/images.yml")
    image = json.loads(dom0(f"cat {STORE}/names/hello.json"))["history"][0]
    dom0(f"cp {STORE}/{image}.xen /root/kept && echo x >>{STORE}/{image}.xen")
    try:
        done = fleet.run("playbooks/images.yml", "--check")
        assert done.changed >= 1
        fleet.run("playbooks/images.yml")
        assert dom0(f"cmp {STORE}/{image}.xen /root/kept && echo same").strip() == "same"
    finally:
        dom0(f"cp /root/kept {STORE}/{image}.xen; rm /root/kept")


def test_a_host_gets_images_from_a_mirror_and_goes_on_where_it_was_cut(fleet, dom0, play, images):
    """The mirror is a plain file server on the controller, which the host reaches through the lab's gateway."""
    folder = pathlib.Path(fleet.folder / "mirror")
    folder.mkdir()
    digest = pathlib.Path(images["idle2"]).stem
    data = subprocess.run([*dom0.command, f"cat {images['idle2']}"], capture_output=True, check=True).stdout
    (folder / f"{digest}.xen").write_bytes(data)
    asked = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, directory=str(folder), **named)

        def log_message(self, *arguments):
            asked.append((self.path, self.headers.get("Range")))

        def do_GET(self):
            wanted = self.headers.get("Range")
            path = folder / self.path.strip("/")
            if not wanted or not path.exists():
                super().do_GET()
                return
            begin, whole = int(wanted.split("=")[1].rstrip("-")), path.read_bytes()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
            self.end_headers()
            self.wfile.write(whole[begin:])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # If the controller has the image too, its size is known, and a killed download is resumed.
        (fleet.folder / "copy").mkdir()
        (fleet.folder / f"copy/{digest}.xen").write_bytes(data)
        dom0("mkdir /root/store")
        subprocess.run(
            [*dom0.command, f"cat >/root/store/.incoming-{digest}.xen"], input=data[:1000], capture_output=True, check=True
        )
        task = {
            "unikernels.xen.image_store": {
                "store": "/root/store", "wanted": {"idle": digest}, "signature": "optional", "trust": "",
                "controller": str(fleet.folder / "copy"), "mirrors": [f"http://10.0.2.2:{server.server_address[1]}"],
            }
        }  # fmt: skip
        assert play(task).counts["xen1"]["changed"] == 1
        assert (f"/{digest}.xen", "bytes=1000-") in asked
        assert dom0(f"sha256sum </root/store/{digest}.xen").split()[0] == digest
        assert play(task).counts["xen1"]["changed"] == 0
        dom0("rm -rf /root/store")
        (folder / f"{digest}.xen").write_bytes(data[:-1])
        (fleet.folder / f"copy/{digest}.xen").unlink()
        broken = play(task, check=False)
        assert "it was removed: run again" in " ".join(broken.stdout.split())
        assert dom0("find /root/store -type f").split() == ["/root/store/names/.lock"]
    finally:
        server.shutdown()
        dom0("rm -rf /root/store")
