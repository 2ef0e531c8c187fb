"""A VPN's keys over the years: what is created, renewed and refused, and what a killed run leaves to the next."""

import dataclasses
import datetime
import json
import os
import shutil
import stat
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.plugin_utils import pki as pkis
from ansible_collections.unikernels.xen.plugins.plugin_utils import pki_writer
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki_writer import bring_up_to_date
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.timezone.utc)


def later(days):
    return NOW + datetime.timedelta(days=days)


@pytest.fixture
def keys(tmp_path):
    return Keys(str(tmp_path / "vpn"), "vpn.example.net", 1194, ("alice", "bob"))


def run(keys, days=0.0, write=True, **changes):
    return bring_up_to_date(dataclasses.replace(keys, **changes), later(days), write)[0]


def found(keys, **changes):
    wanted = dataclasses.replace(keys, **changes)
    return pkis.read(wanted.folder, wanted.clients)


def material(keys, days=0.0, **changes):
    return pkis.material_of(found(keys, **changes), dataclasses.replace(keys, **changes), later(days))


def files(folder):
    paths = [os.path.join(root, name) for root, _folders, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): open(path, "rb").read() for path in paths}


def verified(ca_text, keys, name, at):
    """Return openssl's verdict on a certificate, with the CA of a profile."""
    with open(os.path.join(keys.folder, "test-ca.pem"), "w") as file:
        file.write(ca_text)
    command = ["openssl", "verify", "-attime", str(int(at.timestamp())), "-CAfile", file.name]
    done = subprocess.run(
        [*command, os.path.join(keys.folder, pkis.certificate_file(name))], capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip().endswith("OK") or done.stderr


def test_a_new_folder_is_for_its_owner_alone_and_the_second_run_changes_nothing(keys):
    lines = run(keys)
    assert lines[1].startswith("created a CA") and lines[-1] == f"wrote {keys.folder}/bob.ovpn, hand it to bob"
    before = files(keys.folder)
    assert set(before) == {
        ".lock", "tls-crypt.key", "alice.ovpn", "bob.ovpn", "pki/ca.crt", "pki/private/ca.key", "pki/issued/server.crt",
        "pki/private/server.key", "pki/issued/alice.crt", "pki/private/alice.key", "pki/issued/bob.crt", "pki/private/bob.key",
    }  # fmt: skip
    for root, folders, names in os.walk(keys.folder):
        assert all(stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode) == 0o700 for name in folders)
        assert all(stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode) == 0o600 for name in names)
    assert run(keys) == [] and files(keys.folder) == before
    assert verified(before["pki/ca.crt"].decode(), keys, "server", NOW) is True
    key = before["pki/private/alice.key"].decode().strip()
    assert key in before["alice.ovpn"].decode() and "remote vpn.example.net 1194\n" in before["alice.ovpn"].decode()


def test_a_check_writes_nothing_and_names_what_a_run_does(keys):
    lines = run(keys, write=False)
    assert lines[:3] == ["would tls-crypt", "would ca", "would issue server"] and not os.path.exists(keys.folder)
    assert len(run(keys)) == len(lines)
    before = files(keys.folder)
    assert run(keys, write=False) == [] and run(keys, 1800, write=False)[0] == "would renew-ca"
    assert files(keys.folder) == before


def test_a_client_that_left_is_not_good_and_comes_back_with_a_new_key_only(keys):
    run(keys)
    old = found(keys)
    assert len(material(keys).clients["bob"]) == 1
    assert run(keys, clients=("alice",)) == ["bob is refused from now on: it is no longer in vpn_clients"]
    assert "bob.ovpn" not in files(keys.folder) and run(keys, clients=("alice",)) == []
    assert set(material(keys, clients=("alice",)).clients) == {"alice"}
    # Until the run has created the new key, no certificate of his is valid.
    assert material(keys).clients["bob"] == () and material(keys).pending == ("issue bob",)
    assert run(keys)[0] == "created the key of bob"
    new = found(keys)
    assert pkis.public_bytes(new.certificates["bob"]) != pkis.public_bytes(old.certificates["bob"])
    assert material(keys).clients["bob"] == (pkis.fingerprint(new.certificates["bob"]),)
    assert pkis.fingerprint(old.certificates["bob"]) not in str(material(keys).clients)


