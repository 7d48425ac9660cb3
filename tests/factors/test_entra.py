"""Entra's second factors, against a fake that demands what the real service is known to demand."""

import asyncio

import pytest
from fakes.entra import ARRAYS, PATH, SECRET, User
from fakes.entra_logins import BEGIN, END, PENDING, WHOLE, asked, down, prompt, service

from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown
from ldapmfa.factors import entra_xml
from ldapmfa.factors.entra_table import EntraTable
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Waiting

# -- methods


async def test_a_push_is_asked_for_and_polled_until_it_is_approved(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = [PENDING, PENDING, PENDING, "Success"]
        assert await asked(run, "push") == Allowed("push")
        properties = {"OverrideVoiceOtp": "false", "OverrideNumberMatchingWithOTP": "false"}
        assert run.fake.asked == [("alice@example.com", "PhoneAppNotification", properties, "false")]
        assert run.fake.polls == [f"{PATH}/EndTwoWayAuthentication?dc=KRS"] * 4
        assert run.slept == [1.5] * 4


@pytest.mark.parametrize(("method", "name"), [("phone", "TwoWayVoiceMobile"), ("office", "TwoWayVoiceOffice")])
async def test_a_call_is_polled_like_a_push(tmp_path, method, name):
    async with service(tmp_path) as run:
        assert await asked(run, method) == Allowed(method)
        assert run.fake.asked[0][1] == name


async def test_without_a_method_the_users_default_is_asked(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = [PENDING] * 4 + ["Success"]
        started = await run.it.start(prompt())
        assert isinstance(started, Waiting)
        assert await run.it.wait(prompt(), started) == Allowed("default")
        assert b"AuthenticationMethodId" not in run.web.requests[1].body


async def test_a_default_that_is_approved_at_once_is_allowed(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = ["Success"]
        assert await run.it.start(prompt()) == Allowed("default")


@pytest.mark.parametrize(("default", "method"), [("PhoneAppNotification", "sms"), ("OneWaySMS", "")])
async def test_a_text_message_is_sent_and_its_code_verified_with_another_bind(tmp_path, default, method):
    async with service(tmp_path) as run:
        run.alice.default = default
        sent = await run.it.start(prompt(method))
        assert isinstance(sent, CodeSent)
        assert sent.seconds == 180
        assert all(isinstance(value, str) for value in sent.handle.values())
        assert await run.it.verify(prompt(), Secret(b"123456"), sent) == Allowed("passcode")


async def test_a_code_of_the_app_is_asked_for_where_that_is_the_default(tmp_path):
    async with service(tmp_path) as run:
        run.alice.default = "PhoneAppOTP"
        sent = await run.it.start(prompt())
        assert isinstance(sent, CodeSent)
        assert await run.it.verify(prompt(), Secret(b"123456"), sent) == Allowed("passcode")


async def test_a_code_of_the_app_is_verified_without_a_prompt(tmp_path):
    async with service(tmp_path) as run:
        assert await run.it.verify(prompt(), Secret(b"123456"), None) == Allowed("passcode")
        properties = {"OverrideVoiceOtp": "false", "OverrideNumberMatchingWithOTP": "true"}
        assert run.fake.asked == [("alice@example.com", "PhoneAppOTP", properties, "false")]


async def test_a_code_for_later_may_be_asked_for(tmp_path):
    async with service(tmp_path, code_seconds=60) as run:
        sent = await run.it.start(prompt("otp"))
        assert isinstance(sent, CodeSent)
        assert sent.seconds == 60
        assert await run.it.verify(prompt("otp"), Secret(b"123456"), sent) == Allowed("passcode")


async def test_wrong_and_used_codes_are_told_apart(tmp_path):
    async with service(tmp_path) as run:
        assert await run.it.verify(prompt(), Secret(b"654321"), None) == Denied("wrong-code", "OathCodeIncorrect")
        await run.it.verify(prompt(), Secret(b"123456"), None)
        assert await run.it.verify(prompt(), Secret(b"123456"), None) == Denied("replayed-code", "OathCodeDuplicate")
        sent = await run.it.start(prompt("sms"))
        wrong = await run.it.verify(prompt(), Secret(b"000000"), sent)
        assert wrong == Denied("wrong-code", "SMSAuthFailedWrongCodeEntered")


async def test_what_is_no_code_is_not_sent(tmp_path):
    async with service(tmp_path) as run:
        for text in (b"rc-abcd-efgh-jkmn", b"12 456", b"\xd9\xa1" * 6, b"", b"<a/>12"):
            answer = await run.it.verify(prompt(), Secret(text), None)
            assert isinstance(answer, Denied)
            assert answer.why == "wrong-code"
        assert run.web.requests == []


async def test_a_push_that_turns_into_a_code_asks_for_it(tmp_path):
    async with service(tmp_path, push_id="PhoneAppOTP", sync_call=True) as run:
        assert isinstance(await run.it.start(prompt("push")), CodeSent)


async def test_a_code_that_is_wanted_too_late_is_a_no(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = ["SMSSent"]
        answer = await asked(run, "push")
        assert (type(answer), answer.why) == (Denied, "no-method")


async def test_one_call_may_wait_for_the_user(tmp_path):
    async with service(tmp_path, sync_call=True) as run:
        assert await run.it.start(prompt("push")) == Allowed("push")
        assert run.fake.asked[0][3] == "true"
        run.alice.presses = ["PhoneAppDenied"]
        assert await run.it.start(prompt("push")) == Denied("denied", "PhoneAppDenied")
        assert await run.it.verify(prompt(), Secret(b"123456"), None) == Allowed("passcode")
        assert run.slept == []


@pytest.mark.parametrize(("override", "said"), [("always", ("true",)), ("never", ("false",)), ("unsaid", ())])
async def test_number_matching_is_overridden_as_configured(tmp_path, override, said):
    async with service(tmp_path, override_number_matching=override) as run:
        await run.it.start(prompt("push"))
        await run.it.verify(prompt(), Secret(b"123456"), None)
        for _user, _method, properties, _sync in run.fake.asked:
            assert tuple(value for key, value in properties.items() if key.startswith("OverrideNumber")) == said


async def test_a_number_to_match_is_told_to_whoever_tests(tmp_path):
    async with service(tmp_path) as run:
        run.alice.number = 42
        assert await asked(run, "push") == Allowed("push")
        assert any("number" in text for text in run.said)


@pytest.mark.parametrize(
    ("asking", "why"),
    [
        (prompt("fax"), "no-method"),
        (prompt("push", device="2"), "no-method"),
        (prompt(user=""), "denied"),
        (prompt(user="alice"), "denied"),
        (prompt(user="alice@example.com\x0b"), "denied"),
        (prompt(user="a@b@example.com"), "denied"),
    ],
)
async def test_who_cannot_be_asked_is_refused_without_a_request(tmp_path, asking, why):
    async with service(tmp_path) as run:
        for answer in (await run.it.start(asking), await run.it.verify(asking, Secret(b"123456"), None)):
            assert isinstance(answer, Denied)
            assert answer.why == why
        assert run.web.requests == []


async def test_names_are_escaped(tmp_path):
    name = "o'b&r]]><ien/>@example.com"
    async with service(tmp_path) as run:
        run.fake.users[name] = User()
        assert await asked(run, "push", user=name) == Allowed("push")
        assert run.fake.asked[0][0] == name


def test_requests_have_their_elements_in_the_order_of_the_contract():
    table = EntraTable(kind="entra", tenant="t", client_secret="s")
    begin = entra_xml.begin(table, user="a@b.example", context="c", method="PhoneAppNotification", override=True)
    pair = "<a:KeyValueOfstringstring><a:Key>%s</a:Key><a:Value>%s</a:Value></a:KeyValueOfstringstring>"
    assert begin.decode() == (
        "<BeginTwoWayAuthenticationRequest><Version>1.0</Version><UserPrincipalName>a@b.example</UserPrincipalName>"
        "<Lcid>en-us</Lcid><AuthenticationMethodId>PhoneAppNotification</AuthenticationMethodId>"
        f'<AuthenticationMethodProperties xmlns:a="{ARRAYS[1:-1]}">'
        + pair % ("OverrideVoiceOtp", "false")
        + pair % ("OverrideNumberMatchingWithOTP", "true")
        + "</AuthenticationMethodProperties><ContextId>c</ContextId><SyncCall>false</SyncCall>"
        "<RequireUserMatch>true</RequireUserMatch><CallerName>radius</CallerName><CallerIP>UNKNOWN:</CallerIP>"
        "</BeginTwoWayAuthenticationRequest>"
    )
    end = entra_xml.end(table, session="s", context="c", user="a@b.example", code="1")
    assert end.decode() == (
        "<EndTwoWayAuthenticationRequest><Version>1.0</Version><SessionId>s</SessionId><ContextId>c</ContextId>"
        "<AdditionalAuthData>1</AdditionalAuthData><UserPrincipalName>a@b.example</UserPrincipalName>"
        "</EndTwoWayAuthenticationRequest>"
    )


# -- results


async def test_a_result_that_is_a_no_has_its_reason(tmp_path):
    async with service(tmp_path) as run:
        for value, why in entra_xml.REFUSALS.items():
            no = Denied(why, value)
            run.alice.begins = value
            assert await run.it.start(prompt("push")) == no
            assert await run.it.verify(prompt(), Secret(b"123456"), None) == no
            run.alice.begins, run.alice.presses = "", [PENDING, value]
            assert await asked(run, "push") == no
            assert await asked(run) == no


async def test_a_result_that_is_no_answer_lets_nobody_in_and_opens_nothing(tmp_path):
    async with service(tmp_path) as run:
        for value in (*entra_xml.FAILURES, "SomethingNew", "success", "Success ", "x" * 100):
            run.alice.begins = value
            await down(run.it.start(prompt("push")))
            await down(run.it.verify(prompt(), Secret(b"123456"), None))
            run.alice.begins, run.alice.presses = "", [value]
            await down(asked(run, "push"))
            await down(asked(run))


@pytest.mark.parametrize("value", entra_xml.UNREGISTERED)
async def test_only_who_has_no_default_is_not_enrolled(tmp_path, value):
    """Whoever knows a password might ask for a method that its owner does not have, and pass as not enrolled."""
    async with service(tmp_path) as run:
        run.alice.begins = value
        assert await run.it.start(prompt()) == Denied("not-enrolled", value)
        for method in run.it.methods:
            assert await run.it.start(prompt(method)) == Denied("no-method", value)
        assert await run.it.verify(prompt(), Secret(b"123456"), None) == Denied("no-method", value)


async def test_a_user_whom_entra_does_not_know_is_not_enrolled(tmp_path):
    async with service(tmp_path) as run:
        assert await run.it.start(prompt(user="bob@example.com")) == Denied("not-enrolled", "UserNotFound")


# -- time


async def test_nobody_waits_longer_than_an_answer_is_of_use(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = [PENDING]
        async with asyncio.timeout(10):
            answer = await asked(run, "push", seconds=0.1)
        assert (type(answer), answer.why) == (Denied, "no-answer")


async def test_a_poll_that_hangs_does_not_prolong_the_wait(tmp_path):
    async with service(tmp_path) as run:
        run.web.disturb("slow", path=END)
        async with asyncio.timeout(8):  # less than response_timeout
            answer = await asked(run, "push", seconds=0.2)
            assert answer.why == "no-answer"
            answer = await run.it.verify(prompt(seconds=0.2), Secret(b"123456"), None)
            assert answer.why == "no-answer"


async def test_a_code_that_is_still_looked_at_is_shown_again(tmp_path):
    async with service(tmp_path) as run:
        answers = [PENDING, PENDING, "OathCodeIncorrect"]
        run.fake.forge = lambda _, text: (
            text.replace("OathCodeIncorrect", answers.pop(0)) if "OathCodeIncorrect" in text else text
        )
        assert (await run.it.verify(prompt(), Secret(b"000000"), None)).why == "wrong-code"
        assert (answers, run.slept) == ([], [1.5, 1.5])
        run.fake.forge = lambda _, text: text.replace("OathCodeIncorrect", PENDING)
        assert (await run.it.verify(prompt(seconds=0.1), Secret(b"000000"), None)).why == "no-answer"


async def test_a_session_that_is_over_is_no_answer(tmp_path):
    async with service(tmp_path) as run:
        sent = await run.it.start(prompt("sms"))
        now = run.fake.now()
        run.fake.now = lambda: now + 181
        assert await run.it.verify(prompt(), Secret(b"123456"), sent) == Denied("no-answer", "InvalidSession")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("status", {"status": 503}),
        ("status", {"status": 504}),
        ("status", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("broken", {}),
        ("cut", {}),
    ],
)
async def test_a_poll_that_fails_for_a_while_is_repeated(tmp_path, kind, more):
    async with service(tmp_path) as run:
        started = await run.it.start(prompt("push"))
        run.web.disturb(kind, path=END, times=3, **more)
        assert await run.it.wait(prompt("push"), started) == Allowed("push")
        assert run.slept[1:4] == ([7.0, 7.0, 10.0] if "headers" in more else [3.0, 6.0, 10.0])


async def test_a_login_that_is_given_up_stops_polling(tmp_path):
    async with service(tmp_path) as run:
        run.alice.presses = [PENDING]
        waiting = await run.it.start(prompt("push"))
        task = asyncio.ensure_future(run.it.wait(prompt("push"), waiting))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = len(run.web.requests)
        await run.it.cancel(prompt("push"), waiting)
        await asyncio.sleep(0.02)
        assert len(run.web.requests) == before


# -- health


async def test_health_asks_nobody(tmp_path):
    async with service(tmp_path) as run:
        assert await run.it.health() == "entra gives tokens, and its second-factor service takes them"
        assert await run.it.health()
        assert (run.fake.asked, run.fake.token_requests) == ([], 2)
        assert [request.path for request in run.web.requests[1::2]] == [f"{PATH}/EndTwoWayAuthentication"] * 2


async def test_health_may_be_no_more_than_a_token(tmp_path):
    async with service(tmp_path, health_check="token") as run:
        assert await run.it.health() == "entra gives tokens"
        assert len(run.web.requests) == 1


@pytest.mark.parametrize(("kind", "more", "failure"), [*WHOLE, ("broken", {}, FactorDown)])
async def test_health_fails_where_logins_would(tmp_path, kind, more, failure):
    async with service(tmp_path) as run:
        run.web.disturb(kind, path=END, **more)
        with pytest.raises(failure):
            await run.it.health()
        run.web.calm()
        run.fake.forge = lambda _, text: text.replace("InvalidSession", "InternalError")
        with pytest.raises(FactorDown, match="it has failed"):
            await run.it.health()


# -- what is shown


async def test_nothing_secret_is_said_or_shown(tmp_path):
    async with service(tmp_path) as run:
        waiting = await run.it.start(prompt("push"))
        sessions = list(run.fake.sessions)
        shown = [repr(waiting), repr(run.it._table), repr(waiting.handle)]
        assert await run.it.wait(prompt("push"), waiting) == Allowed("push")
        await run.it.verify(prompt(), Secret(b"246813"), None)
        sessions += list(run.fake.sessions)
        for path in (BEGIN, END):
            run.web.disturb("garbage", path=path, body=SECRET.encode())
            shown.append(str(await down(run.it.verify(prompt(), Secret(b"246813"), None))))
            run.web.calm()
        shown += run.said
        for secret in (SECRET, "246813", *sessions, *run.fake.tokens):
            assert not [text for text in shown if secret in text]
        assert len(run.said) > 5
