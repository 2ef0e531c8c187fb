"""What guests on nat and routed networks send, frame by frame: the product's filter and rules in a network namespace."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.networks.machine import ROOT


def test_only_a_guests_own_passes_and_only_with_the_hosts_mac(tmp_path):
    """Of 103 hostile frames none, of 28 lawful ones all; what leaves the host has its MAC, and of nat its address."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for tool in ("nft", "ip", "bridge", "unshare"):
        if not shutil.which(tool, path=path):
            pytest.skip(f"{tool} is not installed")
    probe = ["unshare", "--net", "ip", "link", "add", "x", "type", "bridge"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this kernel makes no bridge in a network namespace")
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / ".collections")}
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.wire.networks", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