def test_a_renewal_keeps_the_key_and_the_old_certificate_stays_good_beside_the_new_one(keys):
    run(keys, days=100, ca_days=3650)  # independent of the run's own days
    keys = dataclasses.replace(keys, ca_days=36500)
    shutil.rmtree(keys.folder)
    run(keys)
    first, profile = found(keys), files(keys.folder)["alice.ovpn"]
    assert run(keys, 1825 - 91) == []
    lines = run(keys, 1825 - 89)
    assert [line.split(" until")[0] for line in lines[:3]] == [
        "renewed the certificate of the server", "renewed the certificate of alice", "renewed the certificate of bob"
    ]  # fmt: skip
    assert lines[3].endswith("hand it to alice; the one before is good until 2031-11-26")
    second = found(keys)
    assert pkis.public_bytes(second.certificates["alice"]) == pkis.public_bytes(first.certificates["alice"])
    both = (pkis.fingerprint(second.certificates["alice"]), pkis.fingerprint(first.certificates["alice"]))
    assert material(keys).clients["alice"] == both and files(keys.folder)["alice.ovpn"] != profile
    assert run(keys, 1825 - 89) == []
    run(keys, 2 * 1825 - 150)
    assert material(keys).clients["alice"][1] == both[0] and both[1] not in material(keys).clients["alice"]


def test_a_renewed_ca_is_the_same_ca_and_the_old_certificate_stays_good(keys):
    run(keys)
    old = found(keys)
    old_ca, days = files(keys.folder)["pki/ca.crt"].decode(), 1830
    lines = run(keys, days)
    assert lines[0] == f"renewed the CA's certificate until {later(days + 3650):%Y-%m-%d}"
    new = found(keys)
    assert pkis.ca_id(new.ca) == pkis.ca_id(old.ca) and new.ca.fingerprint != old.ca
    for ca in (old_ca, files(keys.folder)["pki/ca.crt"].decode()):
        assert verified(ca, keys, "server", later(days + 10)) is True
    assert "expired" in verified(old_ca, keys, "server", later(3700))
    assert verified(files(keys.folder)["pki/ca.crt"].decode(), keys, "server", later(3600)) is True


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 400), st.integers(2, 2000), st.integers(0, 400), st.lists(st.integers(1, 900), min_size=1, max_size=3))
def test_with_any_lives_nothing_is_renewed_twice_in_a_row_and_all_is_good(tmp_path_factory, renew, more, longer, steps):
    days = renew + more
    folder = tmp_path_factory.mktemp("pki")
    keys = Keys(str(folder), "a", 1, ("alice",), days=days, ca_days=days + renew + longer, renew_days=renew)
    at = 0.0
    for step in [0, *steps]:
        at += step
        run(keys, at)
        assert run(keys, at) == []
        now = found(keys)
        assert all(pkis.ends(item) > later(at) for item in (now.ca, *now.certificates.values()))
        assert all(pkis.ends(item) <= pkis.ends(now.ca) for item in now.certificates.values())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("days", [0, 1830])
