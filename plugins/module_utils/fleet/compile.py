# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compile the variables of all hosts into what each is to run, and report every mistake of every host. Pure.

`compile_fleet` reads each host alone, then compares hosts (`between`). For a host without problems it returns what the roles and
modules take: the host's own list and its services, with addresses and MACs that no other host claims.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.checks import clashes
from ..domain.declaration import ROLE_KEYS, declaration_of
from ..domain.options import SpecError
from ..domain.spec import Declaration
from ..host.variables import HOST_VARIABLES, host_refusals
from ..network.guests import Guests, addresses, on_networks
from ..network.kinds import UNKNOWN, Network, read_networks
from ..service import dns, vpn, web
from ..service.variables import Keys, Service, first_address
from ..service.vpn_config import Material
from .between import Site, distinct_macs, fleet_clashes
from .origins import problems_of
from .plain import flag, holds_unresolved, number, one_line

SERVICES = {web.NAME: web.OPTIONS, dns.NAME: dns.OPTIONS, vpn.NAME: vpn.OPTIONS}
# Boolean options of a unikernel.
_FLAGS = ("autostart", "adopt", "live")
# Where a service's declaration has an option that is a variable of the service.
_FROM_VARIABLES = ("interfaces", "arguments", "health", "memory", "name", "publish")


@dataclass(frozen=True)
class Problem:
    host: str
    line: str


@dataclass
class Declared:
    """What one host is to run."""

    unikernels: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, Any] = field(default_factory=dict)
    keys: list[Keys] = field(default_factory=list)
    guests: Guests = field(default_factory=Guests)


@dataclass
class Fleet:
    hosts: dict[str, Declared] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """Which variables to read: names of the services, and of the two variables for a host's own unikernels and images."""

    services: tuple[str, ...] = tuple(SERVICES)
    unikernels: str = "unikernels"
    images: str = "unikernel_images"

    def names(self) -> list[str]:
        """Every variable that is read, in the order of the report."""
        services = [f"{name}_{option}" for name in self.services for option in (*SERVICES[name], "publish")]
        return (
            [name for name in (self.unikernels, self.images) if name]
            + services
            + ["images", "xen_host_site", "xen_host_networks", "xen_host_manage_network", "ansible_port"]
            + (["dns_interfaces"] if vpn.NAME in self.services and dns.NAME not in self.services else [])
            # Of the hosts themselves, where all that they run is asked for.
            + (list(HOST_VARIABLES) if self.unikernels else [])
        )


@dataclass(frozen=True)
class Resolved:
    """The variables of one host that are set, in builtin types; the keys of its VPN endpoints, by name."""

    values: Mapping[str, Any]
    folders: Mapping[str, str] = field(default_factory=dict)  # default folder of each PKI
    materials: Mapping[str, Material] = field(default_factory=dict)


def compile_fleet(
    hosts: Mapping[str, Resolved], asked: Asked, sources: Callable[[str], str], reported: frozenset[str] | None = None
) -> Fleet:
    """Compile all hosts. ``sources``: service -> folder of our own unikernel. ``reported``: hosts to report on; None: all."""
    fleet, sites = Fleet(), []
    for host, resolved in hosts.items():
        lines: list[str] = []
        declared, declarations, derived = _compile_host(host, resolved, asked, sources, lines)
        fleet.hosts[host] = declared
        sites.append(Site(host, resolved.values, declarations, derived))
        fleet.problems += [Problem(host, line) for line in lines if reported is None or host in reported]
    for host, name, index, mac in distinct_macs(sites):
        unikernel = next(one for one in fleet.hosts[host].unikernels if one.get("name") == name)
        unikernel["interfaces"][index]["mac"] = mac
    for host, other, line in fleet_clashes(sites):
        if reported is None or host in reported or other in reported:
            fleet.problems.append(Problem(host, line))
    fleet.problems += _shared_folders(fleet, reported)
    return fleet


def _shared_folders(fleet: Fleet, reported: frozenset[str] | None) -> list[Problem]:
    """Report VPN endpoints that share a folder of keys: they would overwrite each other's profiles."""
    holders: dict[str, tuple[str, str]] = {}
    problems = []
    for host, declared in fleet.hosts.items():
        for keys in declared.keys:
            holder = holders.setdefault(keys.folder, (host, keys.name))
            if holder != (host, keys.name) and (reported is None or host in reported or holder[0] in reported):
                line = f"vpn_pki: {keys.folder} is that of {holder[1]} on {holder[0]} too; give each endpoint its own folder"
                problems.append(Problem(host, line))
    return problems


