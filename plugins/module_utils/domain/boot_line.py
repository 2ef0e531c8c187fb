# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot line of a unikernel, both ways: words to one line as MirageOS reads it, and back; addresses in it. Pure.

The grammar is mirage-bootvar's (parse_argv): only a space separates words. A backslash takes the next character as it
is, inside double quotes too. A double quote begins and ends a quoted part. A single quote is an ordinary character. A
line that ends in a quoted part or behind a backslash is an error, and an empty word is no word.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from .spec import Interface

_SPECIAL = re.compile(r'[ "\\]')
_TO_ESCAPE = re.compile(r'["\\]')
# What Mirage's lib_runtime calls the options of an interface; several interfaces have a group each.
_ADDRESS_WORD = re.compile(r"--(?:([a-z][a-z0-9-]*)-)?(ipv[46])(-gateway)?=([0-9a-fA-F.:]+(?:/[0-9]{1,3})?)")


class AddressWord(NamedTuple):
    """One word of a boot line that gives an interface its address or gateway."""

    group: str
    family: str  # ipv4 | ipv6
    gateway: bool
    value: str

    def __str__(self) -> str:
        prefix = f"{self.group}-" if self.group else ""
        return f"--{prefix}{self.family}{'-gateway' if self.gateway else ''}={self.value}"


def quote_word(word: str) -> str:
    """One word as it must stand in the line; one without space, quote and backslash stands as it is."""
    if word and not _SPECIAL.search(word):
        return word
    return '"' + _TO_ESCAPE.sub(r"\\\g<0>", word) + '"'


def join(words: Iterable[str]) -> str:
    """The line that MirageOS splits into just these words."""
    return " ".join(map(quote_word, words))


def split(line: str) -> list[str]:
    """The words that MirageOS makes of the line; ValueError when it can't."""
    if not _SPECIAL.search(line):
        return [line] if line else []
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
    """The word as an option that gives an interface its address or gateway, None when it is something else."""
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
    """All of them in a line, in their order; in one that MirageOS would refuse as well, for it may be another system's."""
    try:
        words = split(line)
    except ValueError:
        words = line.split(" ")
    return [found for found in map(address_word, words) if found]


def addresses(line: str) -> list[str]:
    """ADDRESS/PREFIX of every interface that the line configures; those without a group first."""
    found = [word for word in address_words(line) if not word.gateway]
    return [word.value for word in sorted(found, key=lambda word: bool(word.group))]


def interface_words(interfaces: Iterable[Interface]) -> list[str]:
    """The words that give the interfaces their addresses, as they stand at the head of a line."""
    words = []
    for interface in interfaces:
        for value, gateway in ((interface.address, interface.gateway), (interface.address6, interface.gateway6)):
            if value:
                family = "ipv6" if ":" in value else "ipv4"
                words.append(str(AddressWord(interface.group, family, False, value)))
                if gateway:
                    words.append(str(AddressWord(interface.group, family, True, gateway)))
    return words
