"""A model of Xen, Dom0's files and bridges, as far as a plan can tell. It carries out the real primitives.

It refuses what Xen refuses, and can die or fail before or after any step.
"""

import dataclasses

from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Host, Intent, Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import NEXT, PREVIOUS, content_path
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.plan import steps as do
from hypothesis import strategies as st

NAME = "www"
MIB = 1 << 20
DATA = "/var/lib/unikernels/disks/data.img"


def declare(memory=64, **changes):
    return declaration_of({"name": NAME, "kernel": "/k", "memory": memory, **changes}, "h")


def host(*domains, **rest):
    return Host(domains=domains, free_memory=rest.pop("free_memory", 4096), **rest)


def running(memory=64, name=NAME, state="running", domid=7, **changes):
    return Observed(domid, state, dataclasses.replace(declare(memory, **changes).domain, name=name))


FOREIGN = Observed(
    3, "running", dataclasses.replace(declare().domain, name="database", uuid="6b1a2c54-9d96-4ee4-bd5d-42eb769bb076")
)


class Died(BaseException):
    """The process was killed: nothing runs afterwards, not even a handler."""


class Failed(Exception):
    """A failure of any kind."""


@dataclasses.dataclass
class Xen:
    """``faults``: number of a step -> what is raised there; steps count from 0 over the model's life.

    ``late``: raise it after the step was carried out, not before. ``sick``: texts of domains that never become healthy.
    """

    domains: dict = dataclasses.field(default_factory=dict)
    texts: dict = dataclasses.field(default_factory=dict)  # domid -> (extra_config, text) of what the model has built
    definitions: dict = dataclasses.field(default_factory=dict)
    intents: dict = dataclasses.field(default_factory=dict)
    autostart: set = dataclasses.field(default_factory=set)
    disks: dict = dataclasses.field(default_factory=dict)
    contents: set = dataclasses.field(default_factory=set)
    off_bridge: set = dataclasses.field(default_factory=set)  # domids
    faults: dict = dataclasses.field(default_factory=dict)
    late: bool = False
    sick: set = dataclasses.field(default_factory=set)
    catalogue: dict = dataclasses.field(default_factory=dict)  # text -> Domain
    step: int = 0
    domid: int = 100
    dead: bool = False  # the process was killed: nothing more happens until the next run

    @classmethod
    def of(cls, observed):
        return cls(
            domains={one.domain.name: one for one in observed.domains},
            definitions=dict(observed.definitions),
            intents=dict(observed.intents),
            autostart=set(observed.autostart),
            disks=dict(observed.disk_sizes),
            contents=set(observed.content_disks),
        )

    def host(self):
        if self.dead:
            raise Died
        return host(
            *self.domains.values(),
            definitions=dict(self.definitions),
            intents=dict(self.intents),
            autostart=frozenset(self.autostart),
            disk_sizes=dict(self.disks),
            content_disks=tuple(sorted(self.contents)),
        )

    def serves(self):
        """True if a domain of that name, or either side of its replacement, runs on its bridge."""
        return any(
            one.domain.name.split("~")[0] == NAME and one.state == "running" and one.domid not in self.off_bridge
            for one in self.domains.values()
        )

    def perform(self, step):
        if self.dead:
            raise Died
        number, self.step = self.step, self.step + 1
        fault = self.faults.get(number)
        if not fault or self.late:
            getattr(self, type(step).__name__)(step)
        if fault:
            self.dead = isinstance(fault, Died)
            raise fault

    # -- one method for each primitive ---------------------------------------------------------------

    def Build(self, step):
        assert step.name not in self.domains, "Xen refuses a name that is taken"
        domain = dataclasses.replace(self.catalogue[step.text.replace(f'"{step.name}"', f'"{NAME}"')], name=step.name)
        for disk in domain.disks:
            assert disk.path in self.disks, "Xen refuses a disk that is not there"
            for other in self.domains.values():
                used = [one for one in other.domain.disks if one.path == disk.path and "w" in (one.access, disk.access)]
                assert not used, "two domains have one disk, and one of them writes"
        self.domid += 1
        # Hide what Xen doesn't report.
        known = dataclasses.replace(domain, extra_config=(), service="")
        self.domains[step.name] = Observed(self.domid, "paused", known, domain.vcpus)
        self.texts[self.domid] = step.text.replace(f'"{step.name}"', f'"{NAME}"')

    def Rename(self, step):
        assert step.new not in self.domains
        one = self.domains.pop(step.name)
        self.domains[step.new] = dataclasses.replace(one, domain=dataclasses.replace(one.domain, name=step.new))

    def _state(self, name, state):
        self.domains[name] = dataclasses.replace(self.domains[name], state=state)

    def Pause(self, step):
        if self.domains[step.name].state == "running":
            self._state(step.name, "paused")

    def Unpause(self, step):
        if self.domains[step.name].state == "paused":
            self._state(step.name, "running")

    def Destroy(self, step):
        self.domains.pop(step.name, None)

    Shutdown = Destroy

    def AwaitHealthy(self, step):
        one = self.domains.get(step.name)
        if one is None or one.state != "running":
            raise Failed("it ended by itself")
        if self.texts.get(one.domid) in self.sick:
            raise Failed("not healthy")
        assert one.domid not in self.off_bridge, "nobody can reach it, so nobody may call it healthy"

    def AwaitConsole(self, step):
        if self.texts.get(self.domains[step.name].domid) in self.sick:
            raise Failed("it did not print it")

    def LeaveBridge(self, step):
        self.off_bridge.add(self.domains[step.name].domid)

    def JoinBridge(self, step):
        others = [one for one in self.domains.values() if one.domain.name.split("~")[0] == NAME and one.state == "running"]
        domid = self.domains[step.name].domid
        assert all(one.domid == domid or one.domid in self.off_bridge for one in others), "two domains answer at one address"
        self.off_bridge.discard(domid)

    def LeadTo(self, step):
        assert step.name in self.domains

    def Announce(self, step):
        pass

    ReopenConsoles = ForgetConsole = Announce

    def WriteIntent(self, step):
        self.intents[step.name] = Intent(step.text, step.former)

    def RemoveIntent(self, step):
        self.intents.pop(step.name, None)

    def Define(self, step):
        self.definitions[step.name] = step.text
        self.intents.pop(step.name, None)

    def Undefine(self, step):
        self.definitions.pop(step.name, None)
        self.intents.pop(step.name, None)

    def Autostart(self, step):
        self.autostart.add(step.name)

    def NoAutostart(self, step):
        self.autostart.discard(step.name)

    def MakeDisk(self, step):
        assert step.origin.path not in self.disks, "what is there is never overwritten"
        self.disks[step.origin.path] = step.origin.size or 512
        if step.origin.content is not None:
            self.contents.add(step.origin.path)

    def GrowDisk(self, step):
        assert not any(disk.path == step.origin.path for one in self.domains.values() for disk in one.domain.disks)
        self.disks[step.origin.path] = max(self.disks[step.origin.path], step.origin.size)

    def RemoveDisk(self, step):
        assert not any(disk.path == step.path for one in self.domains.values() for disk in one.domain.disks)
        self.disks.pop(step.path, None)
        self.contents.discard(step.path)

    def _change(self, name, **values):
        one = self.domains[name]
        assert one.state == "running"
        self.domains[name] = dataclasses.replace(one, domain=dataclasses.replace(one.domain, **values))

    def SetVcpus(self, step):
        self._change(step.name, vcpus=step.count)

    def PinCpus(self, step):
        self._change(step.name, cpus="" if step.cpus == "all" else step.cpus)

    def SetShare(self, step):
        self._change(step.name, **{step.option: step.value})

    def _devices(self, step):
        option = "disks" if isinstance(step.device, do.Disk) else "interfaces"
        return option, getattr(self.domains[step.name].domain, option)

    def Attach(self, step):
        option, devices = self._devices(step)
        self._change(step.name, **{option: (*devices, step.device)})

    def Detach(self, step):
        option, devices = self._devices(step)
        self._change(step.name, **{option: tuple(one for one in devices if one != step.device)})


