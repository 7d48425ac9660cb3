"""Attacks on logins that ask services: what they cost, whom they keep out, what their time tells. All in memory."""

import asyncio
import os
import resource
from dataclasses import replace

import pytest
from fakes.privacyidea import ADMIN, Fake, Token
from fakes.privacyidea import PASSWORD as FAKE_PASSWORD
from world import PASSWORD, SERVICE, World, bind, people, result

from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.secret import CodeForm
from ldapmfa.core.session import Rules
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.privacyidea import PrivacyIdea
from ldapmfa.factors.service import Allowed, Denied, Prompt, Tools
from ldapmfa.net import assembly
from ldapmfa.net.asking import Terms
from ldapmfa.net.waiting import within
from ldapmfa.wire import ldap

PUSH = ServiceRule("push", ("push", "phone", "sms"), takes_codes=True)
POLICY = Policy((Exempt(SERVICE),), services=(PUSH,))


@pytest.fixture
def house(tmp_path):
    return World(tmp_path, policy=POLICY, rules=Rules(form=CodeForm(6, b",", {b"push": "push/push", b"sms": "push/sms"})))


async def opened(house, *, options=None, **terms):
    house.terms = Terms("app", **terms)
    house.policy = replace(house.policy, reuses=bool({"reuse_seconds", "late_seconds"} & set(terms)))
    await house.open(**(options or {}))


async def reason(house, name, typed):
    """Why a login ended as it did."""
    count = len(house.events)
    client = house.client()
    client.send(bind(1, name, typed))
    await house.until(lambda: len(house.events) > count)
    house.clock.advance(0.3)
    for _ in range(5):
        await asyncio.sleep(0)
    return house.events[-1].reason


async def test_A20_whoever_hangs_up_before_a_slow_no_is_counted(house):
    """FreeRADIUS and others say no a second late, and yes at once: who leaves in between guesses without end."""
    await opened(house, options={"wrong_codes": 3})
    (name,) = people(house, 1)
    slow = asyncio.get_running_loop().create_future  # a no that is not said yet

    async def verify(prompt, code, sent):
        house.owner.verified.append(code.reveal())
        if code.reveal() != b"000008":
            await slow()  # reject_delay
            return Denied("wrong-code")
        return Allowed("passcode")

    house.owner.verify = verify
    for number in range(12):
        seen = len(house.owner.verified)
        count = len(house.events)
        client = house.client(port=50_000 + number)
        client.send(bind(1, name, f"{PASSWORD},{number:06}"))
        await house.until(lambda: len(house.owner.verified) > seen or len(house.events) > count)  # noqa: B023
        for _ in range(60):
            house.serve()
            await asyncio.sleep(0.0005)
            if len(house.events) > count:
                break
        if any(event.outcome == "accepted" for event in house.events):
            break
        client.leave()
        await house.over()
    assert not any(event.outcome == "accepted" for event in house.events), f"in after {number} guesses"


async def test_A18_after_a_typo_the_right_password_with_a_keyword_is_right(house):
    await opened(house)
    (name,) = people(house, 1)
    house.owner.begins = Allowed("push")
    assert await reason(house, name, PASSWORD + ",push") == "approved"
    assert await reason(house, name, "wrong,push") == "password"
    assert await reason(house, name, PASSWORD + ",push") == "approved"


async def test_A22_a_stranger_without_any_password_does_not_keep_anybody_out(house):
    await opened(house, prompts=50)
    (name,) = people(house, 1)
    house.owner.begins = Allowed("push")
    assert await reason(house, name, PASSWORD + ",push") == "approved"
    for _ in range(5):
        await reason(house, name, "x")
        await reason(house, name, "x,123456")
        assert await reason(house, name, PASSWORD + ",push") == "approved"


