"""`ldapmfa doctor --imitate` before the real proxy: what breaks is said, and what is advised mends it."""

from __future__ import annotations

import io
import re
import socket
from unittest import mock

import pytest
from cli.program import Program
from system.proxy import Proxy
from system.servers.common import make_certificates
from system.services import AtWebhook

PROGRAMS = ("jenkins", "gitlab", "nextcloud", "sssd", "apache")
#: Long enough for whatever any program does by itself.
REUSE = {"reuse_seconds": 1200, "reuse_uses": 10}


def doctor(proxy, *words, typed=""):
    """The command, in this process: it has no reactor, and a second is saved."""
    with mock.patch("sys.stdin", io.StringIO(typed)):
        return Program(proxy.path)("doctor", *words)


def imitate(proxy, program, *more, typed=None, service="right"):
    """The exit code, and the findings."""
    words = ["doctor", "--config", proxy.config, "--imitate", program, "--user", "alice", "--json"]
    words += ["--base", proxy.directory.base_dn, "--attribute", "sAMAccountName"]
    lines = []
    if service == "none":
        words.append("--no-service-account")
    else:
        account = proxy.directory.user("svc-app")
        words += ["--service-account", account.dn]
        lines.append(account.password if service == "right" else "Not.The.Password-1")
    lines += [typed or proxy.typed("alice") for _ in range(len(PROGRAMS) if program == "all" else 1)]
    ran = doctor(proxy, *words[1:], *more, typed="\n".join(lines) + "\n")
    assert ran.err == ""
    assert not any(line in ran.out for line in lines), "a password was printed"
    return ran.code, ran.json["findings"]


def broken(proxy, program, *more, **how):
    """The one thing that is broken."""
    code, findings = imitate(proxy, program, *more, **how)
    assert code == 3
    (finding,) = [one for one in findings if one["state"] == "broken"]
    assert finding["check"] == program
    return finding


def green(proxy, program, *more, **how):
    """It logs in, and nothing is to be said."""
    code, findings = imitate(proxy, program, *more, **how)
    assert [one["state"] for one in findings] == ["ok"], findings
    assert code == 0


def change(proxy, **changed):
    """The proxy, with this changed in its configuration from now on."""
    proxy.process.stop()
    proxy.log.unlink()
    for name, value in changed.items():
        setattr(proxy, name, value)
    proxy.__enter__()


def application(**settings):
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(["[[application]]", 'name = "all"', 'networks = ["127.0.0.0/8"]', *lines])


@pytest.fixture(scope="module")
def shared(slapd, tmp_path_factory):
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), listen=REUSE) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared):
    """One proxy for all; each test may change it, and begins with one that is right."""
    yield shared
    if (shared.listen, shared.extra, shared.exempt) != (REUSE, "", None):
        change(shared, listen=REUSE, extra="", exempt=None)


def test_where_all_is_right_all_is_green(proxy):
    code, findings = imitate(proxy, "all")
    assert [(one["check"], one["state"]) for one in findings] == [(name, "ok") for name in PROGRAMS]
    assert code == 0


def test_a_program_that_binds_twice_is_told_to_reuse(proxy):
    change(proxy, listen={})
    finding = broken(proxy, "jenkins")
    assert "binds as the user once more, with the same password, and is refused (code 49" in finding["found"]
    assert "The audit trail says replayed-code" in finding["found"]
    assert "Use an API token; or set reuse_seconds = 30 in the [[listen]]" in finding["remedy"]
    change(proxy, listen={"reuse_seconds": 30})
    green(proxy, "jenkins")


def test_a_service_account_that_is_not_exempt_is_to_be_exempted(proxy):
    change(proxy, exempt="cn=nobody,dc=example,dc=test")
    finding = broken(proxy, "gitlab")
    assert "binds as its service account, and is refused" in finding["found"]
    assert "not-enrolled" in finding["found"]
    account, network = re.search(r'account = "(.+?)", networks = \["(.+?)"\]', finding["remedy"]).groups()
    assert network == "127.0.0.1/32"
    change(proxy, exempt=None, extra=f'[[exempt]]\naccount = "{account}"\nnetworks = ["{network}"]')
    green(proxy, "gitlab")


def test_a_service_accounts_wrong_password_is_said(proxy):
    finding = broken(proxy, "sssd", service="wrong")
    assert finding["remedy"] == "Correct the service account's name or password: the directory does not take them."
    green(proxy, "sssd")


def test_nextcloud_that_comes_back_after_five_minutes(proxy):
    change(proxy, listen={"reuse_seconds": 60})
    code, findings = imitate(proxy, "nextcloud")
    assert (code, [one["state"] for one in findings]) == (1, ["ok", "warning"])
    assert "Nextcloud tries the password again every 5 minutes" in findings[1]["found"]
    assert "auth.storeCryptedPassword" in findings[1]["remedy"]
    seconds, uses = re.search(r"reuse_seconds = (\d+) and reuse_uses = (\d+)", findings[1]["remedy"]).groups()
    change(proxy, listen={"reuse_seconds": int(seconds), "reuse_uses": int(uses)})
    green(proxy, "nextcloud")


def test_a_root_dse_that_is_closed_before_a_bind(proxy):
    change(proxy, extra=application(anonymous='"refuse"'))
    finding = broken(proxy, "sssd")
    assert "reads the rootDSE, and is refused" in finding["found"]
    assert finding["remedy"].endswith('before it binds: set anonymous = "root-dse" in the [[application]] "all".')
    change(proxy, extra=application(anonymous='"root-dse"'))
    green(proxy, "sssd")


