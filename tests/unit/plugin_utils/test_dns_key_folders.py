"""Folders with the keys of zones: only their owner can read them, nothing is overwritten, and each mistake is one line."""

# SPDX-License-Identifier: GPL-3.0-or-later

import os
import stat

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Resolved
from ansible_collections.unikernels.xen.plugins.module_utils.service.dns_signing import ALGORITHMS, ds_records
from ansible_collections.unikernels.xen.plugins.plugin_utils.dns_key_folders import (
    KeyFolderError,
    Wanted,
    bring_up_to_date,
    read,
    with_zone_keys,
)

ZONES = ("a.example", "b.example")


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "keys/dns")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_zone_gets_a_key_once(folder, algorithm):
    would = bring_up_to_date(folder, Wanted(ZONES, algorithm), write=False)
    assert would == [f"would create {folder}/{zone}.1.pem" for zone in ZONES] and not os.path.exists(folder)
    assert bring_up_to_date(folder, Wanted(ZONES, algorithm)) == [line.replace("would create", "created") for line in would]
    keys = read(folder)
    assert bring_up_to_date(folder, Wanted(ZONES, algorithm)) == [] and read(folder) == keys
    assert {stat.S_IMODE(os.stat(f"{folder}/{name}").st_mode) for name in os.listdir(folder)} == {0o600}
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    number = {"ed25519": 15, "ecdsap256sha256": 13}[algorithm]
    assert f" {number} 2 " in ds_records("a.example", keys["a.example"])[0]
    assert "PRIVATE" not in repr(keys)


def test_a_key_is_replaced_in_two_steps_which_may_be_asked_for_twice(folder):
    bring_up_to_date(folder, Wanted(ZONES))
    old = read(folder)
    assert bring_up_to_date(folder, Wanted(ZONES, remove="a.example")) == [], "the only key stays"
    for done in ([f"created {folder}/a.example.2.pem"], []):
        assert bring_up_to_date(folder, Wanted(ZONES, new="a.example")) == done
    both = read(folder)
    assert [key.number for key in both["a.example"]] == [1, 2] and both["a.example"][0] == old["a.example"][0]
    for done in ([f"removed {folder}/a.example.1.pem"], []):
        assert bring_up_to_date(folder, Wanted(ZONES, remove="a.example")) == done
    assert read(folder)["a.example"] == both["a.example"][1:] and read(folder)["b.example"] == old["b.example"]


def test_files_of_others_are_left_alone(folder):
    os.makedirs(folder)
    for name in ("README", "a.example.0.pem", "a.example.pem", "Ka.example.+013+1.key"):
        with open(f"{folder}/{name}", "w") as file:
            file.write("x")
    assert read(folder) == {} and read(f"{folder}/nothing") == {}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: os.chmod(path, 0o640), "others than its owner may use this key (mode 0640): chmod 600"),
        (lambda path: (os.unlink(path), os.mkdir(path)), "Is a directory"),
        (lambda path: (os.unlink(path), os.mkfifo(path, 0o600)), "is not a file"),
        (lambda path: (os.unlink(path), os.symlink("nothing", path)), "No such file or directory"),
        (lambda path: os.truncate(path, 1 << 20), "has more than 65536 bytes"),
    ],
    ids=["mode", "folder", "pipe", "link", "large"],
)
def test_a_file_that_is_no_key_is_one_line_that_names_it(folder, spoil, words):
    bring_up_to_date(folder, Wanted(ZONES))
    spoil(f"{folder}/a.example.1.pem")
    with pytest.raises(KeyFolderError) as refused:
        read(folder)
    assert str(refused.value) == f"{folder}/a.example.1.pem: {words}"
    lines = []
    resolved = with_zone_keys(Resolved({"dns_servers": [{"sign": {"keys": folder}}, "no mapping"]}), lines)
    assert lines == [f"dns_servers[0].sign: keys: {refused.value}"] and resolved.zone_keys == {folder: None}


def test_folders_are_read_once_by_their_real_names(folder, tmp_path, monkeypatch):
    bring_up_to_date(folder, Wanted(ZONES))
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink("keys", tmp_path / "link")
    given = {"dns_sign": {"keys": "~/keys/dns"}, "dns_servers": [{"sign": {"keys": f"{tmp_path}/link/dns"}}]}
    resolved = with_zone_keys(Resolved(given), [])
    assert resolved.zone_keys == {os.path.realpath(folder): read(folder)}
    assert resolved.values["dns_sign"] == resolved.values["dns_servers"][0]["sign"] == {"keys": os.path.realpath(folder)}
    assert given["dns_sign"] == {"keys": "~/keys/dns"}, "what was given is not changed"


@pytest.mark.parametrize("sign", [None, "x", ["x"], {"keys": 1}, {"keys": "\0"}, {}])
def test_what_is_no_mapping_is_reported_elsewhere(sign):
    lines = []
    with_zone_keys(Resolved({"dns_sign": sign, "dns_servers": sign}), lines)
    assert lines == []
