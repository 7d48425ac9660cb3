"""The embedded directory, asked over a transport in memory by our own wire/, which shares no code with ldaptor."""

import pytest
from twisted.internet.testing import StringTransport

from ldapmfa.core.identity import Found, Identity, identify, read_capabilities
from ldapmfa.demo.directory import ALICE, ALICE_PASSWORD, BASE, SERVICE, SERVICE_PASSWORD, DirectoryFactory
from ldapmfa.wire import ber, ldap


class Client:
    def __init__(self, factory):
        self.server = factory.buildProtocol(None)
        self.transport = StringTransport()
        self.server.makeConnection(self.transport)

    def ask(self, operation):
        """The result, and the entries before it."""
        self.transport.clear()
        self.server.dataReceived(ldap.message(7, operation))
        data, entries = self.transport.value(), []
        while True:
            frame = ldap.read_frame(data, 0, 1 << 20)
            assert frame.id == 7
            if frame.tag != ldap.SEARCH_ENTRY:
                assert frame.raw == data
                return ldap.read_result(frame), entries
            entries.append(ldap.read_entry(frame))
            data = data[len(frame.raw) :]

    def bind(self, name, password):
        return self.ask(ldap.bind_request(name.encode(), password.encode()))[0]

    def search(self, base, attributes=(), **options):
        return self.ask(ldap.search_request(base.encode(), attributes, **options))

    def who_am_i(self):
        return self.ask(ldap.extended_request(ldap.OID_WHO_AM_I))[0].value.decode()


@pytest.fixture
def factory():
    return DirectoryFactory()


@pytest.fixture
def client(factory):
    return Client(factory)


@pytest.fixture
def alice(client):
    assert client.bind(ALICE, ALICE_PASSWORD).code == ldap.SUCCESS
    return client


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [
        (ALICE, ALICE_PASSWORD, 0),
        (ALICE.upper(), ALICE_PASSWORD, 0),
        (SERVICE, SERVICE_PASSWORD, 0),
        ("", "", 0),
        (ALICE, ALICE_PASSWORD.lower(), ldap.INVALID_CREDENTIALS),
        (ALICE, SERVICE_PASSWORD, ldap.INVALID_CREDENTIALS),
        (f"uid=nobody,{BASE}", ALICE_PASSWORD, ldap.INVALID_CREDENTIALS),
        (f"ou=people,{BASE}", "x", ldap.INVALID_CREDENTIALS),
        ("", "x", ldap.INVALID_CREDENTIALS),
        (ALICE, "", ldap.UNWILLING_TO_PERFORM),
        ("alice", ALICE_PASSWORD, 34),
    ],
)
def test_bind(client, name, password, code):
    result = client.bind(name, password)
    assert (result.code, result.matched) == (code, b"")
    assert client.who_am_i() == (f"dn:{ALICE if 'alice' in name.lower() else SERVICE}" if name and code == 0 else "")


def test_a_bind_that_fails_leaves_nobody(alice):
    alice.bind(SERVICE, "wrong")
    assert alice.who_am_i() == ""
    assert alice.search(ALICE)[0].code == ldap.INSUFFICIENT_ACCESS_RIGHTS


def test_a_sasl_bind_is_refused(client):
    external = ber.tlv(ldap.SASL, ber.tlv(ber.OCTET_STRING, b"EXTERNAL"))
    request = ber.tlv(ldap.BIND_REQUEST, ber.encode_integer(3), ber.tlv(ber.OCTET_STRING), external)
    assert client.ask(request)[0].code == ldap.AUTH_METHOD_NOT_SUPPORTED


def test_nobody_reads_the_root_dse(client):
    result, (root,) = client.search("", ("objectClass", "supportedExtension", "namingContexts"))
    assert (result.code, root.dn) == (0, "")
    assert "OpenLDAProotDSE" in root.text("objectClass")
    assert root.text("supportedExtension") == (ldap.OID_WHO_AM_I.decode(),)
    assert root.text("namingContexts") == (BASE,)
    assert "entryuuid" not in client.search("", ("+",))[1][0].attributes


