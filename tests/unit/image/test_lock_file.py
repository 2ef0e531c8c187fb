"""Lock files: the committed one decides what is built."""

import hashlib
import os
import pathlib
import re
import time

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.image import lock_file, origin, provenance
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError, Request, Source, build
from hypothesis import given
from hypothesis import strategies as st


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
    with pytest.raises(BuildError, match=r"lock: .*/locks/hello\.lock is not a file; update_lock: true creates it"):
        bench.build(lock=lock)
    assert bench.build(lock=lock, update_lock=True).changed and os.path.exists(lock)
    assert not os.path.exists(bench.source / "mirage/hello-xen.opam.locked")
    assert bench.build(lock=lock).cached
    bench.change("one", "two")
    assert bench.build(lock=lock).changed


REPOSITORY, COMMIT = "https://git.example.net/vpn.git", "ab" * 20


def of_a_repository(bench, commit=COMMIT, uri=REPOSITORY, **options):
    request = Request("hello", Source(str(bench.source), uri, commit), **options)
    return build(bench.store, bench.work, request, bench.tools, False)


def test_a_pin_of_the_folder_above_is_one_of_the_repository(bench, tmp_path):
    """MirageVPN's server pins the library beside it like this; a build doesn't have the folder above."""
    bench.change("open Mirage", "(* double: pins .. *)\nopen Mirage", "config.ml")
    lock = str(tmp_path / "vpn.locked")
    assert of_a_repository(bench, lock=lock, update_lock=True).changed
    text = pathlib.Path(lock).read_text()
    assert lock_file.read(text).sources == ((f"git+{REPOSITORY}#{COMMIT}", ()),) and "file://" not in text
    assert of_a_repository(bench, lock=lock).cached
    # Another commit must not be built with the first one's library.
    with pytest.raises(
        BuildError, match=rf"it pins {REPOSITORY} at abababababab, and version is cdcdcdcdcdcd; update_lock: true"
    ):
        bench.change("one", "two")
        of_a_repository(bench, "cd" * 20, lock=lock)
    assert of_a_repository(bench, "cd" * 20, lock=lock, update_lock=True).changed
    # Even if only the library has changed.
    assert of_a_repository(bench, "ef" * 20, lock=lock, update_lock=True).changed and "#efef" in pathlib.Path(lock).read_text()
    with pytest.raises(BuildError, match="it pins"):
        of_a_repository(bench, lock=lock)


@pytest.mark.parametrize(
    ("pin", "source", "line"),
    [
        ("..", {"commit": "", "uri": "file:hello"}, "hello: config.ml pins the folder above its own, which"),
        ("..", {"uri": "git@git.example.net:vpn.git"}, "hello: config.ml pins its own repository, which is fetched from"),
        ("/etc", {}, "hello: config.ml pins /etc, which is no part of its sources; pin an https:// address"),
        ("lib", {}, "/lib, which is no part of its sources"),
    ],
)  # fmt: skip
def test_a_pin_that_a_build_cannot_have_is_refused(bench, tmp_path, pin, source, line):
    bench.change("open Mirage", f"(* double: pins {pin} *)\nopen Mirage", "config.ml")
    with pytest.raises(BuildError) as failure:
        of_a_repository(bench, lock=str(tmp_path / "lock"), update_lock=True, **source)
    assert line in str(failure.value) and "\n" not in str(failure.value) and not (tmp_path / "lock").exists()


@given(st.text(st.sampled_from('"git+file:///a/b#x \n[]'), max_size=60))
def test_no_text_keeps_a_pin_of_this_machine(text):
    changed, problem = lock_file.pinned(text, "/a/b", REPOSITORY, COMMIT)
    assert problem or '"git+file://' not in changed or not re.search(r'"git\+file://[^"#]*(#[^"]*)?"', changed)


def test_the_lock_file_that_is_committed_is_what_is_built(bench):
    """`mirage configure` writes a newer file than the lock file, so make would regenerate that."""
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


def test_a_lock_file_that_cannot_be_made_without_the_internet_names_what_helps(bench):
    bench.change("open Mirage", "(* double: overlay https://unreachable.invalid/o.git *)\nopen Mirage", "config.ml")
    with pytest.raises(
        BuildError, match=r"opam repository add opam-overlays failed .* mirage_builder_overlays or mirage"
    ) as failure:
        bench.build(update_lock=True)
    assert "\n" not in str(failure.value)
    # If the builder has a copy of the repository, that one is added.
    bench.tools.settings.overlays["opam-overlays"] = "/srv/opam-overlays"
    assert bench.build(update_lock=True).changed


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


