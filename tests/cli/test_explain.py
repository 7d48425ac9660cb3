"""`ldapmfa explain` and `ldapmfa cache clear`: what is said of logins that do not happen, and that nothing is changed."""

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from ipaddress import ip_address, ip_network
from sqlite3 import connect
from types import SimpleNamespace

import pytest
from cli.conftest import CONFIGURATION
from twisted.internet.task import Clock

from ldapmfa import config
from ldapmfa.audit import AccountChanged
from ldapmfa.cli import pretence
from ldapmfa.cli.command import Failed
from ldapmfa.cli.pretence import Asked, Door, Stated
from ldapmfa.core.application import Certificate, Peer
from ldapmfa.core.identity import CannotIdentify, Identity, NoOneAccount
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.rules import Hours, Moment, Rule
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.factors import NewCredential
from ldapmfa.net import service
from ldapmfa.net.moment import moment

EVE, VPN = "cn=eve,ou=staff,dc=example,dc=com", "cn=vpn,ou=groups,dc=example,dc=com"
INSIDE, WEB = ip_network("10.0.0.0/8"), ip_network("10.0.0.0/16")
DUO, RSA = ServiceRule("duo", ("push", "sms"), takes_codes=True), ServiceRule("rsa", takes_codes=True)
AT = "2026-03-01T22:00:00Z"  # a Sunday


