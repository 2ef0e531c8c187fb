"""A git repository at one revision, from a real one."""

import fcntl
import hashlib
import json
import os
import pathlib
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import checkout as checkout_module
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import _environment, address_of, checkout, is_url
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import BuildError


def git(folder, *arguments):
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.net"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """(URL, its two commits); the first one has the tag 1.0."""
    folder = tmp_path / "repository"
    (folder / "unikernel").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commits = []
    for text in ("one", "two"):
        (folder / "unikernel/config.ml").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", text)
        commits.append(git(folder, "rev-parse", "HEAD"))
        if text == "one":
            git(folder, "tag", "-a", "1.0", "-m", "one")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    return f"file://{folder}", commits


def test_a_tag_a_branch_and_a_commit(repository, tmp_path, monkeypatch):
    url, (one, two) = repository
    for version, commit, text in (("1.0", one, "one"), ("main", two, "two"), (one, one, "one")):
        source = checkout(url, version, "unikernel", str(tmp_path / "work"))
        with open(f"{source.folder}/config.ml", encoding="utf-8") as file:
            assert (source.revision, file.read()) == (commit, text)
    for changed in ("config.ml", "planted"):
        with open(f"{source.folder}/{changed}", "w", encoding="utf-8") as file:
            file.write("let () = evil ()")
        again = checkout(url, one, "unikernel", str(tmp_path / "work"))
        assert os.listdir(again.folder) == ["config.ml"] and open(f"{again.folder}/config.ml", encoding="utf-8").read() == "one"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert checkout(url, two, "unikernel", str(tmp_path / "work")).revision == two, "a commit that is there starts no process"


@pytest.mark.parametrize(
    ("version", "subfolder", "words"),
    [
        ("nosuch", "", "version nosuch: the repository has no such branch or tag"),
        ("0" * 40, "", f"version {'0' * 40}: fatal: "),
        ("--upload-pack=reboot", "", "version: '--upload-pack=reboot' is not a revision of git"),
        ("main..1.0", "", "is not a revision of git"),
        ("main", "../..", "subfolder: ../.. leads out of the repository"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(repository, tmp_path, version, subfolder, words):
    with pytest.raises(BuildError) as failure:
        checkout(repository[0], version, subfolder, str(tmp_path / "work"))
    assert words in str(failure.value) and "\n" not in str(failure.value)


def test_a_branch_is_that_branch_and_no_other_whose_name_ends_like_it(repository, tmp_path):
    url, (one, two) = repository
    folder = url[len("file://") :]
    git(folder, "branch", "a/main", one)
    git(folder, "update-ref", "refs/evil/refs/heads/main", one)
    git(folder, "update-ref", "refs/heads/0/refs/tags/1.0", two)
    assert checkout(url, "main", "", str(tmp_path / "work")).revision == two
    assert checkout(url, "1.0", "", str(tmp_path / "work")).revision == one
    assert checkout(url, "a/main", "", str(tmp_path / "work")).revision == one
    git(folder, "tag", "main", one)
    with pytest.raises(BuildError, match=f"a branch and a tag of this name: {two} and {one}; give the commit that you mean"):
        checkout(url, "main", "", str(tmp_path / "work"))


def test_links_programs_and_submodules_are_compared_too(repository, tmp_path):
    url, _commits = repository
    folder = pathlib.Path(url[len("file://") :])
    (folder / "link").symlink_to("unikernel/config.ml")
    (folder / "program").write_text("#!/bin/sh\r\n$Id$\n")
    (folder / "program").chmod(0o755)
    (folder / ".gitattributes").write_text("* text eol=crlf ident\nprogram filter=evil export-subst\n")
    (folder / "a.b").write_text("")
    (folder / "module.x").write_text("")
    (folder / "a").mkdir()
    (folder / "a/x").write_text("")
    git(folder, "-c", "core.autocrlf=false", "add", ".")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    git(folder, "commit", "-q", "-m", "more")
    source = checkout(url, "main", "", str(tmp_path / "work"))
    before = os.stat(source.folder).st_ctime_ns
    assert os.stat(checkout(url, "main", "", str(tmp_path / "work")).folder).st_ctime_ns == before, "it is believed"
    os.chmod(f"{source.folder}/program", 0o644)
    assert os.stat(checkout(url, "main", "", str(tmp_path / "work")).folder).st_ctime_ns != before
    assert os.access(f"{source.folder}/program", os.X_OK) and not os.path.exists(f"{source.folder}/.git")


SECRET = "ghp_0123456789abcdef"  # noqa: S105


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.net/x.git", "http:// can be read and altered by anyone on the network path"),
        (f"http://{SECRET}@example.net/x.git", "http:// can be read and altered"),
        ("git://example.net/x.git", "git:// can be read and altered"),
        ("GIT://example.net/x.git", "git:// can be read and altered"),
        ("ext::sh -c reboot", "begins with 'ext' is not supported"),
        ("ftp://example.net/x", "begins with 'ftp' is not supported"),
        ("https://-oProxyCommand=reboot/x", "begins with 'https' is not supported"),
        (f"https://example.net/x.git?token={SECRET}", "an address has no ? or # part"),
        (f"https://example.net/x.git#{SECRET}", "an address has no ? or # part"),
        (f"https://{SECRET}:{SECRET}@[::1/x.git", "the address cannot be read"),
        (f"https://a%0a{SECRET}@example.net/x.git", "line break"),
        (f"https://{SECRET}@example.net/a\0b", "a line break or another control character"),
        (f"https://{SECRET}@example.net/a%00b", "a line break or another control character"),
        (f"https://{SECRET}@exa%1bmple.net/x", "a line break or another control character"),
        ("file:///non%00existent", "a line break or another control character"),
        ("https://\ud800/x.git", "a line break or another control character"),
        ("ssh://me@-oProxyCommand=reboot/x", "the name of the address's host begins with '-'"),
        ("ssh://%2doProxyCommand=reboot/x", "the name of the address's host begins with '-'"),
        ("me@-oProxyCommand:x", "source: an address must be as in https://host/path, ssh://host/path or git@host:path"),
        ("-me@example.net:x", "source: an address must be as in https://host/path, ssh://host/path or git@host:path"),
        (f"me:{SECRET}@example.net:x", "source: an address must be as in https://host/path, ssh://host/path or git@host:path"),
        (
            f"https:/{SECRET}@example.net/x",
            "source: an address must be as in https://host/path, ssh://host/path or git@host:path",
        ),
        (f"https://{SECRET}@127.0.0.1:9/x.git", "source https://127.0.0.1:9/x.git: version main: fatal: "),
        (f"https://me:{SECRET}@127.0.0.1:9/x.git", "source https://127.0.0.1:9/x.git: version main: fatal: "),
    ],
)
def test_what_is_not_fetched_from_and_what_nobody_is_shown(tmp_path, url, words):
    assert is_url(url)
    with pytest.raises(BuildError) as failure:
        checkout(url, "main", "", str(tmp_path / "work"))
    assert words in str(failure.value) and SECRET not in str(failure.value) and "\n" not in str(failure.value)


def test_a_password_is_for_git_alone(tmp_path, monkeypatch):
    """git is called as for a server; a double records its arguments."""
    address = address_of(f"https://me:{SECRET}@example.net/x.git")
    assert (address.url, address.user, address.password) == ("https://example.net/x.git", "me", SECRET)
    done = subprocess.run(
        ["git", "credential", "fill"], input="protocol=https\nhost=example.net\n\n", env=_environment(address),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"username=me\npassword={SECRET}" in done.stdout
    assert SECRET not in json.dumps([name for name in os.listdir(tmp_path)])
    assert address_of("ssh://git@example.net/x").url == "ssh://git@example.net/x"
    assert address_of("ssh://git:word@example.net/x").url == "ssh://git@example.net/x"


def test_what_git_started_ends_with_it(tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\nsleep 987654 &\nsleep 987654\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(checkout_module, "_SECONDS", 0.5)
    with pytest.raises(BuildError, match="git ls-remote did not end within"):
        checkout("https://example.net/x.git", "main", "", str(tmp_path / "work"))
    assert subprocess.run(["pgrep", "-f", "sleep 987654"], stdout=subprocess.DEVNULL, check=False).returncode == 1


WITHOUT_END = {
    "fills the disk": ("while :; do head -c 4000000 /dev/zero >>fill; done", "fetch was ended: it wrote more than 8 MiB"),
    "talks": ("exec cat /dev/zero >&2", "fetch was ended: it printed more than 4 MiB"),
    "takes memory": ("exec python3 -c 'x = bytes(1 << 30)'", "MemoryError"),
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_a_server_that_sends_without_end_is_cut_off(repository, tmp_path, monkeypatch, name):
    """A double does to its folder what git does with such a server."""
    url, (one, _two) = repository
    shell, words = WITHOUT_END[name]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\ntest "$1" = fetch || exec /usr/bin/git "$@"\n{shell}\n')
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(checkout_module, "_DISK", 8 << 20)
    monkeypatch.setattr(checkout_module, "_OUTPUT", 4 << 20)
    monkeypatch.setattr(checkout_module, "_MEMORY", 256 << 20)
    with pytest.raises(BuildError, match=words) as failure:
        checkout(url, one, "", str(tmp_path / "work"))
    assert "\n" not in str(failure.value)
    assert not [path for path in (tmp_path / "work/git").glob("*/*") if path.name != ".lock"], "nothing is left"


def tree(folder, lines):
    text = "".join(f"{mode} {kind} {name}\t{path}\0" for mode, kind, name, path in lines)
    return subprocess.run(
        ["git", "mktree", "-z"], cwd=folder, input=text, check=True, capture_output=True, text=True
    ).stdout.strip()


def hostile(folder, name):
    """Return a tree that is small among git's objects and large in a folder."""
    blob = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], cwd=folder, input="0" * 9000, check=True, capture_output=True, text=True
    ).stdout.strip()
    top = tree(folder, [("100644", "blob", blob, f"{number}") for number in range(10)])
    if name == "deep":
        for _ in range(150):
            top = tree(folder, [("040000", "tree", top, "d")])
        return top
    for _ in range({"bomb": 7, "large": 1, "many": 1}[name]):
        top = tree(folder, [("040000", "tree", top, f"{number}") for number in range(10)])
    return top


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bomb", "version [0-9a-f]+: git ls-tree was ended: it printed more than 1 MiB"),
        ("deep", "the repository has folders in more than 100 others"),
        ("many", "the repository has more than 50 files"),
        ("large", "the repository has files of more than 0 MiB"),
    ],
)
def test_a_repository_that_grows_when_it_is_checked_out_is_refused_before(repository, tmp_path, monkeypatch, name, words):
    url, _commits = repository
    folder = url[len("file://") :]
    commit = git(folder, "commit-tree", "-m", "hostile", hostile(folder, name))
    monkeypatch.setattr(checkout_module, "_OUTPUT", 1 << 20)
    if name in ("many", "large"):
        monkeypatch.setattr(checkout_module.git_tree, "MAX_FILES" if name == "many" else "MAX_BYTES", 50)
    with pytest.raises(BuildError, match=words) as failure:
        checkout(url, commit, "", str(tmp_path / "work"))
    assert "\n" not in str(failure.value)
    assert not [path for path in (tmp_path / "work/git").glob("*/*") if path.name != ".lock"]


