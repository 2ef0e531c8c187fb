"""Generations: what is kept, and that a rollback names a target, so that a second one changes nothing."""

import dataclasses
import json
import os
import shutil
import stat

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import generation_guests, generations
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generation_folder import back, listing, record
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import Generation, GenerationError
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, guests_of
from ansible_collections.unikernels.xen.plugins.module_utils.network.plan import Plan
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import NetworkError, Reading, State
from ansible_collections.unikernels.xen.plugins.module_utils.xen import guests_back
from ansible_collections.unikernels.xen.plugins.module_utils.xen.guests_back import RulesBack
from hypothesis import given
from hypothesis import strategies as st

KEY = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"


def domain(name="www", image="a", **options):
    return {"name": name, "kernel": f"/store/{image * 64}.xen", "memory": 32, **options}


@pytest.fixture
def host(tmp_path):
    """A host that runs whatever is applied; deploy and back return what was applied."""

    class Host:
        folder = str(tmp_path / "generations")
        guests = None
        runs = {}  # noqa: RUF012

        def apply(self, domains, guests=None):
            self.guests = guests
            results = []
            for one in domains:
                changed = self.runs.get(one["name"]) != one if one.get("state") != "absent" else one["name"] in self.runs
                if one.get("state") == "absent":
                    self.runs.pop(one["name"], None)
                else:
                    self.runs[one["name"]] = one
                results.append({"name": one["name"], "changed": changed, "failed": False})
            return results

        def deploy(self, *domains, result="applied", **options):
            self.apply(domains)
            return record(self.folder, Generation(0, list(domains), {}, result=result), False, **options)

        def back(self, to="previous", names=(), apply=None):
            target, results, written = back(self.folder, to, list(names), apply or self.apply, Generation(0), False)
            return target.number, any(one["changed"] for one in results) or written

        def numbers(self):
            return [one.number for one in listing(self.folder)[0]]

    Host.runs = {}
    return Host()


def test_a_rollout_names_the_generation_that_it_left(host):
    applied = [Generation(1, [domain(image="a")], rollout="A"), Generation(2, [domain(image="b")], rollout="B")]
    kept = [*applied, Generation(3, [domain(image="a")], rollout="C", repeats=1)]
    assert generations.target_of(kept, "rollout=B").number == 2
    assert generations.target_of(kept, "rollout=D", {"D": 1}).number == 1, "a rollout that changed nothing on this host"
    for rollout in ("C", "", "E"):
        with pytest.raises(GenerationError, match=rf"no generation of rollout {rollout}; it has A, B"):
            generations.target_of(kept, f"rollout={rollout}", {})


def test_going_back_twice_is_as_going_back_once(host):
    host.deploy(domain(image="a"))
    host.deploy(domain(image="b", memory=64, arguments={"port": 81}))
    assert host.back() == (1, True)
    assert host.runs["www"] == domain(image="a"), "memory and arguments too"
    assert host.back() == (1, False)
    assert host.back() == (1, False)
    assert host.runs["www"] == domain(image="a")
    assert host.numbers() == [1, 2, 3]
    assert listing(host.folder)[0][2].repeats == 1
    # A later deployment counts: the next rollback returns to what ran before it.
    host.deploy(domain(image="c"))
    assert host.back() == (3, True)
    assert host.runs["www"] == domain(image="a")
    assert host.back("2") == (2, True) and host.back("2") == (2, False)


def test_the_same_declaration_is_kept_once(host):
    assert host.deploy(domain()) == (1, True)
    assert host.deploy(domain()) == (1, False)
    assert host.deploy(domain(memory=64)) == (2, True)


def test_a_failed_deployment_is_nothing_to_go_back_to(host):
    host.deploy(domain(image="a"))
    host.deploy(domain(image="b"), result="failed")
    assert host.deploy(domain(image="b"), result="failed") == (2, False)
    host.deploy(domain(image="c"))
    assert host.back()[0] == 1
    assert host.deploy(domain(image="d"), result="failed")[0] == 5
    assert host.deploy(domain(image="d")) == (5, True), "the same number, for it is the same declaration"


