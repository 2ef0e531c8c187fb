"""Log level, syslog and metrics of the services: what becomes a boot argument, and mistakes as one line each."""

import ipaddress
from pathlib import Path

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns, operations, vpn, web
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import servers
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]
SERVICES = {"web": (web, {"content": "/srv/www"}), "dns": (dns, {}), "vpn": (vpn, {"pki": "/k"})}


def declared(service, **variables):
    module, needed = SERVICES[service]
    values = {"interfaces": INTERFACES, **needed, **variables}
    return module.declare({f"{service}_{key}": value for key, value in values.items()}, "/src")


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_declared(service):
    words = {"logs", "syslog", "syslog-port", "name", "metrics-port", "metrics-from"}
    assert not words & set(declared(service).unikernel["arguments"])


@pytest.mark.parametrize("service", SERVICES)
def test_all_is_declared(service):
    found = declared(
        service, name="a", log_level="debug", syslog="192.0.2.9:1514", metrics={"port": 9200, "from": ["192.0.2.0/24", "::/0"]}
    )
    assert found.problems == ()
    arguments = found.unikernel["arguments"]
    assert {"logs": "*:debug", "syslog": "192.0.2.9", "syslog-port": 1514, "name": "a"}.items() <= arguments.items()
    assert (arguments["metrics-port"], arguments["metrics-from"]) == (9200, ["192.0.2.0/24", "::/0"])
    assert declared(service, metrics={"from": "192.0.2.0/24"}).unikernel["arguments"]["metrics-port"] == 9100


def test_an_argument_of_the_user_is_the_last_word():
    assert declared("web", log_level="info", arguments={"logs": "*:info,web:debug"}).unikernel["arguments"]["logs"] == (
        "*:info,web:debug"
    )


def test_an_endpoint_of_several_has_its_own():
    said = []
    base = {"vpn_interfaces": INTERFACES, "vpn_log_level": "debug", "vpn_endpoints": [{"name": "b", "interfaces": INTERFACES}]}
    first, second = servers("vpn", vpn.OPTIONS, base, said.append)
    assert (first.values["vpn_log_level"], second.values["vpn_log_level"], said) == ("debug", "debug", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.9", ("192.0.2.9", 514)),
        ("192.0.2.9:1514", ("192.0.2.9", 1514)),
        ("2001:db8::9", ("2001:db8::9", 514)),
        ("[2001:db8::9]", ("2001:db8::9", 514)),
        ("[2001:db8::9]:1514", ("2001:db8::9", 1514)),
    ],
)
def test_where_a_server_is(text, expected):
    assert operations.endpoint(text, 514) == expected


@pytest.mark.parametrize(
    "text",
    ["", "logs.example.net", "192.0.2.9:", "192.0.2.9:0", "192.0.2.9:65536", "192.0.2.9:+1", "192.0.2.9:1_0", "192.0.2.9:٣",
     "192.0.2.9:" + 5000 * "1", "[192.0.2.9]:514", "[2001:db8::9", "[2001:db8::9]514",
     "[2001:db8::9]:", "fe80::1%eth0", "0.0.0.0", "::"],
)  # fmt: skip
def test_where_no_server_is(text):
    assert declared("dns", syslog=text).problems == (
        f"dns_syslog: {text!r} is not the address of a server, as in 192.0.2.9, 192.0.2.9:514 or [2001:db8::9]:514",
    )


@given(st.text(alphabet="0123456789abf.:[]%/ +-_x", max_size=30))
def test_whatever_is_written_is_an_address_and_a_port_or_refused(text):
    try:
        address, port = operations.endpoint(text, 514)
    except ValueError:
        return
    assert 1 <= port <= 65535
    assert str(ipaddress.ip_address(address)) == address


@pytest.mark.parametrize(
    ("service", "variables", "words"),
    [
        ("web", {"log_level": "verbose"}, "web_log_level: is 'verbose', must be quiet, error, warning, info or debug"),
        ("vpn", {"log_level": ["info"]}, "vpn_log_level: is ['info'], must be quiet, error, warning, info or debug"),
        ("web", {"syslog": {"server": "192.0.2.9"}}, "web_syslog: {'server': '192.0.2.9'} is not the address of a server"),
        ("web", {"syslog": True}, "web_syslog: True is not the address of a server"),
        ("web", {"metrics": 9100}, "web_metrics: must be a mapping of port and from, as in"),
        ("web", {"metrics": {"port": 9100}}, "web_metrics: from: must have the networks that may read the metrics"),
        ("web", {"metrics": {"from": []}}, "web_metrics: from: must have the networks that may read the metrics"),
        ("web", {"metrics": {"from": ["192.0.2.9"]}}, "web_metrics: from: '192.0.2.9' is not a network, as in 192.0.2.0/24"),
        ("web", {"metrics": {"from": ["10.0.0.1/8"]}}, "web_metrics: from: '10.0.0.1/8' has host bits set, must be 10.0.0.0/8"),
        ("web", {"metrics": {"from": ["::/0"], "port": 80}}, "web_metrics: port: is 80, and so is web_port"),
        ("dns", {"metrics": {"from": ["::/0"], "port": 53}}, "dns_metrics: port: is 53, and so is DNS"),
        ("vpn", {"metrics": {"from": ["::/0"], "port": 1194}}, "vpn_metrics: port: is 1194, and so is OpenVPN"),
        ("dns", {"metrics": {"from": ["::/0"], "port": "x"}}, "dns_metrics: port: is 'x', must be a TCP port, 1..65535"),
        ("dns", {"metrics": {"from": ["::/0"], "path": "/m"}}, "dns_metrics: has no option path; its options are port and from"),
        ("dns", {"metrics": {"from": ["::/0"]}, "images": "standin"}, "dns_metrics: stand-ins have none"),
        ("dns", {"metrics": {"from": ["::/0"]}, "image": {"standin": "dns"}}, "dns_metrics: stand-ins have none"),
    ],
)
def test_mistakes(service, variables, words):
    problems = declared(service, **variables).problems
    assert len(problems) == 1
    assert problems[0].startswith(words)


def test_a_port_of_tls_is_taken_too():
    chain = {"certificates": "x", "port": 9100}
    problems = declared("web", tls=chain, metrics={"from": ["::/0"]}).problems
    assert any(line.startswith("web_metrics: port: is 9100, and so is web_tls: port") for line in problems)


def test_a_standin_takes_what_a_level_becomes():
    text = (Path(__file__).parents[3] / "roles/unikernel_images/files/standin/init").read_text()
    line = next(line for line in text.splitlines() if "quiet | app" in line)
    assert [level for level in operations.LEVELS if level not in line.replace(")", " ").split()] == []
    assert all(f"--{word})" in text or f"--{word} |" in text for word in ("syslog", "syslog-port", "name", "logs"))
