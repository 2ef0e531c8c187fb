"""A double of Dom0: `xl` with the exit codes and output of Xen 4.17, keys of xenstore, and the other tools.

It records each call, creates domains from the texts it is given, and can be made to fail at any call. It knows nothing of the
code under test.
"""

import json
import re
import subprocess


class Xen:
    """``calls``: every command line. ``hooks``: first words of a command -> function called before it is carried out.

    If that returns (code, text), this is the command's result instead.
    """

    def __init__(self):
        self.domains = {}  # name -> {domid, state, reason, config (of the xl file), seconds}
        self.calls = []
        self.hooks = {}
        self.next_domid = 1
        self.free = 4096
        self.on_unpause = {}  # name -> called with the domain's record when it starts to run
        self.dmesg = ""
        self.store = {}  # path -> value, in addition to the domains' keys

    def add(self, name, text, state="running"):
        values = {}
        exec(text, {}, values)  # noqa: S102 - an xl file of ours is Python's grammar too
        self.domains[name] = {"domid": self.next_domid, "state": state, "reason": "", "config": values, "seconds": 1.0}
        record = f"/vm/{values['uuid']}"
        self.store.update({f"{record}/uuid": values["uuid"], f"{record}/name": name})
        self.store[f"{record}/start_time"] = f"{1700000000 + self.next_domid}.25"
        self.next_domid += 1
        return self.domains[name]

    def run(self, command, *_limits, **_options):
        self.calls.append(" ".join(command))
        for words, hook in list(self.hooks.items()):
            if self.calls[-1].startswith(words):
                answer = hook()
                if answer is not None:
                    return subprocess.CompletedProcess(command, answer[0], answer[1] if not answer[0] else "", answer[1])
        if command[0] != "xl":
            return subprocess.CompletedProcess(command, 0, "", "")
        code, out, err = getattr(self, "xl_" + command[1].replace("-", "_"))(*command[2:])
        return subprocess.CompletedProcess(command, code, out, err)

    # -- xl ------------------------------------------------------------------------------------------

    def xl_info(self, *_flags):
        return 0, f"host : dom0\nnr_cpus                : 4\nfree_memory            : {self.free}\n", ""

    def xl_list(self, flag, name=None):
        if flag == "-l":
            return 0, json.dumps([self._libxl(one, record) for one, record in self.domains.items()]), ""
        rows = ["Name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label"]
        for one, record in self.domains.items():
            if name in (None, one):
                state = {"running": "-b----", "paused": "--p---", "shutdown": "---s--", "dying": "-----d"}[record["state"]]
                reason = {"": "-", "poweroff": "0", "reboot": "1", "crash": "3"}[record["reason"]]
                memory = record["config"]["memory"]
                rows.append(
                    f"{one} {record['domid']} {memory} 1 {state} {record['seconds']:.1f} {record['config']['uuid']} {reason} -"
                )
        if name is not None and len(rows) == 1:
            return 1, "", f"{name} is an invalid domain identifier (rc=-6)"
        return 0, "\n".join(rows) + "\n", ""

    @staticmethod
    def _libxl(name, record):
        values = record["config"]
        build = {
            "max_memkb": values["maxmem"] * 1024,
            "target_memkb": values["memory"] * 1024,
            "kernel": values["kernel"],
            "max_vcpus": record.get("max_vcpus", values["vcpus"]),
            "avail_vcpus": list(range(values["vcpus"])),
            "sched_params": {key: values[word] for key, word in (("weight", "cpu_weight"), ("cap", "cap")) if word in values},
        }
        if "cmdline" in values:
            build["cmdline"] = values["cmdline"]
        nics = [dict(word.split("=", 1) for word in one.split(",")) for one in values.get("vif", [])]
        nics = [
            {"devid": index, **{key: nic[key] for key in nic if key in ("mac", "bridge", "ip", "script")}}
            for index, nic in enumerate(nics)
        ]
        disks = []
        for one in values.get("disk", []):
            head, _target, path = one.partition("target=")
            words = dict(word.split("=", 1) for word in head.rstrip(",").split(","))
            disks.append(
                {"pdev_path": path, "vdev": words["vdev"], "format": words["format"], "readwrite": int(words["access"] == "w")}
            )
        config = {
            "c_info": {"type": values["type"], "name": name, "uuid": values["uuid"]},
            "b_info": build,
            "nics": nics,
            "disks": disks,
        }
        config.update({key: values[key].replace("-", "_") for key in ("on_poweroff", "on_reboot", "on_crash")})
        return {"domid": record["domid"], "config": config}

    def xl_create(self, *words):
        *flags, path = words
        with open(path, encoding="utf-8") as file:
            text = file.read()
        name = re.search(r'^name = "(.*)"$', text, re.MULTILINE).group(1)
        if name in self.domains:
            return 3, "", f'Domain with name "{name}" already exists.'
        self.add(name, text, "paused" if flags == ["-p"] else "running")
        return 0, "", f"Parsing config from {path}"

    def _named(self, word):
        """xl accepts a domain id too."""
        return next((one for one, record in self.domains.items() if str(record["domid"]) == word), word)

    def _known(self, name):
        return (0, "", "") if name in self.domains else (1, "", f"{name} is an invalid domain identifier (rc=-6)")

    def xl_rename(self, name, new):
        answer = self._known(name)
        if not answer[0]:
            assert new not in self.domains, "xl takes a second domain of one name; nobody may give it one"
            self.domains[new] = self.domains.pop(name)
        return answer

    def xl_pause(self, word):
        name = self._named(word)
        answer = self._known(name)
        if not answer[0]:
            self.domains[name]["state"] = "paused"
        return answer

    def xl_unpause(self, name):
        answer = self._known(name)
        if not answer[0]:
            self.domains[name]["state"] = "running"
            self.on_unpause.get(name, lambda record: None)(self.domains[name])
        return answer

    def xl_destroy(self, word):
        name = self._named(word)
        answer = self._known(name)
        record = self.domains.pop(name, None)
        if record:  # with all that libxl has of its id and its UUID, whoever else has that UUID
            gone = (f"/local/domain/{record['domid']}/", f"/vm/{record['config']['uuid']}/")
            self.store = {path: value for path, value in self.store.items() if not path.startswith(gone)}
        return answer

    def xl_shutdown(self, name):
        return 1, "", "guest didn't acknowledge control request: -9"

    def xl_vcpu_list(self, name=None):
        rows = ["Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)"]
        for one, record in self.domains.items():
            if name in (None, one):
                pinned = record["config"].get("cpus", "all")
                rows += [f"{one} {record['domid']} {vcpu} 0 -b- 1.0 {pinned} / all" for vcpu in range(record["config"]["vcpus"])]
        return 0, "\n".join(rows) + "\n", ""

    def xl_vcpu_set(self, name, count):
        record = self.domains[name]
        record.setdefault("max_vcpus", record["config"]["vcpus"])
        record["config"]["vcpus"] = int(count)
        return 0, "", ""

    def xl_vcpu_pin(self, name, _vcpus, cpus):
        self.domains[name]["config"]["cpus"] = cpus
        return 0, "", ""

    def xl_sched_credit2(self, _flag, name, option, value):
        self.domains[name]["config"][{"-w": "cpu_weight", "-c": "cap"}[option]] = int(value)
        return 0, "", ""

    def xl_block_attach(self, name, text):
        self.domains[name]["config"].setdefault("disk", []).append(text)
        return 0, "", ""

    def xl_block_detach(self, *words):
        *_flags, name, vdev = words
        disks = self.domains[name]["config"]["disk"]
        self.domains[name]["config"]["disk"] = [one for one in disks if f"vdev={vdev}," not in one]
        return 0, "", ""

    def xl_network_attach(self, name, *words):
        self.domains[name]["config"].setdefault("vif", []).append(",".join(words))
        return 0, "", ""

    def xl_network_detach(self, name, devid):
        self.domains[name]["config"]["vif"].pop(int(devid))
        return 0, "", ""

    def xl_dmesg(self):
        return 0, self.dmesg, ""

    # -- xenstore ------------------------------------------------------------------------------------

    def xenstore(self):
        return Store(self)


