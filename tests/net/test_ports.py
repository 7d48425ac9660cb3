"""Listening sockets that somebody else opened."""

import os
import socket
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.protocol import Factory

from ldapmfa.net import ports


async def test_a_socket_of_systemds_is_there_again_for_a_listener_that_was_gone_for_a_while(monkeypatch):
    """Its number would be another file's meanwhile, which would be taken for it, and closed."""
    theirs = socket.create_server(("127.0.0.1", 0))
    theirs.setblocking(False)
    number = os.dup(theirs.fileno())
    monkeypatch.setattr(
        ports, "serverFromString", lambda *_: AdoptedStreamServerEndpoint(reactor, number, socket.AF_INET)
    )
    listens = [SimpleNamespace(endpoint="systemd:domain=INET:index=0")]
    opened = await ports.open_ports(reactor, listens, [Factory()])
    await ports.close_ports(opened)
    other = socket.socket()
    try:
        assert other.fileno() != number
        opened = await ports.open_ports(reactor, listens, [Factory()])
        assert opened[0].getHost().port == theirs.getsockname()[1]
        await ports.close_ports(opened)
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        other.close()
        theirs.close()
        os.close(number)
