"""The controller acquires images that hosts share only once."""

import pathlib

import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.same_images import SETTINGS, needed, same_images
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[3]
WEB, OTHER = {"web": {"file": "/a"}}, {"web": {"file": "/b"}}


def test_hosts_that_need_the_same_name_the_first_of_them():
    hosts = {
        "a": (WEB, {}),
        "b": (OTHER, {}),
        "c": (WEB, {}),
        "d": (WEB, {"unikernel_images_signing_key": "k"}),
        "e": (OTHER, {}),
    }
    assert same_images(hosts) == {"a": "a", "b": "b", "c": "a", "d": "d", "e": "b"}


@given(st.lists(st.tuples(st.sampled_from([{}, WEB, OTHER]), st.sampled_from([{}, {"unikernel_images_suite": "trixie"}]))))
def test_none_gets_what_another_needs(needs):
    hosts = {str(index): need for index, need in enumerate(needs)}
    same = same_images(hosts)
    assert all(hosts[first] == hosts[host] and same[first] == first for host, first in same.items())


def test_an_image_that_no_unikernel_has_is_not_needed():
    unikernels = [{"name": "www", "image": "web"}, {"name": "old", "image": "dns", "state": "absent"}, {"name": "raw"}]
    assert needed(unikernels, {**WEB, "dns": {}, "vpn": {}}) == WEB


def test_every_setting_of_the_roles_that_decides_is_one():
    """Each new variable of the role must be on one of the two lists."""
    of_hosts = {"wanted", "store", "keep", "mirror", "mirror_timeout", "ca_file", "kernels", "policy_reset", "same_as"}
    defaults = yaml.safe_load((ROOT / "roles/unikernel_images/defaults/main.yml").read_text())
    assert {name.removeprefix("unikernel_images_") for name in defaults} - of_hosts == {
        name.removeprefix("unikernel_images_") for name in SETTINGS if name.startswith("unikernel_images_")
    }
