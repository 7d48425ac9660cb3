"""The twistd plug-in: the service `ldapmfa`, and the reactor of the same name."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

service = ServiceMaker("ldapmfa", "ldapmfa.tap", "An LDAP proxy that demands a second factor.", "ldapmfa")
reactor = Reactor("ldapmfa", "ldapmfa.tap", "asyncio on uvloop, for the service ldapmfa")
