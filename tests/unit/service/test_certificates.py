"""A service's certificates and keys: accepted, or refused in one line that names the variable and shows nothing of a key."""

import datetime

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service import web
from ansible_collections.unikernels.xen.plugins.module_utils.service.certificates import Chain, problem_of
from ansible_collections.unikernels.xen.plugins.plugin_utils.web_certificates import late_certificates
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime(2026, 11, 27, 12, 0)
DAY = datetime.timedelta(days=1)
INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]


def key_of(password=None):
    private = ec.generate_private_key(ec.SECP256R1())
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return private, private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden).decode()


def certificate_of(private, subject="www.example", issuer=None, names=("www.example",), begins=NOW - DAY, ends=NOW + DAY):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    built = (
        x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer or subject)).serial_number(1)
        .public_key(private.public_key()).not_valid_before(begins).not_valid_after(ends)
    )  # fmt: skip
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
    return built.sign(OTHER if issuer else private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


PRIVATE, KEY = key_of()
OTHER, OTHER_KEY = key_of()
GOOD = certificate_of(PRIVATE)
SIGNER = certificate_of(OTHER, subject="ca")


def test_a_chain_is_what_the_disk_holds():
    text = certificate_of(PRIVATE, issuer="ca") + "some words between\n" + SIGNER
    chain = problem_of(text, "# my key\n" + KEY, NOW)
    assert isinstance(chain, Chain) and chain.name == "www.example" and chain.ends == NOW + DAY
    assert chain.text.count("BEGIN CERTIFICATE") == 2 and chain.text.rstrip().endswith("-----END PRIVATE KEY-----")
    assert "words" not in chain.text and "# my key" not in chain.text


def test_a_wildcard_is_asked_for_by_a_name_that_it_is_for():
    chain = problem_of(certificate_of(PRIVATE, names=["*.example"]), KEY, NOW)
    assert isinstance(chain, Chain) and chain.name == "www.example"


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (GOOD, OTHER_KEY, "certificate and key don't belong together"),
        (SIGNER + GOOD, KEY, "certificate and key don't belong together"),
        (GOOD + SIGNER, KEY, "is not a chain"),
        (certificate_of(PRIVATE, issuer="ca") + certificate_of(PRIVATE, subject="ca"), KEY, "another key than the next one has"),
        (certificate_of(PRIVATE, ends=NOW), KEY, "has expired, on 2026-11-27 12:00 UTC"),
        (certificate_of(PRIVATE, issuer="ca") + certificate_of(OTHER, subject="ca", ends=NOW - DAY / 2), KEY, "has expired"),
        (certificate_of(PRIVATE, begins=NOW + DAY / 2), KEY, "is valid from 2026-11-28 00:00 UTC on"),
        (certificate_of(PRIVATE, names=[]), KEY, "has no subjectAltName"),
        ("/etc/ssl/www.pem", KEY, "give the text of the file, not its path"),
        (KEY, KEY, "has no -----BEGIN CERTIFICATE-----"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", KEY, "certificate can't be read"),
        (GOOD, GOOD, "key has 0 private keys"),
        (GOOD, KEY + OTHER_KEY, "key has 2 private keys"),
        (GOOD, key_of(b"secret")[1], "key has a passphrase"),
        (GOOD, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "key can't be read"),
        (None, KEY, "certificate must be text in PEM"),
        (GOOD, 5, "key must be text in PEM"),
    ],
)
def test_what_can_not_be_served_is_one_line(certificate, key, words):
    problem = problem_of(certificate, key, NOW)
    assert isinstance(problem, str) and words in problem, problem
    assert "\n" not in problem and not any(line in problem for line in KEY.splitlines()[1:-1])


def declared(**tls):
    return web.declare({"web_interfaces": INTERFACES, "web_content": "/srv/www", "web_tls": tls}, "/src")


@pytest.fixture
def pair():
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    return {"certificate": certificate_of(PRIVATE, begins=now - DAY, ends=now + DAY), "key": KEY}


