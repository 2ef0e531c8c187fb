# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image comes from: what a user declares, what the run reports, and what a statement says. No file is read.

Who signs a statement vouches for its sources, so they must be those that are declared. The same bytes may come from several:
a commit that only changes a README, or a file that somebody else built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import provenance
from .checkout import COMMIT, address_of, is_url, top_is_empty
from .elf import printable
from .provenance import PURL, ProvenanceError

STANDIN = "standin:"


def shown(url: str) -> str:
    """An address as a statement may have it: no user, no password, no query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@dataclass(frozen=True)
class Origin:
    """One name's image. ``uris``: how a statement may name it; ``commit``: full, "" where another revision is declared.

    ``local``: the name of a file or folder of the controller says little, its digest counts as well. ``reported``: the
    source that the run got the image from, as a statement has it (SLSA's resolvedDependencies); None where nobody did.
    """

    name: str
    uris: tuple[str, ...]
    commit: str = ""
    subfolder: str = ""
    local: bool = False
    reported: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return _in_words(self.uris[0], self.commit, self.subfolder)


def origin_of(name: str, declared: Mapping[str, Any], reported: Any = None) -> Origin:
    """``declared``: as in `unikernel_images`; BuildError for an address that nothing is fetched from."""
    report = reported if isinstance(reported, Mapping) else None
    source = str(declared.get("source") or "")
    if source and is_url(source):
        version = str(declared.get("version") or "")
        commit, subfolder = version if COMMIT.fullmatch(version) else "", top_is_empty(str(declared.get("subfolder") or ""))
        return Origin(name, (address_of(source).url,), commit, subfolder, reported=report)
    if source or declared.get("file"):
        folder = os.path.basename(str(source or declared["file"]).rstrip("/"))
        # A folder that goes to another machine is packed under the image's name.
        return Origin(name, (f"file:{folder}", f"file:{name}") if source else (f"file:{folder}",), local=True, reported=report)
    if declared.get("standin"):
        return Origin(name, (f"{STANDIN}{declared['standin']}",), reported=report)
    return Origin(name, (shown(str(declared.get("url") or "")),), reported=report)


def sources_of(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sources that a statement, as `provenance.read` gave it, names: not the packages, the lock file or the tools."""
    definition = statement["predicate"]["buildDefinition"]
    service = definition["externalParameters"].get("service")
    standin: list[dict[str, Any]] = [{"uri": f"{STANDIN}{service}"}] if isinstance(service, str) else []
    return standin + [material for material in _materials(definition) if _is_source(material)]


def _materials(definition: Mapping[str, Any]) -> list[Any]:
    materials = definition.get("resolvedDependencies", [])
    if not isinstance(materials, list):
        raise ProvenanceError("it is not an in-toto statement")
    return materials


def _is_source(material: Any) -> bool:
    return isinstance(material, dict) and isinstance(material.get("uri"), str) and not material["uri"].startswith(PURL)


def _digest(material: Mapping[str, Any] | None, kind: str) -> str:
    digest = material.get("digest") if material else None
    value = digest.get(kind) if isinstance(digest, Mapping) else None
    return value if isinstance(value, str) else ""


def _fits(origin: Origin, material: Mapping[str, Any]) -> bool:
    commit = origin.commit or _digest(origin.reported, "gitCommit")
    if material["uri"] in origin.uris:
        return bool(material.get("name", "") == origin.subfolder) and commit in ("", _digest(material, "gitCommit"))
    content = _digest(origin.reported, "sha256") if origin.local and material["uri"].startswith("file:") else ""
    return bool(content) and _digest(material, "sha256") == content


def _words(material: Mapping[str, Any]) -> str:
    name = material.get("name")
    return printable(_in_words(material["uri"], _digest(material, "gitCommit"), name if isinstance(name, str) else ""))[:200]


def _in_words(uri: str, commit: str, subfolder: str) -> str:
    return uri + (f" at {commit[:12]}" if commit else "") + (f", folder {subfolder}" if subfolder else "")


def naming(digest: str, origins: tuple[Origin, ...]) -> Callable[[bytes, bool], bytes]:
    """`from_origins` for `signature.attach`, which hosts have as well: they verify, and know of no sources."""
    return lambda text, trusted: from_origins(text, digest, origins, trusted)


def from_origins(text: bytes, digest: str, origins: tuple[Origin, ...], trusted: bool) -> bytes:
    """The statement about ``digest`` that names the sources of ``origins``; ``text`` itself where it does, or there are none.

    ``trusted``: it is signed by the key that is to sign it, and keeps the sources that it has. Else it gets no others than the
    declared ones. ProvenanceError where it names only others, or where the run got the image from another source than declared.
    """
    if not origins:
        return text
    statement = provenance.read(text, digest)
    definition = statement["predicate"]["buildDefinition"]
    materials, sources = _materials(definition), sources_of(statement)
    for origin in origins:
        _check_report(origin)
    known = sources if trusted else [source for source in sources if any(_fits(origin, source) for origin in origins)]
    if sources and not known:
        if not _is_given(definition, digest, origins):
            says = _words(sources[0])
            raise ProvenanceError(f"it says that the image is from {says}, declared for {origins[0].name} is {origins[0]}")
        definition["externalParameters"] = {"origin": _missing(origins[0])["uri"]}
    more = [_missing(origin) for origin in origins if not any(_fits(origin, source) for source in known)]
    kept = [material for material in materials if not _is_source(material) or material in known]
    kept += [material for number, material in enumerate(more) if material not in more[:number]]
    if kept == materials:
        return text
    definition["resolvedDependencies"] = kept
    return provenance.as_text(statement)


def _is_given(definition: Mapping[str, Any], digest: str, origins: tuple[Origin, ...]) -> bool:
    """Whether a statement is about a finished image, and the run got one of the same bytes: another name of it says no more."""
    is_finished: bool = definition.get("buildType") == provenance.GIVEN_TYPE and "origin" in definition["externalParameters"]
    return is_finished and all(_digest(origin.reported, "sha256") == digest for origin in origins)


def _check_report(origin: Origin) -> None:
    if origin.reported is not None and not (_is_source(origin.reported) and _fits(origin, origin.reported)):
        says = _words(origin.reported) if _is_source(origin.reported) else "nothing that can be named"
        raise ProvenanceError(f"the image of {origin.name} was made from {says}, declared is {origin}")


def _missing(origin: Origin) -> dict[str, Any]:
    if origin.reported is None:
        raise ProvenanceError(f"it does not say that the image is from {origin}, which is declared for {origin.name}")
    return dict(origin.reported)
