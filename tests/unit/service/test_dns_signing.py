"""Zones that the run signs: a second run writes the same bytes, Debian's delv accepts every answer, serials only rise."""

# SPDX-License-Identifier: GPL-3.0-or-later

import re
import socket
import subprocess
import threading
import time

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns as service
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns_signing
from ansible_collections.unikernels.xen.plugins.module_utils.service.dns_signing import ZoneKey, ds_records, period, signed
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import ZoneError, canonical
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

DAY = 86400
BASE = "$TTL 1h\n@ IN SOA ns hostmaster 2026112701 1h 10m 7d 5m\n@ IN NS ns\nns A 192.0.2.53\n"
TEXT = (
    BASE + "WWW A 192.0.2.10\n*.wild TXT hi\nx.y.z AAAA 2001:db8::1\nmail MX 0 ns\nalias CNAME www\nx TYPE123 \\# 1 00\n"
    f"sub NS ns.sub\nsub DS 1 13 2 {'ab' * 32}\nns.sub A 192.0.2.1\nopen NS open\nopen A 192.0.2.2\n"
)
ZONE = canonical("example.org", TEXT)
PLAIN, LOCKED = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"x")


def pem(key, hidden=PLAIN):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden).decode()


def ed(number=1):
    return ZoneKey(number, pem(ed25519.Ed25519PrivateKey.generate()))


FIRST, SECOND = ed(1), ed(2)
CURVE = ZoneKey(1, pem(ec.generate_private_key(ec.SECP256R1())))


def serial(text):
    return int(re.search(r" IN SOA \S+ \S+ (\d+) ", text)[1])


@pytest.mark.parametrize("key", [FIRST, CURVE], ids=["ed25519", "ecdsa"])
def test_all_runs_of_a_period_write_the_same_bytes(key):
    start, _end = period(28, time.time())
    start += DAY
    texts = set()
    for moment in (start, start + 7 * DAY, start + 14 * DAY - 1):
        dns_signing._signed.cache_clear()
        texts.add(signed("example.org", ZONE, (key,), 28, moment))
    assert len(texts) == 1
    following = signed("example.org", ZONE, (key,), 28, start + 14 * DAY)
    assert following not in texts and serial(following) == serial(texts.pop()) + 14


@given(st.integers(4, 365), st.integers(1767225600, 4000000000))
def test_signatures_are_renewed_when_half_of_their_time_is_left(days, now):
    begins, ends = period(days, now)
    assert begins <= now - DAY, "clocks may differ by a day"
    assert days * DAY / 2 < ends - now <= days * DAY


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(1767225600, 4000000000), st.integers(0, 400 * DAY))
def test_a_serial_rises_with_the_text_the_time_and_the_keys(written, by, now, later):
    def served(number, moment, *keys):
        text = ZONE.replace(" 2026112701 ", f" {number % 2**32} ", 1)
        return serial(dns_signing._with_serial(text, keys, period(28, moment)[0]))

    before = served(written, now, FIRST)
    assert (served(written + by % 2**30, now + later, FIRST) - before) % 2**32 < 2**31
    rolled = [served(written, now, *keys) for keys in ((FIRST,), (FIRST, SECOND), (SECOND,), (SECOND, ed(3)), (ed(3),))]
    assert all(0 < (new - old) % 2**32 < 10 for old, new in zip(rolled, rolled[1:]))


def test_while_a_key_is_replaced_both_sign_and_the_parent_may_take_both():
    text = signed("example.org", ZONE, (FIRST, SECOND), 28, time.time())
    zone = dns.zone.from_text(text, relativize=False)
    for name in ("example.org.", "www.example.org."):
        assert len({signature.key_tag for signature in zone.get_rdataset(name, "RRSIG", "NSEC")}) == 2
    for kind in ("DNSKEY", "CDS", "CDNSKEY"):
        assert len(zone.get_rdataset("example.org.", kind)) == 2
    offered = {data.to_text() for data in zone.get_rdataset("example.org.", "CDS")}
    assert {record.split(" IN DS ")[1] for record in ds_records("example.org", (FIRST, SECOND))} == offered


def test_the_proof_at_a_delegation_names_nothing_of_the_other_zone():
    zone = dns.zone.from_text(signed("example.org", ZONE, (FIRST,), 28, time.time()), relativize=False)
    assert zone.get_rdataset("open.example.org.", "A"), "glue is served"
    assert not zone.get_rdataset("open.example.org.", "RRSIG", "A"), "and is not signed"
    (proof,) = zone.get_rdataset("open.example.org.", "NSEC")
    assert proof.to_text().split()[1:] == ["NS", "RRSIG", "NSEC"]