async def test_A33_a_wrong_code_at_another_listener_ends_what_counts_again(house):
    await opened(house, reuse_seconds=300.0, reuse_uses=3)
    (name,) = people(house, 1)
    house.owner.begins = Allowed("push")
    assert await reason(house, name, PASSWORD) == "approved"
    here = house.listener
    doorway = here.doorway
    house.with_(policy=replace(here.policy, reuses=False), doorway=replace(doorway, terms=Terms("other")))
    assert await reason(house, name, PASSWORD + ",000000") == "wrong-code"
    house.listener = here
    house.owner.begins = Denied("denied")
    assert await reason(house, name, PASSWORD) != "reused"


async def test_A21_sms_that_privacyidea_sent_although_a_push_was_wanted_are_counted(house, tmp_path):
    """Without the policy application_tokentype, its default, privacyIDEA has *all* tokens asked: the SMS costs money."""
    (tmp_path / "web").mkdir()
    async with Fake(tmp_path / "web") as fake:
        fake.filters = False
        fake.users["person0", ""] = {"PISM1": Token("sms")}
        table = {"kind": "privacyidea", "url": fake.web.url, "ca_file": fake.web.ca_file, "admin": ADMIN}
        house.owner = PrivacyIdea(PrivacyIdea.Table(**table, password=FAKE_PASSWORD), Tools())
        await opened(house, prompts=5)
        (name,) = people(house, 1)
        reasons = [await reason(house, name, PASSWORD + ",push") for _ in range(30)]
        await house.owner.close()
        sent = fake.asked.count("/validate/triggerchallenge")
        assert sent <= 5, f"{sent} SMS, {reasons[-1]}, {house.rows('prompt_times')} counted"


async def test_A20_wrong_codes_are_counted_where_privacyidea_hides_why(house, tmp_path):
    """Its policy hide_specific_error_message, which hardens it, gives every no the one message."""
    (tmp_path / "web").mkdir()
    async with Fake(tmp_path / "web") as fake:
        fake.users["person0", ""] = {"TOTP1": Token("totp", ["000020"])}

        def hidden(answer):
            if not answer["result"]["value"]:
                answer["detail"] = {"message": "Authentication failed.", "threadid": 1}
            return answer

        fake.forge["/validate/check"] = hidden
        table = {"kind": "privacyidea", "url": fake.web.url, "ca_file": fake.web.ca_file, "admin": ADMIN}
        house.owner = PrivacyIdea(PrivacyIdea.Table(**table, password=FAKE_PASSWORD), Tools())
        await opened(house, options={"wrong_codes": 3})
        (name,) = people(house, 1)
        reasons = [await reason(house, name, f"{PASSWORD},{number:06}") for number in range(21)]
        await house.owner.close()
        assert "code" not in reasons, reasons


async def test_A24_our_own_lack_of_descriptors_is_no_outage_of_the_service(tmp_path):
    """Whoever opens connections until there is one descriptor left would be let in where an outage opens."""
    async with Fake(tmp_path) as fake:
        table = {"kind": "privacyidea", "url": fake.web.url, "ca_file": fake.web.ca_file, "admin": ADMIN}
        service = PrivacyIdea(PrivacyIdea.Table(**table, password=FAKE_PASSWORD), Tools())
        service._http._client()  # the authorities are read
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        held = []
        try:
            while True:
                try:
                    held.append(os.dup(0))
                except OSError:
                    break
            with pytest.raises(FactorDown) as health:
                await service.health()
            with pytest.raises(FactorDown) as started:
                await service.start(Prompt(None, "alice", "app"))
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await service.close()
        assert not isinstance(started.value, FactorUnreachable), (started.value, health.value)


async def test_A23_a_service_takes_time_that_does_not_tell_a_right_password(house):
    """`,push9` asks for a device that nobody has: nobody's phone rings. It counts as a prompt all the same."""
    await opened(house)
    house.with_(doorway=replace(house.listener.doorway, refusal_floor=assembly.SERVICE_FLOOR))
    (name,) = people(house, 1)

    async def start(prompt):
        await within(house.clock, 0.4, asyncio.get_running_loop().create_future())  # preauth, over the internet
        return Denied("no-method")

    house.owner.start = start
    took = {}
    for typed in (PASSWORD, "wrong"):
        client, began = house.client(), house.clock.seconds()
        client.send(bind(1, name, typed + ",push9"))
        while not client.came:
            for _ in range(100):
                house.serve()
                await asyncio.sleep(0.0002)
            if not client.came:
                house.clock.advance(0.01)
        took[typed] = house.clock.seconds() - began
    right, wrong = took.values()
    assert abs(right - wrong) <= 0.01 + 1e-6, took


