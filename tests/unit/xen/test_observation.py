"""The output of xl and xenstored is parsed correctly; the texts were printed by Xen 4.17."""

import pathlib
import socket
import struct
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.inventory.xen_domains import _MARK, answer_of
from ansible_collections.unikernels.xen.plugins.module_utils.xen import xenstore
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import disk_size, parse_list
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError
from hypothesis import given
from hypothesis import strategies as st

LIST = (pathlib.Path(__file__).parent / "xl-list.txt").read_text()


def test_states_and_reasons():
    assert parse_list(LIST) == {
        1: ("running", "", 33.4),
        2: ("paused", "", 0.0),
        3: ("shutdown", "crash", 0.1),
        4: ("dying", "", 2.5),
    }


ROW = LIST.splitlines()[2]


@given(st.lists(st.one_of(st.text(), st.just(ROW))))
def test_among_any_text_the_rows_are_found_and_nothing_else(lines):
    text = "\n".join(["Name ...", *lines])
    rows = parse_list(text)
    if ROW in text.splitlines()[1:]:
        assert rows.pop(1) == ("running", "", 33.4)
    for domid, (state, reason, seconds) in rows.items():
        assert domid > 0 and seconds >= 0
        assert state in {"running", "paused", "shutdown", "dying"} and (state == "shutdown" or not reason)


def test_a_raw_disk_is_as_large_as_its_file_whatever_its_guest_wrote(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"QFI\xfb" + b"\0" * 20 + struct.pack(">Q", 1 << 40) + b"\0" * 480)
    assert disk_size(str(path), "raw") == 512
    assert disk_size(str(path), "qcow2") == 1 << 40
    assert disk_size(str(tmp_path / "none"), "raw") is None


@pytest.fixture
def xenstored(tmp_path, monkeypatch):
    """A socket that answers as the test says, in place of xenstored's."""
    path = str(tmp_path / "socket")
    monkeypatch.setattr(xenstore, "SOCKETS", (path,))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)

    def answer_with(data):
        def serve():
            connection, _address = server.accept()
            connection.recv(65536)
            connection.sendall(data)
            threads.append(connection)  # stays open: a daemon that hangs closes nothing

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

    threads = []
    yield answer_with
    server.close()


def message(kind, body):
    return struct.pack("=IIII", kind, 0, 0, len(body)) + body


def test_values_and_what_is_not_there(xenstored):
    xenstored(message(2, b"www") + message(16, b"ENOENT\0"))
    with xenstore.Xenstore() as store:
        assert store.read(["/local/domain/1/name", "/local/domain/9/name"]) == ["www", None]


def test_a_xenstored_that_hangs_is_given_up(xenstored):
    xenstored(message(2, b"www")[:10])
    with xenstore.Xenstore(timeout=0.2) as store, pytest.raises(ToolstackError, match="xenstored does not answer"):
        store.read(["/local/domain/1/name"])


def test_no_xenstored_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(xenstore, "SOCKETS", (str(tmp_path / "none"),))
    with pytest.raises(ToolstackError, match="xenstored can't be reached"):
        xenstore.Xenstore().__enter__()


def test_a_host_answers_the_inventory():
    listing = (
        '[{"domid": 1, "config": {"c_info": {"name": "www", "type": "pvh", "uuid": "756e696b-f910-8c7c-8d70-d5b08255d57b"},'
        f'"b_info": {{"max_memkb": 163840, "kernel": "/s/{"ab" * 32}.xen", "cmdline": "--ipv4=10.0.2.101/24"}}}}}}]'
    )
    text = f"\n{_MARK}\n".join(
        [
            LIST.rstrip(),
            listing,
            '=old.cfg\nname = "old"\n=www.cfg\n# service: web\nname = "www"',
            "www.cfg",
            f'{{"sha256": "{"ab" * 32}", "name": "site", "standin": true}}\n',
        ]
    )
    running, stopped = answer_of(text)
    assert (running["xen_domain"], running["xen_state"], running["ansible_host"]) == ("www", "running", "10.0.2.101")
    assert (running["xen_service"], running["xen_image_name"], running["xen_standin"]) == ("web", "site", True)
    assert running["xen_autostart"]
    assert (stopped["xen_domain"], stopped["xen_state"], stopped["xen_autostart"]) == ("old", "stopped", False)


@given(st.text())
def test_what_is_no_whole_answer_is_refused(text):
    with pytest.raises(ValueError, match="answer is not"):
        answer_of(text)
