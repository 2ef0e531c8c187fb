"""Disks that domains had before: one that vanished is never replaced with an empty one, one that was removed as declared is."""

import json

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import content_path
from ansible_collections.unikernels.xen.plugins.module_utils.xen import former_disks

GONE = "was a disk of {} and is gone: is its file system mounted"


@pytest.fixture
def disk(xen):
    return xen.folder / "d.img"


@pytest.fixture
def declared(disk):
    return {"name": "db", "disks": [{"path": str(disk), "size": 1, "access": "w"}]}


def refused(converge, options, whose="this domain"):
    for check in (True, False):
        with pytest.raises(converge.Refused, match=GONE.format(whose)):
            converge(options, check=check)


@pytest.mark.parametrize("how", ["absent", "purge", "without the disk", "in another place"])
def test_a_disk_of_a_former_definition_that_vanished_is_not_made_again(xen, converge, disk, declared, how):
    converge(declared)
    if how == "absent":
        converge({**declared, "state": "absent"})
    elif how == "purge":
        converge({"name": "web"}, purge=True)
    else:
        other = [{**declared["disks"][0], "path": str(xen.folder / "other.img")}] if how == "in another place" else []
        converge({**declared, "disks": other})
    assert disk.exists()
    disk.unlink()
    refused(converge, declared)
    # However it is spelt, and whoever declares it.
    path = f"{xen.folder}/./{disk.name}"
    if how in ("absent", "purge"):
        refused(converge, {"name": "db-2", "disks": [{"path": path, "size": 1}]}, "domain db")
    assert not disk.exists()
    disk.write_bytes(b"\0" * (1 << 20))
    assert converge(declared)["failed"] is False


def test_a_disk_that_was_removed_as_declared_can_be_made_again(xen, converge, disk, declared):
    for _round in range(2):
        converge(declared)
        removal = {**declared, "state": "absent", "disks_on_absent": "remove"}
        assert f"remove_disk db {disk}" in converge(removal)["steps"] and not disk.exists()
        assert converge(removal)["changed"] is False
        assert converge(declared, check=True)["changed"]
    # And it is one that a domain had, once more.
    converge(declared)
    converge({**declared, "state": "absent"})
    disk.unlink()
    refused(converge, declared)


def test_a_vanished_disk_can_be_removed_by_declaration_and_then_made_again(xen, converge, disk, declared):
    """The way out of the refusal that it names itself."""
    converge(declared)
    converge({**declared, "state": "absent"})
    disk.unlink()
    refused(converge, declared)
    removal = {**declared, "state": "absent", "disks_on_absent": "remove"}
    assert converge(removal, check=True)["steps"] == [f"remove_disk db {disk}"]
    assert converge(removal)["steps"] == [f"remove_disk db {disk}"]
    assert converge(removal, check=True)["changed"] is False
    assert converge(declared)["failed"] is False and disk.exists()


def test_a_disk_below_a_missing_mount_is_not_counted_as_removed(xen, converge, disk, declared, monkeypatch):
    converge(declared)
    disk.rename(xen.folder / "hidden")
    monkeypatch.setattr(
        "ansible_collections.unikernels.xen.plugins.module_utils.apply.preconditions.missing_mount", lambda *_paths: "/srv"
    )
    words = r"d.img can't be removed, because nothing is mounted at /srv, .* \(disks_on_absent: keep leaves it\)"
    for check in (True, False):
        with pytest.raises(converge.Refused, match=words):
            converge({**declared, "state": "absent", "disks_on_absent": "remove"}, check=check)
    assert converge({**declared, "state": "absent"})["changed"]


def generation(xen, number, **values):
    (xen.folder / "generations").mkdir(exist_ok=True)
    whole = {"format": 1, "number": number, "result": "applied", "domains": [], **values}
    (xen.folder / "generations" / f"{number:06}.json").write_text(json.dumps(whole))


def test_a_disk_of_a_generation_alone_that_vanished_is_not_made(xen, converge, disk, declared):
    """The definition was removed by hand, or before the host kept a note."""
    generation(xen, 1, result="failed", domains=[declared])
    assert converge(declared, check=True)["changed"], "a failed generation may never have made it"
    generation(xen, 1, domains=[{"name": "web"}, declared])
    generation(xen, 2)
    refused(converge, declared)
    # It was removed as declared since.
    converge({**declared, "state": "absent", "disks_on_absent": "remove"})
    assert converge(declared)["failed"] is False


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"result": "applied", "domains": {"a": 1}}', "[" * 100_000, "\udce9"])
def test_a_generation_that_cannot_be_read_is_no_reason(xen, converge, declared, text):
    generation(xen, 1)
    (xen.folder / "generations" / "000001.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert converge(declared)["failed"] is False


@pytest.mark.parametrize("text", ["", "[]", '{"/d": 1}', "{", "\udce9"])
def test_a_note_that_cannot_be_read_is_one_line(xen, converge, declared, text):
    note = xen.folder / "former-disks.json"
    note.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(converge.Refused, match=f"^{note}: is not what this collection wrote there"):
        converge(declared)
    assert converge({"name": "web"})["failed"] is False, "one without disks needs no note"


def test_the_note_is_roots_alone_and_is_written_only_when_it_changes(xen, converge, disk, declared):
    note = xen.folder / "former-disks.json"
    converge(declared)
    former_disks.redefined("web", f'disk = [ "target={content_path("web", "xvda", "secret")}" ]\n', "")
    former_disks.removed(content_path("web", "xvda", "secret"))
    assert not note.exists(), "nothing is gone, and content can be made again"
    converge({**declared, "state": "absent"})
    assert json.loads(note.read_text()) == {str(disk): "db"} and note.stat().st_mode & 0o777 == 0o600
    converge(declared)
    assert json.loads(note.read_text()) == {}, "its definition shows it"
