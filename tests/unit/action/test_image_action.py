"""image_store as playbooks use it, from a controller's store to a host's; here both are folders on this machine."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from ansible_collections.unikernels.xen.plugins.action import image_store as action
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError

from tests.conftest import ROOT
from tests.guests import guest
from tests.unit.image.signers import all_keys, keys  # noqa: F401

IMAGE = guest()
DIGEST = hashlib.sha256(IMAGE).hexdigest()


class Play:
    def __init__(self, folder, keys):  # noqa: F811
        self.folder, self.keys, self.image = folder, keys, folder / "hello.xen"
        self.image.write_bytes(IMAGE)
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"h": host}}}))
        self.common = {
            "controller": str(folder / "controller"),
            "wanted": {"hello": DIGEST},
            "allowed_signers": str(keys / "allowed"),
        }
        etc = str(folder / "etc")
        self.host = {**self.common, "store": str(folder / "host"), "trust": etc, "definitions": etc, "signature": "required"}
        self.put = {
            "unikernels.xen.mirage_image": {"file": str(self.image), "name": "hello", "store": str(folder / "controller")}
        }

    def sign(self, **options):
        return {"unikernels.xen.image_store": {**self.common, "state": "signed", "signature": "required", **options}}

    def ship(self, **options):
        return {"unikernels.xen.image_store": {**self.host, **options}}

    def __call__(self, *tasks, check=False):
        """Return the results of tasks, up to the first that fails."""
        (self.folder / "play.yml").write_text(json.dumps([{"hosts": "h", "gather_facts": False, "tasks": tasks}]))
        done = subprocess.run(
            ["ansible-playbook", "-i", self.folder / "hosts.yml", self.folder / "play.yml", *(["--check"] if check else [])],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "minimal", "ANSIBLE_INVENTORY_ENABLED": "yaml", "ANSIBLE_NOCOLOR": "1",
                 "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split()), done.returncode


@pytest.fixture
def play(tmp_path, keys):  # noqa: F811
    return Play(tmp_path, keys)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


def test_from_the_controller_to_a_host_and_back_to_nothing_to_do(play, tmp_path):
    key = str(play.keys / "alice")
    # Check mode predicts the run: the image is not signed, and there is no key.
    words, code = play(play.put, play.sign(), check=True)
    assert code and "unikernel_images_signing_key: is required: image hello has yet to be built or stored" in words
    words, code = play(play.put, play.sign())
    assert code and f"image hello ({DIGEST[:12]}): is not signed" in words
    assert "set unikernel_images_signing_key to sign it" in words
    words, code = play(play.ship(), check=True)
    assert code and "is not signed" in words and not (tmp_path / "etc").exists()
    # With the key: predicted, done, already done. The host is called twice, then once.
    words, code = play(play.sign(signing_key=key), play.ship(signing_key=key), check=True)
    assert not code and words.count('"changed": true') == 2 and not (tmp_path / "host").exists()
    words, code = play(play.ship(signing_key=str(play.keys / "mallory")), check=True)
    assert code and "is a key that the host's policy does not allow" in words
    words, code = play(play.sign(signing_key=key), play.ship())
    assert not code and words.count('"changed": true') == 2 and "alice@x" in words
    assert len(files(tmp_path / "host")) == 4 and (tmp_path / f"host/{DIGEST}.xen").read_bytes() == IMAGE
    words, code = play(play.sign(signing_key=key), play.ship(), play.ship(allowed_signers=None, signature=None))
    assert not code and '"changed": true' not in words
    # An altered image is shipped again.
    (tmp_path / f"host/{DIGEST}.xen").write_bytes(b"x")
    words, code = play(play.ship())
    assert not code and (tmp_path / f"host/{DIGEST}.xen").read_bytes() == IMAGE


def test_an_older_image_is_refused_in_check_mode_too_unless_it_is_signed_again(play, tmp_path):
    key = {"signing_key": str(play.keys / "alice")}
    (tmp_path / "newer.xen").write_bytes(guest(blocks=(b"newer",)))
    newest = hashlib.sha256((tmp_path / "newer.xen").read_bytes()).hexdigest()
    store = {"name": "hello", "store": str(tmp_path / "controller")}
    put_newer = {"unikernels.xen.mirage_image": {**store, "file": str(tmp_path / "newer.xen")}}
    newer = {"wanted": {"hello": newest}}
    words, code = play(play.put, play.sign(**key), play.ship(), put_newer, play.sign(**key, **newer), play.ship(**newer))
    assert not code, words
    # Another, or an older, controller without the key: its images were signed earlier.
    for check in (True, False):
        words, code = play(play.ship(), check=check)
        assert code and f"image hello ({DIGEST[:12]}): is older (version 20" in words, words
    # The image is declared again: the run signs it as the newest, and check mode predicts that.
    words, code = play(play.put, play.sign(**key), play.ship(**key), check=True)
    assert not code and words.count('"changed": true') == 3
    words, code = play(play.put, play.sign(**key), play.ship(**key))
    assert not code and words.count('"changed": true') == 3
    words, code = play(play.put, play.sign(**key), play.ship(**key))
    assert not code and '"changed": true' not in words
    # A rollback works, with a warning, and the host reports what it has had.
    words, code = play(play.ship(**newer, rollback=True), play.ship(**key, **newer, rollback=True, sign_again=True), check=True)
    assert not code and "hello: goes back to" in words and f'"sha256": "{DIGEST}"' in words


WRONG = [
    ({"valid_days": "x"}, "unikernel_images_valid_days: is 'x', must be a number of days from 0 (never expires) to 36500"),
    ({"valid_days": -1}, "unikernel_images_valid_days: is -1, must be a number of days"),
    ({"valid_days": 36501}, "unikernel_images_valid_days: is 36501, must be a number of days"),
    ({"sign_again": "perhaps"}, "unikernel_images_sign_again: is 'perhaps', must be true or false"),
    ({"signing_key": "mallory"}, "unikernel_images_signing_key: KEYS/mallory: is a key that unikernel_images_allowed"),
    ({"signing_key": "/nosuch"}, "unikernel_images_signing_key: /nosuch is not a file"),
    ({"allowed_signers": "/nosuch"}, "unikernel_images_allowed_signers: /nosuch: No such file or directory"),
    ({"allowed_signers": "nosuch"}, "unikernel_images_allowed_signers: nosuch: no such file on the controller"),
    ({"allowed_signers": None}, "unikernel_images_allowed_signers: is required to check signatures; give it, or"),
    ({"allowed_signers": None, "wanted": {}}, "unikernel_images_allowed_signers: is required to check signatures"),
    ({"revoked_keys": "mallory"}, "unikernel_images_revoked_keys: line 1 has no public key"),
    ({"wanted": ["a"]}, "wanted: must be a mapping of name to digest"),
    ({"names": "a"}, "names: must be a list"),
    ({"wanted": {"hello": "x"}}, "wanted: hello: 'x' is not 64 hexadecimal digits"),
    ({"wanted": {}, "signing_key": "mallory"}, "unikernel_images_allowed_signers does not allow"),
]


def test_what_is_wrong_is_one_line_before_a_host_is_asked(play):
    path = lambda value: str(play.keys / value) if value == "mallory" else value  # noqa: E731
    tasks = [play.sign(**{key: path(value) for key, value in options.items()}) for options, _line in WRONG]
    words, _code = play(*({**task, "ignore_errors": True} for task in tasks))
    answers = words.split("FAILED! =>")[1:]
    assert len(answers) == len(WRONG)
    for answer, (_options, line) in zip(answers, WRONG):
        assert line.replace("KEYS", str(play.keys)) in answer


def test_before_anything_is_built_nothing_is_wanted(play):
    words, code = play(
        play.sign(wanted={}, signing_key=str(play.keys / "alice")),
        play.sign(wanted={}),
        play.sign(wanted={}, signature="optional", allowed_signers=None),
    )
    assert not code and "changed" in words


def test_signing_asks_no_host(play):
    """The lab is not booted yet when its images are signed."""
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    (play.folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"h": away}}}))
    words, code = play(play.sign(wanted={}, signing_key=str(play.keys / "alice")))
    assert not code, words


def test_the_key_that_logs_in_to_the_hosts_signs_nothing(play):
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9,
            "ansible_ssh_private_key_file": "{{ '%s' }}/alice" % play.keys}  # fmt: skip
    (play.folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"h": away}}}))
    words, code = play(play.sign(wanted={}, signing_key=str(play.keys / "alice.pub")))
    assert code and "unikernel_images_signing_key: " in words
    assert "alice.pub is the key that Ansible logs in to h with (ansible_ssh_private_key_file); images need a key of" in words


def test_mirrors_come_first_and_the_controller_last(play, tmp_path):
    words, code = play(play.put, play.ship(signature="optional", mirrors=["http://127.0.0.1:9"]))
    assert not code and "h: mirror http://127.0.0.1:9: url" in words and len(files(tmp_path / "host")) == 3
    words, code = play(
        play.ship(store=str(tmp_path / "other"), controller=None, signature="optional", mirrors=["http://127.0.0.1:9"])
    )
    assert code and "mirror http://127.0.0.1:9: url http://127.0.0.1:9/" in words and files(tmp_path / "other") == []
    words, code = play(play.ship(store=str(tmp_path / "other"), wanted={"a": "0" * 64}))
    assert code and f"image {'0' * 64}: is neither on the host nor in {tmp_path}/controller" in words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "the host's answer has no 'changed'"),
        ({"changed": "yes"}, "the host's answer has no 'changed'"),
        ({"changed": True, "missing": None}, "the host's answer has 'missing', which is not a list of lines"),
        ({"changed": True, "missing": {"a": 1}}, "has 'missing', which is not"),
        ({"changed": True, "notes": [1]}, "has 'notes', which is not"),
        ({"changed": True, "removed": "x"}, "has 'removed', which is not"),
    ],
)
def test_an_answer_that_is_none_of_the_module_is_one_line(answer, words):
    with pytest.raises(StoreError, match=words):
        action._understood(answer)


@pytest.mark.parametrize("option", ["allowed_signers", "revoked_keys"])
def test_a_list_of_keys_that_is_no_file_is_one_line(tmp_path, option):
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (5 << 20))
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbf# from an editor\n")
    for name, words in (
        ("pipe", "is not a file"),
        ("large", "has more than"),
        ("nosuch", "No such file"),
        ("", "Is a directory"),
    ):
        with pytest.raises(PolicyError, match=f"^unikernel_images_{option}: {tmp_path}/?{name}: {words}"):
            action.ActionModule._text(None, {option: f"{tmp_path}/{name}"}, option)
    assert action.ActionModule._text(None, {option: f"{tmp_path}/mark"}, option) == "# from an editor\n"


@pytest.mark.parametrize(
    "held", [1, [], "x", {"signature": "maybe"}, {"kernels": [1]}, {"more": 1}, {"allowed_signers": ["\ud800"]}]
)
def test_a_hosts_policy_that_is_none_is_one_line(held):
    with pytest.raises(StoreError, match="the host's answer has no policy of images"):
        action._policy_of(held)


def test_what_a_host_says_is_shown_without_control_characters():
    answer = action._understood({"changed": False, "notes": ["\x1b[2Jx\ny"], "missing": []})
    assert answer["notes"] == ["?[2Jx?y"] and action._policy_of({"signature": "optional", "kernels": None}).required is False


def test_a_statement_about_another_source_is_not_signed(play, tmp_path):
    key, store = str(play.keys / "alice"), str(tmp_path / "controller")
    put = {"unikernels.xen.mirage_image": {"file": str(play.image), "name": "hello", "store": store}}
    sign = play.sign(signing_key=key, wanted={"hello": "{{ got }}"}, origins={"hello": {"file": str(play.image)}})
    other = play.sign(signing_key=key, wanted={"hello": "{{ got }}"}, origins={"hello": {"standin": "web"}})
    words, code = play({**put, "register": "got"}, sign, sign)
    assert not code and words.count('"changed": true') == 2 and '"uri": "file:hello.xen"' in words
    for check in (True, False):
        words, code = play({**put, "register": "got"}, other, check=check)
        assert code and "the image of hello was made from file:hello.xen, declared is standin:web; remove" in words
