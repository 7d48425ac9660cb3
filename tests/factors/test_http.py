"""The HTTP client of services: what its failures mean, and that a crowd does not slow it down."""

import asyncio
import contextlib
import email.utils
import logging
import ssl

import pytest
from fakes.web import Web, as_json, deaf, nobody

from ldapmfa.config.tables import HttpTable
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.http import Http
from ldapmfa.factors.service import Tools


async def hello(request):
    return as_json({"path": request.path, "query": request.query})


@contextlib.asynccontextmanager
async def client(tmp_path, answer=hello, *, certificate="", now=0.0, **table):
    async with Web(tmp_path, answer, certificate=certificate) as web:
        http = Http("test", HttpTable(**{"kind": "test", "ca_file": str(web.ca_file), **table}), Tools(now=lambda: now))
        try:
            yield http, web
        finally:
            await http.close()


async def test_an_answer_is_its_status_headers_and_body(tmp_path):
    async with client(tmp_path) as (http, web):
        reply = await http.send("GET", f"{web.url}/a?b=c%20d")
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        assert reply.json("test") == {"path": "/a", "query": "b=c%20d"}


async def test_what_is_sent_is_what_was_given(tmp_path):
    async with client(tmp_path) as (http, web):
        await http.send("POST", f"{web.url}/a", headers={"Content-Type": "text/x"}, body=b"\0\xff")
        (request,) = web.requests
        assert (request.method, request.body, request.headers["content-type"]) == ("POST", b"\0\xff", "text/x")
        assert request.headers["user-agent"].startswith("ldapmfa/")
        assert "cookie" not in request.headers


#: kind, options, the failure of a request that asks nobody, and of one that may have asked
FAILURES = [
    ("slow", {}, (FactorUnreachable, FactorDown)),
    ("broken", {}, (FactorUnreachable, FactorDown)),
    ("cut", {}, (FactorUnreachable, FactorDown)),
    ("nonsense", {}, (FactorDown, FactorDown)),
    ("status", {"status": 500}, (FactorUnreachable, FactorUnreachable)),
    ("status", {"status": 502}, (FactorUnreachable, FactorUnreachable)),
    ("status", {"status": 504}, (FactorUnreachable, FactorDown)),
    ("status", {"status": 429}, (FactorDown, FactorDown)),
    ("redirect", {}, (FactorDown, FactorDown)),
    ("huge", {}, (FactorDown, FactorDown)),
]


@pytest.mark.parametrize("asks_nobody", [True, False])
@pytest.mark.parametrize(("kind", "options", "meaning"), FAILURES)
async def test_A24_what_each_failure_means(tmp_path, kind, options, meaning, asks_nobody):
    async with client(tmp_path) as (http, web):
        web.disturb(kind, **options)
        with pytest.raises(FactorDown) as caught:
            await http.send("GET", f"{web.url}/secret?secret", seconds=0.2, asks_nobody=asks_nobody)
        assert type(caught.value) is meaning[not asks_nobody]
        assert "secret" not in repr(caught.value)
        assert len(web.requests) == 1


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
async def test_A24_a_certificate_that_is_not_accepted_is_down(tmp_path, certificate):
    async with client(tmp_path, certificate=certificate) as (http, web):
        with pytest.raises(FactorDown, match="certificate") as caught:
            await http.send("GET", web.url, asks_nobody=True)
        assert type(caught.value) is FactorDown
        assert web.requests == []


async def test_A24_without_a_ca_file_only_the_systems_authorities_count(tmp_path):
    async with client(tmp_path, ca_file=None) as (http, web):
        with pytest.raises(FactorDown, match="certificate"):
            await http.send("GET", web.url)


@pytest.mark.parametrize("asks_nobody", [True, False])
@pytest.mark.parametrize("port", [nobody, deaf])
async def test_A24_what_can_not_be_connected_to_is_unreachable(tmp_path, port, asks_nobody):
    async with client(tmp_path, connect_timeout=0.1) as (http, _):
        with port() as number, pytest.raises(FactorUnreachable):
            await http.send("GET", f"https://localhost:{number}/", asks_nobody=asks_nobody)


