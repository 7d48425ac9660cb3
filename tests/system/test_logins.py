"""Logins before real directories: states of accounts, name forms, oracles, hints, locks, recreated accounts."""

import base64
import re
import socket
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import ldap3
import pytest
from system.proxy import Proxy
from system.servers.common import free_port
from system.servers.slapd import Slapd
from system.wire import Raw, bind, extended, search

from ldapmfa.core.identity import sid_text
from ldapmfa.wire import ldap

TEXT = re.compile(rb"Invalid credentials\. Reference: [A-Z2-9]{8}")


def log_in(proxy, name, password):
    """One bind on a connection of its own; its result."""
    with Raw(proxy.host, proxy.port) as raw:
        raw.send(bind(1, name, password))
        return ldap.read_result(raw.answer()[-1])


def reason_of(proxy, result):
    """What the audit log says of a refusal."""
    reference = result.text.decode().rpartition(" ")[2]
    found = []
    for _ in range(50):
        found = proxy.events(reference)
        if found:
            break
        time.sleep(0.02)  # refusals are written when there is time
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def ad(samba, tmp_path_factory):
    with Proxy(samba, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def openldap(slapd, tmp_path_factory):
    with Proxy(slapd, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def three89(ds389, tmp_path_factory):
    with Proxy(ds389, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def workers(request):
    """How many processes answer: what is promised holds whichever of them it is."""
    return request.param


STATES = {
    "disabled": ("533", "account-disabled"),
    "mustchange": ("773", "must-change-password"),
    "pwexpired": ("532", "password-expired"),
    "acctexpired": ("701", "account-expired"),
    "locked": ("775", "account-locked"),
    "nohours": ("530", "logon-hours"),
    "otherws": ("531", "workstation"),
    "smartcard": ("52e", "password"),
}


@pytest.mark.parametrize("name", STATES)
def test_A23_the_states_of_an_account_look_alike_before_the_factor(ad, name):
    """Active Directory's sub-codes are for the audit log only."""
    result = log_in(ad, ad.directory.user(name).dn, ad.typed(name))
    assert result.code == 49
    assert TEXT.fullmatch(result.text)
    record = reason_of(ad, result)
    assert (f"data {STATES[name][0]}" in record.detail, record.reason) == (True, STATES[name][1])


def test_samba_accounts_that_may(ad):
    for name in ("pwnever", "joerg", "jdoe", "plus", "tanaka", "zoësam", "carol"):
        user = ad.directory.user(name)
        assert log_in(ad, user.dn, ad.typed(name)).code == 0, name


def test_A27_every_name_form_is_the_same_identity_or_refused(ad):
    """One token, one lock, one audit key, whatever is typed."""
    carol = ad.directory.user("carol")
    with ad.directory.admin() as admin:
        admin.search(carol.dn, "(objectClass=*)", "BASE", attributes=["objectGUID", "objectSid"])
        raw = admin.response[0]["raw_attributes"]
        guid, sid = uuid.UUID(bytes_le=raw["objectGUID"][0]), sid_text(raw["objectSid"][0])
    forms = {
        carol.dn: 0,
        carol.dn.upper(): 0,
        carol.dn.replace(",", " , "): 0,
        carol.upn: 0,
        carol.upn.upper(): 0,
        "carol@example.test": 0,
        "EXAMPLE\\carol": 0,
        "example.test/Staff/Europe/Paris/Carol Corp": 0,
        f"<GUID={guid}>": 0,
        f"<SID={sid}>": 0,
        sid: 0,
        "carol": 49,
        "Carol Corp": 49,
    }
    accounts = set()
    for form, code in forms.items():
        typed = ad.typed("carol")
        assert log_in(ad, form, typed).code == code, form
        if code == 0:
            accounts.add(ad.records()[-1]["account"])
            assert log_in(ad, form, typed).code == 49, "the same code again"
    assert len(accounts) == 1
    assert accounts.pop().startswith("default/guid:")


@pytest.mark.parametrize("proxy", ["ad", "openldap", "three89"])
def test_A23_refusals_look_alike(request, proxy):
    """Unknown user, wrong password, wrong code, no code, not enrolled: one code, one text of one length."""
    proxy = request.getfixturevalue(proxy)
    dave, erin = proxy.directory.user("dave"), proxy.directory.user("tanaka")
    typed = proxy.typed("dave")
    refusals = {
        "unknown user": ("cn=nobody," + proxy.directory.base_dn, typed),
        "wrong password": (dave.dn, "x" + typed),
        "wrong code": (dave.dn, dave.password + "000000"),
        "no code": (dave.dn, dave.password),
        "not enrolled": (erin.dn, erin.password + "123456"),
        "not a name": ("dave", typed),
    }
    for what, (name, password) in refusals.items():
        result = log_in(proxy, name, password)
        assert (result.code, result.matched) == (49, b""), what
        assert TEXT.fullmatch(result.text), what


def test_A23_medians_of_refusals_lie_within_ten_milliseconds(openldap):
    """Two hundred refusals of each kind, a few at a time; nothing leaves before the floor of 250 ms."""
    directory = openldap.directory
    names = [f"bulk{number:04}" for number in range(60)]
    openldap.enrol_many([*names, "lockme"])
    lockme, unenrolled = directory.user("lockme"), directory.user("svc-proxy")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log_in(openldap, lockme.dn, lockme.password + f"{n:06}"), range(10)))
    locked = lockme.password + openldap.tokens["lockme"].code()

    def attempts(number):
        user = directory.user(names[number % len(names)])
        password = user.password + openldap.tokens[user.name].code()
        # the directory locks after five wrong passwords: another of its 1,500 accounts each time
        other = directory.user(f"bulk{100 + number:04}")
        return {
            "unknown user": (f"cn=no{number},{directory.base_dn}", password),
            "wrong password": (other.dn, "x" + password),
            "wrong code": (user.dn, user.password + "000000"),
            "no code": (user.dn, user.password),
            "not enrolled": (unenrolled.dn, unenrolled.password + "123456"),
            "locked": (lockme.dn, locked),
        }

    def timed(target):
        with Raw(openldap.host, openldap.port) as raw:
            began = time.perf_counter()
            raw.send(bind(1, *target))
            result = ldap.read_result(raw.answer()[-1])
            took = time.perf_counter() - began
        assert result.code == 49
        return took

    took = {}
    with ThreadPoolExecutor(12) as pool:
        for number in range(200):
            for kind, target in attempts(number).items():
                took.setdefault(kind, []).append(pool.submit(timed, target))
    times = {kind: [future.result() for future in futures] for kind, futures in took.items()}
    medians = {kind: statistics.median(each) for kind, each in times.items()}
    assert min(min(each) for each in times.values()) >= 0.249
    assert max(medians.values()) - min(medians.values()) < 0.010, medians


def test_A50_openldap_refuses_an_expired_password_and_leaves_the_link_bound(openldap):
    """Nothing runs on that link afterwards: the next bind, on the client's same connection, uses another."""
    expired, alice = openldap.directory.user("pwexpired"), openldap.directory.user("alice")
    with Raw(openldap.host, openldap.port) as raw:
        raw.send(bind(1, expired.dn, openldap.typed("pwexpired")))
        assert ldap.read_result(raw.answer()[-1]).code == 49
        assert raw.code(search(2, openldap.directory.base_dn, scope=ldap.BASE)) == 50
        assert raw.code(extended(3, ldap.OID_WHO_AM_I)) == 50
        raw.send(bind(4, alice.dn, openldap.typed("alice")))
        assert ldap.read_result(raw.answer()[-1]).code == 0
        raw.send(extended(5, ldap.OID_WHO_AM_I))
        who = ldap.read_result(raw.answer()[-1]).value.decode()
        assert who.lower() == f"dn:{alice.dn}".lower()


@pytest.mark.parametrize("proxy", ["ad", "openldap", "three89"])
def test_A02_A06_a_failed_bind_leaves_nobody(request, proxy):
    proxy = request.getfixturevalue(proxy)
    service, bob = proxy.directory.user("svc-app"), proxy.directory.user("bob")
    base = proxy.directory.base_dn
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, service.dn, service.password)) == 0
        assert raw.code(search(2, base, scope=ldap.BASE)) == 0
        assert raw.code(bind(3, bob.dn, proxy.typed("bob")[:-1] + "x")) == 49
        assert raw.code(search(4, base, scope=ldap.BASE)) == 50
        assert raw.code(bind(5, bob.dn, proxy.typed("bob"))) == 0
        assert raw.code(search(6, base, scope=ldap.BASE)) == 0
        assert raw.code(bind(7, service.dn, service.password)) == 0
        assert raw.code(bind(8, bob.dn, bob.password)) == 49
        assert raw.code(search(9, base, scope=ldap.BASE)) == 50


