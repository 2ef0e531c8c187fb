# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the option `health` of a declaration into a `Health` that every check can carry out. Pure.

A target is parsed once, here, and completely. Later a check can fail only because of the network, the service or a file on the
host. Names are ASCII, like those of resolvers, certificates and requests.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import urllib.parse
from typing import Any

from .options import Reader, pattern_problem
from .spec import HEALTH_KINDS, Health

# The options of each kind, in addition to `within`.
KIND_OPTIONS = {
    "http": ("status", "contains", "host", "ca", "insecure"),
    "tcp": (),
    "dns": ("type", "answer", "transport", "signed"),
    "openvpn": ("key", "transport"),
    "console": (),
    "command": (),
}
_OPTION_KINDS = {
    option: [kind for kind in HEALTH_KINDS if option in KIND_OPTIONS[kind]]
    for options in KIND_OPTIONS.values()
    for option in options
}
# Record types that dnspython 2.3 (Debian 12) knows and that occur in answers; others are written as TYPE123 (RFC 3597).
RECORD_TYPES = (
    *("A", "AAAA", "AFSDB", "CAA", "CDNSKEY", "CDS", "CERT", "CNAME", "CSYNC", "DNAME", "DNSKEY", "DS", "EUI48", "EUI64"),
    *("HINFO", "HTTPS", "LOC", "MX", "NAPTR", "NS", "NSEC", "NSEC3", "NSEC3PARAM", "OPENPGPKEY", "PTR", "RP", "RRSIG"),
    *("SMIMEA", "SOA", "SPF", "SRV", "SSHFP", "SVCB", "TLSA", "TXT", "URI", "ZONEMD"),
)
# Types of questions and of message metadata, which no answer contains (RFC 6895, section 3.1): OPT, and TKEY to ANY.
_NO_RECORDS = (0, 41, *range(249, 256))
# Longer than any sensible URL; below the 8 KiB that web servers accept for a request line.
MAX_URL = 2000
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
# Bytes of a whole command: below what Linux starts a program with (MAX_ARG_STRLEN, 128 KiB for one word).
MAX_COMMAND = 100_000
MAX_PATTERN = 1000
MAX_NAME, MAX_LABEL = 253, 63  # RFC 1035, section 2.3.4, as text
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
# A label of a name that is queried, not connected to: also "*" and, in reverse zones, "/" (RFC 2317).
_DNS_LABEL = re.compile(r"[A-Za-z0-9_*/-]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_STRINGS = re.compile(rf"(?:{_STRING.pattern}\s*)+")
_ESCAPE = re.compile(rb"\\([0-9]{3}|.)", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?")


def health_of(reader: Reader, value: Any) -> Health | None:
    """Read the option ``health`` of ``reader``'s domain. Raise `SpecError` if it is wrong."""
    reader.known.append("health")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise reader.fail("health", "must be a mapping, as in {http: 'http://10.0.0.10/', within: 30}")
    inner = Reader(f"{reader.where}: health", value)
    kinds = [kind for kind in HEALTH_KINDS if kind in inner.options]
    if len(kinds) != 1:
        raise reader.fail("health", f"must have exactly one of {', '.join(HEALTH_KINDS)}")
    kind = kinds[0]
    _refuse_options_of_others(inner, kind)
    fields = _FIELDS[kind](inner)
    within = inner.number("within", 30, 1, 3600, "seconds")
    inner.finish()
    return Health(kind=kind, within=within, **fields)


def _refuse_options_of_others(reader: Reader, kind: str) -> None:
    for option in reader.options:
        kinds = _OPTION_KINDS.get(option)
        if kinds and kind not in kinds:
            raise reader.fail(str(option), f"is for {' and '.join(kinds)}, not for {kind}")


def _http(reader: Reader) -> dict[str, Any]:
    url = reader.text("http")
    scheme, authority, path = _split_url(reader, url)
    tls = scheme == "https"
    address, port = _host_port(reader, "http", authority, 443 if tls else 80)
    _agrees_with_urllib(reader, url, address)
    status = reader.number("status", 200, 200, 599, "(an HTTP status that ends an answer)")
    host, name = reader.text("host", authority), address
    if "host" in reader.options:
        name, _port = _host_port(reader, "host", host, 1)
    contains = _not_empty(reader, "contains", "what the body must hold")
    ca, insecure = _path(reader, "ca"), reader.flag("insecure", False)
    for option, given in (("ca", ca), ("insecure", insecure)):
        if given and not tls:
            raise reader.fail(option, "is for https, and the URL is one of http")
    if ca and insecure:
        raise reader.fail("insecure", "accepts any certificate, so it can't be combined with ca; leave one of them out")
    return {
        "target": url, "address": address, "port": port, "tls": tls, "path": path, "expect": str(status), "host": host,
        "name": name.rstrip("."), "contains": contains, "ca": ca, "insecure": insecure,
    }  # fmt: skip


def _split_url(reader: Reader, url: str) -> tuple[str, str, str]:
    """Split a URL of printable ASCII without spaces into (scheme, authority, path and query)."""
    parts = re.fullmatch(r"(https?)://([^/?#]*)([^#]*)(#.*)?", url, re.IGNORECASE)
    if not parts:
        raise reader.fail("http", f"is {_shown(url)}, must be a URL, as in http://10.0.0.10/")
    if len(url) > MAX_URL:
        raise reader.fail("http", f"is {_shown(url)}, {len(url)} characters long, must be at most {MAX_URL}")
    scheme, authority, path = parts.group(1).lower(), parts.group(2), parts.group(3)
    if not authority:
        raise reader.fail("http", f"is {_shown(url)}, which has no host, must be as in http://10.0.0.10/")
    if "@" in authority:
        raise reader.fail("http", "must not hold a user or a password (what is before '@'): a URL is shown in messages")
    if not re.fullmatch(r"[!-~]*", path) or "\\" in path:
        wanted = urllib.parse.quote(path, safe="/?&=%:@!$'()*+,;~-._")
        raise reader.fail("http", f"{_shown(path)} must be percent-encoded, as in {_shown(wanted)}")
    bare = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", path)
    if bare:
        raise reader.fail("http", f"{_shown(bare[0])} in {_shown(path)} must be % and two hexadecimal digits; % itself is %25")
    return scheme, authority, path if path.startswith("/") else "/" + path


def _agrees_with_urllib(reader: Reader, url: str, address: str) -> None:
    """Refuse a URL in which urllib finds another host: what two parsers read differently can't be relied on."""
    try:
        hostname = urllib.parse.urlsplit(url).hostname or ""
    except ValueError as error:
        raise reader.fail("http", f"is {_shown(url)}, must be a URL, as in http://10.0.0.10/ ({error})") from None
    if hostname != address.lower():
        raise reader.fail("http", f"is {_shown(url)}, which can be read in two ways; must be as in http://10.0.0.10/")


def _tcp(reader: Reader) -> dict[str, Any]:
    target = reader.text("tcp")
    address, port = _host_port(reader, "tcp", target, None)
    return {"target": target, "address": address, "port": port}


def _dns(reader: Reader) -> dict[str, Any]:
    target = reader.text("dns")
    name, at, server = target.partition("@")
    if not at or not name or not server:
        raise reader.fail("dns", f"is {_shown(target)}, must be NAME@ADDRESS or NAME@ADDRESS:PORT")
    _check_name(reader, "dns", name.lower(), _DNS_LABEL)
    address, port = _host_port(reader, "dns", server, 53)
    record = _record_type(reader)
    answer = _not_empty(reader, "answer", "what must be answered")
    if answer:
        try:
            answer = canonical_answer(record, answer)
        except ValueError:
            wanted = "an IPv4 address with type A; an IPv6 address goes with type: AAAA" if record == "A" else "an IPv6 address"
            raise reader.fail("answer", f"is {_shown(answer)}, must be {wanted}") from None
    return {
        "target": target, "address": address, "port": port, "name": name, "record": record, "expect": answer,
        "transport": reader.choice("transport", "udp", ("udp", "tcp", "both")), "signed": reader.flag("signed", False),
    }  # fmt: skip


def _record_type(reader: Reader) -> str:
    record = reader.text("type", "A").upper()
    number = re.fullmatch(r"TYPE([0-9]{1,5})", record)
    if number and int(number.group(1)) < 65536 and int(number.group(1)) not in _NO_RECORDS:
        return f"TYPE{int(number.group(1))}"
    if record not in RECORD_TYPES:
        raise reader.fail("type", f"is {_shown(record)}, must be a type of DNS record, as in AAAA, MX or TYPE65")
    return record


def canonical_answer(record: str, text: str) -> str:
    """Return a record's text in the form used for comparison. Raise ValueError if it must be an address and is none."""
    if record == "A":
        return str(ipaddress.IPv4Address(text.strip()))
    if record == "AAAA":
        if "%" in text:
            raise ValueError("an address with a zone")
        return str(ipaddress.IPv6Address(text.strip()))
    if record in ("TXT", "SPF"):
        return _joined(text)
    return " ".join(word if word == "." else word.rstrip(".") for word in text.lower().split())


def _joined(text: str) -> str:
    """Join quoted strings of at most 255 bytes (RFC 7208, section 3.3); a user may also write the text without quotes."""
    if not _STRINGS.fullmatch(text):
        return text
    data = "".join(string[1:-1] for string in _STRING.findall(text)).encode("utf-8")
    # A backslash with DDD is that byte, with another character that character (RFC 1035, section 5.1).
    data = _ESCAPE.sub(lambda part: bytes([int(part[1]) & 255]) if len(part[1]) == 3 else part[1], data)
    return data.decode("utf-8", "replace")


def _openvpn(reader: Reader) -> dict[str, Any]:
    target = reader.text("openvpn")
    address, port = _host_port(reader, "openvpn", target, None)
    key = _path(reader, "key")
    if not key:
        raise reader.fail(
            "key", "is required: the path on the host of the endpoint's tls-crypt key, because OpenVPN answers nothing"
            f" without it; tcp: {target} checks only that something accepts connections",
        )  # fmt: skip
    return {
        "target": target, "address": address, "port": port, "key": key,
        "transport": reader.choice("transport", "tcp", ("tcp", "udp")),
    }  # fmt: skip


def _console(reader: Reader) -> dict[str, Any]:
    pattern = _not_empty(reader, "console", "a regular expression that a line must match")
    if len(pattern) > MAX_PATTERN:
        raise reader.fail("console", f"has {len(pattern)} characters, must have at most {MAX_PATTERN}")
    problem = pattern_problem(pattern)
    if problem:
        raise reader.fail("console", problem)
    return {"target": pattern}


def _command(reader: Reader) -> dict[str, Any]:
    reader.known.append("command")
    words = reader.options.get("command")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise reader.fail("command", "must be a list of words, a program and its arguments; no shell reads it")
    if not words[0].startswith("/"):
        raise reader.fail("command", f"{_shown(words[0])} must be the absolute path of a program on the host")
    for word in words:
        if "\0" in word:
            raise reader.fail("command", "must not contain a zero byte")
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise reader.fail("command", "is not valid text (UTF-8)") from None
    size = sum(len(word.encode("utf-8")) + 1 for word in words)
    if size > MAX_COMMAND:
        raise reader.fail("command", f"has {size} bytes, must have at most {MAX_COMMAND}")
    return {"target": " ".join(map(shlex.quote, words)), "command": tuple(words)}


_FIELDS = {"http": _http, "tcp": _tcp, "dns": _dns, "openvpn": _openvpn, "console": _console, "command": _command}


def _host_port(reader: Reader, option: str, text: str, default: int | None) -> tuple[str, int]:
    """Parse ADDRESS or ADDRESS:PORT. ADDRESS is a name, an IPv4 address or an IPv6 address in brackets, returned without them."""
    form = "ADDRESS:PORT" if default is None else "ADDRESS or ADDRESS:PORT"
    if text.count(":") > 1 and not text.startswith("["):
        raise reader.fail(option, f"{_shown(text)}: write an IPv6 address in brackets, as in [2001:db8::1]:80")
    parts = _AUTHORITY.fullmatch(text)
    if not parts or not parts.group(1):
        raise reader.fail(option, f"is {_shown(text)}, must be {form}, as in 10.0.0.10:80")
    host, port = parts.groups()
    if port is None and default is None:
        raise reader.fail(option, f"is {_shown(text)}, must be ADDRESS:PORT, as in 10.0.0.10:80")
    if port is not None and (not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535):
        raise reader.fail(option, f"the port of {_shown(text)} must be 1..65535")
    return _host(reader, option, host), default or 0 if port is None else int(port)


def _host(reader: Reader, option: str, host: str) -> str:
    if host.startswith("["):
        try:
            if "%" in host:
                raise ValueError
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise reader.fail(option, f"{_shown(host)} must be an IPv6 address without a zone, as in [2001:db8::1]") from None
        _of_one_service(reader, option, host, address.ipv4_mapped or address)
        return host[1:-1]
    try:
        literal = ipaddress.IPv4Address(host)
    except ValueError:
        pass
    else:
        _of_one_service(reader, option, host, literal)
        return str(literal)
    _check_name(reader, option, host, _HOST_LABEL)
    last = host.rstrip(".").rpartition(".")[2]
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", last):
        # inet_aton(3), and so every resolver, takes 10.1 and 0x7f.1 for addresses.
        raise reader.fail(option, f"{_shown(host)} is neither a name nor an IPv4 address, as in 10.0.0.10")
    return host


def _of_one_service(reader: Reader, option: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Refuse an address that isn't one service's own. Linux connects zero to the host itself, which would pass the check."""
    why = ""
    if address.is_unspecified:
        why = "is zero, and would ask Dom0 itself"
    elif address.is_multicast or address == _BROADCAST:
        why = "is a multicast or broadcast address; a service needs one of its own"
    elif address.version == 4 and (address.is_reserved or address in _THIS_NETWORK):
        why = "is reserved (RFC 6890): no service can have it"
    elif address.version == 6 and address.is_link_local:
        why = "is link-local, which needs a zone: use another address of the domain"
    if why:
        raise reader.fail(option, f"{_shown(host)} {why}")


def _check_name(reader: Reader, option: str, name: str, label: re.Pattern[str]) -> None:
    if not name.isascii():
        raise reader.fail(option, f"{_shown(name)} must be ASCII{_idna_hint(name)}")
    short = name[:-1] if name.endswith(".") else name
    if not short and name == "." and label is _DNS_LABEL:
        return
    if len(short) > MAX_NAME:
        raise reader.fail(option, f"{_shown(name)} has {len(short)} characters, a name has at most {MAX_NAME}")
    for part in short.split("."):
        if not part:
            raise reader.fail(option, f"{_shown(name)} has an empty label (a dot at the beginning, or two together)")
        if len(part) > MAX_LABEL:
            raise reader.fail(option, f"{_shown(part)} has {len(part)} characters, a label of a name has at most {MAX_LABEL}")
        if not label.fullmatch(part):
            raise reader.fail(option, f"{_shown(part)} is not a label of a name: use letters, digits, '-' and '_'")


def _idna_hint(name: str) -> str:
    if len(name) <= MAX_NAME:
        try:
            return f", as in {name.encode('idna').decode('ascii')}"
        except UnicodeError:
            pass
    return ", an international name as its xn-- form"


def _not_empty(reader: Reader, option: str, what: str) -> str:
    value = reader.text(option, "")
    if not value and option in reader.options:
        raise reader.fail(option, f"is empty, must be {what}, or left out")
    return value


def _path(reader: Reader, option: str) -> str:
    value = reader.text(option, "")
    if option in reader.options and (not value.startswith("/") or value != value.strip()):
        raise reader.fail(option, f"{_shown(value)} must be the absolute path of a file on the host")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