async def test_A24_a_name_that_does_not_exist_is_unreachable(tmp_path):
    async with client(tmp_path) as (http, _):
        with pytest.raises(FactorUnreachable):
            await http.send("GET", "https://no-such-host.invalid/")


async def test_A24_an_answer_that_trickles_is_given_up(tmp_path):
    async def trickle(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with client(tmp_path, connect_timeout=0.05) as (http, _):
        with pytest.raises(FactorDown, match="in time"):
            await http.send("GET", f"http://localhost:{server.sockets[0].getsockname()[1]}/", seconds=0.1)
    server.close()


@pytest.mark.parametrize(
    ("header", "said", "seconds"),
    [
        ("Retry-After", "7", 7.0),
        ("X-Retry-After", "7", 7.0),
        ("Retry-After", email.utils.formatdate(1060, usegmt=True), 60.0),
        ("Retry-After", email.utils.formatdate(10, usegmt=True), 0.0),
        ("Retry-After", "soon", None),
        ("Retry-After", "-7", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_it_is_left_alone_as_long_as_it_says(tmp_path, header, said, seconds, status):
    async with client(tmp_path, now=1000.0) as (http, web):
        web.disturb("status", status=status, headers={header: said})
        with pytest.raises(FactorDown) as caught:
            await http.send("GET", web.url)
        assert caught.value.retry_after == seconds


async def test_who_asks_for_it_sees_what_a_429_says(tmp_path):
    async with client(tmp_path) as (http, web):
        web.disturb("status", status=429, headers={"Retry-After": "7"}, body=b"x")
        reply = await http.send("GET", web.url, passes=(429,))
        assert (reply.status, reply.body, reply.retry_after) == (429, b"x", 7.0)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"{", b"\xff", b"[" * 100_000])
async def test_what_is_no_object_is_garbage(tmp_path, body):
    async with client(tmp_path) as (http, web):
        web.disturb("garbage", body=body)
        reply = await http.send("GET", web.url)
        with pytest.raises(FactorDown, match="JSON"):
            reply.json("test")


async def test_the_environment_names_no_proxy(tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    async with client(tmp_path) as (http, web):
        assert (await http.send("GET", web.url)).status == 200


async def test_a_proxy_is_used_where_one_is_named(tmp_path):
    """It is asked for a tunnel, through which TLS is ours and the service's."""
    asked = []

    async def tunnel(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        there = await asyncio.open_connection("127.0.0.1", asked[0].partition(b":")[2].split(b" ")[0])
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def copy(source, sink):
            with contextlib.suppress(ConnectionError):
                while octets := await source.read(65536):
                    sink.write(octets)
            sink.close()

        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client(tmp_path, proxy=f"http://127.0.0.1:{port}") as (http, web):
        assert (await http.send("GET", web.url)).status == 200
        assert asked == [f"CONNECT localhost:{web.port} HTTP/1.1".encode()]
    server.close()
    await asyncio.sleep(0.05)


async def test_nothing_of_a_request_is_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with client(tmp_path) as (http, web):
        await http.send("GET", f"{web.url}/x?transaction=open-sesame", headers={"Authorization": "Basic open-sesame"})
    assert "open-sesame" not in caplog.text


async def test_a_connection_is_used_again(tmp_path):
    async with client(tmp_path) as (http, web):
        for _ in range(20):
            await http.send("GET", web.url)
        assert (web.connections, web.most_connections) == (1, 1)


async def test_many_at_once_keep_their_connections(tmp_path):
    doors = asyncio.Event()

    async def answer(request):
        if len(web.requests) == 120:
            doors.set()
        await doors.wait()
        return as_json({})

    async with client(tmp_path, answer) as (http, web):
        for _ in range(2):
            await asyncio.gather(*(http.send("GET", web.url) for _ in range(120)))
        assert web.most_connections == web.connections == 120


async def test_only_so_many_connections_are_opened_at_once_and_long_polls_are_no_opening(tmp_path, monkeypatch):
    monkeypatch.setattr("ldapmfa.factors.http.OPENING", 2)
    async with client(tmp_path) as (http, web):
        web.disturb("slow")
        tasks = [asyncio.ensure_future(http.send("GET", web.url, seconds=30)) for _ in range(9)]
        async with asyncio.timeout(20):
            while len(web.requests) < 9:  # noqa: ASYNC110 - the server counts, in this loop
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert http._client()._transport._opening._value == 2


async def test_connections_that_nobody_uses_are_closed(tmp_path, monkeypatch):
    doors = asyncio.Event()

    async def answer(request):
        await doors.wait()
        return as_json({})

    async with client(tmp_path, answer) as (http, web):
        many = [asyncio.ensure_future(http.send("GET", web.url)) for _ in range(5)]
        while web.connections < 5:  # noqa: ASYNC110 - the server counts, in this loop
            await asyncio.sleep(0.01)
        doors.set()
        await asyncio.gather(*many)
        assert web.connections == 5
        monkeypatch.setattr("ldapmfa.factors.http.KEPT_SECONDS", 0.0)
        await http.send("GET", web.url)
        await asyncio.sleep(0.05)
        assert web.connections <= 1


async def test_a_request_that_is_cancelled_gives_its_connection_back(tmp_path):
    async with client(tmp_path, connections=2) as (http, web):
        for attempt in range(1, 6):
            web.disturb("slow")
            tasks = [asyncio.ensure_future(http.send("GET", web.url)) for _ in range(4)]
            async with asyncio.timeout(20):
                while len(web.requests) < 2 * attempt:  # noqa: ASYNC110 - the server counts, in this loop
                    await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        web.calm()
        assert (await http.send("GET", web.url)).status == 200
        assert http._client()._transport._room._value == 2


async def test_what_is_in_use_while_it_is_closed_is_closed_afterwards(tmp_path):
    async with client(tmp_path) as (http, web):
        web.disturb("slow", seconds=0.1)
        task = asyncio.ensure_future(http.send("GET", web.url))
        await asyncio.sleep(0.05)
        await http.close()
        assert (await task).status == 200
        await asyncio.sleep(0.05)
        assert web.connections == 0


async def test_no_more_connections_than_configured(tmp_path):
    async def answer(request):
        await asyncio.sleep(0.01)
        return as_json({})

    async with client(tmp_path, answer, connections=7, connect_timeout=60) as (http, web):
        replies = await asyncio.gather(*(http.send("GET", web.url) for _ in range(150)))
        assert len(replies) == 150
        assert web.most_connections <= 7


async def test_A24_who_finds_no_connection_free_is_not_told_that_the_service_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr("ldapmfa.factors.http.TURN_SECONDS", 0.1)
    async with client(tmp_path, connections=1) as (http, web):
        web.disturb("slow")
        first = asyncio.ensure_future(http.send("GET", web.url, seconds=5))
        await asyncio.sleep(0.05)
        with pytest.raises(FactorDown, match="came free") as caught:
            await http.send("GET", web.url, asks_nobody=True)
        assert type(caught.value) is FactorDown
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        web.calm()
        assert (await http.send("GET", web.url)).status == 200


async def test_old_versions_of_tls_are_not_spoken(tmp_path):
    async with client(tmp_path) as (http, web):
        web._tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            web._tls.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(FactorDown):
            await http.send("GET", web.url)
        assert web.requests == []


async def test_it_can_be_used_again_after_it_was_closed(tmp_path):
    async with client(tmp_path) as (http, web):
        await http.send("GET", web.url)
        await http.close()
        assert (await http.send("GET", web.url)).status == 200


async def test_no_cookie_of_one_user_goes_with_anothers_request(tmp_path):
    async def answer(_request):
        return 200, {"Set-Cookie": "session=of-alice; Path=/", "Content-Type": "application/json"}, b"{}"

    async with client(tmp_path, answer) as (http, web):
        for _ in range(3):
            await http.send("POST", f"{web.url}/start", body=b"{}")
        assert not any("cookie" in request.headers for request in web.requests)
