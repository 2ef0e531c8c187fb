"""Run a program of the tests that makes network namespaces of its own; skip where this machine can't have them."""

import os
import shutil
import subprocess

import pytest

from tests.networks.machine import ROOT


def output_of(command, seconds=300):
    """Return what ``command`` prints; fail with its last errors if it does."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for tool in ("nft", "ip", "bridge", "ping", "unshare"):
        if not shutil.which(tool, path=path):
            pytest.skip(f"{tool} is not installed")
    probe = ["unshare", "--net", "ip", "link", "add", "x", "type", "bridge"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this kernel makes no bridge in a network namespace")
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / ".collections")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
