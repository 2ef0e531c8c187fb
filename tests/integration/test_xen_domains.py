"""Many domains in one call, and how they are reported: by the module, by the inventory, on the console."""

import dataclasses
import json
import os
import random

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import domain_from_libxl, xl_config

from .conftest import playbook, run

UUID = "0c6f5e1a-0000-4000-8000-000000000001"  # not one of ours
HOSTILE = ["a b", "'", '"', "\\", "${x}", "`id`", "$(id)", "%s", ";", ",", "=", "#", "ünï", "[x]", "{y}", "a" * 100]
HOSTILE += ['";kernel="x', '\\"', "|&<>"]

pytestmark = pytest.mark.usefixtures("cleared")


@pytest.fixture
def tiny(images):
    """Declare a tiny domain that idles."""

    def one(name, **options):
        return {"name": name, "kernel": images["idle"], "memory": 16, "settle": 0, "shutdown_timeout": 0, **options}

    return one


def steps(done):
    return {one["name"]: one["steps"] for one in done.result["domains"]}


def test_many_in_one_call_each_with_all_that_xl_offers(declared, tiny, dom0, engine):
    options = {
        "try1": {"cpus": "1", "cpu_weight": 300, "cap": 50, "vcpus": 2, "maxmem": 32},
        "try2": {"interfaces": [{"bridge": "xenbr0", "rate": "10Mb/s@20ms", "ip": "10.0.2.77", "mtu": 1400}]},
        "try3": {"interfaces": [{"bridge": "xenbr0", "script": "vif-bridge", "vifname": "vif-try3"}], "on_crash": "destroy"},
        "try4": {"extra_config": {"max_grant_frames": 64, "nomigrate": True}, "state": "paused", "uuid": UUID},
        "try5": {"state": "stopped", "service": "nothing"},
        "try6": {"type": "pv", "kernel": "/vmlinuz", "memory": 96, "state": "paused", "ramdisk": "/initrd.img"},
    }  # fmt: skip
    domains = [tiny(name, **more) for name, more in options.items()]
    assert declared(*domains, flags=["--check"]).result["changed"]
    assert not [name for name in dom0.domains() if name.startswith("try")]
    made = declared(*domains)
    assert steps(made)["try1"] == ["create try1", "autostart try1"]
    dom0("ip link show vif-try3")
    # Observing through xl gives the same result, and a second run changes nothing either way.
    told = engine(
        """
        import dataclasses
        observation, hypercalls = load("xen.observation"), load("xen.hypercalls")
        fast, slow = observation.by_hypercalls(hypercalls.bindings(), True), observation.by_xl()
        still = lambda one: dataclasses.asdict(dataclasses.replace(one, cpu_seconds=0.0, state=""))
        print(json.dumps([[still(one) for one in sorted(way, key=lambda one: one.domid)] for way in (fast, slow)]))
        """
    )
    fast, slow = json.loads(told)
    assert fast == slow
    assert len(fast) >= 8
    again = declared(*domains)
    assert again.result["changed"] is False, steps(again)
    assert declared(*domains, flags=["--check", "--diff"]).result["changed"] is False


def test_one_that_fails_does_not_stop_the_others(declared, tiny, images, dom0):
    bad = tiny("try1", kernel=images["ends"], settle=5)
    done = declared(bad, tiny("try2"), check=False, parallel=1)
    one, other = done.result["domains"]
    assert one["failed"] and "it ended by itself" in one["msg"]
    assert not other["failed"] and other["changed"]
    assert "try2" in dom0.domains()
    done = declared(bad, tiny("try3"), check=False, parallel=1, stop_at_failure=True)
    assert done.result["domains"][1]["skipped"] is True
    assert "try3" not in dom0.domains()


WRONG = [
    ({"memory": 100000}, "the host has"),
    ({"cpus": "77"}, "cpus: is 77, the host has CPUs 0-1"),
    ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.2.101/24"}]}, "is used by running domain www"),
    ({"disks": [{"path": "/root/x", "source": "/root/nosuch"}]}, "its source /root/nosuch is not a file"),
    ({"kernel": "/root"}, "kernel: /root: not a file"),
    ({"memroy": 1}, "unknown key 'memroy'"),
]


def test_one_wrong_entry_refuses_the_whole_list(results, tiny, dom0):
    before = dom0.domains()
    lists = [{"domains": [tiny("try1"), tiny("try2", **more)]} for more, _words in WRONG]
    for refused, (_more, words) in zip(
        results(*({"unikernels.xen.xen_domains": one} for one in lists)).results, WRONG, strict=True
    ):
        assert refused["failed"] and words in refused["msg"], refused
        assert "domains" not in refused
    assert dom0.domains() == before


