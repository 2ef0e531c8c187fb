"""A git repository at one revision, from a real one."""

import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import checkout
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


def test_a_repository_that_is_not_there(tmp_path):
    with pytest.raises(BuildError, match="source file:///nonexistent: version main: fatal: ") as failure:
        checkout("file:///nonexistent", "main", "", str(tmp_path / "work"))
    assert "\n" not in str(failure.value)
