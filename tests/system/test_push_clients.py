"""A bind through a real client program waits for each service, and obeys it; so do the commands that try one."""

import subprocess
import time

import pytest
from cli.program import Program
from fakes.web import nobody
from system.proxy import Proxy
from system.servers.common import free_port
from system.services import SITES

from ldapmfa.wire import ldap

pytestmark = pytest.mark.xdist_group("push-clients")


@pytest.fixture(scope="module", params=SITES)
def site(request, tmp_path_factory, server_cache):
    with SITES[request.param](tmp_path_factory.mktemp(request.param), server_cache) as site:
        yield site


def before(directory, path, site, **more):
    login = f'factors = ["{site.name}"]\ncode = "delimiter"\nprompts = 1000'
    return Proxy(directory, path, login=login, services={site.name: site.settings}, **more)


@pytest.fixture(scope="module")
def proxy(site, slapd, tmp_path_factory):
    with before(slapd, tmp_path_factory.mktemp("proxy"), site) as proxy:
        yield proxy


def log_in(proxy, name, added="", password=None):
    """The exit code of ldapsearch, which is the bind's, and how long it took."""
    user = proxy.directory.user(name)
    began = time.monotonic()
    words = ["ldapsearch", "-x", "-LLL", "-H", proxy.uri, "-D", user.dn, "-w", (password or user.password) + added, "-s", "base", "-b", user.dn, "dn"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=40)
    assert ("dn: " in done.stdout) == (done.returncode == 0), done
    return done.returncode, time.monotonic() - began


def last(proxy):
    """How the last login ended."""
    event = proxy.records()[-1]
    return event["reason"], event.get("factor")


def test_a_client_waits_for_a_yes(site, proxy):
    asked = site.asked()
    with site.owner("yes"):
        code, seconds = log_in(proxy, site.alice)
    assert (code, last(proxy)) == (0, ("approved", site.name))
    assert seconds >= site.waits
    assert site.asked() == asked + 1


def test_a_client_obeys_a_no(site, proxy):
    with site.owner("no"):
        code, _ = log_in(proxy, site.refuses)
    assert (code, last(proxy)[0]) == (ldap.INVALID_CREDENTIALS, "denied")


def test_A09_nobody_is_asked_by_a_wrong_password(site, proxy):
    asked = site.asked()
    stranger = f"bulk14{list(SITES).index(site.name):02d}"  # nobody else's: five wrong passwords lock an account
    for added in ("", ",push", ",123456"):
        assert log_in(proxy, stranger, added, password="wrong")[0] == ldap.INVALID_CREDENTIALS
    assert site.asked() == asked


def test_a_code_is_typed_behind_the_password(site, proxy):
    if not site.takes_codes:
        assert log_in(proxy, site.alice, ",123456")[0] == ldap.INVALID_CREDENTIALS
        return
    if not site.burns_codes:  # RADIUS: a challenge is answered within the bind
        assert log_in(proxy, site.bob, f",{site.sent()}")[0] == 0
        assert log_in(proxy, site.bob, ",000000")[0] == ldap.INVALID_CREDENTIALS
        return
    asked, code = site.asked(), site.code()
    assert log_in(proxy, site.alice, f",{code}")[0] == 0
    assert last(proxy) == ("code", site.name)
    assert log_in(proxy, site.alice, f",{code}")[0] == ldap.INVALID_CREDENTIALS
    assert log_in(proxy, site.alice, ",000000")[0] == ldap.INVALID_CREDENTIALS
    assert site.asked() in (asked, asked + 3 * (site.name == "entra"))  # whose fake counts the beginning of a check


@pytest.mark.parametrize("site", [name for name, site in SITES.items() if site.sends], indirect=True)
def test_a_code_is_sent_and_comes_with_the_next_bind(site, proxy):
    keyword = "" if site.sends == "radius" else f",{site.sends}"
    assert log_in(proxy, site.bob, keyword)[0] == ldap.INVALID_CREDENTIALS
    assert last(proxy)[0] == "code-sent"
    sent = site.sent()
    wrong = "000000" if sent != "000000" else "000001"
    assert log_in(proxy, site.bob, f",{wrong}")[0] == ldap.INVALID_CREDENTIALS
    assert last(proxy)[0] == "wrong-code"
    if site.sends == "radius":  # it forgets a challenge that was answered
        assert log_in(proxy, site.bob)[0] == ldap.INVALID_CREDENTIALS
    assert log_in(proxy, site.bob, f",{sent}")[0] == 0
    assert last(proxy) == ("code", site.name)


