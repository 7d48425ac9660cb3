"""Audit events to journald, by its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): a field for each part.

Promised here: whatever is in an event stays within its field, and an event fits into one datagram. Not in here:
waiting longer than a moment, and what becomes of events that journald can't take (`trail`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ldapmfa import audit
from ldapmfa.net.rfc5424 import AUTHPRIV, severity

#: Seconds that journald may take for one event.
PATIENCE: Final = 2.0
#: Octets of a datagram that every kernel's default buffer takes.
_SEND_BUFFER: Final = 1 << 20


class Journald:
    """journald, behind its socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, events: Sequence[audit.Event]) -> int:
        """Send `events`; gives how many journald has. OSError: not one."""
        if self._socket is None:
            self._socket = _connected(self._path)
        for number, event in enumerate(events):
            try:
                self._socket.send(datagram(event))
            except OSError:
                self.close()  # journald may have begun anew
                if number:
                    return number
                raise
        return len(events)

    def close(self) -> None:
        """Let go of the socket."""
        found, self._socket = self._socket, None
        if found:
            found.close()


def _connected(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        found.settimeout(PATIENCE)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        found.connect(path)
    except BaseException:
        found.close()
        raise
    return found


def datagram(event: audit.Event) -> bytes:
    """`event` as journald reads it."""
    fields = {
        "MESSAGE": audit.told(event),
        "PRIORITY": severity(event),
        "SYSLOG_IDENTIFIER": "ldapmfa",
        "SYSLOG_FACILITY": AUTHPRIV,
        **{f"LDAPMFA_{name.upper()}": value for name, value in audit.as_dict(event, audit.LENGTHS[0]).items()},
    }
    return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """A field; one that could be taken for more than one is sent with its length, in the form for binary data."""
    octets = value.encode(errors="backslashreplace")
    parts: Iterable[bytes] = (name.encode(), b"=", octets, b"\n")
    if b"\n" in octets:
        parts = (name.encode(), b"\n", struct.pack("<Q", len(octets)), octets, b"\n")
    return b"".join(parts)
