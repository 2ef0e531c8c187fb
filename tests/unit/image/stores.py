"""A controller's store with a signed image, and a host that takes images in."""

import hashlib

from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.arrival import receive
from ansible_collections.unikernels.xen.plugins.module_utils.image.shipping import request_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import point, put

from tests.guests import guest

IMAGE = guest()
DIGEST = hashlib.sha256(IMAGE).hexdigest()
DEFAULTS = {
    "arrived": None, "mirrors": [], "mirror_timeout": 20, "ca_file": None, "signature": "optional", "allowed_signers": None,
    "revoked_keys": None, "kernels": None, "policy_reset": False, "trust": "", "keep": None, "definitions": "/nosuch",
    "names": None, "judge": False, "rollback": False,
}  # fmt: skip
ALL = [f"{DIGEST}.{kind}" for kind in ("json", "provenance.json", "provenance.json.sig", "xen")]


def call(store, check=False, **options):
    params = {**DEFAULTS, "store": str(store), "wanted": {"hello": DIGEST}, **options}
    return receive(request_of(params, check))


class Controller:
    """A controller's store, with a signed image."""

    def __init__(self, folder, keys):
        self.store, self.keys = folder / "controller", keys
        (folder / "hello.xen").write_bytes(IMAGE)
        put(str(self.store), str(folder / "hello.xen"), None, {"name": "hello"}, False)
        text = provenance.statement("hello", DIGEST, built=False, parameters={}, materials=[], builder={}, key="")
        point(str(self.store), "hello", DIGEST, False)
        signature.attach(str(self.store), DIGEST, text, str(keys / "alice"), False, ("hello",))
        self.allowed = (keys / "allowed").read_text()

    def files(self):
        return {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
            for path in self.store.glob(DIGEST + ".*")
        }

    def texts(self):
        return {path.name: path.read_text() for path in self.store.glob(DIGEST + ".*") if path.suffix != ".xen"}


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


def whole(host, controller, **options):
    """A call with everything that the controller has."""
    arrived = host.parent / "arrived"
    arrived.mkdir(exist_ok=True)
    (arrived / f"{DIGEST}.xen").write_bytes(options.pop("image", IMAGE))
    texts = options.pop("texts", controller.texts())
    shipping = {"files": controller.files(), "texts": texts, "arrived": str(arrived), "final": True}
    return call(host, shipping=shipping, **options)


def signed(host, controller, **options):
    trust = str(host.parent / "etc")
    given_options = {"signature": "required", "allowed_signers": controller.allowed, "trust": trust, **options}
    return whole(host, controller, **given_options)
