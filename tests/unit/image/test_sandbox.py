"""What a build can't do: hostile projects, each trying one thing. Needs bubblewrap, no network and no lab."""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import sandbox, steps
from ansible_collections.unikernels.xen.plugins.module_utils.image.building import Building
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError, Request, Source, build, toolchain
from ansible_collections.unikernels.xen.plugins.module_utils.image.sandbox import Cell, Limits, Machine, arguments

from tests.doubles import HELLO, make_toolchain

SMALL = Limits(memory=512 << 20, processes=64, disk=64 << 20, files=32 << 20, entries=3000)


class Project:
    """A unikernel whose config.ml, or dune rule, runs a shell script."""

    def __init__(self, folder):
        self.folder, self.source, self.store, self.work = folder, folder / "hello", folder / "store", folder / "work"
        shutil.copytree(HELLO, self.source)
        self.tools = toolchain(make_toolchain(folder / "tools"))

    def attack(self, file, shell):
        (self.source / "attack.sh").write_text(shell)
        path = self.source / file
        path.write_text(path.read_text() + "\n(* double: runs attack.sh *)\n")

    def build(self, **options):
        request = Request("hello", Source(str(self.source), "file:hello"), **options)
        return build(str(self.store), str(self.work), request, self.tools, False)

    def log(self):
        return "\n".join(path.read_text(errors="replace") for path in self.work.glob("*.log"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(Building, "limits", SMALL)
    return Project(tmp_path)


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """A home with a key, a listening agent, a token in the environment: everything that an admin's shell has."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("SECRET-KEY")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "agent"))
    listener.listen()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("GITHUB_TOKEN", "SECRET-TOKEN")
    yield tmp_path
    listener.close()


READS = {
    "ssh": "cat {home}/.ssh/id_ed25519; ls -la {home} ~root/.ssh /root/.ssh /home/*/.ssh",
    "shadow": "cat /etc/shadow; ls /etc",
    "environment": "cat /proc/[0-9]*/environ /proc/$PPID/environ",
    "agent": 'python3 -c \'import socket; socket.socket(socket.AF_UNIX).connect("{agent}"); print("SECRET-AGENT")\'',
    "proxy": "cat {tools}/settings.json; ls -la {tools}",
    "memory": "cat /proc/1/mem /proc/kcore /dev/mem /dev/vda /dev/sda | head -c 10",
}


@pytest.mark.parametrize("file", ["config.ml", "unikernel.ml"])
def test_no_secret_can_be_read(project, secrets, file):
    settings = pathlib.Path(project.tools.folder, "settings.json")
    settings.write_text('{"proxy": "http://me:SECRET-PROXY@example.net"}')
    project.tools = toolchain(project.tools.folder)
    shell = "".join(f"{text}\necho TRIED {name}\n" for name, text in READS.items())
    project.attack(file, shell.format(home=secrets / "home", agent=secrets / "agent", tools=project.tools.folder))
    assert project.build().changed, "what reads nothing builds"
    log = project.log()
    assert log.count("TRIED ") == len(READS) and "SECRET" not in log
    assert not [line for line in log.splitlines() if line.startswith(("root:", "shadow"))]


KEYRING = """
import ctypes
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(100)
key = libc.syscall(250, 10, -3, b"user", b"unikernels-test", 0)
for each in (key, {key}):
    print("TRIED", libc.syscall(250, 11, each, buffer, 100), buffer.value)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has the numbers of x86-64")
def test_no_key_of_the_session_can_be_read(project):
    """Who logged in may have a key of Kerberos or of an encrypted disk in the kernel."""
    libc = ctypes.CDLL(None)
    libc.syscall(250, 1, None)
    key = libc.syscall(248, b"user", b"unikernels-test", b"SECRET-KEY", 10, -3)
    if key < 0:
        pytest.skip("this machine forbids keyctl")
    (project.source / "attack.py").write_text(KEYRING.format(key=key))
    project.attack("unikernel.ml", "python3 attack.py")
    assert project.build().changed
    assert project.log().count("TRIED -1") == 2 and "SECRET" not in project.log()


WRITES = {
    "store": "{folder}/store/keys/planted",
    "another project's cache": "{folder}/work/git/0123456789abcdef/tree/config.ml",
    "another build's folder": "{folder}/work/other/config.ml",
    "toolchain": "{folder}/tools/bin/mirage",
    "sources": "{folder}/hello/unikernel.ml",
    "the system": "/usr/local/bin/planted",
    "root": "/etc/ld.so.preload",
}


@pytest.mark.parametrize("file", ["config.ml", "unikernel.ml"])
def test_nothing_but_the_builds_own_folder_can_be_written(project, file):
    paths = [pathlib.Path(path.format(folder=project.folder)) for path in WRITES.values()]
    for path in paths[:3]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    project.attack(
        file, "".join(f"mkdir -p {at.parent}; rm -f {at}; echo planted >{at}; ls -la {at.parent}; echo TRIED\n" for at in paths)
    )
    before = [path.read_bytes() if path.exists() else None for path in paths]
    assert project.build().changed
    assert project.log().count("TRIED") == len(paths)
    assert [path.read_bytes() if path.exists() else None for path in paths] == before


@pytest.mark.parametrize("file", ["config.ml", "unikernel.ml"])
def test_no_connection_can_be_opened(project, file):
    asked = []

    def accept(server):
        with contextlib.suppress(OSError):
            asked.append(server.accept())

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        for each in (server, six):
            threading.Thread(target=accept, args=[each], daemon=True).start()
        code = (
            "import socket\n"
            f"for at in (('127.0.0.1', {server.getsockname()[1]}), ('::1', {six.getsockname()[1]}), ('192.0.2.1', 443)):\n"
            "    try: socket.create_connection(at, 2); print('CONNECTED', at)\n"
            "    except OSError as error: print('TRIED', at, error)\n"
            "print([name for _, name in socket.if_nameindex()])\n"
        )
        (project.source / "attack.py").write_text(code)
        project.attack(file, "python3 attack.py")
        project.build()
    assert "TRIED" in project.log() and "CONNECTED" not in project.log() and not asked
    assert "['lo']" in project.log()


ENDLESS = {
    "fork": ("while true; do sh attack.sh & done; wait", {"timeout": 4}, ""),
    "never finish": ("while true; do sleep 1; done", {"timeout": 2}, "was ended: the build took longer than its 2 s"),
    "fill the disk": ("i=0; while true; do i=$((i + 1)); head -c 8000000 /dev/zero >fill$i; done", {},
                      "was ended: it wrote more than 64 MiB"),
    "fill the file system with nothing": ("i=0; while true; do i=$((i + 1)); : >f$i; done", {},
                                          "was ended: it created more than 3000 files and folders"),
    "one large file": ("exec head -c 2000000000 /dev/zero >fill", {}, "attack.sh exited with"),
    "fill the log": ("yes", {}, "was ended: it printed more than"),
    "memory": ("exec python3 -c 'x = [bytes(1 << 20) for _ in range(4000)]'", {}, "attack.sh exited with 1"),
    "memory of many": ("for i in 1 2 3 4 5 6; do python3 -c 'import time; x = b\"1\" * (300 << 20); time.sleep(60)' & done; wait",
                       {}, "was ended: it used more than 512 MiB of memory"),
    "unreadable": ("mkdir d; head -c 9000000 /dev/zero >d/fill; chmod 0 d; exec sleep 60", {"timeout": 3}, "was ended: "),
}  # fmt: skip


def assert_none_runs(word):
    """Wait until no process has this word in its command: the kernel takes its time, and another checkout may run this too."""
    until = time.monotonic() + 60
    while subprocess.run(["pgrep", "-f", word], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        assert time.monotonic() < until, f"still there: {word}"
        time.sleep(0.2)


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended_and_the_next_build_is_clean(project, name, monkeypatch):
    monkeypatch.setattr(sandbox, "LOG", 8 << 20)
    shell, options, words = ENDLESS[name]
    clean = (project.source / "unikernel.ml").read_text()
    project.attack("unikernel.ml", shell)
    began = time.monotonic()
    with pytest.raises(BuildError) as failure:
        project.build(**options)
    assert "\n" not in str(failure.value) and words in str(failure.value)
    assert time.monotonic() - began < 40
    assert_none_runs("attack.sh")
    assert not [path for path in project.work.iterdir() if path.is_dir() and path.name != "downloads"], "nothing of it is left"
    (project.source / "unikernel.ml").write_text(clean)
    (project.source / "attack.sh").unlink()
    assert project.build().changed


def test_a_process_left_behind_is_ended(project):
    project.attack("unikernel.ml", "(exec setsid sleep 987654321) >/dev/null 2>&1 & echo TRIED")
    assert project.build().changed
    assert "TRIED" in project.log()
    assert_none_runs("987654321")


LEFT = {
    "link to a file": "ln -sf /etc/shadow dist/hello.xen",
    "link to a folder": "rm -r dist; ln -s / dist",
    "pipe": "rm -f dist/*.xen; mkfifo dist/hello.xen",
    "a name of two lines": "mv dist/hello.xen dist/moved; ln -s /etc/shadow \"$(printf 'dist/a\\n\\033[2Jb.xen')\"",
    "two names of one file": "ln dist/hello.xen kept",
    "an image of terabytes": "rm dist/hello.xen; truncate -s 30M dist/hello.xen",
    "two": "cp dist/hello.xen dist/b.xen",
    "another lock file": 'sed -i "s/0.3/0.4/" mirage/*.locked',
    "a lock file that is a link": "ln -sf /etc/shadow mirage/hello-xen.opam.locked",
    "deep folders": "i=0; while [ $i -lt 1100 ]; do mkdir d; cd d; i=$((i + 1)); done; exit 1",
    "an image of another target": "head -c 5000 /dev/urandom >dist/hello.xen",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_a_build_leaves_is_looked_at_before_it_is_taken(project, name):
    project.attack("unikernel.ml", LEFT[name])
    (project.source / "unikernel.ml").write_text(
        (project.source / "unikernel.ml").read_text().replace("runs attack.sh", "runs attack.sh at the end")
    )
    with pytest.raises(BuildError) as failure:
        project.build(timeout=20)
    assert "\n" not in str(failure.value) and "\x1b" not in str(failure.value) and "root:" not in str(failure.value)
    assert not project.store.exists() or not list(project.store.glob("*.xen"))
    assert not [path for path in project.work.iterdir() if path.is_dir() and path.name != "downloads"]


def test_where_there_can_be_no_sandbox_a_build_is_refused_unless_the_user_wrote_so(project, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "refusal", lambda: "there is no bwrap: apt-get install bubblewrap")
    words = "there is no bwrap: apt-get install bubblewrap; .*mirage_builder_sandbox: false"
    with pytest.raises(BuildError, match=words) as failure:
        project.build()
    assert "\n" not in str(failure.value)
    assert project.build(sandbox=False).changed


@pytest.mark.skipif(os.geteuid() != 0, reason="drops to another user")
def test_a_user_without_sudo_has_the_same_cell(request):
    """As nobody, in a user namespace. Pytest's folders are only for their owner."""
    folder = tempfile.mkdtemp()
    request.addfinalizer(lambda: shutil.rmtree(folder))
    shutil.chown(folder, "nobody")
    code = (
        "import sys; sys.path[:0] = ['.', '.collections']\n"
        "from tests.unit.image.test_sandbox import *\n"
        f"project = Project(pathlib.Path({folder!r}))\n"
        "project.attack('unikernel.ml', 'cat /etc/shadow; id -u; ls -A ~ /root /home; cat /proc/1/environ; echo TRIED')\n"
        "assert project.build().changed\n"
        "print(project.log())\n"
    )

    def as_nobody(code):
        return subprocess.run(
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", sys.executable, "-c", code],
            cwd=pathlib.Path(__file__).parents[3], env={**os.environ, "GITHUB_TOKEN": "SECRET", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    try:
        readable = (
            as_nobody("import sys; sys.path[:0] = ['.', '.collections']; import pytest, tests.doubles.toolchain").returncode == 0
        )
    except PermissionError:
        readable = False
    if not readable:
        pytest.skip("this checkout is for its owner alone")
    done = as_nobody(code)
    assert done.returncode == 0, done.stderr
    assert "TRIED" in done.stdout and "SECRET" not in done.stdout and "root:" not in done.stdout


# -- the arguments, without a process -----------------------------------------------------------------


def test_the_arguments_name_what_is_seen_and_nothing_else():
    links = {"/bin": "usr/bin"}
    cell = Cell("/builds/x", {}, visible=("/opt/tools",))
    asked = arguments(cell, ["make"], Machine(1000, 1000, links))[4:]
    assert asked[0] == "bwrap" and "--unshare-net" in asked and "--unshare-user" in asked and "--die-with-parent" in asked
    bound = {asked[at + 2] for at, word in enumerate(asked) if word in ("--bind", "--ro-bind")}
    assert bound == {"/usr", "/opt/tools", "/builds/x"}
    assert [asked[at + 1] for at, word in enumerate(asked) if word == "--bind"] == ["/builds/x"]
    assert not [word for word in asked if "shadow" in word or word.startswith(("/home", "/root", "/run", "/var"))]
    assert "/etc/resolv.conf" not in asked
    fetching = arguments(Cell("/builds/x", {}, network=True), ["opam"], Machine(1000, 1000, links))
    assert "--unshare-net" not in fetching and "/etc/resolv.conf" in fetching
    as_root = arguments(cell, ["make"], Machine(0, 61184, links, scope=True))[4:]
    assert as_root[0] == "systemd-run" and "--reuid=61184" in as_root and "--unshare-user" not in as_root
    assert arguments(Cell("/builds/x", {}, enabled=False), ["make"], Machine(0, 61184, links))[4] == "prlimit"
    users = arguments(cell, ["make"], Machine(1000, 1000, links, scope=True))[4:]
    assert users[:3] == ["systemd-run", "--user", "--scope"] and "MemoryMax=8589934592" in users
    unset = [users[at + 1] for at, word in enumerate(users) if word == "--unsetenv"]
    assert unset == ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] and "--unsetenv" not in asked
    asked = arguments(cell, ["make"], Machine(1000, 1000, links))
    assert asked[:4] == ["choom", "-n", "1000", "--"] and asked[-1] == "make"


def test_memory_is_looked_at_more_often_than_a_large_folder(tmp_path, monkeypatch):
    """A folder that takes seconds to walk through must not leave memory alone for these seconds."""
    looks = {"memory": 0, "folder": 0}

    def memory(_cell, _process):
        looks["memory"] += 1
        return "it used too much" if looks["memory"] > 3 else None

    def folder(*_):
        looks["folder"] += 1
        monkeypatch.setattr(steps, "_LOOK_SECONDS", 60)

    monkeypatch.setattr(sandbox, "too_much_memory", memory)
    monkeypatch.setattr(sandbox, "excess", folder)
    running = steps.Steps("a", str(tmp_path / "log"), str(tmp_path / "progress"), 60)
    running.begin()
    with pytest.raises(BuildError, match="it used too much"):
        running.run(Cell(str(tmp_path), dict(os.environ), enabled=False), "sleep", ["sleep", "60"])
    assert looks == {"memory": 4, "folder": 1}


@pytest.mark.skipif(sandbox.refusal() is not None, reason="needs a sandbox")
def test_the_kernel_ends_a_build_before_anything_else_of_the_machine(project):
    project.attack("unikernel.ml", "cat /proc/self/oom_score_adj; echo 0 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj")
    assert project.build().changed
    capabilities = re.search(r"CapEff:\s*([0-9a-f]+)", pathlib.Path("/proc/self/status").read_text()).group(1)
    stays = int(capabilities, 16) >> 24 & 1  # CAP_SYS_RESOURCE, which root has but in some containers
    assert project.log().splitlines().count("1000") == (2 if stays else 1)


def test_reading_a_file_takes_no_more_memory_than_it_has(tmp_path):
    """A limit of gigabytes must not reserve them: a Dom0 has less."""
    (tmp_path / "image").write_bytes(b"small")
    assert sandbox.read(str(tmp_path), "image", 1 << 60) == b"small"
