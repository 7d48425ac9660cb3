"""A doorbell on the user's desk as a second factor: it rings, shows where somebody logs in, has a yes and a no button.

The service is made up. POST /rings with {"user", "text"} answers 201 {"ring": "17"}, or 404 for a user without a bell.
GET /rings/17 answers {"ring": "17", "pressed": null} until somebody has pressed "yes" or "no". DELETE ends the ringing.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, ClassVar, cast

from pydantic import Field, SecretStr

from ldapmfa.audit import printable
from ldapmfa.config import HttpTable, ServiceTable
from ldapmfa.config.values import File, Text
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.http import Http, Reply
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting

PAUSE = 1.0  # seconds between two looks at the buttons


class DoorbellTable(HttpTable):
    """A bell on the desk of each user."""

    url: Annotated[Text, Field(pattern="^https://", examples=["https://bells.example.com"])]
    """Where the bells' service is."""
    key_file: File | None = Field(None, examples=["/etc/ldapmfa/bells.key"])
    """The file that holds its key; a line end after it is ignored."""
    key: SecretStr | None = None
    """The key itself, instead of key_file."""


class Doorbell:
    """One service of bells, for many logins at once."""

    Table: ClassVar[type[ServiceTable]] = DoorbellTable
    methods: ClassVar[Sequence[str]] = ("ring",)  # what a keyword in [login] can stand for
    takes_codes: ClassVar[bool] = False  # no code is ever typed
    wants_password: bool = False

    def __init__(self, table: DoorbellTable, tools: Tools) -> None:
        self._tools = tools
        self._url = table.url.rstrip("/")
        self._key = table.secret_of("key")
        if not self._key:
            raise ValueError("needs key_file or key")
        self._http = Http("doorbell", table, tools)

    async def start(self, prompt: Prompt) -> Started:
        """Ring. FactorUnreachable is let through: then nothing has rung."""
        text = printable(f"{prompt.application} from {prompt.client or 'somewhere'}")
        reply = await self._send("POST", "/rings", {"user": prompt.user, "text": text})
        if reply.status == 404:
            return Denied("not-enrolled")
        ring = reply.json("doorbell").get("ring")
        if reply.status != 201 or not isinstance(ring, str) or not re.fullmatch("[0-9]{1,18}", ring):
            raise FactorDown(f"doorbell: answers {reply.status}, or without a ring")
        self._tools.say(f"it rings at {prompt.user}'s desk")
        return Waiting(ring)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Look at the buttons until one is pressed; an outage meanwhile is sat out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(prompt.seconds):
                while True:
                    try:
                        pressed = await self._pressed(waiting.handle)
                    except FactorUnreachable as error:
                        self._tools.say(f"{error}; looking again")
                        pressed = None
                    if pressed is not None:
                        return Allowed("ring") if pressed == "yes" else Denied("denied", "pressed no")
                    await self._tools.sleep(PAUSE)
        return Denied("no-answer")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """There are no codes."""
        return Denied("no-method")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """Stop the ringing, if that is possible within a few seconds."""
        with suppress(FactorDown, TimeoutError):
            async with asyncio.timeout(3):
                await self._send("DELETE", f"/rings/{waiting.handle}", asks_nobody=True)

    async def health(self) -> str:
        """Nothing rings."""
        reply = await self._send("GET", "/health", asks_nobody=True)
        if reply.status != 200:
            raise FactorDown(f"doorbell: answers {reply.status}: is the key right?")
        return "the bells can be reached, and the key is right"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.close()

    async def _pressed(self, ring: str) -> str | None:
        """ "yes" or "no", None as long as nothing is pressed; whatever else comes is FactorDown."""
        reply = await self._send("GET", f"/rings/{ring}", asks_nobody=True)
        answer = reply.json("doorbell")
        if reply.status == 200 and answer.get("ring") == ring:
            match answer.get("pressed", "missing"):
                case "yes" | "no" | None as pressed:
                    return cast("str | None", pressed)
        raise FactorDown(f"doorbell: answers {reply.status}, or not about this ring")

    async def _send(self, method: str, path: str, body: object = None, *, asks_nobody: bool = False) -> Reply:
        headers = {"Authorization": f"Bearer {self._key.reveal().decode()}", "Content-Type": "application/json"}
        octets = b"" if body is None else json.dumps(body).encode()
        return await self._http.send(method, self._url + path, headers=headers, body=octets, asks_nobody=asks_nobody)