def test_purge_removes_ours_and_only_ours(declared, tiny, images, dom0):
    declared(tiny("try1"))
    dom0("cat >/root/foreign.cfg", data=f'name = "try-foreign"\ntype = "pvh"\nkernel = "{images["idle"]}"\nmemory = 32\n')
    dom0("xl create /root/foreign.cfg")
    before = dom0.domains()
    done = playbook("site.yml", "--tags", "deploy", "-e", "unikernel_purge=true")
    # The second machine forwards another port to its VPN endpoint, so the first run there writes the profiles again.
    assert len([task for task in done.changes if not task.startswith("Create and renew keys")]) == 1, done.changes
    after = dom0.domains()
    # Leftovers of other tests may be removed too.
    assert "try1" in before and "try1" not in after
    kept = ("www", "dns", "vpn", "try-foreign")
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    dom0("test ! -e /etc/xen/unikernels/try1.cfg && test ! -e /etc/xen/auto/try1.cfg")


def test_what_we_write_is_what_the_real_xl_reads(dom0, images):
    """Compare generated declarations with hostile strings with what xl itself parses."""
    source = random.Random(20261124)
    texts = HOSTILE
    declarations = []
    for index in range(40):
        words = ["--" + "".join(source.sample(texts, 3)) for _count in range(source.randrange(4))]
        options = {
            "name": f"try{index}", "kernel": images["idle"], "memory": source.choice([16, 64]), "vcpus": source.choice([1, 2]),
            "arguments": words, "cap": source.choice([0, 40]), "cpu_weight": source.choice([256, 512]),
            "cpus": source.choice([None, "0-1", "1"]), "on_crash": source.choice(["destroy", "preserve", "coredump-restart"]),
            "disks": [{"path": "/root/" + source.choice(texts) + "x", "access": source.choice(["r", "w"])}] * source.randrange(2),
            "interfaces": [
                {"bridge": "xenbr0", "rate": source.choice([None, "10Mb/s", "3KB/s@7ms"]), "mtu": source.choice([None, 9000]),
                 "ip": source.choice([None, "10.0.0.1 10.0.0.0/24"]), "vifname": source.choice([None, "vif-x"])}
            ] * source.randrange(2),
        }  # fmt: skip
        declarations.append(declaration_of(options, "h").domain)
    script = "mkdir -p /root/parsed && cd /root/parsed && rm -f *\n"
    for domain in declarations:
        script += f"cat >{domain.name} <<'END-OF-FILE'\n{xl_config(domain)}END-OF-FILE\n"
    # xl's dry run checks that the disks exist; only its parser matters here, so make them.
    paths = sorted({disk.path for domain in declarations for disk in domain.disks})
    files = json.dumps(paths)
    dom0("python3 -", data=f"import json\nfor path in json.loads({files!r}): open(path, 'w').write('x' * 512)\n")
    script += "for f in try*; do echo ==$f; xl create -n $f 2>&1; done; rm -rf /root/parsed\n"
    out = dom0("sh", data=script, timeout=300)
    dom0("python3 -", data=f"import json, os\nfor path in json.loads({files!r}): os.unlink(path)\n")
    answers = dict(part.split("\n", 1) for part in out.split("==try")[1:])
    assert len(answers) == len(declarations)
    for domain in declarations:
        text = answers[domain.name.removeprefix("try")]
        read = domain_from_libxl(json.loads(text[text.index("{") :]))
        assert read.name == domain.name
        assert differences(dataclasses.replace(domain, extra_config=()), read, "1") == [], text


def test_facts_of_the_domains(dom0, tmp_path, declared, tiny):
    declared(tiny("try1", state="stopped", service="nothing"))
    out = run("ansible", "xen1", "-m", "unikernels.xen.xen_domain_info", "-a", "console_lines=3", "-t", str(tmp_path)).stdout
    assert "SUCCESS" in out
    found = {one["name"]: one for one in json.loads((tmp_path / "xen1").read_text())["domains"]}
    www, stopped = found["www"], found["try1"]
    assert (www["state"], www["owner"], www["service"], www["autostart"]) == ("running", "unikernels.xen", "web", True)
    assert www["image"]["standin"] is True
    assert www["image"]["sha256"] in www["kernel"]
    assert www["interfaces"][0]["address"] == "10.0.2.101/24"
    assert not any(word.startswith("--ipv4") for word in www["arguments"])
    assert www["uptime_seconds"] > 0 and www["cpu_seconds"] > 0
    assert www["traffic"][0]["sent_bytes"] > 0
    assert www["console"]
    assert (stopped["state"], stopped["service"], stopped["domid"]) == ("stopped", "nothing", None)


