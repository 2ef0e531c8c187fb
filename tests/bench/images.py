"""What it costs to learn that an image need not be built, and to read what one says of itself. Needs no lab.

The doubles of mirage, opam and dune are slow where the real ones are not, so processes are counted, not their time.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import inspect_file
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import Request, Source, build, toolchain
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import source_files

from tests.doubles import HELLO, make_toolchain
from tests.guests import guest

FILES = 200  # of sources, as in a unikernel with some content compiled in
ROUNDS = 20


def best(call, rounds=ROUNDS):
    times = []
    for _round in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def traced(command, folder, environment):
    """(programs that it starts, itself included; files of any kind that they open), or None for want of strace."""
    if not shutil.which("strace"):
        return None
    trace = ["strace", "-f", "-qq", "-e", "trace=execve,openat", "-e", "status=successful", "-o", "trace", *command]
    subprocess.run(trace, cwd=folder, env=environment, capture_output=True, check=False)
    text = (folder / "trace").read_text()
    return text.count(" execve("), text.count(" openat(") - text.count("O_DIRECTORY")


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
        image = folder / "large.xen"
        image.write_bytes(guest(os.urandom(5 << 20), memory_size=6 << 20))
        print(f"Reading what an image of 5 MiB says of itself: {best(lambda: inspect_file(str(image))) * 1000:.2f} ms.\n")


if __name__ == "__main__":
    main()
