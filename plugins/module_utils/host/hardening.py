# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings that harden a Xen host, and whether a host has them. Pure: what was read in, lines out.

docs/hardening.md has each control, what it stops and how to check it by hand.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .boot_menu import kept_for_xen, xen_key

# Key -> value, as in sysctl.d(5). Keys with a star are set for each interface, including later ones (udev).
SYSCTLS = {
    "net.ipv4.conf.*.accept_redirects": "0",
    "net.ipv4.conf.*.secure_redirects": "0",
    "net.ipv4.conf.*.accept_source_route": "0",
    # Loose: on a host with several interfaces, a source that is routed over another one is not forged.
    "net.ipv4.conf.*.rp_filter": "2",
    "net.ipv6.conf.*.accept_redirects": "0",
    "net.ipv6.conf.*.accept_source_route": "0",
    "kernel.kptr_restrict": "2",
    "kernel.dmesg_restrict": "1",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.kexec_load_disabled": "1",
}
ROUTER_ADVERTISEMENTS = {"net.ipv6.conf.*.accept_ra": "0"}
# Values as good as ours, or better.
_AS_GOOD = {"net.ipv4.conf.*.rp_filter": ("1", "2"), "kernel.unprivileged_bpf_disabled": ("1", "2")}

# sshd_config(5).
SSHD = {
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitRootLogin": "prohibit-password",
    "PermitEmptyPasswords": "no",
    "X11Forwarding": "no",
    "AllowTcpForwarding": "no",
    "AllowStreamLocalForwarding": "no",
    "AllowAgentForwarding": "no",
    "PermitTunnel": "no",
}
_SSHD_AS_GOOD = {"permitrootlogin": ("prohibit-password", "without-password", "no", "forced-commands-only")}

# Linux modules that a Dom0 doesn't need and that had vulnerabilities: old protocols (the rest of CIS 3.2 and of Debian's own
# list), file systems of foreign disks, and whatever reads memory from outside.
MODULES = (
    *("dccp", "rds", "tipc", "n_hdlc", "ax25", "netrom", "rose", "x25", "decnet", "appletalk", "ipx", "psnap", "can", "atm"),
    *("cramfs", "freevxfs", "jffs2", "hfs", "hfsplus"),
    *("firewire-core", "firewire-ohci", "firewire-sbp2"),
)

# Programs that answer, or read, what anybody on the network sends, and that no Dom0 needs (CIS 2.1 and 2.2; by Debian's names).
# None of them is needed by another package of Debian's without being asked for.
NEEDLESS_PACKAGES = (
    *("atftpd", "avahi-daemon", "bluez", "cups-browsed", "inetutils-inetd", "inetutils-telnetd", "modemmanager", "nis"),
    *("openbsd-inetd", "rsh-redone-server", "rsh-server", "talkd", "telnetd", "tftpd", "tftpd-hpa", "xinetd", "ypserv"),
)
# Programs that may listen on a host: those of the role, and those that give it its addresses and the time.
EXPECTED_LISTENERS = (
    *("sshd", "systemd", "prometheus-node", "dhclient", "dhcpcd", "systemd-network", "NetworkManager", "chronyd", "ntpd"),
    "systemd-timesyn",
)

SYSCTL_FILE = "/etc/sysctl.d/99-unikernels-xen.conf"
SSHD_FILE = "/etc/ssh/sshd_config.d/10-unikernels-xen.conf"
JOURNAL_FILE = "/etc/systemd/journald.conf.d/unikernels-xen.conf"
MODULES_FILE = "/etc/modprobe.d/unikernels-xen.conf"
AUDIT_FILE = "/etc/audit/rules.d/unikernels-xen.rules"
PASSWORD_FILE = "/etc/grub.d/01_unikernels-password"  # noqa: S105
UPDATES_FILE = "/etc/apt/apt.conf.d/52unikernels-xen"
# Packages whose update needs a reboot (regular expressions, from the beginning of the name).
BOOTED_PACKAGES = ("xen-", "libxen", "grub-", "linux-image-", "intel-microcode$", "amd64-microcode$")
_WRITTEN = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.\n"

# What Xen's scheduler credit2 gives a domain that declares nothing.
DOMAIN_WEIGHT = 256
# Arguments on Xen's line that a variable of the role decides; names as xen_key returns them.
DECIDED_FOR_XEN = {
    "dom0_mem": "xen_host_dom0_memory",
    "dom0_max_vcpus": "xen_host_dom0_vcpus",
    "dom0_vcpus_pin": "xen_host_dom0_pinned",
    "sched_gran": "xen_host_core_scheduling",
}
MICROCODE = {"GenuineIntel": "intel-microcode", "AuthenticAMD": "amd64-microcode"}


