"""A bill of materials is valid CycloneDX and reproducible, whatever a host answers."""

import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.unikernels.xen.plugins.filter import sbom
from ansible_collections.unikernels.xen.plugins.filter.sbom import cyclonedx

PACKAGES = [{"name": "tls", "version": "2.0.3"}, {"name": "conf-gmp", "version": "4+dune"}]
IMAGE = {"sha256": "ab" * 32, "name": "web", "packages": PACKAGES, "size": 1}


def test_a_bill_names_the_image_and_its_packages():
    pytest.importorskip("cyclonedx", reason="make setup installs it")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = cyclonedx(IMAGE)
    assert text == cyclonedx({**IMAGE, "packages": PACKAGES[::-1]})
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": "ab" * 32}
    ]
    assert [part["purl"] for part in bill["components"]] == ["pkg:opam/conf-gmp@4%2Bdune", "pkg:opam/tls@2.0.3"]
    try:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    except Exception as error:  # the validator's own libraries are not a requirement
        assert type(error).__name__ == "MissingOptionalDependencyException"


@pytest.mark.parametrize(
    "image",
    [
        None, 1, "x", [], {}, {**IMAGE, "sha256": "../../etc/passwd"}, {**IMAGE, "sha256": 1}, {**IMAGE, "packages": 1},
        {**IMAGE, "packages": ["x"]}, {**IMAGE, "packages": [{"name": 1, "version": "1"}]}, {**IMAGE, "packages": [{"name": ""}]},
    ],
)  # fmt: skip
def test_what_is_no_image_is_one_line(image):
    with pytest.raises(AnsibleFilterError, match=r"^cyclonedx: expected an image as mirage_image_info lists it with packages"):
        sbom._read(image)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cyclonedx.model", None)
    with pytest.raises(AnsibleFilterError, match=r"the controller's Python has no cyclonedx.*: pip install cyclonedx-python-lib"):
        cyclonedx(IMAGE)
