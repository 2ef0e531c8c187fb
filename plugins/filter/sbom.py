# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a bill of materials from an image that mirage_image_info listed, with CycloneDX's own library."""

from __future__ import annotations

import re
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from ansible.errors import AnsibleFilterError

_DIGEST = re.compile(r"[0-9a-f]{64}")


def cyclonedx(image: dict[str, Any]) -> str:
    """Return JSON of CycloneDX 1.6: the image, its digest, and the opam packages built in. Equal images give equal text."""
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from packageurl import PackageURL
    except ImportError as error:
        raise AnsibleFilterError(
            f"cyclonedx: the controller's Python has no {error.name}: pip install cyclonedx-python-lib"
        ) from error
    name, digest, packages = _read(image)
    unikernel = Component(
        name=name, version=digest[:12], type=ComponentType.APPLICATION, bom_ref=digest,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )  # fmt: skip
    libraries = []
    for package, version in packages:
        address = PackageURL("opam", name=package, version=version)
        libraries.append(
            Component(name=package, version=version, type=ComponentType.LIBRARY, purl=address, bom_ref=address.to_string())
        )
    bill = Bom(serial_number=uuid5(NAMESPACE_URL, digest), components=libraries)
    bill.metadata.component, bill.metadata.timestamp = unikernel, None
    bill.register_dependency(unikernel, libraries)
    return str(make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)) + "\n"


def _read(image: Any) -> tuple[str, str, list[tuple[str, str]]]:
    """Return name, digest and packages of an image from a host's answer, which is not trusted."""
    try:
        digest, packages = image["sha256"], image["packages"]
        rows = {(package["name"], package["version"]) for package in packages}
        if not _DIGEST.fullmatch(digest) or not all(isinstance(text, str) and text for row in rows for text in row):
            raise ValueError
        return str(image.get("name") or digest[:12]), digest, sorted(rows)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise AnsibleFilterError(
            "cyclonedx: expected an image as mirage_image_info lists it with packages: true (sha256, packages)"
        ) from error


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"cyclonedx": cyclonedx}
