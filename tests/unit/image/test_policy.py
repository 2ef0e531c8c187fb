"""What a host may boot: its policy, which can only be tightened, and the images it decides on."""

import hashlib
import os
import subprocess

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.image import policy as policies
from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import (
    OPTIONAL,
    REQUIRED,
    Policy,
    PolicyError,
    assigned,
    check_bootable,
    check_definition,
    check_ramdisk,
    decide,
    held_by,
    keep,
    merge,
    revocations,
    signers,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import point, put
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest

IMAGE = guest()
DIGEST = hashlib.sha256(IMAGE).hexdigest()


# -- merge --------------------------------------------------------------------------------------------

LINES = st.lists(st.sampled_from("abcd"), unique=True, max_size=4).map(tuple)
POLICIES = st.builds(Policy, st.sampled_from([None, REQUIRED, OPTIONAL]), st.none() | LINES, st.none() | LINES, st.none() | LINES)


@given(POLICIES, POLICIES)
def test_a_policy_is_only_ever_tightened(held, more):
    try:
        new, _lines = merge(held, more, False)
    except PolicyError:
        assert held.allowed_signers and more.allowed_signers and not set(held.allowed_signers) & set(more.allowed_signers)
        return
    assert new.required or held.signature != REQUIRED
    assert set(held.revoked_keys or ()) | set(more.revoked_keys or ()) == set(new.revoked_keys)
    if held.allowed_signers is not None:
        assert set(new.allowed_signers) <= set(held.allowed_signers)
    if held.kernels is not None:
        assert set(new.kernels) <= set(held.kernels)
    # Giving it again changes nothing, and giving nothing never does.
    assert merge(new, more, False)[0] == new and merge(new, Policy(), False)[0] == new


@given(POLICIES, POLICIES)
def test_a_reset_is_what_was_said(held, more):
    new, lines = merge(held, more, True)
    assert (new.signature, new.allowed_signers, new.kernels, new.revoked_keys) == (
        more.signature, more.allowed_signers, more.kernels, more.revoked_keys or (),
    ) and lines == []  # fmt: skip
    assert merge(None, more, False) == (new, [])


def test_what_is_not_granted_is_said():
    held = Policy(REQUIRED, ("alice",), (), ("1",))
    new, lines = merge(held, Policy(OPTIONAL, ("alice", "mallory"), None, ("1", "2")), False)
    assert new == held
    assert lines == [
        f"unikernel_images_signature: stays required, as the host's policy has it ({policies.RESET} changes that)",
        f"unikernel_images_allowed_signers: mallory: is not added to the host's policy ({policies.RESET} does that)",
        f"unikernel_images_kernels: 2: is not added to the host's policy ({policies.RESET} does that)",
    ]
    with pytest.raises(PolicyError, match="the host's policy knows none of these lines"):
        merge(held, Policy(None, ("mallory",)), False)
    assert merge(Policy(OPTIONAL), Policy(REQUIRED), False)[0].signature == REQUIRED
    assert merge(Policy(OPTIONAL), Policy(None), False)[0].signature == OPTIONAL
    assert merge(Policy(OPTIONAL), Policy(OPTIONAL), False) == (Policy(OPTIONAL, None, (), None), [])


def test_nothing_said_is_required():
    assert Policy().required and Policy(REQUIRED).required and not Policy(OPTIONAL).required


def test_files_of_keys(keys):
    text = (keys / "allowed").read_text()
    assert len(signers("# comment\n\n" + text + text)) == 3
    alice = (keys / "alice.pub").read_text()
    assert revocations(f'# c\n\n{alice}\nfrom="x" {alice}') == (" ".join(alice.split()[:2]),)
    assert revocations("") == () == signers("")
    with pytest.raises(PolicyError, match=r"^unikernel_images_revoked_keys: line 2 has no public key"):
        revocations(alice + "rubbish\n")
    with pytest.raises(PolicyError, match=r"^unikernel_images_allowed_signers: line 1 is not 'NAME"):
        signers("alice@x\n")
    with pytest.raises(PolicyError, match="line 1 is not"):
        signers("a\x1b" + text)


# -- the file -----------------------------------------------------------------------------------------


@given(POLICIES)
def test_a_policy_is_what_was_written(policy):
    assert policies.parse(policies.as_text(policy).encode()) == policy


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b"{}", b'{"version": 2}', b'{"version": 1, "signature": "maybe"}', b'{"version": 1, "revoked_keys": [1]}',
     b'{"version": 1, "allowed_signers": "x"}', b"[" * 100000, b"\xff", b'{"version": 1, "kernels": {}}'],
    ids=range(11),
)  # fmt: skip
def test_a_policy_that_cannot_be_read_opens_nothing(tmp_path, text):
    (tmp_path / "policy").write_bytes(text)
    with pytest.raises(PolicyError, match=rf"^{tmp_path}/policy: is not a policy of images; unikernel_images_policy_reset: true"):
        held_by(str(tmp_path))