def report(problems: list[Problem]) -> str:
    """Return all problems, a line each; a problem of several hosts is one line."""
    hosts: dict[str, list[str]] = {}
    for problem in problems:
        hosts.setdefault(one_line(problem.line), []).append(problem.host)
    lines = []
    for line, names in hosts.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{one_line(', '.join(names[:3]))}{more}: {line}")
    return "\n".join(lines)


def _compile_host(
    host: str, resolved: Resolved, asked: Asked, sources: Callable[[str], str], lines: list[str]
) -> tuple[Declared, list[Declaration], set[tuple[str, int]]]:
    declared = Declared()
    origins: dict[str, str] = {}  # name of a domain -> the service that declares it
    values = resolved.values
    unikernels = _given(values, asked.unikernels, list, "a list", lines) if asked.unikernels else []
    images = _given(values, asked.images, dict, "a mapping of name to image", lines) if asked.images else {}
    places: list[str] = []
    for index, unikernel in enumerate(unikernels):
        place = f"{asked.unikernels}[{index}]"
        if isinstance(unikernel, dict) and not holds_unresolved(unikernel):
            declared.unikernels.append(copy.deepcopy(unikernel))
            places.append(place)
        elif not holds_unresolved(unikernel):
            lines.append(f"{place}: a domain must be a mapping, not {type(unikernel).__name__}")
    for name in asked.services:
        for service, place in _services(name, resolved, sources, lines):
            origins[service.unikernel["name"]] = name
            declared.unikernels.append(_on_its_network(name, service, values))
            places.append(place)
            declared.images.update(service.images)
            declared.keys += [service.keys] if service.keys else []
    lines += host_refusals(
        {name: values[name] for name in HOST_VARIABLES if name in values and not holds_unresolved(values[name])}
    )
    declared.images.update(images)
    for name, image in declared.images.items():
        if not holds_unresolved(image):
            lines += problems_of(name, image)
    declared.guests = _place(values, declared, origins, lines)
    declarations, derived = _declarations(host, declared, places, origins, lines)
    return declared, declarations, derived


def _place(values: Mapping[str, Any], declared: Declared, origins: Mapping[str, str], lines: list[str]) -> Guests:
    """The unikernels on the host's networks."""
    offered, managed = values.get("xen_host_networks"), flag(values.get("xen_host_manage_network", True))
    if holds_unresolved(offered):
        return Guests()
    networks, problems = read_networks(offered, managed is not False)
    lines += problems
    if problems:  # without a network's declaration, nothing on it can be checked
        offered = offered if isinstance(offered, dict) else {}
        networks = {**{str(name): Network(str(name), UNKNOWN) for name in offered}, **networks}
    ssh = number(values.get("ansible_port", 22)) or 22
    return on_networks(networks, declared.unikernels, ssh, lambda line: lines.append(_in_users_words(line, "", origins)))


def _given(values: Mapping[str, Any], variable: str, kind: type, what: str, lines: list[str]) -> Any:
    value = values.get(variable, kind())
    if isinstance(value, kind):
        return value
    # A variable that is set to nothing is a mistake: as an empty list it would remove all domains (with purge).
    if not holds_unresolved(value):
        named = "nothing" if value is None else type(value).__name__
        lines.append(f"{variable} must be {what}, not {named}")
    return kind()


def _services(name: str, resolved: Resolved, sources: Callable[[str], str], lines: list[str]) -> list[tuple[Service, str]]:
    """Each with the variable that names it."""
    mine = [f"{name}_{option}" for option in SERVICES[name]]
    values = {key: resolved.values[key] for key in mine if key in resolved.values}
    if f"{name}_interfaces" not in values and f"{name}_endpoints" not in values:
        return []
    if any(holds_unresolved(value) for value in (*values.values(), resolved.values.get(f"{name}_publish"))):
        return []
    if f"{name}_interfaces" in values and values[f"{name}_interfaces"] is None:
        lines.append(f"{name}_interfaces: is set to nothing; give the service's interfaces, or remove the variable")
        return []
    if "images" in resolved.values and f"{name}_images" not in values:
        values[f"{name}_images"] = resolved.values["images"]
    if name == vpn.NAME:
        return _endpoints(values, resolved, sources(name), lines)
    service = (web if name == web.NAME else dns).declare(values, sources(name))
    lines += service.problems
    return [] if service.problems else [(service, f"{name}_name")]


