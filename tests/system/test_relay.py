"""The same requests sent to the directory directly and through the proxy give the same bytes."""

import pytest
from system.proxy import Proxy
from system.servers import people
from system.servers.slapd import Slapd
from system.wire import (
    Raw,
    abandon,
    add,
    bind,
    compare,
    controls,
    cookie_of,
    delete,
    extended,
    modify,
    paged,
    rename,
    root_dse,
    search,
    unbind,
)

from ldapmfa.wire import ber, ldap

WHO_AM_I = ldap.OID_WHO_AM_I


@pytest.fixture(scope="module", params=["slapd", "samba", "ds389"])
def proxy(request, tmp_path_factory):
    directory = request.getfixturevalue(request.param)
    # the administrator, who is exempt here, writes; rootdn and Directory Manager have no entry
    with Proxy(directory, tmp_path_factory.mktemp("proxy"), exempt=administrator(directory)) as proxy:
        yield proxy


def administrator(directory):
    """The DN of the account that may write."""
    return "CN=Administrator,CN=Users,DC=example,DC=test" if directory.kind == "Samba" else directory.admin_dn


@pytest.fixture
def both(proxy):
    """Two connections bound as alice: one to the directory, one through the proxy; and the bind's two answers."""
    directory = proxy.directory
    alice = directory.user("alice")
    with Raw(directory.host, directory.port) as direct, Raw(proxy.host, proxy.port) as through:
        answers = direct.ask(bind(1, alice.dn, alice.password)), through.ask(bind(1, alice.dn, proxy.typed("alice")))
        assert answers[0] == answers[1]
        yield direct, through


@pytest.fixture
def as_admin(proxy):
    """The same, bound as the administrator."""
    directory = proxy.directory
    name = administrator(directory)
    with Raw(directory.host, directory.port) as direct, Raw(proxy.host, proxy.port) as through:
        request = bind(2147483647, name, directory.admin_password)
        assert direct.ask(request) == through.ask(request)
        yield direct, through


def requests(directory):
    """Requests of every kind that change nothing, by what they are about."""
    base, alice = directory.base_dn, directory.user("alice")
    names = ("cn", "sn", "uid", "mail", "member", "objectClass")
    yield "entry", search(2, alice.dn, scope=ldap.BASE, attributes=names)
    yield "binary", search(3, alice.dn, scope=ldap.BASE, attributes=("jpegPhoto", "objectGUID", "objectSid", "entryUUID"))
    yield "subtree", search(2147483647, f"ou=Staff,{base}", attributes=names)
    yield "by filter", search(5, base, where=ldap.equals("cn", b"Bob Builder"), attributes=names)
    yield "nothing there", search(6, f"ou=nowhere,{base}", attributes=("cn",))
    yield "operational", search(7, alice.dn, scope=ldap.BASE, attributes=("memberOf", "structuralObjectClass"))
    yield "no attributes", search(8, base, attributes=("1.1",), where=ldap.equals("objectClass", b"organizationalUnit"))
    yield "groups", search(9, f"ou=Groups,{base}", attributes=("cn", "member"))
    yield "compare true", compare(10, alice.dn, "cn", "Alice Normal")
    yield "compare false", compare(11, alice.dn, "cn", "Somebody Else")
    yield "compare nothing", compare(12, alice.dn, "noSuchAttributeAtAll", "x")
    yield "forbidden modify", modify(13, directory.user("bob").dn, "description", "no")
    yield "forbidden delete", delete(14, directory.user("bob").dn)
    yield "who am I", extended(15, WHO_AM_I)
    yield "unknown extended", extended(16, b"1.2.3.4.5.6")
    yield "root", root_dse(17, ("namingContexts", "supportedLDAPVersion"))
    yield "unknown critical control", search(18, base, scope=ldap.BASE, controls=controls(b"1.2.3.4.5"))
    yield "unknown control", search(19, base, scope=ldap.BASE, controls=controls(b"1.2.3.4.5", critical=False))
    yield "long form lengths", long_form(search(20, base, scope=ldap.BASE, attributes=("objectClass",)))
    yield "proxied authorization as text", search(
        21, base, scope=ldap.BASE, where=ldap.equals("cn", b"2.16.840.1.113730.3.4.18")
    )


def long_form(raw):
    """The message with its length in four octets, as Windows sends it."""
    frame = ldap.read_frame(raw, 0, 1 << 20)
    content = raw[ber.header(raw, 0, len(raw))[1] :]
    assert frame.raw == raw
    return b"\x30\x84" + len(content).to_bytes(4, "big") + content


