"""The filters that the roles use."""

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.unikernels.xen.plugins.filter.batches import batches
from ansible_collections.unikernels.xen.plugins.filter.domains import as_domains
from ansible_collections.unikernels.xen.plugins.filter.health import health_checks, quick_checks, watched
from ansible_collections.unikernels.xen.plugins.filter.images import images_by_name, packed_sources, standin_lines, used_images
from ansible_collections.unikernels.xen.plugins.lookup.debian_sources import lines_for
from ansible_collections.unikernels.xen.plugins.module_utils.host.files import with_block

UNIKERNEL = {"name": "www", "image": "web", "interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]}
IMAGES = {"web": {"file": "/web.xen"}}


def test_images_become_kernels():
    stored = {"web": {"sha256": "ab" * 32, "standin": True, "description": "stand-in for web"}}
    assert as_domains([UNIKERNEL], stored, "/store")[0]["kernel"] == f"/store/{'ab' * 32}.xen"
    assert "image" not in as_domains([UNIKERNEL], stored, "/store")[0]
    assert used_images([UNIKERNEL], {**IMAGES, "other": {}}) == IMAGES
    assert used_images([{**UNIKERNEL, "state": "absent"}], IMAGES) == {}
    assert standin_lines([UNIKERNEL], stored) == ["www runs a STAND-IN, not a unikernel (stand-in for web)"]


def test_results_of_loops_become_images():
    results = [{"item": "www", "ansible_loop_var": "item", "failed": False, "changed": True, "sha256": "ab"}]
    assert images_by_name(results) == {"www": {"sha256": "ab"}}


def test_what_was_packed_is_built_from_the_archive():
    wanted = {
        "www": {"source": "/here/web", "overlay": {"htdocs": "/srv/www"}, "configure": ["--x=y"]},
        "git": {"source": "https://example.net/x", "version": "main"},
    }
    packed = [{"item": "www", "path": "/cache/sources/www-ab.tar"}]
    assert packed_sources(wanted, packed, "/srv/sources") == {
        "www": {"source": "/srv/sources/www-ab.tar", "configure": ["--x=y"]},
        "git": wanted["git"],
    }


def test_a_block_is_replaced_not_repeated():
    once = with_block("A=1\n", "B=2")
    assert once == "A=1\n# BEGIN unikernels.xen\nB=2\n# END unikernels.xen\n"
    assert with_block(once, "B=2") == once
    assert with_block(once + "C=3\n", "B=4") == "A=1\nC=3\n# BEGIN unikernels.xen\nB=4\n# END unikernels.xen\n"


def test_sources_follow_the_release():
    listing = (
        "Debian|main|http://m/debian/|bookworm\nDebian|main|http://m/sec/|bookworm-security\nOther|main|http://x/|nodistro\n"
    )
    assert lines_for(listing, "trixie") == ["deb http://m/debian/ trixie main", "deb http://m/sec/ trixie-security main"]


def test_a_health_check_takes_no_secret_along():
    one = {"name": "vpn", "disks": [{"content": "key"}], "health": {"tcp": "10.0.0.1:1194"}, "state": "running"}
    assert health_checks([one]) == [{"name": "vpn", "state": "running", "health": {"tcp": "10.0.0.1:1194"}}]


def test_how_long_an_ill_one_may_take():
    one = {"name": "www", "health": {"tcp": "10.0.0.1:80", "within": 60}, "arguments": {"token": "x"}}
    assert watched([one], 10) == [{"name": "www", "health": {"tcp": "10.0.0.1:80", "within": 10}}]
    generations = [{"domains": []}, {"domains": [{**one, "state": "running"}, {**one, "state": "stopped"}, {"name": "x"}]}]
    assert quick_checks(generations) == [{"name": "www", "health": {"tcp": "10.0.0.1:80", "within": 5}}]
    assert quick_checks([]) == []


@pytest.mark.parametrize("value", [1, "1", "25%", "100%", [1, "10", "100%"]])
def test_batches_are_what_a_play_takes(value):
    assert batches(value) == value


@pytest.mark.parametrize("value", [0, "0", -1, True, 1.5, "one", "0%", "101%", "", None, [], [1, "x"], {}, "1\n"])
def test_other_batches_are_refused(value):
    with pytest.raises(AnsibleFilterError, match=r"hosts_at_once: is .*, must be a number of hosts"):
        batches(value)