@pytest.mark.parametrize(
    "operation",
    [
        ldap.search_request(BASE.encode(), ()),
        ldap.search_request(BASE.encode(), (), scope=ldap.SUBTREE),
        ldap.search_request(b"", (), scope=ldap.SUBTREE),
        ldap.search_request(b"dc=other", ()),
        ber.tlv(
            ldap.COMPARE_REQUEST,
            ber.tlv(ber.OCTET_STRING, ALICE.encode()),
            ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, b"sn"), ber.tlv(ber.OCTET_STRING, b"Liddell")),
        ),
    ],
)
def test_nobody_reads_nothing_else(client, operation):
    result, entries = client.ask(operation)
    assert (result.code, entries) == (ldap.INSUFFICIENT_ACCESS_RIGHTS, [])


def test_search(alice):
    result, entries = alice.search(BASE, ("cn", "mail"), scope=ldap.SUBTREE, where=ldap.equals("uid", b"alice"))
    assert result.code == 0
    (entry,) = entries
    assert entry.dn == ALICE
    assert entry.attributes == {"cn": (b"Alice Liddell",), "mail": (b"alice@example.test",)}
    assert len(alice.search(BASE, scope=ldap.SUBTREE)[1]) == 5
    assert alice.search(f"uid=bob,{BASE}")[0].code == ldap.NO_SUCH_OBJECT
    assert alice.search("nonsense")[0].code == 34


def test_every_entry_has_an_entry_uuid_of_its_own_which_is_shown_on_demand(alice):
    entries = alice.search(BASE, ("entryUUID",), scope=ldap.SUBTREE)[1]
    assert len({entry.text("entryUUID")[0] for entry in entries}) == len(entries) == 5
    assert "entryuuid" in alice.search(ALICE, ("+",))[1][0].attributes
    assert "entryuuid" in alice.search(ALICE, ("*", "ENTRYUUID"))[1][0].attributes
    assert "entryuuid" not in alice.search(ALICE, ("*",))[1][0].attributes
    assert "entryuuid" not in alice.search(ALICE)[1][0].attributes


def test_passwords_are_hashed_and_never_shown(alice, factory):
    entries = alice.search(BASE, ("*", "+", "userPassword"), scope=ldap.SUBTREE)[1]
    assert not any("password" in name for entry in entries for name in entry.attributes)
    assert alice.search(BASE, scope=ldap.SUBTREE, where=ber.tlv(0x87, b"userPassword"))[1] == []
    assert ALICE_PASSWORD not in repr([vars(entry) for entry in tree_of(factory.root)])


def tree_of(entry):
    return [entry, *(below for child in entry._children.values() for below in tree_of(child))]


@pytest.mark.parametrize("tag", [ldap.ADD_REQUEST, ldap.DELETE_REQUEST, ldap.MODIFY_REQUEST])
def test_nobody_writes(alice, tag):
    requests = {
        ldap.ADD_REQUEST: ber.tlv(tag, ber.tlv(4, f"cn=x,{BASE}".encode()), ber.tlv(ber.SEQUENCE)),
        ldap.DELETE_REQUEST: ber.tlv(tag, ALICE.encode()),
        ldap.MODIFY_REQUEST: ber.tlv(tag, ber.tlv(4, ALICE.encode()), ber.tlv(ber.SEQUENCE)),
    }
    assert alice.ask(requests[tag])[0].code == ldap.UNWILLING_TO_PERFORM
    assert len(alice.search(BASE, scope=ldap.SUBTREE)[1]) == 5


def test_the_password_change_of_ldaptor_is_withdrawn(alice):
    assert alice.ask(ldap.extended_request(b"1.3.6.1.4.1.4203.1.11.1"))[0].code == ldap.PROTOCOL_ERROR


def test_ldapmfa_can_tell_who_was_bound(alice):
    capabilities = read_capabilities(alice.search("")[1][0])
    assert (capabilities.kind, capabilities.who_am_i, capabilities.naming_contexts) == ("openldap", True, (BASE,))
    who = conversed(alice, identify(capabilities, "default"))
    assert isinstance(who, Identity)
    assert (who.dn, who.accounts, who.has_entry) == (ALICE, ("alice",), True)


def conversed(client, asking):
    """What `asking` comes to, its questions put by `client`."""
    found = None
    try:
        while True:
            result, entries = client.ask(asking.send(found).operation)
            found = Found(result, tuple(entries))
    except StopIteration as ended:
        return ended.value
