# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot line of a unikernel: join words into the line that MirageOS reads, and split it again; addresses in it. Pure.

The grammar is mirage-bootvar's (parse_argv). Only a space separates words. A backslash makes the next character literal, inside
double quotes too. A double quote begins or ends a quoted part. A single quote is an ordinary character. A line that ends inside a
quoted part or after a backslash is an error. Empty words are dropped.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .spec import Domain, Interface

_SPECIAL = re.compile(r'[ "\\]')
_TO_ESCAPE = re.compile(r'["\\]')
# The options of an interface as Mirage's lib_runtime calls them; with several interfaces each has a group.
ADDRESS_FIELDS = ("address", "gateway", "address6", "gateway6", "group")
_ADDRESS_WORD = re.compile(r"--(?:([a-z][a-z0-9-]*)-)?(ipv[46])(-gateway)?=([0-9a-fA-F.:]+(?:/[0-9]{1,3})?)")


class AddressWord(NamedTuple):
    """A word of a boot line that sets an interface's address or gateway."""

    group: str
    family: str  # ipv4 | ipv6
    gateway: bool
    value: str


def quote_word(word: str) -> str:
    """Quote a word for the boot line; a word without space, double quote or backslash stays as it is."""
    if word and not _SPECIAL.search(word):
        return word
    return '"' + _TO_ESCAPE.sub(r"\\\g<0>", word) + '"'


def join(words: Iterable[str]) -> str:
    """Return the line that MirageOS splits into exactly these words."""
    return " ".join([quote_word(word) for word in words])


def split(line: str) -> list[str]:
    """Return the words that MirageOS splits the line into; raise ValueError if it can't."""
    if '"' not in line and "\\" not in line:
        return [word for word in line.split(" ") if word]
    words: list[str] = []
    word: list[str] = []
    quoted = escaped = False
    for character in line:
        if escaped:
            word.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == " " and not quoted:
            words.append("".join(word))
            word.clear()
        else:
            word.append(character)
    if quoted or escaped:
        raise ValueError("the boot line ends inside double quotes or behind a backslash")
    words.append("".join(word))
    return [word for word in words if word]


def address_word(word: str) -> AddressWord | None:
    """Parse a word that sets an interface's address or gateway; None for any other word."""
    shape = _ADDRESS_WORD.fullmatch(word)
    if not shape:
        return None
    try:
        address = ipaddress.ip_interface(shape[4])
    except ValueError:
        return None
    if f"ipv{address.version}" != shape[2]:
        return None
    return AddressWord(shape[1] or "", shape[2], bool(shape[3]), shape[4])


def address_words(line: str) -> list[AddressWord]:
    """Return all address words of a line, in order. A line that MirageOS refuses (another system's?) is split at spaces."""
    try:
        words = split(line)
    except ValueError:
        words = line.split(" ")
    return [found for found in map(address_word, words) if found]


def addresses(line: str) -> list[str]:
    """Return ADDRESS/PREFIX of every interface that the line configures, those without a group first."""
    found = [word for word in address_words(line) if not word.gateway]
    return [word.value for word in sorted(found, key=lambda word: bool(word.group))]


def interface_words(interfaces: Iterable[Interface]) -> list[str]:
    """Return the words that give the interfaces their addresses; they come first in a boot line."""
    words = []
    for interface in interfaces:
        for value, gateway in ((interface.address, interface.gateway), (interface.address6, interface.gateway6)):
            if value:
                option = f"--{interface.group}-ipv" if interface.group else "--ipv"
                option += "6" if ":" in value else "4"
                words.append(f"{option}={value}")
                if gateway:
                    words.append(f"{option}-gateway={gateway}")
    return words


def read_back(domain: Domain, like: Domain | None = None) -> tuple[tuple[Interface, ...], list[str] | str]:
    """Return a domain's interfaces with the addresses at the head of its boot line, and the words after these.

    The line doesn't say which interface has which group. ``like``, the declared domain, says it; without it, the groups belong to
    the interfaces in order. A line that we would have quoted differently is returned as text: it may have another grammar.
    """
    try:
        words = split(domain.arguments)
    except ValueError:
        words = []
    written = join(words) == domain.arguments
    if written and like and domain.arguments == like.arguments and domain.interfaces == like.interfaces:
        return like.interfaces, words[len(interface_words(like.interfaces)) :]
    bare = [_bare(interface) for interface in domain.interfaces]
    if not written:
        return tuple(bare), domain.arguments
    options = _own_options(like) if like else set()
    head: list[AddressWord] = []
    for word in words:
        found = address_word(word)
        if found is None or word.partition("=")[0] in options:
            break
        head.append(found)
    groups = _groups(head, like, len(bare))
    taken = 0
    for item in head:
        index = groups.get(item.group, len(bare))
        if index >= len(bare):
            break
        option = _option_of(item, bare[index], like.interfaces[index] if like and index < len(like.interfaces) else None)
        if getattr(bare[index], option):
            break
        values: dict[str, Any] = {"group": item.group, option: item.value}
        bare[index] = dataclasses.replace(bare[index], **values)
        taken += 1
    return tuple(bare), words[taken:]


def _bare(interface: Interface) -> Interface:
    if not (interface.address or interface.address6 or interface.group):
        return interface
    return dataclasses.replace(interface, address="", gateway="", address6="", gateway6="", group="")


def _own_options(domain: Domain) -> set[str]:
    """Return the options among a declared domain's own arguments, which may look like an interface's."""
    try:
        words = split(domain.arguments)
    except ValueError:
        return set()
    return {word.partition("=")[0] for word in words[len(interface_words(domain.interfaces)) :]}


def _groups(head: list[AddressWord], like: Domain | None, count: int) -> dict[str, int]:
    """Map each group to the index of its interface."""
    seen = list(dict.fromkeys(word.group for word in head))
    if like is None:
        return {group: index for index, group in enumerate(seen)}
    groups: dict[str, int] = {}
    for index, interface in enumerate(like.interfaces):
        groups.setdefault(interface.group, index)
    # A renamed group belongs to an interface whose declared group is not in the line.
    free = [index for group, index in groups.items() if group not in seen and index < count]
    for group in seen:
        if group not in groups and free:
            groups[group] = free.pop(0)
    return groups


def _option_of(word: AddressWord, interface: Interface, like: Interface | None) -> str:
    """Return the option that a word sets. For an IPv6 address it is address or address6: as declared, else the first one free."""
    second = word.family == "ipv6" and (
        bool(like.address6) or not like.address if like else bool(interface.address and ":" not in interface.address)
    )
    return ("gateway" if word.gateway else "address") + ("6" if second else "")
