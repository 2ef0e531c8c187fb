# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turn a user's options for a domain into a `Declaration`. Pure.

`declaration_of` returns it or raises `SpecError` with one line that names the domain, the option and what is allowed. Everything
that later reaches an xl file, a boot line or a path has been checked here.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import uuid as uuids
from collections.abc import Callable
from typing import Any

from . import boot_line, devices
from .cpus import cpu_set, cpu_text
from .fields import DOMAIN, extra_key_refusal
from .health import health_of
from .options import Reader, SpecError, kind_of, not_text, pattern_problem, shown, text_problem, whole_number
from .spec import RESTARTS, Declaration, Disk, Domain, Health, Interface, Origin, RestartLimit, Watchdog, derived_uuid, plain_path
from .xl_config import ExtraValue

# Solo5's Xen platform code keeps 8192 bytes of command line and silently cuts longer ones.
MAX_ARGUMENTS = 8191
# What xenstore and file names allow; "~" is ours (see spec.NEXT).
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
RESERVED_NAMES = ("Domain-0", "Xenstore", "auto")
# Keys of a declaration that roles use, not the domain.
ROLE_KEYS = ("image",)
# The largest number that xl's parser can hold (strtol).
_MAX_LONG = (1 << 63) - 1
# The interval for watchdog: true. Three failures in a row at this interval are more than a short peak of load.
WATCHDOG_SECONDS = 10


def _cpus(reader: Reader) -> str:
    """Read CPU numbers and ranges, with ^ for exclusion, as xl's option cpus; "" for all."""
    value = reader.options.get("cpus")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise reader.fail("cpus", f"must be CPU numbers, as in 0-3,8, not {shown(value)}")
    text = value if isinstance(value, str) else shown(value)
    try:
        chosen = cpu_set(text)
    except ValueError:
        raise reader.fail("cpus", f"{shown(text)} is not a set of CPUs, as in 0-3,^1,8, or all") from None
    if chosen is not None and not chosen:
        raise reader.fail("cpus", f"is {shown(text)}, which excludes every CPU")
    return cpu_text(chosen or set())


def _uuid(reader: Reader, default: str) -> str:
    value = reader.text("uuid", default)
    try:
        uuid = uuids.UUID(value)
    except ValueError:
        raise reader.fail("uuid", f"is {shown(value)}, must be as in 756e696b-1234-8234-8234-123456789abc") from None
    if not uuid.int:
        raise reader.fail("uuid", "is all zeros, which is Domain-0's")
    return str(uuid)


def _service(reader: Reader) -> str:
    value = reader.text("service", "")
    if value and not devices.GROUP.fullmatch(value):
        raise reader.fail("service", f"is {shown(value)}, must be lower-case letters, digits and '-', as in web")
    return value


def _extra_config(reader: Reader) -> tuple[tuple[str, ExtraValue], ...]:
    value = reader.options.get("extra_config")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise reader.fail("extra_config", "must be a mapping of xl.cfg keys to values")
    problems, pairs = [], []
    for key, item in value.items():
        try:
            pairs.append((_extra_key(reader, key), _extra_value(reader, key, item)))
        except SpecError as refusal:
            problems += refusal.problems
    if problems:
        raise SpecError(*problems)
    return tuple(sorted(pairs))


