"""The way of a web server's content to its host: packed only where it is missing, and refused where it changed meanwhile."""

# SPDX-License-Identifier: GPL-3.0-or-later

import os
import types

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import contents
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_archive import digest_of
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_shipping import ship


class Action:
    """An action whose host is a folder."""

    def __init__(self, top, check=False):
        self.top, self.sent, self.calls = top, [], 0
        self._task = types.SimpleNamespace(check_mode=check)
        self._connection = types.SimpleNamespace(_shell=types.SimpleNamespace(join_path=os.path.join))

    def _execute_module(self, module_name, module_args, task_vars):
        assert module_name == "unikernels.xen.content_store"
        self.calls += 1
        return contents.receive(str(self.top / "store"), module_args["wanted"], module_args.get("arrived", ""), False)

    def _make_tmp_path(self):
        (self.top / "tmp").mkdir()
        return str(self.top / "tmp")

    def _transfer_file(self, local, remote):
        self.sent.append(os.path.basename(remote))
        with open(local, "rb") as source, open(remote, "wb") as target:
            target.write(source.read())

    def _fixup_perms2(self, paths):
        pass

    def _remove_tmp_path(self, folder):
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


@pytest.fixture
def www(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("hello")
    return str(tmp_path / "www")


def test_what_the_host_has_is_not_sent_again(tmp_path, www):
    digest, action = digest_of(www), Action(tmp_path)
    assert ship(action, {digest: www}, {}) == ""
    assert (action.sent, action.calls) == ([f"{digest}.tar"], 2)
    assert ship(action, {digest: www}, {}) == ""
    assert (len(action.sent), action.calls, (tmp_path / "tmp").exists()) == (1, 3, False)


def test_check_mode_sends_nothing(tmp_path, www):
    action = Action(tmp_path, check=True)
    assert ship(action, {digest_of(www): www}, {}) == ""
    assert (action.sent, (tmp_path / "store").exists()) == ([], False)


def test_content_that_changed_meanwhile_is_refused(tmp_path, www):
    digest, action = digest_of(www), Action(tmp_path)
    with open(f"{www}/index.html", "w", encoding="utf-8") as page:
        page.write("other")
    reason = ship(action, {digest: www}, {})
    assert reason == f"web_content: {www} has changed since this run read it; run again when nothing writes there"
    assert not (tmp_path / "tmp").exists() and not (tmp_path / "store").exists()


def test_content_that_is_gone_meanwhile_is_one_line(tmp_path, www):
    digest = digest_of(www)
    os.unlink(f"{www}/index.html")
    os.rmdir(www)
    reason = ship(Action(tmp_path), {digest: www}, {})
    assert reason.startswith("web_content: ") and www in reason and "\n" not in reason
    assert not (tmp_path / "tmp").exists()


@pytest.mark.parametrize("answer", [{"failed": True, "msg": "no room"}, {}, {"missing": "all"}])
def test_a_host_that_fails_is_reported(tmp_path, www, answer):
    action = Action(tmp_path)
    action._execute_module = lambda **_options: answer
    reason = ship(action, {digest_of(www): www}, {})
    assert reason == f"the host did not take in the content of web servers: {answer.get('msg', 'it answered nothing')}"


def test_a_host_gets_only_what_was_declared(tmp_path, www):
    action = Action(tmp_path)
    action._execute_module = lambda **_options: {"missing": ["../../etc/passwd", 1]}
    assert ship(action, {digest_of(www): www}, {}) == "" and action.sent == []
