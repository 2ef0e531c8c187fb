#!/usr/bin/env python3
"""Doubles of ``mirage`` (4.11), ``opam`` (with opam-monorepo) and ``dune``, for machines that opam's archive does not reach.

Called by the name of the tool that it replaces, it keeps to that tool's contract as the roles and modules use it: the
options, the files written, the words and exit codes of failures, the lock step. What it "compiles" is a real PVH image:
tests/guests/service.c, compiled when the double was laid out, which says what the source's ``greeting`` says. Its OCaml is
a few lines of pattern matching:

* ``let greeting = "..."`` in unikernel.ml goes into the image;
* ``let NAME : int = "..."`` is the type error that it is in OCaml;
* ``(* double: runs FILE *)`` runs the script FILE of the source's folder, as OCaml code or a dune rule could, before it
  compiles or, with ``at the end`` behind FILE, when it has;
* ``(* double: pins FOLDER *)`` in config.ml pins a package there, seen from the source's folder: the lock step locks it;
* ``(* double: overlay ADDRESS *)`` in config.ml asks for that repository when a lock file is made;
* ``(* double: slow *)`` compiles until it is killed, ``(* double: nothing *)`` builds nothing and ends well, as
  ``make build`` does without a cross compiler, ``(* double: random *)`` gives another image each time.

A file ``double-breaks`` in the archive names the package that `opam install` fails to compile; with ``double-has-no-sources``
the sources are where the internet would be needed.
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

# The greeting of the compiled image beside ``bin``: a builder needs only Python and make.
TEMPLATE = "@" * 80
VERSIONS = {"mirage": "4.11.1", "opam-monorepo": "0.4.3", "solo5": "0.12.1", "ocaml-solo5": "1.3.2", "ocaml": "5.4.1"}
KNOWN = ("--no-dhcp", "--no-depext", "--no-extra-repo", "--color", "--net", "--kv_ro", "--block", "--enable-monitoring")
MAKEFILE = """\
all:: depends build
depends: lock install-switch pull
mirage/{name}-xen.opam.locked: mirage/{name}-xen.opam
	opam monorepo lock --require-cross-compile --build-only {name}-xen -l $@ --ocaml-version 5.4.1
lock::
	make -B mirage/{name}-xen.opam.locked
install-switch:: mirage/{name}-xen.opam
	opam install $< --deps-only --yes
	make -s depext-lockfile
depext-lockfile: mirage/{name}-xen.opam.locked
	opam monorepo depext -y -l $<
pull:: mirage/{name}-xen.opam.locked
	opam monorepo pull -l $< -r $(CURDIR)
build::
	dune build --profile release --root . ./dist
	@echo "Your unikernel binary is now ready in ./dist/{name}.xen"
clean::
	mirage clean