def test_killed_at_any_write_the_next_run_completes_it(keys, monkeypatch, days):
    if days:
        run(keys)
    else:
        os.makedirs(keys.folder)
    shutil.copytree(keys.folder, f"{keys.folder}-before")
    write, count = pki_writer.write_whole, {"left": 0}

    def dying(path, data, mode):
        if count["left"] == 0:
            raise Killed
        count["left"] -= 1
        write(path, data, mode)

    for at in range(40):
        shutil.rmtree(keys.folder)
        shutil.copytree(f"{keys.folder}-before", keys.folder)
        count["left"] = at
        with monkeypatch.context() as patched:
            patched.setattr(pki_writer, "write_whole", dying)
            try:
                run(keys, days)
                break
            except Killed:
                pass
        run(keys, days)
        assert run(keys, days) == [] and pkis.problems(found(keys), keys) == []
        assert material(keys, days).pending == () and all(material(keys, days).clients.values())
    else:
        pytest.fail("a run writes more than 40 files")
    assert at > 8


def replaced(keys, path, text):
    with open(os.path.join(keys.folder, path), "w") as file:
        file.write(text)


def broken_by(keys, case):
    """Return the problems of folders as people leave them."""
    elsewhere = dataclasses.replace(keys, folder=f"{keys.folder}-other")
    run(keys)
    run(elsewhere)
    theirs = {name: data.decode() for name, data in files(elsewhere.folder).items()}
    if case.startswith("without "):
        os.unlink(os.path.join(keys.folder, case.removeprefix("without ")))
    elif case.startswith("another "):
        path = case.removeprefix("another ")
        replaced(keys, path, theirs[path])
    elif case == "no PEM":
        replaced(keys, "pki/ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif case == "bytes":
        open(os.path.join(keys.folder, "tls-crypt.key"), "wb").write(b"\xff\xfe")
    elif case == "a folder":
        os.unlink(os.path.join(keys.folder, "pki/ca.crt"))
        os.mkdir(os.path.join(keys.folder, "pki/ca.crt"))
    elif case == "passphrase":
        key = serialization.load_pem_private_key(files(keys.folder)["pki/private/server.key"], None)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
        replaced(keys, "pki/private/server.key", text.decode())


CASES = [
    ("without pki/ca.crt", "pki/ca.crt: is missing; restore it"),
    ("without tls-crypt.key", "tls-crypt.key: is missing, and each profile has it"),
    ("without pki/private/server.key", "pki/private/server.key: is missing"),
    ("without pki/private/alice.key", "pki/private/alice.key: is missing"),
    ("another pki/ca.crt", "pki/ca.crt: did not sign pki/issued/server.crt and 2 more: was a file of the CA replaced by hand?"),
    ("another pki/issued/server.crt", "pki/issued/server.crt: is not signed by pki/ca.crt"),
    ("another pki/private/server.key", "pki/private/server.key: does not belong to pki/issued/server.crt"),
    ("another pki/private/bob.key", "pki/private/bob.key: does not belong to pki/issued/bob.crt"),
    ("no PEM", "pki/ca.crt: is not a certificate (PEM)"),
    ("bytes", "tls-crypt.key: is not text"),
    ("a folder", "pki/ca.crt: Is a directory"),
    ("passphrase", "pki/private/server.key: has a passphrase"),
]


@pytest.mark.parametrize(("case", "words"), CASES)
def test_a_folder_that_does_not_fit_together_is_refused_and_left_as_it_is(keys, case, words):
    broken_by(keys, case)
    before = files(keys.folder)
    for write in (False, True):
        with pytest.raises(pkis.PkiError) as refusal:
            run(keys, write=write)
        assert words in str(refusal.value) and keys.folder in str(refusal.value)
        assert "\n" not in str(refusal.value) and "BEGIN" not in str(refusal.value)
    assert files(keys.folder) == before


@pytest.mark.parametrize("case", ["without pki/ca.crt", "without tls-crypt.key", "another pki/ca.crt"])
def test_another_ca_is_taken_where_it_is_meant(keys, case):
    broken_by(keys, case)
    if case == "another pki/ca.crt":
        shutil.copy(f"{keys.folder}-other/pki/private/ca.key", f"{keys.folder}/pki/private/ca.key")
    run(keys, new_ca=True)
    assert run(keys, new_ca=True) == run(keys) == []
    assert verified(files(keys.folder)["pki/ca.crt"].decode(), keys, "alice", NOW) is True
    assert files(keys.folder)["tls-crypt.key"].decode().strip() in files(keys.folder)["alice.ovpn"].decode()


def test_the_key_of_the_ca_may_be_kept_elsewhere_while_nothing_is_signed(keys):
    run(keys)
    os.rename(os.path.join(keys.folder, "pki/private/ca.key"), f"{keys.folder}-ca.key")
    assert run(keys, 1000) == []
    for days, words in ((1750, "ends on 2031-11-26"), (1900, "has ended on 2031-11-26")):
        with pytest.raises(pkis.PkiError, match=f"{words}, and pki/private/ca.key is not there to sign it"):
            run(keys, days)
    with pytest.raises(pkis.PkiError, match=r"carol\.crt: is to be issued, and"):
        run(keys, clients=("alice", "bob", "carol"))
    os.rename(f"{keys.folder}-ca.key", os.path.join(keys.folder, "pki/private/ca.key"))
    assert run(keys, 1900)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_folder_of_easy_rsa_is_taken_as_it_is(keys, kind):
    """As easy-rsa 3 makes it: text before the certificate, and an authority that names the CA's own certificate."""
    os.makedirs(os.path.join(keys.folder, "pki/issued"))
    os.makedirs(os.path.join(keys.folder, "pki/private"))

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=keys.folder, check=True, capture_output=True, timeout=120)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    new = curve if kind == "ec" else ("-newkey", "rsa:2048")
    openssl("req", "-x509", *new, "-nodes", "-days", "3650", "-keyout", "pki/private/ca.key", "-out", "pki/ca.crt",
            "-subj", "/CN=Old", "-addext", "keyUsage=keyCertSign,cRLSign")  # fmt: skip
    for name, use in (("server", "serverAuth"), ("alice", "clientAuth")):
        replaced(keys, "extensions", "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid,issuer:always\n"
                 f"extendedKeyUsage={use}\nbasicConstraints=CA:FALSE\n")  # fmt: skip
        openssl("req", *new, "-nodes", "-keyout", f"pki/private/{name}.key", "-out", "request", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", "request", "-CA", "pki/ca.crt", "-CAkey", "pki/private/ca.key", "-CAcreateserial", "-text",
                "-days", "1825", "-extfile", "extensions", "-out", f"pki/issued/{name}.crt")  # fmt: skip
    shutil.copy(f"{keys.folder}/pki/issued/alice.crt", f"{keys.folder}/pki/issued/stranger.crt")
    replaced(keys, "tls-crypt.key", "-----BEGIN OpenVPN Static key V1-----\n...\n-----END OpenVPN Static key V1-----\n")
    now = datetime.datetime.now(datetime.timezone.utc)
    lines, pki = bring_up_to_date(keys, now, True)
    assert [line.split(":")[0] for line in lines[:2]] == ["created the key of bob", "stranger is refused from now on"]
    old = files(keys.folder)["pki/ca.crt"].decode()
    lines, renewed = bring_up_to_date(keys, now + datetime.timedelta(days=1830), True)
    assert lines[0].startswith("renewed the CA's certificate") and pkis.ca_id(renewed.ca) == pkis.ca_id(pki.ca)
    for ca in (old, files(keys.folder)["pki/ca.crt"].decode()):
        for name in ("server", "alice", "bob"):
            assert verified(ca, keys, name, now + datetime.timedelta(days=1900)) is True


def test_when_what_ends(keys):
    run(keys)
    assert json.dumps(pkis.ends_of(found(keys))) == json.dumps(
        {
            "alice": "2031-11-26T12:00:00Z",
            "bob": "2031-11-26T12:00:00Z",
            "ca": "2036-11-24T12:00:00Z",
            "server": "2031-11-26T12:00:00Z",
        }
    )
    run(keys, clients=("alice",))
    assert "bob" not in pkis.ends_of(found(keys))