def test_the_same_bytes_for_every_kind_of_request(proxy, both):
    direct, through = both
    for what, raw in requests(proxy.directory):
        assert direct.ask(raw) == through.ask(raw), what


def test_requests_in_one_segment_are_answered_alike(proxy, both):
    """Pipelined; a directory may answer in any order, so each request's answer is compared."""
    asked = [raw for _, raw in requests(proxy.directory)]
    answers = []
    for raw in both:
        raw.send(*asked)
        frames = [frame for _ in asked for frame in raw.answer()]
        answers.append({number: [frame.raw for frame in frames if frame.id == number] for number in {f.id for f in frames}})
    assert answers[0] == answers[1]


def test_writes_are_relayed(proxy, as_admin):
    """Add, modify, rename, delete: each on an entry of its own, directly and through the proxy."""
    base = proxy.directory.base_dn
    answers = []
    for name, raw in zip(("direct", "through"), as_admin, strict=True):
        unit = f"ou={name},{base}"
        answers.append(
            [
                raw.ask(add(2, unit, objectClass=["organizationalUnit"], ou=[name])),
                raw.ask(modify(3, unit, "description", "one", "two")) if proxy.directory.kind != "Samba" else b"",
                raw.ask(modify(4, unit, "description", "only")),
                raw.ask(rename(5, unit, f"ou={name}2")),
                raw.ask(delete(6, f"ou={name}2,{base}")),
                raw.ask(delete(7, unit)).replace(name.encode(), b"name")[-60:-20],
            ]
        )
    assert answers[0][:5] == answers[1][:5]
    assert ldap.read_result(ldap.read_frame(answers[1][4], 0, 1 << 16)).code == 0


def test_A11_1500_entries_in_pages(proxy, both):
    """Cookies round-trip; the entries of all pages are the same bytes."""
    entries = []
    for raw in both:
        found, cookie, number = [], b"", 2
        while True:
            request = search(
                number, f"ou=Bulk,{proxy.directory.base_dn}", attributes=("cn", "mobile"),
                where=ldap.equals("objectClass", b"person"), controls=paged(400, cookie),
            )
            raw.send(request)
            *page, done = raw.answer(number)
            assert ldap.read_result(done).code == 0
            found += [ber.children(frame.raw, frame.start, frame.stop) and frame.raw[frame.start :] for frame in page]
            cookie, number = cookie_of(done), number + 1
            if not cookie:
                break
        entries.append(found)
    assert len(entries[0]) == people.BULK_USERS
    assert entries[0] == entries[1]


def test_A10_an_abandoned_search_ends_without_an_answer(both):
    """The next answer is the next request's; the abandoned one may have left entries before it."""
    for raw in both:
        raw.send(search(2, "dc=example,dc=test", attributes=("*",)), abandon(3, 2), extended(4, b"1.2.3.4.5.6"))
        answers = raw.answer(4)
        assert answers[-1].id == 4
        assert {frame.id for frame in answers} <= {2, 4}


def referring(directory):
    """Searches whose answers hold references or referrals, and what they must hold."""
    base = directory.base_dn
    if directory.kind == "Samba":
        return {search(2, base, where=ldap.equals("sAMAccountName", b"alice"), attributes=("cn",)): b"ldap://example.test/CN=Configuration"}
    if directory.kind == "OpenLDAP":
        return {
            search(2, f"ou=Referrals,{base}"): b"ldap://127.0.0.1:9/",
            search(3, f"ou=Elsewhere,ou=Referrals,{base}", scope=ldap.BASE): b"ldap://127.0.0.1:9/",
        }
    return {search(2, "dc=elsewhere,dc=test", attributes=("cn",)): b""}


def test_A45_referrals_are_relayed_untouched(proxy, both):
    direct, through = both
    for request, reference in referring(proxy.directory).items():
        answer = through.ask(request)
        assert answer == direct.ask(request)
        assert reference.lower() in answer.lower()


def test_unbind_ends_both_connections(proxy):
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port) as through:
        assert through.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        through.send(unbind(2))
        with pytest.raises(EOFError):
            through.frame()


def test_A17_A19_logins(proxy):
    """Password only, wrong code, right code, the same code again."""
    alice = proxy.directory.user("alice")
    typed = proxy.typed("alice")
    with Raw(proxy.host, proxy.port) as through:
        assert through.code(bind(1, alice.dn, alice.password)) == 49
        assert through.code(bind(2, alice.dn, alice.password + "000000")) == 49
        assert through.code(bind(3, alice.dn, "wrong" + typed)) == 49
        assert through.code(search(4, proxy.directory.base_dn, scope=ldap.BASE)) == 50
        assert through.code(bind(5, alice.dn, typed)) == 0
        assert through.code(search(6, proxy.directory.base_dn, scope=ldap.BASE)) == 0
        assert through.code(bind(7, alice.dn, typed)) == 49
        assert through.code(search(8, proxy.directory.base_dn, scope=ldap.BASE)) == 50