def test_a_host_keeps_its_policy(tmp_path, keys):
    folder = str(tmp_path / "etc")
    assert held_by(folder) is None
    policy = Policy(REQUIRED, signers((keys / "allowed").read_text()), revocations((keys / "revoked").read_text()))
    assert keep(folder, policy, True) and not os.path.exists(folder)
    assert keep(folder, policy, False) and not keep(folder, policy, False)
    assert held_by(folder) == policy
    assert {file: oct(os.stat(f"{folder}/{file}").st_mode)[-3:] for file in os.listdir(folder)} == {
        "policy": "644", "allowed_signers": "644", "revoked_keys": "644",
    }  # fmt: skip
    assert open(f"{folder}/allowed_signers").read().splitlines() == list(policy.allowed_signers)
    # A host of version 0.1 has only the two files.
    os.unlink(f"{folder}/policy")
    assert held_by(folder) == Policy(None, policy.allowed_signers, policy.revoked_keys)
    os.makedirs(f"{folder}/policy")
    with pytest.raises(PolicyError, match="/policy: Is a directory"):
        held_by(folder)


# -- decide -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (Policy(OPTIONAL), {"in_store": "b"}, "w: was altered: its sha256 is a; the next run of site.yml ships it again"),
        (Policy(REQUIRED), {"in_store": "a"}, None),
        (Policy(REQUIRED), {"in_store": "a", "signed": "bad"}, "w: bad"),
        (Policy(OPTIONAL), {"in_store": "a", "signed": "bad"}, "w: bad"),
        (Policy(REQUIRED), {}, "w: is not in the image store, and this host requires signatures"),
        (Policy(), {}, "w: is not in the image store"),
        (Policy(OPTIONAL), {}, None),
        (Policy(REQUIRED), {"declared": "A"}, None),
        (Policy(REQUIRED), {"declared": "b"}, "w: its sha256 is a, declared is b"),
        (Policy(OPTIONAL), {"declared": "b"}, "w: its sha256 is a, declared is b"),
        (Policy(REQUIRED), {"in_store": "a", "declared": "a", "signed": "bad"}, "w: bad"),
        (Policy(REQUIRED, kernels=("a",)), {}, None),
        (Policy(REQUIRED, kernels=("b",)), {}, "(unikernel_images_kernels: [a])"),
    ],
)
def test_what_may_boot(policy, options, words):
    answer = decide(policy, **{"where": "w", "digest": "a", "in_store": None, "declared": None, "signed": "", **options})
    assert answer is None if words is None else words in answer


# -- an image on a host -------------------------------------------------------------------------------


class Host:
    def __init__(self, folder, keys):
        self.store, self.keys, self.folder = str(folder / "images"), keys, folder
        (folder / "hello.xen").write_bytes(IMAGE)
        put(self.store, str(folder / "hello.xen"), None, {"name": "hello"}, False)
        self.path = f"{self.store}/{DIGEST}.xen"
        text = provenance.statement("hello", DIGEST, built=False, parameters={}, materials=[], builder={}, key="")
        signature.attach(self.store, DIGEST, text, str(keys / "alice"), False, ("hello",))
        point(self.store, "hello", DIGEST, False)
        self.policy = Policy(REQUIRED, signers((keys / "allowed").read_text()), ())

    def check(self, path=None, **changes):
        policy = changes.pop("policy", self.policy)
        return check_bootable(path or self.path, "www", policy, **changes)


@pytest.fixture
def host(tmp_path, keys):
    return Host(tmp_path, keys)


def test_what_was_signed_boots(host):
    assert host.check() is None and host.check(policy=Policy(OPTIONAL)) is None and host.check(policy=None) is None
    (host.folder / "link.xen").symlink_to(host.path)
    assert host.check(str(host.folder / "link.xen")) is None