def rows(directory):
    """All that the store holds."""
    with closing(connect(directory / "state.db")) as link:
        tables = [name for (name,) in link.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: link.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


@pytest.fixture
def house(ldapmfa, monkeypatch):
    """Explains a login under a policy; nothing in the store may change by it."""
    loaded = config.load(ldapmfa.directory / "ldapmfa.toml")
    ldapmfa_store = lambda: service.open_store(loaded)  # noqa: E731

    async def explain(policy, *, address=None, at=AT, stated=None, name=None, form=None, zone=UTC):
        door = Door("app", replace(policy, application="app"), form or CodeForm(), zone=zone)
        monkeypatch.setattr(pretence, "_application", lambda *_: door)
        peer = Peer("vpn", ip_address(address) if address else None, None)
        stated = None if name else stated or Stated(EVE, ("eve",), groups=(VPN.upper(),))
        before = rows(ldapmfa.directory)
        found = await pretence.explain(loaded, Asked(name, stated, loaded.listen[0], peer, at), Clock())
        assert rows(ldapmfa.directory) == before
        return found, pretence.as_value(found)

    return SimpleNamespace(explain=explain, store=ldapmfa_store, program=ldapmfa)


async def enrolled(house, **more):
    """Eve has a factor, and what else is said."""
    store = await house.store()
    try:
        eve = Identity("default", "guid:" + "0" * 32, EVE, ("eve",))
        new = NewCredential("totp", Secret(b"1" * 20), {"algorithm": "sha1", "digits": 6, "period": 30})
        change = AccountChanged(at=time.time(), action="enrolled", account=eve.key, actor="test")
        await store.enrol(eve, new, "", change)
        if "method" in more:
            await store.set_method(eve.key, more["method"], change)
    finally:
        await store.close()
    if "sql" in more:
        with closing(connect(house.program.directory / "state.db")) as link:
            link.execute(more["sql"])
            link.commit()


def would(value):
    return {name: (play["outcome"], play["reason"]) for name, play in value["would"].items()}


# -- rules


RULES = (
    Rule("night", "refuse", hours=(Hours(frozenset({0}), 0, 60, "Mon 00:00-01:00"),)),
    Rule("other", "password-only", applications=frozenset({"printer"})),
    Rule("vpn", "factors", ("duo",), groups=(VPN,)),
    Rule("inside", "password-only", networks=(INSIDE,)),
)


async def test_every_rule_is_shown_with_what_it_misses(house):
    _, value = await house.explain(Policy(rules=RULES, others=(DUO,)), address="10.1.2.3")
    assert [(rule["name"], rule["applies"], rule["decides"]) for rule in value["rules"]] == [
        ("night", False, False),
        ("other", False, False),
        ("vpn", True, True),
        ("inside", True, False),
    ]
    assert [rule["misses"] for rule in value["rules"]] == [
        ["the time is not Mon 00:00-01:00"],
        ["the application is app, not printer"],
        [],
        [],
    ]
    assert value["decision"] == {"action": "factors", "rule": "vpn"}
    assert value["asks"] == [{"service": "duo", "method": "", "device": ""}]
    assert value["account"]["groups"] == [VPN]
    assert value["would"]["password"]["steps"] == ["the owner is asked by duo and approves"]
    assert would(value) == {
        "password": ("let in", "approved"),
        "code": ("refused", "password"),  # the first time: a password alone does for some, and the name is unknown
        "outage": ("broken, which means no", "factor-down"),
    }


async def test_the_time_and_the_clock_decide(house):
    for at, zone, rule in (
        ("2026-03-02 00:30", UTC, "night"),
        ("2026-03-02T00:30:00", UTC, "night"),
        ("2026-03-02 01:00", UTC, "vpn"),
        ("2026-03-01T23:30:00Z", timezone(timedelta(hours=1)), "night"),
        ("2026-03-02 00:30", timezone(timedelta(hours=1)), "night"),
        ("2026-03-01T19:30-05:00", UTC, "night"),
    ):
        _, value = await house.explain(Policy(rules=RULES, others=(DUO,)), at=at, zone=zone)
        assert value["decision"]["rule"] == rule, (at, zone)
    assert would(value)["password"] == ("refused", "rule")
    with pytest.raises(Failed, match="soon is no time"):
        await house.explain(Policy(), at="soon")
    _, value = await house.explain(Policy(), at=None)
    assert abs(time.mktime(time.strptime(value["at"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - time.time()) < 60


async def test_from_where_it_would_be_decided_otherwise(house):
    policy = Policy(
        exempt=(Exempt("eve", (WEB,)), Exempt("bob", (ip_network("192.0.2.0/24"),))),
        rules=(Rule("inside", "password-only", networks=(INSIDE,)),),
    )
    told = lambda value: [(one["from"], one["action"], one["rule"]) for one in value["elsewhere"]]  # noqa: E731
    _, value = await house.explain(policy, address="192.0.2.1")
    assert told(value) == [("10.0.0.0/16", "exempt", None), ("10.0.0.0/8", "password-only", "inside")]
    assert value["exempt"] == [{"account": "eve", "networks": ["10.0.0.0/16"], "covers": False}]
    _, value = await house.explain(policy, address="10.0.0.1")
    assert would(value)["password"] == ("let in", "exempt")
    assert told(value) == [
        ("192.0.2.0/24", "factors", None),
        ("10.0.0.0/8", "password-only", "inside"),
        ("anywhere else", "factors", None),
    ]
    _, value = await house.explain(Policy())
    assert value["elsewhere"] == []


# -- the store


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, {"password": ("refused", "no-code"), "code": ("let in", "code")}),
        ({"sql": "UPDATE accounts SET locked_until = 9e9"}, {"password": ("refused", "no-code"), "code": ("refused", "locked")}),
        ({"sql": "UPDATE accounts SET blocked_until = 9e9"}, {"password": ("refused", "blocked"), "code": ("refused", "blocked")}),
        (
            {"sql": "INSERT INTO bypasses SELECT key, 1, 9e9, 'lost phone', 'root', 0 FROM accounts"},
            {"password": ("let in", "bypass"), "code": ("let in", "code")},
        ),
    ],
)
async def test_what_the_store_knows_decides_as_it_would(house, more, ends):
    await enrolled(house, **more)
    _, value = await house.explain(Policy())
    assert would(value) == ends
    assert value["store"]["factors"] == ["totp"]
    assert value["account"]["key"] == "default/guid:" + "0" * 32
    if "sql" in more:
        assert sum(value["store"][name] for name in ("locked", "blocked", "bypass")) == 1


async def test_a_blocked_account_is_not_let_in_by_an_exemption(house):
    await enrolled(house, sql="UPDATE accounts SET blocked_until = 9e9")
    _, value = await house.explain(Policy(exempt=(Exempt("eve"),)))
    assert would(value)["password"] == ("refused", "blocked")


async def test_how_its_owner_wants_to_be_asked(house):
    await enrolled(house, method="duo/sms")
    _, value = await house.explain(Policy(services=(DUO, RSA)))
    assert value["asks"] == [{"service": "duo", "method": "sms", "device": ""}]
    assert value["would"]["password"]["steps"] == ["the owner is asked by duo for sms and approves"]
    assert value["codes"] == {"own": None, "services": ["duo", "rsa"]}


async def test_who_is_not_known(house):
    for unenrolled, end in (("refuse", ("refused", "not-enrolled")), ("password-only", ("let in", "password-only")), ("grace", ("let in", "grace"))):
        _, value = await house.explain(Policy(unenrolled=unenrolled, grace_seconds=10.0))
        assert would(value)["password"] == end
        assert value["store"]["in_grace"] == (unenrolled == "grace")
        assert value["account"]["key"] is None


async def test_a_code_that_would_be_taken_for_a_part_of_the_password(house):
    _, value = await house.explain(Policy(unenrolled="password-only"))
    assert would(value)["code"] == ("refused", "password")
    assert "part of the password" in value["would"]["code"]["steps"][0]


async def test_an_outage_that_opens(house):
    _, value = await house.explain(Policy(services=(replace(DUO, opens=True),)))
    assert would(value)["outage"] == ("let in", "failed-open")
    assert value["fail_mode"] == {"duo": "open"}


async def test_codes_behind_a_delimiter(house):
    await enrolled(house)
    _, value = await house.explain(Policy(), form=CodeForm(6, b","))
    assert would(value)["code"] == ("let in", "code")


# -- who it is


async def test_an_account_is_looked_up_with_its_groups(house, monkeypatch):
    class Known:
        settings = SimpleNamespace(service_dn="cn=svc", name="default", identity_name="default")

        async def find(self, name):
            return {"eve": Identity("default", "guid:1", EVE, ("eve",))}.get(name) or NoOneAccount(tuple(name.split()[1:]))

        async def groups(self, link, identity, groups):
            assert (link, identity.dn) == (None, EVE)
            if "gone" in groups:
                raise CannotIdentify("the group gone, which a rule names, is not found")
            return frozenset({VPN})

    monkeypatch.setattr(service, "directories", lambda *_: {"default": Known()})
    _, value = await house.explain(Policy(rules=RULES, others=(DUO,)), name="eve")
    assert (value["decision"]["rule"], value["account"]["key"]) == ("vpn", "default/guid:1")
    with pytest.raises(CannotIdentify, match="the group gone"):
        await house.explain(Policy(rules=(Rule("r", "refuse", groups=("gone",)),)), name="eve")
    with pytest.raises(Failed, match="the service account sees no account called bob") as failed:
        await house.explain(Policy(), name="bob")
    assert failed.value.code == 1
    with pytest.raises(Failed, match="several accounts: use a DN\n  one\n  two"):
        await house.explain(Policy(), name="bob one two")


async def test_a_rule_about_flags_that_the_directory_hides(house, monkeypatch):
    class Hiding:
        settings = SimpleNamespace(service_dn="cn=svc", name="default", identity_name="default")

        async def find(self, _name):
            return Identity("default", "guid:1", EVE, ("eve",), hides_flags=True)

    monkeypatch.setattr(service, "directories", lambda *_: {"default": Hiding()})
    weak = Rule("weak", "refuse", flags=frozenset({"password-not-required"}))
    with pytest.raises(CannotIdentify, match="hides userAccountControl, which the rule weak is about"):
        await house.explain(Policy(rules=(weak,)), name="eve")
    inside = Rule("inside", "password-only", networks=(INSIDE,))
    _, value = await house.explain(Policy(rules=(inside, weak)), name="eve", address="10.1.2.3")
    assert (value["decision"]["rule"], value["rules"][1]["applies"], value["elsewhere"]) == ("inside", False, [])
    assert value["rules"][1]["misses"] == [f"{EVE} hides userAccountControl, which the rule weak is about"]


async def test_flags_and_names_may_be_stated(house):
    policy = Policy(rules=(Rule("computers", "password-only", flags=frozenset({"computer"})),), exempt=(Exempt("eve@example.com"),))
    _, value = await house.explain(policy, stated=Stated(EVE, upn="EVE@example.com", flags=frozenset({"computer"})))
    assert value["rules"][0]["applies"]
    assert value["decision"]["action"] == "exempt"


# -- the command


def test_without_a_service_account_it_says_what_to_configure(ldapmfa):
    ran = ldapmfa.child("explain", "--name", "CORP\\eve", "--json")
    assert ran.code == 2
    assert "directory.service_account" in ran.errors[0]
    assert "--dn" in ran.errors[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "give --name"),
        (("--name", "eve", "--dn", EVE), "give --name"),
        (("--name", "eve", "--group", VPN), "go with --dn"),
        (("--dn", EVE, "--listener", "gone"), "has no listener gone"),
        (("--dn", EVE, "--from", "here"), "here is not an IP address"),
    ],
)
def test_mistakes_are_named(ldapmfa, words, why):
    ran = ldapmfa("explain", *words, "--json")
    assert ran.code == 2
    assert why in ran.errors[0]


