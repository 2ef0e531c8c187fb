"""The variables of the role xen_monitor, and Debian's own node_exporter and Prometheus with the resulting files."""

import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.host import metrics, monitor

from .test_metrics import FILES, simulated

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOOD = {
    "xen_monitor_listen": ["127.0.0.1:9100"],
    "xen_monitor_interval": 60,
    "xen_monitor_health": True,
    "xen_monitor_images": "/var/lib/unikernels/images",
    "xen_monitor_certificate": "",
    "xen_monitor_key": "",
    "xen_monitor_client_ca": "",
}


def test_the_defaults_are_right():
    defaults = yaml.safe_load((ROOT / "roles/xen_monitor/defaults/main.yml").read_text())
    defaults["xen_monitor_images"] = "/var/lib/unikernels/images"
    assert sorted(defaults) == sorted(GOOD)
    assert monitor.variable_refusals(defaults) == []


@pytest.mark.parametrize(
    ("name", "value"), [("xen_monitor_health", "maybe"), ("xen_monitor_health", None), ("xen_monitor_images", "a b")]
)
def test_what_is_of_another_kind_is_refused(name, value):
    (line,) = monitor.variable_refusals({**GOOD, name: value})
    assert line.startswith(f"{name}: is {value!r}, must be ")


@pytest.mark.parametrize("listen", [["192.0.2.1:9100", "[2001:db8::1]:9100"], [":9100"], ["0.0.0.0:65535"]])
def test_addresses_to_listen_at(listen):
    assert monitor.variable_refusals({**GOOD, "xen_monitor_listen": listen}) == []


@pytest.mark.parametrize(
    "listen",
    [
        None, "", "127.0.0.1:9100", [], [9100], ["9100"], ["127.0.0.1"], ["127.0.0.1:0"], ["127.0.0.1:1023"], ["127.0.0.1:65536"],
        ["127.0.0.256:9100"], ["2001:db8::1:9100"], ["[fe80::1%eth0]:9100"], ["host:9100"], ["127.0.0.1:9100 --web.x"],
        ["127.0.0.1:9100\n"], ["127.0.0.1:9100", "127.0.0.1:9100"], [None], [["127.0.0.1:9100"]], {"127.0.0.1:9100": 1}, True,
        ["127.0.0.1:٩١٠٠"],
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_line(listen):
    (line,) = monitor.variable_refusals({**GOOD, "xen_monitor_listen": listen})
    assert line.startswith("xen_monitor_listen: is ") and "must" in line and "\n" not in line


@pytest.mark.parametrize("interval", [0, 14, 3601, -60, True, None, "", "60s", "1e2", 60.5, " 60", "060", [60], {}])
def test_an_interval_is_a_number_of_seconds(interval):
    (line,) = monitor.variable_refusals({**GOOD, "xen_monitor_interval": interval})
    assert line.startswith("xen_monitor_interval: is ") and "15..3600 (seconds)" in line


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"xen_monitor_certificate": "a.pem"}, "xen_monitor_certificate and xen_monitor_key: TLS needs both"),
        ({"xen_monitor_key": "a.pem"}, "xen_monitor_certificate and xen_monitor_key: TLS needs both"),
        ({"xen_monitor_client_ca": "a.pem"}, "xen_monitor_client_ca: clients show certificates over TLS only"),
        ({"xen_monitor_client_ca": ["a.pem"]}, "xen_monitor_client_ca: is ['a.pem'], must be the path of a PEM file"),
    ],
)
def test_files_of_tls_come_together(given, begins):
    assert monitor.variable_refusals({**GOOD, **given})[0].startswith(begins)


def test_files_of_tls_are_roots_alone_and_go_with_their_variables():
    files = monitor.tls_files("CERT", "KEY", "")
    assert {file["path"].rpartition("/")[2]: file["mode"] for file in files["files"]} == dict.fromkeys(
        ["web.yml", "tls.crt", "tls.key"], "0600"
    )
    assert files["absent"] == ["/etc/unikernels-monitor/ca.crt"]
    assert len(monitor.tls_files("", "", "")["absent"]) == 4