@dataclass(frozen=True)
class Control:
    """One control on one host: whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str
    needed: str

    def as_dict(self) -> dict[str, Any]:
        return {"control": self.name, "passed": self.passed, "seen": self.seen, "needed": self.needed}


def sysctl_text(keeps_router_advertisements: bool) -> str:
    """Return the lines for sysctl.d; a key that this kernel lacks is ignored (-)."""
    values = SYSCTLS if keeps_router_advertisements else {**SYSCTLS, **ROUTER_ADVERTISEMENTS}
    return "".join(f"-{key} = {value}\n" for key, value in values.items())


def sshd_text() -> str:
    """Return the lines for sshd_config.d."""
    return "".join(f"{key} {value}\n" for key, value in SSHD.items())


def updates_text(which: str) -> str:
    """Return unattended-upgrades' lines for apt.conf: daily updates except those that need a reboot; never reboot."""
    origins = ["origin=Debian,codename=${distro_codename}-security,label=Debian-Security"]
    origins += ["origin=Debian,codename=${distro_codename},label=Debian"] if which == "all" else []
    rows = [
        'APT::Periodic::Update-Package-Lists "1";',
        'APT::Periodic::Unattended-Upgrade "1";',
        'Unattended-Upgrade::Automatic-Reboot "false";',
        "#clear Unattended-Upgrade::Origins-Pattern;",
        *(f'Unattended-Upgrade::Origins-Pattern:: "{origin}";' for origin in origins),
        *(f'Unattended-Upgrade::Package-Blacklist:: "{pattern}";' for pattern in BOOTED_PACKAGES),
    ]
    return "\n".join(rows) + "\n"


def modules_text() -> str:
    """Return the lines for modprobe.d."""
    return "".join(f"install {name} /bin/false\n" for name in MODULES)


def audit_text(images: str) -> str:
    """Return auditd's rules (auditctl(8)): log who changes what boots and what runs, and who calls the toolstack."""
    watched = {"/etc/xen": "xen", "/boot": "xen-boot", images: "xen-images"}
    lines = [f"-w {path} -p wa -k {key}" for path, key in watched.items()]
    # Debian's xl is a script that calls the xl of the running Xen.
    return "\n".join([*lines, "-w /usr/sbin/xl -p x -k xl", "-w /usr/lib/xen-common/bin -p wa -k xen", ""])


def password_script(password: str) -> str:
    """Return a script for /etc/grub.d; our own entries boot without the password (--unrestricted)."""
    menu = f'set superusers="root"\npassword_pbkdf2 root {password}\n'
    return f"#!/bin/sh\n{_WRITTEN}cat <<'MENU'\n{menu}MENU\n"


def files(
    info: dict[str, Any],
    sysctl: bool,
    sshd: bool,
    journal_size: int,
    updates: str,
    modules: bool = False,
    audited_images: str = "",
    grub_password: bool = False,
) -> dict[str, list[Any]]:
    """Return the options of the module host_files: the files of enabled controls, the paths of disabled ones."""
    journal = f"[Journal]\nStorage=persistent\nSystemMaxUse={journal_size}M\n"
    texts = {
        SYSCTL_FILE: sysctl_text(info["needs_router_advertisements"]) if sysctl else "",
        SSHD_FILE: sshd_text() if sshd and info["ssh"]["sshd"] else "",
        JOURNAL_FILE: journal if journal_size else "",
        MODULES_FILE: modules_text() if modules else "",
        AUDIT_FILE: audit_text(audited_images) if audited_images else "",
    }
    folders = [JOURNAL_FILE.rpartition("/")[0]] if journal_size else []
    # Written before its package is installed, which then starts with these rules.
    folders += ["/etc/audit", "/etc/audit/rules.d"] if audited_images else []
    absent = [path for path, text in texts.items() if not text] + ([] if updates != "none" else [UPDATES_FILE])
    # apt.conf has its own comments, and '#clear' is a directive.
    apt = [{"path": UPDATES_FILE, "content": _WRITTEN.replace("#", "//", 1) + updates_text(updates)}] if updates != "none" else []
    return {
        "folders": [{"path": path, "mode": "0750" if "audit" in path else "0755"} for path in folders],
        "files": [{"path": path, "content": _WRITTEN + text} for path, text in texts.items() if text] + apt,
        "absent": absent + ([] if grub_password else [PASSWORD_FILE]),
    }


