"""Keys of people who may sign images, and of others."""

import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import signature


@pytest.fixture(scope="session")
def all_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob", "mallory", "late"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@x", "-f", str(folder / name)], check=True)
    return folder


@pytest.fixture
def keys(all_keys, tmp_path):
    """Private keys, and files of allowed signers and revoked keys."""
    folder = tmp_path / "keys"
    shutil.copytree(all_keys, folder)
    lines = []
    for name in ("alice", "bob", "late"):
        until = ',valid-before="20200101Z"' if name == "late" else ""
        lines.append(f'{name}@x namespaces="{signature.NAMESPACE}"{until} {(folder / f"{name}.pub").read_text()}')
    (folder / "allowed").write_text("".join(lines))
    (folder / "revoked").write_text((folder / "bob.pub").read_text())
    return folder
