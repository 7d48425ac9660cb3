"""privacyIDEA against a strict fake over TLS; tests/system/test_privacyidea.py has the real one."""

import asyncio
import contextlib
import gc
import json

import pytest
from fakes.privacyidea import ADMIN, PASSWORD, Fake, Token, error
from fakes.web import deaf, nobody

from ldapmfa import config
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError, FactorDown, FactorUnreachable
from ldapmfa.factors.privacyidea import PrivacyIdea
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting

ALICE = Identity("default", "guid:00", "cn=alice,dc=example,dc=com", ("alice",), "alice@example.com")


def prompt(method="", device="", *, user="alice", application="", client="", seconds=5.0):
    return Prompt(ALICE, user, application, client, method, device, seconds)


class Bench:
    """A fake, the service before it, and what the service says and how long it sleeps."""

    def __init__(self, fake, **table):
        self.fake, self.said, self.slept, self.taps = fake, [], [], []
        given = {"kind": "privacyidea", "url": fake.web.url, "ca_file": fake.web.ca_file, "admin": ADMIN, "password": PASSWORD, **table}
        self.service = PrivacyIdea(PrivacyIdea.Table(**given), Tools(now=lambda: 1.7e9, sleep=self.sleep, say=self.said.append))

    async def sleep(self, seconds):
        self.slept.append(seconds)
        if self.taps:
            self.taps.pop(0)()
        await asyncio.sleep(0)

    async def login(self, asked=None):
        asked = asked or prompt()
        started = await self.service.start(asked)
        return await self.service.wait(asked, started) if isinstance(started, Waiting) else started

    async def verify(self, code, sent=None, asked=None):
        return await self.service.verify(asked or prompt(), Secret(code.encode()), sent)


@contextlib.asynccontextmanager
async def privacyidea(tmp_path, *, certificate="", **table):
    """Alice has a push token; the fake's default realm has nobody else."""
    async with Fake(tmp_path, certificate=certificate) as fake:
        fake.users["alice", ""] = {"PIPU1": Token("push")}
        bench = Bench(fake, **table)
        try:
            yield bench
        finally:
            await bench.service.close()


def down(kind, text=None):
    """FactorDown itself, so that nothing opens, or FactorUnreachable, exactly."""
    return pytest.raises(kind, match=text, check=lambda error: type(error) is kind)


# -- a push


