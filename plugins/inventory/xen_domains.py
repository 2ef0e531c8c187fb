# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: xen_domains
short_description: Lists the fleet's domains, read from the hosts
version_added: 0.1.0
description:
  - One host entry for every domain of every Xen host that the inventory knows so far, with its address and facts.
  - The hosts come from inventory sources that are read before this one, so give this one last (sources in a folder are read
    in the order of their names).
  - Hosts are asked in parallel, through the connection that Ansible itself has to them, with their variables, also those of
    C(group_vars) and with templates. One that does not answer, or answers something else, is a warning.
  - A host that the inventory has already is never changed. A domain of its name is left out, with a warning.
  - The images' folder on a host is its variable C(unikernel_images_store).
  - A unikernel has no shell. The entries are for lists, groups, health checks and delegation, not to log in.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Must be V(unikernels.xen.xen_domains).
    required: true
    choices: [unikernels.xen.xen_domains]
  group:
    description: Group of the hosts to ask.
    type: str
    default: xen_hosts
  timeout:
    description: Seconds until a host is given up.
    type: int
    default: 30
  parallel:
    description: How many hosts are asked at once.
    type: int
    default: 20
  name:
    description:
      - Pattern for the entries' names, in which C({host}) and C({domain}) are replaced.
      - Two hosts may have domains of the same name, so leave one of them out only where yours do not.
    type: str
    default: "{domain}.{host}"
  owned_only:
    description: Leave out domains that this collection did not create.
    type: bool
    default: true
notes:
  - "Each entry has the variables C(xen_host), C(xen_domain), C(xen_state), C(xen_kernel), C(xen_image) (digest),
    C(xen_image_name), C(xen_standin), C(xen_service), C(xen_memory), C(xen_vcpus), C(xen_uuid), C(xen_autostart), C(xen_macs)
    and, when its boot arguments have one, C(ansible_host)."
  - "Groups: C(xen_domains) for all, C(xen_on_HOST), C(xen_state_STATE), and, where known, C(xen_image_NAME) and
    C(xen_service_SERVICE)."
"""

EXAMPLES = r"""
# inventories/mine/zz-domains.xen_domains.yml, read after the hosts' own file
plugin: unikernels.xen.xen_domains
timeout: 10
keyed_groups:
  - key: xen_memory | string
    prefix: memory
compose:
  web_url: "'http://' ~ ansible_host if ansible_host is defined else ''"
groups:
  ended: xen_state in ['shutdown', 'dying']
"""

import ipaddress
import json
import re
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.inventory.manager import InventoryManager
from ansible.playbook.play import Play
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.vars.manager import VariableManager
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Host, Observed, defined_uuid
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import domain_from_libxl, service_of
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import parse_list

try:
    from ansible.template import trust_as_template

    def untrusted(value: Any) -> Any:
        return value

except ImportError:  # ansible-core before 2.19 trusts an inventory's values unless they are wrapped
    from ansible.utils.unsafe_proxy import wrap_var

    def untrusted(value: Any) -> Any:
        return wrap_var(value)

    def trust_as_template(value: Any) -> Any:
        return value


# What to ask a host, as a single shell program; only the (quoted) folder comes from a user. "xl list -l" fails when a domain dies
# during the call, but prints the rest.
_MARK = "---- unikernels.xen ----"
QUESTION = f"""
LC_ALL=C; export LC_ALL
xl list -v || exit 1
echo '{_MARK}'; xl list -l 2>/dev/null
echo '{_MARK}'; cd /etc/xen/unikernels 2>/dev/null && for f in *.cfg; do [ -e "$f" ] && {{ echo "=$f"; cat "$f"; }}; done
echo '{_MARK}'; ls /etc/xen/auto 2>/dev/null
echo '{_MARK}'; cd STORE 2>/dev/null && for f in *.json; do [ -e "$f" ] && tr -d '\\n' <"$f" && echo; done
exit 0
""".replace("STORE", "{{ unikernel_images_store | default('/var/lib/unikernels/images') | quote }}")
# Errors of code that reads an answer of another shape than Xen's.
_ODD = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, ArithmeticError)
_MAX_ANSWER = 50_000_000


def answer_of(text: str) -> list[dict[str, Any]]:
    """Return one mapping of variables for each domain from a host's answer to QUESTION. Raise ValueError for other text."""
    try:
        domains = _read_answer(text)
        json.dumps(domains).encode("utf-8")
    except _ODD as error:
        raise ValueError(f"its answer is not what xl and the collection print ({type(error).__name__})") from error
    return domains