def test_an_altered_image_does_not_boot(host):
    with open(host.path, "ab") as file:
        file.write(b"x")
    for policy in (host.policy, Policy(OPTIONAL), None):
        assert host.check(policy=policy).startswith(f"domain www: kernel {host.path}: was altered: its sha256 is ")


def test_a_revoked_key_does_not_boot(host):
    revoked = revocations((host.keys / "alice.pub").read_text())
    strict = Policy(REQUIRED, host.policy.allowed_signers, revoked)
    assert host.check(policy=strict).endswith("its signature by alice@x is not good: the key is revoked")
    assert host.check(policy=Policy(OPTIONAL, None, revoked)).endswith("was signed by a key that is revoked")


def test_an_unsigned_or_unnamed_image_does_not_boot_where_signatures_are_required(host):
    os.rename(f"{host.store}/names/hello.json", f"{host.store}/names/other.json")
    assert "is signed as hello, not as other" in host.check()
    os.unlink(f"{host.store}/names/other.json")
    assert host.check().endswith("is an image of no name that this host knows")
    point(host.store, "hello", DIGEST, False)
    point(host.store, "hello", "0" * 64, False)
    assert host.check() is None, "what a name meant before may boot, for a way back"
    os.unlink(f"{host.store}/{DIGEST}.provenance.json.sig")
    assert "is not signed" in host.check() and host.check(policy=Policy(OPTIONAL)) is None
    assert "has no allowed signers" in host.check(policy=Policy(REQUIRED))


def test_a_kernel_outside_the_store(host, tmp_path):
    path = str(tmp_path / "hello.xen")
    assert "is not in the image store" in host.check(path)
    assert host.check(path, digest=DIGEST) is None and host.check(path, policy=None) is None
    assert "declared is " + "0" * 64 in host.check(path, digest="0" * 64, policy=None)
    # A file named like a stored image, in another folder: it has no statement.
    elsewhere = tmp_path / f"{DIGEST}.xen"
    elsewhere.write_bytes(IMAGE)
    assert host.check(str(elsewhere)).endswith("is an image of no name that this host knows")
    assert host.check("/nosuch") == "domain www: kernel /nosuch: No such file or directory"
    assert host.check(str(tmp_path)) == f"domain www: kernel {tmp_path}: Is a directory"


def test_a_ramdisk_is_allowed_by_its_digest(host, tmp_path):
    """Linux runs what is in it, and the signature of the kernel says nothing of it."""
    (tmp_path / "initrd").write_bytes(b"anything")
    path, digest = str(tmp_path / "initrd"), hashlib.sha256(b"anything").hexdigest()
    (line,) = [check_ramdisk(path, "www", host.policy)]
    assert line.startswith(f"domain www: ramdisk {path}: this host requires signatures") and f"[{digest}]" in line
    allowed = Policy(REQUIRED, host.policy.allowed_signers, (), (digest,))
    for policy in (allowed, Policy(OPTIONAL), None):
        assert check_ramdisk(path, "www", policy) is None
    assert check_ramdisk("/nosuch", "www", host.policy) == "domain www: ramdisk /nosuch: No such file or directory"
    definition = tmp_path / "www.cfg"
    definition.write_text(f'kernel = "{host.path}"\nramdisk = "{path}"\n')
    assert "a ramdisk has none" in check_definition(str(definition), host.policy, {})
    assert check_definition(str(definition), allowed, {}) is None


def test_what_somebody_else_may_replace_does_not_boot_where_signatures_are_required(host, tmp_path):
    """Between the check and the start of the domain, or at any later boot."""
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "link").symlink_to(host.path)
    (tmp_path / "inside").mkdir()
    (tmp_path / "up").symlink_to("inside/../open")
    assert host.check(f"{tmp_path}/up/../open/./link") is None
    paths = [
        (str(folder / "link"), folder),
        (host.path, tmp_path / "images"),
        (host.path, host.path),
        (f"{tmp_path}/up/link", folder),
        (f"{tmp_path}/up/../images/{DIGEST}.xen", tmp_path / "images"),
    ]
    for path, opened in paths:
        before = os.stat(opened).st_mode & 0o7777
        for mode in (0o666, 0o777):
            os.chmod(opened, mode)
            assert host.check(path).startswith(
                f"domain www: kernel {path}: users other than root may write {opened}: chown root "
            )
            assert host.check(path, policy=Policy(OPTIONAL)) is None and host.check(path, policy=None) is None
        os.chmod(opened, before)
        assert host.check(path) is None
    # As in /tmp.
    folder.chmod(0o1777)
    assert host.check(str(folder / "link")) is None
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"anything")
    initrd.chmod(0o666)
    allowed = Policy(REQUIRED, host.policy.allowed_signers, (), (hashlib.sha256(b"anything").hexdigest(),))
    assert f"users other than root may write {initrd}" in check_ramdisk(str(initrd), "www", allowed)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("given", ["images", "link"])