async def test_a_push_is_polled_and_then_finished(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.taps = [lambda: None, lambda: bench.fake.tap("PIPU1")]
        assert await bench.login(prompt("push", client="192.0.2.7")) == Allowed("push")
        poll = "/validate/polltransaction"
        assert bench.fake.asked == ["/auth", "/validate/triggerchallenge", poll, poll, poll, "/validate/check"]
        assert bench.slept == [1.0, 1.0]
        final = bench.fake.web.requests[-1].form()
        assert final == {"user": "alice", "client": "192.0.2.7", "transaction_id": f"{1:020}", "pass": ""}


@pytest.mark.parametrize("state", ["declined", "cancelled"])
async def test_a_push_that_is_declined_ends_at_once(tmp_path, state):
    async with privacyidea(tmp_path) as bench:
        bench.taps = [lambda: bench.fake.tap("PIPU1", state)]
        assert await bench.login() == Denied("denied", state)
        assert "/validate/check" not in bench.fake.asked


async def test_nobody_is_waited_for_longer_than_the_answer_is_of_use(tmp_path):
    async with privacyidea(tmp_path) as bench:
        assert await bench.login(prompt(seconds=0.1)) == Denied("no-answer")


async def test_a_push_accepted_at_an_older_server(tmp_path):
    """Without `authentication` and challenge_status."""
    async with privacyidea(tmp_path) as bench:
        bench.fake.old = True
        bench.taps = [lambda: bench.fake.tap("PIPU1")]
        assert await bench.login() == Allowed("push")
        bench.fake.users["alice", ""] = {"TOTP1": Token("totp", ["123456"])}
        assert await bench.verify("123456") == Allowed("totp")
        assert await bench.verify("000000") == Denied("wrong-code", "wrong otp value")


async def test_challenges_of_an_older_server_may_lack_client_mode(tmp_path):
    def older(answer):
        detail = answer["detail"]
        answer["detail"] = {"transaction_id": detail["transaction_id"], "type": detail["type"], "serial": detail["serial"]}
        return answer

    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/triggerchallenge"] = older
        assert isinstance(await bench.service.start(prompt()), Waiting)
        bench.fake.users["alice", ""] = {"PISM1": Token("sms")}
        assert isinstance(await bench.service.start(prompt()), CodeSent)


async def test_what_is_temporary_does_not_end_the_wait(tmp_path):
    async with privacyidea(tmp_path, response_timeout=0.2) as bench:
        started = await bench.service.start(prompt())
        poll, web = "/validate/polltransaction", bench.fake.web
        web.disturb("slow", path=poll, times=1)
        web.disturb("broken", path=poll, times=1)
        web.disturb("status", path=poll, times=1, status=503, headers={"Retry-After": "7"})
        web.disturb("status", path=poll, times=1, status=429, headers={"Retry-After": "3"})
        bench.taps = [lambda: None] * 3 + [lambda: bench.fake.tap("PIPU1")]
        web.disturb("status", path="/validate/check", times=1, status=502)
        assert await bench.service.wait(prompt(), started) == Allowed("push")
        assert bench.slept == [3.0, 7.0, 1.0, 1.0, 1.0]


async def test_a_server_that_stays_away_while_a_push_is_pending_is_down_and_never_unreachable(tmp_path):
    async with privacyidea(tmp_path) as bench:
        started = await bench.service.start(prompt())
        bench.fake.web.disturb("status", status=503)
        with down(FactorDown, "answers 503"):
            await bench.service.wait(prompt(seconds=0.1), started)


@pytest.mark.parametrize("mistake", ["garbage", "redirect", "huge", "nonsense"])
async def test_what_is_wrong_ends_the_wait(tmp_path, mistake):
    async with privacyidea(tmp_path) as bench:
        started = await bench.service.start(prompt())
        bench.fake.web.disturb(mistake)
        with down(FactorDown):
            await bench.service.wait(prompt(), started)


async def test_an_error_ends_the_wait(tmp_path):
    async with privacyidea(tmp_path) as bench:
        started = await bench.service.start(prompt())
        body = json.dumps(error(400, 905, "ERR905: Missing parameter")[1]).encode()
        bench.fake.web.disturb("status", status=400, body=body)
        with down(FactorDown, "905"):
            await bench.service.wait(prompt(), started)


async def test_A09_a_push_that_nobody_waits_for_is_taken_back(tmp_path):
    async with privacyidea(tmp_path) as bench:
        started = await bench.service.start(prompt())
        await bench.service.cancel(prompt(), started)
        assert not bench.fake.challenges
        assert bench.fake.web.requests[-1].method == "DELETE"


@pytest.mark.parametrize("trouble", ["no right", "broken", "garbage", "slow"])
async def test_taking_a_push_back_never_fails(tmp_path, trouble):
    async with privacyidea(tmp_path, response_timeout=0.1) as bench:
        started = await bench.service.start(prompt())
        if trouble == "no right":
            bench.fake.rights.remove("cancelchallenge")
        else:
            bench.fake.web.disturb(trouble)
        await bench.service.cancel(prompt(), started)


# -- who is asked, and how


async def test_the_method_decides_which_token_is_asked(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["alice", ""] |= {"PISM1": Token("sms"), "PIEM1": Token("email"), "TOTP1": Token("totp")}
        assert isinstance(await bench.service.start(prompt()), Waiting)
        assert isinstance(await bench.service.start(prompt("push")), Waiting)
        for method in ("sms", "email"):
            sent = await bench.service.start(prompt(method))
            assert (sent.handle["kind"], sent.seconds) == (method, 120)
        assert [request.form().get("type") for request in bench.fake.web.requests[1:]] == [None, "push", "sms", "email"]
        assert (await bench.service.start(prompt("phone"))).why == "no-method"


async def test_A21_a_server_that_asks_more_tokens_than_was_wanted_is_told_of(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["alice", ""]["PISM1"] = Token("sms")
        bench.fake.filters = False
        assert isinstance(await bench.service.start(prompt("push")), Waiting)
        assert any("application_tokentype" in said for said in bench.said)
        bench.fake.users["alice", ""] = {"PISM1": Token("sms")}
        assert (await bench.service.start(prompt("push"))).why == "no-method"


async def test_a_device_is_a_serial_number_and_nothing_else(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["alice", ""]["PIPU2"] = Token("push")
        started = await bench.service.start(prompt("push", "PIPU2"))
        assert started.handle.serials == ("PIPU2",)
        assert (await bench.service.start(prompt("push", "PIPU9"))).why == "no-method"
        before = len(bench.fake.web.requests)
        assert (await bench.service.start(prompt("push", "../../x"))).why == "no-method"
        assert len(bench.fake.web.requests) == before


async def test_an_application_has_its_realm(tmp_path):
    async with privacyidea(tmp_path, realm="staff", realms={"vpn": "external"}) as bench:
        bench.fake.users["alice", "staff"] = {"PIPU1": Token("push")}
        bench.fake.users["alice", "external"] = {"TOTP1": Token("totp", ["123456"])}
        assert isinstance(await bench.service.start(prompt(application="mail")), Waiting)
        assert (await bench.verify("123456", asked=prompt(application="mail"))).why == "wrong-code"
        assert await bench.verify("123456", asked=prompt(application="vpn")) == Allowed("totp")


async def test_users_that_can_not_be_asked(tmp_path):
    async with privacyidea(tmp_path) as bench:
        users = bench.fake.users
        assert (await bench.service.start(prompt(user="nobody"))).why == "not-enrolled"
        users["bob", ""] = {}
        assert (await bench.service.start(prompt(user="bob"))).why == "not-enrolled"
        assert (await bench.service.start(prompt("push", user="bob"))).why == "no-method"
        users["bob", ""] = {"TOTP1": Token("totp")}
        assert await bench.service.start(prompt(user="bob")) == Denied(
            "no-method", "no token that can be asked like this; those that there are: totp"
        )
        users["bob", ""] = {"PIPU1": Token("push", locked=True)}
        assert await bench.service.start(prompt(user="bob")) == Denied(
            "locked-at-service", "Failcounter exceeded", asked=True
        )


async def test_that_nobody_was_asked_does_not_mean_that_nobody_is_enrolled(tmp_path):
    """A token may be disabled: who were taken for unenrolled might be let in. Nor does that check let anybody in."""
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/triggerchallenge"] = lambda answer: bench.fake.ok(0, "REJECT")[1]
        assert (await bench.service.start(prompt())).why == "no-method"
        bench.fake.forge["/validate/check"] = lambda answer: bench.fake.ok(True, "ACCEPT")[1]
        assert (await bench.service.start(prompt())).why == "no-method"


async def test_without_an_administrator_there_are_codes_only(tmp_path):
    async with privacyidea(tmp_path, admin=None, password=None) as bench:
        bench.fake.users["alice", ""] = {"TOTP1": Token("totp", ["123456"])}
        assert (await bench.service.start(prompt())).why == "no-method"
        assert await bench.verify("123456") == Allowed("totp")
        assert "codes only" in await bench.service.health()


# -- codes


async def test_a_code_is_right_wrong_used_or_of_nobody(tmp_path):
    async with privacyidea(tmp_path) as bench:
        token = Token("totp", ["123456"])
        bench.fake.users["alice", ""]["TOTP1"] = token
        assert await bench.verify("123456") == Allowed("totp")
        assert (await bench.verify("123456")).why == "replayed-code"
        assert (await bench.verify("654321")).why == "wrong-code"
        token.locked = True
        assert (await bench.verify("654321")).why == "locked-at-service"
        assert (await bench.verify("654321", asked=prompt(user="nobody"))).why == "not-enrolled"
        bench.fake.users["bob", ""] = {}
        assert (await bench.verify("654321", asked=prompt(user="bob"))).why == "not-enrolled"


@pytest.mark.parametrize("code", ["", " ", "12 34", "é", "1" * 200])
async def test_what_is_no_code_is_not_sent(tmp_path, code):
    """An empty one would have the user's tokens asked."""
    async with privacyidea(tmp_path) as bench:
        assert (await bench.verify(code)).why == "wrong-code"
        assert not bench.fake.asked


async def test_a_code_that_was_sent_comes_with_another_bind(tmp_path):
    async with privacyidea(tmp_path, challenge_seconds=300) as bench:
        bench.fake.users["alice", ""] = {"PISM1": Token("sms", ["111222"])}
        sent = await bench.service.start(prompt("sms"))
        assert sent.seconds == 300
        again = CodeSent(json.loads(json.dumps(dict(sent.handle))), sent.seconds)
        assert (await bench.verify("999999", again)).why == "wrong-code"
        assert await bench.verify("111222", again) == Allowed("sms")
        assert bench.fake.web.requests[-1].form()["transaction_id"] == sent.handle["transaction"]


async def test_a_push_whose_code_is_shown_by_the_phone(tmp_path):
    """The policy push_code_to_phone."""
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["alice", ""] = {"PIPU1": Token("push", ["42"], mode="interactive")}
        sent = await bench.service.start(prompt("push"))
        assert (await bench.verify("41", sent)).why == "wrong-code"
        assert await bench.verify("42", sent) == Allowed("push")


@pytest.mark.parametrize("said", ["CHALLENGE", "DECLINED"])
async def test_a_check_that_wants_another_step_is_no_yes(tmp_path, said):
    """A PIN of digits, or a token that must be enrolled in between; older servers show it by a transaction."""
    async with privacyidea(tmp_path) as bench:
        more = {"message": "enter the next one", "transaction_id": "1" * 20}
        bench.fake.forge["/validate/check"] = lambda answer: bench.fake.ok(False, said, more)[1]
        why = {"CHALLENGE": "wrong-code", "DECLINED": "denied"}[said]
        assert (await bench.verify("123456")).why == why
        bench.fake.old = True
        assert (await bench.verify("123456")).why == "wrong-code"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Only 2 failed authentications per 0:01:00 allowed.", "throttled"),
        ("Authentication failed.", "denied"),
        ("Token is disabled", "locked-at-service"),
        ("wrong otp pin", "wrong-code"),
        ("", "wrong-code"),
    ],
)
async def test_the_words_of_a_no(tmp_path, message, why):
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/check"] = lambda answer: bench.fake.ok(False, "REJECT", {"message": message})[1]
        assert await bench.verify("123456") == Denied(why, message)


async def test_a_policy_that_refuses_a_user(tmp_path):
    async with privacyidea(tmp_path) as bench:
        body = json.dumps(error(403, 303, "Tokentype not allowed\nfor authentication!")[1]).encode()
        bench.fake.web.disturb("status", status=403, body=body, path="/validate")
        said = await bench.verify("123456")
        assert said == Denied("denied", r"303: Tokentype not allowed\nfor authentication!")
        assert (await bench.service.start(prompt())).why == "denied"


# -- the administrator's token


async def test_one_log_in_serves_many(tmp_path):
    async with privacyidea(tmp_path) as bench:
        await asyncio.gather(*(bench.service.start(prompt()) for _ in range(20)))
        assert bench.fake.logins == 1
        bench.fake.sessions.clear()
        assert all(isinstance(s, Waiting) for s in await asyncio.gather(*(bench.service.start(prompt()) for _ in range(20))))
        assert bench.fake.logins == 2


async def test_a_log_in_outlives_the_login_that_began_it(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.web.disturb("slow", path="/auth", seconds=0.05)
        first = asyncio.create_task(bench.service.start(prompt()))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(bench.service.start(prompt()))
        await asyncio.sleep(0.01)
        first.cancel()
        assert isinstance(await second, Waiting)
        assert bench.fake.logins == 1


async def test_an_administrator_that_is_not_let_in(tmp_path):
    async with privacyidea(tmp_path, password="wrong") as bench:
        with down(FactorDown, "4031"):
            await bench.service.start(prompt())
        assert "wrong" not in "".join(bench.said)
        with down(FactorDown, "4031"):
            await bench.service.health()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"role": "user"}, "no administrator"),
        ({"rights": ["auditlog"]}, "lacks the right"),
        ({"token": None}, "holds no token"),
        ({"token": "a\r\nX-Evil: 1"}, "holds no token"),
    ],
)
async def test_a_log_in_that_is_of_no_use(tmp_path, change, text):
    async with privacyidea(tmp_path) as bench:
        def changed(answer):
            answer["result"]["value"] |= change
            return answer

        bench.fake.forge["/auth"] = changed
        with down(FactorDown, text):
            await bench.service.start(prompt())
        assert "/validate/triggerchallenge" not in bench.fake.asked