def test_ten_thousand_entries_while_requests_are_refused(slapd10k, tmp_path):
    """Every kind of locally refused request during a long answer: the decoded stream is intact."""
    with Proxy(slapd10k, tmp_path / "proxy") as proxy, Raw(proxy.host, proxy.port) as raw:
        alice = slapd10k.user("alice")
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        where = ldap.equals("objectClass", b"inetOrgPerson")
        raw.send(search(2, f"ou=Bulk,{slapd10k.base_dn}", attributes=("cn", "mobile", "objectClass"), where=where))
        refused = {}
        for number in range(100, 1100, 5):
            authorized = controls(b"2.16.840.1.113730.3.4.18")
            for offset, (request, code) in enumerate(
                (
                    (search(number, "", controls=authorized), 123),
                    (extended(number + 1, ldap.OID_START_TLS), 1),
                    (extended(number + 2, ldap.OID_FAST_BIND), 53),
                    (extended(number + 3, b"not an oid"), 2),
                    (compare(number + 4, "", "a", "b") , None),
                )
            ):
                raw.send(request)
                if code is not None:
                    refused[number + offset] = code
        entries, seen, compared, done = 0, {}, 0, None
        while done is None or seen.keys() != refused.keys() or compared < 200:
            frame = raw.frame()
            if frame.id == 2:
                assert frame.tag in (ldap.SEARCH_ENTRY, ldap.SEARCH_DONE)
                if frame.tag == ldap.SEARCH_ENTRY:
                    assert ldap.read_entry(frame).dn.startswith("cn=bulk")
                    entries += 1
                else:
                    done = ldap.read_result(frame).code
            elif frame.id in refused:
                seen[frame.id] = ldap.read_result(frame).code
            else:
                compared += 1
        assert (done, entries) == (0, 10_000)
        assert seen == refused
        assert raw.buffer == b""


def proxied(where, bob, administrator):
    """A search for bob's password, with the control of proxied authorization where it belongs, or inside the operation."""
    octets = ber.tlv(ber.OCTET_STRING, b"2.16.840.1.113730.3.4.18"), ber.tlv(ber.OCTET_STRING, administrator.encode())
    control = ber.tlv(0xA0, ber.tlv(ber.SEQUENCE, octets[0], ber.tlv(ber.BOOLEAN, b"\xff"), octets[1]))
    wanted = ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, b"userPassword"))
    head = ber.tlv(ber.OCTET_STRING, bob.encode()) + bytes.fromhex("0a01000a0100020100020100010100")
    pair = ber.tlv(ber.OCTET_STRING, b"uid") + ber.tlv(ber.OCTET_STRING, b"bob")
    operation = {
        "outside": head + ldap.ANY_ENTRY + wanted,
        "tail": head + ldap.ANY_ENTRY + wanted + control,
        "filter": head + ber.tlv(0xA3, pair, wanted, control) + ber.tlv(ber.SEQUENCE),
    }[where]
    return ldap.message(2, ber.tlv(ldap.SEARCH_REQUEST, operation), control if where == "outside" else b"")


def test_A11_proxied_authorization_where_openldap_looks_for_it(tmp_path):
    """OpenLDAP takes the control wherever it stands, and alice may be anybody: directly it works, here it does not."""
    slapd = Slapd(tmp_path / "slapd", entries=0, extra_global="authz-policy to")
    try:
        slapd.start()
        alice, bob = slapd.user("alice"), slapd.user("bob")
        with slapd.admin() as admin:
            admin.modify(alice.dn, {"authzTo": [("MODIFY_REPLACE", ["dn.regex:.*"])]})
        with Proxy(slapd, tmp_path / "proxy") as proxy:
            for where in ("outside", "tail", "filter"):
                request = proxied(where, bob.dn, f"dn:{slapd.admin_dn}")
                with Raw(slapd.host, slapd.port) as direct:
                    assert direct.code(bind(1, alice.dn, alice.password)) == 0
                    assert b"{SSHA}" in direct.ask(request), where
                with Raw(proxy.host, proxy.port) as through:
                    assert through.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
                    through.send(request)
                    (answer,) = through.answer()
                    expected = (2, 123) if where == "outside" else (0, ldap.PROTOCOL_ERROR)
                    assert (answer.id, ldap.read_result(answer).code) == expected, where
    finally:
        slapd.stop()