def _endpoints(values: Mapping[str, Any], resolved: Resolved, source: str, lines: list[str]) -> list[tuple[Service, str]]:
    services = []
    networks, resolver = host_networks(resolved.values), own_resolver(resolved.values)
    for endpoint in vpn.endpoints(values, lines):
        name = vpn.name_of(endpoint.values)
        folder, material = resolved.folders.get(name, ""), resolved.materials.get(name)
        service = vpn.declare(endpoint.values, source, folder, material, networks, resolver)
        lines += [endpoint.in_users_words(line) for line in service.problems]
        if not service.problems:
            services.append((service, f"{endpoint.place}.name" if endpoint.place else "vpn_name"))
    return services


def host_networks(values: Mapping[str, Any]) -> Mapping[str, Any]:
    networks = values.get("xen_host_networks")
    return networks if isinstance(networks, dict) and not holds_unresolved(networks) else {}


def own_resolver(values: Mapping[str, Any]) -> str:
    """The address of the host's own DNS unikernel; "" where it has none."""
    interfaces = values.get("dns_interfaces")
    if not isinstance(interfaces, list) or not interfaces or holds_unresolved(interfaces):
        return ""
    return first_address(interfaces) if isinstance(interfaces[0], dict) and interfaces[0].get("address") else ""


def _on_its_network(name: str, service: Service, values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the service's unikernel, with what its network needs to know of it."""
    unikernel = copy.deepcopy(service.unikernel)
    _only_ipv6(unikernel)
    if f"{name}_publish" in values:
        unikernel["publish"] = copy.deepcopy(values[f"{name}_publish"])
    return unikernel


def _only_ipv6(unikernel: dict[str, Any]) -> None:
    """Disable IPv4 on a unikernel that has only IPv6 addresses: a dual Mirage stack would otherwise take 10.0.0.2."""
    versions = [address.version for interface in unikernel["interfaces"] for _option, address in addresses(interface)]
    if versions and 4 not in versions:
        unikernel["arguments"] = {"ipv6-only": "true", **unikernel["arguments"]}


def _declarations(
    host: str, declared: Declared, places: list[str], origins: Mapping[str, str], lines: list[str]
) -> tuple[list[Declaration], set[tuple[str, int]]]:
    declarations: list[Declaration] = []
    derived: set[tuple[str, int]] = set()  # (domain, index) of the interfaces whose MAC we choose
    for unikernel, place in zip(declared.unikernels, places):
        _take_flags(unikernel)
        options = {key: value for key, value in unikernel.items() if key not in ROLE_KEYS}
        try:
            # The image's file is not known yet; any absolute path serves as placeholder. Also without an image, so that a
            # misspelt "image" is reported as the unknown key that it is.
            declaration = declaration_of(options, host, kernel=None if unikernel.get("kernel") else "/image")
        except SpecError as error:
            lines += [_in_users_words(line, place, origins) for line in error.problems]
            continue
        declarations.append(declaration)
        lines += _image_problems(unikernel, declared.images)
        derived |= {
            (declaration.name, index)
            for index, interface in enumerate(unikernel.get("interfaces") or [])
            if interface.get("mac") is None
        }
    lines += clashes(declarations)
    return declarations, derived


def _take_flags(unikernel: dict[str, Any]) -> None:
    disks = unikernel.get("disks")
    places = [(unikernel, key) for key in _FLAGS]
    places += [(disk, "shared") for disk in (disks if isinstance(disks, list) else []) if isinstance(disk, dict)]
    for place, key in places:
        read = flag(place.get(key))
        if read is not None:
            place[key] = read


def _in_users_words(line: str, where: str, services: Mapping[str, str]) -> str:
    """A refusal of what a service's variable says names that variable; one without a good name says which item it is."""
    for domain, service in services.items():
        rest = line[len(f"domain {domain}: ") :]
        if line.startswith(f"domain {domain}: ") and rest.startswith(_FROM_VARIABLES):
            return f"{service}_{rest}"
    return f"{where}: {line}" if line.startswith(("domain '", 'domain "')) else line


def _image_problems(unikernel: dict[str, Any], images: Mapping[str, Any]) -> list[str]:
    image, where = unikernel.get("image"), f"domain {unikernel['name']}: image:"
    if image is None:
        absent = unikernel.get("state") == "absent" or unikernel.get("kernel")
        return [] if absent else [f"{where} is required (a key of unikernel_images)"]
    if not isinstance(image, (str, int)) or isinstance(image, bool):
        return [f"{where} must be a key of unikernel_images, not {type(image).__name__}"]
    unikernel["image"] = str(image)
    known = ", ".join(sorted(images)) or "none"
    return [] if str(image) in images else [f"{where} {image!r} is not in unikernel_images (known: {known})"]
