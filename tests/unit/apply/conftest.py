"""Dom0 in a folder: all files that the engine reads or writes, and a double of xl."""

import importlib
import subprocess

import pytest

from .recording_xl import Xen

UTILS = "ansible_collections.unikernels.xen.plugins.module_utils."


def module(name):
    return importlib.import_module(UTILS + name)


@pytest.fixture
def xen(tmp_path, monkeypatch):
    """The double of xl; ``xen.folder`` is Dom0's file system."""
    double = Xen()
    double.folder = tmp_path
    folders = {
        "DEFINITIONS": "unikernels",
        "AUTOSTART": "auto",
        "CONSOLES": "console",
        "XL_LOGS": "logs",
        "DISKS": "disks",
        "FOLDER": "restarts",
    }
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    for name in ("xen.observation", "apply.perform", "xen.watch", "xen.console", "xen.devices", "xen.restarts", "xen.keeper"):
        for constant, folder in folders.items():
            if hasattr(module(name), constant):
                monkeypatch.setattr(module(name), constant, str(tmp_path / folder))
    monkeypatch.setattr(module("xen.former_disks"), "NOTE", str(tmp_path / "former-disks.json"))
    monkeypatch.setattr(module("xen.former_disks"), "GENERATIONS", str(tmp_path / "generations"))
    monkeypatch.setattr(module("apply.preconditions"), "FOLDER", str(tmp_path / "unikernels"))
    monkeypatch.setattr(module("xen.lock"), "PATH", str(tmp_path / "lock"))
    monkeypatch.setattr(module("xen.lock").Lock.__init__, "__defaults__", (60, str(tmp_path / "lock")))
    monkeypatch.setattr(subprocess, "run", double.run)
    for name in ("xen.xl", "xen.disks"):
        monkeypatch.setattr(module(name), "run", double.run)
    for name in ("xen.watch", "xen.devices", "xen.bridge_ports", "xen.start_times"):
        monkeypatch.setattr(module(name), "Xenstore", double.xenstore)
    converge = module("apply.converge")
    monkeypatch.setattr(converge, "available", lambda: True)
    monkeypatch.setattr(converge.os, "geteuid", lambda: 0)
    monkeypatch.setattr(converge, "bridge_networks", dict)
    monkeypatch.setattr(converge, "_BETWEEN", 0.0)
    monkeypatch.setattr(module("apply.runner"), "_BETWEEN", 0.0)
    monkeypatch.setattr(module("xen.devices"), "DEVICE_SECONDS", 0.3)
    monkeypatch.setattr(module("apply.perform"), "DESTROY_SECONDS", 0.3)
    monkeypatch.setattr(module("apply.perform"), "REBOOT_SECONDS", 0.3)
    monkeypatch.setattr(module("xen.watch"), "_LAST_LINES_SECONDS", 0.0)
    monkeypatch.setattr(module("xen.watch"), "IDLE_SECONDS", 0.02)
    # Bridges: the existing one, and the vifs of each domain.
    monkeypatch.setattr(module("apply.preconditions").os.path, "isdir", _bridge_or(module("apply.preconditions").os.path.isdir))
    monkeypatch.setattr(
        module("xen.bridge_ports"),
        "devices",
        lambda domid: [
            f"vif{domid}.{index}"
            for record in double.domains.values()
            if record["domid"] == domid
            for index, _vif in enumerate(record["config"].get("vif", []))
        ],
    )
    return double


def _bridge_or(isdir):
    return lambda path: path == "/sys/class/net/xenbr0/bridge" or isdir(path)


@pytest.fixture
def kernel(tmp_path):
    """A file that Xen would boot as PVH: the smallest test guest."""
    from tests.guests import IDLE, guest

    path = tmp_path / "kernel"
    path.write_bytes(guest(IDLE))
    return str(path)


@pytest.fixture
def converge(xen, kernel):
    """converge(domain, ...): run the module's own function once. Returns its results, with warnings in ``.warnings``."""
    engine = module("apply.converge")

    def call(*domains, check=False, **options):
        warnings = []
        declared = [{"kernel": kernel, "memory": 16, "settle": 0, "shutdown_timeout": 0, **one} for one in domains]
        results = engine.converge(declared, check, warnings.append, **options)
        call.warnings = warnings
        return results if len(results) != 1 else results[0]

    call.Refused = engine.Refused
    return call
