# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check that a web server answers with the declared status and text.

Redirects are not followed and proxies are not used: the answer is that of the URL itself.
"""

from __future__ import annotations

import datetime
import http.client
import re
import ssl

from ..domain.spec import Health
from .certificate import expired
from .connection import Stream, connect, left, read_file

# How much of the body is searched for the text, in bytes.
MAX_BODY = 65536
_CERTIFICATE = r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
_MAX_CA = 4 << 20  # Debian's own bundle of all authorities has 200 KiB


def check(health: Health, deadline: float) -> str | None:
    context = prepare(health)
    sock = connect(health.address, health.port, deadline)
    try:
        if context:
            # Python's ssl applies a socket's timeout to the whole handshake.
            sock.settimeout(left(deadline))
            sock = flow = context.wrap_socket(sock, server_hostname=health.name)
            # Python verified it, unless that is not wanted.
            late = expired(flow.getpeercert(binary_form=True), datetime.datetime.now(datetime.timezone.utc))
            if late:
                return late
        return _ask(health, Stream(sock, deadline))
    except http.client.HTTPException as error:
        return f"no HTTP: {type(error).__name__} {error}"
    finally:
        sock.close()


def prepare(health: Health) -> ssl.SSLContext | None:
    """Return the TLS context with the trusted authorities; None without TLS."""
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
        # With a declared ca, trust no other authority.
        return ssl.create_default_context(cadata="\n".join(certificates))
    except (ssl.SSLError, ValueError):
        raise OSError(f"ca: {health.ca} holds no certificates (PEM)") from None


def _ask(health: Health, stream: Stream) -> str | None:
    stream.sendall(
        f"GET {health.path} HTTP/1.1\r\nHost: {health.host}\r\nUser-Agent: unikernels.xen\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n".encode("ascii")
    )
    # Use only its parser: its connections limit each read, but not all of them together.
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