def test_it_is_told_in_plain_words(ldapmfa):
    ran = ldapmfa.child("explain", "--dn", EVE, "--account", "eve", "--from", "10.1.2.3", "--at", "2026-03-01 22:00")
    assert (ran.code, ran.err) == (0, "")
    assert "No rules are configured." in ran.out
    assert "It demands a second factor." in ran.out
    assert "from 10.1.2.3" in ran.out
    assert "2026-03-01 22:00:00" in ran.out
    assert "With the password alone: refused (not-enrolled)." in ran.out
    assert "With a code: refused (not-enrolled)." in ran.out
    value = ldapmfa.child("explain", "--dn", EVE, "--json").json
    assert (value["from"], value["decision"]["action"]) == (None, "factors")


async def test_all_of_it_is_told(house):
    from ldapmfa.cli.explain import _lines

    await enrolled(house, method="duo/sms", sql="INSERT INTO bypasses SELECT key, 1, 9e9, 'lost phone', 'root', 0 FROM accounts")
    policy = Policy(services=(DUO, RSA), rules=(*RULES[:1], *RULES[3:]), exempt=(Exempt("eve", (WEB,)),))
    found, value = await house.explain(policy, address="192.0.2.1")
    value |= {"late_approval_seconds": 20.0, "reuse_seconds": 5.0}
    lines = list(_lines(found, value))
    for line in (
        "1. night (refuse): does not apply",
        "     the time is not Mon 00:00-01:00",
        "[[exempt]] eve, from 10.0.0.0/16: not from there",
        "  asked        duo by sms",
        "  codes        of whatever is enrolled, duo, rsa",
        "  fail mode    duo closed, rsa closed",
        "  reuse        an equal bind within 5 s",
        "  bypass       one login is granted without a second factor",
        "From 10.0.0.0/16: no second factor, by [[exempt]].",
        "From 10.0.0.0/8: the password alone, by the rule inside.",
    ):
        assert line in lines
    found, value = await house.explain(Policy(rules=RULES, kinds=frozenset()), address="10.1.2.3", stated=Stated(EVE, groups=(VPN,)))
    lines = list(_lines(found, value))
    assert "3. vpn (factors): applies, and decides" in lines
    assert "4. inside (password-only): would apply, but an earlier one decides" in lines


