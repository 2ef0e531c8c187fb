"""Debian's order of versions, as dpkg has it."""

import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.debian_version import is_older
from ansible_collections.unikernels.xen.plugins.module_utils.host.preflight import version_refusals
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("4.17.5", "4.17.5+23-ga4e5191dc0-1"),
        ("4.17.5+23-ga4e5191dc0-1", "4.17.5+72-g01140da4e8-1"),
        ("4.17.5+23-ga4e5191dc0-1", "4.17.5+23-ga4e5191dc0-1+deb12u1"),
        ("4.17.9", "4.17.10"),
        ("4.20~rc1-1", "4.20-1"),
        ("1.0~~", "1.0~"),
        ("9.9", "1:0.1"),
    ],
)
def test_older_and_newer(older, newer):
    assert is_older(older, newer) and not is_older(newer, older) and not is_older(older, older)


VERSIONS = st.from_regex(r"\A([0-9]:)?[0-9][0-9a-zA-Z.+~]{0,8}(-[0-9a-zA-Z.+~]{1,5})?\Z")


@pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
def test_the_order_is_dpkgs(left, right):
    done = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False, timeout=20)
    assert is_older(left, right) == (done.returncode == 0)


def info(installed="4.17.5+23-ga4e5191dc0-1", running="4.17.5", under_xen=True):
    return {"installed": {"xen": installed}, "running": {"xen": running}, "under_xen": under_xen}


@pytest.mark.parametrize(
    ("host", "least", "line"),
    [
        (info(), "", None),
        (info(), "4.17.5", None),
        (info(), "4.17.5+23", None),
        (info("", "", False), "4.20", None),  # it gets the newest one
        (info(), "4.17.6", "has Xen 4.17.5+23-ga4e5191dc0-1, and xen_host_min_xen is 4.17.6: install a newer one"),
        (info(), "4.17.5+24", "has Xen 4.17.5+23-ga4e5191dc0-1, and xen_host_min_xen is 4.17.5+24"),
        (info("4.17.6-1"), "4.17.6", "runs Xen 4.17.5, and xen_host_min_xen is 4.17.6: Xen 4.17.6-1 is installed, and waits"),
        (info("4.17.6-1", "", False), "4.17.6", None),
    ],
)
def test_a_xen_that_is_older_than_it_may_be(host, least, line):
    lines = version_refusals(host, least)
    assert lines == [] if line is None else len(lines) == 1 and lines[0].startswith(line)
