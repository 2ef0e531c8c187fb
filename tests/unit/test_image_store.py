"""A host's images, taken into a store in a folder."""

import hashlib
import subprocess
import sys
import types

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, put
from ansible_collections.unikernels.xen.plugins.modules.image_store import run

from tests.guests import guest

IMAGE = guest()
DIGEST = hashlib.sha256(IMAGE).hexdigest()
TEXT = '{"size": 1}\n'
DEFAULTS = {
    "sidecars": {}, "shipped": True, "statements": {}, "mirror": None, "signature": "optional", "allowed_signers": None,
    "revoked_keys": None, "trust": "/nosuch", "keep": None, "definitions": "/nosuch",
}  # fmt: skip


def call(store, check=False, **options):
    params = {**DEFAULTS, "store": str(store), "wanted": {"hello": DIGEST}, **options}
    return run(types.SimpleNamespace(params=params, check_mode=check))


def test_texts_come_with_the_call_and_the_image_is_all_that_is_shipped(tmp_path):
    (tmp_path / f".incoming-{DIGEST}.xen").write_bytes(IMAGE)
    options = {"statements": {f"{DIGEST}.json": TEXT}, "sidecars": {f"{DIGEST}.json": hashlib.sha256(TEXT.encode()).hexdigest()}}
    predicted = call(tmp_path, check=True, **options)
    assert [path.name for path in tmp_path.iterdir()] == [f".incoming-{DIGEST}.xen"]
    done = call(tmp_path, **options)
    assert (done["changed"], done["taken"], done["missing"]) == (
        True,
        [DIGEST],
        [f"{DIGEST}.provenance.json", f"{DIGEST}.provenance.json.sig"],
    )
    assert {key: predicted[key] for key in ("changed", "taken", "missing")} == {
        key: done[key] for key in ("changed", "taken", "missing")
    }
    assert (tmp_path / f"{DIGEST}.xen").read_bytes() == IMAGE and (tmp_path / f"{DIGEST}.json").read_text() == TEXT
    assert call(tmp_path, **options)["changed"] is False
    # A statement that was made anew goes alone.
    anew = {f"{DIGEST}.json": hashlib.sha256(b"{}").hexdigest()}
    assert call(tmp_path, sidecars=anew, statements={f"{DIGEST}.json": "{}"})["changed"] is True
    assert (tmp_path / f"{DIGEST}.json").read_text() == "{}"


def test_check_mode_judges_no_signature_that_would_be_written(tmp_path):
    (tmp_path / f"{DIGEST}.xen").write_bytes(IMAGE)
    signed = {f"{DIGEST}.provenance.json": "{}", f"{DIGEST}.provenance.json.sig": "x"}
    options = {"statements": signed, "signature": "required", "allowed_signers": "a"}
    assert call(tmp_path, check=True, trust=str(tmp_path / "trust"), **options)["changed"] is True
    assert [path.name for path in tmp_path.iterdir()] == [f"{DIGEST}.xen"]
    with pytest.raises(SignatureError):
        call(tmp_path, trust=str(tmp_path / "trust"), **options)


@pytest.mark.parametrize("file", [f"{DIGEST}.xen", f"{'0' * 64}.json", "../../etc/passwd"])
def test_other_files_are_refused(tmp_path, file):
    with pytest.raises(StoreError, match=r"^statements: .* is not a description, statement or signature of an image of wanted"):
        call(tmp_path, statements={file: "x"})
    assert list(tmp_path.iterdir()) == []


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