def _extra_key(reader: Reader, key: Any) -> str:
    if not isinstance(key, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", key):
        raise reader.fail("extra_config", f"{shown(key)} is not a key of xl.cfg (lower-case letters, digits and '_')")
    why = extra_key_refusal(key)
    if why:
        raise reader.fail("extra_config", f"{key} {why}")
    return str(key)


def _extra_value(reader: Reader, key: str, value: Any) -> ExtraValue:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and -_MAX_LONG <= value <= _MAX_LONG:
        # xl's lexer (libxlu_cfg_l.l) has no sign: it reads a negative number only in quotes.
        return value if value >= 0 else str(value)
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        wanted = "must be a whole number of at most 64 bits, true or false, text, or a list of text"
        raise reader.fail("extra_config", f"{key}: {wanted}, not {shown(value)}")
    for text in texts:
        if text_problem(text):
            raise reader.fail("extra_config", f"{key}: {text_problem(text)}")
    return tuple(map(str, value)) if isinstance(value, list) else str(value)


def arguments_of(value: Any, fail: Callable[[str, str], SpecError]) -> list[str] | str:
    """Return boot arguments as words, from a list or a mapping (port: 80 -> --port=80). Text is the whole line, unchanged.

    In a mapping, true gives the bare option, false and null omit it, and a list repeats it.
    """
    if isinstance(value, str):
        if text_problem(value):
            raise fail("arguments", text_problem(value))
        return str(value)
    if isinstance(value, dict):
        words = [word for key, item in value.items() for word in _option_words(key, item, fail)]
    elif isinstance(value, list):
        words = [_word(item, fail) for item in value]
    else:
        raise fail("arguments", "must be a list of words, a mapping of option to value, or the whole line as text")
    for word in words:
        if text_problem(word):
            raise fail("arguments", f"{shown(word)} {text_problem(word)}")
    return [word for word in words if word]


def _option_words(key: Any, value: Any, fail: Callable[[str, str], SpecError]) -> list[str]:
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key):
        quoted = "" if isinstance(key, str) else "; write it in quotes"
        raise fail("arguments", f"{shown(key)} is not the name of an option{quoted}")
    words = []
    for item in value if isinstance(value, list) else [value]:
        if item is True:
            words.append(f"--{key}")
        elif item is not None and item is not False:
            words.append(f"--{key}={_word(item, fail)}")
    return words


def _word(value: Any, fail: Callable[[str, str], SpecError]) -> str:
    """Return a boot argument as text. A number is written in its shortest form; infinity, NaN and huge numbers are refused."""
    finite = isinstance(value, float) and value - value == 0
    number = isinstance(value, int) and not isinstance(value, bool) and -_MAX_LONG <= value <= _MAX_LONG
    if isinstance(value, (bool, datetime.date)):
        raise fail("arguments", f"a word {not_text(value)}")
    if not (isinstance(value, str) or number or finite):
        raise fail("arguments", f"{shown(value)} is not a word: text or a number")
    return str(value)


def declarations_of(options: list[dict[str, Any]], host: str) -> list[Declaration]:
    """Return all declarations of a host; raise SpecError with the problems of all of them."""
    declarations, problems = [], []
    for item in options:
        try:
            declarations.append(declaration_of(item, host))
        except SpecError as refusal:
            problems += refusal.problems
    if problems:
        raise SpecError(*problems)
    return declarations


def declaration_of(options: dict[str, Any], host: str, kernel: str | None = None) -> Declaration:
    """Read one declaration. ``host`` goes into the derived MAC and UUID; ``kernel`` replaces that option (for roles).

    SpecError has a line for each problem. Rules that combine options are checked only if those options are valid.
    """
    if not isinstance(options, dict):
        raise SpecError(f"a domain must be a mapping, not {kind_of(options)}")
    name = _name(options.get("name"))
    reader = Reader(f"domain {name}", options, DOMAIN)
    if kernel is not None:
        reader.known += ROLE_KEYS
        reader.options["kernel"] = kernel
    # Report unknown keys first: a misspelt one explains a missing option.
    reader.attempt("", reader.finish, None)
    interfaces, disks, origins = _devices(reader, host, name)
    domain = _domain(reader, host, name, interfaces, disks)
    value = reader.value
    state = value("state")
    health = reader.attempt("health", lambda: health_of(reader, reader.options.get("health")), None)
    declaration = Declaration(
        domain=dataclasses.replace(domain, **_keeping(reader, state, health)),
        state=state,
        autostart=value("autostart") if "autostart" in reader.options else state in ("running", "paused"),
        adopt=value("adopt"),
        update=value("update"),
        live=value("live"),
        health=health,
        origins=origins,
        uuid_given=reader.options.get("uuid") is not None,
        remove_disks=value("disks_on_absent") == "remove",
        addresses=tuple(address for interface in interfaces for address in devices.claimed(interface)),
        shutdown_timeout=value("shutdown_timeout"),
        settle=value("settle"),
        ready=reader.attempt("ready", lambda: _pattern(reader, "ready"), ""),
        ready_within=value("ready_within"),
    )
    if not reader.failed & {"update", "ready", "health"}:
        reader.attempt("ready", lambda: _warm(reader, declaration), None)
    reader.raise_problems()
    return declaration


