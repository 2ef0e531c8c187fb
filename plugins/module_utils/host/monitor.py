# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check the variables of the role xen_monitor and write node_exporter's configuration. Pure: values in, texts out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from .variables import flag_refusal, text_refusal

# node_exporter runs as its own user, who can't open a lower port.
MIN_PORT, MAX_PORT = 1024, 65535
MIN_INTERVAL, MAX_INTERVAL = 15, 3600
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]*):([0-9]{1,5})")
_FILES = ("xen_monitor_certificate", "xen_monitor_key", "xen_monitor_client_ca")


def listen_refusal(value: Any) -> str:
    """Return why the exporter can't listen at ``value`` (ADDRESS:PORT); "" if it can."""
    name = "xen_monitor_listen"
    wanted = f"must be ADDRESS:PORT, as in 192.0.2.1:9100, [2001:db8::1]:9100 or :9100, with a port {MIN_PORT}..{MAX_PORT}"
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if not match or not MIN_PORT <= int(match[2]) <= MAX_PORT:
        return f"{name}: is {value!r}, {wanted}"
    try:
        if match[1]:
            ipaddress.ip_address(match[1].strip("[]"))
    except ValueError:
        return f"{name}: is {value!r}, {wanted}"
    return ""


def variable_refusals(variables: dict[str, Any]) -> list[str]:
    """Return one line for each of the role's ``variables`` (by name) that is wrong on any host."""
    listen, interval = variables["xen_monitor_listen"], variables["xen_monitor_interval"]
    if isinstance(listen, list) and listen:
        lines = [listen_refusal(value) for value in listen]
        if len(set(map(str, listen))) != len(listen):
            lines.append(f"xen_monitor_listen: is {listen!r}, must name each address once")
    else:
        lines = [f"xen_monitor_listen: is {listen!r}, must be a list of addresses, as in ['127.0.0.1:9100']"]
    whole = not isinstance(interval, (bool, float)) and re.fullmatch(r"[1-9][0-9]{0,5}", str(interval), re.ASCII) is not None
    if not whole or not MIN_INTERVAL <= int(interval) <= MAX_INTERVAL:
        lines.append(f"xen_monitor_interval: is {interval!r}, must be a whole number {MIN_INTERVAL}..{MAX_INTERVAL} (seconds)")
    for name in _FILES:
        if not isinstance(variables[name], str):
            lines.append(f"{name}: is {variables[name]!r}, must be the path of a PEM file on the controller, or empty")
    lines.append(flag_refusal("xen_monitor_health", variables["xen_monitor_health"]))
    lines.append(text_refusal("xen_monitor_images", variables["xen_monitor_images"]))
    certificate, key, client_ca = (variables[name] for name in _FILES)
    if bool(certificate) != bool(key):
        lines.append("xen_monitor_certificate and xen_monitor_key: TLS needs both, or none of them")
    elif client_ca and not certificate:
        lines.append("xen_monitor_client_ca: clients show certificates over TLS only: set xen_monitor_certificate and _key")
    return [line for line in lines if line]


def exporter_arguments(listen: Iterable[str], folder: str, tls: bool) -> list[str]:
    """Return node_exporter's arguments for a systemd unit."""
    words = [f"--web.listen-address={address}" for address in listen] + [f"--collector.textfile.directory={folder}"]
    # %d is the folder where systemd puts the unit's credentials.
    return words + (["--web.config.file=%d/web.yml"] if tls else [])


TLS_FOLDER = "/etc/unikernels-monitor"


def web_config(client_ca: bool) -> str:
    """Return node_exporter's TLS configuration; its files are in the same folder."""
    lines = ["tls_server_config:", "  cert_file: tls.crt", "  key_file: tls.key", "  min_version: TLS12"]
    if client_ca:
        lines += ["  client_auth_type: RequireAndVerifyClientCert", "  client_ca_file: ca.crt"]
    return "\n".join([*lines, ""])


def tls_files(certificate: str, key: str, client_ca: str) -> dict[str, list[Any]]:
    """Return options of the module host_files: TLS files with these texts (PEM, "" for none), and those to remove."""
    texts = {"web.yml": web_config(bool(client_ca)) if certificate else "", "tls.crt": certificate, "tls.key": key}
    texts["ca.crt"] = client_ca
    paths = {f"{TLS_FOLDER}/{name}": text for name, text in texts.items()}
    return {
        "folders": [{"path": TLS_FOLDER, "mode": "0700"}] if certificate else [],
        "files": [{"path": path, "content": text, "mode": "0600"} for path, text in paths.items() if text],
        "absent": [path for path, text in paths.items() if not text],
    }
