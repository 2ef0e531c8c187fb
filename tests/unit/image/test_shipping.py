"""What is requested for a host, and what is refused of it."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import Policy
from ansible_collections.unikernels.xen.plugins.module_utils.image.shipping import (
    given_policy,
    settings_problem,
    unsigned_problem,
    wanted_images,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError

from .stores import DIGEST, call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wanted": {"a": "x"}}, r"wanted: a: 'x' is not 64 hexadecimal digits"),
        ({"wanted": {"a": 1}}, r"wanted: a: 1 is not 64"),
        ({"wanted": {"a": [DIGEST]}}, r"wanted: a: \["),
        ({"wanted": {"../a": DIGEST}}, r"wanted: '../a' is not a name of an image"),
        ({"wanted": {None: DIGEST}}, r"wanted: None is not a name of an image"),
        ({"keep": -1}, r"keep: must be 0 or more"),
        ({"mirror_timeout": 0}, r"mirror_timeout: must be 1 or more"),
        ({"kernels": ["x"]}, r"unikernel_images_kernels: 'x' is not 64"),
        ({"shipping": {"texts": {f"{'0' * 64}.json": "x"}}}, r"'0+.json' is not a file of an image of wanted"),
        ({"shipping": {"files": {"../../etc/passwd": {"sha256": "x", "size": 1}}}}, r"is not a file of an image of wanted"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, words):
    with pytest.raises(StoreError, match=words):
        call(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"signature": "optinal"}, "unikernel_images_signature: is 'optinal', must be required or optional"),
        ({"mirrors": ["https://a/", "ftp://b"]}, "unikernel_images_mirror: 'ftp://b': must be as in https://"),
        ({"mirrors": ["https://me:TOKEN@a/x?y=TOKEN"]}, "unikernel_images_mirror: 'https://a/x': must be as in"),
        ({"mirrors": ["https:///x"]}, "unikernel_images_mirror: 'https:///x': must be"),
        ({"mirrors": [{"a": 1}]}, "unikernel_images_mirror: \"{'a': 1}\": must be"),
        ({"mirrors": ["file:///srv"]}, "unikernel_images_mirror: 'file:///srv': must be"),
        ({"mirror_timeout": 0}, "unikernel_images_mirror_timeout: is 0, must be a whole number of 1 or more"),
        ({"mirror_timeout": "ten"}, "unikernel_images_mirror_timeout: is 'ten', must be a whole number of 1 or more"),
        ({"keep": -1}, "unikernel_images_keep: is -1, must be a whole number of 0 or more"),
        ({"keep": True}, "unikernel_images_keep: is True, must be a whole number of 0 or more"),
        ({"keep": "\u0663"}, "unikernel_images_keep: is '\u0663', must be"),
        ({"kernels": [123]}, "unikernel_images_kernels: 123 is not 64 hexadecimal digits"),
    ],
)
def test_wrong_variables_are_refused_before_the_first_host(options, line):
    problem = settings_problem(options)
    assert problem.startswith(line) and "TOKEN" not in problem and "\n" not in problem


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"signature": "", "mirrors": [], "mirror_timeout": None, "keep": None, "kernels": []},
        {"signature": "optional", "mirrors": ["http://[::1]:8080/store", "https://me:word@a/"]},
        {"mirror_timeout": "600", "keep": "0", "kernels": ["AB" * 32]},
    ],
)  # fmt: skip
def test_right_variables(options):
    assert settings_problem(options) == ""


def test_a_digest_of_a_kernel_is_one_in_any_spelling():
    assert given_policy({"kernels": ["AB" * 32]}).kernels == ("ab" * 32,)


def test_wanted_images_are_digests_or_results():
    wanted = {"a": DIGEST, "b": {"sha256": DIGEST}, "c": {"sha256": None}, "d": {}}
    assert wanted_images(wanted, None) == {"a": DIGEST, "b": DIGEST, "c": "", "d": ""}
    assert wanted_images(wanted, ["b", "nosuch"]) == {"b": DIGEST}


def test_what_has_yet_to_be_built_is_refused_as_the_run_would():

    required, signers = Policy("required", ("alice",)), Policy("required", ())
    assert unsigned_problem(required, ["a"], "key") == "" == unsigned_problem(required, [], "")
    assert unsigned_problem(Policy("optional"), ["a"], "") == ""
    assert unsigned_problem(signers, ["a"], "key").startswith("unikernel_images_allowed_signers: is required to check signatures")
    assert unsigned_problem(required, ["b", "a"], "") == (
        "unikernel_images_signing_key: is required: image a, b has yet to be built or stored, and unikernel_images_signature is"
        " required"
    )
