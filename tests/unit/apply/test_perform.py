"""Single primitives on a double of Dom0, through xl and Xen's bindings, including when Xen or the guest misbehaves."""

import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.apply.perform import Performer, scheduler_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.plan import steps as do
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError

TEXT = xl_config(declaration_of({"name": "www", "kernel": "/k", "interfaces": [{"bridge": "xenbr0"}]}, "h").domain)


class Bindings:
    """A double of Xen's bindings, as far as needed; a domain that was paused twice has to be unpaused twice."""

    def __init__(self, xen):
        self.xen, self.pauses, self.refuses = xen, {}, None

    def domains(self):
        return [
            {"domid": record["domid"], "state": record["state"], "reason": record["reason"], "cpu_time": record["seconds"] * 1e9}
            for record in self.xen.domains.values()
        ]

    def _record(self, domid):
        return next(record for record in self.xen.domains.values() if record["domid"] == domid)

    def pause(self, domid):
        if self.refuses:
            self.refuses(domid)
            raise ToolstackError("no such domain")
        self.pauses[domid] = self.pauses.get(domid, 0) + 1
        self._record(domid)["state"] = "paused"

    def unpause(self, domid):
        self.pauses[domid] = self.pauses.get(domid, 1) - 1
        self._record(domid)["state"] = "paused" if self.pauses[domid] else "running"


@pytest.fixture
def bindings(xen):
    return Bindings(xen)


def all_steps(kind=do.Step):
    return {kind, *(each for child in kind.__subclasses__() for each in all_steps(child))}


def test_every_primitive_is_carried_out():
    known = Performer.__dict__["perform"].dispatcher.registry
    assert all_steps() - set(known) == {do.Step, do.OfDomain}
    with pytest.raises(NotImplementedError, match="Step"):
        Performer().perform(do.Step())


def test_by_the_bindings_a_domain_is_paused_once_and_unpaused_as_often_as_it_was(xen, bindings):
    xen.add("www", TEXT)
    performer = Performer(bindings)
    performer.perform(do.Pause("www"))
    performer.perform(do.Pause("www"))
    assert bindings.pauses == {1: 1}
    bindings.pauses[1] = 3
    performer.perform(do.Unpause("www"))
    assert xen.domains["www"]["state"] == "running"
    performer.perform(do.Unpause("www"))
    assert bindings.pauses == {1: 0}, "one that runs is left alone"
    assert xen.calls == []


def test_a_domain_that_is_gone_in_the_moment_of_its_pause(xen, bindings):
    xen.add("www", TEXT)
    bindings.refuses = lambda domid: xen.domains.clear()
    Performer(bindings).perform(do.Pause("www"))
    xen.add("www", TEXT)
    bindings.refuses = lambda domid: None
    with pytest.raises(ToolstackError, match="no such domain"):
        Performer(bindings).perform(do.Pause("www"))


def test_one_that_does_not_wait_after_its_creation_is_a_failure(xen):
    """Somebody starts it meanwhile, or it crashes at once: it must not answer at the old domain's address."""
    created = xen.xl_create

    def starts(*words):
        answer = created(*words)
        xen.domains["www"]["state"] = "running"
        return answer

    xen.xl_create = starts
    with pytest.raises(ToolstackError, match="domain www: it was built, but is running"):
        Performer().perform(do.Build("www", TEXT, 64))


@pytest.mark.parametrize("state", ["shutdown", "gone"])
def test_a_guest_that_listens_ends_by_itself(xen, state):
    record = xen.add("www", TEXT)
    xen.xl_shutdown = lambda name: (
        (record.update(state="shutdown", reason="poweroff") if state == "shutdown" else xen.domains.clear()) or (0, "", "")
    )
    Performer().perform(do.Shutdown("www", 30))
    assert xen.domains == {}
    assert ("xl destroy www" in xen.calls) == (state == "shutdown")


def test_one_that_is_not_asked_or_whose_xl_hangs_is_destroyed(xen):
    xen.add("www", TEXT)
    Performer().perform(do.Shutdown("www", 0))
    assert xen.domains == {} and not [call for call in xen.calls if call.startswith("xl shutdown")]

    def hangs():
        raise subprocess.TimeoutExpired("xl", 1)

    xen.add("www", TEXT)
    xen.hooks["xl shutdown"] = hangs
    Performer().perform(do.Shutdown("www", 1))
    assert xen.domains == {}


def test_one_that_can_not_be_destroyed_is_named(xen):
    xen.add("www", TEXT)
    xen.hooks["xl destroy"] = lambda: (1, "libxl: error: xc_domain_destroy failed")
    with pytest.raises(ToolstackError, match=r"domain www: 'xl destroy' failed .1.: libxl: error: .*; it is still there"):
        Performer().perform(do.Destroy("www"))


def test_one_that_is_being_built_again_is_waited_for_before_it_is_destroyed(xen, monkeypatch):
    """xl's daemon would create it again after our destroy, beside the next domain."""
    monkeypatch.setattr("ansible_collections.unikernels.xen.plugins.module_utils.apply.perform.REBOOT_SECONDS", 20)
    (xen.folder / "logs" / "xl-www.log").write_text("Action for shutdown reason code 1 is restart\n")
    looks = []

    def comes_again():
        looks.append(1)
        if len(looks) == 3:
            xen.add("www", TEXT)

    xen.hooks["xl list -v www"] = comes_again
    Performer().perform(do.Destroy("www"))
    assert xen.domains == {} and "xl destroy www" in xen.calls


def test_a_bridge_that_can_not_be_led_to_a_domain_that_runs_is_a_failure(xen):
    xen.add("www", TEXT)
    xen.hooks["ip"] = xen.hooks["bridge"] = lambda: (1, "RTNETLINK answers: No such device")
    with pytest.raises(ToolstackError, match="No such device"):
        Performer().perform(do.LeadTo("www"))
    xen.domains["www"]["state"] = "shutdown"
    Performer().perform(do.LeadTo("www"))


@pytest.mark.parametrize(
    ("info", "command"),
    [
        ("xen_scheduler          : credit2\n", "sched-credit2"),
        ("xen_scheduler          : credit\n", "sched-credit"),
        ("xen_scheduler          : null\n", ""),
        ("", ""),
    ],
)
def test_the_command_of_a_scheduler(info, command):
    assert scheduler_of(f"host : a\n{info}free_memory : 1\n") == command