async def test_an_administrator_has_a_realm(tmp_path):
    async with privacyidea(tmp_path, admin_realm="service") as bench:
        await bench.service.health()
        assert bench.fake.web.requests[-1].form() == {"username": ADMIN, "password": PASSWORD, "realm": "service"}


@pytest.mark.parametrize("path", ["/auth", "/auth/rights"])
async def test_an_administrator_that_a_policy_refuses(tmp_path, path):
    given = {"admin": None, "password": None, "token": "eyJ.given.token"} if path == "/auth/rights" else {}
    async with privacyidea(tmp_path, **given) as bench:
        body = json.dumps(error(403, 303, "not from here")[1]).encode()
        bench.fake.web.disturb("status", status=403, body=body, path=path)
        with down(FactorDown, "303: not from here"):
            await bench.service.health()


async def test_a_token_instead_of_an_administrator(tmp_path):
    async with privacyidea(tmp_path, admin=None, password=None, token="eyJ.given.token") as bench:
        with down(FactorDown, "4033"):
            await bench.service.start(prompt())
        with down(FactorDown, "4033"):
            await bench.service.health()
        bench.fake.sessions.add("eyJ.given.token")
        assert isinstance(await bench.service.start(prompt()), Waiting)
        assert await bench.service.health() == "privacyIDEA 3.14, the token is taken"
        assert "/auth" not in bench.fake.asked


