# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compile the variables of all hosts into what each is to run, and report every mistake of every host. Pure.

`compile_fleet` reads each host alone, then compares hosts (`between`). For a host without problems it returns what the roles and
modules take: the host's own list and its services, with addresses and MACs that no other host claims.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.checks import clashes
from ..domain.declaration import ROLE_KEYS, declaration_of
from ..domain.options import SpecError, kind_of, shown
from ..domain.spec import Declaration
from ..host.variables import HOST_VARIABLES, host_refusals
from ..network.guests import Guests, addresses, on_networks
from ..network.kinds import UNKNOWN, Network, read_networks
from ..network.reach import shared, with_own
from ..service import dns, dns_signing, vpn, web
from ..service.several import LISTS, OF_NETWORKS, Server, is_declared, list_of, servers
from ..service.variables import Keys, Service, first_address, is_address
from ..service.vpn_config import Material
from .between import Site, distinct_macs, fleet_clashes
from .forwarding import Resolver, loops, resolver_of
from .origins import problems_of
from .plain import flag, holds_unresolved, number, one_line

SERVICES = {web.NAME: web.OPTIONS, dns.NAME: dns.OPTIONS, vpn.NAME: vpn.OPTIONS}
# Boolean options of a unikernel.
_FLAGS = ("autostart", "adopt", "live")
# Where a service's declaration has an option that is a variable of the service.
_FROM_VARIABLES = re.compile(r"(interfaces|arguments|health|memory|name|publish|accept|reach)\b(.*)", re.DOTALL)
# Sectors, text and records of a zone are in memory at the same time when the resolver starts (unikernels/dns/disk.ml).
_TIMES_IN_MEMORY = 4
# How long a line of the report may be: somebody may put a whole file where a name belongs.
_MAX_LINE = 1000
_SAME = re.compile(r"domains .* and (\S+) have the same (?:MAC|address) ")


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
    servers: dict[str, Server] = field(default_factory=dict)  # name of a domain -> the server that it is


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
        services = [f"{name}_{option}" for name in self.services for option in (*SERVICES[name], *OF_NETWORKS, LISTS[name])]
        return (
            [name for name in (self.unikernels, self.images) if name]
            + services
            + ["images", "xen_host_site", "xen_host_networks", "xen_host_manage_network", "ansible_port", "ansible_host"]
            + (["dns_interfaces", list_of(dns.NAME)] if vpn.NAME in self.services and dns.NAME not in self.services else [])
            # Of the hosts themselves, where all that they run is asked for.
            + (list(HOST_VARIABLES) if self.unikernels else [])
        )


@dataclass(frozen=True)
class Resolved:
    """The variables of one host that are set, in builtin types; the keys of its VPN endpoints, by name."""

    values: Mapping[str, Any]
    folders: Mapping[str, str] = field(default_factory=dict)  # default folder of each PKI
    materials: Mapping[str, Material] = field(default_factory=dict)
    # Folder of C(dns_sign) -> what it has; None if it could not be read.
    zone_keys: Mapping[str, dns_signing.Keys | None] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)  # folder of a web server's content -> digest of its archive


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
    for site in sites:
        _complete_limits(fleet, site, reported)
    for host, other, line in fleet_clashes(sites):
        if reported is None or host in reported or other in reported:
            fleet.problems.append(Problem(host, line))
    for names, line in loops(_resolvers(sites, fleet)):
        if reported is None or not reported.isdisjoint(names):
            fleet.problems.append(Problem(names[0], line))
    fleet.problems += _shared_folders(fleet, reported)
    return fleet


def _resolvers(sites: list[Site], fleet: Fleet) -> list[Resolver]:
    """The DNS unikernels of all hosts."""
    found = []
    for site in sites:
        declared = fleet.hosts[site.host]
        for unikernel in declared.unikernels:
            server = declared.servers.get(str(unikernel.get("name")))
            if unikernel.get("service") == dns.NAME and unikernel.get("state") != "absent":
                variable = server.variable("forward") if server else f"domain {unikernel.get('name')}: arguments.forward"
                found.append(resolver_of(site, unikernel, declared.guests.published, variable))
    return found


