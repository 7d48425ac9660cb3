"""The calls of Duo's Auth API v2: signed requests, Duo's clock, its envelope.

Promised here: a request is signed by the scheme of seven lines (HMAC-SHA512) and with Duo's own time where ours is off,
for which it is signed a second time, and never sent a second time for any other reason. What is not the envelope Duo
documents is FactorDown. Not in here: what the answers mean.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final, cast
from urllib.parse import quote

from ldapmfa.audit import printable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown
from ldapmfa.factors.http import Http, Reply
from ldapmfa.factors.service import Tools

INVALID: Final = 40002
THROTTLED: Final = 42901
_CLOCK: Final = (40104, 40105)


class Refused(FactorDown):
    """Duo says FAIL: it takes this request from nobody, or not from us. `code` is its own."""

    def __init__(self, code: int, text: str, retry_after: float | None) -> None:
        super().__init__(text, retry_after=retry_after)
        self.code = code


def garbled(what: str) -> FactorDown:
    """What to raise where an answer is not as documented."""
    return FactorDown(f"Duo: the answer is not as Duo's are: {what}")


def words(text: object) -> str:
    """Something that Duo says, fit for a line of the record."""
    return printable(text)[:200] if isinstance(text, str) else "-"


def encoded(parameters: Mapping[str, str]) -> str:
    """`parameters` as they stand in the URL, and are signed."""
    pairs = sorted((quote(name, "~"), quote(value, "~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def as_body(parameters: Mapping[str, str]) -> bytes:
    """`parameters` as they are posted."""
    return json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()


def signature(
    secret_key: Secret, method: str, host: str, path: str, *, date: str, query: str = "", body: bytes = b""
) -> str:
    """Duo's signature, version 5, of a request without X-Duo headers; `query` as `encoded`."""
    lines = (
        date,
        method.upper(),
        host.lower(),
        path,
        query,
        hashlib.sha512(body).hexdigest(),
        hashlib.sha512(b"").hexdigest(),
    )
    return hmac.digest(secret_key.reveal(), "\n".join(lines).encode(), "sha512").hex()


class Api:
    """Duo at `host` (a port may follow), as the application with these keys."""

    def __init__(self, http: Http, tools: Tools, host: str, integration_key: str, secret_key: Secret) -> None:
        self._http = http
        self._tools = tools
        self._host = host
        self._integration_key = integration_key
        self._secret_key = secret_key
        self._offset = 0.0  # seconds by which Duo's clock is ahead of ours

    async def ping(self) -> float:
        """By how many seconds Duo's clock is ahead of ours."""
        reply = await self._http.send("GET", f"https://{self._host}/auth/v2/ping", asks_nobody=True)
        now = _response(reply).get("time")
        if type(now) is not int:
            raise garbled("ping")
        return now - self._tools.now()

    async def call(
        self, method: str, name: str, parameters: Mapping[str, str], *, asks_nobody: bool, seconds: float | None = None
    ) -> dict[str, Any]:
        """What is in the answer's envelope; Refused: Duo says FAIL, 429 included."""
        try:
            return await self._signed(method, name, parameters, asks_nobody=asks_nobody, seconds=seconds)
        except Refused as refused:
            if refused.code not in _CLOCK:
                raise
        self._offset = await self.ping()
        self._tools.say(f"Duo's clock is {self._offset:+.0f} s off ours, which it does not accept: going by Duo's")
        return await self._signed(method, name, parameters, asks_nobody=asks_nobody, seconds=seconds)

    async def _signed(
        self, method: str, name: str, parameters: Mapping[str, str], *, asks_nobody: bool, seconds: float | None
    ) -> dict[str, Any]:
        path, query, body = f"/auth/v2/{name}", "", b""
        headers = {"Date": formatdate(self._tools.now() + self._offset)}
        if method == "POST":
            body = as_body(parameters)
            headers["Content-Type"] = "application/json"
        else:
            query = encoded(parameters)
        host = self._host.partition(":")[0]
        signed = signature(self._secret_key, method, host, path, date=headers["Date"], query=query, body=body)
        headers["Authorization"] = "Basic " + base64.b64encode(f"{self._integration_key}:{signed}".encode()).decode()
        url = f"https://{self._host}{path}" + (f"?{query}" if query else "")
        return _response(
            await self._http.send(
                method, url, headers=headers, body=body, seconds=seconds, asks_nobody=asks_nobody, passes=(429,)
            )
        )


def _response(reply: Reply) -> dict[str, Any]:
    if reply.status == 429 and b"FAIL" not in reply.body:  # a gateway's, and no JSON perhaps
        raise FactorDown("Duo: too many requests (429)", retry_after=reply.retry_after)
    envelope = reply.json("Duo")
    response, code = envelope.get("response"), envelope.get("code")
    if reply.status == 200 and envelope.get("stat") == "OK" and isinstance(response, dict):
        return cast("dict[str, Any]", response)
    if envelope.get("stat") == "FAIL" and type(code) is int and code // 100 == reply.status:
        message, detail = words(envelope.get("message")), words(envelope.get("message_detail"))
        raise Refused(code, f"Duo refuses the request: {code} {message} ({detail})", reply.retry_after)
    raise garbled(f"status {reply.status}")