def test_a_must_change_account_of_openldap_has_a_reason_of_its_own(openldap):
    result = log_in(openldap, openldap.directory.user("mustchange").dn, openldap.typed("mustchange"))
    assert result.code == 49
    assert reason_of(openldap, result).reason == "must-change-password"


def test_accounts_without_an_entry_pass_only_where_exempt(openldap, slapd, tmp_path):
    """OpenLDAP's rootdn."""
    result = log_in(openldap, slapd.admin_dn, slapd.admin_password + "123456")
    assert result.code == 49
    assert reason_of(openldap, result).reason == "no-entry"
    assert reason_of(openldap, result).account == f"default/dn:{slapd.admin_dn.lower()}"


def test_A18_passwords_that_end_like_a_code(slapd, tmp_path, workers):
    """An exempt account and a password-only account whose password is Summer202612 log in, with one bind each."""
    exempt, plain = slapd.add_user("summer-exempt", "Summer202612"), slapd.add_user("summer-plain", "Summer202612")
    try:
        login = 'factors = ["hotp"]\nrequire_user_match = "password-only"'
        proxy = Proxy(slapd, tmp_path / "proxy", login=login, exempt=exempt.dn, workers=workers)
        with proxy, slapd.binds_seen() as seen:
            for _ in range(3):
                assert log_in(proxy, exempt.dn, "Summer202612").code == 0
                assert log_in(proxy, plain.dn.upper(), "Summer202612").code == 0
            assert log_in(proxy, plain.dn, "Summer202612123456").code == 49
            # once enrolled, the password alone does no longer do
            token = proxy.enrol_account("summer-plain")
            typed = "Summer202612" + token.code()
            assert log_in(proxy, plain.dn, "Summer202612").code == 49
            assert log_in(proxy, plain.dn, typed).code == 0
            assert log_in(proxy, plain.dn, "Summer202612").code == 49
            assert log_in(proxy, plain.dn, "Summer202612" + token.code()).code == 0
        assert len([one for one in seen if one.name]) == 11  # recycled links are bound as nobody
    finally:
        slapd.delete_user(exempt)
        slapd.delete_user(plain)


