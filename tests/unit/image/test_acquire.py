"""What mirage_image does with its options, and which parts of them are never shown."""

import hashlib
import importlib
import json
import os
import pathlib
import re
import shutil

import pytest
from ansible.module_utils import basic
from ansible_collections.unikernels.xen.plugins.module_utils.image.acquire import acquire, shown
from ansible_collections.unikernels.xen.plugins.module_utils.image.addresses import secrets_in, secrets_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError

from tests.doubles import HELLO, make_toolchain
from tests.guests import guest

ROOT = pathlib.Path(__file__).parents[3]
WORD = "ghp_0123456789abcdef"


@pytest.fixture
def params(tmp_path):
    found = dict.fromkeys(("source", "version", "lock", "lock_text", "signing_key", "file", "url", "sha256"))
    found.update(store=str(tmp_path / "store"), work=str(tmp_path / "work"), toolchain=str(tmp_path / "tools"), subfolder="")
    found.update(
        configure=[],
        overlay={},
        update_lock=False,
        sandbox=True,
        verify_reproducible=False,
        timeout=60,
        name="",
        require_commit=False,
    )
    return found


def test_an_image_that_is_got_leaves_no_word_of_the_address_that_is_secret(params, tmp_path):
    data = guest(b"x" * 100)
    (tmp_path / "image").write_bytes(data)
    asked = []

    def download(url, path, _digest):
        asked.append(url)
        shutil.copy(tmp_path / "image", path)
        return True

    url = f"https://me:{WORD}@example.net/x.xen?token={WORD}"
    _changed, result = acquire({**params, "url": url, "sha256": hashlib.sha256(data).hexdigest(), "name": "x"}, False, download)
    assert asked == [url]
    words = json.dumps(result) + "".join(
        open(os.path.join(params["store"], name), encoding="latin-1").read()
        for name in os.listdir(params["store"])
        if os.path.isfile(os.path.join(params["store"], name))
    )
    assert WORD not in words and "https://example.net/x.xen" in words
    assert secrets_of(url) == {WORD, f"token={WORD}"}
    with pytest.raises(StoreError) as failure:
        acquire({**params, "url": url, "sha256": "0" * 64}, False, lambda *_: False)
    assert WORD not in str(failure.value)


def test_an_address_that_cannot_be_read_is_not_shown():
    url = f"https://{WORD}@[::1/x"
    assert WORD not in shown(url) and secrets_of(url) == {WORD}


SECRET_URL = f"https://{WORD}@example.net/x"
WITH_ADDRESSES = [
    ("mirage_image", {"source": SECRET_URL, "store": "/nosuch", "work": "/nosuch"}),
    ("mirage_image", {"url": SECRET_URL, "sha256": "0", "store": "/nosuch"}),
    ("image_store", {"mirrors": [SECRET_URL], "keep": -1}),
    ("mirage_toolchain", {"ocaml": "5", "packages": {}, "proxy": f"http://{WORD}@proxy:3128"}),
    ("mirage_toolchain", {"ocaml": "5", "packages": {}, "overlays": {"x": SECRET_URL}}),
    ("standin_image", {"service": "web", "files": "/", "store": "/nosuch", "cache": "/nosuch",
                       "sources": [f"deb {SECRET_URL} bookworm main"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), WITH_ADDRESSES)
def test_a_token_is_in_no_log_of_the_machine_and_in_no_result(name, options, monkeypatch, capsys):
    """Ansible writes each module's options into the journal before the module runs."""
    lines = []
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": options}).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _self, msg, log_args=None: lines.append(f"{msg} {log_args}"))
    module = importlib.import_module(f"ansible_collections.unikernels.xen.plugins.modules.{name}")
    with pytest.raises(SystemExit):
        module.main()
    result = capsys.readouterr().out
    assert json.loads(result)["failed"] and lines and "Invoked with" in lines[0]
    assert WORD not in result and WORD not in "".join(lines)


def test_secrets_are_found_wherever_an_option_has_them():
    assert set(secrets_in({"a": [f"deb {SECRET_URL} x"], "b": {"c": SECRET_URL}, "d": 1, "e": None})) == {WORD}
    assert set(secrets_in("git@example.net:x https://example.net/x file:///x")) == set()


@pytest.mark.parametrize("path", ["build", "get"])
def test_no_loop_is_over_addresses(path):
    """Ansible prints the item of a failure, whatever the label is."""
    tasks = (ROOT / f"roles/unikernel_images/tasks/{path}.yml").read_text()
    assert "item.value" not in tasks
    loops = re.findall(r"loop: (?:>-\n)?((?:.|\n)*?)\n +(?:#|[a-z_]+:)", tasks)
    assert len(loops) == tasks.count("loop:") and all(
        "dict2items" not in loop or "map(attribute='key')" in loop for loop in loops
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": f"https://{WORD}@example.net/x.git"}, "source https://example.net/x.git: a git repository needs version"),
        ({"source": "https://example.net/x.git", "version": "main", "update_lock": True}, "give lock: the file"),
        ({"source": "https://example.net/x.git", "version": "main", "require_commit": True}, "'main': anyone who can push"),
        ({"source": "/nonexistent", "version": "main"}, "are for a git repository"),
    ],
)
def test_what_does_not_go_together(params, change, words):
    with pytest.raises(BuildError) as failure:
        acquire({**params, **change}, False, lambda *_: False)
    assert words in str(failure.value) and WORD not in str(failure.value)


def test_a_lock_file_comes_as_text_where_it_lies_elsewhere(params, tmp_path):
    make_toolchain(tmp_path / "tools")
    shutil.copytree(HELLO, tmp_path / "hello")
    lock = tmp_path / "hello/mirage/hello-xen.opam.locked"
    text = lock.read_text()
    lock.unlink()
    params = {**params, "source": str(tmp_path / "hello"), "lock_text": text}
    assert acquire(params, False, lambda *_: False)[0]
    assert not acquire(params, False, lambda *_: False)[0]
    assert acquire({**params, "lock_text": text + "# other"}, True, lambda *_: False)[0]
