"""The folder of images: put, name, prune, check."""

import contextlib
import hashlib
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import arrival
from ansible_collections.unikernels.xen.plugins.module_utils.image import store as stores
from ansible_collections.unikernels.xen.plugins.module_utils.image.arrival import used_by_domains
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    StoreError,
    describe,
    fsck,
    history,
    hold,
    known_names,
    listing,
    locked,
    names,
    names_and_problems,
    point,
    put,
    remove,
    take,
    unused,
)

from tests.guests import guest

from .stores import DIGEST, IMAGE, call, files


def test_an_image_is_put_once_and_put_right(tmp_path):
    image, store = tmp_path / "hello.xen", str(tmp_path / "store")
    image.write_bytes(guest(blocks=(b"data",)))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    predicted = put(store, str(image), digest.upper(), {"name": "n", "size": 0}, True)
    assert not os.path.exists(store)
    changed, manifest = put(store, str(image), digest.upper(), {"name": "n", "size": 0}, False)
    assert changed and predicted == (True, manifest)
    assert manifest == {
        "sha256": digest, "size": len(image.read_bytes()), "memory_size": 4096, "target": "xen", "standin": False,
        "description": "", "devices": [{"name": "data", "type": "block"}], "debug_info": False, "name": "n",
        "path": f"{store}/{digest}.xen",
    }  # fmt: skip
    assert put(store, str(image), None, {"name": "other"}, False) == (False, manifest) and describe(store, digest) == manifest
    with open(manifest["path"], "ab") as file:
        file.write(b"x")
    assert fsck(store)[0].endswith(": the next run ships it again")
    assert put(store, str(image), digest, {}, True)[0] and put(store, str(image), digest, {}, False)[0] and fsck(store) == []
    with pytest.raises(StoreError, match=f"its sha256 is {digest}, declared is {'0' * 64}; nothing was stored"):
        put(store, str(image), "0" * 64, {}, False)
    with pytest.raises(StoreError, match=r"^image /nosuch: No such file or directory$"):
        put(store, "/nosuch", None, {}, False)
    image.write_bytes(b"#!/bin/sh")
    with pytest.raises(StoreError, match=r"^image .*/hello.xen: not an ELF file"):
        put(store, str(image), None, {}, False)