@pytest.mark.parametrize(("key", "header"), [("eyJ.a.key", "pi-authorization"), ("plainkey", "x-api-key")])
async def test_an_api_key_goes_with_checks_and_polls(tmp_path, key, header):
    async with privacyidea(tmp_path, api_key=key) as bench:
        bench.fake.api_key = key
        bench.taps = [lambda: bench.fake.tap("PIPU1")]
        assert await bench.login() == Allowed("push")
        assert bench.fake.web.requests[-1].headers[header] == key
        bench.fake.api_key = "another"
        assert (await bench.verify("123456")).why == "denied"
        with down(FactorDown, "No valid API key"):
            await bench.service.health()


async def test_health_says_what_is_there(tmp_path):
    async with privacyidea(tmp_path) as bench:
        assert await bench.service.health() == "privacyIDEA 3.14, logged in as proxy"
        assert bench.fake.asked == ["/validate/polltransaction", "/auth"]
        bench.fake.forge["/validate/polltransaction"] = lambda answer: answer | {"time": 1.7e9 - 90}
        assert "its clock is -90 s off ours" in await bench.service.health()
        bench.fake.forge["/validate/polltransaction"] = lambda answer: bench.fake.ok(True, "ACCEPT")[1]
        with down(FactorDown, "never was"):
            await bench.service.health()


