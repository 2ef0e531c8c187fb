"""What lies in place of a file: a pipe, a device, a link, a file of holes, one that others may write."""

import os
import pathlib
import resource

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import policy as policies
from ansible_collections.unikernels.xen.plugins.module_utils.image import store as stores
from ansible_collections.unikernels.xen.plugins.module_utils.image import versions
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError, config_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import OPTIONAL, Policy, PolicyError, check_bootable
from ansible_collections.unikernels.xen.plugins.module_utils.image.sandbox import private
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import (
    MAX_SIGNATURE,
    SIGNATURE,
    STATEMENT,
    SignatureError,
    verify,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, digest_of, put, read_text, take

from .stores import DIGEST, IMAGE, call, whole


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def loop(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def device(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


KINDS = pytest.mark.parametrize("kind", [pipe, folder, loop, device])


@KINDS
def test_nothing_is_waited_for_and_nothing_read_without_end(tmp_path, kind):
    kind(tmp_path / "x")
    for read in (read_text, digest_of, stores.read_own):
        with pytest.raises(OSError):
            read(str(tmp_path / "x"))
    with pytest.raises(StoreError, match=f"^image {tmp_path}/x: "):
        put(str(tmp_path / "store"), str(tmp_path / "x"), None, {}, False)
    assert not (tmp_path / "store").exists()
    line = check_bootable(str(tmp_path / "x"), "web", Policy(OPTIONAL))
    assert line.startswith(f"domain web: kernel {tmp_path}/x: ") and "\n" not in line


@KINDS
@pytest.mark.parametrize("suffix", [STATEMENT, SIGNATURE])
def test_a_statement_that_is_no_file_is_one_line(controller, kind, suffix):
    kind(controller.store / (DIGEST + suffix))
    with pytest.raises(SignatureError) as failure:
        verify(str(controller.store), DIGEST, str(controller.keys / "allowed"), "", "hello")
    assert str(failure.value).startswith(f"image hello ({DIGEST[:12]}): ") and "\n" not in str(failure.value)


@KINDS
def test_a_project_whose_config_is_no_file_is_one_line(tmp_path, kind):
    kind(tmp_path / "config.ml")
    with pytest.raises(BuildError, match=f"^source {tmp_path}: config.ml: "):
        config_of(str(tmp_path), ())


def test_a_signature_of_megabytes_is_none(controller):
    """ssh-keygen takes minutes to see that."""
    for size in (MAX_SIGNATURE + 1, 3 << 20):
        (controller.store / (DIGEST + SIGNATURE)).write_bytes(b"A" * size)
        with pytest.raises(SignatureError, match=f"its signature has more than {MAX_SIGNATURE} bytes"):
            verify(str(controller.store), DIGEST, str(controller.keys / "allowed"), "", "hello")


@KINDS
def test_a_host_replaces_what_is_no_image(tmp_path, controller, kind):
    if kind is folder:
        pytest.skip("what is in a folder is nobody's to remove")
    host = tmp_path / "host"
    whole(host, controller)
    kind(host / f"{DIGEST}.xen")
    assert whole(host, controller)["taken"] == [DIGEST] and (host / f"{DIGEST}.xen").read_bytes() == IMAGE
    assert not (host / f"{DIGEST}.xen").is_symlink()


def test_a_link_to_the_same_bytes_is_the_image_and_its_target_is_never_written(tmp_path, controller):
    host = tmp_path / "host"
    whole(host, controller)
    (host / f"{DIGEST}.xen").unlink()
    (tmp_path / "elsewhere").write_bytes(b"of somebody")
    os.link(tmp_path / "elsewhere", host / f"{DIGEST}.xen")
    assert whole(host, controller)["taken"] == [DIGEST]
    assert (tmp_path / "elsewhere").read_bytes() == b"of somebody" and (host / f"{DIGEST}.xen").stat().st_nlink == 1


def test_what_arrives_is_no_link_and_nobody_else_reads_it(tmp_path, monkeypatch):
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "secret").write_bytes(b"root's own")
    (tmp_path / "arrived").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        take(str(store), f"{DIGEST}.xen", str(tmp_path / "arrived"), DIGEST)
    (tmp_path / "image").write_bytes(IMAGE)
    (tmp_path / "image").chmod(0o4777)
    seen = []
    monkeypatch.setattr(stores, "inspect_file", lambda path: seen.append(oct(os.stat(path).st_mode & 0o7777)))
    take(str(store), f"{DIGEST}.xen", str(tmp_path / "image"), DIGEST)
    assert seen == ["0o600"] and oct((store / f"{DIGEST}.xen").stat().st_mode & 0o7777) == "0o644"
    assert sorted(path.name for path in store.iterdir()) == [f"{DIGEST}.xen"]


def test_a_file_of_holes_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MAX_IMAGE", 1 << 20)
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match=f"^image {tmp_path}/holes: has more than {1 << 20} bytes$"):
        put(str(tmp_path / "store"), str(tmp_path / "holes"), None, {}, False)


@pytest.fixture
def little_memory():
    """For this process as much as it has now, and 256 MiB."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_an_image_is_stored_where_memory_is_little(tmp_path, little_memory):
    """As in Dom0, which has less than the largest image that would be taken."""
    (tmp_path / "image").write_bytes(IMAGE)
    assert put(str(tmp_path / "store"), str(tmp_path / "image"), None, {}, False)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(StoreError, match=f"^image {tmp_path}/large: its 1024 MiB do not fit into this machine's memory$"):
        put(str(tmp_path / "store"), str(tmp_path / "large"), None, {}, False)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_what_others_may_write_decides_nothing(tmp_path, mode):
    for name, held_by in ((policies.FILE, policies.held_by), (versions.FILE, versions.held_by)):
        policies.keep(str(tmp_path), Policy("required", (), ()), False)
        versions.keep_versions(str(tmp_path), {"web": versions.Highest(5, DIGEST)})
        assert held_by(str(tmp_path))
        (tmp_path / name).chmod(mode)
        with pytest.raises(
            PolicyError, match=f"^{tmp_path}/{name}: users other than root may have written it: inspect it, then chown root"
        ):
            held_by(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_policy_of_another_owner_decides_nothing_until_it_is_reset(tmp_path, controller):
    etc, host = tmp_path / "etc", tmp_path / "host"
    options = {"trust": str(etc), "signature": "required", "allowed_signers": controller.allowed}
    whole(host, controller, **options)
    os.chown(etc / "policy", 1000, -1)
    with pytest.raises(PolicyError, match="policy: users other than root may have written it"):
        whole(host, controller, **options)
    whole(host, controller, **options, policy_reset=True)
    assert (etc / "policy").stat().st_uid == 0 and call(host, **options)["changed"] is False
    os.chown(etc / "versions", 1000, -1)
    with pytest.raises(PolicyError, match="versions: users other than root may have written it"):
        call(host, **options)


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_policy_that_others_can_remove_decides_nothing(tmp_path, controller, mode):
    """Without it, a host would take the next policy that it is given, and check nothing at boot."""
    host, above = tmp_path / "host", tmp_path / "above"
    options = {"trust": str(above / "etc"), "signature": "required", "allowed_signers": controller.allowed}
    (above / "etc").mkdir(parents=True)
    whole(host, controller, **options)
    for folder in (above / "etc", above):
        folder.chmod(mode)
        with pytest.raises(
            PolicyError, match=f"/policy: users other than root may write {folder}: chown root {folder}; chmod go-w"
        ):
            policies.held_by(str(above / "etc"))
        for reset in (False, True):
            with pytest.raises(StoreError, match=f"{above}/etc: users other than root may write {folder}"):
                call(host, policy_reset=reset, **options)
        folder.chmod(0o755)
    assert call(host, **options)["changed"] is False


def test_names_that_others_may_write_take_nothing(tmp_path, controller):
    host, options = tmp_path / "host", {"trust": str(tmp_path / "etc"), "signature": "required"}
    whole(host, controller, allowed_signers=controller.allowed, **options)
    (host / "names").chmod(0o777)
    with pytest.raises(StoreError, match=f"^image store {host}/names: users other than root may write there"):
        call(host, **options)


def test_a_folder_for_builds_that_anybody_may_write_is_refused(tmp_path):
    private(str(tmp_path / "a/b"))
    assert oct((tmp_path / "a/b").stat().st_mode & 0o777) == "0o700"
    private(str(tmp_path / "a/b"))
    (tmp_path / "a/b").chmod(0o1777)
    with pytest.raises(PermissionError, match="belongs to another user of this machine, or anybody may write there"):
        private(str(tmp_path / "a/b"))


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_store_that_others_may_write_takes_nothing(tmp_path, controller, mode):
    host, options = tmp_path / "host", {"trust": str(tmp_path / "etc"), "signature": "required"}
    host.mkdir()
    host.chmod(mode)
    for check in (True, False):
        with pytest.raises(
            StoreError, match=f"^image store {host}: users other than root may write there: chown root {host}; chmod go-w"
        ):
            call(host, check, allowed_signers=controller.allowed, **options)
    host.chmod(0o755)
    call(host, True, allowed_signers=controller.allowed, **options)