@pytest.mark.parametrize("site", [name for name, site in SITES.items() if site.sends == "sms"], indirect=True)
def test_a_user_is_asked_by_the_method_that_was_set(site, proxy):
    def set_method(*words):
        return Program(proxy.path).child("user", "set-method", "bob", *words)

    assert set_method("sms").code == 0
    assert log_in(proxy, "bob")[0] == ldap.INVALID_CREDENTIALS
    assert last(proxy)[0] == "code-sent"
    if site.name == "duo":  # it is the same for all of them
        assert set_method("code").code == 0
        asked = site.asked()
        assert log_in(proxy, "bob")[0] == ldap.INVALID_CREDENTIALS
        assert (last(proxy)[0], site.asked()) == ("no-code", asked)
        wrong = set_method("pigeon")
        assert (wrong.code, "pigeon" in wrong.err) == (2, True)
        assert set_method("--default").code == 0
        with site.owner("yes"):
            assert log_in(proxy, "bob")[0] == 0


def trial(site, proxy, name, *words):
    """The exit code of `ldapmfa factor test`, and what it says."""
    words = ["factor", "test", site.name, "--user", name + site.suffix, "--json", *words]
    ldapmfa = Program(proxy.path)
    if site.name == "radius":
        done = ldapmfa.child(*words, "--password-stdin", typed=proxy.directory.user(name).password + "\n")
    else:
        done = ldapmfa(*words)
    assert not done.err, done
    return done.code, done.json


def test_the_command_that_tries_a_service_waits_and_obeys(site, proxy):
    with site.owner("yes"):
        code, value = trial(site, proxy, site.alice)
    assert (code, value["outcome"]) == (0, "accepted"), value
    with site.owner("no"):
        code, value = trial(site, proxy, site.refuses)
    assert (code, value["outcome"], value["reason"]) == (1, "refused", "denied"), value
    if site.takes_codes and site.burns_codes:
        code, value = trial(site, proxy, site.alice, "--code", "000000")
        assert (code, value["outcome"], value["reason"]) == (1, "refused", "wrong-code"), value
        code, value = trial(site, proxy, site.alice, "--code", site.code())
        assert (code, value["outcome"]) == (0, "accepted"), value


def test_what_is_away_is_told_by_commands(site, proxy):
    """By a configuration whose listener is free, for the other's is taken."""
    ldapmfa, text = Program(proxy.path), proxy.config.read_text().replace(f"tcp:{proxy.port}:", f"tcp:{free_port()}:")
    there, away = proxy.path / "there.toml", proxy.path / "away.toml"
    there.write_text(text)
    done = ldapmfa.child("check-config", "--online", "--json", "--config", there)
    assert (done.code, done.err) == (0, ""), done
    [found] = done.json["services"]
    assert (found["service"], bool(found["found"])) == (site.name, True)
    with nobody() as port:
        away.write_text(text.replace(f":{site.port}", f":{port}"))
        done = ldapmfa.child("check-config", "--online", "--config", away)
        assert (done.code, f"factors.{site.name}: " in done.out + done.err) == (3, True), done
        code, value = trial(site, proxy, "alice", "--config", away)
        assert (code, value["reason"]) == (3, "factor-down"), value


@pytest.mark.parametrize("site", ["duo"], indirect=True)
def test_before_active_directory(site, samba, tmp_path):
    with before(samba, tmp_path / "proxy", site) as proxy:
        for presses, code in (("yes", 0), ("no", ldap.INVALID_CREDENTIALS)):
            with site.owner(presses):
                assert log_in(proxy, "alice")[0] == code
        assert log_in(proxy, "alice", f",{site.code()}")[0] == 0