def _name(value: Any) -> str:
    """Check the name. Messages, MACs and paths depend on it, so a wrong name is the only problem reported."""
    rule = (
        "name: must be 1..63 letters, digits, '_', '.', '-', begin with a letter or digit and not be "
        + ", ".join(RESERVED_NAMES)
    )  # fmt: skip
    if value is None:
        raise SpecError(f"domain '': {rule}")
    # libxl_domain_qualifier_to_domid in xen/tools/libs/light/libxl_utils.c.
    if re.fullmatch("[0-9]+", value if isinstance(value, str) else shown(value)):
        raise SpecError(f"domain {shown(value)}: name: has only digits, which xl would read as a domain's id: add a letter")
    if not isinstance(value, str):
        raise SpecError(f"domain {shown(value)}: name: {not_text(value)}")
    if not NAME.fullmatch(value) or value in RESERVED_NAMES:
        raise SpecError(f"domain {shown(value)}: {rule}")
    return str(value)


def _devices(reader: Reader, host: str, name: str) -> tuple[tuple[Interface, ...], tuple[Disk, ...], tuple[Origin, ...]]:
    empty: list[Reader] = []
    interface_readers = reader.attempt("interfaces", lambda: reader.items("interfaces"), empty)
    disk_readers = reader.attempt("disks", lambda: reader.items("disks"), empty)
    interfaces = tuple(devices.interface(item, host, name, index) for index, item in enumerate(interface_readers))
    disks = [devices.disk(item, name, index) for index, item in enumerate(disk_readers)]
    for option, items in (("interfaces", interface_readers), ("disks", disk_readers)):
        problems = [problem for item in items for problem in item.problems]
        if problems:
            reader.problems += problems
            reader.failed.add(option)
    for option, what, values in (
        ("disks", "vdev", [disk.vdev for disk, _origin in disks]),
        ("interfaces", "mac", [interface.mac for interface in interfaces]),
        ("interfaces", "vifname", [interface.vifname for interface in interfaces]),
    ):
        twins = sorted({item for item in values if item and values.count(item) > 1})
        reader.problems += [problem for twin in twins for problem in reader.fail(option, f"{what} {twin} is used twice").problems]
    paths = [plain_path(disk.path) for disk, _origin in disks if disk.path]
    written = {plain_path(disk.path) for disk, _origin in disks if disk.access == "w" and disk.path}
    for path in sorted(path for path in written if paths.count(path) > 1):
        reader.problems += reader.fail(
            "disks", f"path {path} is used twice; a domain can list a disk that it writes only once"
        ).problems
    return interfaces, tuple(disk for disk, _origin in disks), tuple(origin for _disk, origin in disks if origin)


def _domain(reader: Reader, host: str, name: str, interfaces: tuple[Interface, ...], disks: tuple[Disk, ...]) -> Domain:
    value, attempt = reader.value, reader.attempt
    memory = value("memory")
    maxmem = value("maxmem") if "maxmem" in reader.options else memory
    if maxmem < memory and not reader.failed & {"memory", "maxmem"}:
        reader.problems += reader.fail("maxmem", f"is {maxmem}, must be at least memory ({memory}) MiB").problems
    absent = reader.options.get("state") == "absent"
    return Domain(
        name=name,
        uuid=attempt("uuid", lambda: _uuid(reader, derived_uuid(host, name)), ""),
        kernel=attempt("kernel", lambda: devices.path_of(reader, "kernel", "" if absent else None), ""),
        ramdisk=attempt("ramdisk", lambda: devices.path_of(reader, "ramdisk", ""), ""),
        memory=memory,
        maxmem=maxmem,
        cpus=attempt("cpus", lambda: _cpus(reader), ""),
        arguments=attempt("arguments", lambda: _argument_line(reader, interfaces), ""),
        interfaces=interfaces,
        disks=disks,
        service=attempt("service", lambda: _service(reader), ""),
        extra_config=attempt("extra_config", lambda: _extra_config(reader), ()),
        **{
            option: value(option)
            for option in ("vcpus", "cpu_weight", "cap", "type", "on_poweroff", "on_reboot", "on_crash")
        },
    )  # fmt: skip


