"""Doubles of what cannot run everywhere, and the folders that a user of the real things would have."""

import json
import pathlib

from tests.guests import service

from .toolchain import TEMPLATE, VERSIONS

HERE = pathlib.Path(__file__).parent
HELLO = HERE / "hello"


def make_toolchain(folder):
    """What the role mirage_builder leaves, with doubles in it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "opam").mkdir()
    (folder / "opam/double.json").write_text('{"switch": "mirage", "installed": []}')
    for tool in ("opam", "mirage", "dune"):
        (folder / "bin" / tool).symlink_to(HERE / "toolchain.py")
    (folder / "bin/service.xen").write_bytes(service(TEMPLATE))
    (folder / "versions.json").write_text(json.dumps(VERSIONS))
    return str(folder)


def make_opam(folder, archive):
    """The path of an `opam`, before any toolchain is made, and the archive that it gets packages from."""
    folder.mkdir()
    archive.mkdir()
    (folder / "opam").symlink_to(HERE / "toolchain.py")
    (archive / "service.xen").write_bytes(service(TEMPLATE))
    return str(folder / "opam")
