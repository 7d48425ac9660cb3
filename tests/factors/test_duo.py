"""Duo's Auth API against a strict fake, which the vendor's own client accepts as Duo."""

import asyncio
import contextlib
import hashlib
import logging
import urllib.parse

import duo_client
import pytest
from fakes.duo import IKEY, SKEY, User, phone, token
from fakes.duo import Duo as Fake
from fakes.web import deaf, nobody
from pydantic import ValidationError

from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors import duo_api
from ldapmfa.factors.duo import Duo
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting

ALICE = Identity("example.com", "guid:00", "cn=alice,dc=example,dc=com", ("alice",), "alice@example.com")


def prompt(method="", device="", *, seconds=20.0, user="alice", application="mail", client="192.0.2.7"):
    return Prompt(ALICE, user, application, client, method, device, seconds)


class Bench:
    """A fake, the service before it, and what the service says and how long it sleeps."""

    def __init__(self, fake, **table):
        self.fake, self.said, self.slept = fake, [], []

        async def sleep(seconds):
            self.slept.append(seconds)
            await asyncio.sleep(0)

        self.service = Duo(Duo.Table(**{**fake.settings(), **table}), Tools(sleep=sleep, say=self.said.append))

    async def login(self, asked=None):
        asked = asked or prompt()
        started = await self.service.start(asked)
        return await self.service.wait(asked, started) if isinstance(started, Waiting) else started


@contextlib.asynccontextmanager
async def duo(tmp_path, *, certificate="", **table):
    async with Fake(tmp_path, certificate=certificate) as fake:
        bench = Bench(fake, **table)
        try:
            yield bench
        finally:
            await bench.service.close()


# -- signing

VECTOR = {"host": "api-XXXXXXXX.duosecurity.com", "date": "Tue, 21 Aug 2012 17:29:18 -0000"}


def sign(method, path, **more):
    return duo_api.signature(Secret(SKEY.encode()), method, VECTOR["host"], path, date=VECTOR["date"], **more)


def test_the_signature_of_a_post():
    body = duo_api.as_body({"username": "jdoe", "factor": "push", "device": "auto", "async": "1"})
    assert body == b'{"async":"1","device":"auto","factor":"push","username":"jdoe"}'
    assert hashlib.sha512(body).hexdigest() == (
        "60ce5a5c309b2b097f0c03ddf3d1b887d25f1e51e9767b7294c8fab5c44b470e"
        "0944830a27aceb5467d0371717f59ef44cc6343ae8879b04470cabb750699a78"
    )
    assert sign("POST", "/auth/v2/auth", body=body) == (
        "81914c372679e750f80a06625aa507b70810c7f2fbc03198c058c9965dfc1602"
        "f97186a748725b15a3c0c653001718b72d39c77b749d0b96f77330d438355398"
    )


def test_the_signature_of_a_get():
    query = duo_api.encoded({"txid": "45f7c92b-f45f-4862-8545-e0f58e78075a"})
    assert sign("GET", "/auth/v2/auth_status", query=query) == (
        "c3d2c91eaba8d1e9641cfd6f038249dd25b3922b408c6785394431bb5530572c"
        "4c1f91f1c6a3fc4b6b646d48b1bc92d8e370b1a8073e4cc467c49b44e66f97e5"
    )


@pytest.mark.parametrize("value", ["a b", "ä/+~*'()&=%", "\U0001f511", "", "A-z_0.9"])
def test_the_signature_is_the_vendors(value):
    parameters = {"b": value, value: "2", "a": "3"}
    given = duo_client.client.sign(
        IKEY, SKEY, "GET", VECTOR["host"], "/auth/v2/x", VECTOR["date"], 5, duo_client.client.normalize_params(parameters), body=""
    )
    ours = sign("GET", "/auth/v2/x", query=duo_api.encoded(parameters))
    assert duo_client.client.base64.b64decode(given.removeprefix("Basic ")).decode() == f"{IKEY}:{ours}"


# -- the fake is Duo, as far as the vendor's client can tell


vendors = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")


@contextlib.contextmanager
def vendor(tmp_path, skey=SKEY):
    with Fake(tmp_path) as fake:
        yield fake, duo_client.Auth(IKEY, skey, "localhost", ca_certs=str(fake.web.ca_file), port=fake.web.port)