def test_a_name_and_its_history(tmp_path):
    store = str(tmp_path)
    digests = [f"{number:064x}" for number in range(120)]
    assert history(store, "a") == [] and names(store) == {} and point(store, "a", digests[0], True) and known_names(store) == []
    for digest in digests:
        assert point(store, "a", digest, False)
    assert not point(store, "a", digests[-1], False) and history(store, "a") == digests[:19:-1]
    assert names(store) == {"a": digests[:19:-1]}
    for name in ("", "a/b", "-a", "a" * 65, "a\n"):
        with pytest.raises(StoreError, match="letters, digits and"):
            point(store, name, digests[0], False)
    (tmp_path / "names/README").write_text("x")
    (tmp_path / "names/-.json").write_text("x")
    assert known_names(store) == ["a"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{}", b'{"history": 1}', b'{"history": ["x"]}', b'{"history": [1]}', b"[" * 200000, b"\xff"]
)
def test_a_damaged_history_is_said_and_stops_no_listing(tmp_path, body):
    store = str(tmp_path)
    point(store, "a", DIGEST, False)
    (tmp_path / "names/b.json").write_bytes(body)
    line = f"image store {store}: {store}/names/b.json cannot be read: it is not a history; remove it, and run again"
    assert names_and_problems(store) == ({"a": [DIGEST]}, [line])
    assert line in fsck(store)
    for use in (
        lambda: history(store, "b"),
        lambda: point(store, "b", DIGEST, False),
        lambda: unused(store, set(), 0, time.time()),
    ):
        with pytest.raises(StoreError) as failure:
            use()
        assert str(failure.value) == line


def _points(store, name, digests):
    for digest in digests:
        point(store, name, digest, False)


def test_two_runs_that_point_a_name_to_one_image_write_one_entry(tmp_path, monkeypatch):
    """With two, the previous image of the name would be the present one."""
    name, (one, two) = str(tmp_path), (f"{number:064x}" for number in (1, 2))
    point(name, "a", one, False)
    locked = stores.locked

    @contextlib.contextmanager
    def late(*arguments):
        monkeypatch.setattr(stores, "locked", locked)
        point(name, "a", two, False)  # the other run, after this one has looked
        with locked(*arguments):
            yield

    monkeypatch.setattr(stores, "locked", late)
    assert point(name, "a", two, False) is False and history(name, "a") == [two, one]


def test_two_runs_at_once_lose_no_entry(tmp_path):
    store, each = str(tmp_path), 25
    digests = [[f"{run}{number:063x}" for number in range(each)] for run in (1, 2)]
    # Not forked: threads of other tests would leave their locks in the child.
    runs = [multiprocessing.get_context("spawn").Process(target=_points, args=(store, "a", one)) for one in digests]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    assert sorted(history(store, "a")) == sorted(digests[0] + digests[1])


def test_the_lock_is_waited_for_with_a_bound(tmp_path):
    late = pytest.raises(StoreError, match=r"another run has been working on it for 0.2 s")
    with locked(str(tmp_path)), late, locked(str(tmp_path), 0.2):
        pass
    with locked(str(tmp_path)):
        pass


def old(path, data=b"x", hours=2.0):
    path.write_bytes(data)
    os.utime(path, (time.time() - 3600 * hours,) * 2)


def test_a_prune_takes_what_nothing_uses_and_nothing_else(tmp_path):
    store, definitions = tmp_path / "images", tmp_path / "etc"
    store.mkdir()
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("used", "now", "before", "long", "free", "fresh", "half")
    }
    for name, digest in digests.items():
        for kind in ("xen", "json"):
            old(store / f"{digest}.{kind}", hours=0.9 if name == "fresh" or (name, kind) == ("half", "json") else 2)
    old(store / ".incoming-dead")
    old(store / ".incoming-alive", hours=0.5)
    old(store / "README")
    for name in ("long", "before", "now"):
        point(str(store), "a", digests[name], False)
    options = {"wanted": {}, "keep": 1, "definitions": str(definitions)}
    assert call(store, **options)["removed"] == [], "where no definitions are to be seen, nobody knows what is in use"
    definitions.mkdir()
    (definitions / "www.cfg").write_text(f'kernel = "{store}/{digests["used"]}.xen"\n')
    gone = sorted(f"{store}/{digests[name]}.{kind}" for name in ("long", "free") for kind in ("xen", "json"))
    predicted = call(store, True, **options)
    assert sorted(predicted["removed"]) == sorted([f"{store}/.incoming-dead", *gone]) and predicted["changed"]
    assert len(files(store)) == 17
    assert call(store, **options) == predicted and not set(map(str, store.iterdir())) & set(predicted["removed"])
    assert not call(store, **options)["changed"]


def test_what_runs_or_can_be_gone_back_to_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "LIBXL", str(tmp_path / "userdata-d.*"))
    monkeypatch.setattr(arrival, "GENERATIONS", str(tmp_path / "generations"))
    (tmp_path / "userdata-d.1.x").write_text(f'{{"kernel": "/x/{DIGEST}.xen"}}')
    assert used_by_domains("/nosuch") == {DIGEST}
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations/000001.json").write_text(f'{{"domains": [{{"kernel": "/x/{"cd" * 32}.xen"}}]}}')
    assert used_by_domains("/nosuch") == {DIGEST, "cd" * 32}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/000001.json").write_text(f'{{"domains": [{{"kernel": "/x/{"ef" * 32}.xen"}}]}}')
    assert used_by_domains("/nosuch", str(tmp_path / "elsewhere")) == {DIGEST, "ef" * 32}, "unikernel_generations_folder"