def test_https_beside_http(pair):
    service = declared(certificates=[pair, pair], hsts=300)
    assert service.problems == ()
    assert service.unikernel["arguments"] == {"port": 80, "https-port": 443, "https-redirect": "true", "hsts": 300}
    assert service.unikernel["health"] == {"http": "https://10.0.0.10:443/", "insecure": True, "host": "www.example"}
    assert service.unikernel["disks"][0]["content"].count("PRIVATE KEY-----") == 4
    plain = declared(certificates=[pair], redirect="no", port="8443").unikernel["arguments"]
    assert plain == {"port": 80, "https-port": 8443}


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        ({"hsts": 1}, "web_tls: certificates must be a list, as in [{certificate: PEM text of the chain, key: PEM text}]"),
        ({"certificates": {}}, "web_tls: certificates must be a list"),
        ({"certificates": ["x"]}, "web_tls: certificates[0] must have certificate and key and nothing else"),
        (
            {"certificates": [{"certificate": GOOD, "key": OTHER_KEY}]},
            "web_tls: certificates[0]: certificate and key don't belong",
        ),
        ({"certificate": GOOD}, "web_tls: has no option certificate; its options are certificates, hsts, names, port, redirect"),
        ({"port": 80}, "web_tls: port is 80, and so is web_port"),
        ({"port": 0}, "web_tls: port: is 0, must be a TCP port"),
        ({"port": 8443}, "web_tls: redirect: sends browsers to port 443, and port is 8443; set redirect: false"),
        ({"redirect": "perhaps"}, "web_tls: redirect: is 'perhaps', must be true or false"),
        ({"hsts": -1}, "web_tls: hsts: is -1"),
    ],
)
def test_a_mistake_names_the_option(tls, problem):
    found = declared(**tls).problems
    assert any(each.startswith(problem) for each in found), found


def test_a_name_that_no_certificate_is_for():
    text = certificate_of(PRIVATE, names=["www.example.org", "*.example.net"], begins=NOW - 999 * DAY, ends=NOW + 9999 * DAY)
    tls = {"certificates": [{"certificate": text, "key": KEY}], "names": ["www.example.org", "A.example.net."]}
    assert declared(**tls).problems == ()
    for name in ("example.org", "a.b.example.net", "example.net"):
        (line,) = declared(**{**tls, "names": name}).problems
        assert line == f"web_tls: names: no certificate is for {name!r}; they are for www.example.org, *.example.net"


def late(begins, ends, **values):
    pair = {"certificate": certificate_of(PRIVATE, begins=begins, ends=ends), "key": KEY}
    return late_certificates({"web_interfaces": INTERFACES, "web_tls": {"certificates": [pair]}, **values}, NOW)


@pytest.mark.parametrize(
    ("before", "left", "is_late"),
    [(360, 22, False), (360, 20.5, True), (80, 20, False), (76, 14, True), (5, 1.1, False), (5.5, 0.5, True), (1, -1, False)],
)
def test_a_run_warns_while_there_is_time_to_renew(before, left, is_late):
    lines = late(NOW - before * DAY, NOW + left * DAY)
    assert len(lines) == is_late
    assert all(
        line.startswith(f"web_tls: certificates[0] (www.example) expires in {int(left)} days, on 2026-1") for line in lines
    )


def test_a_warning_names_the_item_and_each_certificate_once():
    item = {"name": "b", "interfaces": INTERFACES}
    assert len(late(NOW - 90 * DAY, NOW + DAY, web_sites=[item])) == 1
    own = {**item, "tls": {"certificates": [{"certificate": certificate_of(PRIVATE, begins=NOW - 90 * DAY), "key": KEY}]}}
    assert late_certificates({"web_sites": [own]}, NOW) == [
        "web_sites[0].tls: certificates[0] (www.example) expires in 1 day, on 2026-11-28 12:00 UTC: renew it"
    ]


@pytest.mark.parametrize("tls", [None, "x", [], {}, {"certificates": 1}, {"certificates": ["x", {}, {"certificate": "x"}]}])
def test_what_is_no_certificate_is_not_late(tls):
    assert late_certificates({"web_interfaces": INTERFACES, "web_tls": tls}, NOW) == []