def test_a_lock_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout_module, "_SECONDS", 0.3)
    root = tmp_path / "work/git" / hashlib.sha256(b"https://example.net/x.git").hexdigest()[:16]
    root.mkdir(parents=True)
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another run still fetches"):
            checkout("https://example.net/x.git", "main", "", str(tmp_path / "work"))


def test_a_repository_that_is_not_there(tmp_path):
    with pytest.raises(BuildError, match="source file:///nonexistent: version main: fatal: ") as failure:
        checkout("file:///nonexistent", "main", "", str(tmp_path / "work"))
    assert "\n" not in str(failure.value)


LOST = "fatal: Could not read from remote repository."
ADVICE = "\n\nPlease make sure you have the correct access rights\nand the repository exists.\n"


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (f"ssh: connect to host x port 22: refused\r\n{LOST}{ADVICE}", f"ssh: connect to host x port 22: refused {LOST}"),
        (f"Host key verification failed.\r\n{LOST}{ADVICE}", f"Host key verification failed. {LOST}"),
        (f"warning: x\n{LOST}{ADVICE}", LOST),
        ("remote: \x1b[2Jgo away\nfatal: unable to access\n", "fatal: unable to access"),
        ("fatal: \x1b]0;x\x07 \u202e\n", "fatal: ?]0;x? ?"),
        ("fatal: one\nmore\nERROR: two\n", "fatal: one ERROR: two"),
        ("one\ntwo\n", "two"),
        ("", ""),
    ],
)
def test_why_git_failed_is_a_line_of_plain_text(errors, words):
    assert checkout_module._reason(errors) == words


def test_the_repository_whose_hook_started_the_run_is_left_alone(repository, tmp_path, monkeypatch):
    url, (one, _two) = repository
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    before = sorted(str(path) for path in other.rglob("*"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_TRACE_CURL", str(tmp_path / "words"))
    source = checkout(url, one, "unikernel", str(tmp_path / "work"))
    assert open(f"{source.folder}/config.ml", encoding="utf-8").read() == "one"
    assert sorted(str(path) for path in other.rglob("*")) == before and not (tmp_path / "words").exists()


def test_a_subfolder_is_the_name_of_one(repository, tmp_path):
    for subfolder in ("a\0b", "/etc", "../x", "unikernel/../.."):
        with pytest.raises(BuildError, match=r"^subfolder: "):
            checkout(repository[0], "main", subfolder, str(tmp_path / "work"))
