"""What it costs to find that an image need not be built, and to read what an image states. Needs no lab.

The doubles of mirage, opam and dune are slow where the real ones are not, so processes are counted, not their time.
"""

import gzip
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, sandbox, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import unpacked
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import inspect_file
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import Request, Source, build, toolchain
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import (
    OPTIONAL,
    REQUIRED,
    Policy,
    check_bootable,
    signers,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.sandbox import Cell
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import source_files
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import point, put

from tests.doubles import HELLO, make_toolchain
from tests.guests import guest

FILES = 200  # source files, as in a unikernel with some content compiled in
ROUNDS = 20


def best(call, rounds=ROUNDS):
    times = []
    for _round in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def traced(command, folder, environment):
    """Return (programs started, including itself; files of any kind opened), or None without strace."""
    if not shutil.which("strace"):
        return None
    trace = ["strace", "-f", "-qq", "-e", "trace=execve,openat", "-e", "status=successful", "-o", "trace", *command]
    subprocess.run(trace, cwd=folder, env=environment, capture_output=True, check=False)
    text = (folder / "trace").read_text()
    return text.count(" execve("), text.count(" openat(") - text.count("O_DIRECTORY")


def cells(tools, folder):
    """Measure a cell: its start, and work in it. The double of dune compiles nothing, so Python's compiler replaces it."""
    where = folder / "cell"
    where.mkdir()
    sandbox.give(str(where))
    (folder / "cell.log").touch()
    source = "import ast,zlib\nfor _ in range(3): ast.dump(ast.parse(open(zlib.__file__ if 0 else ast.__file__).read()))\n"
    times = {}
    for enabled in (True, False):
        cell = Cell(str(where), {"PATH": "/usr/bin:/bin"}, visible=(tools.folder,), enabled=enabled)

        def run(command, cell=cell):
            with open(folder / "cell.log", "a") as log:
                process = sandbox.start(cell, command, log)
                assert process.wait() == 0
                sandbox.end(process)

        times[enabled] = best(lambda run=run: run(["true"])), best(lambda run=run: run(["python3", "-c", source]), 5)
    watched = Cell(str(where), {"PATH": "/usr/bin:/bin"})
    for number in range(20000):  # as many files as in a build
        (where / f"{number // 200}").mkdir(exist_ok=True)
        (where / f"{number // 200}" / f"{number}").write_text("x")
    with open(folder / "cell.log", "a") as log:
        process = sandbox.start(watched, ["sleep", "60"], log)
        look = best(lambda: sandbox.excess(watched, process, str(folder / "cell.log")), 5)
        sandbox.end(process)
    print("| in a cell | with | without | ratio |")
    print("|---|---|---|---|")
    for what, (inside, outside) in zip(("a command that does nothing", "one that computes"), zip(*times.values())):
        print(f"| {what} | {inside * 1000:.1f} ms | {outside * 1000:.1f} ms | {inside / outside:.2f} |")
    print(
        f"\nTo look whether a build with 20,000 files keeps to its bounds: {look * 1000:.0f} ms, at most a tenth of the time.\n"
    )


def starts(folder):
    """Measure checking an image before its domain is created, and at boot."""
    store, keys = folder / "host", folder / "keys"
    keys.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "images")], check=True)
    line = f'a@example.net namespaces="{signature.NAMESPACE}" {(keys / "images.pub").read_text()}'
    policies = (("a digest alone", Policy(OPTIONAL)), ("a digest and a signature", Policy(REQUIRED, signers(line), ())))
    print("| before a start | " + " | ".join(what for what, _policy in policies) + " | ratio |")
    print("|---|---|---|---|")
    for size in (1, 8, 64):
        image = folder / "image.xen"
        image.write_bytes(guest(os.urandom(size << 20), memory_size=(size + 1) << 20))
        _changed, manifest = put(str(store), str(image), None, {"name": "a"}, False)
        digest, path = manifest["sha256"], manifest["path"]
        text = provenance.statement("a", digest, built=False, parameters={}, materials=[], builder={}, key="")
        signature.attach(str(store), digest, text, str(keys / "images"), False, ("a",))
        point(str(store), "a", digest, False)
        times = [best(lambda path=path, policy=policy: check_bootable(path, "a", policy), 5) for _what, policy in policies]
        assert all(check_bootable(path, "a", policy) is None for _what, policy in policies)
        print(f"| an image of {size} MiB | {times[0] * 1000:.0f} ms | {times[1] * 1000:.0f} ms | {times[1] / times[0]:.1f} x |")
    print()


def packed():
    """Measure what a mirror saves with gzip, on another program in OCaml, which resembles a MirageOS image: Debian's opam."""
    opam = shutil.which("opam")
    if not opam:
        return
    data = pathlib.Path(opam).read_bytes()
    print("| an OCaml executable | bytes | of it | time |")
    print("|---|---|---|---|")
    print(f"| as it is | {len(data)} | 1.0 | |")
    for command in (["gzip", "-6"], ["zstd", "-3"], ["zstd", "-19"], ["xz", "-6"]):
        if shutil.which(command[0]):
            began = time.perf_counter()
            size = len(subprocess.run([*command, "-c"], input=data, capture_output=True, check=True).stdout)
            print(f"| `{' '.join(command)}` | {size} | {size / len(data):.2f} | {time.perf_counter() - began:.1f} s |")
    small = gzip.compress(data, 6)
    began = time.perf_counter()
    assert b"".join(unpacked(iter([small]))) == data
    print(f"\nTo unpack the first on a host: {(time.perf_counter() - began) * 1000:.0f} ms.\n")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = folder / "hello"
        shutil.copytree(HELLO, source)
        (source / "htdocs").mkdir()
        for number in range(FILES):
            (source / "htdocs" / f"{number}.html").write_text("x" * 2000)
        tools = toolchain(make_toolchain(folder / "tools"))
        request = Request("hello", Source(str(source), "file:hello"))
        store, work = str(folder / "store"), str(folder / "work")
        build(store, work, request, tools, False)
        nothing = best(lambda: build(store, work, request, tools, False))
        environment = {"PATH": f"{tools.folder}/bin:/usr/bin:/bin", "OPAMROOT": f"{tools.folder}/opam", "HOME": name}
        subprocess.run(["mirage", "configure", "-t", "xen"], cwd=source, env={**os.environ, **environment}, check=True)
        started, opened = traced(["make", "build"], source, environment) or ("no strace here", "-")
        print("| nothing changed | time | processes | files read |")
        print("|---|---|---|---|")
        print(f"| `mirage_image`'s own work | {nothing * 1000:.1f} ms | 0 | {len(source_files(str(source))) + 4} |")
        print(f"| `make build`, with the double of dune | - | {started} | {opened} |\n")
        cells(tools, folder)
        starts(folder)
        packed()
        image = folder / "large.xen"
        image.write_bytes(guest(os.urandom(5 << 20), memory_size=6 << 20))
        print(f"Reading what an image of 5 MiB says of itself: {best(lambda: inspect_file(str(image))) * 1000:.2f} ms.\n")


if __name__ == "__main__":
    main()