class Server(threading.Thread):
    """A name server for one signed zone on loopback, enough for a validating client."""

    def __init__(self, text):
        super().__init__(daemon=True)
        self.zone = dns.zone.from_text(text, relativize=False)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self):
        while True:
            data, client = self.socket.recvfrom(4096)
            if not data:  # shut down
                return
            self.socket.sendto(self.answer(dns.message.from_wire(data)).to_wire(max_size=65000), client)

    def stop(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self.join(10)
        self.socket.close()

    def put(self, section, owner, name, kind):
        """An RRset of ``name`` and its signatures, as ``owner``; False if there is none."""
        records = self.zone.get_rdataset(name, kind)
        signatures = self.zone.get_rdataset(name, "RRSIG", kind)
        for found in (records, signatures) if records else ():
            section.append(dns.rrset.from_rdata_list(owner, found.ttl, list(found)))
        return records is not None

    def covering(self, name):
        return max((each for each in self.zone.nodes if self.zone.get_rdataset(each, "NSEC") and each <= name), default=None)

    def answer(self, query):
        question = query.question[0]
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        name, kind = question.name, dns.rdatatype.to_text(question.rdtype)
        source = name if name in self.zone.nodes else dns.name.Name([b"*", *name.labels[1:]])
        if self.put(reply.answer, name, source, kind):
            if source != name:
                self.put(reply.authority, self.covering(name), self.covering(name), "NSEC")
            return reply
        self.put(reply.authority, self.zone.origin, self.zone.origin, "SOA")
        for proof in {self.covering(name), self.zone.origin}:
            self.put(reply.authority, proof, proof, "NSEC")
        if not any(each.is_subdomain(name) for each in self.zone.nodes):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply


@pytest.fixture
def delv(tmp_path):
    servers = []

    def ask(text, key, *question):
        server = Server(text)
        servers.append(server)
        server.start()
        (record,) = [data for data in server.zone.get_rdataset("example.org.", "DNSKEY")
                     if ds_of(data) in ds_records("example.org", (key,))]  # fmt: skip
        words = record.to_text().split(None, 3)
        public = words[3].replace(" ", "")
        (tmp_path / "anchor").write_text(f'trust-anchors {{ example.org. static-key {" ".join(words[:3])} "{public}"; }};\n')
        command = ["delv", "-a", "anchor", "+root=example.org", "@127.0.0.1", "-p", str(server.port), *question]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    yield ask
    for server in servers:
        server.stop()


def ds_of(data):
    return f"example.org. IN DS {dns.dnssec.make_ds(dns.name.from_text('example.org.'), data, 'SHA256')}"


@pytest.mark.parametrize("key", [FIRST, CURVE], ids=["ed25519", "ecdsa"])
@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("www.example.org A", "; fully validated\nwww.example.org."),
        ("x.y.z.example.org AAAA", "; fully validated\nx.y.z."),
        ("a.wild.example.org TXT", "; fully validated\na.wild."),
        ("example.org CDS", "; fully validated\nexample.org."),
        ("sub.example.org DS", "; fully validated\nsub."),
        ("x.example.org TYPE123", "; fully validated\nx."),
        ("www.example.org AAAA", "; negative response, fully validated"),
        ("open.example.org DS", "; negative response, fully validated"),
        ("z.example.org A", "; negative response, fully validated"),
        ("nothing.example.org A", "; negative response, fully validated"),
    ],
)
def test_debians_delv_accepts_each_answer(delv, key, question, words):
    said = delv(signed("example.org", ZONE, (key,), 28, time.time()), key, *question.split())
    assert words in said, said


def test_debians_delv_accepts_answers_by_either_key_and_refuses_a_forged_one(delv):
    text = signed("example.org", ZONE, (FIRST, SECOND), 28, time.time())
    for key in (FIRST, SECOND):
        assert "; fully validated\nwww" in delv(text, key, "www.example.org", "A")
    forged = text.replace("A 192.0.2.10", "A 192.0.2.66")
    assert "fully validated" not in delv(forged, FIRST, "www.example.org", "A")


# -- what is refused ---------------------------------------------------------------------------------


def declared(sign, zones=None, keys=None):
    values = {"dns_interfaces": [{"bridge": "b", "address": "192.0.2.53/24"}], "dns_sign": sign,
              "dns_zones": {"example.org": TEXT} if zones is None else zones}  # fmt: skip
    return service.declare(values, "", {"/keys": {"example.org": (FIRST,)} if keys is None else keys}, time.time())


