"""Every name that Active Directory takes for an account, before a real one: one identity, one factor, one lock, one rule."""

import uuid
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from system.played import Played
from system.proxy import Proxy
from system.test_logins import STATES, log_in

from ldapmfa.core.identity import sid_text
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.rules import Rule
from ldapmfa.wire import ldap

DUO = ServiceRule("duo", ("push",))
#: Forms that a domain controller must take; of the others it may.
TAKEN = ("DN", "DN in capitals", "DN with spaces", "GUID", "SID", "UPN", "UPN in capitals", "implicit UPN", "NetBIOS", "netbios")


@pytest.fixture(scope="module")
def target(samba):
    """An account with a name of every kind; `forms` by what they are called."""
    user = samba.add_user("namely", ou="Paris,Europe,Staff")
    changes = {
        "userPrincipalName": "other.name@corp.example",
        "displayName": "Namely Displayed",
        "servicePrincipalName": ["HTTP/namely.example.test", "host/namely.example.test"],
    }
    with samba.admin() as admin:
        for name, value in changes.items():
            admin.modify(user.dn, {name: [("MODIFY_REPLACE", value if isinstance(value, list) else [value])]})
        admin.search(user.dn, "(objectClass=*)", "BASE", attributes=["objectGUID", "objectSid"])
        raw = admin.response[0]["raw_attributes"]
    guid, sid = uuid.UUID(bytes_le=raw["objectGUID"][0]), sid_text(raw["objectSid"][0])
    forms = {
        "DN": user.dn,
        "DN in capitals": user.dn.upper(),
        "DN with spaces": user.dn.replace(",", " , "),
        "DN with spaces around =": user.dn.replace("=", " = "),
        "DN with escapes": user.dn.replace("namely", "\\6eamely"),
        "DN with OIDs": user.dn.replace("CN=", "2.5.4.3=").replace("OU=", "OID.2.5.4.11="),
        "DN with semicolons": user.dn.replace(",", ";"),
        "DN with quotes": user.dn.replace("CN=namely", 'CN="namely"'),
        "GUID": f"<GUID={guid}>",
        "GUID in hexadecimal": f"<GUID={raw['objectGUID'][0].hex()}>",
        "SID": f"<SID={sid}>",
        "SID in hexadecimal": f"<SID={raw['objectSid'][0].hex()}>",
        "UPN": "other.name@corp.example",
        "UPN in capitals": "OTHER.NAME@CORP.EXAMPLE",
        "implicit UPN": "namely@example.test",
        "implicit UPN of the NetBIOS name": "namely@EXAMPLE",
        "implicit UPN of another suffix": "namely@corp.example",
        "NetBIOS": "EXAMPLE\\namely",
        "netbios": "example\\NAMELY",
        "DNS": "example.test\\namely",
        "canonical name": "example.test/Staff/Europe/Paris/namely",
        "canonical name with a newline": "example.test/Staff/Europe/Paris\nnamely",
        "braced GUID": f"{{{guid}}}",
        "displayName": "Namely Displayed",
        "SPN": "HTTP/namely.example.test",
        "mapped SPN": "cifs/namely.example.test",
        "SID as text": sid,
        "account name": "namely",
        "account name with spaces": " namely ",
    }
    yield SimpleNamespace(forms=forms, user=user, key=f"default/guid:{raw['objectGUID'][0].hex()}", name="namely")
    samba.delete_user(user)


def test_A27_every_name_form_is_the_same_account_with_the_same_factor_or_refused(samba, target, tmp_path):
    with Proxy(samba, tmp_path / "proxy") as proxy:
        token = proxy.enrol_account(target.name)
        taken = set()
        for form, name in target.forms.items():
            typed = target.user.password + token.code()
            code = log_in(proxy, name, typed).code
            assert code in (0, 49), form
            if code == 0:
                taken.add(form)
                assert proxy.records()[-1]["account"] == target.key, form
                assert log_in(proxy, name, typed).code == 49, "the same code again"
            else:
                assert proxy.records()[-1].get("account") in (None, target.key), form
            unlock(samba, target)
        assert taken >= set(TAKEN)


def test_A27_one_lock_for_every_name_form(samba, target, tmp_path):
    with Proxy(samba, tmp_path / "proxy") as proxy:
        token = proxy.enrol_account(target.name)
        assert log_in(proxy, target.user.dn, target.user.password + token.code()).code == 0
        names = [target.forms[form] for form in TAKEN]
        for number in range(10):
            assert log_in(proxy, names[number % len(names)], f"{target.user.password}{number:06}").code == 49
        for form in TAKEN:
            assert log_in(proxy, target.forms[form], target.user.password + token.code()).code == 49, form
            record = proxy.records()[-1]
            assert (record["reason"], record["account"]) == ("locked", target.key), form