def test_listeners_complete(ldapmfa):
    ran = ldapmfa.child(env={"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": "ldapmfa explain --listener tcp", "COMP_CWORD": "3"})
    assert "tcp:" in ran.out


# -- the caches


def test_clearing_caches_is_recorded(ldapmfa):
    assert ldapmfa("cache", "clear", "--json").json == {"cleared": 1}
    assert ldapmfa("cache", "clear").out == "Whatever is known of groups is asked anew.\n"
    (event, _) = ldapmfa("audit", "--json").json["events"]
    assert (event["action"], event["account"]) == ("caches-cleared", "*")
    assert event["actor"]


# -- moments


def test_a_moment_is_by_the_clock_on_the_wall():
    assert moment(0.0, UTC) == Moment(0.0, 3, 0)  # a Thursday
    assert moment(86400.5 + 3661, UTC) == Moment(90061.5, 4, 61)
    assert moment(0.0, timezone(timedelta(hours=-1))) == Moment(0.0, 2, 23 * 60)
    local = time.localtime(1_700_000_000)
    assert moment(1_700_000_000.0, None) == Moment(1_700_000_000.0, local.tm_wday, local.tm_hour * 60 + local.tm_min)


APPLICATIONS = """
[[application]]
name = "vpn"
networks = ["10.0.0.0/8"]
reuse_seconds = 30

[[application]]
name = "jenkins"
certificates = ["dns:jenkins.example.com", "subject:CN=jenkins,O=example", "sha256:{fingerprint}"]
factors = ["hotp"]

[[rule]]
name = "closed"
action = "refuse"
applications = ["jenkins"]
hours = ["sat,sun 00:00-24:00"]
"""


