"""Doubles of tools that can't run everywhere, and folders like those of the real tools' users."""

import json
import pathlib

from tests.guests import service

from .toolchain import TEMPLATE, VERSIONS

HERE = pathlib.Path(__file__).parent
HELLO = HERE / "hello"


def make_toolchain(folder):
    """Make what the role mirage_builder installs, with doubles."""
    (folder / "bin").mkdir(parents=True)
    (folder / "opam").mkdir()
    (folder / "opam/double.json").write_text('{"switch": "mirage", "installed": []}')
    for tool in ("opam", "mirage", "dune"):
        (folder / "bin" / tool).symlink_to(HERE / "toolchain.py")
    (folder / "bin/service.xen").write_bytes(service(TEMPLATE))
    (folder / "versions.json").write_text(json.dumps(VERSIONS))
    return str(folder)


def make_opam(folder, archive):
    """Return the path of an `opam` without a toolchain, and the archive that it gets packages from."""
    folder.mkdir()
    archive.mkdir()
    (folder / "opam").symlink_to(HERE / "toolchain.py")
    (archive / "service.xen").write_bytes(service(TEMPLATE))
    return str(folder / "opam")
