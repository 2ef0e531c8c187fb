"""Files from servers that are slow, broken or hostile: bounded, in one line, and nothing is left."""

import contextlib
import hashlib
import socket
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import download
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError

DATA = bytes(range(256)) * 400
SHA = hashlib.sha256(DATA).hexdigest()


@contextlib.contextmanager
def server(*replies):
    """A server whose nth connection gets the nth reply (the last one again); a reply is a function of the socket's file."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked, over = [], threading.Event()

    def serve():
        count = 0
        while not over.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file, contextlib.suppress(OSError):
                lines = []
                while (line := file.readline()) not in (b"\r\n", b""):
                    lines.append(line.decode().strip())
                asked.append(next((line.partition("=")[2] for line in lines if line.startswith("Range:")), ""))
                replies[min(count, len(replies) - 1)](file, over)
                file.flush()
            count += 1

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file", asked
    finally:
        over.set()
        listener.close()


def says(status, *headers, body=b""):
    def reply(file, _over):
        file.write("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body)

    return reply


def whole(data=DATA):
    return says("200 OK", f"Content-Length: {len(data)}", body=data)


def endless(file, over):
    file.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not over.is_set():
        file.write(DATA)


def drips(file, over):
    file.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode())
    while not over.wait(0.02):
        file.write(b"x")
        file.flush()


def drips_headers(file, over):
    file.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.wait(0.02):
        file.write(b"x")
        file.flush()


def silent(_file, over):
    over.wait(30)


CHUNK = b"%x\r\n%s\r\n" % (1000, DATA[:1000])
CHUNKED = "Transfer-Encoding: chunked"
LATE = "did not end within its time"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (endless, f"sends more than the {len(DATA)} bytes that are expected"),
        (drips, LATE),
        (drips_headers, LATE),
        (silent, LATE),
        (says("200 OK", CHUNKED, body=CHUNK), "the connection ended after 1000 bytes, before the file did"),
        (says("200 OK", CHUNKED, body=CHUNK + b"zz\r\n"), "the connection ended after"),
        (says("200 OK", f"Content-Length: {len(DATA)}", body=DATA[:10]), "the connection ended after 10 bytes"),
        (says("200 OK", f"Content-Length: {len(DATA) + 1}", body=DATA), f"announces {len(DATA) + 1} bytes, expected are"),
        (says("200 OK", "Content-Length: -5", body=DATA + b"more"), "sends more than"),
        (says("200 OK", "Content-Length: 7", body=DATA), "the server's file has 7 bytes, expected are"),
        (whole(b"x" * len(DATA)), "the server's file has the sha256"),
        (says("206 Partial Content", "Content-Range: bytes 5-9/10", body=b"abcde"), "answers the range 'bytes 5-9/10'"),
        (says("206 Partial Content", body=DATA), "answers the range '', asked for were bytes 0-"),
        (says("416 Range Not Satisfiable"), "answers 416"),
        (says("503 Gone \x1b[31m fishing"), "answers 503 Gone ?[31m fishing"),
        (says("999 What"), "answers 999 What"),
        (says("302 Found", "Location: file:///etc/passwd"), ""),
        (says("301 Moved", "Location: /file"), ""),
        (lambda file, over: file.write(b"\0\xff\n\n" * 100), ""),
        (lambda file, over: file.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000), ""),
        (lambda file, over: None, ""),
    ],
)
def test_a_hostile_server_leaves_no_file_and_gives_one_line(tmp_path, reply, words):
    with server(reply) as (url, _asked), pytest.raises(StoreError) as failure:
        download(url, str(tmp_path / "file"), len(DATA), SHA, seconds=0.7 if words == LATE else 120)
    assert words in str(failure.value) and "\n" not in str(failure.value) and "\x1b" not in str(failure.value)
    assert str(failure.value).startswith(f"url {url}: ") and len(str(failure.value)) > len(url) + 10
    assert list(tmp_path.iterdir()) == []


def test_where_no_size_is_known_there_is_a_limit(tmp_path):
    with server(endless) as (url, _asked), pytest.raises(StoreError, match="sends more than the 5000 bytes"):
        download(url, str(tmp_path / "file"), limit=5000, seconds=60)
    assert list(tmp_path.iterdir()) == []
    with server(whole()) as (url, _asked):
        assert download(url, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == DATA


def rest(at):
    return says("206 Partial Content", f"Content-Range: bytes {at}-{len(DATA) - 1}/{len(DATA)}", body=DATA[at:])


def test_what_a_killed_run_left_is_resumed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA[:1000])
    with server(rest(1000)) as (url, asked):
        assert download(url, str(path), len(DATA), SHA)
    assert (path.read_bytes(), asked) == (DATA, ["1000-"])
    with server(silent) as (url, asked):  # it is whole: nobody is asked
        assert download(url, str(path), len(DATA), SHA, seconds=60) and asked == []


def test_a_server_that_knows_no_ranges_sends_it_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    with server(whole()) as (url, _asked):
        assert download(url, str(path), len(DATA), SHA)
    assert path.read_bytes() == DATA


def test_more_than_there_should_be_is_begun_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (len(DATA) + 1))
    with server(whole()) as (url, asked):
        assert download(url, str(path), len(DATA), SHA) and asked == [""]
    assert path.read_bytes() == DATA


def test_a_transfer_that_was_cut_is_taken_up_again(tmp_path):
    path = tmp_path / "file"
    cut = says("200 OK", f"Content-Length: {len(DATA)}", body=DATA[:500])
    with server(cut, rest(500)) as (url, asked):
        assert download(url, str(path), len(DATA), SHA)
    assert (path.read_bytes(), asked) == (DATA, ["", "500-"])


def test_what_is_not_there_is_false_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with server(says("404 Not Found")) as (url, _asked):
        assert not download(url, str(tmp_path / "file"), len(DATA), SHA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "-x", ""])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(StoreError, match="must begin with https:// or http://"):
        download(url, str(tmp_path / "file"))


def test_more_than_fits_is_refused_before_it_is_asked_for(tmp_path):
    with server(endless) as (url, asked), pytest.raises(StoreError, match="bytes free, the file needs"):
        download(url, str(tmp_path / "file"), 1 << 60, SHA)
    assert asked == []


def test_an_address_is_shown_without_its_secrets(tmp_path):
    secret = "https://user:secret@127.0.0.1:9/a?token=secret"  # noqa: S105
    with pytest.raises(StoreError) as failure:
        download(secret, str(tmp_path / "file"), seconds=60)
    assert "secret" not in str(failure.value) and str(failure.value).startswith("url https://127.0.0.1:9/a: ")