def test_fsck_names_what_does_not_belong(tmp_path, controller):
    store = controller.store
    assert fsck("/nosuch") == [] and listing("/nosuch") == []
    for mode, lines in ((0o775, 1), (0o757, 1), (0o755, 0), (0o700, 0)):
        store.chmod(mode)
        assert fsck(str(store)) == [f"{store}: users other than its owner can write there: chmod go-w {store}"] * lines
    assert fsck(str(store)) == []
    (store / f"{'0' * 64}.json").write_text("{}")
    (store / ".incoming-x").write_text("x")
    (store / f"{DIGEST}.\x1b").write_text("x")
    point(str(store), "gone", "1" * 64, False)
    assert fsck(str(store)) == [
        f"{store}/.incoming-x: left by a run that died; the next prune removes it",
        f"{store}/{'0' * 64}.json: there is no image of that digest",
        f"{store}/{DIGEST}.?: not a file of the store",
        f"image name gone: means {'1' * 64}, which is not in the store",
    ]


def test_taking_in_what_is_in_place_already(tmp_path):
    (tmp_path / f".incoming-{DIGEST}.xen").write_bytes(IMAGE)
    take(str(tmp_path), f"{DIGEST}.xen", f"{tmp_path}/.incoming-{DIGEST}.xen", DIGEST)
    assert files(tmp_path) == [f"{DIGEST}.xen"]


def test_a_folder_that_takes_nothing_is_said_in_a_line(tmp_path):
    image = tmp_path / "hello.xen"
    image.write_bytes(IMAGE)
    with pytest.raises(StoreError) as failure:
        put("/proc/images", str(image), None, {}, False)
    assert str(failure.value) == "image store /proc/images: No such file or directory"


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode != 0,
    reason="nothing may be mounted here",
)
def test_a_full_folder_is_left_as_it_was(tmp_path):
    image, store = tmp_path / "hello.xen", tmp_path / "store"
    image.write_bytes(IMAGE)
    store.mkdir()
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, put\n"
        "try:\n    put(sys.argv[2], sys.argv[1], None, {}, False)\n"
        "except StoreError as error:\n    print(error)\n"
    )
    script = (
        f'mount -t tmpfs -o size=64k none "{store}" && {{ cat /dev/zero >"{store}/filler" 2>/dev/null; true; }}'
        f' && "$@" "{image}" "{store}" && ls -A "{store}"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"image store {store}: No space left on device", "filler"]


def test_a_name_remembers_what_it_meant(tmp_path):
    store, one, two = str(tmp_path), "1" * 64, "2" * 64
    assert point(store, "web", one, True) and history(store, "web") == []
    assert point(store, "web", one, False) and not point(store, "web", one, False)
    assert point(store, "web", two, False)
    assert history(store, "web") == [two, one]


def test_a_prune_takes_what_nothing_uses(tmp_path):
    store, digests = str(tmp_path), [str(number) * 64 for number in range(5)]
    for digest in digests:
        for kind in (".xen", ".json"):
            (tmp_path / (digest + kind)).write_text("")
        point(store, "web", digest, False)
    (tmp_path / ".incoming-x").write_text("")
    later = time.time() + 7200
    gone = unused(store, {digests[0]}, 1, later)
    assert {os.path.basename(path).partition(".")[0] for path in gone if "incoming" not in path} == {digests[1], digests[2]}
    assert len(gone) == 5
    assert unused(store, set(), 0, time.time()) == [], "what just arrived stays"
    remove(gone)
    assert unused(store, {digests[0]}, 1, later) == []
    assert any("its content has the sha256" in line for line in fsck(store))


def test_nobody_else_can_hold_the_lock(tmp_path):
    path = tmp_path / "lock"
    path.write_text("")
    path.chmod(0o644)
    with hold(str(path), 1, StoreError("late")):
        assert path.stat().st_mode & 0o777 == 0o600
