"""A small directory in this process: ldaptor's server over a tree in memory, for the demo and for a first look.

Promised here: what ldapmfa needs to know who was bound (a rootDSE like OpenLDAP's, Who am I, an entryUUID for each
entry); passwords are kept as salted hashes outside the entries, so that no search shows or matches them; who is not
bound reads the rootDSE and nothing else; nobody writes. Not in here: indexes, schema, size limits, TLS.

Importing this imports the reactor (ldaptor does): whoever wants a particular one installs it before.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from ldaptor import interfaces
from ldaptor.inmemory import ReadOnlyInMemoryLDAPEntry
from ldaptor.protocols import pureldap
from ldaptor.protocols.ldap import ldaperrors
from ldaptor.protocols.ldap.distinguishedname import DistinguishedName, InvalidRelativeDistinguishedName
from ldaptor.protocols.ldap.ldapserver import LDAPServer
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory
from twisted.python.components import registerAdapter

BASE: Final = "dc=example,dc=test"
ALICE: Final = f"uid=alice,ou=people,{BASE}"
ALICE_PASSWORD: Final = "Down-the-rabbit-hole"  # noqa: S105 - of an account that exists for minutes, on loopback
SERVICE: Final = f"cn=svc,ou=services,{BASE}"
SERVICE_PASSWORD: Final = "Curiouser"  # noqa: S105 - the same

_WHO_AM_I: Final = b"1.3.6.1.4.1.4203.1.11.3"
#: RFC 4512 section 3.4: shown only to who asks for them by name, or for "+" (RFC 3673).
_OPERATIONAL: Final = frozenset({b"entryuuid"})


class Entry(ReadOnlyInMemoryLDAPEntry):  # type: ignore[misc]  # ldaptor has no types
    """One entry of the tree; with a password it can be bound."""

    def __init__(self, dn: Any, attributes: Mapping[str, Sequence[str]]) -> None:
        values = {name: [value.encode() for value in attributes[name]] for name in attributes}
        super().__init__(dn, {**values, "entryUUID": [str(uuid.uuid4()).encode()]})
        self._salt = os.urandom(16)
        self._hashed: bytes | None = None

    def add(self, rdn: str, password: str | None = None, **attributes: str) -> Entry:
        """Put an entry below this one; several object classes are separated by blanks."""
        kind, _, value = rdn.partition("=")
        classes = attributes.pop("objectClass").split()
        named = {kind: [value], **{name: [text] for name, text in attributes.items()}}
        child: Entry = self.addChild(rdn, {"objectClass": ["top", *classes], **named})
        if password is not None:
            child._hashed = child._hash(password.encode())
        return child

    def shown(self, wanted: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
        """The attributes that a search for `wanted` shows (RFC 4511 section 4.5.1.8)."""
        names = {name.lower() for name in wanted}
        for name, values in self.items():
            key = name.lower().encode()
            every = b"+" in names if key in _OPERATIONAL else b"*" in names or not names
            if every or key in names:
                yield name, values

    def _hash(self, password: bytes) -> bytes:
        # a tenth of the usual work: this runs on the event loop
        return hashlib.scrypt(password, salt=self._salt, n=1 << 11, r=8, p=1)

    def _bind(self, password: bytes) -> Entry:
        if self._hashed is None or not hmac.compare_digest(self._hash(password), self._hashed):
            raise ldaperrors.LDAPInvalidCredentials
        return self


def tree() -> Entry:
    """The example: alice below ou=people, a service account below ou=services."""
    root = Entry(BASE, {"objectClass": ["top", "domain"], "dc": ["example"]})
    people = root.add("ou=people", objectClass="organizationalUnit", description="Everybody who logs in")
    services = root.add("ou=services", objectClass="organizationalUnit", description="Programs that log in")
    people.add(
        "uid=alice",
        ALICE_PASSWORD,
        objectClass="person organizationalPerson inetOrgPerson",
        cn="Alice Liddell",
        sn="Liddell",
        mail="alice@example.test",
    )
    services.add(
        "cn=svc",
        SERVICE_PASSWORD,
        objectClass="applicationProcess",
        description="A program that can't type a code",
    )
    return root


class DirectoryServer(LDAPServer):  # type: ignore[misc]  # ldaptor has no types
    """One client's connection: simple binds, searches, compares, Who am I. `boundUser` is its entry, or None."""

    boundUser: Any = None  # noqa: N815 - ldaptor's name

    def handle_LDAPBindRequest(self, request: Any, controls: Any, reply: Any) -> Any:
        """Who binds is nobody until it has succeeded (RFC 4513 section 4)."""
        self.boundUser = None
        if request.sasl:
            raise ldaperrors.LDAPAuthMethodNotSupported
        if request.dn and not request.auth:
            raise ldaperrors.LDAPUnwillingToPerform("A name needs a password.")
        if request.auth and not request.dn:
            raise ldaperrors.LDAPInvalidCredentials
        _read_dn(request.dn)
        bound = maybeDeferred(super().handle_LDAPBindRequest, request, controls, reply)
        # ldaptor names a matched DN with a success, which belongs to failures (RFC 4511 section 4.1.9)
        return bound.addCallback(lambda _: pureldap.LDAPBindResponse(resultCode=ldaperrors.Success.resultCode))

    def handle_LDAPSearchRequest(self, request: Any, controls: Any, reply: Callable[[Any], None]) -> Any:
        """The rootDSE for everybody, the rest for who is bound."""
        self.checkControls(controls)
        if not request.baseObject and request.scope == pureldap.LDAP_SCOPE_baseObject:
            base: Any = RootDse()
            return self._search(base, request, reply)
        found = self._bound_look_up(request.baseObject)
        return found.addCallback(self._search, request, reply)

    def _search(self, base: Any, request: Any, reply: Callable[[Any], None]) -> Any:
        def show(entry: Entry) -> None:
            attributes = list(entry.shown(request.attributes))
            reply(pureldap.LDAPSearchResultEntry(objectName=entry.dn.getText(), attributes=attributes))

        def done(_: object) -> Any:
            return pureldap.LDAPSearchResultDone(resultCode=ldaperrors.Success.resultCode)

        return base.search(filterObject=request.filter, scope=request.scope, callback=show).addCallback(done)

    def handle_LDAPCompareRequest(self, request: Any, controls: Any, reply: Any) -> Any:
        """As ldaptor does it, for who is bound."""
        self._bound_look_up(request.entry)
        return super().handle_LDAPCompareRequest(request, controls, reply)

    def _refuse_write(self, *_: Any) -> NoReturn:
        raise ldaperrors.LDAPUnwillingToPerform("This directory is read-only.")

    handle_LDAPAddRequest = _refuse_write  # noqa: N815 - ldaptor's name
    handle_LDAPDelRequest = _refuse_write  # noqa: N815 - ldaptor's name
    handle_LDAPModifyRequest = _refuse_write  # noqa: N815 - ldaptor's name
    handle_LDAPModifyDNRequest = _refuse_write  # noqa: N815 - ldaptor's name
    extendedRequest_LDAPPasswordModifyRequest = None  # noqa: N815 - ldaptor offers it; None withdraws it

    def extendedRequest_WhoAmI(self, _value: object, reply: object) -> Any:  # noqa: ARG002 - ldaptor passes both
        """RFC 4532; the empty answer is nobody's."""
        who = f"dn:{self.boundUser.dn.getText()}" if self.boundUser else ""
        return pureldap.LDAPExtendedResponse(resultCode=ldaperrors.Success.resultCode, response=who)

    extendedRequest_WhoAmI.oid = _WHO_AM_I  # type: ignore[attr-defined]  # how ldaptor finds it

    def _bound_look_up(self, name: bytes) -> Any:
        if self.boundUser is None:
            raise ldaperrors.LDAPInsufficientAccessRights("A bind must come first.")
        return self.factory.root.lookup(_read_dn(name))


class RootDse(Entry):
    """What the server says of itself (RFC 4512 section 5.1), in OpenLDAP's way."""

    def __init__(self) -> None:
        described = {
            "objectClass": ["top", "OpenLDAProotDSE"],
            "namingContexts": [BASE],
            "supportedLDAPVersion": ["3"],
            "supportedExtension": [_WHO_AM_I.decode()],
        }
        super().__init__("", described)
        del self["entryUUID"]


def _read_dn(name: bytes) -> Any:
    try:
        return DistinguishedName(name)
    except (InvalidRelativeDistinguishedName, UnicodeDecodeError, IndexError, ValueError):
        raise ldaperrors.LDAPInvalidDNSyntax from None


class DirectoryFactory(Factory):
    """What listens: each client gets a `DirectoryServer` over the one tree."""

    protocol = DirectoryServer
    noisy = False

    def __init__(self, root: Entry | None = None) -> None:
        self.root = root or tree()


registerAdapter(lambda factory: factory.root, DirectoryFactory, interfaces.IConnectedLDAPEntry)  # how ldaptor finds it