DIRECTORIES = 'x-opam-monorepo-duniverse-dirs: [["https://evil.example/x.tgz" "x"]]\n'
TWICE = "it has the field x-opam-monorepo-duniverse-dirs twice"
OPEN = "it has a string or a comment without an end"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DIRECTORIES.replace('["https://evil.example/x.tgz" "x"]', "") + DIRECTORIES, TWICE),
        ("x-opam-monorepo-duniverse-dirs: [] " + DIRECTORIES, TWICE),
        ("(* (* *)\n" + DIRECTORIES + "*)\n", OPEN),
        ('synopsis: "it is open\n', OPEN),
        ("(* and so is this\n", OPEN),
        ('depends: [\n "a" {= "1"} "b" {>= "2"}\n]\n', "it has no exact version of b"),
        ('depends: ["a" {= "1"} "b"]\n', "it has no exact version of b"),
        ('depends: ["a" {= "1"} """b""" {= "2"}]\n', "it has no exact version of "),
        ('depends: ["b\x1b[2J" {= "1"}]\n', "it has no exact version of b?[2J"),
        ('depends: ["a" {= "1"}]\ndepends : ["b" {= "1"}]\n', "it has the field depends twice"),
    ],
)
def test_a_lock_file_that_could_be_read_in_two_ways_is_refused(bench, text, line):
    """What opam builds in is what the statement names."""
    lock = bench.source / "mirage/hello-xen.opam.locked"
    lock.write_text(lock.read_text() + text)
    with pytest.raises(BuildError, match=re.escape(line)) as failure:
        bench.build()
    assert "\n" not in str(failure.value) and not bench.images()


@pytest.mark.parametrize(
    "text",
    [
        "# " + DIRECTORIES,
        "(*\n" + DIRECTORIES + "*)\n",
        'description: """\n' + DIRECTORIES.replace('"', "") + '"""\n',
        'synopsis: "\n' + DIRECTORIES.replace('"', r"\"") + '"\n',
    ],
)
def test_what_is_a_comment_or_a_text_is_no_field(text):
    real = 'x-opam-monorepo-duniverse-dirs: [["https://example.net/y.tgz" "y" ["sha256=' + "a" * 64 + '"]]]\n'
    for lock in (text + real, real + text):
        found = lock_file.read(lock)
        assert (found.problem, [address for address, _digests in found.sources]) == ("", ["https://example.net/y.tgz"])


def test_no_package_hides_in_a_line_of_another():
    text = 'opam-version: "2.0" depends: ["a" {= "1" & ?vendor} "b" {= "2"}\n# "c" {= "3"}\n "d"{="4"}]\n'
    assert lock_file.read(text).packages == (("a", "1"), ("b", "2"), ("d", "4"))


def test_sources_are_in_the_statement_with_their_digests_and_without_tokens():
    commit = "ab" * 20
    text = (
        'x-opam-monorepo-duniverse-dirs: [["https://me:TOKEN@example.net/x.tgz?key=TOKEN" "x" ["md5=' + "0" * 32 + '" "sha256='
        f'{"1" * 64}"]] ["git+https://TOKEN@example.net/y.git#{commit}" "y"]]\n'
    )
    rows = lock_file.materials(lock_file.read(text))
    assert rows == [
        {"name": "duniverse/x", "downloadLocation": "https://example.net/x.tgz", "digest": {"md5": "0" * 32, "sha256": "1" * 64}},
        {"name": "duniverse/y", "downloadLocation": "git+https://example.net/y.git", "digest": {"gitCommit": commit}},
    ]
    statement = provenance.read(
        provenance.statement("a", "0" * 64, built=True, parameters={}, materials=rows, builder={}, key=""), "0" * 64
    )
    assert origin.sources_of(statement) == [], "what is built in is not where the image is declared to come from"


@given(st.text(st.sampled_from('"x-opam-monorepo-duniverse-dirs: [](*)#{}=\\\n 1'), max_size=80))
def test_any_text_is_read(text):
    found = lock_file.read(text)
    assert len(found.problem.splitlines()) <= 1 and len(found.sources) == len(found.folders)


@pytest.mark.parametrize(
    "text",
    [
        '"""' * 20000,
        "(*" * 20000,
        '"' * 20001,
        '\\"' * 20000,
        '\\"' * 20001 + "\\",
        "depends:" * 20000,
        "[" * 20000,
        'depends: ["a" ' + "{" * 20000,
    ],
)
def test_no_text_takes_minutes_to_read(text):
    began = time.process_time()
    lock_file.read(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ["web", "dns", "vpn"])
def test_the_toolchain_is_what_our_lock_files_are_for(name):
    root = pathlib.Path(__file__).parents[3]
    packages = yaml.safe_load((root / "roles/mirage_builder/defaults/main.yml").read_text())["mirage_builder_packages"]
    text = (root / f"unikernels/{name}/mirage/{name}-xen.opam.locked").read_text()
    lock = lock_file.read(text)
    assert lock_file.refusal(lock, f"{name}-xen", packages) is None and len(lock.sources) > 60
    assert {package: dict(re.findall(r'"([a-z0-9-]+)" \{= "([^"]+)"', text))[package] for package in lock.provided} == packages