def test_the_fleet_as_inventory(dom0, tmp_path):
    source = tmp_path / "zz.xen_domains.yml"
    source.write_text(
        "plugin: unikernels.xen.xen_domains\ntimeout: 60\nkeyed_groups: [{key: xen_memory | string, prefix: memory}]\n"
        "compose: {url: \"'http://' ~ ansible_host\"}\ngroups: {small: xen_memory < 180}\n"
    )
    dead = tmp_path / "dead.yml"
    dead.write_text("xen_hosts: {hosts: {dead: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n")
    done = run("ansible-inventory", "-i", "inventories/lab", "-i", str(dead), "-i", str(source), "--list")
    found = json.loads(done.stdout)
    www = found["_meta"]["hostvars"]["www.xen1"]
    assert (www["ansible_host"], www["xen_host"]) == ("10.0.2.101", "xen1")
    assert "http://10.0.2.101" in str(www["url"])  # Ansible itself marks what compose makes as untrusted
    assert {"www.xen1", "dns.xen1", "vpn.xen1"} <= set(found["xen_on_xen1"]["hosts"])
    assert found["xen_service_dns"]["hosts"] == ["dns.xen1"]
    assert "www.xen1" in found["small"]["hosts"] and "www.xen1" in found["memory_160"]["hosts"]
    assert "dead could not be asked for its domains" in " ".join(done.stderr.split())


def test_a_fleet_that_was_asked_is_known_for_a_while(dom0, tmp_path):
    source = tmp_path / "zz.xen_domains.yml"
    source.write_text(
        f"plugin: unikernels.xen.xen_domains\ntimeout: 60\ncache: true\ncache_plugin: jsonfile\ncache_connection: {tmp_path}/c\n"
    )
    command = ["ansible-inventory", "-i", "inventories/lab", "-i", str(source), "--list"]
    first = json.loads(run(*command).stdout)["_meta"]["hostvars"]["www.xen1"]
    # The host is unreachable now; the cache must suffice.
    second = run(*command, env={**os.environ, "LAB_SSH_PORT": "1"})
    assert json.loads(second.stdout)["_meta"]["hostvars"]["www.xen1"]["xen_domid"] == first["xen_domid"]
    assert "could not be asked" not in second.stderr


def test_a_command_in_dom0_tells_whether_it_is_healthy(declared, tiny, dom0):
    good = declared(tiny("try1", health={"command": ["/usr/bin/test", "-d", "/proc/xen"], "within": 20}))
    assert good.result["domains"][0]["state"] == "running"
    bad = declared(tiny("try2", health={"command": ["/usr/bin/test", "-d", "/nonexistent"], "within": 2}), check=False)
    assert "not healthy after 2 s" in bad.result["domains"][0]["msg"]


def test_the_console_is_waited_for(play, dom0):
    found = play({"unikernels.xen.xen_console": {"name": "www", "pattern": "web: (re)+ady", "within": 5}})
    assert found.counts["xen1"]["failed"] == 0
    missing = play({"unikernels.xen.xen_console": {"name": "www", "pattern": "never said", "within": 1}}, check=False)
    assert "no line on its console matched 'never said' within 1 s" in " ".join(missing.stdout.split())


def test_no_secret_of_a_disk_reaches_an_output_or_the_log(declared, tiny, dom0):
    text = "line one\nTOP-SECRET-KEY\n"
    done = declared(tiny("try1", disks=[{"content": text}]), flags=["-vvv", "--diff"])
    assert "TOP-SECRET-KEY" not in done.stdout + done.stderr
    assert "TOP-SECRET-KEY" not in dom0("journalctl -n 400 --no-pager; cat /etc/xen/unikernels/try1.cfg; ps axww")
    assert dom0("cat /var/lib/unikernels/disks/try1-xvda-*.img").rstrip("\0") == text


def test_the_host_is_described(dom0, tmp_path):
    run("ansible", "xen1", "-m", "unikernels.xen.xen_host_info", "-a", "packages=bridge-utils,no-such", "-t", str(tmp_path))
    host = json.loads((tmp_path / "xen1").read_text())["host"]
    assert "hvm" in host["capabilities"]
    assert host["topology"] == {"nodes": 1, "cores_per_socket": 2, "threads_per_core": 1}
    assert host["pending_reboot"] is False
    assert host["missing_packages"] == ["no-such"]
    assert host["dom0_kernel"] == dom0("uname -r").strip()
