"""The page that asks in the demo: as a service, over real HTTP, and pressed by somebody else's page."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from ldapmfa.config import ServiceTable
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.demo.approval import KIND, Phone, served
from ldapmfa.demo.browser import Browser
from ldapmfa.errors import FactorDown
from ldapmfa.factors.service import Allowed, Denied, Prompt, Service, Tools, Waiting

ALICE = Identity("default", "uuid:1", "uid=alice,dc=example,dc=test", accounts=("alice",))
BOB = Identity("default", "uuid:2", "uid=bob,dc=example,dc=test", accounts=("bob",))
PROMPT = Prompt(ALICE, "alice", "demo-app", "127.0.0.1", seconds=5)
SENTENCE = "alice wants to sign in to demo-app from 127.0.0.1"


def made():
    said = []
    phone: Service = Phone(ServiceTable(kind=KIND), Tools(say=said.append))
    return phone


@asynccontextmanager
async def opened():
    """A phone, and a client of its page."""
    from twisted.internet import reactor

    phone = made()
    async with served(phone, reactor) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        yield phone, client


async def asked(phone, prompt=PROMPT):
    waiting = await phone.start(prompt)
    assert isinstance(waiting, Waiting)
    return waiting, asyncio.ensure_future(phone.wait(prompt, waiting))


def fields(page, answer="approve"):
    (token,) = re.findall(r'name="token" value="([^"]+)"', page)
    return {"token": token, "answer": answer}


def origin(client):
    return {"Origin": str(client.base_url).rstrip("/")}


# -- the buttons


@pytest.mark.parametrize(
    ("label", "answer", "told"),
    [
        ("Approve", Allowed("push"), "You approved it."),
        ("Deny", Denied("denied", "Deny was pressed"), "You denied it."),
        ("Report fraud", Denied("fraud", "Report fraud was pressed"), "You reported it as fraud."),
    ],
)
async def test_what_is_pressed_is_answered(label, answer, told):
    async with opened() as (phone, client):
        _, login = await asked(phone)
        await asyncio.sleep(0.01)
        assert not login.done()
        assert await Browser(str(client.base_url)).press(label, login) == SENTENCE
        assert await login == answer
        page = (await client.get("/")).text
        assert "<form" not in page
        assert f"{SENTENCE}: {told}" in page


async def test_the_browser_waits_for_a_question_and_gives_up_with_the_login():
    async with opened() as (_phone, client):
        login = asyncio.get_running_loop().create_future()
        pressing = asyncio.ensure_future(Browser(str(client.base_url)).press("Approve", login))
        await asyncio.sleep(0.05)
        assert not pressing.done()
        login.set_result(None)
        assert await pressing == ""


async def test_each_question_has_its_own_buttons():
    async with opened() as (phone, client):
        _, alices = await asked(phone)
        page = (await client.get("/")).text
        _, bobs = await asked(phone, replace(PROMPT, identity=BOB, user="bob"))
        assert (await client.get("/")).text.count("<form") == 2
        await client.post("/answer", data=fields(page), headers=origin(client))
        assert await alices == Allowed("push")
        await asyncio.sleep(0.01)
        assert not bobs.done()
        bobs.cancel()


async def test_the_page_comes_anew_by_itself_and_less_often_while_there_is_something_to_press():
    async with opened() as (phone, client):
        pause = re.compile(r'http-equiv="refresh" content="(\d+); url=/"')
        (idle,) = pause.findall((await client.get("/")).text)
        _, login = await asked(phone)
        (busy,) = pause.findall((await client.get("/")).text)
        assert int(idle) < int(busy)
        login.cancel()


# -- the service


async def test_A25_an_answer_is_worth_something_once_and_for_its_own_login_alone():
    phone = made()
    waiting, login = await asked(phone)
    with pytest.raises(FactorDown):
        await phone.wait(replace(PROMPT, identity=BOB, user="bob"), waiting)
    assert phone.press(waiting.handle.token, "approve")
    assert not phone.press(waiting.handle.token, "approve")
    assert await login == Allowed("push")
    with pytest.raises(FactorDown):
        await phone.wait(PROMPT, waiting)


async def test_A09_who_leaves_takes_the_question_along():
    phone = made()
    waiting, login = await asked(phone)
    await asyncio.sleep(0)
    login.cancel()
    await asyncio.wait([login])
    assert login.cancelled()
    assert not phone.questions
    assert not phone.press(waiting.handle.token, "approve")
    await phone.cancel(PROMPT, waiting)


async def test_a_question_that_is_taken_back_before_anybody_waits_is_gone():
    phone = made()
    waiting = await phone.start(PROMPT)
    await phone.cancel(PROMPT, waiting)
    assert not phone.questions
    with pytest.raises(FactorDown):
        await phone.wait(PROMPT, waiting)


async def test_nobody_answers_in_time():
    phone = made()
    waiting, login = await asked(phone, replace(PROMPT, seconds=0.02))
    assert await login == Denied("no-answer")
    assert not phone.press(waiting.handle.token, "approve")


async def test_a_question_whose_time_is_over_takes_no_answer():
    phone = made()
    waiting = await phone.start(replace(PROMPT, seconds=0))
    assert not phone.questions
    assert not phone.press(waiting.handle.token, "approve")
    assert await phone.wait(PROMPT, waiting) == Denied("no-answer")


async def test_it_closes_as_broken():
    phone = made()
    _, login = await asked(phone)
    await phone.close()
    with pytest.raises(FactorDown):
        await login


async def test_what_it_can_not_do():
    phone = made()
    for wish in ({"method": "phone"}, {"device": "2"}):
        assert (await phone.start(replace(PROMPT, **wish))).why == "no-method"
    assert (await phone.verify(PROMPT, Secret(b"123456"), None)).why == "wrong-code"
    assert await phone.health()
    assert not phone.questions


async def test_tokens_can_not_be_guessed_and_are_not_shown():
    phone = made()
    waitings = [await phone.start(PROMPT) for _ in range(20)]
    tokens = {waiting.handle.token for waiting in waitings}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 32
    assert not any(token in repr(waitings) for token in tokens)


# -- the page


@pytest.mark.parametrize(
    "host", ["rebound.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.example", "", "127.0.0.2:{port}"]
)
async def test_a_name_that_points_here_is_not_the_page(host):
    async with opened() as (phone, client):
        waiting, login = await asked(phone)
        host = host.format(port=client.base_url.port)
        headers = {"Host": host, "Origin": f"http://{host}"}
        data = {"token": waiting.handle.token, "answer": "approve"}
        for answer in (
            await client.get("/", headers=headers),
            await client.post("/answer", headers=headers, data=data),
        ):
            assert answer.status_code == 421
            assert data["token"] not in answer.text
            assert SENTENCE not in answer.text
        assert phone.questions
        login.cancel()


@pytest.mark.parametrize("hosts", [(), ("127.0.0.1:{port}", "rebound.example"), ("rebound.example", "127.0.0.1:{port}")])
async def test_no_name_or_two_are_not_the_page(hosts):
    async with opened() as (phone, client):
        _, login = await asked(phone)
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = ["GET / HTTP/1.1", *(f"Host: {host.format(port=port)}" for host in hosts), "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode())
        answer = await reader.read()
        assert answer.split()[1] in (b"400", b"421")
        assert SENTENCE.encode() not in answer
        writer.close()
        await writer.wait_closed()
        login.cancel()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}"},
    ],
)
async def test_another_page_can_not_press(headers):
    async with opened() as (phone, client):
        waiting, login = await asked(phone)
        sent = {name: value.format(port=client.base_url.port) for name, value in headers.items()}
        answer = await client.post("/answer", data={"token": waiting.handle.token, "answer": "approve"}, headers=sent)
        assert answer.status_code == 403
        assert phone.questions
        login.cancel()


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"token": "A" * 32}, 410),
        ({"token": ""}, 410),
        ({"token": None}, 410),
        ({"token": "é\0"}, 410),
        ({"answer": "yes"}, 400),
        ({"answer": ""}, 400),
        ({"answer": None}, 400),
        ({"answer": ["deny", "approve"]}, 400),
    ],
)
async def test_a_form_that_is_not_the_pages_presses_nothing(wrong, status):
    async with opened() as (phone, client):
        _, login = await asked(phone)
        data = fields((await client.get("/")).text) | wrong
        data = {name: value for name, value in data.items() if value is not None}
        answer = await client.post("/answer", data=data, headers=origin(client))
        assert answer.status_code == status
        assert phone.questions
        login.cancel()


async def test_a_form_is_good_once():
    async with opened() as (phone, client):
        _, login = await asked(phone)
        data = fields((await client.get("/")).text)
        first = await client.post("/answer", data=data, headers=origin(client))
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert (await client.post("/answer", data=data, headers=origin(client))).status_code == 410
        assert await login == Allowed("push")


@pytest.mark.parametrize("way", ["query", "get", "elsewhere", "put"])
async def test_only_a_form_that_is_sent_presses(way):
    async with opened() as (phone, client):
        _, login = await asked(phone)
        data = fields((await client.get("/")).text)
        request = {
            "query": client.build_request("POST", "/answer", params=data, headers=origin(client)),
            "get": client.build_request("GET", "/answer", params=data, headers=origin(client)),
            "elsewhere": client.build_request("POST", "/", data=data, headers=origin(client)),
            "put": client.build_request("PUT", "/answer", data=data, headers=origin(client)),
        }[way]
        assert (await client.send(request)).status_code == 404
        assert phone.questions
        login.cancel()


async def test_what_a_client_sent_is_text():
    async with opened() as (phone, client):
        hostile = '<script>alert("1")</script>\'&\x1b[31m\u202e'
        _, login = await asked(phone, replace(PROMPT, user=hostile, application=hostile, client=hostile))
        for _ in range(2):
            page = (await client.get("/")).text
            assert "<script" not in page
            assert 'alert("' not in page
            assert not {"\x1b", "\u202e"} & set(page)
            assert page.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#x27;&amp;\\x1b[31m\\u202e") == 3
            phone.press(phone.questions[0].token if phone.questions else "", "deny")
        assert (await login).why == "denied"


async def test_what_browsers_are_told_of_the_page():
    async with opened() as (_phone, client):
        for answer in (await client.get("/"), await client.get("/nowhere"), await client.post("/answer")):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            # no-referrer would make browsers send "Origin: null" with the form
            assert answer.headers["referrer-policy"] == "same-origin"
            policy = answer.headers["content-security-policy"]
            assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"} <= set(policy.split("; "))
            assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_it_listens_on_loopback_alone_and_no_longer_than_it_lasts():
    from twisted.internet import reactor

    phone = made()
    async with served(phone, reactor) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(address)).status_code == 200
            with pytest.raises(httpx.ConnectError):
                await client.get(address.replace("127.0.0.1", "127.0.0.2"))
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(address)
