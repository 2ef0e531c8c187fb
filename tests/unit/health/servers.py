"""Servers on localhost that drip, lie, hang and reset, each in a thread that stops with its `with`."""

import contextlib
import socket
import struct
import threading

# Seconds between two bytes of a dripping server: shorter than any time limit for a single read.
DRIP_SECONDS = 0.02
UNHEALTHY = 30  # nothing in these tests may take so long


class Peer:
    """A connection, as a server's handler sees it."""

    def __init__(self, sock, stop):
        self.sock, self.stop = sock, stop

    def request(self):
        """Read up to an empty line."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(4096)
            if not part:
                break
            data += part
        return data

    def exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def packet(self):
        """Read a packet after its length, as DNS and OpenVPN send them over TCP."""
        return self.exactly(struct.unpack(">H", self.exactly(2))[0])

    def send(self, data):
        self.sock.sendall(data)

    def drip(self, data):
        """Send byte by byte, again and again."""
        while True:
            for byte in data:
                self.send(bytes([byte]))
                if self.stop.wait(DRIP_SECONDS):
                    return

    def hang(self):
        self.stop.wait(UNHEALTHY)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@contextlib.contextmanager
def tcp(handler, tls=None, port=0):
    """Yield the port of a server whose ``handler`` gets a `Peer` for each connection. ``tls``: an ssl.SSLContext."""
    stop, threads = threading.Event(), []

    def serve(sock):
        with contextlib.suppress(OSError), sock:
            if tls:
                sock = tls.wrap_socket(sock, server_side=True)
            handler(Peer(sock, stop))
            sock.close()

    def accept():
        while not stop.is_set():
            try:
                sock, _address = listener.accept()
            except OSError:
                return
            sock.settimeout(UNHEALTHY)
            threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
            threads[-1].start()

    listener = socket.create_server(("127.0.0.1", port))
    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(UNHEALTHY)


@contextlib.contextmanager
def udp(answers):
    """Yield the port of a server that sends each datagram of ``answers(request)``."""

    def serve():
        while True:
            try:
                data, address = sock.recvfrom(65535)
            except OSError:
                return
            if not data:
                return
            for answer in answers(data):
                sock.sendto(answer, address)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", sock.getsockname())
            thread.join(UNHEALTHY)
