"""A directory that is not real: it lets one account in and answers its searches with as many entries as told.

It sends them as fast as they are taken, and says on request how many octets it could send: that shows whether a proxy
whose client does not read stops its directory. To a proxy's look-ups it answers what OpenLDAP would. Arguments: the
port to listen on, the account, and how many entries a search finds.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import Final

from ldapmfa.wire import ber, ldap

#: A base search of this name tells the octets sent, as the text of its result.
HOW_MUCH: Final = b"cn=how-much"
_UUID: Final = b"00000000-0000-4000-8000-000000000001"
_RUN: Final = 500


def entry(message_id: int, name: bytes, **attributes: bytes) -> bytes:
    """A SearchResultEntry."""
    lists = (
        ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, key.encode()), ber.tlv(0x31, ber.tlv(ber.OCTET_STRING, value)))
        for key, value in attributes.items()
    )
    operation = ber.tlv(ldap.SEARCH_ENTRY, ber.tlv(ber.OCTET_STRING, name), ber.tlv(ber.SEQUENCE, *lists))
    return ldap.message(message_id, operation)


class Endless:
    """Serves each connection in a thread that blocks where its client does not read."""

    def __init__(self, account: bytes, entries: int) -> None:
        self._account = account
        self._entries = entries
        self._sent = 0

    def serve(self, client: socket.socket) -> None:
        """Answer until the client leaves."""
        buffer = b""
        try:
            while data := client.recv(1 << 16):
                buffer += data
                while buffer:
                    frame = ldap.read_frame(buffer, 0, 1 << 20)
                    if not isinstance(frame, ldap.Frame):
                        break
                    buffer = buffer[len(frame.raw) :]
                    self._answer(client, frame)
        except OSError:
            client.close()

    def _answer(self, client: socket.socket, frame: ldap.Frame) -> None:
        if frame.tag in (ldap.UNBIND_REQUEST, ldap.ABANDON_REQUEST):
            return
        text = ""
        if frame.tag == ldap.EXTENDED_REQUEST:
            answer = ber.tlv(
                ldap.EXTENDED_RESPONSE,
                ber.encode_integer(0, ber.ENUMERATED),
                ber.tlv(ber.OCTET_STRING),
                ber.tlv(ber.OCTET_STRING),
                ber.tlv(0x8B, b"dn:" + self._account),
            )
            client.sendall(ldap.message(frame.id, answer))
            return
        if frame.tag == ldap.SEARCH_REQUEST:
            fields = ber.children(frame.raw, frame.start, frame.stop)
            name = frame.raw[fields[0][1] : fields[0][2]]
            if name == HOW_MUCH:
                text = str(self._sent)
            elif name == b"":
                extension = ldap.OID_WHO_AM_I
                client.sendall(entry(frame.id, b"", objectClass=b"OpenLDAProotDSE", supportedExtension=extension))
            elif name == self._account:
                client.sendall(entry(frame.id, name, entryUUID=_UUID, uid=b"load"))
            else:
                self._all(client, frame.id)
        client.sendall(ldap.result(frame.id, frame.tag, 0, text))

    def _all(self, client: socket.socket, message_id: int) -> None:
        one = entry(message_id, b"cn=one,dc=example,dc=test", cn=b"one", description=b"x" * 60)
        run = one * _RUN
        for _ in range(self._entries // _RUN):
            view = memoryview(run)
            while view:
                sent = client.send(view)
                self._sent += sent
                view = view[sent:]


def main(port: int, account: str, entries: int) -> None:
    """Serve until stopped."""
    directory = Endless(account.encode(), entries)
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=directory.serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
