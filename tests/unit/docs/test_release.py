"""`make release`: what it refuses, and that a download can be verified as docs/releases.md states. Doubles check the tarball."""

# SPDX-License-Identifier: GPL-3.0-or-later

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Each of the programs that tools/requirements.txt pins, as far as a release uses it.
DOUBLES = {
    "ansible-galaxy": 'while [ "$1" != --output-path ]; do shift; done; echo tarball >"$2/unikernels-xen-1.0.0.tar.gz"',
    "ansible-builder": 'echo "{python: [dnspython>=2.3, cyclonedx-python-lib>=11], system: [git, openssh-client]}"',
    "python": 'case "$*" in *galaxy_importer*) [ ! -e "$ROOT/refuse" ] ;; *) cat >/dev/null ;; esac',
    **dict.fromkeys(("reuse", "antsibull-changelog", "antsibull-docs", "sphinx-build"), "true"),
}


class Project:
    """A repository with what tools/publish reads, one commit, and a key to sign with."""

    def __init__(self, folder):
        self.folder, self.key = folder / "project", folder / "release"
        self.programs = folder / "venv/bin"
        for part in ("tools", "changelogs", "meta", "docs/site", "playbooks", "inventories/example"):
            (self.folder / part).mkdir(parents=True)
        self.programs.mkdir(parents=True)
        for name, text in DOUBLES.items():
            self._program(self.programs / name, text)
        shutil.copy(ROOT / "tools/publish", self.folder / "tools")
        self._program(self.folder / "tools/venv", f"echo {self.programs.parent}")
        (self.folder / "galaxy.yml").write_text("namespace: unikernels\nversion: 1.0.0\n")
        (self.folder / "meta/ee-requirements.txt").write_text("dnspython>=2.3\n")
        (self.folder / "changelogs/changelog.yaml").write_text("releases:\n  1.0.0:\n    release_date: '2026-11-28'\n")
        (self.folder / "CHANGELOG.md").write_text("one\n")
        (self.folder / ".gitignore").write_text("/build/\n")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.git("init", "-q")
        self.commit()

    @staticmethod
    def _program(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def git(self, *arguments):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.net"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "one")

    def release(self):
        environment = {**os.environ, "RELEASE_KEY": str(self.key), "ROOT": str(self.folder)}
        done = subprocess.run(
            ["bash", "tools/publish", "release"], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_a_release_is_signed_and_can_be_verified_as_the_page_states(project, tmp_path):
    project.git("tag", "v1.0.0")
    code, words = project.release()
    assert code == 0, words
    folder = project.folder / "build/release"
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS", "unikernels-xen-1.0.0.tar.gz", "unikernels-xen-1.0.0.tar.gz.sig"
    ]  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    (folder / "allowed_signers").write_text(f"release@unikernels {project.key.with_suffix('.pub').read_text()}")
    (command,) = re.findall(r"^    (ssh-keygen -Y verify .*)", (ROOT / "docs/releases.md").read_text(), re.MULTILINE)
    assert subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, check=False).returncode == 0
    (folder / "unikernels-xen-1.0.0.tar.gz").write_text("another\n")
    assert subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, check=False).returncode != 0


def _uncommitted(project):
    (project.folder / "galaxy.yml").write_text("namespace: unikernels\nversion: 1.0.1\n")


def _without_a_tag(project):
    project.git("tag", "v1.0.0-rc1")


def _without_a_changelog(project):
    (project.folder / "changelogs/changelog.yaml").write_text("releases:\n  1.0.0-rc1:\n    release_date: '2026-11-28'\n")
    project.commit()
    project.git("tag", "v1.0.0")


def _without_a_key(project):
    project.git("tag", "v1.0.0")
    project.key = ""


def _refused_by_galaxy(project):
    (project.folder / "refuse").write_text("")
    project.commit()
    project.git("tag", "v1.0.0")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_uncommitted, "the working folder has changes that are not committed"),
        (_without_a_tag, "the last commit is not tagged: git tag -s v1.0.0"),
        (_without_a_changelog, "the changelog has no release 1.0.0"),
        (_without_a_key, "RELEASE_KEY names no ssh key to sign with"),
        (_refused_by_galaxy, "galaxy-importer refuses the collection"),
    ],
)
def test_what_is_no_release_is_not_signed(project, fault, words):
    fault(project)
    code, output = project.release()
    assert code != 0 and words in output, output
    assert not (project.folder / "build/release").exists()
