"""Audit events to a syslog server, by RFC 5424: over UDP, TCP, TLS, or a socket of this machine.

Promised here: a message is one as RFC 5424 has it, whatever is in the event: its text is JSON in ASCII. No longer than
every receiver should take, it has its texts cut where they are longer. On a connection each has its length before it
(RFC 6587 section 3.4.1, RFC 5425 section 4.3), so that none can look like two; a server's certificate is verified, its
name too. Not in here: what becomes of events that the server can't take (`trail`). Syslog acknowledges nothing: what a
server had not read when its connection broke is lost to it.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ldapmfa import audit
from ldapmfa.config.values import SyslogServer

#: The facility of messages about who logs in, not for everybody to read (RFC 5424 section 6.2.1).
AUTHPRIV: Final = 10
#: Seconds that a server may take to accept a connection, and one message.
PATIENCE: Final = 5.0
#: Octets of a message that every receiver should take (RFC 5424 section 6.1); on a connection, what most take.
SHORT, LONG = 2048, 8192
_WARNING, _NOTICE, _INFO = 4, 5, 6


def severity(event: audit.Event) -> int:
    """How grave it is, as RFC 5424 section 6.2.1 counts."""
    if isinstance(event, audit.LoginEnded):
        return {"accepted": _INFO, "refused": _NOTICE}.get(event.outcome, _WARNING)
    return _NOTICE


def message(event: audit.Event, host: str, octets: int) -> bytes:
    """`event` as RFC 5424 has it; `host` names this machine."""
    kind = type(event).__name__
    head = f"<{AUTHPRIV * 8 + severity(event)}>1 {audit.timestamp(event.at)} {host} ldapmfa {os.getpid()} {kind} - "
    return (head + audit.as_json(event, octets - len(head))).encode("ascii")


def host_name() -> str:
    """What this machine is called, as RFC 5424 section 6.2.4 lets it be; "-" for nothing of that kind."""
    return re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"


class Syslog:
    """A syslog server."""

    def __init__(self, server: SyslogServer, ca_file: Path | None = None) -> None:
        self._server = server
        self._ca_file = ca_file
        self._host = host_name()
        self._socket: socket.socket | None = None

    def write(self, events: Sequence[audit.Event]) -> int:
        """Send `events`; gives how many the network, or the socket, has taken. OSError: not one."""
        streams = self._server.way in ("tcp", "tls")
        if self._socket is not None and streams and _ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connected()
        for number, event in enumerate(events):
            octets = message(event, self._host, SHORT if self._server.way == "udp" else LONG)
            try:
                if streams:
                    self._socket.sendall(b"%d %s" % (len(octets), octets))
                else:
                    self._socket.send(octets)
            except OSError:
                self.close()  # what of a message is sent can't be known: on a new connection it begins anew
                if number:
                    return number
                raise
        return len(events)

    def close(self) -> None:
        """Let go of the connection."""
        found, self._socket = self._socket, None
        if found:
            found.close()

    def _connected(self) -> socket.socket:
        server = self._server
        if server.way == "unix":
            return _to(socket.AF_UNIX, socket.SOCK_DGRAM, server.path)
        if server.way == "udp":
            family, _, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
            return _to(family, socket.SOCK_DGRAM, address)
        found = socket.create_connection((server.host, server.port), PATIENCE)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if server.way == "tls":
                context = ssl.create_default_context(cafile=self._ca_file)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                return context.wrap_socket(found, server_hostname=server.host)
        except BaseException:
            found.close()
            raise
        return found


def _to(family: int, kind: int, address: object) -> socket.socket:
    found = socket.socket(family, kind)
    try:
        found.settimeout(PATIENCE)
        found.connect(address)  # type: ignore[arg-type]  # as the family has it
    except BaseException:
        found.close()
        raise
    return found


def _ended(found: socket.socket) -> bool:
    """Whether the server has closed the connection: then what is sent there is lost without a word."""
    found.setblocking(False)  # noqa: FBT003 - the standard library's
    try:
        return not found.recv(4096)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        found.settimeout(PATIENCE)