def test_a_way_back_that_was_interrupted_ends_where_it_was_to(host):
    host.deploy(domain(image="a"), domain("dns", "a"))
    host.deploy(domain(image="b"), domain("dns", "b"))

    def dies(domains, _guests):
        host.apply(domains[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.back(apply=dies)
    assert host.back() == (1, True)
    assert host.runs == {"www": domain(image="a"), "dns": domain("dns", "a")}
    assert host.back() == (1, False)


def test_what_only_later_generations_have_goes_and_what_was_removed_comes_back(host):
    host.deploy(domain(), domain("old"))
    host.deploy(domain(), domain("new"), {"name": "old", "state": "absent"})
    assert set(host.runs) == {"www", "new"}
    assert host.back() == (1, True)
    assert set(host.runs) == {"www", "old"}
    assert host.back() == (1, False)


def test_some_names_alone_go_back(host):
    host.deploy(domain(image="a"), domain("dns", "a"))
    host.deploy(domain(image="b"), domain("dns", "b"))
    assert host.back(names=["www"]) == (1, True)
    assert host.runs == {"www": domain(image="a"), "dns": domain("dns", "b")}
    assert host.back(names=["www"]) == (1, False)
    with pytest.raises(GenerationError, match=r"rollback: generation 1 has no unikernel 'nosuch' \(it has dns, www\)"):
        host.back(names=["nosuch"])


def test_a_role_that_knows_a_part_of_the_host_forgets_nothing_of_the_rest(host):
    host.deploy(domain(), whole=False)
    host.deploy(domain("dns"), whole=False)
    assert listing(host.folder)[0][-1].names == ["www", "dns"]
    assert host.back() == (1, True)
    assert set(host.runs) == {"www"}


@pytest.mark.parametrize("to", ["0", "-1", "nosuch", "1.5", "", "previous ", "99", None, True])
def test_another_target_is_refused_in_one_line(host, to):
    host.deploy(domain())
    with pytest.raises(GenerationError, match="to: ") as error:
        host.back(to)
    assert "\n" not in str(error.value)


def test_without_a_generation_before_it_there_is_no_way_back(host):
    with pytest.raises(GenerationError, match="has no generation"):
        host.back()
    host.deploy(domain())
    with pytest.raises(GenerationError, match="no generation before the newest declaration"):
        host.back()


def test_twenty_are_kept_and_keys_for_the_last_two(host):
    for number in range(25):
        host.deploy(domain(memory=32 + number, disks=[{"content": KEY + str(number)}, {"content": "zones"}]))
    kept, problems = listing(host.folder)
    assert (len(kept), kept[-1].number, problems) == (20, 25, [])
    assert [KEY[:10] in str(one.domains) for one in kept[-3:]] == [False, True, True]
    assert all("zones" in str(one.domains) for one in kept)
    assert host.back("24")[0] == 24
    with pytest.raises(GenerationError, match="keys on a disk of www are kept only for the last 2 generations"):
        host.back("10")


def test_a_key_for_zone_transfers_is_a_key(host):
    for number in range(4):
        host.deploy(domain(disks=[{"content": f"; secondary 192.0.2.54 x. hmac-sha256 c2VjcmV0\n$ORIGIN {number}.example.\n"}]))
    kept, _problems = listing(host.folder)
    assert ["c2VjcmV0" in str(one.domains) for one in kept] == [False, False, True, True]


def test_files_are_roots_alone(host):
    host.deploy(domain())
    assert stat.S_IMODE(os.stat(host.folder).st_mode) == 0o700
    for name in os.listdir(host.folder):
        assert stat.S_IMODE(os.stat(os.path.join(host.folder, name)).st_mode) == 0o600


def test_a_file_that_was_cut_is_named_and_hides_nothing_else(host):
    host.deploy(domain(image="a"))
    host.deploy(domain(image="b"))
    host.deploy(domain(image="c"))
    path = os.path.join(host.folder, "000002.json")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text[: len(text) // 2])
    assert listing(host.folder)[1] == ["000002.json: is not a complete generation"]
    assert host.deploy(domain(image="d")) == (4, True)
    with open(os.path.join(host.folder, "000004.json"), "w", encoding="utf-8") as file:
        file.write("")
    assert host.deploy(domain(image="e")) == (5, True), "no number twice"


def test_what_is_shown_has_no_secret():
    before = Generation(1, [domain(arguments={"token": "s3cr3t"}, disks=[{"content": KEY}])], {"www": "web"}, by="a@b")
    later = Generation(2, [domain(image="b", arguments={"token": "other"}), domain("new")], {"www": "web"})
    lines = generations.differences(before, later)
    assert lines == ["www: other arguments.token, disks, image", "new: added"]
    assert generations.differences(later, before)[0] == "new: removed"
    text = f"{generations.summary_of(before)} {lines}"
    assert "s3cr3t" not in text and "PRIVATE" not in text
    assert generations.summary_of(before)["domains"][0]["sha256"] == "a" * 64
    assert generations.plain_words("alice@host\n\x1b[31m") == "alice@host ?(31m".replace("(", "?")


def test_the_checks_of_a_host_are_those_of_what_was_applied_last():
    checked = domain(health={"tcp": "10.0.0.1:80"}, arguments={"token": "s3cr3t"})
    secret, other = domain("job", health={"command": ["check", "s3cr3t"]}), domain("none")
    applied = Generation(2, [checked, secret, other], {}, result=generations.APPLIED)
    failed = Generation(3, [domain(health={"tcp": "10.0.0.2:80"})], {}, result=generations.FAILED)
    checks = [{"name": "www", "state": "running", "health": {"tcp": "10.0.0.1:80"}}]
    assert generations.health_checks([Generation(1, [], {}), applied, failed]) == checks
    assert generations.health_checks([]) == []


def test_a_difference_is_named_by_the_option_that_has_it():
    one = domain(interfaces=[{"bridge": "b", "address": "10.0.0.1/24"}], health={"tcp": "10.0.0.1:80", "within": 30}, cap=1)
    two = domain(
        interfaces=[{"bridge": "b", "address": "10.0.0.2/24"}, {"bridge": "c"}], health={"tcp": "10.0.0.2:80", "within": 30},
        arguments=["--a"],
    )  # fmt: skip
    (line,) = generations.differences(Generation(1, [one]), Generation(2, [two]))
    assert line == "www: other arguments, cap, health.tcp, interfaces[0].address, interfaces[1]"
    many = (
        domain(arguments={f"x{number:02}": 1 for number in range(20)}),
        domain(arguments={f"x{number:02}": 2 for number in range(20)}),
    )
    (line,) = generations.differences(Generation(1, [many[0]]), Generation(2, [many[1]]))
    assert line.startswith("www: other arguments.x00, ") and line.endswith("arguments.x11 and 8 more")


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["format", "number", "domains", "images", "result", "x"]), inner)
    ),
    max_leaves=6,
)