def _read_answer(text: str) -> list[dict[str, Any]]:
    parts = text.replace("\r\n", "\n").split(_MARK + "\n")
    if len(parts) != 5 or len(text) > _MAX_ANSWER:
        raise ValueError("the answer is not complete")
    states = parse_list(parts[0])
    entries = json.loads(parts[1]) if parts[1].strip() else []
    definitions: dict[str, str] = {}
    for block in re.split(r"^=", parts[2], flags=re.MULTILINE)[1:]:
        name, _newline, body = block.partition("\n")
        definitions[name[: -len(".cfg")]] = body
    autostart = {name[: -len(".cfg")] for name in parts[3].split() if name.endswith(".cfg")}
    manifests = [json.loads(line) for line in parts[4].splitlines()]
    images = {one["sha256"]: one for one in manifests if isinstance(one, dict) and isinstance(one.get("sha256"), str)}
    observed = []
    for entry in entries:
        if entry.get("domid") in states:
            state, reason, seconds = states[entry["domid"]]
            domain = domain_from_libxl(entry.get("config", {}))
            observed.append(Observed(entry["domid"], state, domain, 0, reason, seconds))
    host = Host(domains=tuple(observed), definitions=definitions, autostart=frozenset(autostart))
    domains = [_running(host, one, images) for one in observed if one.domain.name]
    names = {one["xen_domain"] for one in domains}
    for name in sorted(set(definitions) - names):
        domains.append(
            {
                "xen_domain": name,
                "xen_state": "stopped",
                "xen_owned": True,
                "xen_uuid": defined_uuid(definitions[name]),
                "xen_service": service_of(definitions[name]),
                "xen_autostart": name in autostart,
            }
        )
    return [one for one in domains if _is_name(one["xen_domain"])]