# -- Debian's programs -----------------------------------------------------------------------------


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(question, what, seconds=60):
    until = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture
def certificates(tmp_path):
    """A CA, its certificate for the exporter at 127.0.0.1, and one for Prometheus."""
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(tmp_path, *new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    for name in ("tls", "client"):
        openssl(
            tmp_path, *new, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=CA:FALSE", "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", f"{name}.key",
            "-out", f"{name}.crt",
        )  # fmt: skip
    return tmp_path


@pytest.fixture
def started():
    """started(argument, ...): start a program that is stopped with the test."""
    running = []

    def start(*words, log):
        with open(log, "wb") as output:
            running.append(subprocess.Popen(words, stdout=output, stderr=output, stdin=subprocess.DEVNULL))

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(timeout=30)


def fetched(url, context=None):
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


@pytest.mark.skipif(
    not shutil.which("prometheus") or not shutil.which("prometheus-node-exporter"),
    reason="needs Debian's packages prometheus and prometheus-node-exporter",
)
def test_prometheus_scrapes_the_metrics_over_tls_and_an_alert_fires(certificates, started):
    folder, port, own_port = certificates, free_port(), free_port()
    (folder / "metrics").mkdir()
    samples = [*simulated(), metrics.sample("xen_host_boot_returned", 1)]
    samples = [one for one in samples if (one.name, one.value) != ("xen_host_boot_returned", 0)]
    (folder / "metrics" / "unikernels_xen.prom").write_text(metrics.text_of(samples))
    for file in monitor.tls_files(*((folder / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")))["files"]:
        (folder / pathlib.Path(file["path"]).name).write_text(file["content"])
    # systemd replaces %d by the folder of the credentials.
    words = monitor.exporter_arguments([f"127.0.0.1:{port}"], str(folder / "metrics"), True)
    words = [word.replace("%d", str(folder)) for word in words] + ["--collector.disable-defaults", "--collector.textfile"]
    started("prometheus-node-exporter", *words, log=folder / "exporter.log")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    url = f"https://127.0.0.1:{port}/metrics"
    with_key = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with_key.load_cert_chain(folder / "client.crt", folder / "client.key")
    wait_for(lambda: "xen_domain_cpu_seconds_total" in fetched(url, with_key), (folder / "exporter.log").read_text())
    assert fetched(url, context) == "", "the exporter answers who shows no certificate"

    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FILES / "prometheus-rules.yml")],
        "scrape_configs": [
            {
                "job_name": "xen",
                "scheme": "https",
                "tls_config": {name: str(folder / file) for name, file in
                               (("ca_file", "ca.crt"), ("cert_file", "client.crt"), ("key_file", "client.key"))},
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
        ],
    }  # fmt: skip
    (folder / "prometheus.yml").write_text(json.dumps(config))
    started(
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{own_port}", log=folder / "prometheus.log",
    )  # fmt: skip

    def asked(expression):
        text = fetched(f"http://127.0.0.1:{own_port}/api/v1/query?query={expression}")
        return json.loads(text)["data"]["result"] if text else []

    (row,) = wait_for(lambda: asked("xen_domain_cpu_seconds_total"), "Prometheus has the metric")
    assert row["metric"]["domain"] == "www" and row["value"][1] == "12.5"
    assert asked("node_textfile_scrape_error")[0]["value"][1] == "0"
    missing = {one.name for one in samples} - {row["metric"]["__name__"] for row in asked("%7B__name__%3D~%22xen_.*%22%7D")}
    assert missing == set()
    firing = wait_for(lambda: asked("ALERTS%7Balertstate%3D%22firing%22%7D"), "an alert fires")
    assert "XenHostReturnedFromBoot" in [row["metric"]["alertname"] for row in firing]