@given(st.text() | JSON.map(json.dumps))
def test_any_file_is_read_or_refused(text):
    try:
        generations.read(text)
    except GenerationError as error:
        assert "\n" not in str(error)


def test_what_is_written_is_read():
    generation = Generation(3, [domain(arguments={"ü": "\n"})], {"www": "web"}, "t", "b", "r", "o", "failed", 2, True)
    assert generations.read(generations.text_of(generation)) == generation


@pytest.mark.parametrize(
    "changes",
    [
        {"domains": [{"name": "www", "disks": 1}]},
        {"domains": [{"name": "www", "disks": ["x"]}]},
        {"domains": [{"name": ["www"]}]},
        {"domains": [{"disks": []}]},
        {"images": {"www": 1}},
        {"number": True},
        {"number": 0},
    ],
)
def test_a_generation_that_somebody_edited_is_refused(changes):
    values = {**json.loads(generations.text_of(Generation(1, [{"name": "www"}]))), **changes}
    with pytest.raises(GenerationError, match="is not a complete generation"):
        generations.read(json.dumps(values))


def test_a_file_that_was_copied_or_is_a_pipe_is_no_generation(host, tmp_path):
    for image in "abc":
        host.deploy(domain(image=image))
    folder = tmp_path / "generations"
    shutil.copy(folder / "000001.json", folder / "000007.json")
    os.mkfifo(folder / "000008.json")
    kept, problems = listing(host.folder)
    assert [one.number for one in kept] == [1, 2, 3]
    assert problems == ["000007.json: is a copy of generation 1; remove it", "000008.json: is not a file"]
    assert host.deploy(domain(image="d")) == (9, True), "their numbers are taken"
    assert host.back() == (3, True)


