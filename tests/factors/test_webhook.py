"""The webhook against a strict fake over TLS, what is forged by number (A24, A25), and the example server itself."""

import asyncio
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from fakes.web import deaf, nobody
from fakes.webhook import APPROVED, PENDING, SECRET, Approvals

from ldapmfa import config
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError, FactorDown, FactorUnreachable
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting
from ldapmfa.factors.webhook import Webhook, WebhookTable, signature

ROOT = Path(__file__).resolve().parents[2]
ALICE = Identity("corp", "uuid:1", "uid=alice,dc=example,dc=com", ("alice",))
PROMPT = Prompt(ALICE, "alice", "vpn", "192.0.2.1", method="push", seconds=5)
OTHER = "f" * 32
GOOD = {"kind": "webhook", "url": "https://approve.example.com/ldapmfa", "secret": SECRET.decode()}


class Using:
    """A fake and a webhook that talks to it."""

    def __init__(self, tmp_path, tools=None, **settings):
        fake = {name: settings.pop(name) for name in ("certificate", "secret_there", "tls", "now") if name in settings}
        if "secret_there" in fake:
            fake["secret"] = fake.pop("secret_there")
        self._there = Approvals(tmp_path, **fake)
        self._webhook = Webhook(WebhookTable(**self._there.table | settings), tools or Tools())

    async def __aenter__(self):
        await self._there.__aenter__()
        return self._there, self._webhook

    async def __aexit__(self, *error):
        await self._webhook.close()
        await self._there.__aexit__(*error)


def down(kind, text):
    """FactorDown itself, so that nothing opens, or FactorUnreachable, exactly."""
    return pytest.raises(kind, match=text, check=lambda error: type(error) is kind)


# -- what is right


