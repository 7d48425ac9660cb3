"""What takes audit events, as strict as the real ones: journald's native protocol, and syslog by RFC 5424."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress

_VALUE = r"[!-~]"
#: RFC 5424 section 6, with a message in UTF-8 or ASCII and no structured data.
_MESSAGE = re.compile(
    rb"<(\d{1,3})>1 "
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    rb"([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - ([ -~]*)"
)


def read_rfc5424(octets):
    """The parts of a message: facility, severity, timestamp, host, application, process, kind, text."""
    found = _MESSAGE.fullmatch(octets)
    assert found, octets
    priority = int(found[1])
    assert priority <= 191
    assert str(priority).encode() == found[1], "leading zeros"
    return (priority // 8, priority % 8, *(part.decode("ascii") for part in found.groups()[1:]))


def read_octet_counted(data):
    """The messages of a stream that is whole (RFC 6587 section 3.4.1)."""
    found = []
    while data:
        length, space, rest = data.partition(b" ")
        assert space
        assert re.fullmatch(rb"[1-9]\d*", length), data[:100]
        assert len(rest) >= int(length), "a message is torn"
        found.append(rest[: int(length)])
        data = rest[int(length) :]
    return found


def read_native(octets):
    """The fields of a datagram for journald; a name that journald would not take is a mistake."""
    fields = {}
    while octets:
        line, newline, rest = octets.partition(b"\n")
        assert newline, "no line's end"
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert len(value) == length
            assert rest[:1] == b"\n", "no line's end behind a value"
            rest = rest[1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        assert name not in fields
        fields[name.decode()] = value.decode()
        octets = rest
    return fields


class Datagrams:
    """A socket of datagrams, UDP's or at a path."""

    def __init__(self, path=None):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        self.socket.settimeout(10)

    @property
    def port(self):
        return self.socket.getsockname()[1]

    def take(self, count):
        """The next datagrams."""
        return [self.socket.recv(1 << 20) for _ in range(count)]

    def close(self):
        self.socket.close()
        if self.path:
            self.path.unlink(missing_ok=True)


class Stream:
    """A TCP or TLS server that keeps what each connection brings."""

    def __init__(self, context=None):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.context = context
        self.connections = []
        self.failures = []
        self.came = threading.Condition()
        self.received = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
        except (OSError, ssl.SSLError) as failed:
            self.failures.append(failed)
            connection.close()
            return
        with self.came:
            self.connections.append(connection)
            self.received.append(b"")
            number = len(self.received) - 1
        with suppress(OSError):
            while data := connection.recv(65536):
                with self.came:
                    self.received[number] += data
                    self.came.notify_all()

    def messages(self, number=0):
        with self.came:
            return read_octet_counted(self.received[number]) if len(self.received) > number else []

    def hang_up(self):
        """End every connection."""
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self):
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.hang_up()


@contextmanager
def closing(receiver):
    try:
        yield receiver
    finally:
        receiver.close()