def xen_arguments(
    memory: int,
    vcpus: int,
    named: Iterable[str],
    grants_v1: bool,
    microcode: bool,
    smt: bool,
    core_scheduling: bool = False,
    pinned: bool = False,
    machine: Iterable[str] = (),
) -> list[str]:
    """Return Xen's whole command line. What the user has ``named`` or the ``machine`` has wins over hardening."""
    named = list(named)
    named = kept_for_xen(machine, named, DECIDED_FOR_XEN) + named
    keys = set(map(xen_key, named))
    words = [f"dom0_mem={memory}M,max:{memory}M"] + ([f"dom0_max_vcpus={vcpus}"] if vcpus else [])
    added = {"gnttab": "gnttab=max-ver:1" if grants_v1 else "", "ucode": "ucode=scan" if microcode else ""}
    added["smt"] = "" if smt else "smt=off"
    added["sched_gran"] = "sched-gran=core" if core_scheduling else ""
    added["dom0_vcpus_pin"] = "dom0_vcpus_pin" if pinned else ""
    return words + [word for key, word in added.items() if word and key not in keys] + named


def ssh_refusals(ssh: dict[str, Any], hardened: bool, by_password: bool) -> list[str]:
    """Return why nobody could log in if sshd accepted keys only. ``ssh``: from xen_host_info."""
    if not hardened or not ssh["sshd"]:
        return []
    if by_password:
        why = "this run itself connects by a password (ansible_password)"
    elif not ssh["key"]:
        why = f"the user {ssh['user']} has no key in ~/.ssh/authorized_keys there"
    else:
        return []
    return [f"xen_host_harden_sshd: sshd would accept only keys, but {why}: add a key, or set it to false"]


def _network_refusal(network: Any) -> str:
    """Return why ``network`` is none; "" if it is one."""
    # Python accepts anything after '%' as the zone of an IPv6 address, and this becomes nftables' text.
    text = network if isinstance(network, str) and "%" not in network else ""
    try:
        whole = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{network!r} is not a network, as in 192.0.2.0/24 or 2001:db8::/32"
    address = text.partition("/")[0]
    if ipaddress.ip_address(address) != whole.network_address:
        return f"{network!r} is an address in a network: write {whole} for the network, or {address} for the address alone"
    if isinstance(whole, ipaddress.IPv6Network) and whole.network_address.ipv4_mapped:
        return f"{network!r} is IPv4 written as IPv6, from which no packet comes: write it as in 192.0.2.0/24"
    return ""


def management_refusals(networks: Any, ssh: dict[str, Any]) -> list[str]:
    """Return why ``networks`` (xen_host_management_networks) are wrong, or would lock this very run out."""
    name = "xen_host_management_networks"
    if not networks:
        return []
    if not isinstance(networks, list):
        return [f"{name}: is {networks!r}, must be a list of networks, as in [192.0.2.0/24]"]
    lines = [f"{name}: {line}" for line in map(_network_refusal, networks) if line]
    if lines:
        return lines
    parsed = [ipaddress.ip_network(network) for network in networks]
    if not ssh.get("client"):
        return []
    try:
        client = ipaddress.ip_address(ssh["client"])
    except ValueError:  # sshd says UNKNOWN if the run comes over no network
        return []
    if any(client.version == network.version and client in network for network in parsed):
        return []
    return [f"{name}: this run comes from {client}, which is in none of {', '.join(map(str, parsed))}: it would lock itself out"]


def management_table(networks: Iterable[str], ports: Iterable[int]) -> str:
    """Return nftables' text: only ``ports`` from ``networks``, answers, and what a network needs to work reach the host."""
    numbers = ", ".join(map(str, sorted(set(ports))))
    parsed = [ipaddress.ip_network(network) for network in networks]
    rules = []
    for family, version in (("ip", 4), ("ip6", 6)):
        members = ", ".join(str(network) for network in parsed if network.version == version)
        if members:
            rules.append(f"    {family} saddr {{ {members} }} tcp dport {{ {numbers} }} accept")
    return "\n".join(
        [
            "add table inet unikernels_management",
            "delete table inet unikernels_management",
            "table inet unikernels_management {",
            "  chain input {",
            "    type filter hook input priority 10; policy drop;",
            "    ct state established,related accept",
            '    iifname "lo" accept',
            "    icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept",
            "    icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
            "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } ip6 hoplimit 255 accept",
            "    udp sport 67 udp dport 68 accept",
            "    udp sport 547 udp dport 546 accept",
            *rules,
            "  }",
            "}",
            "",
        ]
    )