def test_a_generation_has_each_domain_once():
    text = generations.text_of(Generation(1, [domain(), domain(image="b")]))
    with pytest.raises(GenerationError, match="is not a complete generation"):
        generations.read(text)
    assert generations.read(generations.text_of(Generation(1, [domain(), domain("b")]))).names == ["www", "b"]


RULE = {"protocol": "tcp", "low": 443, "high": 443, "peers": []}


def guests(port=443, *names):
    """As `declared` returns them, after a way through JSON."""
    port_of = {"protocol": "tcp", "port": port, "to": 8443, "target": "10.0.0.2", "network": "inside", "address": ""}
    published = [{"name": name, **port_of} for name in names]
    limits = [
        {"name": name, "accept": [{**RULE, "low": port}], "reach": None, "own": ["10.0.0.2/32"], "six": []} for name in names
    ]
    return {"published": published, "proxied": {}, "limits": limits}


def test_a_rollback_brings_back_what_may_reach_the_domains(host):
    def deploy(port, **options):
        return record(host.folder, Generation(0, [domain(**options)], guests=generation_guests.read(guests(port, "www"))), False)

    host.deploy(domain())
    assert host.guests is None, "an older version recorded none"
    assert deploy(443) == (1, True) and deploy(443) == (1, False), "they are added to the generation that lacks them"
    assert deploy(444) == (2, True), "other ports are another declaration"
    assert host.back() == (1, True)
    assert [one.port for one in host.guests.published] == [443] and host.guests.limits[0].accept[0].low == 443
    assert host.back() == (1, False)
    kept = listing(host.folder)[0]
    assert kept[-1].guests == generation_guests.read(guests(443, "www"))
    assert generations.differences(kept[0], kept[1]) == ["www: other accept, publish[0].port"]
    # A role that runs alone knows nothing of them: they stay as they are.
    assert host.deploy(domain(memory=64)) == (4, True) and listing(host.folder)[0][-1].guests == kept[-1].guests


def test_one_unikernel_goes_back_with_its_own_rules_alone():
    newest, target = (generation_guests.read(guests(port, "dns", "www")) for port in (444, 443))
    mixed = generation_guests.after(newest, target, ["www"])
    assert {one["name"]: one["port"] for one in mixed["published"]} == {"dns": 444, "www": 443}
    assert {one["name"]: one["accept"][0]["low"] for one in mixed["limits"]} == {"dns": 444, "www": 443}
    assert generation_guests.after(newest, target, []) == target
    turned = {**target, "published": target["published"][::-1], "limits": target["limits"][::-1]}
    assert generation_guests.agree(target, turned) and not generation_guests.agree(target, newest)
    assert generation_guests.after(newest, None, []) == newest and generation_guests.after(None, target, ["www"]) is None


@pytest.mark.parametrize(
    "odd", [3, "x", [1], {"published": 1}, {"limits": [{}]}, {"published": [{"name": "a"}]}, {"proxied": []}]
)
def test_rules_that_are_none_are_no_generation(odd):
    with pytest.raises(GenerationError, match="is not a complete generation"):
        generations.read(json.dumps({"format": 1, "number": 1, "guests": odd}))


