"""A builder with doubles of mirage, opam and dune that follow their contract."""

import os
import shutil

from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import Request, Source, build, toolchain

from tests.doubles import HELLO, make_toolchain


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