def test_what_a_disk_holds_is_signed_and_another_zone_is_not():
    made = declared({"keys": "/keys", "zones": ["Example.ORG."]}, {"example.org": TEXT, "lab.example": BASE})
    assert made.problems == ()
    first, second = re.split(r"^(?=\$ORIGIN)", made.unikernel["disks"][0]["content"], flags=re.MULTILINE)[1:]
    assert "TYPE46" in first and "TYPE46" not in second
    assert "PRIVATE" not in str(made)
    assert made.unikernel["health"] == {"dns": "example.org@192.0.2.53", "type": "SOA", "signed": True}
    plain = declared({"keys": "/keys", "zones": ["example.org"]}, {"lab.example": BASE, "example.org": TEXT})
    assert plain.unikernel["health"] == {"dns": "lab.example@192.0.2.53", "type": "SOA"}


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ("/keys", "dns_sign: must be a mapping of keys, zones and days"),
        ({"zones": ["example.org"]}, "dns_sign: keys: is required"),
        ({"keys": " "}, "dns_sign: keys: is empty, must be a folder, as in {keys: /srv/keys/dns}"),
        ({"keys": None}, "dns_sign: keys: is required"),
        ({"keys": ["/keys"]}, "dns_sign: keys: must be text, not a list"),
        ({"keys": "/keys", "key": 1}, "dns_sign: unknown key 'key'; known are keys, zones, days"),
        ({"keys": "/keys", "days": 3}, "dns_sign: days: is 3, must be a number of days, 4..365"),
        ({"keys": "/keys", "days": "soon"}, "dns_sign: days: is 'soon', must be a number of days"),
        ({"keys": "/keys", "zones": ["example.net"]}, "dns_sign: zones: example.net is not in dns_zones"),
        ({"keys": "/keys", "zones": {"example.org": 1}}, "dns_sign: zones: must be a list of names of zones"),
        ({"keys": "/keys", "zones": []}, "dns_sign: there is no zone to sign"),
        ({"keys": "/empty"}, "dns_sign: zone example.org has no key: /empty/example.org.1.pem is missing; restore it"),
    ],
)
def test_a_mistake_in_the_variable_is_one_line(sign, words):
    (line,) = declared(sign).problems
    assert line.startswith(words) and "\n" not in line


def test_names_that_are_no_zones_name_no_file():
    problems = declared({"keys": "/keys"}, {"../../etc/x": BASE, "example.org": TEXT}).problems
    assert [line for line in problems if "dns_sign" in line] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no key", "example.org.1.pem is not a private key (PEM)"),
        (pem(rsa.generate_private_key(65537, 2048)), "example.org.1.pem is of another kind: use Ed25519 or ECDSA P-256"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "example.org.1.pem is of another kind"),
        (pem(ed448.Ed448PrivateKey.generate()), "example.org.1.pem is of another kind"),
        (pem(ed25519.Ed25519PrivateKey.generate(), LOCKED), "example.org.1.pem has a passphrase"),
    ],
)
def test_a_key_that_can_not_sign_is_one_line(text, words):
    (line,) = declared({"keys": "/keys"}, keys={"example.org": (ZoneKey(1, text),)}).problems
    assert line.startswith(f"dns_sign: zone example.org: {words}") and "BEGIN" not in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("*.a NS ns\n", r"\*\.a\.example\.org\. has NS records, and a wildcard can't be delegated"),
        ("a DNAME b.example.\nx.y.a A 192.0.2.1\n", r"x\.y\.a\.example\.org\. is below the DNAME of a\.example\.org\."),
        ("@ DNAME b.example.\n", r"ns\.example\.org\. is below the DNAME of example\.org\."),
    ],
)
def test_what_has_no_valid_proof_is_one_line(text, words):
    with pytest.raises(ZoneError, match=words):
        signed("example.org", canonical("example.org", BASE + text), (FIRST,), 28, time.time())


def test_three_keys_are_a_mistake():
    with pytest.raises(ZoneError, match=r"it has 3 keys \(example.org.1.pem, .*remove the oldest"):
        signed("example.org", ZONE, (FIRST, SECOND, ed(3)), 28, time.time())


def test_a_zone_that_is_signed_already_is_not_signed_twice():
    once = signed("example.org", ZONE, (FIRST,), 28, time.time())
    with pytest.raises(ZoneError, match=r"it has (DNSKEY|RRSIG|NSEC|CDS|CDNSKEY) records, which the run writes: remove them"):
        signed("example.org", once, (FIRST,), 28, time.time())


def test_without_the_libraries_it_is_one_line(monkeypatch):
    monkeypatch.delattr("dns.dnssec.sign_zone")
    dns_signing._signed.cache_clear()
    (line,) = declared({"keys": "/keys"}).problems
    assert line.startswith("dns_sign: signing zones needs the Python libraries dnspython 2.4 or later and cryptography")


def test_ecdsa_that_is_never_twice_the_same_is_refused(monkeypatch):
    def without(private):
        return False

    monkeypatch.setattr(dns_signing, "_repeatable", without)
    dns_signing._signed.cache_clear()
    with pytest.raises(ZoneError, match="ECDSA key, which these versions of dnspython and cryptography sign differently"):
        signed("example.org", ZONE, (CURVE,), 28, time.time())
