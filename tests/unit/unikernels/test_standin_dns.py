"""The DNS stand-in: what a disk names before its zones becomes unbound's configuration."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib
import subprocess

import pytest

SERVICE = pathlib.Path(__file__).parents[3] / "roles/unikernel_images/files/standin/service-dns"
ZONE = "$ORIGIN own.example.\nown.example. 60 IN SOA ns.own.example. h. 1 2 3 4 5\n"


@pytest.fixture
def prepared(tmp_path):
    def run(disk):
        (tmp_path / "xvda").write_text(disk + "\0" * 100)
        script = SERVICE.read_text().replace("/run/", f"{tmp_path}/").replace("/dev/xvda", f"{tmp_path}/xvda")
        script += '\nfinish() { echo "finish $1"; exit 1; }\nwait_for_block() { :; }\n'
        script += "zone_block=true level= ipv4=10.0.0.2/24\nprepare\n"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        configuration = tmp_path / "unbound.conf"
        return done, configuration.read_text() if configuration.exists() else "", tmp_path

    return run


def test_a_zone_of_a_primary_is_transferred_and_never_looked_for_elsewhere(prepared):
    primaries = ["a.example. 192.0.2.1", "b.example. 192.0.2.1", "a.example. 192.0.2.2"]
    done, text, _run = prepared("; secondary 192.0.2.54\n" + "".join(f"; primary {line}\n" for line in primaries) + ZONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "dns: this stand-in transfers no zones: 1 secondaries get none\n"
    first, second, own = text.split("auth-zone:\n")[1:]
    assert first.startswith('  name: "a.example."\n  fallback-enabled: no\n')
    assert [line for line in first.splitlines() if "primary" in line] == ["  primary: 192.0.2.1", "  primary: 192.0.2.2"]
    assert [line for line in second.splitlines() if "primary" in line] == ["  primary: 192.0.2.1"]
    assert own.startswith('  name: "own.example"\n  zonefile: ') and "primary:" not in own


def test_a_primary_alone_is_enough(prepared):
    done, text, _run = prepared("; primary a.example. 192.0.2.1\n")
    assert done.returncode == 0 and text.count("auth-zone:") == 1


def test_a_key_ends_it_for_unbound_would_transfer_without(prepared):
    done, _text, _run = prepared("; primary a.example. 192.0.2.1 xfer. hmac-sha256 c2VjcmV0\n" + ZONE)
    assert done.returncode == 1
    assert done.stdout == "dns: this stand-in has no TSIG: no primary can have a key\nfinish 1\n"


def test_a_certificate_is_for_the_port_of_dns_over_tls_and_its_file_for_nobody_else(prepared):
    done, text, run = prepared("; tls -----BEGIN CERTIFICATE-----\n; tls QQ==\n" + ZONE)
    assert done.returncode == 0, done.stderr
    assert (run / "tls.pem").read_text() == "-----BEGIN CERTIFICATE-----\nQQ==\n"
    assert (run / "tls.pem").stat().st_mode & 0o777 == 0o600
    assert "  interface: 0.0.0.0@853\n" in text and f'tls-service-key: "{run}/tls.pem"' in text
    assert "@853" not in prepared(ZONE)[1]


def test_a_disk_without_any_of_it_is_refused(prepared):
    done, _text, _run = prepared("; a comment\n")
    assert (done.returncode, done.stdout) == (1, "no zone on block device 0: a zone file must begin with $ORIGIN\nfinish 1\n")