def _complete_limits(fleet: Fleet, site: Site, reported: frozenset[str] | None) -> None:
    """What is whose, for `accept` and `reach`. One whose declaration has mistakes has been reported."""
    guests = fleet.hosts[site.host].guests
    if not guests.limits:
        return
    known = {one.name: one.domain.interfaces for one in site.declarations}
    macs = {
        str(one["name"]): [each.get("mac") or "" for each in one.get("interfaces") or []]
        for one in fleet.hosts[site.host].unikernels
        if isinstance(one.get("name"), str) and one["name"] in known
    }
    guests.limits = [
        with_own(one, [(device.ip, mac) for device, mac in zip(known[one.name], macs[one.name])])
        for one in guests.limits
        if one.name in known
    ]
    if reported is None or site.host in reported:
        fleet.problems += [Problem(site.host, line) for line in shared(guests.limits)]


def _shared_folders(fleet: Fleet, reported: frozenset[str] | None) -> list[Problem]:
    """Report VPN endpoints that share a folder of keys: they would overwrite each other's profiles."""
    holders: dict[str, tuple[str, str]] = {}
    problems = []
    for host, declared in fleet.hosts.items():
        for keys in declared.keys:
            holder = holders.setdefault(keys.folder, (host, keys.name))
            if holder != (host, keys.name) and (reported is None or host in reported or holder[0] in reported):
                variable = declared.servers[keys.name].variable("pki")
                line = f"{variable}: {keys.folder} is that of {holder[1]} on {holder[0]} too; give each endpoint its own folder"
                problems.append(Problem(host, line))
    return problems


def _shortened(line: str) -> str:
    """Return the line without the middle of a long value: its ends say what is wrong, and what would be right."""
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE - 300]} [...] {line[-280:]}"


def report(problems: list[Problem]) -> str:
    """Return all problems, a line each; a problem of several hosts is one line."""
    hosts: dict[str, list[str]] = {}
    for problem in problems:
        hosts.setdefault(_shortened(one_line(problem.line)), []).append(problem.host)
    lines = []
    for line, names in hosts.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{one_line(', '.join(names[:3]))}{more}: {line}")
    return "\n".join(lines)


def _compile_host(
    host: str, resolved: Resolved, asked: Asked, sources: Callable[[str], str], lines: list[str]
) -> tuple[Declared, list[Declaration], set[tuple[str, int]]]:
    declared = Declared()
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
            lines.append(f"{place}: a domain must be a mapping, not {kind_of(unikernel)}")
    for name in asked.services:
        _add_servers(name, resolved, sources(name), declared, places, lines)
        if not asked.unikernels and not is_declared(name, values):
            lines.append(f"{name}_interfaces: is required, as in [{{bridge: xenbr0, address: 10.0.0.10/24}}], or {list_of(name)}")
    lines += _taken_names(declared, images, asked.images)
    lines += _site_problems(values.get("xen_host_site"))
    lines += host_refusals(
        {name: values[name] for name in HOST_VARIABLES if name in values and not holds_unresolved(values[name])}
    )
    declared.images.update(images)
    for name, image in declared.images.items():
        if not holds_unresolved(image):
            lines += problems_of(name, image)
    declared.guests = _place(values, declared, lines)
    declarations, derived = _declarations(host, declared, places, lines)
    return declared, declarations, derived


def _site_problems(site: Any) -> list[str]:
    if not isinstance(site, (bool, list, dict)) or holds_unresolved(site):
        return []
    # YAML reads the site `no` as false.
    return [f"xen_host_site: is {shown(site)}, must be text or a number: put it in quotes"]


def _place(values: Mapping[str, Any], declared: Declared, lines: list[str]) -> Guests:
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
    return on_networks(networks, declared.unikernels, ssh, lambda line: lines.append(_in_users_words(line, "", declared.servers)))