class Store:
    """The keys that libxl writes for the domains of a `Xen`."""

    def __init__(self, xen):
        self.xen = xen

    def __enter__(self):
        return self

    def __exit__(self, *_reason):
        pass

    def _tree(self):
        tree = dict(self.xen.store)
        for name, record in self.xen.domains.items():
            domid = record["domid"]
            tree[f"/local/domain/{domid}/name"] = name
            tree[f"/local/domain/{domid}/vm"] = f"/vm/{record['config']['uuid']}"
            for index, vif in enumerate(record["config"].get("vif", [])):
                for key, value in (word.split("=", 1) for word in vif.split(",")):
                    tree[f"/libxl/{domid}/device/vif/{index}/{key}"] = value
                tree.setdefault(f"/local/domain/{domid}/device/vif/{index}/state", "4")
            for index, _disk in enumerate(record["config"].get("disk", [])):
                tree[f"/libxl/{domid}/device/vbd/{index}/dev"] = "x"
                tree.setdefault(f"/local/domain/{domid}/device/vbd/{index}/state", "4")
        return tree

    def read(self, paths):
        tree = self._tree()
        return [tree.get(path) for path in paths]

    def directories(self, paths):
        tree = self._tree()
        return [sorted({key[len(path) + 1 :].split("/")[0] for key in tree if key.startswith(path + "/")}) for path in paths]

    def write(self, path, value):
        self.xen.store[path] = value