async def test_A41_equal_binds_of_one_account_do_not_take_all_places(house):
    """Whoever knows one password keeps everybody out for as long as a question is open."""
    await opened(house, reuse_seconds=10.0)
    (name, _) = people(house, 2)
    for number in range(300):
        house.client(port=20_000 + number).send(bind(1, name, PASSWORD))
    for _ in range(3000):
        house.serve()
        await asyncio.sleep(0)
    await house.until(lambda: len(house.events) > 200)
    house.clock.advance(0.3)  # those who are refused are told
    for _ in range(100):
        await asyncio.sleep(0)
    waiting = sum(front._login is not None for front in house.clients)
    assert waiting <= 50, f"{waiting} logins of one account wait, each looking at the store four times a second"


async def test_A21_a_question_that_a_gateway_answered_with_502_counts(house, tmp_path):
    """The service has had the request, and may have sent the SMS: a status says that somebody was there."""
    (tmp_path / "web").mkdir()
    async with Fake(tmp_path / "web") as fake:
        fake.users["person0", ""] = {"PISM1": Token("sms")}
        fake.web.disturb("status", path="/validate/triggerchallenge", status=502)
        table = {"kind": "privacyidea", "url": fake.web.url, "ca_file": fake.web.ca_file, "admin": ADMIN}
        house.owner = PrivacyIdea(PrivacyIdea.Table(**table, password=FAKE_PASSWORD), Tools())
        await opened(house, prompts=5)
        (name,) = people(house, 1)
        for _ in range(120):  # ten minutes, in which the breaker lets some through
            await reason(house, name, PASSWORD + ",sms")
            house.advance(5)
            for _ in range(30):
                await asyncio.sleep(0.001)
        await house.owner.close()
        sent = fake.asked.count("/validate/triggerchallenge")
        assert sent <= 5, f"{sent} in ten minutes, {house.rows('prompt_times')} counted"


@pytest.mark.parametrize("sub_code", ["530", "531", "532", "533", "701", "773", "775"])
async def test_A35_an_account_that_must_not_log_in_is_neither_asked_nor_let_in_again(house, sub_code):
    """Disabled, expired, locked, out of hours: the directory says so with the right password, too."""
    await opened(house, reuse_seconds=300.0, reuse_uses=9)
    (name,) = people(house, 1)
    house.owner.begins = Allowed("push")
    assert await reason(house, name, PASSWORD) == "approved"
    assert await reason(house, name, PASSWORD) == "reused"
    prompts = len(house.owner.prompts)
    text = f"80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {sub_code}, v1db1"

    def refuses(_link, frame):
        return [result(frame.id, frame.tag, 49, text)] if frame.tag == ldap.BIND_REQUEST else None

    house.directory.misbehave = refuses
    assert await reason(house, name, PASSWORD) not in ("reused", "approved")
    assert await reason(house, name, PASSWORD + ",push") not in ("reused", "approved")
    assert len(house.owner.prompts) == prompts
    assert house.events[-1].result == 49


async def test_A22_refusals_elsewhere_are_no_hint_for_this_client(house):
    """Whether digits at the end are cut off is tried in turn: for each address by itself."""
    house.rules = Rules(form=CodeForm(6))
    await opened(house)
    (name,) = people(house, 1)
    for address in ("192.0.2.66", "192.0.2.7", "192.0.2.66"):
        client, count = house.client(address), len(house.events)
        client.send(bind(1, name, "x123456"))
        await house.until(lambda: len(house.events) > count)  # noqa: B023
        house.clock.advance(0.3)
    assert [password for _name, password in house.directory.binds()] == ["x123456", "x123456", "x"]
