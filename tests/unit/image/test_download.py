"""Downloads from slow, broken or hostile servers: bounded, one line of error, and nothing left behind."""

import contextlib
import gzip
import hashlib
import os
import socket
import ssl
import subprocess
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.download import download, unpacked
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = bytes(range(256)) * 400
SHA = hashlib.sha256(DATA).hexdigest()


@contextlib.contextmanager
def server(*replies, context=None):
    """A server whose nth connection gets the nth reply, then the last one again. A reply is a function of the socket's file."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked, over = [], threading.Event()

    def serve():
        count = 0
        while not over.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                connection = context.wrap_socket(connection, server_side=True) if context else connection
            with contextlib.suppress(OSError), connection, connection.makefile("rwb") as file:
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


def endless_chunks(file, over):
    file.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        file.write(CHUNK)


def endless_trailer(file, over):
    file.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(DATA), DATA))
    while not over.wait(0.01):
        file.write(b"a: b\r\n")
        file.flush()


def endless_hints(file, over):
    while not over.wait(0.01):
        file.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        file.flush()


def silent(_file, over):
    over.wait(30)


def packed(data=DATA, encoding="gzip", **headers):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return says("200 OK", f"Content-Encoding: {encoding}", f"Content-Length: {len(data)}", *lines, body=data)


SMALL = gzip.compress(DATA)
BOMB = gzip.compress(bytes(64 << 20))
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
        (says("206 Partial Content", body=DATA), "answers the range '', requested were bytes 0-"),
        (says("416 Range Not Satisfiable"), "answers 416"),
        (says("503 Gone \x1b[31m fishing"), "answers 503 Gone ?[31m fishing"),
        (says("999 What"), "answers 999 What"),
        (
            says("302 Found", "Location: file:///etc/passwd"),
            "redirects to file:///etc/passwd, which does not begin with https://",
        ),
        (says("302 Found", "Location: ftp://example.net/x"), "redirects to ftp://example.net/x, which does not begin with"),
        (says("303 Other", "Location: gopher:x"), "redirects to gopher:x, which does not begin with https:// or http://"),
        (says("307 Moved", "Location: http://[::1/x"), ""),
        (says("308 Moved", "Location: \x1b[2J"), ""),
        (says("302 Found"), "answers 302 Found"),
        (says("301 Moved", "Location: /file"), "the server redirects more than 5 times"),
        (says("206 Partial Content", f"Content-Range: bytes 0-{len(DATA)}/{len(DATA)}", body=DATA + b"x"), "sends more than"),
        (
            says("206 Partial Content", "Content-Range: bytes 0-9/*", body=DATA[:10]),
            "the server's file has 10 bytes, expected are",
        ),
        (says("206 Partial Content", "Content-Range: bytes 0-9/9999999", body=DATA[:10]), "answers the range"),
        (says("206 Partial Content", "Content-Type: multipart/byteranges; boundary=x", body=DATA), "answers the range ''"),
        (says("204 No Content"), "answers 204"),
        (says("200 OK", f"Content-Length: {'9' * 5000}", body=DATA[:10]), ""),
        (endless_chunks, f"sends more than the {len(DATA)} bytes that are expected"),
        (endless_trailer, LATE),
        (endless_hints, LATE),
        (packed(SMALL, "deflate"), "the server sends the file as 'deflate'"),
        (packed(SMALL, "x-gzip"), "the server sends the file as 'x-gzip'"),
        (lambda file, over: file.write(b"\0\xff\n\n" * 100), ""),
        (lambda file, over: file.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000), ""),
        (lambda file, over: None, ""),
        (packed(BOMB), f"sends more than the {len(DATA)} bytes that are expected"),
        (packed(SMALL[:-20]), "the connection ended after"),
        (packed(b""), "the connection ended after 0 bytes"),
        (packed(b"rubbish"), "the server's gzip file is damaged"),
        (packed(SMALL[:-8] + b"x" * 8), "the server's gzip file is damaged"),
        (packed(SMALL + b"more"), "the server sends more than a gzip file"),
        (packed(gzip.compress(DATA[:-1])), f"the server's file has {len(DATA) - 1} bytes, expected are {len(DATA)}"),
        (packed(gzip.compress(b"x" * len(DATA))), "the server's file has the sha256"),
        (packed(SMALL, "zstd"), "the server sends the file as 'zstd', expected gzip or the file as it is"),
        (packed(SMALL, "gzip, gzip\x07"), "the server sends the file as 'gzip, gzip?'"),
        (
            says("206 Partial Content", "Content-Encoding: gzip", f"Content-Range: bytes 0-9/{len(DATA)}", body=SMALL),
            "the server sends the file as 'gzip'",
        ),
    ],
)
def test_a_hostile_server_leaves_no_file_and_gives_one_line(tmp_path, reply, words):
    with server(reply) as (url, _asked), pytest.raises(StoreError) as failure:
        download(url, str(tmp_path / "file"), len(DATA), SHA, seconds=0.7 if words == LATE else 120)
    assert words in str(failure.value) and "\n" not in str(failure.value) and "\x1b" not in str(failure.value)
    assert str(failure.value).startswith(f"url {url}: ") and len(str(failure.value)) > len(url) + 10
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_file_saves_bytes_and_is_resumed_as_it_is(tmp_path):
    path = tmp_path / "file"
    with server(packed(SMALL)) as (url, asked):
        assert download(url, str(path), len(DATA), SHA) and path.read_bytes() == DATA and len(SMALL) < len(DATA) / 20
        assert asked == [""]
    for cut in (SMALL[:-100], SMALL[:-1]):
        path.unlink()
        reply = says("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(SMALL)}", body=cut)
        with server(reply, lambda file, over: rest(int(asked[-1].strip("-") or 0))(file, over)) as (url, asked):
            assert download(url, str(path), len(DATA), SHA) and path.read_bytes() == DATA


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
    with server(silent) as (url, asked):  # it is complete, so the server is not contacted
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A private authority and its certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("ca")
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ours", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subprocess.run([*new, *authority], cwd=folder, check=True, capture_output=True)
    leaf = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=images", "-CA", "ca.pem", "-CAkey", "ca.key"]
    leaf += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*new, *leaf], cwd=folder, check=True, capture_output=True)
    return folder


def test_a_mirror_is_checked_against_an_authority_of_ones_own(tmp_path, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    with server(whole(), context=context) as (url, asked):
        url = url.replace("http:", "https:")
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            download(url, str(tmp_path / "file"), len(DATA), SHA, seconds=60)
        assert list(tmp_path.iterdir()) == [] and asked == []
        assert download(url, str(tmp_path / "file"), len(DATA), SHA, seconds=60, ca_file=str(certificates / "ca.pem"))
    assert (tmp_path / "file").read_bytes() == DATA


def test_from_https_there_is_no_way_to_http_and_a_certificate_is_for_its_name(tmp_path, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    options = {"seconds": 60, "ca_file": str(certificates / "ca.pem")}
    with server(whole()) as (plain, unasked), server(says("302 Found", f"Location: {plain}"), context=context) as (url, _asked):
        with pytest.raises(StoreError, match=rf"the server redirects to {plain}, which does not begin with https://$"):
            download(url.replace("http:", "https:"), str(tmp_path / "file"), len(DATA), SHA, **options)
        assert unasked == []
        with server(says("302 Found", f"Location: {plain}")) as (other, _asked_too):
            assert download(other, str(tmp_path / "file"), len(DATA), SHA, seconds=60) and unasked == [""]
    with server(whole(), context=context) as (url, asked), pytest.raises(StoreError, match=r"(?i)certificate") as failure:
        url = url.replace("http://127.0.0.1", "https://localhost")
        download(url, str(tmp_path / "other"), len(DATA), SHA, **options)
    assert asked == [] and "\n" not in str(failure.value) and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "header", ["bytes 0-9/10", "bytes 999-1999/{}", "bytes 1001-1002/{}", "bytes 1000-1001/5", "bytes */{}", "x"]
)
def test_a_resumed_file_is_continued_where_it_ended_or_is_gone(tmp_path, header):
    (tmp_path / "file").write_bytes(DATA[:1000])
    reply = says("206 Partial Content", f"Content-Range: {header.format(len(DATA))}", body=DATA[1000:])
    with server(reply) as (url, _asked), pytest.raises(StoreError, match="answers the range"):
        download(url, str(tmp_path / "file"), len(DATA), SHA, seconds=60)
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_of_the_hosts_environment_is_asked(tmp_path, monkeypatch):
    with server(whole()) as (url, asked):
        monkeypatch.setenv("http_proxy", url.removesuffix("/file"))
        assert download("http://images.invalid/a.xen", str(tmp_path / "file"), len(DATA), SHA, seconds=60)
        assert asked == [""] and (tmp_path / "file").read_bytes() == DATA


@given(st.integers(0, 300000), st.integers(1, 1 << 17), st.booleans())
@settings(max_examples=40, deadline=None)
def test_whatever_was_packed_comes_out(size, step, random):
    data = (os.urandom(size) if random else bytes(size)) + b"end"
    packed = gzip.compress(data, 1)
    pieces = list(unpacked(iter([packed[at : at + step] for at in range(0, len(packed), step)])))
    assert b"".join(pieces) == data and max(map(len, pieces)) <= 1 << 16
