"""Replacing a running domain: beside the old one, in its place, live, or not at all."""

import json
import re

import pytest

ADDRESS = "10.0.2.111"

pytestmark = pytest.mark.usefixtures("idle_services")


@pytest.fixture
def web(declared, images, cleared):
    """Declare `try`, a web server that answers on ADDRESS; .result is the result of xen_domains for it."""

    def declare(check=True, flags=(), **options):
        one = {
            "name": "try", "kernel": images["service"], "memory": 32, "arguments": {"port": 80}, "shutdown_timeout": 0,
            "interfaces": [{"bridge": "xenbr0", "address": f"{ADDRESS}/24"}],
            "health": {"http": f"http://{ADDRESS}/", "within": 60}, **options,
        }  # fmt: skip
        done = declared(one, check=check, flags=flags)
        done.result = done.result["domains"][0]
        return done

    return declare


def test_a_change_of_memory_replaces_it_and_tells_for_how_long_it_was_away(web, dom0):
    web()
    first = dom0.domains()["try"]
    replaced = web(memory=36)
    assert replaced.result["steps"] == ["replace try (standby)"]
    assert replaced.result["differs"] == ["memory"]
    standby = replaced.result["downtime_ms"]
    warm = web(memory=40, update="warm", ready="ready").result["downtime_ms"]
    assert re.search(r"^try +[0-9]+ +0:0", dom0("xl uptime"), re.MULTILINE), "libxl's record went with the old domain"
    recreated = web(memory=36, update="recreate").result
    assert recreated["steps"] == ["recreate try"]
    assert 0 < warm < recreated["downtime_ms"] and 0 < standby < recreated["downtime_ms"]
    assert dom0.domains()["try"] != first
    assert not [name for name in dom0.domains() if "~" in name]
    # update: never only reports; the domain and its definition stay as they are.
    before = dom0("cat /etc/xen/unikernels/try.cfg"), dom0.domains()["try"]
    reported = web(memory=48, update="never")
    assert (reported.result["changed"], reported.result["differs"]) == (False, ["memory"])
    assert (dom0("cat /etc/xen/unikernels/try.cfg"), dom0.domains()["try"]) == before


def test_one_that_does_not_serve_is_taken_back(web, dom0):
    """A silent, a crashing and a never-ready replacement: each time the old domain continues to serve."""
    web()
    first = dom0.domains()["try"]
    for words, options in (
        ("not healthy after 5 s", {"arguments": {"port": 81}, "health": {"http": f"http://{ADDRESS}/", "within": 5}}),
        ("it ended by itself", {"arguments": {"prot": 80}}),
        (
            "the new domain did not print a line matching 'never' within 5 s",
            {"memory": 40, "update": "warm", "ready": "never", "ready_within": 5},
        ),
    ):
        failed = web(check=False, **options).result
        assert failed["failed"] and failed["rolled_back"] and not failed["changed"], failed
        assert words in failed["msg"]
        assert dom0.domains()["try"] == first
        assert not [name for name in dom0.domains() if "~" in name]
        assert "200" in dom0(f"python3 -c \"import urllib.request as u; print(u.urlopen('http://{ADDRESS}/').status)\"")
    assert "unknown option --prot" in " ".join(web(check=False, arguments={"prot": 80}).result["console"])


def test_a_value_arrives_whole_and_what_differs_has_the_words_that_were_declared(web, dom0):
    """The guest splits its boot line like MirageOS."""
    name = 'it\'s two "words" \\ --port=81'
    web(arguments={"port": 80, "name": name})
    read = f"python3 -c \"import urllib.request as u; print(u.urlopen('http://{ADDRESS}/').read().decode())\""
    assert f"{name}: It answers." in dom0(read)
    changes = {"interfaces": [{"bridge": "xenbr0", "address": "10.0.2.112/24"}], "health": None}
    predicted = web(flags=["--check"], arguments={"port": 80, "name": name}, **changes).result
    assert predicted["differs"] == ["interfaces[0].address"]
    assert web(flags=["--check"], arguments={"port": 80}).result["differs"] == ["arguments"]


def test_live_changes_what_xen_and_the_guest_can(web, dom0, images):
    # A Linux guest, which accepts and releases devices.
    before = {"live": True, "vcpus": 2, "kernel": images["web"], "memory": 128}
    before["health"] = {"http": f"http://{ADDRESS}/", "within": 180}
    web(**before)
    first = dom0.domains()["try"]
    mac = "00:16:3e:00:00:77"
    both = [{"bridge": "xenbr0", "address": f"{ADDRESS}/24"}, {"bridge": "xenbr0", "mac": mac}]
    changes = {**before, "cpu_weight": 512, "cap": 80, "interfaces": both}
    predicted = web(flags=["--check"], **changes).result["steps"]
    assert predicted[:3] == ["set_live try cpu_weight", "set_live try cap", f"attach try {mac}"]
    done = web(**changes).result
    assert done["steps"] == predicted
    assert dom0.domains()["try"] == first, "the domain went on"
    assert " 512   80" in dom0("xl sched-credit2 -d try")
    assert mac in dom0("xl list -l try")
    assert web(**changes).result["changed"] is False
    # Undo the changes: devices that are no longer declared are detached.
    assert web(**before).result["steps"][-2] == f"detach try {mac}"
    assert "256    0" in dom0("xl sched-credit2 -d try")
    assert mac not in dom0("xl list -l try")
    assert web(**before).result["changed"] is False
    assert dom0.domains()["try"] == first


def test_a_guest_that_does_not_take_a_disk_keeps_running_without_it(web, dom0, images):
    """Our guest has no disk driver: the live change fails, is rolled back, and is reported."""
    web(live=True)
    first = dom0.domains()["try"]
    failed = web(check=False, live=True, disks=[{"path": images["idle"], "access": "r"}]).result
    # On a loaded machine xl itself gives up first, with another message.
    assert "could not be attached to the running domain" in failed["msg"]
    assert "the old domain is as it was and is running" in failed["msg"]
    assert "disks" not in json.loads(dom0("xl list -l try"))[0]["config"]
    assert dom0.domains()["try"] == first
