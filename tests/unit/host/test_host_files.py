"""Files on a host: written atomically, and nothing that others wrote in them is lost."""

import os
import stat
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.files import BEGIN, END, FilesError, apply, with_block
from hypothesis import given
from hypothesis import strategies as st

OURS = "x=1\ny=2\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", []),
        ("a\nb", ["a", "b"]),
        ("a\r\n\x0cb\n\n", ["a\r", "\x0cb", ""]),
        (f"a\n{BEGIN}\nold=1\n{END}\nb\n", ["a", "b"]),
        # The end mark was lost: whatever is not certainly ours stays.
        (f"a\n{BEGIN}\nx=1\ny=2\nb\nc\n", ["a", "b", "c"]),
        (f"a\n{BEGIN}\nold=1\nb\n", ["a", "old=1", "b"]),
        (f"a\n{BEGIN}\nx=1\n{BEGIN}\nold\n{END}\nb\n", ["a", "b"]),
        (f"a\n{END}\nb\n{BEGIN}\nold\n{END}\n", ["a", "b"]),
        (f"{BEGIN}\n{BEGIN}\nb\n", ["b"]),
    ],
)
def test_the_rest_of_a_file_stays(text, kept):
    assert with_block(text, OURS) == "\n".join([*kept, BEGIN, "x=1", "y=2", END, ""])


@given(st.lists(st.sampled_from(["a", "x=1", BEGIN, END, ""])))
def test_written_twice_is_written_once(rows):
    once = with_block("\n".join(rows), OURS)
    assert with_block(once, OURS) == once
    assert once.count(BEGIN) == 1
    assert once.splitlines().count("a") <= rows.count("a")


def wanted(tmp_path, **more):
    files = [{"path": f"{tmp_path}/in/file", "content": "new\n", "mode": "0600", "block": False}]
    folders = [{"path": f"{tmp_path}/in", "mode": "0700"}]
    links = [{"path": f"{tmp_path}/wants/file", "target": "../in/file"}]
    return {"files": files, "folders": folders, "links": links, "absent": [f"{tmp_path}/old"], **more}


def test_all_of_it_once(tmp_path):
    (tmp_path / "old").write_text("")
    everything = [f"{tmp_path}/{name}" for name in ("in", "in/file", "wants/file", "old")]
    assert apply(wanted(tmp_path), True).paths == everything
    assert os.listdir(tmp_path) == ["old"]
    changes = apply(wanted(tmp_path), False)
    assert changes.paths == everything
    assert [diff["after"] for diff in changes.diffs] == ["new\n"]
    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "in/file").stat().st_mode) == 0o600
    assert (tmp_path / "wants/file").read_text() == "new\n"
    assert not (tmp_path / "old").exists()
    assert apply(wanted(tmp_path), False).paths == []


def test_bytes_that_are_no_text_stay(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"latin: \xe9\n")
    entry = {"path": str(path), "content": "x", "mode": "0644", "block": True}
    changes = apply(wanted(tmp_path, files=[entry], links=[]), False)
    assert path.read_bytes().startswith(b"latin: \xe9\n")
    assert "latin: ?" in changes.diffs[0]["before"]


@pytest.mark.parametrize("mode", ["", "9", "rw", "-1", "77777"])
def test_a_mode_that_is_none(tmp_path, mode):
    entry = {"path": f"{tmp_path}/file", "content": "", "mode": mode, "block": False}
    with pytest.raises(FilesError, match=rf"^{tmp_path}/file: mode is '{mode}', must be octal"):
        apply(wanted(tmp_path, files=[entry]), False)


def test_a_path_that_can_not_be(tmp_path):
    (tmp_path / "in").write_text("a file")
    with pytest.raises(FilesError, match=rf"^{tmp_path}/in: File exists$"):
        apply(wanted(tmp_path), False)


def test_a_task_can_keep_its_files_out_of_the_diff(tmp_path):
    """With --diff Ansible prints every diff that a module returns, whatever the task says."""
    for name, said in (("shown", ""), ("kept", "      diff: false\n")):
        tmp_path.joinpath(f"{name}.yml").write_text(
            "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - unikernels.xen.host_files:\n"
            f"        files: [{{path: {tmp_path}/{name}, content: Static key}}]\n{said}",
            encoding="utf-8",
        )
    printed = {
        name: subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-c", "local", "--diff", tmp_path / f"{name}.yml"],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for name in ("shown", "kept")
    }  # fmt: skip
    assert "Static key" in printed["shown"]
    assert "Static key" not in printed["kept"] and "changed=1" in printed["kept"]


def test_a_files_change_is_not_shown_where_it_says_so(tmp_path):
    files = [
        {"path": f"{tmp_path}/{name}", "content": "new\n", "mode": "0644", "block": False, "diff": shown}
        for name, shown in (("program", False), ("settings", True))
    ]
    changes = apply({"files": files, "folders": [], "links": [], "absent": []}, True)
    assert [diff["after_header"] for diff in changes.diffs] == [f"{tmp_path}/settings"] and len(changes.paths) == 2