def _keeping(reader: Reader, state: str, health: Health | None) -> dict[str, Any]:
    """Read what the keeper in Dom0 does for the domain. Only one with state: running is restarted."""
    restart = reader.attempt("restart", lambda: reader.choice("restart", "on-failure", RESTARTS), "on-failure")
    limit = reader.attempt("restart_limit", lambda: _restart_limit(reader), RestartLimit())
    every = reader.attempt("watchdog", lambda: _watchdog(reader, restart, health), 0)
    if state != "running" or restart == "never":
        return {}
    return {
        "restart": restart,
        "restart_limit": limit,
        "watchdog": Watchdog(every, health) if every and health else None,
    }


def _restart_limit(reader: Reader) -> RestartLimit:
    value = reader.options.get("restart_limit", {})
    if not isinstance(value, dict):
        raise reader.fail("restart_limit", "must be a mapping, as in {starts: 5, within: 600}")
    inner = Reader(f"{reader.where}: restart_limit", value)
    usual = RestartLimit()
    starts = inner.number("starts", usual.starts, 1, 100, "starts")
    within = inner.number("within", usual.within, 10, 86400, "seconds")
    inner.finish()
    return RestartLimit(starts, within)


def _watchdog(reader: Reader, restart: str, health: Health | None) -> int:
    """Return the seconds between two health checks; 0 for no watchdog."""
    if "watchdog" not in reader.options:
        return 0
    every = _watchdog_seconds(reader)
    if every and restart == "never":
        raise reader.fail("watchdog", "restarts a domain that hangs, so it can't be combined with restart: never")
    if every and health is None and "health" not in reader.failed:
        raise reader.fail("watchdog", "repeats the health check, and there is none: declare health too")
    if every and health and health.kind == "console":
        raise reader.fail("watchdog", "can't use a console check, which shows only the start: declare another health check")
    return every


def _watchdog_seconds(reader: Reader) -> int:
    """Return the seconds between two checks. A number is always seconds: 1 is not "true" here."""
    value = reader.options["watchdog"]
    number = whole_number(value) if isinstance(value, str) else value
    try:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return reader.number("watchdog", 0, 5, 3600, "seconds") if number else 0
        return WATCHDOG_SECONDS if reader.flag("watchdog", False) else 0
    except SpecError:
        wanted = "must be true, false or the seconds between two checks, 5..3600"
        raise reader.fail("watchdog", f"is {shown(value)}, {wanted}") from None


def _warm(reader: Reader, declaration: Declaration) -> None:
    if declaration.update == "warm" and not declaration.ready:
        raise reader.fail(
            "ready", "is required with update: warm: a pattern for the line that its console prints when it has booted"
        )
    if declaration.update == "warm" and declaration.health and declaration.health.kind == "console":
        raise reader.fail(
            "health", "a console check can't pass after a warm switch, because the domain booted before it; check its service"
        )


def _pattern(reader: Reader, option: str) -> str:
    value = reader.text(option, "")
    problem = pattern_problem(value)
    if problem:
        raise reader.fail(option, problem)
    return value


def _argument_line(reader: Reader, interfaces: tuple[Interface, ...]) -> str:
    """Return the boot line: the interfaces' addresses, then the arguments; or the user's text unchanged."""
    value = reader.options.get("arguments", [])
    given = arguments_of([] if value == "" else value, reader.fail)
    words = boot_line.interface_words(interfaces)
    if isinstance(given, str) and words:
        raise reader.fail(
            "arguments",
            "as text is the whole boot line, so that an interface's address doesn't get into it: write a list of words or a"
            " mapping (MirageOS), or leave address and gateway out and write them into the text (others)",
        )
    if isinstance(given, list):
        # MirageOS prints its usage and exits when an option comes twice.
        options = [word.partition("=")[0] for word in words]
        for option in sorted({option for option in options if options.count(option) > 1}):
            raise reader.fail(
                "interfaces", f"{option} would appear twice in the boot line: give each interface with an address its own group"
            )
        for word in given:
            if word.partition("=")[0] in options:
                raise reader.fail("arguments", f"{word.partition('=')[0]} is already set by an interface's address or gateway")
    line = given if isinstance(given, str) else boot_line.join([*words, *given])
    size = len(line.encode("utf-8"))
    if size > MAX_ARGUMENTS:
        raise reader.fail("arguments", f"the line has {size} bytes, Solo5 keeps only {MAX_ARGUMENTS}")
    return line
