"""The command line before a real directory: enrolment by name, a login step by step, the whole way from `init`."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager

import ldap3
import pytest
from cli.program import Program, code_of
from system.servers.common import free_port, make_certificates
from system.servers.nameserver import NameServer
from twisted.names import dns

from ldapmfa.wire import ber, ldap

#: As the issue has it; only ports and the directory's address are replaced.
VERBATIM = """\
[[listen]]
endpoint = "tcp:3389:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:10389"]

[store]
url = "sqlite:///state.db"
key_file = "store.key"

[login]
factors = ["totp"]
code = "suffix"          # or "delimiter", with delimiter = ","

[[exempt]]
account = "cn=svc,ou=services,dc=example,dc=test"
networks = ["127.0.0.0/8"]
"""


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def ldapmfa(tmp_path):
    return Program(tmp_path)


@pytest.fixture
def verbatim(ldapmfa, slapd, port):
    ldapmfa.configure(VERBATIM.replace("3389:", f"{port}:").replace("ldap://127.0.0.1:10389", slapd.uri))
    return ldapmfa


@pytest.fixture
def with_service_account(verbatim, slapd):
    file = verbatim.directory / "ldapmfa.toml"
    (verbatim.directory / "password").write_text(f"{slapd.service_password}\n")
    file.write_text(
        file.read_text() + f'\n[directory.service_account]\ndn = "{slapd.service_dn}"\npassword_file = "password"\n'
    )
    yield verbatim
    slapd.reset_lockout("svc-proxy")  # some tests give it a wrong password


@pytest.fixture
def user(slapd):
    """An account nobody else uses; failed logins of it count."""
    user = slapd.add_user(f"cli{time.monotonic_ns()}")
    yield user
    slapd.delete_user(user)


@contextmanager
def bound(port, dn, password):
    """An ldap3 connection to the proxy on which that bind was tried."""
    link = ldap3.Connection(ldap3.Server("127.0.0.1", port, get_info=ldap3.NONE), dn, password)
    try:
        link.bind()
        yield link
    finally:
        link.unbind()


def fresh_code(uri, after=""):
    """A code other than `after`, with some seconds left."""
    while code_of(uri) == after or time.time() % 30 > 27:
        time.sleep(0.2)
    return code_of(uri)


class TestEnrolByName:
    @pytest.mark.parametrize("form", ["account", "upn", "dn"])
    def test_hangs_the_factor_on_the_account(self, with_service_account, user, form):
        made = with_service_account.child("user", "enrol", getattr(user, form), "--json").json
        assert (made["dn"].lower(), made["pending"], made["expires"]) == (user.dn.lower(), None, None)
        assert made["account"].startswith("default/uuid:")
        (row,) = with_service_account("user", "list", "--json").json["accounts"]
        assert (row["key"], row["accounts"], row["factors"]) == (made["account"], [user.account], ["totp"])
        assert with_service_account.child("user", "enrol", user.dn, "--json").code == 1
        ran = with_service_account.test(user.dn, user.password, fresh_code(made["uri"]))
        assert (ran.code, ran.json["account"]) == (0, made["account"])

    def test_a_name_that_matches_none(self, with_service_account):
        ran = with_service_account.child("user", "enrol", "nobody-of-that-name", "--json")
        assert (ran.code, ran.out) == (1, "")
        assert ran.errors == ["the directory has no account called nobody-of-that-name"]
        assert with_service_account("user", "list", "--json").json["pending"] == []

    def test_a_name_that_matches_several(self, with_service_account, slapd, user):
        other = slapd.add_user(f"{user.name}b")
        with slapd.admin() as admin:
            admin.modify(other.dn, {"uid": [("MODIFY_ADD", [user.account])]})
        try:
            ran = with_service_account.child("user", "enrol", user.account, "--json")
        finally:
            slapd.delete_user(other)
        assert ran.code == 1
        assert {line.strip().lower() for line in ran.errors[2:]} == {user.dn.lower(), other.dn.lower()}

    def test_a_name_is_not_a_filter(self, with_service_account):
        assert with_service_account.child("user", "enrol", "ali*").code == 1

    def test_a_service_account_that_is_refused_ends_with_3(self, with_service_account):
        (with_service_account.directory / "password").write_text("wrong")
        ran = with_service_account.child("user", "enrol", "alice", "--json")
        assert ran.code == 3
        assert f"{with_service_account.directory}/ldapmfa.toml: directory.service_account: " in ran.errors[0]
        assert "49" in ran.errors[0]
        assert "check-config --online" in ran.errors[0]


class TestLoginStepByStep:
    def test_refused_accepted_replayed(self, verbatim, user):
        made = verbatim("user", "enrol", user.dn, "--json").json
        code = fresh_code(made["uri"])
        wrong = f"{(int(code) + 1) % 10**6:06d}"
        told = [
            verbatim.test(user.dn, *lines)
            for lines in (
                (user.password, wrong),
                ("not-it" + user.password, code),
                (user.password,),
                (user.password, code),
                (user.password, code),
            )
        ]
        ends = [(ran.code, ran.json["reason"]) for ran in told]
        assert ends == [(1, "wrong-code"), (1, "password"), (1, "no-code"), (0, "code"), (1, "replayed-code")]
        steps = told[3].json["steps"]
        assert "an enrolment waits for an account of that name" in steps[0]
        assert steps[1].startswith("Not too many wrong passwords")
        assert "without the code: it is right" in steps[2]
        assert user.dn in steps[3]
        assert "right, and now used up" in steps[4]
        for ran in told:
            assert not any(secret in ran.out + ran.err for secret in (user.password, code, wrong))
        # what the record says, under the reference code that the user would have been shown
        found = verbatim("audit", "--ref", told[4].json["reference"], "--json").json
        assert (found["reason"], found["name"]) == ("replayed-code", user.dn)
        account = verbatim("user", "show", user.account, "--json").json["account"]
        assert account["last_login"] is not None

    def test_in_plain_words(self, verbatim, user):
        ran = verbatim.child("user", "test", user.dn, "--password-stdin", typed=f"{user.password}\n")
        assert ran.code == 1
        assert ran.out.startswith("1. Not too many wrong passwords came lately: the directory may be asked.\n2. The directory was asked about the password")
        assert "Refused (not-enrolled)." in ran.out
        assert "ldapmfa user enrol NAME" in ran.out

    def test_an_exempt_account_from_its_network_only(self, verbatim, slapd):
        svc = slapd.user("svc")
        near = verbatim.test(svc.dn, svc.password, options=("--from", "127.0.0.9"))
        far = verbatim.test(svc.dn, svc.password, options=("--from", "192.0.2.1"))
        assert (near.code, near.json["reason"]) == (0, "exempt")
        assert (far.code, far.json["reason"]) == (1, "not-enrolled")

    def test_behind_a_delimiter(self, verbatim, user):
        file = verbatim.directory / "ldapmfa.toml"
        file.write_text(file.read_text().replace('code = "suffix"', 'code = "delimiter"\ndelimiter = ";"'))
        made = verbatim("user", "enrol", user.account, "--digits", "8", "--json").json
        assert verbatim.test(user.dn, user.password, fresh_code(made["uri"])).code == 0


class TestCheckConfigOnline:
    def change(self, program, old, new):
        file = program.directory / "ldapmfa.toml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def test_in_clear_text(self, with_service_account, slapd):
        ran = with_service_account.child("check-config", "--online", "--json")
        assert ran.code == 0
        (server,) = ran.json["servers"]
        assert (server["kind"], server["encrypted"], server["service_account"]) == ("openldap", False, slapd.service_dn)
        out = with_service_account.child("check-config", "--online").out
        assert f"default: {slapd.uri}: OpenLDAP, in clear text, service account {slapd.service_dn} bound" in out

    def test_groups_that_rules_name_must_be_there(self, with_service_account, slapd):
        here, gone = f"cn=staff,ou=Groups,{slapd.base_dn}", f"cn=gone,ou=Groups,{slapd.base_dn}"
        with slapd.admin() as admin:
            admin.add(here, "groupOfNames", {"member": slapd.user("alice").dn})
        try:
            rules = "".join(f'\n[[rule]]\nname = "{group}"\ngroups = ["{group}"]\n' for group in (here, gone))
            file = with_service_account.directory / "ldapmfa.toml"
            file.write_text(file.read_text() + rules)
            ran = with_service_account.child("check-config", "--online", "--json")
        finally:
            with slapd.admin() as admin:
                admin.delete(here)
        assert ran.code == 2
        (wrong,) = ran.errors
        assert "rule[1].groups[0]" in wrong
        assert gone in wrong

    @pytest.mark.parametrize("how", ["ldaps", "starttls"])
    def test_a_certificate_of_the_named_authority(self, verbatim, slapd, how):
        uri, more = (slapd.tls_uri, "") if how == "ldaps" else (slapd.uri, "starttls = true\n")
        self.change(verbatim, f'"{slapd.uri}"]', f'"{uri}"]\n{more}ca_file = "{slapd.ca_file}"')
        ran = verbatim.child("check-config", "--online", "--json")
        assert (ran.code, ran.json["servers"][0]["encrypted"]) == (0, True)

    @pytest.mark.parametrize("how", ["ldaps", "starttls"])
    def test_a_certificate_of_another_authority_is_a_mistake(self, verbatim, slapd, tmp_path, how):
        other = make_certificates(tmp_path / "other")
        uri, more = (slapd.tls_uri, "") if how == "ldaps" else (slapd.uri, "starttls = true\n")
        self.change(verbatim, f'"{slapd.uri}"]', f'"{uri}"]\n{more}ca_file = "{other}"')
        ran = verbatim.child("check-config", "--online", "--json")
        assert ran.code == 2
        assert f"directory.ca_file: the certificate of {uri} is not accepted" in ran.errors[0]
        self.change(verbatim, f'ca_file = "{other}"', "verify_certificate = false")
        ran = verbatim.child("check-config", "--online", "--json")
        assert ran.code == 0
        assert "verify_certificate" in ran.json["warnings"][0]

    def test_a_host_that_the_certificate_does_not_name_is_a_mistake(self, verbatim, slapd):
        uri = slapd.tls_uri.replace("127.0.0.1", "127.0.0.2")
        self.change(verbatim, f'"{slapd.uri}"]', f'"{uri}"]\nca_file = "{slapd.ca_file}"')
        ran = verbatim.child("check-config", "--online", "--json")
        # nobody listens there, or whoever does is not named so
        assert ran.code in {2, 3}
        assert uri in ran.errors[0]

    def test_every_server_is_tried(self, verbatim, slapd):
        self.change(verbatim, f'"{slapd.uri}"]', f'"{slapd.uri}", "ldap://127.0.0.1:9", "ldap://no-such-host.invalid"]')
        ran = verbatim.child("check-config", "--online", "--json")
        assert ran.code == 3
        assert len(ran.errors) == 2
        assert "can't be looked up" in ran.errors[1]

    def test_every_server_that_the_dns_names_is_tried(self, verbatim, slapd):
        with NameServer() as names:
            names.records = [(0, 100, 389, "dc1.example.test"), (0, 100, 389, "dc2.example.test")]
            more = f'nameservers = ["127.0.0.1:{names.port}"]'
            self.change(verbatim, f'"{slapd.uri}"]', f'"ldap+srv://example.test"]\n{more}')
            ran = verbatim.child("check-config", "--online", "--json")
            assert ran.code == 3
            assert [f"the name dc{number}.example.test can't be looked up" in ran.errors[number - 1] for number in (1, 2)]
            names.says = dns.ENAME
            ran = verbatim.child("check-config", "--online", "--json")
            assert ran.code == 3
            assert "directory.uris: the DNS has no name _ldap._tcp.example.test" in ran.errors[0]
        ran = verbatim.child("check-config", "--json")
        assert "passwords go to whatever host the DNS names for _ldap._tcp.example.test" in ran.json["warnings"][0]

    def test_a_wrong_service_account_is_a_mistake(self, with_service_account):
        (with_service_account.directory / "password").write_text("N0t-the-password")
        ran = with_service_account.child("check-config", "--online", "--json")
        assert ran.code == 2
        assert "directory.service_account" in ran.errors[0]
        assert "N0t-the-password" not in ran.errors[0]

    def test_a_directory_that_can_tell_nobodys_identity_is_refused_by_name(self, verbatim, slapd):
        with closing(Nameless()) as nameless:
            self.change(verbatim, f'"{slapd.uri}"]', f'"{nameless.uri}"]')
            ran = verbatim.child("check-config", "--online", "--json")
        assert ran.code == 2
        assert f"{nameless.uri} can tell us nobody's identity" in ran.errors[0]
        assert "Nameless Inc." in ran.errors[0]


class TestTheWholeWay:
    def test_init_run_and_log_in_with_the_documented_configuration(self, verbatim, slapd, user, port):
        made = verbatim("user", "enrol", user.dn, "--json").json
        assert verbatim.child("check-config").code == 0
        with verbatim.running(port) as child:
            assert verbatim("check-config", "--json").code == 2  # its port is in use, by itself
            assert verbatim("check-config", "--skip-ports").code == 0
            assert verbatim.child("run", "--json").code == 2
            code = fresh_code(made["uri"])
            with bound(port, user.dn, user.password) as link:
                assert link.result["result"] == 49
                reference = link.result["message"].rpartition(" ")[2]
            with bound(port, user.dn, user.password + code) as link:
                assert link.result["result"] == 0
                assert link.search(user.dn, "(objectClass=*)", "BASE", attributes=["uid"])
                # the service takes what the command line changes, at once
                assert verbatim("key", "rotate").code == 0
                code, used = fresh_code(made["uri"], code), code
                for secret, result in ((used, 49), (code, 0), (code, 49)):
                    with bound(port, user.dn, user.password + secret) as again:
                        assert again.result["result"] == result
                svc = slapd.user("svc")
                with bound(port, svc.dn, svc.password) as exempt:
                    assert exempt.result["result"] == 0
                assert verbatim("audit", "--ref", reference, "--json").json["reason"] == "no-code"
                ended, seconds = verbatim.stopped(child, signal.SIGTERM)
        assert (ended, seconds < 10) == (0, True)
        log = (verbatim.directory / "log").read_text()
        assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "stopped"
        assert user.password not in log

    def test_a_configuration_written_by_init_runs(self, ldapmfa, slapd, user, port):
        made = ldapmfa.child("init", "--uri", slapd.uri, "--endpoint", f"tcp:{port}:interface=127.0.0.1")
        assert made.code == 0
        file = ldapmfa.directory / "ldapmfa.toml"
        file.write_text(file.read_text().replace("tcp:9389:", f"tcp:{free_port()}:"))  # one that is nobody's
        uri = ldapmfa("user", "enrol", user.upn, "--json").json["uri"]
        with ldapmfa.running(port), bound(port, user.dn, user.password + fresh_code(uri)) as link:
            assert link.result["result"] == 0


class Nameless:
    """Answers every search with a rootDSE that names a product nobody knows."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"ldap://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link) -> None:
        with link:
            while data := link.recv(65536):
                frame = ldap.read_frame(data, 0, 65536)
                values = ber.tlv(0x31, ber.tlv(ber.OCTET_STRING, b"Nameless Inc."))
                attribute = ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, b"vendorName"), values)
                entry = ber.tlv(ldap.SEARCH_ENTRY, ber.tlv(ber.OCTET_STRING, b""), ber.tlv(ber.SEQUENCE, attribute))
                if frame.tag == ldap.SEARCH_REQUEST:
                    link.sendall(ldap.message(frame.id, entry) + ldap.result(frame.id, frame.tag, 0))