async def test_an_approval_is_waited_for(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        there.says = {"poll": [PENDING, PENDING, APPROVED | {"how": "push"}]}
        waiting = await webhook.start(PROMPT)
        assert isinstance(waiting, Waiting)
        assert await webhook.wait(PROMPT, waiting) == Allowed("push")
        assert there.actions() == ["start", "poll", "poll", "poll"]
        assert {transaction for _, transaction, _ in there.asked} == {waiting.handle}
        assert there.asked[0][2] == {
            "user": "alice",
            "account": "corp/uuid:1",
            "application": "vpn",
            "client": "192.0.2.1",
            "device": "",
            "method": "push",
            "seconds": 5,
        }


async def test_every_transaction_is_another_one(tmp_path):
    async with Using(tmp_path) as (_, webhook):
        handles = [(await webhook.start(PROMPT)).handle for _ in range(5)]
        assert len(set(handles)) == 5


@pytest.mark.parametrize(
    "state", ["denied", "fraud", "no-answer", "locked-at-service", "not-enrolled", "no-method", "throttled"]
)
@pytest.mark.parametrize("action", ["start", "poll"])
async def test_every_no_is_told_by_its_reason(tmp_path, action, state):
    async with Using(tmp_path) as (there, webhook):
        there.says = {action: {"approved": False, "state": state, "detail": "Alice pressed\x1b[2J no", "more": 1}}
        answer = await webhook.start(PROMPT)
        if action == "poll":
            answer = await webhook.wait(PROMPT, answer)
        assert answer == Denied(state, "Alice pressed\\x1b[2J no")


async def test_who_needs_no_approval_is_allowed_at_once(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        there.says = {"start": APPROVED | {"how": "bypass"}}
        assert await webhook.start(PROMPT) == Allowed("bypass")


async def test_a_code_that_was_sent_is_verified_by_another_process(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        there.says = {"start": {"approved": False, "state": "code-sent", "seconds": 120}, "verify": APPROVED}
        sent = await webhook.start(PROMPT)
        assert sent == CodeSent({"transaction": there.asked[0][1]}, 120)
        kept = CodeSent(json.loads(json.dumps(sent.handle)), sent.seconds)
        other = Webhook(WebhookTable(**there.table), Tools())
        assert await other.verify(PROMPT, Secret(b"123456"), kept) == Allowed("push")
        await other.close()
        action, transaction, question = there.asked[-1]
        assert (action, transaction) == ("verify", there.asked[0][1])
        assert (question["code"], question["sent"]) == ("123456", True)


@pytest.mark.parametrize("state", ["wrong-code", "replayed-code"])
async def test_a_code_of_its_own_is_verified_where_it_takes_codes(tmp_path, state):
    async with Using(tmp_path, takes_codes=True) as (there, webhook):
        assert webhook.takes_codes
        there.says = {"verify": [{"approved": False, "state": state}, APPROVED]}
        assert await webhook.verify(PROMPT, Secret(b"123456"), None) == Denied(state)
        assert await webhook.verify(PROMPT, Secret(b"654321"), None) == Allowed("push")
        assert [question["sent"] for _, _, question in there.asked] == [False, False]


async def test_where_it_takes_none_it_is_not_asked(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        assert await webhook.verify(PROMPT, Secret(b"123456"), None) == Denied("no-method", "takes_codes is false in its table")
        assert there.asked == []


async def test_methods_are_those_of_the_table(tmp_path):
    async with Using(tmp_path, methods=("ring", "knock")) as (there, webhook):
        assert tuple(webhook.methods) == ("ring", "knock")
        assert (await webhook.start(PROMPT)).why == "no-method"
        assert there.asked == []
        assert isinstance(await webhook.start(Prompt(ALICE, "alice", "vpn", method="ring")), Waiting)
        assert isinstance(await webhook.start(Prompt(ALICE, "alice", "vpn")), Waiting)


async def test_what_is_shown_has_no_control_characters(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        await webhook.start(Prompt(ALICE, "alice", "vpn\x1b[2J\n", "1\u202e2", "push", "2\r"))
        question = there.asked[0][2]
        assert all(question[name].isprintable() for name in ("application", "client", "device"))


async def test_nobody_waits_longer_than_an_answer_is_of_use(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        there.hold = 30
        prompt = Prompt(ALICE, "alice", "vpn", seconds=0.15)
        began = time.monotonic()
        assert (await webhook.wait(prompt, await webhook.start(prompt))).why == "no-answer"
        assert time.monotonic() - began < 3


async def test_a_held_poll_is_asked_again_at_once_and_one_that_is_not_after_a_pause(tmp_path):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async with Using(tmp_path, Tools(sleep=sleep), poll_seconds=0.1) as (there, webhook):
        waiting = await webhook.start(PROMPT)
        there.says = {"poll": [PENDING, APPROVED]}
        await webhook.wait(PROMPT, waiting)
        there.hold, there.says = 0.12, {"poll": [PENDING, APPROVED]}
        await webhook.wait(PROMPT, waiting)
    assert 0 < pauses[0] <= 0.1
    assert pauses[1] == 0


@pytest.mark.parametrize("kind", ["slow", "status", "cut", "broken"])
async def test_an_outage_while_waiting_is_sat_out(tmp_path, kind):
    async with Using(tmp_path, response_timeout=0.1, hold_seconds=0) as (there, webhook):
        there.says = {"poll": APPROVED}
        waiting = await webhook.start(PROMPT)
        there.disturb(kind, path="/hook/poll", times=2, **{"status": 503} if kind == "status" else {})
        assert await webhook.wait(PROMPT, waiting) == Allowed("push")


async def test_retry_after_is_honoured_while_waiting(tmp_path):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async with Using(tmp_path, Tools(sleep=sleep)) as (there, webhook):
        there.says = {"poll": APPROVED}
        there.disturb("status", path="/hook/poll", times=1, status=503, headers={"Retry-After": "3"})
        assert await webhook.wait(PROMPT, await webhook.start(PROMPT)) == Allowed("push")
    assert pauses == [3]


async def test_an_outage_that_lasts_is_no_answer(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        waiting = await webhook.start(PROMPT)
        there.disturb("status", status=500)
        assert (await webhook.wait(Prompt(ALICE, "alice", "vpn", seconds=0.2), waiting)).why == "no-answer"


async def test_a_question_is_taken_back(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        waiting = await webhook.start(PROMPT)
        await webhook.cancel(PROMPT, waiting)
        assert there.actions() == ["start", "cancel"]
        assert there.asked[1][1] == waiting.handle


@pytest.mark.parametrize("kind", ["broken", "garbage", "nonsense", "redirect", "slow"])
async def test_taking_back_never_fails_and_never_takes_long(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("ldapmfa.factors.webhook.CANCEL_SECONDS", 0.1)
    async with Using(tmp_path) as (there, webhook):
        waiting = await webhook.start(PROMPT)
        there.disturb(kind)
        await webhook.cancel(PROMPT, waiting)


async def test_a_wait_that_is_cancelled_lets_go(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        there.hold = 30
        task = asyncio.ensure_future(webhook.wait(PROMPT, await webhook.start(PROMPT)))
        await there.polled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_health_asks_nobody(tmp_path):
    async with Using(tmp_path) as (there, webhook):
        assert await webhook.health() == "it answers, and has our secret"
        assert there.actions() == ["health"]


@pytest.mark.parametrize("said", [{}, {"ok": "true"}, {"ok": 1}, {"ok": False}])
async def test_health_is_told_in_no_other_word(tmp_path, said):
    async with Using(tmp_path) as (there, webhook):
        there.says = {"health": said}
        with down(FactorDown, "without"):
            await webhook.health()


async def test_each_step_is_told_without_a_secret(tmp_path):
    told = []
    async with Using(tmp_path, Tools(say=told.append)) as (there, webhook):
        there.says = {"poll": [PENDING, APPROVED]}
        waiting = await webhook.start(PROMPT)
        await webhook.wait(PROMPT, waiting)
        assert told == ["/start is answered: pending", "/poll is answered: pending", "/poll is answered: approved"]
        assert SECRET.decode() not in repr(vars(webhook))


# -- A25: forged answers


def without(name):
    return lambda answer: answer | {name: None}


FORGED = {
    "for another transaction": lambda answer: answer | {"transaction": OTHER},
    "of another request": lambda answer: answer | {"nonce": OTHER},
    "without its transaction": without("transaction"),
    "without its nonce": without("nonce"),
    "without its time": without("timestamp"),
    "with no time": lambda answer: answer | {"timestamp": "now"},
    "with a signed time": lambda answer: answer | {"timestamp": f"+{answer['timestamp']}"},
    "stale": lambda answer: answer | {"timestamp": str(int(answer["timestamp"]) - 310)},
    "from the future": lambda answer: answer | {"timestamp": str(int(answer["timestamp"]) + 310)},
    "unsigned": without("signature"),
    "signed with nothing": lambda answer: answer | {"signature": ""},
    "signed with letters": lambda answer: answer | {"signature": "é" * 64},
    "signed in capitals": lambda answer: answer | {"signature": "A" * 64},
    "of another body": lambda answer: answer | {"sent": json.dumps(APPROVED | {"how": "push"}).encode()},
    "signed as a request": lambda answer: answer | {"direction": "request"},
    "for another action": lambda answer: answer | {"action": "cancel"},
    "with 201": lambda answer: answer | {"status": 201},
    "with 400": lambda answer: answer | {"status": 400},
    "with 401": lambda answer: answer | {"status": 401},
    "with 404": lambda answer: answer | {"status": 404},
}


async def asked(webhook, action):
    """The answer to one action."""
    match action:
        case "start":
            return await webhook.start(PROMPT)
        case "poll":
            return await webhook.wait(PROMPT, await webhook.start(PROMPT))
        case "verify":
            return await webhook.verify(PROMPT, Secret(b"123456"), None)
    return await webhook.health()


@pytest.mark.parametrize("action", ["start", "poll", "verify", "health"])
@pytest.mark.parametrize("forgery", list(FORGED))
async def test_A25_a_forged_approval_is_none(tmp_path, forgery, action):
    async with Using(tmp_path, takes_codes=True) as (there, webhook):
        there.says = {action: APPROVED | {"ok": True}}
        there.forge = lambda answer: FORGED[forgery](answer) if answer["action"] == action else answer
        with down(FactorDown, "webhook: "):
            await asked(webhook, action)
        assert there.actions()[-1] == action
        assert len(there.actions()) == (2 if action == "poll" else 1)


async def test_A25_an_approval_that_is_replayed_is_none(tmp_path):
    """The answer to an earlier poll of the same transaction, octet for octet, and one to an earlier start."""
    async with Using(tmp_path) as (there, webhook):
        kept = []

        def record(answer):
            kept.append(answer)
            return answer

        there.says, there.forge = {"poll": APPROVED}, record
        waiting = await webhook.start(PROMPT)
        assert await webhook.wait(PROMPT, waiting) == Allowed("push")
        there.forge = lambda _: kept[1]
        with down(FactorDown, "another request's"):
            await webhook.wait(PROMPT, waiting)
        there.forge = lambda answer: kept[1] | {"nonce": answer["nonce"]}  # but signed for the other transaction
        with down(FactorDown, "another request's"):
            await webhook.start(PROMPT)


async def test_A25_our_own_request_is_no_answer(tmp_path):
    """A mirror that sends back what it gets, with our own signature."""
    async with Using(tmp_path) as (there, webhook):

        def mirror(answer):
            request = there.requests[-1]
            stamps = {name: request.headers[f"x-ldapmfa-{name}"] for name in ("timestamp", "signature")}
            return answer | stamps | {"sent": request.body}

        there.forge = mirror
        with down(FactorDown, "signs its answer"):
            await webhook.health()


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"approved": True},
        {"state": "approved"},
        {"approved": "true", "state": "approved"},
        {"approved": "false", "state": "approved"},
        {"approved": 1, "state": "approved"},
        {"approved": None, "state": "approved"},
        {"approved": [True], "state": "approved"},
        {"approved": False, "state": "approved"},
        {"approved": True, "state": "pending"},
        {"approved": True, "state": "denied"},
        {"approved": True, "state": ["approved"]},
        {"approved": True, "state": "Approved"},
        {"approved": True, "state": "approved "},
        {"approved": True, "state": "approved", "how": 1},
        {"approved": True, "state": "approved", "how": "two words"},
        {"approved": True, "state": "approved", "how": None},
        {"approved": True, "state": "approved", "detail": {}},
        {"approved": False, "state": "unheard-of"},
        {"error": "the database is gone"},
        [APPROVED],
        True,
        "approved",
        b"",
        b"OK",
        b'{"approved": true, "state": "approved"',
        b'{"approved": true, "state": "approved"} ,',
        b'{"approved": false, "approved": true, "state": "approved"}',
        b'{"approved": true, "state": "denied", "state": "approved"}',
        json.dumps(APPROVED).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(APPROVED).encode(),
        b'{"approved": true, "state": "approved", "detail": "\xff"}',
        b"[" * 100_000,
    ],
    ids=lambda said: repr(said)[:50],
)
@pytest.mark.parametrize("action", ["start", "poll", "verify"])
async def test_A25_only_an_explicit_yes_is_one(tmp_path, action, said):
    async with Using(tmp_path, takes_codes=True) as (there, webhook):
        there.says = {action: [said]}
        with down(FactorDown, "webhook"):
            await asked(webhook, action)


@pytest.mark.parametrize(
    ("action", "state"),
    [("start", "wrong-code"), ("poll", "code-sent"), ("poll", "replayed-code"), ("verify", "pending"), ("verify", "code-sent")],
)
async def test_A25_a_state_has_its_place(tmp_path, action, state):
    async with Using(tmp_path, takes_codes=True) as (there, webhook):
        there.says = {action: {"approved": False, "state": state}}
        with down(FactorDown, f'the state "{state}"'):
            await asked(webhook, action)


@pytest.mark.parametrize("seconds", [0, -1, 3601, 1.5, True, "60", None])
async def test_a_code_is_good_for_whole_seconds(tmp_path, seconds):
    async with Using(tmp_path) as (there, webhook):
        there.says = {"start": {"approved": False, "state": "code-sent", "seconds": seconds}}
        with down(FactorDown, "seconds"):
            await webhook.start(PROMPT)


@pytest.mark.parametrize("handle", [{}, {"transaction": ""}, {"transaction": "../start"}, {"transaction": f"{OTHER}\n"}])
async def test_A25_what_was_kept_of_a_code_must_be_ours(tmp_path, handle):
    async with Using(tmp_path) as (there, webhook):
        with down(FactorDown, "none of ours"):
            await webhook.verify(PROMPT, Secret(b"123456"), CodeSent(handle))
        assert there.asked == []


async def test_A25_another_secret_is_another_program(tmp_path):
    async with Using(tmp_path, secret_there=b"x" * 32) as (there, webhook):
        there.says = {"start": APPROVED}
        with down(FactorDown, "compare the secret"):
            await webhook.start(PROMPT)


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
@pytest.mark.parametrize("action", ["start", "verify", "health"])
async def test_A25_a_bad_certificate_ends_it(tmp_path, action, certificate):
    async with Using(tmp_path, certificate=certificate, takes_codes=True) as (there, webhook):
        there.says = {action: APPROVED}
        with down(FactorDown, "certificate"):
            await asked(webhook, action)
        assert there.asked == []


# -- A24: what opens, and what does not


async def to(url, **settings):
    """A webhook at `url`."""
    return Webhook(WebhookTable(**GOOD | {"url": url, "connect_timeout": 0.1, "response_timeout": 0.1} | settings), Tools())


async def test_A24_only_an_outage_at_the_start_opens(tmp_path):
    with nobody() as port:
        webhook = await to(f"http://127.0.0.1:{port}")
        with down(FactorUnreachable, "can't be connected"):
            await webhook.start(PROMPT)
        await webhook.close()
    async with Using(tmp_path) as (there, webhook):
        there.disturb("status", status=503)
        with down(FactorUnreachable, "503"):
            await webhook.start(PROMPT)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("slow", {}),
        ("broken", {}),
        ("cut", {}),
        ("status", {"status": 504}),
        ("status", {"status": 429}),
        ("status", {"status": 400}),
        ("status", {"status": 401}),
        ("status", {"status": 403}),
        ("status", {"status": 404}),
        ("garbage", {}),
        ("huge", {}),
        ("redirect", {}),
        ("nonsense", {}),
    ],
    ids=str,
)
async def test_A24_nothing_else_opens(tmp_path, kind, options):
    async with Using(tmp_path, response_timeout=0.1) as (there, webhook):
        there.disturb(kind, **options)
        with down(FactorDown, "webhook"):
            await webhook.start(PROMPT)


@pytest.mark.parametrize("kind", ["slow", "broken", "status"])
async def test_A24_a_code_that_was_asked_for_never_opens(tmp_path, kind):
    async with Using(tmp_path, response_timeout=0.1, takes_codes=True) as (there, webhook):
        there.disturb(kind, **{"status": 503, "headers": {"Retry-After": "9"}} if kind == "status" else {})
        with down(FactorDown, "webhook") as caught:
            await webhook.verify(PROMPT, Secret(b"123456"), None)
        assert caught.value.retry_after == (9 if kind == "status" else None)
    with nobody() as port:
        webhook = await to(f"http://127.0.0.1:{port}", takes_codes=True)
        with down(FactorDown, "webhook"):
            await webhook.verify(PROMPT, Secret(b"123456"), None)
        await webhook.close()


async def test_A24_who_never_answers_may_have_asked():
    with deaf() as port:
        webhook = await to(f"http://127.0.0.1:{port}")
        with down(FactorDown, "did not answer in time"):
            await webhook.start(PROMPT)
        with down(FactorUnreachable, "did not answer in time"):
            await webhook.health()
        await webhook.close()


@pytest.mark.parametrize("kind", ["redirect", "huge", "garbage"])
async def test_A24_what_is_explicit_ends_a_wait(tmp_path, kind):
    async with Using(tmp_path) as (there, webhook):
        waiting = await webhook.start(PROMPT)
        there.disturb(kind)
        with down(FactorDown, "webhook"):
            await webhook.wait(PROMPT, waiting)


async def test_no_secret_and_no_code_is_in_an_exception(tmp_path):
    async with Using(tmp_path, takes_codes=True) as (there, webhook):
        there.disturb("garbage", body=b"123456 " + SECRET)
        with pytest.raises(FactorDown) as caught:
            await webhook.verify(PROMPT, Secret(b"123456"), None)
        text = repr(caught.getrepr(style="short", showlocals=False)) + repr(caught.value)
        assert SECRET.decode() not in text
        assert "123456" not in repr(caught.value)


# -- the settings


def load(tmp_path, table):
    file = tmp_path / "ldapmfa.toml"
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    file.write_text(
        '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n[directory]\nuris = ["ldap://127.0.0.1"]\n'
        '[store]\nurl = "sqlite:///state.db"\nkey_file = "store.key"\n'
        f'[login]\nfactors = ["webhook"]\n[factors.webhook]\n{lines}\n'
    )
    (tmp_path / "store.key").write_text("")
    return config.load(file).factors["webhook"]


def test_the_least_that_must_be_set(tmp_path):
    table = load(tmp_path, GOOD)
    assert isinstance(table, WebhookTable)
    assert table.fail_mode == "closed"
    assert SECRET.decode() not in repr(table)
    webhook = Webhook(table, Tools())
    assert tuple(webhook.methods) == ("push",)
    assert (webhook.takes_codes, webhook.wants_password) == (False, False)


def test_a_secret_in_a_file_may_end_a_line(tmp_path):
    (tmp_path / "webhook.secret").write_bytes(SECRET + b"\n")
    table = load(tmp_path, {"url": GOOD["url"], "secret_file": "webhook.secret"})
    assert Webhook(table, Tools())._key == Secret(SECRET)


@pytest.mark.parametrize(
    "url",
    [
        "http://approve.example.com/",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1/",
        "https://",
        "ftp://127.0.0.1/",
        "https://user:password@example.com/",
        "https://example.com/?a=b",
        "https://example.com/#a",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://exam ple.com/",
        "https://[::1/",
        "example.com",
        "",
    ],
)
def test_a_url_that_would_not_do_is_refused(tmp_path, url):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD | {"url": url})
    assert [mistake for mistake in caught.value.mistakes if "factors.webhook.url" in mistake]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8099", "http://[::1]:8099/", "http://localhost/x", "https://a.example:8443/x/"])
def test_clear_text_is_for_this_machine(tmp_path, url):
    assert load(tmp_path, GOOD | {"url": url}).url == url.rstrip("/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secret": "x" * 31}, "shorter than 32"),
        ({"secret": ""}, "shorter than 32"),
        ({"secret": None}, "give one"),
        ({"secret_file": "long"}, "keep one"),
        ({"secret": None, "secret_file": "short"}, "shorter than 32"),
        ({"secret": None, "secret_file": "missing"}, "does not exist"),
        ({"url": "http://127.0.0.1", "proxy": "http://proxy.example.com:3128"}, "where there is a proxy"),
        ({"methods": ["Push!"]}, "small letters"),
        ({"poll_seconds": 0}, "poll_seconds"),
        ({"hold_seconds": 301}, "hold_seconds"),
        ({"takes_codes": "yes"}, "takes_codes"),
        ({"verify_certificate": False}, "verify_certificate"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_mistake_in_the_table_is_told(tmp_path, change, words):
    (tmp_path / "long").write_bytes(SECRET)
    (tmp_path / "short").write_bytes(b"x" * 31 + b"\r\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {name: value for name, value in (GOOD | change).items() if value is not None})
    assert words in str(caught.value)
    assert "x" * 31 not in str(caught.value)


def test_a_short_secret_is_refused_however_it_comes():
    with pytest.raises(ValueError, match="shorter than 32"):
        Webhook(WebhookTable(**GOOD | {"secret": "x" * 31}), Tools())


# -- the vectors that are published, and the example


def vectors():
    """The tables of the reference page: what is signed, and the signature."""
    page = (ROOT / "docs/reference/webhook.md").read_text(encoding="utf-8").partition("## Test vectors")[2]
    secret = re.search(r"secret is `([^`]+)`", page)[1]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| `(\d+)` \| `(\w+)` \| `(\w+)` \| `([^`]*)` \| `(\w+)` \|$", page, re.MULTILINE)
    return [(secret, *row) for row in rows]


def test_there_are_vectors_of_every_action():
    assert {(direction, action) for _, direction, action, *_ in vectors()} == {
        (direction, action)
        for direction in ("request", "answer")
        for action in ("start", "poll", "verify", "cancel", "health")
    }


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: "-".join(vector[1:3]))
def test_a_vector_of_the_reference_page_is_right(vector):
    secret, direction, action, timestamp, nonce, transaction, body, given = vector
    stamps = (timestamp, nonce, transaction)
    assert signature(Secret(secret.encode()), direction, action, stamps, body.encode()) == given
    lines = [b"ldapmfa-webhook-1", *(part.encode() for part in (direction, action, *stamps, body))]
    assert hmac.new(secret.encode(), b"\n".join(lines), hashlib.sha256).hexdigest() == given


class Example:
    """conf/webhook/server.py as somebody would run it."""

    def __init__(self, tmp_path):
        (tmp_path / "webhook.secret").write_bytes(SECRET + b"\n")
        self._arguments = [sys.executable, ROOT / "conf/webhook/server.py", tmp_path / "webhook.secret", "0"]

    def __enter__(self):
        pipe = subprocess.PIPE
        self._program = subprocess.Popen(self._arguments, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.url = self.shown().rpartition(" ")[2] or "http://127.0.0.1"  # it has ended
        self.webhook = Webhook(WebhookTable(**GOOD | {"url": self.url}), Tools())
        return self

    def shown(self):
        return self._program.stdout.readline().rstrip("\n")

    def press(self, text):
        self._program.stdin.write(f"{text}\n")
        self._program.stdin.flush()

    def __exit__(self, *_):
        self._program.kill()
        self._program.communicate()


async def test_the_example_approves_and_refuses(tmp_path):
    with Example(tmp_path) as example:
        webhook = example.webhook
        assert await webhook.health() == "it answers, and has our secret"
        for number, (key, answer) in enumerate(
            [("y", Allowed("push")), ("n", Denied("denied")), ("f", Denied("fraud"))], 1
        ):
            waiting = await webhook.start(PROMPT)
            assert example.shown() == f"{number} 'alice' wants to sign in to vpn from 192.0.2.1"
            for nonsense in ("nonsense", "99 y", f"{number} what?", f"{number}"):
                example.press(nonsense)
                assert example.shown() == "type a number and y, n or f, as in: 1 y"
            example.press(f"{number} {key}")
            assert await webhook.wait(PROMPT, waiting) == answer
        await webhook.close()


async def test_the_example_forgets_who_left_and_who_was_late(tmp_path):
    with Example(tmp_path) as example:
        webhook = example.webhook
        waiting = await webhook.start(PROMPT)
        await webhook.cancel(PROMPT, waiting)
        example.press("1 y")
        assert await webhook.wait(PROMPT, waiting) == Denied("denied")
        late = await webhook.start(Prompt(ALICE, "alice", "vpn", seconds=1))
        assert await webhook.wait(PROMPT, late) == Denied("no-answer")
        example.press("2 y")
        assert await webhook.wait(PROMPT, late) == Denied("no-answer")
        assert await webhook.wait(PROMPT, Waiting(OTHER)) == Denied("no-answer")
        with down(FactorDown, "404"):
            await webhook.verify(PROMPT, Secret(b"123456"), CodeSent({"transaction": late.handle}))
        await webhook.close()


async def test_A25_the_example_takes_no_request_twice_nor_unsigned_nor_old(tmp_path):
    with Example(tmp_path) as example:
        now, body, sent = int(time.time()), b"{}", []

        def headers(action="health", direction="request", timestamp=now, secret=SECRET):
            stamps = (str(timestamp), f"{len(sent):032x}", OTHER)
            sent.append(stamps)
            names = ("Timestamp", "Nonce", "Transaction", "Signature")
            values = (*stamps, signature(Secret(secret), direction, action, stamps, body))
            return {f"X-Ldapmfa-{name}": value for name, value in zip(names, values, strict=True)}

        async with httpx.AsyncClient(trust_env=False) as client:

            async def status(given, content=body):
                return (await client.post(f"{example.url}/health", headers=given, content=content)).status_code

            once = headers()
            assert [await status(once), await status(once)] == [200, 401]
            assert await status(headers(), b"{ }") == 401
            assert await status(headers(action="start")) == 401
            assert await status(headers(direction="answer")) == 401
            assert await status(headers(timestamp=now - 310)) == 401
            assert await status(headers(timestamp=now + 310)) == 401
            assert await status(headers(secret=b"y" * 32)) == 401
            assert await status({}) == 401
            assert await status(headers()) == 200
        await example.webhook.close()


def test_the_example_is_short():
    """Without imports, documentation, blank lines, and the loop that reads the terminal."""
    text = (ROOT / "conf/webhook/server.py").read_text(encoding="utf-8")
    body = text.partition("from pathlib import Path\n")[2].partition('if __name__ == "__main__":')[0]
    lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(lines) <= 50
