"""The toolchain, installed once."""

import os
import pathlib
from dataclasses import replace

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import (
    BuildError,
    toolchain,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.toolchain import Wanted, make

from tests.doubles import make_opam
from tests.doubles.toolchain import VERSIONS


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


def test_the_archive_is_asked_before_anything_is_installed(wanted):
    """The same run may install opam: check mode, and the role's first task, work without it as far as possible."""
    no_opam = replace(wanted, opam="/nonexistent/opam")
    assert make(no_opam, True)
    with pytest.raises(BuildError, match=r"cannot be reached: .* \(mirage_builder_proxy, mirage_builder_archive; .*mirrors\)$"):
        make(replace(no_opam, archive="/nonexistent"), True)
    assert not os.path.exists(wanted.folder)


def test_sources_that_only_the_internet_has_name_what_helps(wanted):
    nothing = pathlib.Path(wanted.archive, "double-has-no-sources")
    nothing.touch()
    with pytest.raises(BuildError, match=r"opam download failed \(40\): .* give mirage_builder_mirrors .* mirage_builder_proxy"):
        make(wanted, False)
    nothing.unlink()
    assert make(wanted, False)


def test_what_took_an_hour_is_not_done_again_for_what_broke_behind_it(wanted):
    """The compiler is kept when a later package fails; it is removed when another one is requested."""
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
        (
            {"archive": "https://me:word@example.net/x"},
            "mirage_builder_archive: https://example.net/x: an address with a user or password",
        ),
        (
            {"mirrors": ("ftp://example.net",)},
            "mirage_builder_mirrors: 'ftp://example.net': expected an address that begins with",
        ),
        ({"mirrors": ("/nonexistent",)}, "mirage_builder_mirrors: /nonexistent: there is no such folder"),
        (
            {"overlays": {"x": "git+https://word@example.net"}},
            "mirage_builder_overlays: git+https://example.net: an address with a user",
        ),
        ({"opam": "/nonexistent/opam"}, "mirage_builder_opam: there is no /nonexistent/opam: apt-get install opam"),
        (
            {"packages": {"mirage": "4.11.1; reboot"}},
            "mirage_builder_packages: mirage: '4.11.1; reboot': expected a package and its version",
        ),
        ({"packages": {}}, "mirage is missing"),
        ({"archive": ""}, "opam init failed (40): [ERROR] Could not update repository"),
    ],
)
def test_a_toolchain_that_cannot_be_made_says_why(wanted, change, words):
    with pytest.raises(BuildError) as failure:
        make(replace(wanted, **change), False)
    assert words in str(failure.value)
    assert not os.path.exists(os.path.join(wanted.folder, "versions.json"))