"""


def fail(code, *lines):
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(code)


def type_error(path):
    """Return what the compiler prints for ``let x : int = "text"``."""
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        found = re.search(r'let \w+ : int = ("[^"]*")', line)
        if found:
            return [
                f'File "{path}", line {number}, characters {found.start(1)}-{found.end(1)}:',
                f"{number} | {line}",
                " " * (len(str(number)) + 3 + found.start(1)) + "^" * len(found.group(1)),
                "Error: This constant has type string but an expression was expected of type",
                "         int",
            ]
    return None


def foreign_code(path, when=""):
    found = re.search(r"\(\* double: runs (\S+)( at the end)? \*\)", pathlib.Path(path).read_text())
    if found and (found.group(2) or "") == when:
        code = subprocess.run(["sh", found.group(1)], check=False).returncode
        if code:
            fail(1, f"Error: {found.group(1)} exited with {code}")


def name_of():
    return re.search(r'register "([^"]+)"', pathlib.Path("config.ml").read_text()).group(1)


def overlay():
    found = re.search(r"\(\* double: overlay (\S+) \*\)", pathlib.Path("config.ml").read_text())
    return f'x-mirage-extra-repo: [["opam-overlays" "{found.group(1)}"]]\n' if found else ""


def pins():
    found = re.search(r"\(\* double: pins (\S+) \*\)", pathlib.Path("config.ml").read_text())
    path = os.path.normpath(os.path.join(os.getcwd(), found.group(1))) if found else ""
    return f'pin-depends: [["library.dev" "git+file://{path}#HEAD"]]\n' if found else ""


def mirage(arguments):
    if arguments[:1] == ["--version"]:
        print(VERSIONS["mirage"])
        return
    if arguments[:1] != ["configure"]:
        fail(1, f"mirage: unknown command {arguments[:1]}. Must be one of clean, configure, describe, help or query")
    if not os.path.exists("config.ml"):
        fail(1, "mirage: configuration file config.ml missing")
    wrong = type_error("config.ml")
    if wrong:
        fail(1, *wrong, "mirage: [ERROR] run ['dune' 'build' './config.exe']: exited with 1")
    foreign_code("config.ml")
    rest = iter(arguments[1:])
    for one in rest:
        if one == "-t":
            target = next(rest)
            if target not in ("unix", "macosx", "xen", "qubes", "virtio", "hvt", "muen", "genode", "spt"):
                fail(1, f"mirage: option -t: invalid value {target}, expected one of unix, macosx, xen, ...")
        elif one.split("=")[0] not in KNOWN:
            fail(1, f"mirage: unknown option '{one.split('=')[0]}'.", "Usage: mirage configure [OPTION]...")
    name = name_of()
    files = {
        "Makefile": MAKEFILE.format(name=name),
        f"mirage/{name}-xen.opam": f'opam-version: "2.0"\nx-mirage-opam-lock-location: "mirage/{name}-xen.opam.locked"\n'
        + pins() + overlay(),
        "mirage/main.ml": "(* Generated by mirage.4.11.1 *)\n",
        "mirage/manifest.json": json.dumps({"name": name}),
        f"mirage/{name}.xl": f'name = "{name}"\ntype = "pvh"\nkernel = "{os.getcwd()}/dist/{name}.xen"\n',
        "dune": "", "dune-project": "(lang dune 3.0)\n", "dune-workspace": "", "dune.build": "", "dune.config": "",
        "dist/dune": "",
    }  # fmt: skip
    for path, text in files.items():
        pathlib.Path(path).parent.mkdir(exist_ok=True)
        pathlib.Path(path).write_text(text)


def opam(arguments):
    root = pathlib.Path(os.environ.get("OPAMROOT", os.path.expanduser("~/.opam")))
    told = json.loads((root / "double.json").read_text()) if (root / "double.json").exists() else None
    before = json.dumps(told)
    words = [one for one in arguments if not one.startswith("-")]
    if "--version" in arguments:
        print("2.3.0")
        return
    if words[:1] == ["init"]:
        archive = words[2] if len(words) > 2 else "nowhere"
        if not os.path.isdir(archive):
            fail(40, f'[ERROR] Could not update repository "default": archive {archive} is unreachable')
        root.mkdir(parents=True, exist_ok=True)
        (root / "config").write_text('opam-version: "2.0"\n')
        (root / "double.json").write_text(json.dumps({"switch": None, "installed": [], "archive": archive}))
        (root / "service.xen").write_bytes(pathlib.Path(archive, "service.xen").read_bytes())
        return
    if told is None:
        fail(50, "[ERROR] Opam has not been initialised, please run `opam init'")
    if words[:2] == ["switch", "create"]:
        told["switch"] = words[2]
        (root / words[2] / "bin").mkdir(parents=True, exist_ok=True)
    elif words[:2] == ["repository", "add"]:
        if "//unreachable.invalid/" in words[3]:
            fail(40, f"[ERROR] Could not update repository {words[2]}: curl failed: Could not resolve host: unreachable.invalid")
    elif words[:1] == ["update"]:
        pass
    elif words[:1] == ["install"] and "--download-only" in arguments:
        if pathlib.Path(told["archive"], "double-has-no-sources").exists():
            fail(40, "[ERROR] The sources of solo5.0.12.1 could not be obtained: curl: (6) Could not resolve host")
        print("Done.")
    elif words[:1] == ["install"]:
        broken = pathlib.Path(told["archive"], "double-breaks")
        if broken.exists() and broken.read_text().strip() in words:
            fail(31, f'[ERROR] The compilation of {broken.read_text().strip()} failed at "make".')
        told["installed"] += words[1:]
        for tool in ("mirage", "dune"):
            program = root / told["switch"] / "bin" / tool
            program.write_bytes(pathlib.Path(__file__).read_bytes())
            program.chmod(0o755)
        (root / told["switch"] / "bin/service.xen").write_bytes((root / "service.xen").read_bytes())
    elif words[:2] == ["list", "mirage"] or words[:1] == ["list"]:
        for package in told["installed"]:
            print(package.replace(".", " ", 1))
    elif words[:2] == ["monorepo", "lock"]:
        lock, package = pathlib.Path(arguments[arguments.index("-l") + 1]), arguments[arguments.index("-l") - 1]
        if not pathlib.Path(f"mirage/{package}.opam").exists():
            fail(1, f"opam-monorepo: [ERROR] Package {package} not found.")
        pin = re.search(r'pin-depends: \[\["library.dev" ("[^"]+")\]\]', pathlib.Path(f"mirage/{package}.opam").read_text())
        lock.write_text(
            f'opam-version: "2.0"\nx-opam-monorepo-root-packages: ["{package}"]\nx-opam-monorepo-version: "0.3"\n'
            + (f'x-opam-monorepo-duniverse-dirs: [[{pin.group(1)} "library"]]\n' if pin else "")
        )
    elif words[:2] == ["monorepo", "pull"]:
        # Like opam-monorepo 0.4: it reads only the lock file of the project.
        lock, project = (pathlib.Path(arguments[arguments.index(option) + 1]) for option in ("-l", "-r"))
        if not lock.exists():
            fail(1, f"opam-monorepo: [ERROR] no lockfile {lock}")
        if "//unreachable.invalid/" in lock.read_text():
            fail(1, "opam-monorepo: [ERROR] Failed to pull", "curl: (6) Could not resolve host: unreachable.invalid")
        (project / "duniverse").mkdir(exist_ok=True)
    # An existing toolchain is only read.
    if json.dumps(told) != before:
        (root / "double.json").write_text(json.dumps(told))


def dune(_arguments):
    if not os.path.exists("dist/dune"):
        fail(1, "Error: Don't know how to build ./dist")
    text = pathlib.Path("unikernel.ml").read_text()
    wrong = type_error("unikernel.ml")
    if wrong:
        fail(1, *wrong)
    foreign_code("unikernel.ml")
    if "(* double: slow *)" in text:
        print("    Building [1/2]", flush=True)
        while True:
            time.sleep(1)
    if "(* double: nothing *)" in text:
        return
    greeting = re.search(r'let greeting = "([^"]*)"', text)
    words = greeting.group(1) if greeting else f"A double of {name_of()} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if "(* double: random *)" in text:
        words += f" {os.urandom(4).hex()}"
    pathlib.Path("dist").mkdir(exist_ok=True)
    image = (pathlib.Path(sys.argv[0]).parent / "service.xen").read_bytes()
    assert TEMPLATE.encode() in image and len(words) <= len(TEMPLATE)
    pathlib.Path(f"dist/{name_of()}.xen").write_bytes(image.replace(TEMPLATE.encode(), words.ljust(len(TEMPLATE)).encode()))
    foreign_code("unikernel.ml", " at the end")


if __name__ == "__main__":
    {"mirage": mirage, "opam": opam, "dune": dune}[os.path.basename(sys.argv[0])](sys.argv[1:])