# -- strategies ------------------------------------------------------------------------------------

VARIANTS = st.fixed_dictionaries(
    {},
    optional={
        "vcpus": st.sampled_from([1, 2]),
        "cpu_weight": st.sampled_from([256, 512]),
        "cap": st.sampled_from([0, 50]),
        "extra_config": st.sampled_from([{}, {"max_grant_frames": 64}]),
        "interfaces": st.sampled_from([[], [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]]),
        "disks": st.sampled_from(
            [
                [],
                [{"content": "one"}],
                [{"content": "two"}],
                [{"path": DATA, "size": 4, "access": "w"}],
                [{"path": DATA, "size": 8, "access": "w"}],
                [{"content": "one"}, {"path": DATA, "size": 4}],
            ]
        ),
    },
)
UPDATES = st.sampled_from([{"update": "standby"}, {"update": "recreate"}, {"update": "warm", "ready": "ready"}])
DECLARATIONS = st.builds(
    lambda memory, state, autostart, more, how, live: declare(
        memory, state=state, live=live, **({} if autostart is None else {"autostart": autostart}), **more, **how
    ),
    st.sampled_from([64, 96]),
    st.sampled_from(["running", "paused", "stopped", "absent"]),
    st.sampled_from([None, True, False]),
    VARIANTS,
    UPDATES,
    st.booleans(),
)