@vendors
def test_the_vendors_client_succeeds_against_the_fake(tmp_path):
    with vendor(tmp_path) as (fake, client):
        fake.users["alice"].passcodes = {"123456"}
        assert client.ping()["time"] == pytest.approx(client.check()["time"], abs=2)
        found = client.preauth(username="alice", ipaddr="192.0.2.7", client_supports_verified_push="1")
        assert found["result"] == "auth"
        pushinfo = urllib.parse.urlencode({"from": "a b", "host": "ä"})
        device = found["devices"][0]["device"]
        txid = client.auth("push", username="alice", async_txn=True, device=device, type="Login", pushinfo=pushinfo)["txid"]
        assert client.auth_status(txid)["status"] == "pushed"
        assert client.auth_status(txid)["success"] is True
        assert client.auth("phone", username="alice", device="auto")["result"] == "allow"
        assert client.auth("sms", username="alice", device="auto") == {
            "result": "deny", "status": "sent", "status_msg": "New SMS passcodes sent."
        }  # fmt: skip
        assert client.auth("passcode", username="alice", passcode="123456")["result"] == "allow"
        assert client.auth("passcode", username="alice", passcode="123456")["result"] == "deny"


@vendors
def test_the_fake_refuses_the_vendors_client_where_duo_would(tmp_path):
    with vendor(tmp_path, skey="deadbee" * 5) as (fake, client):
        with pytest.raises(RuntimeError, match="401"):
            client.check()
        client.skey = SKEY
        client.check()
        fake.skew = 301
        with pytest.raises(RuntimeError, match="timestamp"):
            client.check()
        fake.skew = 0
        for wrong in (
            {"factor": "passcode", "passcode": "1", "device": "auto"},
            {"factor": "push"},
            {"factor": "phone", "device": "auto", "pushinfo": "a=b"},
            {"factor": "push", "device": "DPNONE"},
        ):
            with pytest.raises(RuntimeError, match="400"):
                client.auth(username="alice", **wrong)
        with pytest.raises(RuntimeError, match="400"):
            client.auth("push", username="nobody", device="auto")
        with pytest.raises(RuntimeError, match="400"):
            client.auth_status("45f7c92b-f45f-4862-8545-e0f58e78075a")
        assert len(fake.broken_rules) == 5
        fake.broken_rules.clear()


# -- who is let in, and how


async def test_a_push_that_is_approved_lets_in_and_shows_where(tmp_path):
    async with duo(tmp_path, hostname="proxy1") as bench:
        assert await bench.login(prompt("push")) == Allowed("push")
        assert bench.fake.paths() == ["preauth", "auth", "auth_status", "auth_status"]
        (asked,) = bench.fake.asked
        assert dict(urllib.parse.parse_qsl(asked.pop("pushinfo"))) == {
            "Application": "mail", "Client address": "192.0.2.7", "Host": "proxy1"
        }  # fmt: skip
        assert asked == {
            "username": "alice", "factor": "push", "device": "auto", "async": "1", "type": "Login to mail", "display_username": "alice"
        }  # fmt: skip


@pytest.mark.parametrize(("method", "how"), [("", "push"), ("auto", "push"), ("push", "push"), ("phone", "phone")])
async def test_each_way_of_asking(tmp_path, method, how):
    async with duo(tmp_path) as bench:
        assert await bench.login(prompt(method)) == Allowed(how)
        assert bench.fake.asked[0]["factor"] == method or "auto"


@pytest.mark.parametrize(
    ("pressed", "why"), [("deny", "denied"), ("fraud", "fraud"), ("timeout", "no-answer"), ("locked_out", "locked-at-service")]
)
async def test_each_no_has_its_reason(tmp_path, pressed, why):
    async with duo(tmp_path) as bench:
        bench.fake.owner = pressed
        answer = await bench.login()
        assert isinstance(answer, Denied)
        assert answer.why == why
        assert answer.detail.startswith(pressed)