async def test_nothing_secret_is_shown(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.taps = [lambda: bench.fake.tap("PIPU1")]
        started = await bench.service.start(prompt())
        assert started.handle.transaction not in repr(started)
        assert await bench.service.wait(prompt(), started) == Allowed("push")
        await bench.verify("271828")
        text = "".join(bench.said)
        assert not [word for word in (PASSWORD, "271828", "eyJ", started.handle.transaction) if word in text]


# -- A24: what opens and what does not


def alone(url, **table):
    given = {"kind": "privacyidea", "url": url, "admin": ADMIN, "password": PASSWORD, "connect_timeout": 0.2, "response_timeout": 0.2}
    return PrivacyIdea(PrivacyIdea.Table(**given | table), Tools())


async def test_A24_only_a_server_that_can_not_have_asked_is_unreachable(tmp_path):
    with nobody() as port:
        service = alone(f"http://127.0.0.1:{port}")
        with down(FactorUnreachable):
            await service.start(prompt())
        with down(FactorDown):
            await service.verify(prompt(), Secret(b"123456"), None)
        with down(FactorUnreachable):
            await service.health()
        await service.close()
    with deaf() as port:
        service = alone(f"http://127.0.0.1:{port}")
        with down(FactorUnreachable):
            await service.start(prompt())
        await service.close()


async def test_A09_who_leaves_while_tls_is_agreed_on_leaves_no_socket_behind(tmp_path):
    with deaf() as port:
        service = alone(f"https://127.0.0.1:{port}")
        asking = asyncio.create_task(service.start(prompt()))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await service.close()
    await asyncio.sleep(0)
    gc.collect()  # which would warn


TRIGGER = "/validate/triggerchallenge"


@pytest.mark.parametrize(
    ("kind", "path", "options", "raised"),
    [
        ("slow", "/auth", {}, FactorUnreachable),
        ("slow", TRIGGER, {}, FactorDown),
        ("broken", "/auth", {}, FactorUnreachable),
        ("broken", TRIGGER, {}, FactorDown),
        ("cut", TRIGGER, {}, FactorDown),
        ("status", "/auth", {"status": 500}, FactorUnreachable),
        ("status", TRIGGER, {"status": 500}, FactorUnreachable),
        ("status", TRIGGER, {"status": 504}, FactorDown),
        ("status", "/auth", {"status": 429, "headers": {"Retry-After": "9"}}, FactorDown),
        ("status", TRIGGER, {"status": 429}, FactorDown),
        ("status", "/auth", {"status": 404}, FactorDown),
        ("status", TRIGGER, {"status": 403}, FactorDown),
        ("garbage", "/auth", {}, FactorDown),
        ("garbage", TRIGGER, {}, FactorDown),
        ("garbage", TRIGGER, {"body": b"[]"}, FactorDown),
        ("garbage", TRIGGER, {"body": b"{}"}, FactorDown),
        ("redirect", TRIGGER, {}, FactorDown),
        ("huge", TRIGGER, {}, FactorDown),
        ("nonsense", TRIGGER, {}, FactorDown),
    ],
)
async def test_A24_failures_at_the_start(tmp_path, kind, path, options, raised):
    async with privacyidea(tmp_path, response_timeout=0.2) as bench:
        bench.fake.web.disturb(kind, path=path, **options)
        with down(raised) as caught:
            await bench.service.start(prompt())
        assert caught.value.retry_after == (9 if "headers" in options else None)


@pytest.mark.parametrize("kind", ["slow", "broken", "cut", "garbage", "redirect", "nonsense"])
async def test_A24_no_failure_of_a_check_opens(tmp_path, kind):
    async with privacyidea(tmp_path, response_timeout=0.1) as bench:
        bench.fake.web.disturb(kind)
        with down(FactorDown):
            await bench.verify("123456")


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
async def test_A24_A25_a_certificate_that_is_not_accepted(tmp_path, certificate):
    async with privacyidea(tmp_path, certificate=certificate) as bench:
        with down(FactorDown, "certificate"):
            await bench.service.start(prompt())
        with down(FactorDown, "certificate"):
            await bench.verify("123456")
        assert not bench.fake.asked


# -- A25: what is forged


def result(**change):
    def forged(answer):
        answer["result"] |= change
        return answer

    return forged


def without(name):
    def forged(answer):
        del answer["result"][name]
        return answer

    return forged


def detail(**change):
    def forged(answer):
        answer["detail"] |= change
        return answer

    return forged


@pytest.mark.parametrize(
    "forged",
    [
        result(value="true"),
        result(value=1),
        result(value=[True]),
        result(value={"auth": True}),
        result(value=None),
        without("value"),
        result(status=False),
        result(status="true"),
        result(status=1),
        without("status"),
        result(authentication="REJECT"),
        result(authentication="accept"),
        result(authentication=True),
        result(authentication=None),
        result(authentication="CHALLENGE"),
        result(authentication="DECLINED"),
        result(error={"code": 303, "message": "no"}),
        lambda answer: {"result": True},
        lambda answer: {"value": True},
        lambda answer: answer["result"],
        lambda answer: {**answer, "result": [answer["result"]]},
    ],
)
async def test_A25_only_a_well_formed_yes_counts(tmp_path, forged):
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["alice", ""]["TOTP1"] = Token("totp", ["123456"])
        bench.fake.forge["/validate/check"] = forged
        with down(FactorDown):
            await bench.verify("123456")
        bench.taps = [lambda: bench.fake.tap("PIPU1")]
        with down(FactorDown):
            await bench.login()


async def test_A25_an_http_error_with_a_yes_in_it(tmp_path):
    async with privacyidea(tmp_path) as bench:
        body = json.dumps(bench.fake.ok(True, "ACCEPT")[1]).encode()
        for status in (201, 400, 401, 403, 404):
            bench.fake.web.disturb("status", status=status, body=body, path="/validate/check")
            with down(FactorDown):
                await bench.verify("123456")


@pytest.mark.parametrize("forged", [detail(transaction_id="9" * 20), detail(serial="PIPU666")])
async def test_A25_an_approval_of_another_transaction_or_token(tmp_path, forged):
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/check"] = forged
        bench.taps = [lambda: bench.fake.tap("PIPU1")]
        with down(FactorDown, "another transaction|not asked"):
            await bench.login()


async def test_A25_a_yes_that_no_token_has_given(tmp_path):
    async with privacyidea(tmp_path) as bench:
        yes = {"message": "user has no token, accepted due to 'pass'"}
        bench.fake.forge["/validate/check"] = lambda answer: bench.fake.ok(True, "ACCEPT", yes)[1]
        assert await bench.verify("123456") == Denied("denied", yes["message"])


async def test_A25_a_poll_alone_lets_nobody_in(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/polltransaction"] = result(value=True, authentication="ACCEPT")
        started = await bench.service.start(prompt())
        bench.fake.forge["/validate/polltransaction"] = lambda answer: bench.fake.ok(True, "ACCEPT")[1]
        said = await bench.service.wait(prompt(), started)
        assert isinstance(said, Denied)


@pytest.mark.parametrize(
    "forged",
    [
        result(value="false"),
        result(value=1),
        result(value=None),
        result(value=True),
        result(authentication="ACCEPT"),
        detail(challenge_status="accept"),
        without("value"),
    ],
)
async def test_A25_a_poll_that_contradicts_itself_ends_the_wait(tmp_path, forged):
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge["/validate/polltransaction"] = forged
        with down(FactorDown):
            await bench.login()


async def test_A25_an_approval_is_used_once(tmp_path):
    async with privacyidea(tmp_path) as bench:
        started = await bench.service.start(prompt())
        bench.fake.tap("PIPU1")
        assert await bench.service.wait(prompt(), started) == Allowed("push")
        assert await bench.service.wait(prompt(seconds=0.05), started) == Denied("no-answer")


async def test_A25_an_approval_is_of_one_user(tmp_path):
    async with privacyidea(tmp_path) as bench:
        bench.fake.users["bob", ""] = {"PIPU2": Token("push")}
        started = await bench.service.start(prompt())
        bench.fake.tap("PIPU1")
        assert isinstance(await bench.service.wait(prompt(user="bob"), started), Denied)
        sent = CodeSent({"transaction": "1" * 20, "kind": "sms", "serials": "PISM1", "user": "alice"})
        with down(FactorDown, "somebody else"):
            await bench.verify("111222", sent, prompt(user="bob"))
        for handle in ({}, {"user": "alice"}, {"user": "alice", "transaction": "../../auth"}):
            with down(FactorDown, "somebody else"):
                await bench.verify("111222", CodeSent(handle))


@pytest.mark.parametrize(
    "forged",
    [
        result(value=True),
        result(value="1"),
        result(value=-1),
        result(authentication="ACCEPT"),
        without("value"),
        lambda answer: {**answer, "detail": {}},
        lambda answer: {**answer, "detail": {"multi_challenge": ["x", {"type": "push"}, {"transaction_id": "1" * 20}]}},
        lambda answer: {**answer, "detail": {"multi_challenge": [{"type": "push", "transaction_id": "../../auth"}]}},
    ],
)
async def test_A25_a_garbled_start(tmp_path, forged):
    async with privacyidea(tmp_path) as bench:
        bench.fake.forge[TRIGGER] = forged
        with down(FactorDown):
            await bench.service.start(prompt())


# -- the settings

GOOD = {"url": "https://mfa.example.com/pi/", "admin": "ldapmfa", "password": "s3cret-s3cret"}


def load(tmp_path, settings):
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
    text = "\n".join(
        [
            '[[listen]]\nendpoint = "tcp:3890:interface=127.0.0.1"\ntls = "none"',
            '[directory]\nuris = ["ldap://127.0.0.1:389"]',
            '[store]\nurl = "sqlite:///state.db"\nkey_file = "store.key"',
            '[login]\nfactors = ["privacyidea"]\n[factors.privacyidea]',
            *lines,
        ]
    )
    file = tmp_path / "ldapmfa.toml"
    file.write_text(text)
    (tmp_path / "store.key").write_text("")
    return config.load(file).factors["privacyidea"]


def test_the_least_that_must_be_set(tmp_path):
    table = load(tmp_path, GOOD)
    assert (table.url, table.fail_mode) == ("https://mfa.example.com/pi", "closed")
    assert GOOD["password"] not in repr(table)
    assert GOOD["password"] not in repr(vars(PrivacyIdea(table, Tools())))
    service = PrivacyIdea(load(tmp_path, {"url": GOOD["url"]}), Tools())
    assert (service.takes_codes, service.wants_password) == (True, False)


def test_secrets_are_read_from_files(tmp_path):
    for name in ("pw", "token", "key"):
        (tmp_path / name).write_text(f"the-{name}\n")
    service = PrivacyIdea(load(tmp_path, GOOD | {"password": None, "password_file": "pw", "api_key_file": "key"}), Tools())
    assert (service._password, service._api_key) == (Secret(b"the-pw"), Secret(b"the-key"))
    service = PrivacyIdea(load(tmp_path, {"url": GOOD["url"], "token_file": "token"}), Tools())
    assert service._fixed == Secret(b"the-token")


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://localhost:5000", "http://[::1]/pi"])
def test_clear_text_stays_on_this_machine(tmp_path, url):
    assert load(tmp_path, GOOD | {"url": url}).url == url


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"url": None}, "url"),
        ({"url": "http://mfa.example.com"}, "must begin with https://"),
        ({"url": "http://127.0.0.1.example.com"}, "must begin with https://"),
        ({"url": "https://user:pw@mfa.example.com"}, "must be a URL without query"),
        ({"url": "https://mfa.example.com/?x=1"}, "must be a URL without query"),
        ({"url": "mfa.example.com"}, "must be a URL without query"),
        ({"url": "https://["}, "is no URL"),
        ({"password": None}, "is missing"),
        ({"admin": None}, "pointless without admin"),
        ({"password_file": "pw"}, "keep one"),
        ({"token": "eyJ.a.b"}, "keep either"),
        ({"admin": None, "password": None, "token": "a.b.c", "token_file": "pw"}, "keep one"),
        ({"api_key": "a", "api_key_file": "pw"}, "keep one"),
        ({"poll_seconds": 0}, "poll_seconds"),
        ({"realms": {"vpn": 5}}, "realms"),
    ],
)
def test_mistakes_in_the_table(tmp_path, change, text):
    (tmp_path / "pw").write_text("the-pw")
    settings = GOOD | change
    if isinstance(settings.get("realms"), dict):
        settings["realms.vpn"] = settings.pop("realms")["vpn"]
    with pytest.raises(ConfigError, match=text) as caught:
        load(tmp_path, settings)
    assert GOOD["password"] not in str(caught.value)


def test_a_secret_that_can_not_be_sent_is_refused(tmp_path):
    (tmp_path / "pw").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="password is not UTF-8"):
        PrivacyIdea(load(tmp_path, GOOD | {"password": None, "password_file": "pw"}), Tools())
    with pytest.raises(ValueError, match="no key has"):
        PrivacyIdea(PrivacyIdea.Table(kind="privacyidea", url="https://mfa.example.com", api_key="a b\r\nX: y"), Tools())
