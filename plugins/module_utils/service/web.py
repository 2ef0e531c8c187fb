# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The web server: its variables -> a unikernel with its image. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..fleet.plain import flag, holds_unresolved
from . import content_disk, operations, web_answers
from .certificates import Chain, problem_of
from .variables import USUAL_MEMORY, Service, Variables, at, first_address

NAME = "web"
OPTIONS = ("interfaces", "content", "content_disk", "name", "image", "images", "memory", "port", "tls", "headers", "hosts",
           "update", "arguments", "health", *operations.OPTIONS)  # fmt: skip
_TLS = {"certificates", "port", "redirect", "hsts", "names"}
_AS_IN = "as in [{certificate: PEM text of the chain, key: PEM text}]"
# Two years, in seconds: the longest that browsers' preload lists ask for.
_MAX_HSTS = 63_072_000


def _chains(given: Variables, value: Any) -> list[Chain]:
    """Read the certificate chains. Problems name the place in the list, and never show the text."""
    chains: list[Chain] = []
    if not isinstance(value, list) or not value:
        given.wrong("tls", f"certificates must be a list, {_AS_IN}")
        return chains
    for index, item in enumerate(value):
        if not isinstance(item, dict) or set(item) != {"certificate", "key"}:
            given.wrong("tls", f"certificates[{index}] must have certificate and key and nothing else, {_AS_IN}")
            continue
        chain = problem_of(item["certificate"], item["key"])
        if isinstance(chain, str):
            given.wrong("tls", f"certificates[{index}]: {chain}")
        else:
            chains.append(chain)
    return chains


def _refuse_other_names(given: Variables, names: list[str], chains: list[Chain]) -> None:
    """Names that browsers would warn of; without chains there is more to mend first."""
    known = ", ".join(dict.fromkeys(name for chain in chains for name in chain.names))
    for name in names if chains else []:
        if not any(chain.is_for(name) for chain in chains):
            given.wrong("tls", f"names: no certificate is for {name!r}; they are for {known}")


def _tls(given: Variables) -> tuple[dict[str, Any], list[Chain], int]:
    """(boot arguments, chains, port). All empty without C(web_tls)."""
    tls = given.mapping("tls", "certificates, names, port, redirect and hsts")
    # What is not resolved was reported where it stands.
    if not tls or holds_unresolved(tls):
        return {}, [], 0
    for unknown in sorted(set(map(str, tls)) - _TLS):
        given.wrong("tls", f"has no option {unknown}; its options are {', '.join(sorted(_TLS))}")
    inner = Variables("web_tls", {f"web_tls_{key}": value for key, value in tls.items()})
    port = inner.number("port", 443, 1, 65535, "a TCP port")
    hsts = inner.number("hsts", 0, 0, _MAX_HSTS, "a number of seconds")
    redirect = flag(tls.get("redirect", True))
    if redirect is None:
        inner.wrong("redirect", f"is {tls['redirect']!r}, must be true or false")
    elif redirect and "port" in tls and port != 443:
        inner.wrong("redirect", f"sends browsers to port 443, and port is {port}; set redirect: false")
    names = inner.texts("names", "names that browsers ask for, as in [www.example.org]")
    given.problems += [problem.replace("web_tls_", "web_tls: ", 1) for problem in inner.problems]
    chains = _chains(given, tls.get("certificates"))
    _refuse_other_names(given, names, chains)
    arguments: dict[str, Any] = {"https-port": port}
    if redirect:
        arguments["https-redirect"] = "true"
    if hsts:
        arguments["hsts"] = hsts
    return arguments, chains, port


def content_on_disk(values: Mapping[str, Any]) -> bool:
    """Whether the server's content is on a disk instead of in its image."""
    return flag(values.get("web_content_disk")) is True


def _on_disk(given: Variables) -> bool:
    value = given.get("content_disk", False)
    read, image = flag(value), given.get("image")
    if read is None:
        given.wrong("content_disk", f"is {value!r}, must be true or false")
    elif read and isinstance(image, dict) and image and not image.get("standin"):
        given.wrong(
            "content_disk", "is only for our unikernel and its stand-in: an image of your own (web_image) brings its content"
        )
    return bool(read)


def declare(values: Mapping[str, Any], source: str, digests: Mapping[str, str] | None = None) -> Service:
    """Return the service. ``source``: the folder of our own unikernel for it; ``digests``: folder of content to its archive's."""
    given = Variables(NAME, values)
    interfaces = given.interfaces()
    name, port = given.text("name", "www"), given.number("port", 80, 1, 65535, "a TCP port")
    arguments, chains, tls_port = _tls(given)
    if tls_port == port:
        given.wrong("tls", f"port is {port}, and so is web_port; give them different ports")
    arguments.update(web_answers.arguments(given))
    arguments.update(operations.arguments(given, name, {tls_port: "web_tls: port", port: "web_port"}))
    # The service is what its clients see: behind TLS, by the first name, whoever signed it.
    address = first_address(interfaces)
    plain = {"http": f"http://{at(address, port)}/"}
    secure = {"http": f"https://{at(address, tls_port)}/", "insecure": True, **({"host": chains[0].name} if chains else {})}
    # The content is for our image only: built into it, or on a disk beside it.
    content = given.text("content", "" if given.get("image") else None)
    if not content.strip() and given.get("content") is not None:
        given.wrong("content", "is empty; give the folder to serve")
    on_disk = _on_disk(given)
    disks = [{"content": "".join(chain.text for chain in chains)}] if chains else []
    if on_disk:
        disks.append(content_disk.disk(name, (digests or {}).get(content, content_disk.UNKNOWN)))
        arguments["content-disk"] = "true"
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": interfaces,
        **given.update(),
        "arguments": {"port": port, **arguments, **given.mapping("arguments", "boot argument to value")},
        **({"disks": disks} if disks else {}),
        "health": given.health(secure if tls_port else plain),
    }
    built_in: dict[str, Any] = {} if on_disk else {"overlay": {"htdocs": content}}
    origin = given.origin({"source": source, **built_in}, {"standin": NAME, **({} if on_disk else {"content": content})})
    return Service(unikernel, {name: origin}, tuple(given.problems))
