"""From source to image through the module's own functions, with doubles of mirage, opam and dune that follow their contract."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import mirage, provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import (
    BuildError,
    toolchain,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import source_files
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    fsck,
    history,
    point,
)


def test_a_build_stores_an_image_and_where_it_came_from(bench):
    before = source_files(str(bench.source)), os.listdir(bench.source)
    result = bench.build()
    assert result.changed and not result.cached
    manifest = result.manifest
    assert manifest["target"] == "xen"
    data = pathlib.Path(manifest["path"]).read_bytes()
    assert b"Hello from one" in data
    assert (source_files(str(bench.source)), os.listdir(bench.source)) == before, "the source's folder stays as it is"
    text = pathlib.Path(bench.store, manifest["sha256"] + ".provenance.json").read_bytes()
    said = provenance.read(text, manifest["sha256"])["predicate"]
    assert said["buildDefinition"]["internalParameters"]["key"] == manifest["key"]
    assert said["runDetails"]["builder"]["version"]["mirage"] == "4.11.1"
    for folder, _folders, names in os.walk(bench.work):
        for path in (folder, *(f"{folder}/{name}" for name in names if name.endswith(".log"))):
            assert os.stat(path).st_mode & 0o077 == 0 or path.endswith("/downloads"), "images and sources may hold keys"
    assert [name for name in os.listdir(bench.work) if os.path.isdir(f"{bench.work}/{name}")] in ([], ["downloads"])


def test_nothing_changed_starts_no_process(bench, request):
    first = bench.build().manifest
    request.getfixturevalue("no_process")
    (bench.source / "noise.log").write_text("git-ignored, so no source")
    second = bench.build()
    assert (second.changed, second.cached, second.manifest["sha256"]) == (False, True, first["sha256"])
    assert not bench.build(check=True).changed


def test_every_input_is_in_the_key(bench):
    keys = {bench.build(check=True).manifest["key"], bench.build(check=True, configure=("--no-dhcp",)).manifest["key"]}
    bench.change("one", "two")
    keys.add(bench.build(check=True).manifest["key"])
    bench.change('"0.3"', '"0.4"', "mirage/hello-xen.opam.locked")
    keys.add(bench.build(check=True).manifest["key"])
    bench.tools.versions["ocaml"] = "5.5.0"
    keys.add(bench.build(check=True).manifest["key"])
    assert len(keys) == 5
    assert not bench.images(), "check mode builds nothing"


def test_the_same_source_gives_the_same_image_and_another_is_told(bench):
    assert bench.build(verify_reproducible=True).changed
    bench.change("let start", "(* double: random *)\nlet start")
    before = bench.images()
    with pytest.raises(BuildError, match="not reproducible: two builds of the same sources differ from byte"):
        bench.build(verify_reproducible=True)
    assert bench.images() == before


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (("let start", 'let x : int = "1"\nlet start'), {},
         'hello: make build failed (2): File "unikernel.ml", line 2, characters 14-17: Error: This constant has type string'
         " but an expression was expected of type int"),
        (("let start", "(* double: nothing *)\nlet start"), {}, "make build left no image in dist/"),
        (("let main", 'let x : int = "1"\nlet main', "config.ml"), {}, 'mirage configure failed (1): File "config.ml", line 4'),
        (("< 4.12.0", "< 4.10.0", "config.ml"), {}, "config.ml is for mirage >= 4.9.0 & < 4.10.0, installed is 4.11.1"),
        (("hello-xen", "other-xen", "mirage/hello-xen.opam.locked"), {},
         "hello: lock file mirage/hello-xen.opam.locked: it was made for other-xen, not for hello-xen"),
        (None, {"configure": ("--nosuch=1",)}, "mirage configure failed (1): mirage: unknown option '--nosuch'"),
        (None, {"configure": ("-t=hvt",)}, "the target is always xen"),
        (None, {"configure": ("; rm -rf /",)}, "expected an option as in --name=value"),
        (("let start", "(* double: slow *)\nlet start"), {"timeout": 2},
         "make build was ended: the build took longer than its 2 s"),
        (("one", "two"), {"signing_key": "/nonexistent"}, "signing_key: /nonexistent is not a file"),
    ],
)  # fmt: skip
def test_a_failed_build_says_why_in_a_line_and_leaves_the_store_as_it_was(bench, change, options, words):
    bench.build()
    before = bench.images(), point(bench.store, "hello", "0" * 64, False)
    if change:
        bench.change(*change)
    with pytest.raises((BuildError, signature.SignatureError)) as failure:
        bench.build(**options)
    assert "\n" not in str(failure.value)
    assert words in str(failure.value)
    names = [name for name in bench.images() if name != "names"]
    assert names == before[0]
    assert history(bench.store, "hello") == ["0" * 64]


def test_what_is_no_unikernel_or_has_no_lock_file_is_refused(bench, tmp_path):
    os.unlink(bench.source / "mirage/hello-xen.opam.locked")
    with pytest.raises(BuildError, match="there is no lock file"):
        bench.build()
    os.unlink(bench.source / "config.ml")
    with pytest.raises(BuildError, match=r"not a unikernel's folder: there is no config\.ml"):
        bench.build()
    with pytest.raises(BuildError, match="the role mirage_builder installs one"):
        toolchain(str(tmp_path / "nowhere"))


def test_sources_that_change_while_they_are_built_are_not_stored(bench, monkeypatch):
    """The statement would name packages other than those built."""
    monkeypatch.setattr(mirage, "_look_at", lambda *_: bench.change("one", "two"))
    with pytest.raises(BuildError, match="its sources were changed while they were built; nothing was stored: run again"):
        bench.build()
    assert not [name for name in bench.images() if name.endswith(".xen")]


def test_two_builds_at_once_do_the_work_once(bench):
    results = []
    threads = [threading.Thread(target=lambda: results.append(bench.build())) for _count in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(result.cached for result in results) == [False, True]


def test_killed_in_the_middle_nothing_half_is_left_and_the_next_one_builds(bench):
    bench.change("let start", "(* double: slow *)\nlet start")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import *\n"
        f"build({bench.store!r}, {bench.work!r}, Request('hello', Source({str(bench.source)!r}, 'x')),"
        f" toolchain({bench.tools.folder!r}), False)"
    )
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not any("Building" in path.read_text() for path in pathlib.Path(bench.work).glob("*.log")):
        assert time.monotonic() < until, "the compiler was not started within 60 s"
        time.sleep(0.05)
    victim.kill()
    victim.wait(20)
    assert [name for name in bench.images() if name != "names"] == []
    compiler = ["pgrep", "-f", f"{bench.tools.folder}/bin/dune"]
    while subprocess.run(compiler, stdout=subprocess.DEVNULL, check=False).returncode == 0:
        assert time.monotonic() < until, "the compiler outlives the module"
        time.sleep(0.05)
    bench.change("(* double: slow *)\n", "")
    assert bench.build().changed
    assert fsck(bench.store) == []


@pytest.fixture
def keys(tmp_path):
    """alice may sign, bob no longer, carol is unknown, dora was revoked."""
    lines = []
    for name in ("alice", "bob", "carol", "dora"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)], check=True)
        until = ' valid-before="20200101Z"' if name == "bob" else ""
        if name != "carol":
            lines.append(
                f'{name}@example.net namespaces="{signature.NAMESPACE}"{until} {(tmp_path / (name + ".pub")).read_text()}'
            )
    (tmp_path / "allowed").write_text("".join(lines))
    (tmp_path / "revoked").write_text((tmp_path / "dora.pub").read_text())
    return tmp_path


def signed(bench, keys, who):
    digest = bench.build(signing_key=str(keys / who)).manifest["sha256"]
    return digest, lambda: signature.verify(bench.store, digest, str(keys / "allowed"), str(keys / "revoked"))


def test_a_signature_says_who(bench, keys):
    _digest, verify = signed(bench, keys, "alice")
    assert verify() == "alice@example.net"
    assert not bench.build(signing_key=str(keys / "alice")).changed, "signed once"
    assert bench.build(signing_key=str(keys / "bob"), check=True).changed
    assert bench.build(signing_key=str(keys / "bob")).changed, "by another key, signed anew"
    with pytest.raises(signature.SignatureError, match="does not allow"):
        verify()


@pytest.mark.parametrize(
    ("who", "words"),
    [("bob", "does not allow"), ("carol", "does not allow (unknown, or no longer valid)"), ("dora", "is not good")],
)
def test_who_may_not_sign_is_refused(bench, keys, who, words):
    _digest, verify = signed(bench, keys, who)
    with pytest.raises(signature.SignatureError) as failure:
        verify()
    assert words in str(failure.value) and "\n" not in str(failure.value)


def test_a_changed_or_borrowed_statement_is_refused(bench, keys):
    digest, verify = signed(bench, keys, "alice")
    path = pathlib.Path(bench.store, digest + ".provenance.json")
    text = path.read_text()
    path.write_text(text.replace("4.11.1", "4.11.0"))
    with pytest.raises(signature.SignatureError, match="is not good"):
        verify()
    path.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(signature.SignatureError, match="about another image"):
        verify()
    path.write_text(text)
    os.unlink(str(path) + ".sig")
    with pytest.raises(signature.SignatureError, match="is not signed"):
        verify()