@pytest.mark.parametrize(
    ("words", "application", "action"),
    [
        ((), "tcp", "factors"),
        (("--from", "192.0.2.1"), "tcp", "factors"),
        (("--from", "10.1.2.3"), "vpn", "factors"),
        (("--from", "::ffff:10.1.2.3"), "vpn", "factors"),
        (("--certificate", "dns:JENKINS.example.com"), "jenkins", "refuse"),
        (("--certificate", "subject:cn = Jenkins , o=Example"), "jenkins", "refuse"),
        (("--certificate", "sha256:" + ":".join(["AB"] * 32)), "jenkins", "refuse"),
        (("--certificate", "dns:jenkins.example.com", "--from", "10.1.2.3"), "vpn", "factors"),
        (("--certificate", "dns:jenkins.example.org"), "tcp", "factors"),
        (("--certificate", "dns:jenkins.example.com", "--at", "2026-03-02 22:00"), "jenkins", "factors"),
    ],
)
def test_the_application_is_the_one_that_a_client_would_be_at(ldapmfa, port, words, application, action):
    ldapmfa.configure(CONFIGURATION.format(port=port) + APPLICATIONS.format(fingerprint="ab" * 32))
    at = () if "--at" in words else ("--at", "2026-03-01 22:00")
    ran = ldapmfa.child("explain", "--dn", EVE, *words, *at, "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["application"].startswith(application)
    assert found["decision"]["action"] == action
    assert [one["name"] for one in found["applications"]] == ["vpn", "jenkins"]
    assert found["applications"][0]["covers"] is (application == "vpn")
    assert found["reuse_seconds"] == (30 if application == "vpn" else 0)
    told = ldapmfa.child("explain", "--dn", EVE, *words, *at).out
    assert f"[[application]] {application}: covers it, and counts" in told or application == "tcp"
    assert "yes: " in told or "no: " in told


def test_a_certificate_is_written_as_in_the_configuration(ldapmfa):
    ran = ldapmfa.child("explain", "--dn", EVE, "--certificate", "jenkins")
    assert (ran.code, "--certificate: jenkins must be" in ran.err) == (2, True)
    assert pretence.shown_by("subject:CN=x") == Certificate("CN=x", (), "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--dn", "eve"), "--dn: eve is not a distinguished name:"),
        (("--dn", EVE, "--group", "vpn"), "--group: vpn is not a distinguished name or a SID:"),
        (("--dn", EVE, "--group", "S-1-5-32-544", "--flag", "tall"), "--flag: tall is no flag; known are computer, "),
    ],
)
def test_what_describes_nobody_ends_with_2(ldapmfa, words, why):
    ran = ldapmfa("explain", *words)
    assert (ran.code, why in ran.err) == (2, True), ran.err
