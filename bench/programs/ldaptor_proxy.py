"""ldaptor's proxy as its documentation shows it: a ProxyBase that lets everything pass, on Twisted's own epoll reactor.

Arguments: the port to listen on, and the directory's.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from ldaptor.protocols.ldap.ldapclient import LDAPClient
from ldaptor.protocols.ldap.ldapconnector import connectToLDAPEndpoint
from ldaptor.protocols.ldap.proxybase import ProxyBase
from twisted.internet import endpoints, protocol
from twisted.internet import reactor as default


def main(port: int, directory: int) -> None:
    """Serve until stopped."""
    reactor: Any = default
    to_directory = partial(connectToLDAPEndpoint, reactor, f"tcp:host=127.0.0.1:port={directory}", LDAPClient)

    def one() -> ProxyBase:
        proxy = ProxyBase()
        proxy.clientConnector = to_directory
        proxy.debug = False
        return proxy

    factory = protocol.Factory.forProtocol(one)
    factory.noisy = False
    # Twisted's backlog of 50 would stall a burst of 64 connects
    endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=1024").listen(factory)
    reactor.run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
