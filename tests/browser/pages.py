"""A fleet as its hosts might report: mostly healthy, some unhealthy, one lost, one hostile."""

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.status import status_of

DIGESTS = ("a5f4" * 16, "09be" * 16)
# Answers of a hostile host. If executed, each would change the title or contact a server.
HOSTILE = (
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    '"><svg onload="document.title=\'run\'">',
    "' onmouseover='document.title=1' x='",
    "<iframe src=http://127.0.0.1:9/></iframe><base href=http://127.0.0.1:9/>",
    "&lt;b&gt; &amp; \u202e\u0000\u0007 javascript:document.title='run'",
)


def domain(number, name, image, **more):
    return {
        "name": name, "domid": number, "state": "running", "memory": 32, "owner": "unikernels",
        "image": {"name": image, "sha256": DIGESTS[0], "standin": name == "dns"}, **more,
    }  # fmt: skip


def answers(number):
    """Return what the modules returned for a host."""
    names = [("www", "web"), ("dns", "dns")] if number % 2 else [("www", "web")]
    domains = [domain(index, *pair) for index, pair in enumerate(names, 1)]
    declared = [{"name": name, "state": "running", "sha256": DIGESTS[0], "memory": 32} for name, _image in names]
    health = {"answers": [{"name": name, "healthy": True, "msg": ""} for name, _image in names]}
    facts = {"xen_version": "4.17.5" if number % 3 else "4.20.1", "under_xen": True, "free_memory": 1024 + 37 * number % 9000}
    generation = {
        "number": 7 + number % 5, "time": "2026-11-27 10:11:12 UTC", "by": "operator@controller", "result": "applied",
        "rollout": "20261127T101112Z-0a1b2c", "domains": declared,
    }  # fmt: skip
    if number % 100 == 2:
        health["answers"][0] = {"name": "www", "healthy": False, "msg": "http://10.0.0.9/ answered 503 instead of 200 after 30 s"}
    if number % 100 == 3:
        declared[0]["sha256"] = DIGESTS[1]
        facts["pending_reboot"] = True
    return {
        "host": {"host": facts}, "domains": {"domains": domains}, "generations": {"generations": [generation]}, "health": health,
    }  # fmt: skip


def fleet_of(count):
    hosts = [status_of(f"xen-{number:04}.example.net", answers(number)) for number in range(1, count)]
    hosts.append(status_of("xen-lost.example.net", {"host": {"unreachable": True, "msg": "ssh: connect to host: timed out"}}))
    return hosts


def hostile_fleet():
    """Every text that a host can choose is one of HOSTILE."""
    hosts = []
    for number, text in enumerate(HOSTILE):
        known = answers(number)
        known["host"]["host"]["xen_version"] = text
        known["domains"]["domains"][0].update(name=text, state=text, image={"name": text, "sha256": text})
        known["generations"]["generations"][0].update(number=text, time=text, by=text, rollout=text)
        known["health"] = {"answers": [{"name": text, "healthy": False, "msg": text}]}
        hosts += [status_of(f"xen-{number}", known), status_of(f"lost-{number}", {"host": {"unreachable": True, "msg": text}})]
    return hosts