def _given(values: Mapping[str, Any], variable: str, kind: type, what: str, lines: list[str]) -> Any:
    value = values.get(variable, kind())
    if isinstance(value, kind):
        return value
    # A variable that is set to nothing is a mistake: as an empty list it would remove all domains (with purge).
    if not holds_unresolved(value):
        named = "nothing" if value is None else type(value).__name__
        lines.append(f"{variable} must be {what}, not {named}")
    return kind()


def _add_servers(name: str, resolved: Resolved, source: str, declared: Declared, places: list[str], lines: list[str]) -> None:
    """The servers of one service, as unikernels of the host. ``places``: what names each unikernel in a message."""
    for service, server in _servers(name, resolved, source, lines):
        domain, variable = service.unikernel["name"], server.variable("name")
        taken = [place for one, place in zip(declared.unikernels, places) if one.get("name") == domain]
        if taken:
            lines.append(f"{variable}: {domain!r} is the name of {taken[0]} too; a name is unique on its host")
            continue
        unikernel = _on_its_network(service, server)
        for image, origin in service.images.items():
            # Equal origins are one image, by the name of the first that has it.
            unikernel["image"] = next((one for one, its in declared.images.items() if its == origin), image)
            declared.images.setdefault(unikernel["image"], origin)
        declared.servers[domain] = server
        declared.unikernels.append(unikernel)
        places.append(variable)
        declared.keys += [service.keys] if service.keys else []


def _taken_names(declared: Declared, images: Mapping[str, Any], variable: str) -> list[str]:
    """An image of the user's by the name of a service's would be run in its place."""
    return [
        f"{variable}: {name!r} is the image of {server.variable('name')}; give it another name,"
        f" or set {server.variable('image')} instead"
        for name, server in declared.servers.items()
        if name in images and name in declared.images and images[name] != declared.images[name]
    ]


def _servers(name: str, resolved: Resolved, source: str, lines: list[str]) -> list[tuple[Service, Server]]:
    """What the host's variables of one service declare. What is inherited and wrong is one line."""
    options = SERVICES[name]
    mine = [f"{name}_{option}" for option in (*options, *OF_NETWORKS, LISTS[name])]
    values = {key: resolved.values[key] for key in mine if key in resolved.values}
    if not is_declared(name, values) or any(map(holds_unresolved, values.values())):
        return []
    if "images" in resolved.values and f"{name}_images" not in values:
        values[f"{name}_images"] = resolved.values["images"]
    found: list[tuple[Service, Server]] = []
    wrong: list[str] = []
    for server in servers(name, options, values, wrong.append):
        service = _declare(server, resolved, source)
        said = service.problems or _misfits(service, server, resolved.values)
        wrong += [server.in_users_words(line, options) for line in said]
        found += [] if said else [(service, server)]
    lines += dict.fromkeys(wrong)
    return found


def _misfits(service: Service, server: Server, values: Mapping[str, Any]) -> list[str]:
    """What of a server does not fit its memory or its host."""
    if server.service == dns.NAME:
        disks, memory = service.unikernel["disks"], service.unikernel["memory"]
        size = sum(len(disk.get("content") or "") for disk in disks)
        room = (memory << 20) // _TIMES_IN_MEMORY
        wrong = f"dns_zones: have {size >> 10} KiB, more than dns_memory ({memory} MiB) can hold; raise it to {_fit(size)} MiB"
        return [wrong] if size > room else []
    host = str(values.get("ansible_host") or "")
    if server.service == vpn.NAME and is_address(host):
        network = ipaddress.ip_network(str(server.values.get("vpn_network") or vpn.USUAL_NETWORK))
        if ipaddress.ip_address(host) in network:
            return [
                f"vpn_network: {network} has the host's own address in it ({host}, ansible_host); choose a network without it"
            ]
    return []


def _fit(size: int) -> int:
    """MiB in which zones of so many bytes fit."""
    return -(-size * _TIMES_IN_MEMORY >> 20)