# -- audit -----------------------------------------------------------------------------------------


def audit(seen: dict[str, Any]) -> list[Control]:
    """Return each control with its result on the host described by ``seen`` (audit_facts), in the order of docs/hardening.md."""
    return [*_boot(seen), *_domains(seen), *_sysctls(seen["sysctls"]), *_sshd(seen["sshd"]), *_rest(seen), *_services(seen)]


def _boot(seen: dict[str, Any]) -> list[Control]:
    words = seen["xen_arguments"].split()
    microcode = seen["microcode"]
    if microcode["virtual"]:
        package = Control("microcode package", True, "a virtual machine: its host's matter", "microcode of the CPU's vendor")
    else:
        what = (
            "installed"
            if microcode["installed"]
            else "not installed" + ("" if microcode["available"] else ", and no apt source has the component non-free-firmware")
        )
        package = Control(
            "microcode package", microcode["installed"], f"{microcode['package'] or 'no package for this CPU'}: {what}",
            "microcode of the CPU's vendor",
        )  # fmt: skip
    boot = seen["boot"]
    return [
        Control("Xen runs", seen["under_xen"], "yes" if seen["under_xen"] else "no", "the machine is the Dom0 of a Xen"),
        _word(words, "grant tables v1", "gnttab", "gnttab=max-ver:1"),
        _word(words, "microcode at boot", "ucode", "ucode=scan"),
        package,
        Control(
            "boot that worked is kept", boot["kept"] and not boot["unconfirmed"],
            boot["cannot_try"] or f"GRUB's default is {boot['default'] or 'its first entry'}", "unikernels-good",
        ),
        Control(
            "no reboot pending", not seen["pending_reboot"], "pending" if seen["pending_reboot"] else "none",
            "what is installed is what runs",
        ),
    ]  # fmt: skip


def _yes(name: str, passed: bool, needed: str) -> Control:
    return Control(name, passed, "yes" if passed else "no", needed)


def _domains(seen: dict[str, Any]) -> list[Control]:
    words, threads, weight = seen["xen_arguments"].split(), seen["topology"]["threads_per_core"], seen["dom0_weight"]
    shared = f"{threads} threads a core" if threads > 1 else "one thread a core"
    return [
        Control("cores are not shared", threads < 2 or "sched-gran=core" in words, shared,
                "xen_host_smt: false, or xen_host_core_scheduling"),
        Control("Dom0 comes first", (weight or 0) > DOMAIN_WEIGHT, f"weight {weight}" if weight else "its weight is not known",
                f"a weight above {DOMAIN_WEIGHT}, which a domain has"),
        _yes("packets of domains are filtered", seen["guest_filter"], "table bridge unikernels of nftables"),
        _yes("domains start and stop within limits", seen["domain_limits"], "the role's part of xendomains.service"),
        _yes("a boot on trial returns", seen["boot_trial"], "unikernels-boot-trial.service"),
        _yes("GRUB's password", seen["grub_password"], "xen_host_grub_password"),
    ]  # fmt: skip


def _services(seen: dict[str, Any]) -> list[Control]:
    needless, listening = seen["needless_packages"], [] if seen["management"] else seen["listening"]
    return [
        Control("packages that no host needs", not needless, ", ".join(needless) or "none", "xen_host_remove_needless"),
        Control("nothing else listens", not listening, ", ".join(listening[:5]) or "nothing that the network reaches",
                "sshd and what the role configures"),
        _yes("updates are installed daily", seen["automatic_updates"], "xen_host_updates: security"),
        _yes("changes are logged", seen["audit_rules"], "xen_host_auditd"),
    ]  # fmt: skip


def _word(words: list[str], name: str, key: str, needed: str) -> Control:
    present = [word for word in words if word.partition("=")[0] == key]
    return Control(name, needed in present, " ".join(present) or f"no {key}= on Xen's line", needed)