def test_delimited_codes(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", login='factors = ["hotp"]\ncode = "delimiter"') as proxy:
        alice = slapd.user("alice")
        typed = proxy.typed("alice")
        assert log_in(proxy, alice.dn, typed).code == 49
        token = proxy.tokens["alice"]
        assert log_in(proxy, alice.dn, f"{alice.password},{token.code()}").code == 0
        assert log_in(proxy, alice.dn, f",{token.code()}").code == 53


def test_A20_ten_wrong_codes_lock_the_account_on_every_connection(slapd, tmp_path, workers):
    """And under every name form; unlocking it lets it in."""
    with Proxy(slapd, tmp_path / "proxy", workers=workers) as proxy:
        bob = slapd.user("bob")
        assert log_in(proxy, bob.dn, proxy.typed("bob")).code == 0
        with ThreadPoolExecutor(8) as pool:
            wrong = list(pool.map(lambda n: log_in(proxy, bob.dn, bob.password + f"{n:06}").code, range(12)))
        assert set(wrong) == {49}
        result = log_in(proxy, bob.dn.upper().replace("=", " = "), proxy.typed("bob"))
        assert result.code == 49
        assert reason_of(proxy, result).reason == "locked"
        reasons = [record["reason"] for record in proxy.records()]
        assert reasons.count("wrong-code") == 10


def test_A19_one_code_on_many_connections_at_the_same_moment(slapd, tmp_path, workers):
    """And on two processes over one store."""
    with Proxy(slapd, tmp_path / "proxy", workers=workers) as one:
        two = Proxy(slapd, tmp_path / "proxy")
        two.tokens = one.tokens
        with two:
            alice = slapd.user("alice")
            for _ in range(3):
                typed = one.typed("alice")
                with ThreadPoolExecutor(20) as pool:
                    attempts = [pool.submit(log_in, proxy, alice.dn, typed) for proxy in (one, two) * 10]
                codes = sorted(attempt.result().code for attempt in attempts)
                assert codes == [0] + [49] * 19


@pytest.mark.parametrize("directory", ["slapd", "samba", "ds389"])
def test_A32_a_recreated_account_inherits_nothing(request, directory, tmp_path):
    directory = request.getfixturevalue(directory)
    user = directory.add_user("phoenix")
    directory.set_password(user, user.password)
    try:
        with Proxy(directory, tmp_path / "proxy") as proxy:
            proxy.enrol("alice")
            token = proxy.enrol_account("phoenix")
            assert log_in(proxy, user.dn, user.password + token.code()).code == 0
            assert log_in(proxy, user.dn, user.password + token.code()).code == 0
            directory.delete_user(user)
            user = directory.add_user("phoenix")
            directory.set_password(user, user.password)
            result = log_in(proxy, user.dn, user.password + token.code())
            assert result.code == 49
            assert reason_of(proxy, result).reason == "not-enrolled"
    finally:
        directory.delete_user(user)


def test_A09_a_client_that_leaves_leaves_nothing_behind(openldap):
    """In the middle of a login, many times: the proxy answers others, and holds no link of theirs."""
    alice = openldap.directory.user("alice")
    for _ in range(30):
        with socket.create_connection((openldap.host, openldap.port)) as link:
            link.sendall(bind(1, alice.dn, alice.password + "000000"))
    assert log_in(openldap, "cn=x,dc=example,dc=test", "secret123456").code == 49


@pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning")
def test_ldap3_as_an_independent_client(ad):
    """Simple bind, search, compare, paged search, StartTLS."""
    bob = ad.directory.user("bob")
    tls = ldap3.Tls(ca_certs_file=str(ad.ca_file), validate=2)
    server = ldap3.Server(ad.host, ad.port, tls=tls, get_info=ldap3.DSA)
    connection = ldap3.Connection(server, bob.upn, ad.typed("bob"), raise_exceptions=True)
    connection.open()
    connection.start_tls()
    connection.bind()
    assert connection.search(ad.directory.base_dn, "(sAMAccountName=bob)", attributes=["cn", "memberOf"])
    assert connection.entries[0].cn.value == "Bob Builder"
    assert connection.compare(bob.dn, "sAMAccountName", "bob")
    found = connection.extend.standard.paged_search(
        f"OU=Bulk,{ad.directory.base_dn}", "(objectClass=user)", attributes=["cn"], paged_size=300, generator=False
    )
    assert len([entry for entry in found if entry["type"] == "searchResEntry"]) == 1500
    connection.unbind()


def test_A12_A13_A14_other_ways_to_bind(ad):
    """SASL and Sicily are refused with 7; ldap3's and libldap's own encodings are in other tests."""
    sasl = bytes.fromhex("3016020101601102010304 00a30a0408".replace(" ", "")) + b"GSSAPI" + b"xx"
    with Raw(ad.host, ad.port) as raw:
        raw.send(sasl)
        assert ldap.read_result(raw.answer()[-1]).code == 7
        for tag in (0x89, 0x8A, 0x8B):
            operation = bytes((0x60, 7, 2, 1, 3, 4, 0, tag, 0))
            raw.send(ldap.message(2, operation))
            assert ldap.read_result(raw.answer()[-1]).code == 7
    server = ldap3.Server(ad.host, ad.port)
    connection = ldap3.Connection(server, "EXAMPLE\\alice", "x", authentication=ldap3.NTLM)
    try:
        assert not connection.bind()
    except (ldap3.core.exceptions.LDAPException, ValueError):
        pass  # its own view of a refusal of Sicily; or the machine has no MD4
    finally:
        connection.unbind()


def test_the_documented_configuration_verbatim(slapd, samba, tmp_path):
    """Only ports, and for Active Directory the URI and the exempt account, differ from the page."""
    documented = (
        '[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n\n[directory]\nuris = ["{uri}"]\n\n'
        '[store]\nurl = "sqlite:///state.db"\nkey_file = "store.key"\n\n[login]\nfactors = ["totp"]\n'
        'code = "suffix"          # or "delimiter", with delimiter = ","\n\n[[exempt]]\n'
        'account = "cn=svc,ou=services,dc=example,dc=test"\nnetworks = ["127.0.0.0/8"]\n'
    )
    for directory in (slapd, samba):
        proxy = Proxy(directory, tmp_path / directory.kind)
        proxy.text = documented
        with proxy:
            service, alice = directory.user("svc"), directory.user("alice")
            assert log_in(proxy, service.dn, service.password).code == 0
            token = proxy.enrol("alice", "totp")
            assert log_in(proxy, alice.dn, alice.password).code == 49
            assert log_in(proxy, alice.dn, alice.password + "000000").code == 49
            typed = alice.password + token.code()
            assert log_in(proxy, alice.dn, typed).code == 0
            assert log_in(proxy, alice.dn, typed).code == 49


def test_two_ports_of_one_forest_share_their_identities(samba, tmp_path):
    """The global catalog's port as a directory of its own: one account, one token, one code for both."""
    port = free_port()
    extra = (
        f'[directories.catalog]\nuris = ["ldap://{samba.host}:3268"]\nidentity_name = "default"\n'
        f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\ndirectory = "catalog"\n'
    )
    with Proxy(samba, tmp_path / "proxy", extra=extra) as proxy:
        bob = samba.user("bob")
        typed = proxy.typed("bob")
        assert log_in(proxy, bob.dn, typed).code == 0
        with Raw("127.0.0.1", port) as raw:
            assert raw.code(bind(1, bob.upn, typed)) == 49
            assert raw.code(bind(2, bob.upn, proxy.typed("bob"))) == 0
            assert raw.code(search(3, samba.base_dn, where=ldap.equals("cn", b"Bob Builder"))) == 0
        accounts = {record["account"] for record in proxy.records()}
        assert len(accounts) == 1


def test_a_service_account_identifies_those_who_cannot_read_themselves(tmp_path):
    """OpenLDAP that shows entries to the service account only."""
    hidden = (
        'access to dn.base="" by * read\n'
        "access to attrs=userPassword by anonymous auth by * none\n"
        'access to * by dn.exact="cn=svc-proxy,ou=Services,dc=example,dc=test" read by * none'
    )
    slapd = Slapd(tmp_path / "slapd", entries=0, access=hidden)
    try:
        slapd.start()
        alice = slapd.user("alice")
        with Proxy(slapd, tmp_path / "without") as proxy:
            result = log_in(proxy, alice.dn, proxy.typed("alice"))
            assert result.code == 49
            assert reason_of(proxy, result).reason == "no-entry"
        with Proxy(slapd, tmp_path / "with", service=True) as proxy:
            assert log_in(proxy, alice.dn, proxy.typed("alice")).code == 0
            assert proxy.records()[-1]["account"].startswith("default/uuid:")
    finally:
        slapd.stop()


def test_A43_nothing_secret_in_the_log_or_the_store(slapd, tmp_path):
    """Passwords, codes, tokens' secrets: right ones, wrong ones, refused, accepted, broken."""
    with Proxy(slapd, tmp_path / "proxy", extra='[log]\nlevel = "debug"') as proxy:
        alice = slapd.user("alice")
        secrets = {alice.password, "Wr0ng.Secret"}
        for password in (alice.password, "Wr0ng.Secret"):
            for _ in range(2):
                code = proxy.typed("alice").removeprefix(alice.password)
                secrets |= {password + code}
                log_in(proxy, alice.dn, password + code)
        log_in(proxy, "\r\ncn=forged\x1b[2J\u2028,dc=x", "Wr0ng.Secret123456")
        secret = proxy.tokens["alice"].secret
    log = proxy.log.read_bytes()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "proxy").glob("state.db*"))
    for octets in (log, stored):
        assert not [word for word in secrets if word.encode() in octets]
        assert secret not in octets
        assert base64.b32encode(secret) not in octets
    assert b"\x1b" not in log
    assert all(line.startswith(b"{") for line in log.splitlines())


def test_A18_an_unenrolled_user_spends_no_wrong_password(openldap):
    """Ten refusals for want of a factor: each time the directory sees the right password."""
    unenrolled = openldap.directory.user("pavel")
    with openldap.directory.binds_seen() as seen:
        for _ in range(10):
            assert log_in(openldap, unenrolled.dn, unenrolled.password + "123456").code == 49
    assert [bind.result for bind in seen if bind.name] == [0] * 10
