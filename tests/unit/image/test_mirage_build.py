"""From source to image through the module's own functions, with doubles of mirage, opam and dune that keep to their contract."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.image import lock_file, mirage, provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import (
    BuildError,
    Request,
    Source,
    build,
    configure_refusal,
    range_refusal,
    reason,
    toolchain,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import source_files
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import fsck, history, point, remove, unused
from ansible_collections.unikernels.xen.plugins.module_utils.image.toolchain import Wanted, make

from tests.doubles import HELLO, make_opam, make_toolchain
from tests.doubles.toolchain import VERSIONS


class Bench:
    """A builder's folders, and a unikernel's source to change."""

    def __init__(self, folder):
        self.source, self.store, self.work = folder / "hello", str(folder / "store"), str(folder / "work")
        shutil.copytree(HELLO, self.source)
        self.tools = toolchain(make_toolchain(folder / "tools"))

    def change(self, old, new, file="unikernel.ml"):
        path = self.source / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def build(self, check=False, **options):
        request = Request("hello", Source(str(self.source), "file:hello"), **options)
        return build(self.store, self.work, request, self.tools, check)

    def images(self):
        return sorted(os.listdir(self.store)) if os.path.isdir(self.store) else []


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_arguments, **_named):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


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


def test_a_lock_file_is_made_where_asked_for_and_used_from_then_on(bench):
    os.unlink(bench.source / "mirage/hello-xen.opam.locked")
    made = bench.build(update_lock=True)
    assert made.changed
    assert (bench.source / "mirage/hello-xen.opam.locked").exists()
    again = bench.build()
    assert (again.changed, again.cached, again.manifest["sha256"]) == (False, True, made.manifest["sha256"])


def test_a_lock_file_that_is_asked_for_again_is_no_change(bench):
    assert bench.build(update_lock=True, check=True).changed
    assert bench.build(update_lock=True).changed
    for check in (True, False):
        again = bench.build(update_lock=True, check=check)
        assert (again.changed, again.cached) == (False, True)
    lock = bench.source / "mirage/hello-xen.opam.locked"
    made = lock.read_text()
    for change in (lambda: lock.unlink(), lambda: lock.write_text(made + "# mine"), lambda: bench.change("one", "two")):
        change()
        assert bench.build(update_lock=True, check=True).changed
        assert bench.build(update_lock=True).changed and lock.read_text() == made
        assert not bench.build(update_lock=True, check=True).changed


def test_a_lock_file_is_kept_elsewhere_for_a_project_that_has_none(bench, tmp_path):
    os.unlink(bench.source / "mirage/hello-xen.opam.locked")
    lock = str(tmp_path / "locks/hello.lock")
    with pytest.raises(BuildError, match=r"lock: .*/locks/hello\.lock is not a file; update_lock: true makes it"):
        bench.build(lock=lock)
    assert bench.build(lock=lock, update_lock=True).changed and os.path.exists(lock)
    assert not os.path.exists(bench.source / "mirage/hello-xen.opam.locked")
    assert bench.build(lock=lock).cached
    bench.change("one", "two")
    assert bench.build(lock=lock).changed


def test_the_lock_file_that_is_committed_is_what_is_built(bench):
    """`mirage configure` writes a younger file than it, for which make would make it again."""
    lock = bench.source / "mirage/hello-xen.opam.locked"
    os.utime(lock, (1, 1))
    manifest = bench.build().manifest
    text = pathlib.Path(bench.store, manifest["sha256"] + ".provenance.json").read_bytes()
    materials = provenance.read(text, manifest["sha256"])["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = [each["digest"]["sha256"] for each in materials if each.get("name") == "lock file"]
    assert digests == [hashlib.sha256(lock.read_bytes()).hexdigest()]
    assert "monorepo lock" not in pathlib.Path(manifest["log"]).read_text()


def test_the_repositories_that_configure_asks_for():
    opam = 'depends: [ "x" ]\n\nx-mirage-extra-repo: [["opam-overlays" "https://example.net/o.git"]\n["more" "git+https://example.net/m"]]\n'
    assert lock_file.repositories(opam) == [("opam-overlays", "https://example.net/o.git"), ("more", "git+https://example.net/m")]
    for text in (
        "",
        "x-mirage-extra-repo: []\n",
        'x-mirage-extra-repo: [["-x" "https://a"]["a" "/etc"]["a" "file:///etc"]["b"]]',
    ):
        assert lock_file.repositories(text) == []


def test_sources_that_change_while_they_are_built_are_not_stored(bench, monkeypatch):
    """The statement would name others than what was built."""
    monkeypatch.setattr(mirage, "_look_at", lambda *_: bench.change("one", "two"))
    with pytest.raises(BuildError, match="its sources were changed while they were built; nothing was stored: run again"):
        bench.build()
    assert not [name for name in bench.images() if name.endswith(".xen")]


def test_what_the_internet_would_be_needed_for_is_named(bench):
    lock = bench.source / "mirage/hello-xen.opam.locked"
    lock.write_text(
        lock.read_text() + 'x-opam-monorepo-duniverse-dirs: [["https://unreachable.invalid/x" "x" ["md5=' + "0" * 32 + '"]]]\n'
    )
    with pytest.raises(
        BuildError, match=r"give mirage_builder_mirrors .* mirage_builder_overlays or mirage_builder_proxy"
    ) as failure:
        bench.build()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            'x-opam-monorepo-opam-provided: ["crunch" "mirage"]',
            "it needs crunch in the toolchain; add them to mirage_builder_packages",
        ),
        ('x-opam-monorepo-duniverse-dirs: [["https://example.net/x.tgz" "x"]]', "it has no digest for https://example.net/x.tgz"),
        ('x-opam-monorepo-duniverse-dirs: [["git+https://example.net/x.git#main" "x"]]', "it has no digest for git"),
    ],
)
def test_a_lock_file_that_says_too_little_is_refused(bench, lines, words):
    lock = bench.source / "mirage/hello-xen.opam.locked"
    lock.write_text(lock.read_text() + lines + "\n")
    with pytest.raises(BuildError, match=re.escape(words)):
        bench.build()


@pytest.mark.parametrize("name", ["web", "dns", "vpn"])
def test_the_toolchain_is_what_our_lock_files_are_for(name):
    root = pathlib.Path(__file__).parents[3]
    packages = yaml.safe_load((root / "roles/mirage_builder/defaults/main.yml").read_text())["mirage_builder_packages"]
    text = (root / f"unikernels/{name}/mirage/{name}-xen.opam.locked").read_text()
    lock = lock_file.read(text)
    assert lock_file.refusal(lock, f"{name}-xen", packages) is None and len(lock.sources) > 60
    assert {package: dict(re.findall(r'"([a-z0-9-]+)" \{= "([^"]+)"', text))[package] for package in lock.provided} == packages


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


# -- what is a source ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patterns",
    [
        "*.log\n!keep.log\n",
        "/a\n",
        "a/\n",
        "a/b\n",
        "**/c\n",
        "a/**\n",
        "# c\n\\#x\n",
        "[ab].txt\n",
        "a?c\n",
        "doc/*.txt \n",
        "c/\n!c/\n",
    ],
)
def test_gitignore_is_read_as_git_reads_it(tmp_path, patterns):
    for path in (
        "a/b/c",
        "a/keep.log",
        "x.log",
        "a.txt",
        "c.txt",
        "doc/a.txt",
        "doc/x/a.txt",
        "abc",
        "b/a/c",
        "c/d",
        "#x",
        "keep.log",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / ".gitignore").write_text(patterns)
    (tmp_path / "b/.gitignore").write_text("a\n")
    git = ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "-q"], check=True)
    done = subprocess.run([*git, "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, text=True, check=True)
    assert source_files(str(tmp_path)) == sorted(path for path in done.stdout.split("\0") if path)


def test_what_a_build_leaves_is_no_source(tmp_path):
    for path in (
        "config.ml",
        "mirage/x-xen.opam.locked",
        "mirage/main.ml",
        "dist/x.xen",
        "_build/log",
        "duniverse/a/b.ml",
        "dune",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert source_files(str(tmp_path)) == ["config.ml", "mirage/x-xen.opam.locked"]


@pytest.mark.parametrize(
    ("config", "installed", "refused"),
    [
        ("(* mirage >= 4.9.0 & < 4.12.0 *)\nopen Mirage", "4.11.1", False),
        ("(* mirage >= 4.9.0 & < 4.12.0 *)", "4.12.0", True),
        ("(* mirage >= 4.10 *)", "4.9.9", True),
        ("open Mirage (* no range *)", "3.0.0", False),
    ],
)
def test_the_range_of_config_ml(config, installed, refused):
    assert bool(range_refusal(config, installed)) is refused


def test_options_for_configure():
    assert configure_refusal("--no-dhcp") is None
    assert configure_refusal("--target=hvt") and configure_refusal("-o x") and configure_refusal("x")
    assert configure_refusal("--tls=true") is None


def test_the_last_steps_error_is_the_reason():
    assert (
        reason(["== a", "Error: old", "== b", "mirage: unknown option '--x'.", "Usage: mirage"])
        == "mirage: unknown option '--x'."
    )
    assert reason([]) == "it printed nothing"


def test_a_compilers_error_is_shown_whole():
    lines = ['File "unikernel.ml", line 3, characters 4-9:', "3 |     foo x", "        ^^^^^", "Error: Signature mismatch:"]
    lines += [
        "       Modules do not match:",
        "         sig val start : unit end",
        "       is not included in",
        "         sig val start : int end",
    ]
    assert reason([*lines, "make: *** [Makefile:24: build] Error 1"]).endswith(
        "Error: Signature mismatch: Modules do not match: sig val start : unit end is not included in sig val start : int end"
    )
    assert len(reason([*lines, *("       " + "x" * 100 for _ in range(100))])) < 2100


def test_a_package_that_does_not_exist_is_named():
    lines = [
        "opam-monorepo: [ERROR] Can't find all required versions.",
        "Selected: base.v0.16.0 ocaml.5.4.1",
        "- nosuch -> (problem)",
        "    No known implementations at all",
        "- dns -> (problem)",
        "    hello-xen dev requires >= 99",
        "    Rejected candidates:",
        "- ocaml -> ocaml.5.4.1",
    ]
    assert reason(lines) == (
        "opam-monorepo: [ERROR] Can't find all required versions."
        " (nosuch: No known implementations at all; dns: hello-xen dev requires >= 99 Rejected candidates:)"
    )


# -- the store ---------------------------------------------------------------------------------------


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


# -- signatures --------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path):
    """alice may sign, bob may no longer, carol is unknown, dora was revoked."""
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


# -- the toolchain -----------------------------------------------------------------------------------


@pytest.fixture
def wanted(tmp_path):
    packages = {name: version for name, version in VERSIONS.items() if name != "ocaml"}
    return Wanted(
        str(tmp_path / "toolchain"),
        VERSIONS["ocaml"],
        packages,
        str(tmp_path / "archive"),
        make_opam(tmp_path / "path", tmp_path / "archive"),
    )


def test_a_toolchain_is_made_once_and_builds(wanted, bench, request):
    assert make(wanted, True) and not os.path.exists(wanted.folder), "check mode makes nothing"
    assert make(wanted, False)
    bench.tools = toolchain(wanted.folder)
    assert bench.build().changed
    request.getfixturevalue("no_process")
    assert not make(wanted, False), "and is not looked at again"
    assert make(replace(wanted, ocaml="5.5.0"), True), "another version is a change"


def test_what_took_an_hour_is_not_done_again_for_what_broke_behind_it(wanted):
    """The compiler stays when a package behind it fails; it goes when another one is asked for."""
    compiler = pathlib.Path(wanted.folder, "opam/mirage/bin")
    breaks = pathlib.Path(wanted.archive, "double-breaks")
    breaks.write_text("solo5.0.12.1")
    with pytest.raises(BuildError, match=r"The compilation of solo5\.0\.12\.1 failed"):
        make(wanted, False)
    (compiler / "ocamlopt").write_text("an hour of work")
    breaks.unlink()
    assert make(wanted, False)
    assert (compiler / "ocamlopt").exists()
    assert pathlib.Path(wanted.folder, "toolchain.log").read_text().count("== opam switch create") == 1
    assert make(replace(wanted, ocaml="5.5.0"), False)
    assert not (compiler / "ocamlopt").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"archive": "/nonexistent"}, "archive /nonexistent: cannot be reached: no such folder"),
        ({"archive": "https://127.0.0.1:9/"}, "cannot be reached: [Errno 111] Connection refused; give a proxy"),
        ({"archive": "https://me:word@example.net/x"}, "archive: https://example.net/x: an address with a user or password"),
        ({"mirrors": ("ftp://example.net",)}, "mirrors: 'ftp://example.net': expected an address that begins with"),
        ({"mirrors": ("/nonexistent",)}, "mirrors: /nonexistent: there is no such folder"),
        ({"overlays": {"x": "git+https://word@example.net"}}, "overlays: git+https://example.net: an address with a user"),
        ({"opam": "/nonexistent/opam"}, "there is no /nonexistent/opam: apt-get install opam"),
        ({"packages": {"mirage": "4.11.1; reboot"}}, "expected the name of a package and its version"),
        ({"packages": {}}, "mirage is missing"),
        ({"archive": ""}, "opam init failed (40): [ERROR] Could not update repository"),
    ],
)
def test_a_toolchain_that_cannot_be_made_says_why(wanted, change, words):
    with pytest.raises(BuildError) as failure:
        make(replace(wanted, **change), False)
    assert words in str(failure.value)
    assert not os.path.exists(os.path.join(wanted.folder, "versions.json"))
