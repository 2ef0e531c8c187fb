# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Does a web server answer with the status, and the text, that was declared?

No redirect is followed and no proxy is used: the answer is the one of this URL.
"""

from __future__ import annotations

import http.client
import re
import ssl

from ..domain.spec import Health
from .connection import Stream, connect, left, read_file

# In how much of the body the text may stand.
MAX_BODY = 65536
_CERTIFICATE = r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
_MAX_CA = 4 << 20  # Debian's own file of all authorities has 200 KiB


def check(health: Health, deadline: float) -> str | None:
    context = prepare(health)
    sock = connect(health.address, health.port, deadline)
    try:
        if context:
            # OpenSSL's part in Python takes a socket's timeout for the whole handshake.
            sock.settimeout(left(deadline))
            sock = context.wrap_socket(sock, server_hostname=health.name)
        return _ask(health, Stream(sock, deadline))
    except http.client.HTTPException as error:
        return f"no HTTP: {type(error).__name__} {error}"
    finally:
        sock.close()


def prepare(health: Health) -> ssl.SSLContext | None:
    """Whom it trusts; None without TLS."""
    if not health.tls:
        return None
    if health.insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if not health.ca:
        return ssl.create_default_context()
    certificates = re.findall(_CERTIFICATE, read_file(health.ca, _MAX_CA).decode("latin-1"))
    try:
        if not certificates:
            raise ValueError
        # An authority of one's own and no other: that is the one that was declared.
        return ssl.create_default_context(cadata="\n".join(certificates))
    except (ssl.SSLError, ValueError):
        raise OSError(f"ca: {health.ca} holds no certificates (PEM)") from None


def _ask(health: Health, stream: Stream) -> str | None:
    stream.sendall(
        f"GET {health.path} HTTP/1.1\r\nHost: {health.host}\r\nUser-Agent: unikernels.xen\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n".encode("ascii")
    )
    # Only its reading of answers: its connections have a time limit for each read and none for all.
    response = http.client.HTTPResponse(stream, method="GET")  # type: ignore[arg-type]
    response.begin()
    if str(response.status) != health.expect:
        return f"status {response.status}, expected {health.expect}"
    return _missing(response, health.contains) if health.contains else None


def _missing(response: http.client.HTTPResponse, text: str) -> str | None:
    wanted, body, problem = text.encode("utf-8"), b"", ""
    try:
        while len(body) < MAX_BODY:
            part = response.read1(MAX_BODY - len(body))
            if not part:
                break
            body += part
            if wanted in body:
                return None
    except (OSError, http.client.HTTPException) as error:
        problem = f" ({error})"
    return f"status {response.status}, but {text!r} is not in the {len(body)} bytes of the body that were read{problem}"