async def test_a_bypass_while_waiting_is_called_so(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.owner = "bypass"
        assert await bench.login() == Allowed("bypass")


@pytest.mark.parametrize("what", ["start", "verify"])
@pytest.mark.parametrize(("policy", "outcome"), [("allow", "bypass"), ("deny", "denied"), ("enroll", "not-enrolled")])
async def test_what_the_policy_has_decided_asks_nobody(tmp_path, policy, outcome, what):
    async with duo(tmp_path) as bench:
        bench.fake.users["alice"].policy = policy
        answer = await (bench.service.start(prompt()) if what == "start" else bench.service.verify(prompt(), Secret(b"123456"), None))
        assert (answer.how if isinstance(answer, Allowed) else answer.why) == outcome
        assert bench.fake.paths() == ["preauth"]
        assert "portal" not in repr(answer)


async def test_a_user_whom_duo_does_not_know_is_refused(tmp_path):
    async with duo(tmp_path) as bench:
        assert (await bench.login(prompt(user="mallory"))).why == "not-enrolled"


DEVICES = [
    token(),
    phone("DPA", display_name="iOS (0100)", name="work"),
    phone("DPB", display_name="Android (0200)", name="Home", capabilities=("sms", "phone")),
    phone("DPC", display_name="Tablet", name="work", capabilities=("auto", "push")),
]


@pytest.mark.parametrize(
    ("method", "device", "chosen"),
    [
        ("push", "", "auto"),
        ("push", "1", "DPA"),
        ("push", "2", "DPC"),
        ("phone", "2", "DPB"),
        ("", "2", "DPC"),
        ("push", "tablet", "DPC"),
        ("phone", "home", "DPB"),
        ("sms", "Android (0200)", "DPB"),
        ("push", "dpa", "DPA"),
        ("phone", "work", "DPA"),
        ("push", "work", None),
        ("push", "home", None),
        ("push", "0", None),
        ("push", "3", None),
        ("push", "-1", None),
        ("push", "²", None),
        ("push", "auto", None),
        ("push", "DHEKH0JJIYC1LX3AZWO4", None),
    ],
)
async def test_a_device_is_one_that_can_be_asked_like_this(tmp_path, method, device, chosen):
    async with duo(tmp_path) as bench:
        bench.fake.users["alice"].devices = DEVICES
        started = await bench.service.start(prompt(method, device))
        if chosen is None:
            assert isinstance(started, Denied)
            assert started.why == "no-method"
            assert bench.fake.paths() == ["preauth"]
        else:
            assert bench.fake.asked[0]["device"] == chosen


async def test_who_has_only_a_token_is_told_that_there_is_no_method(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.users["alice"].devices = [token()]
        assert (await bench.service.start(prompt())).why == "no-method"


async def test_an_sms_brings_a_code_for_the_next_bind(tmp_path):
    async with duo(tmp_path) as bench:
        sent = await bench.service.start(prompt("sms"))
        assert sent == CodeSent()
        assert bench.fake.paths() == ["preauth", "auth"]
        bench.fake.users["alice"].passcodes = {"7654321"}
        assert await bench.service.verify(prompt(), Secret(b"7654321"), sent) == Allowed("passcode")


@pytest.mark.parametrize("code", ["123456", "7654321", "cccccccccccbhtujvvfkffnvvtblcvukvdnfgvlklrgj"])
async def test_a_passcode_is_good_once(tmp_path, code):
    async with duo(tmp_path) as bench:
        bench.fake.users["alice"].passcodes = {code}
        assert await bench.service.verify(prompt(), Secret(b"999999"), None) == Denied(
            "wrong-code", "deny: Incorrect passcode. Please try again."
        )
        assert await bench.service.verify(prompt(), Secret(code.encode()), None) == Allowed("passcode")
        assert (await bench.service.verify(prompt(), Secret(code.encode()), None)).why == "wrong-code"


@pytest.mark.parametrize("code", [b"", b"12 456", b"\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5\xd9\xa6", b"1" * 65, b"123456\n"])
async def test_what_is_no_passcode_is_not_sent(tmp_path, code):
    async with duo(tmp_path) as bench:
        assert (await bench.service.verify(prompt(), Secret(code), None)).why == "wrong-code"
        assert bench.fake.paths() == []


async def test_a_locked_account_is_no_wrong_code(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake._passcode = lambda *_: ("deny", "locked_out", "Account disabled.")
        assert (await bench.service.verify(prompt(), Secret(b"123456"), None)).why == "locked-at-service"


async def test_A21_a_limit_of_duos_is_a_no_and_never_tried_again(tmp_path):
    async with duo(tmp_path, fail_mode="open") as bench:
        bench.fake.most_requests = 1
        await bench.service.start(prompt())
        assert (await bench.service.start(prompt())).why == "throttled"
        assert (await bench.service.verify(prompt(), Secret(b"123456"), None)).why == "throttled"
        assert bench.fake.paths().count("auth") == 3


async def test_names_can_not_move_the_cursor_of_a_phone(tmp_path):
    async with duo(tmp_path) as bench:
        await bench.login(prompt("push", application="mail\nHost: trusted\x1b[2J", client="192.0.2.7"))
        assert bench.fake.asked[0]["type"] == r"Login to mail\nHost: trusted\x1b[2J"
        assert "%0A" not in bench.fake.asked[0]["pushinfo"]


async def test_any_name_fits_into_a_push(tmp_path):
    async with duo(tmp_path) as bench:
        assert await bench.login(prompt(application="\U0001f511" * 9_999)) == Allowed("push")


# -- the client's address, and Verified Push


@pytest.mark.parametrize(
    ("client", "sent"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:DB8::7", "2001:db8::7"), ("", None), ("unix", None)],
)
async def test_duos_policies_see_the_clients_address_only_where_that_is_configured(tmp_path, client, sent):
    for configured in (True, False):
        async with duo(tmp_path, send_client_address=configured) as bench:
            await bench.service.start(prompt(client=client))
            addresses = [request.json().get("ipaddr") for request in bench.fake.web.requests]
            assert addresses == [sent if configured else None] * 2


async def test_a_verified_push_is_refused_before_anybody_is_asked(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.verified_push = True
        for method in ("", "push"):
            answer = await bench.service.start(prompt(method))
            assert answer.why == "no-method"
            assert "Verified Push" in answer.detail
        assert await bench.login(prompt("phone")) == Allowed("phone")
        bench.fake.users["alice"].passcodes = {"123456"}
        assert await bench.service.verify(prompt(), Secret(b"123456"), None) == Allowed("passcode")
        assert [asked["factor"] for asked in bench.fake.asked] == ["phone"]


async def test_a_plain_push_past_the_policy_is_a_choice(tmp_path):
    async with duo(tmp_path, verified_push="ignore") as bench:
        bench.fake.verified_push = True
        assert await bench.login(prompt("push")) == Allowed("push")


# -- clocks


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
async def test_a_wrong_clock_is_noticed_once_and_made_up_for(tmp_path, skew):
    async with duo(tmp_path) as bench:
        bench.fake.skew = skew
        assert await bench.login() == Allowed("push")
        assert await bench.login() == Allowed("push")
        assert bench.fake.paths()[:4] == ["preauth", "ping", "preauth", "auth"]
        assert bench.fake.paths().count("ping") == 1
        assert len(bench.fake.asked) == 2


async def test_a_clock_that_is_never_right_is_down(tmp_path):
    async with duo(tmp_path, fail_mode="open") as bench:
        bench.fake.skew = 3600.0
        bench.fake.forge = lambda path, envelope: {"stat": "OK", "response": {"time": 1}} if path == "ping" else envelope
        with pytest.raises(FactorDown, match="40105") as caught:
            await bench.service.start(prompt())
        assert not isinstance(caught.value, FactorUnreachable)
        assert bench.fake.paths() == ["preauth", "ping", "preauth"]


# -- waiting


async def test_waiting_ends_with_the_prompt(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.owner = None
        answer = await bench.login(prompt(seconds=0.3))
        assert answer == Denied("no-answer", "within 0.3 s")


async def test_a_poll_that_ends_without_news_is_begun_again(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.owner, bench.fake.poll_seconds = None, 0.02
        asked = prompt()
        started = await bench.service.start(asked)
        asyncio.get_running_loop().call_later(0.15, bench.fake.press, "allow")
        assert await bench.service.wait(asked, started) == Allowed("push")
        assert bench.fake.paths().count("auth_status") > 3
        assert bench.slept  # for polls this short are no long polls


@pytest.mark.parametrize("kind", ["broken", "cut", "status"])
async def test_a_poll_that_fails_is_begun_again(tmp_path, kind):
    async with duo(tmp_path) as bench:
        bench.fake.web.disturb(kind, path="/auth/v2/auth_status", times=3, status=503)
        assert await bench.login() == Allowed("push")
        assert bench.slept == [1.0, 2.0, 4.0]


async def test_a_service_that_stays_away_while_it_is_waited_for_is_down(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.web.disturb("status", path="/auth/v2/auth_status", status=503)
        with pytest.raises(FactorDown) as caught:
            await bench.login(prompt(seconds=1.0))
        assert not isinstance(caught.value, FactorUnreachable)


async def test_waiting_can_be_cancelled_and_the_service_used_on(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.owner = None
        asked = prompt()
        started = await bench.service.start(asked)
        task = asyncio.ensure_future(bench.service.wait(asked, started))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bench.service.cancel(asked, started)
        bench.fake.owner = "allow"
        assert await bench.login() == Allowed("push")


# -- A24: broken in every way

UNREACHABLE, DOWN = FactorUnreachable, FactorDown
#: What happens, and what it means while nobody can have been asked yet, and from then on.
BROKEN = [
    ("slow", {}, (UNREACHABLE, DOWN)),
    ("broken", {}, (UNREACHABLE, DOWN)),
    ("cut", {}, (UNREACHABLE, DOWN)),
    ("status", {"status": 500}, (UNREACHABLE, UNREACHABLE)),
    ("status", {"status": 503, "headers": {"Retry-After": "7"}}, (UNREACHABLE, UNREACHABLE)),
    ("status", {"status": 504}, (UNREACHABLE, DOWN)),
    ("status", {"status": 429, "headers": {"Retry-After": "7"}}, (DOWN, DOWN)),
    ("status", {"status": 400}, (DOWN, DOWN)),
    ("status", {"status": 404}, (DOWN, DOWN)),
    ("garbage", {}, (DOWN, DOWN)),
    ("garbage", {"body": b""}, (DOWN, DOWN)),
    ("garbage", {"body": b"[" * 5000}, (DOWN, DOWN)),
    ("garbage", {"body": b"[]"}, (DOWN, DOWN)),
    ("garbage", {"body": b'{"stat":"OK"}'}, (DOWN, DOWN)),
    ("nonsense", {}, (DOWN, DOWN)),
    ("huge", {}, (DOWN, DOWN)),
    ("redirect", {}, (DOWN, DOWN)),
]


@pytest.mark.parametrize("at", ["preauth", "auth"])
@pytest.mark.parametrize(("kind", "options", "meaning"), BROKEN)
async def test_A24_what_counts_as_an_outage(tmp_path, kind, options, meaning, at):
    async with duo(tmp_path, response_timeout=0.2) as bench:
        bench.fake.web.disturb(kind, path=f"/auth/v2/{at}", **options)
        with pytest.raises(FactorDown) as caught:
            await bench.service.start(prompt())
        assert type(caught.value) is meaning[at == "auth"]
        assert caught.value.retry_after == (7.0 if "headers" in options else None)
        assert bench.fake.paths().count("auth") <= 1


@pytest.mark.parametrize("at", ["preauth", "auth"])
@pytest.mark.parametrize(("kind", "options"), [row[:2] for row in BROKEN])
async def test_A24_a_code_that_can_not_be_checked_never_opens(tmp_path, kind, options, at):
    async with duo(tmp_path, response_timeout=0.2) as bench:
        bench.fake.web.disturb(kind, path=f"/auth/v2/{at}", **options)
        with pytest.raises(FactorDown) as caught:
            await bench.service.verify(prompt(), Secret(b"123456"), None)
        assert not isinstance(caught.value, FactorUnreachable)


@pytest.mark.parametrize(("kind", "options"), [row[:2] for row in BROKEN])
async def test_A24_nothing_opens_once_a_prompt_was_started(tmp_path, kind, options):
    async with duo(tmp_path, response_timeout=0.2) as bench:
        bench.fake.owner = None
        asked = prompt(seconds=0.3)
        started = await bench.service.start(asked)
        bench.fake.web.disturb(kind, path="/auth/v2/auth_status", **options)
        try:
            answer = await bench.service.wait(asked, started)
        except FactorDown as error:
            assert not isinstance(error, FactorUnreachable)  # noqa: PT017 - either is right
        else:  # a slow answer is as any long poll, and on a slow machine others are too
            assert answer.why == "no-answer"


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
async def test_A24_a_certificate_that_is_not_accepted_is_no_outage(tmp_path, certificate):
    async with duo(tmp_path, certificate=certificate) as bench:
        with pytest.raises(FactorDown, match="certificate") as caught:
            await bench.service.start(prompt())
        assert not isinstance(caught.value, FactorUnreachable)
        assert bench.fake.paths() == []


@pytest.mark.parametrize("blocked", [nobody, deaf])
async def test_A24_what_can_not_be_connected_to_is_unreachable(tmp_path, blocked):
    async with duo(tmp_path) as bench:
        with blocked() as port:
            service = Bench(bench.fake, api_host=f"localhost:{port}", connect_timeout=0.2).service
            with pytest.raises(FactorUnreachable):
                await service.start(prompt())
            await service.close()


@pytest.mark.parametrize("code", [40001, 40002, 40101, 40102, 40103, 40301, 42901])
async def test_A24_what_duo_refuses_is_no_outage(tmp_path, code):
    async with duo(tmp_path) as bench:
        bench.fake.forge = lambda _, __: (code // 100, {"stat": "FAIL", "code": code, "message": "no"})
        with pytest.raises(FactorDown, match=str(code)) as caught:
            await bench.service.start(prompt())
        assert not isinstance(caught.value, FactorUnreachable)
        assert bench.fake.paths() == ["preauth"]


# -- A25: forged answers

YES = {"result": "allow", "status": "allow", "status_msg": "Success."}


def ok(response):
    return {"stat": "OK", "response": response}


FORGED = {
    "misspelled": ok(YES | {"result": "Allow"}),
    "a boolean": ok(YES | {"result": True}),
    "the text true": ok(YES | {"result": "true"}),
    "a list": ok(YES | {"result": ["allow"]}),
    "no result": ok({"status": "allow", "status_msg": "Success."}),
    "no status": ok({"result": "allow"}),
    "a number for a status": ok(YES | {"status": 1}),
    "a contradiction": ok(YES | {"status": "deny"}),
    "another contradiction": ok(YES | {"status": "pushed"}),
    "another transaction": ok(YES | {"txid": "45f7c92b-f45f-4862-8545-e0f58e78075a"}),
    "a FAIL with 200": {"stat": "FAIL", "code": 40002, "message": "no", "response": YES},
    "a FAIL without a code": (400, {"stat": "FAIL", "response": YES}),
    "an OK with 400": (400, ok(YES)),
    "an OK with 201": (201, ok(YES)),
    "a small ok": {"stat": "ok", "response": YES},
    "no stat": {"response": YES},
    "no response": {"stat": "OK"},
    "a bare result": YES,
    "a response in text": {"stat": "OK", "response": "allow"},
    "a response in a list": {"stat": "OK", "response": [YES]},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("at", ["auth_status", "auth", "preauth"])
async def test_A25_no_forged_yes_lets_in(tmp_path, forged, at):
    async with duo(tmp_path) as bench:
        bench.fake.users["alice"].passcodes = {"1"}
        bench.fake.forge = lambda path, envelope: forged if path == at else envelope
        asked = prompt(seconds=0.3)
        with pytest.raises(FactorDown) if not _is_policy(forged, at) else contextlib.nullcontext():
            assert isinstance(await bench.login(asked), Allowed)
        if at != "auth_status":
            with pytest.raises(FactorDown) if not _is_policy(forged, at) else contextlib.nullcontext():
                assert isinstance(await bench.service.verify(asked, Secret(b"123456"), None), Allowed)


def _is_policy(forged, at):
    """Preauth has no status, and no transaction."""
    return at == "preauth" and isinstance(forged, dict) and forged.get("stat") == "OK" and (
        isinstance(forged.get("response"), dict) and forged["response"].get("result") == "allow"
    )


@pytest.mark.parametrize("forged", [{}, {"txid": ""}, {"txid": 5}, {"txid": None}, {"txid": ["a"]}, YES])
async def test_A25_a_push_without_a_transaction_is_no_push(tmp_path, forged):
    async with duo(tmp_path) as bench:
        bench.fake.forge = lambda path, envelope: ok(forged) if path == "auth" else envelope
        with pytest.raises(FactorDown) as caught:
            await bench.service.start(prompt())
        assert not isinstance(caught.value, FactorUnreachable)


async def test_A25_an_approval_is_good_for_one_transaction(tmp_path):
    async with duo(tmp_path) as bench:
        first = []
        bench.fake.forge = lambda path, envelope: (first.append(envelope), first[0])[1] if path == "auth" else envelope
        assert await bench.login() == Allowed("push")
        with pytest.raises(FactorDown):
            await bench.login()


async def test_A25_a_yes_to_an_sms_lets_nobody_in(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.forge = lambda path, envelope: ok(YES) if path == "auth" else envelope
        with pytest.raises(FactorDown):
            await bench.service.start(prompt("sms"))


async def test_A25_waiting_for_ever_at_full_speed_is_slowed_down(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.forge = lambda path, envelope: (
            ok({"result": "waiting", "status": "pushed", "status_msg": ""}) if path == "auth_status" else envelope
        )
        assert (await bench.login(prompt(seconds=0.3))).why == "no-answer"
        assert len(bench.slept) >= bench.fake.paths().count("auth_status") - 4


# -- what is said, and what is not


async def test_no_secret_is_said_raised_shown_or_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with duo(tmp_path) as bench:
        asked = prompt()
        started = await bench.service.start(asked)
        (txid,) = bench.fake.transactions
        shown = [repr(started), repr(await bench.service.wait(asked, started)), repr(bench.service)]
        shown.append(repr(await bench.service.verify(asked, Secret(b"31415926"), None)))
        for kind in ("broken", "garbage", "status"):
            bench.fake.web.disturb(kind, path="/auth/v2/auth", status=400)
            with pytest.raises(FactorDown) as caught:
                await bench.service.verify(asked, Secret(b"31415926"), None)
            shown += [repr(caught.value), repr(caught.value.__context__)]
            bench.fake.web.disturb(kind, path="/auth/v2/auth_status", status=400)
            bench.fake.web.disturb("status", path="/auth/v2/auth_status", status=400, body=txid.encode())
            with pytest.raises(FactorDown) as caught:
                await bench.service.wait(asked, started)
            shown += [repr(caught.value), repr(caught.value.__context__)]
            bench.fake.web.calm()
        text = "\n".join([*shown, *bench.said, caplog.text])
        for secret in (SKEY, txid, "31415926", "Authorization"):
            assert secret not in text


async def test_each_step_is_told_in_plain_words(tmp_path):
    async with duo(tmp_path, hostname="proxy1") as bench:
        await bench.login()
        assert bench.said == [
            "Duo knows the user, and wants a factor",
            "devices that can be asked by auto: 1: iOS (XXX-XXX-0100)",
            "Duo is asked for auto, device auto",
            "Duo waits: pushed",
            "Duo allows it: allow",
        ]


async def test_health_compares_clocks_and_tries_the_keys(tmp_path):
    async with duo(tmp_path) as bench:
        bench.fake.skew = 120
        assert await bench.service.health() in {f"Duo answers, and takes the keys; its clock is {n} s ahead" for n in (119, 120)}
        assert bench.fake.paths() == ["ping", "check"]


async def test_health_is_ill_where_the_keys_are_wrong_and_asks_nobody(tmp_path):
    async with duo(tmp_path, secret_key="deadbee" * 5) as bench:
        with pytest.raises(FactorDown, match="40103"):
            await bench.service.health()
        assert bench.fake.asked == []


# -- settings


@pytest.mark.parametrize("host", ["https://api-1.duosecurity.com", "api-1.duosecurity.com/", "", "a b", "user@api", "-a", "a:b"])
def test_the_api_host_is_a_host(host):
    with pytest.raises(ValidationError, match="api_host"):
        Duo.Table(kind="duo", api_host=host, integration_key=IKEY, secret_key=SKEY)


def test_the_secret_key_is_read_from_its_file_without_the_line_end(tmp_path):
    (tmp_path / "key").write_text(SKEY + "\n")
    table = Duo.Table(kind="duo", api_host="api-1.duosecurity.com", integration_key=IKEY, secret_key_file=str(tmp_path / "key"))
    assert Duo(table, Tools())._api._secret_key == Secret(SKEY.encode())


def test_a_user_of_the_fake_is_as_documented():
    assert User().devices == [phone()]
