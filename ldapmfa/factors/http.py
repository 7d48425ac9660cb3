"""HTTP for services: one client a service, and what its failures mean.

Promised here: certificates and host names are verified, by the system's authorities or the table's `ca_file`; a
redirect is not followed; no more than `LARGEST` octets are read; neither a URL with its query nor a body is part of any
exception. No thread. Nothing is taken from the environment: a proxy is named in the table.

What can't have reached the service (its name, a connection), and a 5xx but 504, is FactorUnreachable. A request of which it is
not known what became (no answer in time, a connection cut, 504) is FactorDown, unless it `asks_nobody`: then it is
FactorUnreachable too. A certificate that is not accepted, a redirect, a 429 and garbage are FactorDown.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, cast

import httpx

from ldapmfa import __version__
from ldapmfa.errors import FactorDown, FactorUnreachable

if TYPE_CHECKING:
    from ldapmfa.config import ServiceTable
    from ldapmfa.factors.service import Tools

#: Octets of an answer that are read.
LARGEST: Final = 1 << 20
#: Connections that are kept although nobody uses them, and for how many seconds.
KEPT: Final = 32
KEPT_SECONDS: Final = 30.0
_OK, _REDIRECT, _TOO_MANY, _BROKEN, _GATEWAY_TIMEOUT = 200, 300, 429, 500, 504


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status below 500 that is neither a redirect nor 429."""

    status: int
    headers: Mapping[str, str]
    body: bytes

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

    def __init__(self, name: str, table: ServiceTable, tools: Tools) -> None:
        self._name = name
        self._table = table
        self._tools = tools
        self._opened: httpx.AsyncClient | None = None

    def _client(self) -> httpx.AsyncClient:
        if self._opened is None:
            table = self._table
            context = ssl.create_default_context(cafile=table.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._opened = httpx.AsyncClient(
                verify=context,
                proxy=table.proxy,
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(
                    max_connections=table.connections, max_keepalive_connections=KEPT, keepalive_expiry=KEPT_SECONDS
                ),
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
    ) -> Reply:
        """The answer to a request, awaited for `seconds` (else the table's `response_timeout`)."""
        table, name = self._table, self._name
        timeout = httpx.Timeout(
            seconds or table.response_timeout, connect=table.connect_timeout, pool=table.connect_timeout
        )
        try:
            request = self._client().build_request(
                method, url, headers=dict(headers or {}), content=body, timeout=timeout
            )
            answer = await self._client().send(request, stream=True)
            try:
                octets = bytearray()
                async for part in answer.aiter_bytes():
                    octets += part
                    if len(octets) > LARGEST:
                        raise FactorDown(f"{name}: the answer is longer than {LARGEST} octets")
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise self._failure(error, asks_nobody=asks_nobody) from None
        except (httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise FactorDown(f"{name}: {type(error).__name__}") from None
        return self._checked(answer, bytes(octets), asks_nobody=asks_nobody)

    def _failure(self, error: httpx.HTTPError, *, asks_nobody: bool) -> FactorDown:
        """What became of a request that got no answer."""
        name = self._name
        if _is_tls(error):
            return FactorDown(f"{name}: its TLS certificate is not accepted, or TLS failed: {_tls_words(error)}")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return FactorUnreachable(f"{name}: can't be connected to ({type(error).__name__})")
        if isinstance(error, httpx.PoolTimeout):
            return FactorDown(f"{name}: all {self._table.connections} connections are in use")
        if isinstance(error, httpx.TimeoutException):
            what = f"{name}: did not answer in time"
            return FactorUnreachable(what) if asks_nobody else FactorDown(what)
        what = f"{name}: {type(error).__name__}"
        return FactorUnreachable(what) if asks_nobody and isinstance(error, httpx.NetworkError) else FactorDown(what)

    def _checked(self, answer: httpx.Response, body: bytes, *, asks_nobody: bool) -> Reply:
        name, status = self._name, answer.status_code
        if status >= _BROKEN:
            # a gateway that has lost patience says nothing of what became of the request
            kind = FactorDown if status == _GATEWAY_TIMEOUT and not asks_nobody else FactorUnreachable
            raise kind(f"{name}: answers {status}", retry_after=self._retry_after(answer))
        if status == _TOO_MANY:
            raise FactorDown(f"{name}: too many requests ({status})", retry_after=self._retry_after(answer))
        if status < _OK or _REDIRECT <= status < _REDIRECT + 100:
            raise FactorDown(f"{name}: answers {status}: a redirect is not followed")
        return Reply(status, answer.headers, body)

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


def _is_tls(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _tls_words(error: BaseException) -> str:
    """What OpenSSL says of it; it holds names of certificates, and nothing of a request."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError):
            return cause.reason or "TLS"
    return "TLS"


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
