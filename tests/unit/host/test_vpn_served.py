"""A host knows which CA it serves, and refuses a controller with another one before a key is created."""

import os
import stat

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import vpn_served
from ansible_collections.unikernels.xen.plugins.module_utils.host.vpn_served import ServedError, days_left, keep

CA, OTHER = "ab" * 32, "cd" * 32


def endpoint(**changes):
    ends = {"server": "2026-12-07T00:00:00Z", "ca": "2036-11-27T00:00:00Z", "alice": "2026-11-30T00:00:00Z"}
    return {"name": "vpn", "folder": "/home/b/vpn", "ca": CA, "health": "KEY\n", "ends": ends, "new_ca": False, **changes}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "served")


def kept(path, *endpoints, write=True, disks="/nonexistent"):
    return keep(path, list(endpoints), write, disks)


def test_what_is_kept_is_for_root_alone_and_once(path):
    assert kept(path, endpoint(), write=False) and not os.path.exists(path)
    assert kept(path, endpoint()) and not kept(path, endpoint())
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    for root, folders, files in os.walk(path):
        assert all(stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode) == 0o700 for name in folders)
        assert all(stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode) == 0o600 for name in files)
    assert sorted(os.listdir(os.path.join(path, "vpn"))) == ["ca", "ends.json", "health.pem"]


@pytest.mark.parametrize("write", [False, True])
def test_a_second_controller_is_refused_in_one_line(path, write):
    kept(path, endpoint())
    before = open(os.path.join(path, "vpn", "ca")).read()
    for ca, has in ((OTHER, "has CA cdcdcdcdcdcdcdcd"), ("", "has none")):
        with pytest.raises(ServedError) as refusal:
            kept(path, endpoint(ca=ca), write=write)
        line = str(refusal.value)
        assert line.startswith(
            f"vpn_pki: this host serves CA abababababababab for vpn, and /home/b/vpn on this controller {has}:"
        )
        assert "vpn_new_ca: true" in line and "\n" not in line
    assert open(os.path.join(path, "vpn", "ca")).read() == before
    # Another endpoint doesn't matter; with both, nothing is written.
    with pytest.raises(ServedError):
        kept(path, endpoint(name="second"), endpoint(ca=OTHER), write=write)
    assert os.listdir(path) == ["vpn"]


def test_another_ca_is_taken_where_it_is_meant(path):
    kept(path, endpoint())
    assert not kept(path, endpoint(ca="", new_ca=True))  # its keys are created later
    assert kept(path, endpoint(ca=OTHER, new_ca=True)) and not kept(path, endpoint(ca=OTHER))
    with pytest.raises(ServedError):
        kept(path, endpoint())


def test_an_endpoint_of_before_it_was_kept_is_seen_by_its_disk(path, tmp_path):
    disks = tmp_path / "disks"
    disks.mkdir()
    (disks / "vpn-0123.img").write_bytes(b"dev tun\n<tls-crypt>\nKEY\n</tls-crypt>\n" + b"\0" * 512)
    with pytest.raises(ServedError, match="this host serves a CA for vpn, and /home/b/vpn on this controller has none"):
        kept(path, endpoint(ca=""), disks=str(disks))
    assert kept(path, endpoint(), disks=str(disks))  # once recorded, its CA is the known one
    assert not kept(path, endpoint(name="other", ca=""), disks=str(disks))
    (disks / "web-0123.img").write_text("something else")
    assert not kept(path, endpoint(name="web", ca=""), disks=str(disks))


def test_how_long_certificates_are_good(path):
    kept(path, endpoint(), endpoint(name="second", ends={"server": "2026-11-20T12:00:00Z"}), endpoint(name="none", ends={}))
    os.makedirs(os.path.join(path, "broken"))
    for text in ("{", "[]", '{"server": 5, "ca": "soon"}'):
        open(os.path.join(path, "broken", "ends.json"), "w").write(text)
        lines, days = days_left(path, 1795737600.0)  # 2026-11-27
        assert lines == ["second: server ENDED 7 days ago", "vpn: server 10 days, ca 3653 days, first client alice 3 days"]
        assert days == {"second": {"server": -7}, "vpn": {"server": 10, "ca": 3653, "alice": 3}}
    assert days_left(path + "-absent", 0.0) == ([], {})


def test_a_folder_that_cannot_be_read_is_no_unknown_ca(path):
    os.makedirs(os.path.join(path, "vpn", "ca"))
    with pytest.raises(OSError):
        kept(path, endpoint())
    assert vpn_served.FOLDER == "/var/lib/unikernels/vpn"