def _declare(server: Server, resolved: Resolved, source: str) -> Service:
    if server.service == web.NAME:
        return web.declare(server.values, source, resolved.contents)
    if server.service == dns.NAME:
        return dns.declare(server.values, source, resolved.zone_keys)
    name = vpn.name_of(server.values)
    folder, material = resolved.folders.get(name, ""), resolved.materials.get(name)
    return vpn.declare(server.values, source, folder, material, host_networks(resolved.values), own_resolver(resolved.values))


def host_networks(values: Mapping[str, Any]) -> Mapping[str, Any]:
    networks = values.get("xen_host_networks")
    return networks if isinstance(networks, dict) and not holds_unresolved(networks) else {}


def own_resolver(values: Mapping[str, Any]) -> str:
    """The address of the host's own DNS unikernel, the first where it has several; "" where it has none."""
    listed = values.get(list_of(dns.NAME))
    items = [one.get("interfaces") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    for interfaces in [values.get("dns_interfaces"), *items]:
        first = interfaces[0] if isinstance(interfaces, list) and interfaces else None
        if isinstance(first, dict) and first.get("address") and not holds_unresolved(first):
            return first_address([first])
    return ""


def _on_its_network(service: Service, server: Server) -> dict[str, Any]:
    """A copy of the service's unikernel, with what its network needs to know of it."""
    unikernel = copy.deepcopy(service.unikernel)
    _only_ipv6(unikernel)
    for option in OF_NETWORKS:
        variable = f"{server.service}_{option}"
        if variable in server.values:
            unikernel[option] = copy.deepcopy(server.values[variable])
    return unikernel


def _only_ipv6(unikernel: dict[str, Any]) -> None:
    """Disable IPv4 on a unikernel that has only IPv6 addresses: a dual Mirage stack would otherwise take 10.0.0.2."""
    versions = [address.version for interface in unikernel["interfaces"] for _option, address in addresses(interface)]
    if versions and 4 not in versions:
        unikernel["arguments"] = {"ipv6-only": "true", **unikernel["arguments"]}


def _declarations(
    host: str, declared: Declared, places: list[str], lines: list[str]
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
            lines += [_in_users_words(line, place, declared.servers) for line in error.problems]
            continue
        declarations.append(declaration)
        lines += _image_problems(unikernel, declared.images)
        derived |= {
            (declaration.name, index)
            for index, interface in enumerate(unikernel.get("interfaces") or [])
            if interface.get("mac") is None
        }
    lines += [_in_users_words(line, "", declared.servers) for line in clashes(declarations)]
    return declarations, derived


def _take_flags(unikernel: dict[str, Any]) -> None:
    disks = unikernel.get("disks")
    places = [(unikernel, key) for key in _FLAGS]
    places += [(disk, "shared") for disk in (disks if isinstance(disks, list) else []) if isinstance(disk, dict)]
    for place, key in places:
        read = flag(place.get(key))
        if read is not None:
            place[key] = read


def _in_users_words(line: str, where: str, named: Mapping[str, Server]) -> str:
    """A refusal of what a service's variable says names that variable; one without a good name says which item it is."""
    for domain, server in named.items():
        if line.startswith(f"domain {domain}: "):
            words = _FROM_VARIABLES.match(line[len(f"domain {domain}: ") :])
            return f"{server.variable(words[1])}{words[2]}" if words else line
    same = _SAME.match(line)
    if same and same[1] in named:
        return f"{named[same[1]].variable('interfaces')}: {line}"
    return f"{where}: {line}" if line.startswith(("domain '", 'domain "')) else line


def _image_problems(unikernel: dict[str, Any], images: Mapping[str, Any]) -> list[str]:
    image, where = unikernel.get("image"), f"domain {unikernel['name']}: image:"
    if image is None:
        absent = unikernel.get("state") == "absent" or unikernel.get("kernel")
        return [] if absent else [f"{where} is required (a key of unikernel_images)"]
    if not isinstance(image, (str, int)) or isinstance(image, bool):
        return [f"{where} must be a key of unikernel_images, not {kind_of(image)}"]
    unikernel["image"] = str(image)
    known = ", ".join(sorted(images)) or "none"
    return [] if str(image) in images else [f"{where} {image!r} is not in unikernel_images (known: {known})"]