def test_what_belongs_to_somebody_else_does_not_boot_where_signatures_are_required(host, tmp_path, given):
    (tmp_path / "link").symlink_to(host.path)
    os.lchown(tmp_path / given, 1000, -1)
    assert f"users other than root may write {tmp_path / given}" in host.check(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        ('kernel = "/a"\n', ["/a"]),
        ("memory = 64; kernel='/a' # by hand\nkernel=\n'/b'", ["/a", "/b"]),
        ('# kernel = "/a"\nextra = "; kernel = \'/b\' # kernel = "\n', []),
        (r'kernel = "/a \"b\" \\c"', ['/a "b" \\c']),
        ('disk = ["kernel = x", "kernel", "="]\nkernel_x = "/a"\nxkernel = "/b"', []),
        ('kernel = ["/a"]', []),
        ('kernel = "/a', []),
    ],
)
def test_a_definition_is_read_as_xl_reads_it(text, kernels):
    assert assigned(text, "kernel") == kernels


# -- at boot ------------------------------------------------------------------------------------------

ROOT = __import__("pathlib").Path(__file__).resolve().parents[3]


def boot(host, definitions, policy):
    """Return what the boot script makes of a folder of definitions, with the library as the role installs it."""
    library = host.folder / "library"
    for name in yaml.safe_load((ROOT / "roles/xen_host/vars/main.yml").read_text())["xen_host_library"]:
        path = library / "module_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / "plugins/module_utils" / name).read_text())
    auto, run, etc = host.folder / "auto", host.folder / "run", host.folder / "etc"
    auto.mkdir(exist_ok=True)
    if policy is not None:
        keep(str(etc), policy, False)
    for name, text in definitions.items():
        (auto / name).write_text(text)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", str(ROOT / "roles/xen_host/files/unikernels-verify"), str(auto), str(run)],
        env={"UNIKERNELS_LIBRARY": str(library), "UNIKERNELS_POLICY": str(etc), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, sorted(os.listdir(run)), done.stderr


def test_at_boot_the_others_start(host, tmp_path):
    bad = tmp_path / f"images/{'0' * 64}.xen"
    bad.write_bytes(IMAGE)
    definitions = {
        "www.cfg": f'name = "www"\nkernel = "{host.path}"\n',
        "bad.cfg": f'kernel = "{bad}"\n',
        "out.cfg": f"kernel='{tmp_path}/hello.xen'\n",
        "none.cfg": "memory = 1\n",
        "gone.cfg": 'kernel = "/nosuch"\n',
        "two.cfg": f'kernel = "{bad}"\nkernel = "{host.path}"\n',
        "raw.cfg": "\udcff",
    }
    definitions.pop("raw.cfg")
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto/dangling.cfg").symlink_to("/nosuch")
    code, started, lines = boot(host, definitions, host.policy)
    assert (code, started) == (0, ["www.cfg"])
    assert sorted(line.split(":")[1].strip() for line in lines.splitlines()) == [
        str(tmp_path / "auto/dangling.cfg"), "domain bad", "domain gone", "domain none", "domain out", "domain two",
    ]  # fmt: skip
    assert os.path.realpath(tmp_path / "run/www.cfg") == str(tmp_path / "auto/www.cfg")
    code, started, lines = boot(host, definitions, Policy(OPTIONAL))
    assert (code, started) == (0, ["none.cfg", "out.cfg", "www.cfg"])


def test_at_boot_without_a_policy_only_what_was_altered_stays_down(host):
    assert boot(host, {"www.cfg": f'kernel = "{host.path}"\n'}, None) == (0, ["www.cfg"], "")


def test_at_boot_a_damaged_policy_starts_nothing(host):
    keep(str(host.folder / "etc"), host.policy, False)
    (host.folder / "etc/policy").write_text("rubbish")
    code, started, lines = boot(host, {"www.cfg": f'kernel = "{host.path}"\n'}, None)
    assert (code, started) == (0, []) and "is not a policy of images" in lines
