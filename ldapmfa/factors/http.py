"""HTTP for services: one client a service, and what its failures mean.

Promised here: certificates and host names are verified, by the system's authorities or the table's `ca_file`; a
redirect is not followed; no more than `LARGEST` octets are read; neither a URL with its query nor a body is part of any
exception or of httpx's log. No thread. Nothing is taken from the environment: a proxy is named in the table.

What can't have reached the service (its name, a connection), and a 5xx but 504, is FactorUnreachable. A request of
which it is not known what became (no answer in time, a connection cut, 504) is FactorDown, unless it `asks_nobody`:
then it is FactorUnreachable too. A certificate that is not accepted, a redirect, a 429 and garbage are FactorDown.
"""
# ruff: noqa: A005 - nothing here or near it wants the standard library's http

from __future__ import annotations

import asyncio
import errno
import json
import logging
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, cast

import httpx

from ldapmfa import __version__
from ldapmfa.errors import FactorDown, FactorUnreachable

if TYPE_CHECKING:
    from ldapmfa.config import HttpTable
    from ldapmfa.factors.service import Tools

#: Octets of an answer that are read.
LARGEST: Final = 1 << 20
#: Seconds for which a connection is kept although nobody uses it.
KEPT_SECONDS: Final = 30.0
#: Seconds for which a request waits for its turn, if all connections are in use or too many are being opened.
TURN_SECONDS: Final = 60.0
#: Connections that are opened at once: handshakes cost us milliseconds each, and must not look like an outage.
OPENING: Final = 64
#: How RemoteProtocolError begins where the connection was closed, rather than something said that is no HTTP.
_CUT: Final = ("Server disconnected", "peer closed connection")
#: What the ssl module raises, and is no mistake of TLS: more is waited for, or the connection is cut.
_NOT_TLS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLZeroReturnError, ssl.SSLEOFError)
#: Failures to connect that are this machine's fault, and no outage of the service.
_OUR_OWN: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM)
)
_OK, _REDIRECT, _TOO_MANY, _BROKEN, _GATEWAY_TIMEOUT = 200, 300, 429, 500, 504


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status below 500 that is no redirect, and 429 only if that was asked for.

    `retry_after`: the seconds for which the service wants to be left alone, if it says so.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    retry_after: float | None = None

    def json(self, name: str) -> dict[str, Any]:
        """The object in the body; `name` is the service's. FactorDown: it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise FactorDown(f"{name}: the answer ({self.status}) is not JSON") from None
        if not isinstance(value, dict):
            raise FactorDown(f"{name}: the answer ({self.status}) is not a JSON object")
        return cast("dict[str, Any]", value)


class Http:
    """The client of one service, called `name` in what is raised."""

    def __init__(self, name: str, table: HttpTable, tools: Tools) -> None:
        self._name = name
        self._table = table
        self._tools = tools
        self._opened: httpx.AsyncClient | None = None

    def _client(self) -> httpx.AsyncClient:
        if self._opened is None:
            table = self._table
            context = ssl.create_default_context(cafile=table.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            for logger in ("httpx", "httpcore"):  # they would log URLs, and httpcore headers too
                logging.getLogger(logger).setLevel(logging.WARNING)
            self._opened = httpx.AsyncClient(
                transport=Connections(context, table.proxy, table.connections),
                trust_env=False,
                follow_redirects=False,
                # one user's session must not become another's
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"User-Agent": f"ldapmfa/{__version__}"},
            )
        return self._opened

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seconds: float | None = None,
        asks_nobody: bool = False,
        passes: Collection[int] = (),
    ) -> Reply:
        """The answer to a request, awaited for `seconds` (else the table's `response_timeout`).

        `passes`: 429, if the caller wants to see what such an answer says.
        """
        table, name = self._table, self._name
        seconds = seconds or table.response_timeout
        timeout = httpx.Timeout(seconds, connect=table.connect_timeout, pool=TURN_SECONDS)
        try:
            request = self._client().build_request(
                method, url, headers=dict(headers or {}), content=body, timeout=timeout
            )
            async with asyncio.timeout(None) as limit:

                def begun() -> None:
                    # httpx's own limit begins again with each octet that arrives
                    limit.reschedule(asyncio.get_running_loop().time() + table.connect_timeout + seconds)

                request.extensions["begun"] = begun
                answer = await self._client().send(request, stream=True)
                try:
                    octets = await self._read(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise self._failure(httpx.ReadTimeout(""), asks_nobody=asks_nobody) from None
        except httpx.HTTPError as error:
            raise self._failure(error, asks_nobody=asks_nobody) from None
        except (httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise FactorDown(f"{name}: {type(error).__name__}") from None
        return self._checked(answer, octets, asks_nobody=asks_nobody, passes=passes)

    async def _read(self, answer: httpx.Response) -> bytes:
        octets = bytearray()
        async for part in answer.aiter_bytes():
            octets += part
            if len(octets) > LARGEST:
                raise FactorDown(f"{self._name}: the answer is longer than {LARGEST} octets")
        return bytes(octets)

    def _failure(self, error: httpx.HTTPError, *, asks_nobody: bool) -> FactorDown:
        """What became of a request that got no answer."""
        name = self._name
        if _is_tls(error):
            what = f"{name}: its TLS certificate is not accepted, or TLS failed: {_tls_words(error)}"
            return FactorDown(what, asked=False)
        if any(getattr(cause, "errno", None) in _OUR_OWN for cause in _causes(error)):
            what = f"{name}: no connection can be opened from here: out of descriptors, memory or ports"
            return FactorDown(what, asked=False)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return FactorUnreachable(f"{name}: can't be connected to ({_why(error)})")
        if isinstance(error, httpx.PoolTimeout):
            return FactorDown(f"{name}: no connection came free in time", asked=False)
        if isinstance(error, httpx.TimeoutException):
            what = f"{name}: did not answer in time"
            return FactorUnreachable(what) if asks_nobody else FactorDown(what)
        cut = isinstance(error, httpx.NetworkError) or str(error).startswith(_CUT)
        what = f"{name}: the connection was cut" if cut else f"{name}: {type(error).__name__}"
        return FactorUnreachable(what) if asks_nobody and cut else FactorDown(what)

    def _checked(self, answer: httpx.Response, body: bytes, *, asks_nobody: bool, passes: Collection[int]) -> Reply:
        name, status = self._name, answer.status_code
        if status >= _BROKEN:
            # a gateway that has lost patience says nothing of what became of the request
            kind = FactorDown if status == _GATEWAY_TIMEOUT and not asks_nobody else FactorUnreachable
            raise kind(f"{name}: answers {status}", retry_after=self._retry_after(answer), asked=not asks_nobody)
        if status == _TOO_MANY and status not in passes:
            what = f"{name}: too many requests ({status})"
            raise FactorDown(what, retry_after=self._retry_after(answer), asked=not asks_nobody)
        if status < _OK or _REDIRECT <= status < _REDIRECT + 100:
            raise FactorDown(f"{name}: answers {status}: a redirect is not followed", asked=not asks_nobody)
        return Reply(status, answer.headers, body, self._retry_after(answer))

    def _retry_after(self, answer: httpx.Response) -> float | None:
        """Seconds that the service wants to be left alone (RFC 9110 section 10.2.3), if it says so."""
        said = answer.headers.get("Retry-After") or answer.headers.get("X-Retry-After")
        if not said:
            return None
        if said.isascii() and said.isdigit():
            return float(said)
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - self._tools.now())
        except (ValueError, OverflowError):
            return None

    async def close(self) -> None:
        """Let go of all connections."""
        opened, self._opened = self._opened, None
        if opened:
            await opened.aclose()


class Connections(httpx.AsyncBaseTransport):
    """Up to `limit` connections, each in a pool of its own; the one that was used last is used next.

    httpcore's pool looks at all its connections whenever a request begins or ends, for each idle one at all of them
    again, and keeps none while many are in use: a thousand users who are asked at once would stop the process.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None, limit: int) -> None:
        self._context = context
        self._proxy = proxy
        self._room = asyncio.Semaphore(limit)
        self._opening = asyncio.Semaphore(OPENING)
        self._closed = False
        self._free: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()  # since when; the oldest first

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` on a connection of its own; PoolTimeout: all were in use for as long as it may take."""
        try:
            async with asyncio.timeout(request.extensions["timeout"]["pool"]):
                connection, opening = await self._turn()
        except TimeoutError:
            raise httpx.PoolTimeout("", request=request) from None
        with opening:

            streams: list[Any] = []  # below TLS that is being agreed on: cancelled then, httpcore forgets them

            async def trace(event: str, told: Mapping[str, Any]) -> None:
                if event.endswith("connect_tcp.complete"):
                    streams.append(told["return_value"])
                elif event.endswith("send_request_headers.started"):
                    opening.close()  # there is a connection
                    streams.clear()

            request.extensions["trace"] = trace
            request.extensions["begun"]()
            try:
                answer = await connection.handle_async_request(request)
            except BaseException:
                for stream in streams:
                    with suppress(Exception):
                        await stream.aclose()
                await self._give_up(connection)
                raise
        stream = cast("httpx.AsyncByteStream", answer.stream)
        answer.stream = _Stream(stream, partial(self._release, connection), partial(self._give_up, connection))
        return answer

    async def _turn(self) -> tuple[httpx.AsyncHTTPTransport, ExitStack]:
        """A connection, and what to close as soon as it is open."""
        opening = ExitStack()
        await self._room.acquire()
        try:
            if not self._free:
                await self._opening.acquire()
                opening.callback(self._opening.release)
        except BaseException:
            self._room.release()
            raise
        return self._free.pop()[1] if self._free else self._new(), opening

    def _new(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=KEPT_SECONDS)
        return httpx.AsyncHTTPTransport(verify=self._context, proxy=self._proxy, trust_env=False, limits=limits)

    async def _release(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Keep the connection for the next request, and close those for which there was none."""
        now = time.monotonic()
        self._free.append((now, connection))
        self._room.release()
        while self._free and (self._closed or self._free[0][0] < now - KEPT_SECONDS):
            await self._free.popleft()[1].aclose()

    async def _give_up(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Close what was not used to the end: cancelled, it may count itself as in use for ever."""
        self._room.release()
        await connection.aclose()

    async def aclose(self) -> None:
        """Close the connections, those that are in use as soon as they are not."""
        self._closed = True
        while self._free:
            await self._free.pop()[1].aclose()


class _Stream(httpx.AsyncByteStream):
    """The body of an answer, whose connection is in use until it is closed: kept then, if all of it was read."""

    def __init__(
        self, stream: httpx.AsyncByteStream, keep: Callable[[], Awaitable[None]], give_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._stream = stream
        self._keep = keep
        self._give_up = give_up
        self._whole = self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        self._whole = True

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._stream.aclose()
        except BaseException:
            self._whole = False
            raise
        finally:
            await (self._keep() if self._whole else self._give_up())


def _why(error: BaseException) -> str:
    """What the system says of a connection that can't be made."""
    said = [cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    return said[-1] if said else type(error).__name__


def _is_tls(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) and not isinstance(cause, _NOT_TLS) for cause in _causes(error))


def _tls_words(error: BaseException) -> str:
    """What OpenSSL says of it; it holds names of certificates, and nothing of a request."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _NOT_TLS):
            return cause.reason or "TLS"
    return "TLS"


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