def _host_of(current, standby, previous, defined, intent, autostart, size):
    domains = [FOREIGN]
    if current:
        domains.append(running(current[0], state=current[1], **current[2]))
    if standby:
        domains.append(running(96, NAME + NEXT, "paused", 8))
    if previous:
        domains.append(running(64, NAME + PREVIOUS, previous, 6))
    contents = [content_path(NAME, "xvda", text) for text in ("one", "two", "old")]
    sizes = {path: 512 for path in contents[: 1 + size]}
    # The disks that a domain has open, or could be started again with, exist.
    known = [one.domain for one in domains] + ([declare(defined[0], **defined[1]).domain] if defined else [])
    sizes.update({disk.path: 512 for domain in known for disk in domain.disks})
    if size or DATA in sizes:
        sizes[DATA] = 4 * MIB if size < 2 else 2 * MIB
    return host(
        *[dataclasses.replace(one, domain=dataclasses.replace(one.domain, extra_config=())) for one in domains],
        definitions={NAME: xl_config(declare(defined[0], **defined[1]).domain)} if defined else {},
        intents={NAME: Intent(xl_config(declare(intent[0], **intent[1]).domain), intent[2])} if intent else {},
        autostart=frozenset([NAME] if autostart else []),
        disk_sizes=sizes,
        content_disks=tuple(path for path in sizes if path != DATA),
    )


# Any mixture of leftovers, even one that none of our runs leaves.
HOSTS = st.builds(
    _host_of,
    st.none() | st.tuples(st.sampled_from([64, 96]), st.sampled_from(["running", "paused", "shutdown"]), VARIANTS),
    st.booleans(),
    st.none() | st.sampled_from(["paused", "paused", "running", "shutdown"]),
    st.none() | st.tuples(st.sampled_from([64, 96]), VARIANTS),
    st.none() | st.tuples(st.sampled_from([64, 96]), VARIANTS, st.sampled_from(["running", "paused", "stopped", "absent"])),
    st.booleans(),
    st.integers(0, 2),
)


def catalogue(*domains):
    return {xl_config(domain): domain for domain in domains}