def _sysctls(values: dict[str, dict[str, str]]) -> list[Control]:
    found = []
    for key, value in {**SYSCTLS, **ROUTER_ADVERTISEMENTS}.items():
        good = _AS_GOOD.get(key, (value,))
        wrong = {path: seen for path, seen in values.get(key, {}).items() if seen not in good}
        seen = ", ".join(f"{path} = {seen}" for path, seen in sorted(wrong.items())[:4]) or "as needed"
        found.append(Control(f"sysctl {key}", not wrong, seen, " or ".join(good)))
    return found


def _sshd(values: dict[str, str]) -> list[Control]:
    if not values:
        return [Control("sshd", True, "not installed", "keys only, no forwarding")]
    found = []
    for key, value in SSHD.items():
        good = _SSHD_AS_GOOD.get(key.lower(), (value,))
        seen = values.get(key.lower(), "not known")
        found.append(Control(f"sshd {key}", seen in good, seen, value))
    return found


def _rest(seen: dict[str, Any]) -> list[Control]:
    console, journal = seen["console"], seen["journal"]
    escape = "--replace-escape" in seen["xenconsoled"].split()
    modes = [f"{path} is {mode:04o}, wanted {most:04o}" for path, (mode, most) in sorted(seen["modes"].items()) if mode & ~most]
    updates, filtered = seen["security_updates"], seen["management"]
    open_modules = [name for name in MODULES if name not in seen["blocked_modules"]]
    return [
        Control("consoles are bounded", console["bounded"], f"{console['size']} MiB" if console["bounded"] else "they are on /",
                "a file system of their own"),
        Control("consoles without escape sequences", escape, seen["xenconsoled"] or "no xenconsoled", "--replace-escape"),
        Control("journal is persistent", journal["persistent"], journal["storage"] or "auto", "persistent"),
        Control("journal is bounded", bool(journal["max_use"]), journal["max_use"] or "a tenth of the disk", "SystemMaxUse"),
        Control("modes", not modes, "; ".join(modes) or "as needed", "nothing of Xen's is readable or writable by others"),
        Control("modules that no host needs", not open_modules, ", ".join(open_modules[:5]) or "none can be loaded",
                "none can be loaded"),
        Control("security updates", not updates and not seen.get("updates_problem"),
                seen.get("updates_problem") or ", ".join(updates[:5]) or "none waiting", "none waiting"),
        Control("input is filtered", filtered, "yes" if filtered else "xen_host_management_networks is empty",
                "ssh from management networks only"),
    ]  # fmt: skip


# Not on by default, or on by a variable that a fleet may do without: what they need only the administrator knows.
OPTIONAL = (
    *("input is filtered", "cores are not shared", "GRUB's password", "packages that no host needs", "nothing else listens"),
    *("updates are installed daily", "changes are logged"),
)


def summary(host: str, controls: Iterable[Control]) -> list[str]:
    """Return the report: failures with what was seen and what is needed, then the counts."""
    controls = list(controls)
    failed = [control for control in controls if not control.passed]
    lines = [
        f"{host}: {'open' if control.name in OPTIONAL else 'FAIL'}: {control.name}: {control.seen}; needed: {control.needed}"
        for control in failed
    ]
    missing = sum(control.name not in OPTIONAL for control in failed)
    return [*lines, f"{host}: {len(controls) - len(failed)} of {len(controls)} controls hold, {missing} of the default ones fail"]


def listeners(text: str) -> list[str]:
    """Return what listens beyond the host itself and is not expected, from `ss -H -lntup`: "rpcbind tcp 0.0.0.0:111"."""
    found = set()
    for line in text.splitlines():
        words = line.split()
        match = re.search(r'users:\(\("([^"]+)"', line)
        if len(words) < 5:
            continue
        address, program = words[4], match[1] if match else "an unknown program"
        if not re.match(r"127\.|\[::1\]|\[::ffff:127\.", address.partition("%")[0]) and program not in EXPECTED_LISTENERS:
            found.add(f"{program} {words[0]} {address}")
    return sorted(found)


def weight_of(text: str) -> int | None:
    """Return Dom0's weight from `xl sched-credit2 -d 0`: name, id, weight, cap; None if another scheduler runs."""
    match = re.search(r"^Domain-0\s+0\s+(\d+)(?:\s|$)", text, re.MULTILINE)
    return int(match[1]) if match else None


def parse_sshd(text: str) -> dict[str, str]:
    """Parse the output of `sshd -T`."""
    return dict(re.findall(r"^(\w+) (.*)$", text, re.MULTILINE))