def test_only_what_the_host_has_or_had_is_touched(monkeypatch, tmp_path):
    """A host without our networks and without limits is not even looked at."""
    done = []
    monkeypatch.setattr(guests_back.networks, "limit", lambda limits, check: done.append((limits, check)) or {"changed": True})
    monkeypatch.setattr(guests_back.networks, "observe", lambda: done.append("observe"))
    monkeypatch.setattr(guests_back.reach_rules, "RULES", str(tmp_path / "rules"))
    monkeypatch.setattr(guests_back, "STATE", str(tmp_path / "state"))
    none = Guests()
    assert not guests_back.limits_back(none, False) and not guests_back.published_back(none, False) and done == []
    (tmp_path / "rules").touch()
    assert guests_back.limits_back(none, True) and done == [([], True)], "limits that are no longer declared are removed"
    with pytest.raises(NetworkError, match="state is gone: run the role xen_host"):
        guests_back.published_back(guests_of(guests(443, "www")), False)


def test_ports_are_published_by_the_networks_that_the_host_has(monkeypatch, tmp_path):
    (tmp_path / "state").touch()
    monkeypatch.setattr(guests_back, "STATE", str(tmp_path / "state"))
    wanted, plans, done = guests_of(guests(443, "www")), [], []
    reading = Reading("h", "ifupdown", {}, state=State({"inside": "as it is"}, guests_of(guests(444, "www"))))
    monkeypatch.setattr(guests_back.networks, "observe", lambda: reading)
    monkeypatch.setattr(
        guests_back, "make_plan", lambda networks, guests, _reading: plans.append((networks, guests)) or Plan(devices=devices)
    )
    monkeypatch.setattr(guests_back.networks, "carry_out", lambda plan, seconds: done.append(plan))
    devices = ()
    assert guests_back.published_back(wanted, True) and not done
    assert guests_back.published_back(wanted, False) and len(done) == 1
    assert plans[0][0] == reading.state.networks and plans[0][1].published == wanted.published and not plans[0][1].limits
    devices = ("inside",)
    with pytest.raises(NetworkError, match="network inside: is not on the host as it was declared"):
        guests_back.published_back(wanted, False)
    reading = dataclasses.replace(reading, state=State({}, guests_of({**guests(443, "www"), "limits": []})))
    assert not guests_back.published_back(wanted, False) and len(done) == 1


def test_a_rollback_limits_first_and_publishes_last(monkeypatch):
    done = []

    def rule(name, changed=True):
        def put(_guests, check):
            done.append((name, check))
            if name in broken:
                raise NetworkError(f"{name}: no")
            return changed

        return put

    def change(check):
        done.append(("domains", check))
        return [{"name": "www", "failed": bool(failed)}]

    broken, failed = (), ()
    monkeypatch.setattr(guests_back, "limits_back", rule("limits"))
    monkeypatch.setattr(guests_back, "published_back", rule("ports", False))
    rules = RulesBack(False)
    assert rules.around(Guests(), change) == [{"name": "www", "failed": False}]
    # The domains are predicted before anything changes: that is where a rollback is refused.
    assert done == [("limits", True), ("domains", True), ("limits", False), ("domains", False), ("ports", False)]
    assert rules.added({"changed": False}) == {"changed": True}
    done.clear()
    rules.around(None, change)
    assert done == [("domains", False)]
    done.clear()
    RulesBack(True).around(Guests(), change)
    assert done == [("limits", True), ("domains", True), ("ports", True)]
    done.clear()
    broken = ("limits", "ports")
    rules = RulesBack(False)
    rules.around(Guests(), change)
    assert rules.added({"changed": True, "msg": ""}) == {"changed": True, "failed": True, "msg": "limits: no // ports: no"}
    done.clear()
    failed = ("www",)
    RulesBack(True).around(Guests(), change)
    assert ("ports", True) not in done, "a port of a domain that is not back"