@pytest.mark.parametrize(("program", "operation"), [("apache", "compare"), ("jenkins", "search")])
def test_an_operation_that_is_denied(proxy, program, operation):
    change(proxy, extra=application(denied_operations=f'["{operation}"]'))
    finding = broken(proxy, program)
    assert finding["remedy"].startswith(f'Take {operation} out of denied_operations of the [[application]] "all"')
    change(proxy, extra=application(denied_operations="[]"))
    green(proxy, program)


def test_a_program_without_a_service_account(proxy):
    finding = broken(proxy, "apache", service="none")
    assert "looks for the user" in finding["found"]
    assert "Give Apache a service account, and exempt that from the second factor" in finding["remedy"]


def test_a_user_that_is_not_found(proxy):
    finding = broken(proxy, "gitlab", "--base", "ou=Groups,dc=example,dc=test")
    assert "finds nobody" in finding["found"]
    assert "the base it looks below (--base)" in finding["remedy"]


def test_a_program_that_does_not_encrypt(proxy):
    change(proxy, listen={**REUSE, "require_tls": True})
    finding = broken(proxy, "nextcloud", "--clear")
    assert "code 13" in finding["found"]
    assert finding["remedy"].startswith("Let Nextcloud encrypt (ldaps, or StartTLS)")
    green(proxy, "nextcloud")


def test_a_certificate_that_the_program_does_not_trust(proxy, tmp_path):
    other = make_certificates(tmp_path)
    finding = broken(proxy, "apache", "--ca-file", other)
    assert "encrypts the connection by StartTLS" in finding["found"]
    assert finding["remedy"] == "Let Apache trust the authority that signed the certificate, and use a name that is in it."
    green(proxy, "apache", "--ca-file", proxy.ca_file)


def test_nobody_is_there(proxy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        finding = broken(proxy, "sssd", "--at", f"ldap://127.0.0.1:{taken.getsockname()[1]}")
    assert "See that the proxy runs and listens there" in finding["remedy"]


def test_a_balancer_must_not_be_imitated(proxy):
    change(proxy, listen={**REUSE, "proxy_protocol_from": ["127.0.0.0/8"]})
    code, findings = imitate(proxy, "sssd")
    assert (code, findings[0]["state"]) == (0, "skipped")
    assert "demands a PROXY header" in findings[0]["found"]


def test_a_wrong_code_is_the_users_own(proxy):
    alice = proxy.directory.user("alice")
    finding = broken(proxy, "sssd", typed=f"{alice.password}000000")
    assert "The audit trail says wrong-code" in finding["found"]
    assert "ldapmfa factor resync" in finding["remedy"]


def test_what_is_asked_for_must_be_given(proxy):
    ran = doctor(proxy, "--config", proxy.config, "--imitate", "sssd", "--json")
    assert (ran.code, ran.errors) == (2, ["--user: is needed with --imitate: who is to log in?"])
    words = ("--config", proxy.config, "--imitate", "sssd", "--user", "alice", "--json")
    assert doctor(proxy, *words).errors == ["--base: is needed, for the directory's table has no base_dn"]
    ran = doctor(proxy, *words, "--base", "dc=x")
    assert "--service-account: is needed" in ran.errors[0]
    ran = doctor(proxy, *words, "--base", "dc=x", "--no-service-account")
    assert "standard input has no more lines" in ran.errors[0]
    ran = doctor(proxy, *words, "--base", "dc=x", "--listener", "nowhere")
    assert "has no listener nowhere" in ran.errors[0]
    assert "--at: " in doctor(proxy, *words, "--base", "dc=x", "--at", "http://x").errors[0]


# -- a user who takes their time


def test_an_impatient_program_and_a_slow_user(slapd, tmp_path, server_cache):
    with AtWebhook(tmp_path, server_cache) as site:
        login = f'factors = ["{site.name}"]\nprompts = 1000'
        with Proxy(slapd, tmp_path / "proxy", login=login, services={site.name: site.settings}) as proxy:
            typed = slapd.user(site.alice).password
            finding = broken(proxy, "sssd", "--patience", 2, typed=typed)
            assert "is not answered within 2 s" in finding["found"]
            place = f'[[listen]] "tcp:{proxy.port}:interface=127.0.0.1"'
            assert finding["remedy"] == (
                f"Raise ldap_opt_timeout above 30 s, or set deadline = 1 in the {place}, with late_approval_seconds = 30."
            )
            with site.owner("yes"):
                code, findings = imitate(proxy, "sssd", typed=typed)
            assert (code, [one["state"] for one in findings]) == (1, ["ok", "warning"])
            assert "SSSD gives up after 8 s, and a login may take 30 s (deadline)" in findings[1]["found"]
            assert "set deadline = 7 in the" in findings[1]["remedy"]
            change(proxy, listen={"deadline": 7, "late_approval_seconds": 30})
            with site.owner("yes"):
                green(proxy, "sssd", typed=typed)
            change(proxy, listen={"deadline": 1})
            finding = broken(proxy, "sssd", "--patience", 2, typed=typed)
            assert "is refused" in finding["found"], "it is answered before it gives up"


# -- Active Directory


def test_before_active_directory(samba, tmp_path):
    to = f'uris = ["{samba.tls_uri}"]\nca_file = "{samba.ca_file}"'
    with Proxy(samba, tmp_path / "proxy", to_directory=to, listen={**REUSE, "tls": "ldaps"}) as proxy:
        code, findings = imitate(proxy, "all")
        assert [(one["check"], one["state"]) for one in findings] == [(name, "ok") for name in PROGRAMS]
        assert code == 0
        change(proxy, listen={"tls": "ldaps"})
        assert "reuse_seconds = 30" in broken(proxy, "gitlab")["remedy"]