def _is_name(name: Any) -> bool:
    """True if a name may be part of a host's name in an inventory; xl accepts almost anything."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.~-]{0,200}", name) is not None


def _running(host: Host, one: Observed, images: dict[str, Any]) -> dict[str, Any]:
    domain = one.domain
    digest = re.fullmatch(r".*/([0-9a-f]{64})\.xen", domain.kernel)
    image = images.get(digest.group(1), {}) if digest else {}
    variables = {
        "xen_domain": domain.name,
        "xen_domid": one.domid,
        "xen_state": one.state,
        "xen_owned": host.owns(one),
        "xen_uuid": domain.uuid,
        "xen_kernel": domain.kernel,
        "xen_image": digest.group(1) if digest else "",
        "xen_image_name": str(image.get("name") or ""),
        "xen_standin": image.get("standin") is True,
        "xen_service": service_of(host.definitions.get(domain.name, "")),
        "xen_memory": domain.memory,
        "xen_vcpus": domain.vcpus,
        "xen_autostart": domain.name in host.autostart,
        "xen_macs": [interface.mac for interface in domain.interfaces],
    }
    for address in boot_line.addresses(domain.arguments):
        try:
            variables["ansible_host"] = str(ipaddress.ip_interface(address).ip)
        except ValueError:
            continue
        break
    return variables


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]
    NAME = "unikernels.xen.xen_domains"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("xen_domains.yml", "xen_domains.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        for option, value in (("timeout", self.get_option("timeout")), ("parallel", self.get_option("parallel"))):
            if not 1 <= value <= 600:
                raise AnsibleParserError(f"{path}: {option} is {value}, must be 1..600")
        try:
            self.get_option("name").format(host="h", domain="d")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise AnsibleParserError(f"{path}: name: only {{host}} and {{domain}} can be used in it") from None
        key = self.get_cache_key(path)
        use = cache and self.get_option("cache")
        answers = self._cache.get(key) if use else None
        if answers is None:
            answers = self._ask()
            if self.get_option("cache"):
                self._cache[key] = answers
        inventory.add_group("xen_domains")
        known = frozenset(inventory.hosts)
        for host, domains in answers.items():
            for variables in domains:
                if variables["xen_owned"] or not self.get_option("owned_only"):
                    self._add(host, variables, known)

    def _ask(self) -> dict[str, list[dict[str, Any]]]:
        group = self.inventory.groups.get(self.get_option("group"))
        if group is None:
            self.display.warning(
                f"there is no group {self.get_option('group')} yet: put the hosts' own inventory before this one"
                " (-i hosts.yml -i domains.xen_domains.yml)"
            )
            return {}
        hosts = [str(host.name) for host in group.get_hosts()]
        domains: dict[str, list[dict[str, Any]]] = {}
        for host, result in self._run(hosts).items():
            try:
                domains[host] = answer_of(_text_of(result))
            except ValueError as error:
                self.display.warning(f"{host} could not be asked for its domains: {_printable(str(error))}")
        return domains

    def _run(self, hosts: list[str]) -> dict[str, dict[str, Any]]:
        """Run one task on all hosts, as ansible-playbook would with the inventory read so far. Return its results."""
        if not hosts:
            return {}
        manager = InventoryManager(loader=self.loader, sources=list(self.inventory.processed_sources))
        variables = VariableManager(loader=self.loader, inventory=manager)
        task = {
            "ansible.builtin.raw": trust_as_template(QUESTION),
            "register": "xen_domains_answer", "timeout": self.get_option("timeout"), "ignore_errors": True,
            "ignore_unreachable": True, "check_mode": False, "changed_when": False,
        }  # fmt: skip
        play = {"name": "domains", "hosts": hosts, "gather_facts": False, "tasks": [task],
                # ansible-inventory, unlike ansible-playbook, doesn't set this from the configuration.
                "connection": constants.DEFAULT_TRANSPORT, "become_method": constants.DEFAULT_BECOME_METHOD,
                "become_user": constants.DEFAULT_BECOME_USER}  # fmt: skip
        forks = min(self.get_option("parallel"), len(hosts))
        queue = TaskQueueManager(manager, variables, self.loader, {}, "unikernels.xen.silent", False, forks=forks)
        try:
            queue.run(Play.load(play, variable_manager=variables, loader=self.loader))
        except AnsibleError as error:
            return {host: {"failed": True, "msg": str(error)} for host in hosts}
        finally:
            queue.cleanup()
        return {host: variables.get_vars(host=manager.get_host(host)).get("xen_domains_answer", {}) for host in hosts}

    def _add(self, host: str, variables: dict[str, Any], known: frozenset[str]) -> None:
        name = self.get_option("name").format(host=host, domain=variables["xen_domain"])
        if name in known or name in self.inventory.hosts or name in self.inventory.groups or name in constants.LOCALHOST:
            where = "is a host of the inventory" if name in known else "is taken by another host's domain"
            where = "is a group of the inventory" if name in self.inventory.groups else where
            # Not in the inventory, and yet tasks for it would go to the domain's address.
            where = "is the controller" if name in constants.LOCALHOST else where
            self.display.warning(f"{host}: its domain {variables['xen_domain']} is skipped, because {name} {where}")
            return
        self.inventory.add_host(name, group="xen_domains")
        # Untrusted text is exported as a mapping, which some readers don't expect. Mark text as trusted if it can't be a
        # template.
        variables = {
            key: [_trusted(item) for item in value] if isinstance(value, list) else _trusted(value)
            for key, value in {**variables, "xen_host": host}.items()
        }
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        for prefix, value in (
            ("on", host),
            ("state", variables["xen_state"]),
            ("image", variables.get("xen_image_name")),
            ("service", variables.get("xen_service")),
        ):
            if value:
                group = self.inventory.add_group(self._sanitize_group_name(f"xen_{prefix}_{value}"))
                self.inventory.add_child(group, name)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def _trusted(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # A #jinja2: line makes other brackets special, without any of the usual ones.
    return untrusted(value) if "{" in value or value.startswith("#") else trust_as_template(value)


def _text_of(result: dict[str, Any]) -> str:
    """Return what the host printed. Raise ValueError with the reason if it failed."""
    if result.get("failed") or result.get("unreachable") or "stdout" not in result:
        said = str(result.get("stderr") or result.get("msg") or "no answer").strip().splitlines()
        raise ValueError(said[-1] if said else f"exit code {result.get('rc')}")
    return str(result["stdout"])


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]