def unlock(samba, target):
    """Forms that the directory takes for nobody count as wrong passwords of somebody, perhaps."""
    with samba.admin() as admin:
        admin.modify(target.user.dn, {"lockoutTime": [("MODIFY_REPLACE", ["0"])]})


def policies(samba, target):
    """Rules by which the account is nobody, everybody else asked; each by another property of it."""
    groups = (f"CN=Domain Users,CN=Users,{samba.base_dn}",)
    yield "group", Policy(services=(DUO,), rules=(Rule("r", "refuse", groups=groups),))
    yield "OU", Policy(services=(DUO,), rules=(Rule("r", "refuse", ous=(f"ou=paris, ou=europe,OU=Staff,{samba.base_dn}",)),))
    yield "directory", Policy(services=(DUO,), rules=(Rule("r", "refuse", directory="default"),))
    yield "all but others", Policy(services=(DUO,), rules=(Rule("others", "password-only", ous=(f"OU=Services,{samba.base_dn}",)), Rule("r", "refuse")))


async def test_A27_every_name_form_falls_under_the_same_rules(samba, target, tmp_path):
    """And who may not pass is not asked."""
    for number, (what, policy) in enumerate(policies(samba, target)):
        (tmp_path / str(number)).mkdir()
        async with Played(samba, tmp_path / str(number), policy) as played:
            for form in target.forms:
                event, asked = await played.bind(target.forms[form], target.user.password)
                unlock(samba, target)
                assert asked == 0, (what, form)
                assert event.outcome == "refused", (what, form)
                if event.reason != "password" or form in TAKEN:
                    assert (event.reason, event.account, event.detail) == ("rule", target.key, "r"), (what, form)


async def test_A27_every_name_form_is_asked_and_exempt_alike(samba, target, tmp_path):
    exempt = Policy(services=(DUO,), exempt=(Exempt(target.name),))
    near = Policy(services=(DUO,), exempt=(Exempt("name"), Exempt("other.name"), Exempt(target.user.dn.replace("namely", "name"))))
    away = Policy(services=(DUO,), exempt=(Exempt(target.name, (ip_network("10.0.0.0/8"),)),))
    async with Played(samba, tmp_path, near) as played:
        for form in TAKEN:
            for policy, reason, prompts in ((near, "approved", 1), (away, "approved", 1), (exempt, "exempt", 0)):
                event, asked = await played.bind(target.forms[form], target.user.password, policy)
                assert (event.reason, event.account, asked) == (reason, target.key, prompts), form


async def test_A31_nobody_is_asked_as_whom_a_bind_does_not_take_a_name(samba, tmp_path):
    """Whoever must change the password is found by the names that the directory takes so, and by no other.

    An account calls itself by another's account name: the directory may take that name for it.
    """
    mallory = samba.user("mustchange")
    with samba.admin() as admin:
        admin.modify(mallory.dn, {"displayName": [("MODIFY_REPLACE", ["alice"])]})
    policy = Policy(services=(DUO,), tells=True, rules=(Rule("all", "factors", groups=(f"CN=Domain Users,CN=Users,{samba.base_dn}",)),))
    try:
        async with Played(samba, tmp_path, policy, with_service=True) as played:
            event, asked = await played.bind("alice", mallory.password + "123456")
            assert (event.outcome, asked) == ("refused", 0)
            assert event.account is None
            assert played.owner.verified == []
    finally:
        with samba.admin() as admin:
            admin.modify(mallory.dn, {"displayName": [("MODIFY_REPLACE", [])]})


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "tells"])
async def test_A35_who_may_not_log_in_is_not_asked_whatever_the_rules(samba, tmp_path, tells):
    users = f"CN=Domain Users,CN=Users,{samba.base_dn}"
    rules = (Rule("away", "password-only", networks=(ip_network("10.0.0.0/8"),)), Rule("all", "factors", ("duo",), groups=(users,)))
    policy = Policy(services=(DUO,), rules=rules, tells=tells, unenrolled="password-only")
    async with Played(samba, tmp_path, policy, with_service=True) as played:
        event, asked = await played.bind(samba.user("pwnever").dn, samba.user("pwnever").password)
        assert (event.reason, asked) == ("approved", 1)
        for name, (sub_code, reason) in STATES.items():
            user = samba.user(name)
            for typed in (user.password, user.password + "123456"):
                for one in (policy, Policy(exempt=(Exempt(name),)), Policy(rules=(Rule("all", "password-only"),))):
                    event, asked = await played.bind(user.dn, typed, one)
                    if name == "smartcard":  # nobody knows its password, so that each is a wrong one
                        samba.reset_lockout(name)
                    assert (event.outcome, asked) == ("refused", 0), (name, one)
                    if typed == user.password:
                        assert (event.reason, event.result) == (reason, ldap.INVALID_CREDENTIALS), name
                        assert f"data {sub_code}" in event.detail
