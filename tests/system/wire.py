"""A client of raw sockets: what was sent and what came back, octet for octet."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from world import abandon, bind, controls, extended, frames, root_dse, search, unbind  # noqa: F401 - for the tests

from ldapmfa.wire import ber, ldap


@contextlib.contextmanager
def forwarded(host, port, to):
    """A listener on `host` that carries every connection to `to`, octet for octet."""

    def carry(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(to)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()
                ends.extend((near, far))

    ends = []
    with socket.create_server((host, port)) as listener:
        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
    for end in ends:
        end.close()


class Raw:
    """One connection. Frames that answer other requests are kept for whoever asks for them."""

    def __init__(self, host, port, *, tls=None, timeout=20, source=None):
        self.socket = socket.create_connection((host, port), timeout=timeout, source_address=source and (source, 0))
        if tls is not None:
            self.socket = tls_context(tls).wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *raw):
        self.socket.sendall(b"".join(raw))

    def frame(self):
        """The next frame; EOFError at the end."""
        while True:
            frame = ldap.read_frame(self.buffer, 0, 1 << 26) if self.buffer else 0
            if isinstance(frame, ldap.Frame):
                self.buffer = self.buffer[len(frame.raw) :]
                return frame
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self.buffer += data

    def answer(self, message_id=None):
        """All frames up to the final answer (to `message_id`)."""
        found = []
        while True:
            frame = self.frame()
            found.append(frame)
            if frame.tag not in ldap.NOT_FINAL and message_id in (None, frame.id):
                return found

    def ask(self, raw):
        """Send one request; the octets of its whole answer."""
        self.send(raw)
        return b"".join(frame.raw for frame in self.answer())

    def code(self, raw):
        """Send one request; the result code of its answer."""
        self.send(raw)
        return ldap.read_result(self.answer()[-1]).code

    def start_tls(self, ca_file):
        """StartTLS, verified."""
        assert self.code(extended(99, ldap.OID_START_TLS)) == 0
        self.socket = tls_context(ca_file).wrap_socket(self.socket, server_hostname="localhost")


def tls_context(ca_file):
    """A client's context that trusts `ca_file`."""
    return ssl.create_default_context(cafile=ca_file)


def octets(tag, value):
    return ber.tlv(tag, value if isinstance(value, bytes) else value.encode())


def compare(message_id, name, attribute, value):
    """A CompareRequest."""
    assertion = ber.tlv(ber.SEQUENCE, octets(4, attribute), octets(4, value))
    return ldap.message(message_id, ber.tlv(ldap.COMPARE_REQUEST, octets(4, name), assertion))


def modify(message_id, name, attribute, *values):
    """A ModifyRequest that replaces the values."""
    change = ber.tlv(
        ber.SEQUENCE,
        ber.encode_integer(2, ber.ENUMERATED),
        ber.tlv(ber.SEQUENCE, octets(4, attribute), ber.tlv(0x31, *(octets(4, value) for value in values))),
    )
    return ldap.message(message_id, ber.tlv(ldap.MODIFY_REQUEST, octets(4, name), ber.tlv(ber.SEQUENCE, change)))


def add(message_id, name, **attributes):
    """An AddRequest."""
    lists = (
        ber.tlv(ber.SEQUENCE, octets(4, key), ber.tlv(0x31, *(octets(4, value) for value in values)))
        for key, values in attributes.items()
    )
    return ldap.message(message_id, ber.tlv(ldap.ADD_REQUEST, octets(4, name), ber.tlv(ber.SEQUENCE, *lists)))


def delete(message_id, name):
    """A DelRequest."""
    return ldap.message(message_id, octets(ldap.DELETE_REQUEST, name))


def rename(message_id, name, rdn):
    """A ModifyDNRequest."""
    return ldap.message(
        message_id, ber.tlv(ldap.MODIFY_DN_REQUEST, octets(4, name), octets(4, rdn), ber.tlv(ber.BOOLEAN, b"\xff"))
    )


PAGED = "1.2.840.113556.1.4.319"


def paged(size, cookie=b""):
    """The paged-results control (RFC 2696)."""
    value = ber.tlv(ber.SEQUENCE, ber.encode_integer(size), octets(4, cookie))
    control = ber.tlv(ber.SEQUENCE, octets(4, PAGED), ber.tlv(ber.BOOLEAN, b"\xff"), octets(4, value))
    return ber.tlv(0xA0, control)


def cookie_of(frame):
    """The cookie in the paged-results control of a SearchResultDone."""
    value = frame.raw[frame.stop :]
    start, stop = ber.expect(value, 0, len(value), 0xA0)
    for _, begin, end in ber.children(value, start, stop):
        parts = ber.children(value, begin, end)
        if value[parts[0][1] : parts[0][2]] == PAGED.encode():
            inner = value[parts[-1][1] : parts[-1][2]]
            start, stop = ber.expect(inner, 0, len(inner), ber.SEQUENCE)
            cookie = ber.children(inner, start, stop)[1]
            return inner[cookie[1] : cookie[2]]
    raise AssertionError("no paged-results control")
