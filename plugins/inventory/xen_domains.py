# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: xen_domains
short_description: The fleet's domains, asked from the hosts themselves
version_added: 0.1.0
description:
  - One host entry for every domain of every Xen host that the inventory knows so far, with its address and facts.
  - The hosts come from inventory sources that are read before this one, so give this one last (sources in a folder are read
    in the order of their names).
  - Hosts are asked in parallel over ssh, one connection each. One that does not answer is a warning.
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
    description: Leave out domains that this collection did not make.
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

import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Host, Observed, defined_uuid
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import domain_from_libxl, service_of
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import parse_list

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts what an inventory says

    def trust_as_template(value: Any) -> Any:
        return value


# What a host is asked, as one program for its shell; nothing of a user's is in it. "xl list -l" fails
# when a domain dies meanwhile, and prints the rest.
_MARK = "---- unikernels.xen ----"
QUESTION = f"""
LC_ALL=C; export LC_ALL
xl list -v || exit 1
echo '{_MARK}'; xl list -l 2>/dev/null
echo '{_MARK}'; cd /etc/xen/unikernels 2>/dev/null && for f in *.cfg; do [ -e "$f" ] && {{ echo "=$f"; cat "$f"; }}; done
echo '{_MARK}'; ls /etc/xen/auto 2>/dev/null
echo '{_MARK}'; cd /var/lib/unikernels/images 2>/dev/null && for f in *.json; do [ -e "$f" ] && tr -d '\\n' <"$f" && echo; done
exit 0
"""


def answer_of(text: str) -> list[dict[str, Any]]:
    """One mapping of variables for each domain, from what a host printed for QUESTION. ValueError when it is something else."""
    parts = text.split(_MARK + "\n")
    if len(parts) != 5:
        raise ValueError("the answer is not complete")
    states = parse_list(parts[0])
    entries = json.loads(parts[1]) if parts[1].strip() else []
    definitions: dict[str, str] = {}
    for block in re.split(r"^=", parts[2], flags=re.MULTILINE)[1:]:
        name, _newline, body = block.partition("\n")
        definitions[name[: -len(".cfg")]] = body
    autostart = {name[: -len(".cfg")] for name in parts[3].split() if name.endswith(".cfg")}
    images = {one["sha256"]: one for one in map(json.loads, parts[4].splitlines()) if "sha256" in one}
    observed = []
    for entry in entries:
        if entry.get("domid") in states:
            state, reason, seconds = states[entry["domid"]]
            domain = domain_from_libxl(entry.get("config", {}))
            observed.append(Observed(entry["domid"], state, domain, 0, reason, seconds))
    host = Host(domains=tuple(observed), definitions=definitions, autostart=frozenset(autostart))
    found = [_running(host, one, images) for one in observed if one.domain.name]
    names = {one["xen_domain"] for one in found}
    for name in sorted(set(definitions) - names):
        found.append(
            {
                "xen_domain": name,
                "xen_state": "stopped",
                "xen_owned": True,
                "xen_uuid": defined_uuid(definitions[name]),
                "xen_service": service_of(definitions[name]),
                "xen_autostart": name in autostart,
            }
        )
    return found


def _running(host: Host, one: Observed, images: dict[str, Any]) -> dict[str, Any]:
    domain = one.domain
    digest = re.fullmatch(r".*/([0-9a-f]{64})\.xen", domain.kernel)
    image = images.get(digest.group(1), {}) if digest else {}
    addresses = boot_line.addresses(domain.arguments)
    found = {
        "xen_domain": domain.name,
        "xen_domid": one.domid,
        "xen_state": one.state,
        "xen_owned": host.owns(one),
        "xen_uuid": domain.uuid,
        "xen_kernel": domain.kernel,
        "xen_image": digest.group(1) if digest else "",
        "xen_image_name": image.get("name", ""),
        "xen_standin": bool(image.get("standin", False)),
        "xen_service": service_of(host.definitions.get(domain.name, "")),
        "xen_memory": domain.memory,
        "xen_vcpus": domain.vcpus,
        "xen_autostart": domain.name in host.autostart,
        "xen_macs": [interface.mac for interface in domain.interfaces],
    }
    if addresses:
        found["ansible_host"] = addresses[0].partition("/")[0]
    return found


def command_for(variables: dict[str, Any], name: str, timeout: int) -> list[str]:
    """The process that asks one host: ssh with what the inventory says of it, or a shell for a local connection."""
    become = str(variables.get("ansible_become", "")).lower() in ("true", "yes", "1")
    shell = ["sudo", "-n", "sh"] if become else ["sh"]
    if variables.get("ansible_connection") == "local":
        return shell
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout}"]
    for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        command += shlex.split(str(variables.get(key) or ""))
    if variables.get("ansible_port"):
        command += ["-p", str(variables["ansible_port"])]
    if variables.get("ansible_user"):
        command += ["-l", str(variables["ansible_user"])]
    if variables.get("ansible_ssh_private_key_file"):
        command += ["-i", str(variables["ansible_ssh_private_key_file"])]
    # "--": a host's name is no option.
    return [*command, "--", str(variables.get("ansible_host") or name), *shell]


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
        except (KeyError, IndexError, ValueError):
            raise AnsibleParserError(f"{path}: name: only {{host}} and {{domain}} can be used in it") from None
        key = self.get_cache_key(path)
        use = cache and self.get_option("cache")
        answers = self._cache.get(key) if use else None
        if answers is None:
            answers = self._ask()
            if self.get_option("cache"):
                self._cache[key] = answers
        inventory.add_group("xen_domains")
        for host, domains in answers.items():
            for variables in domains:
                if variables["xen_owned"] or not self.get_option("owned_only"):
                    self._add(host, variables)

    def _ask(self) -> dict[str, list[dict[str, Any]]]:
        group = self.inventory.groups.get(self.get_option("group"))
        if group is None:
            self.display.warning(
                f"there is no group {self.get_option('group')} yet: name the hosts' own inventory before this one"
                " (-i hosts.yml -i domains.xen_domains.yml)"
            )
            return {}
        hosts = group.get_hosts()
        with ThreadPoolExecutor(self.get_option("parallel")) as pool:
            answers = list(pool.map(lambda host: self._ask_one(host.name, host.get_vars()), hosts))
        found = {}
        for host, (domains, problem) in zip(hosts, answers):
            if problem:
                self.display.warning(f"{host.name} was not asked for its domains: {problem}")
            else:
                found[str(host.name)] = domains
        return found

    def _ask_one(self, name: str, variables: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        timeout = self.get_option("timeout")
        try:
            done = subprocess.run(
                command_for(variables, name, timeout),
                input=QUESTION, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
            if done.returncode:
                return [], (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return answer_of(done.stdout), ""
        except subprocess.TimeoutExpired:
            return [], f"no answer within {timeout} s"
        except (OSError, ValueError) as error:
            return [], str(error)

    def _add(self, host: str, variables: dict[str, Any]) -> None:
        name = self.get_option("name").format(host=host, domain=variables["xen_domain"])
        self.inventory.add_host(name, group="xen_domains")
        # Untrusted text is exported as a mapping, which some readers don't expect; without a brace it is no template.
        variables = {
            key: trust_as_template(value) if isinstance(value, str) and "{" not in value else value
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
