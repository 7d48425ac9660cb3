"""RADIUS: whatever an NPS with Microsoft's extension, RSA, Okta's agent or FreeRADIUS asks of a user (RFC 2865, PAP).

Promised here: only an Access-Accept for the request of this login lets anybody in, and a code that the server has not
asked for is a wrong one. An Access-Challenge that comes soon is a `CodeSent`; the code then goes to the server that
issued the State. A server that says nothing while a user is asked looks like one that is gone, unless it answers others
meanwhile: nothing opens on silence. Who is asked, and how packets are sent and believed, is `radius_client`'s.

A password may hold anything: templates are filled in one pass, and what is filled in is not looked at again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from ldapmfa.audit import printable
from ldapmfa.config import ServiceTable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorResting, FactorUnreachable
from ldapmfa.factors import radius_client as wire
from ldapmfa.factors.radius_client import Client, NoAnswer, Reply, Request
from ldapmfa.factors.radius_table import RadiusTable
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting

#: Seconds for which `health` listens where no answer is expected.
LISTEN: Final = 0.5
#: Characters of a Reply-Message that are kept for the record.
_MESSAGE: Final = 200
#: Seconds within which a code must come, unless the server says otherwise, and the longest that it may say.
_CODE_SECONDS: Final = 300
_CODE_SECONDS_MOST: Final = 3600


class Radius:
    """Asks a RADIUS server."""

    Table: ClassVar[type[ServiceTable]] = RadiusTable
    methods: ClassVar[Sequence[str]] = ("push", "sms")
    takes_codes: ClassVar[bool] = True

    def __init__(self, table: RadiusTable, tools: Tools) -> None:
        secret = table.secret_of("secret")
        if not secret:
            raise ValueError("the RADIUS secret is empty")
        # without {code} the server is asked as for a push, and may send or ask something before it wants the code
        self.codes_ask = "{code}" not in table.password
        self.wants_password = any("{password}" in text for text in (table.push_password, table.password))
        self._table = table
        self._tools = tools
        self._client = Client(table, secret, tools)
        self._asked: set[asyncio.Task[Reply]] = set()
        self._unanswered = 0  # questions in a row, while nothing was heard of the server

    async def start(self, prompt: Prompt) -> Started:
        """Send the Access-Request, and wait for a moment for what is decided without the user."""
        await self._find_out()
        method = prompt.method or "push"
        content = self._content(self._table.push_password, prompt, method=method.encode())
        if isinstance(content, Denied):
            return content
        asked = asyncio.ensure_future(self._client.ask(self._request(prompt, content), prompt.seconds))
        self._asked.add(asked)
        asked.add_done_callback(self._forget)
        moment = self._table.response_timeout if method == "sms" else self._table.challenge_seconds
        try:
            await asyncio.wait({asked}, timeout=moment)  # it ends by itself after prompt.seconds
        except asyncio.CancelledError:
            asked.cancel()
            raise
        if not asked.done():
            self._tools.say("the server has not decided yet: it is asking the user, or not there")
            return Waiting(asked)
        reply = self._answered(asked)
        if isinstance(reply, Denied):
            return reply
        return self._code_sent(reply) if reply.code == wire.ACCESS_CHALLENGE else self._answer(reply, "denied")

    async def _find_out(self) -> None:
        """After several questions without any answer: whether the server is there, if it can be found out."""
        table = self._table
        if self._unanswered < table.failures or not (table.status_server or table.probe_user):
            return
        try:
            await self.health()
        except FactorUnreachable:
            raise
        except FactorDown as error:
            raise FactorResting(str(error), retry_after=0.0) from None  # which opens the circuit breaker
        self._unanswered = 0

    def _forget(self, asked: asyncio.Task[Reply]) -> None:
        self._asked.discard(asked)
        if not asked.cancelled():
            asked.exception()  # whoever waits for it has it too; nobody may

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Wait for Access-Accept or Access-Reject."""
        asked: asyncio.Task[Reply] = waiting.handle
        since = asyncio.get_running_loop().time()
        try:
            await asyncio.wait({asked}, timeout=prompt.seconds)
            if not asked.done():
                return self._silent(NoAnswer(prompt.seconds, since))
            reply = self._answered(asked)
        except FactorUnreachable as error:
            raise FactorDown(str(error)) from None
        finally:
            asked.cancel()
        if isinstance(reply, Denied):
            return reply
        if reply.code == wire.ACCESS_CHALLENGE:
            return Denied("no-method", "the server asked for a code, and too late for that: raise challenge_seconds")
        return self._answer(reply, "denied")

    def _answered(self, asked: asyncio.Task[Reply]) -> Reply | Denied:
        if asked.cancelled():
            raise FactorDown("RADIUS: the question was taken back")
        try:
            reply = asked.result()
        except NoAnswer as silence:
            return self._silent(silence)
        self._unanswered = 0
        return reply

    def _silent(self, silence: NoAnswer) -> Denied:
        """The user's no, if the server has answered anybody since it was asked; otherwise `silence` is raised."""
        if silence.ignored or self._client.heard < silence.since:
            self._unanswered += 1
            raise silence
        return Denied("no-answer", "the server has not answered in time, though it answers others")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """Answer the server's challenge, or send the code at once, as `password` says."""
        table = self._table
        limit = min(prompt.seconds, (table.retries + 1) * table.response_timeout)
        try:
            if sent:
                return await self._respond(prompt, code, sent, limit)
            content = self._content(table.password, prompt, code=code.reveal())
            if isinstance(content, Denied):
                return content
            reply = await self._client.ask(self._request(prompt, content), limit)
            if "{code}" in table.password:
                return self._answer(reply, "wrong-code")
            if reply.code == wire.ACCESS_CHALLENGE:
                return await self._respond(prompt, code, self._code_sent(reply), limit)
            if reply.code == wire.ACCESS_REJECT:
                return self._answer(reply, "denied")
            # it accepts something else: nobody has looked at the code
            return Denied("wrong-code", "the server says Access-Accept without asking for the code")
        except FactorUnreachable as error:
            raise FactorDown(str(error)) from None
        except NoAnswer as silence:
            return self._silent(silence)

    async def _respond(self, prompt: Prompt, code: Secret, sent: CodeSent, seconds: float) -> Answer:
        try:
            state, server = bytes.fromhex(sent.handle["state"]), sent.handle["server"]
        except (KeyError, ValueError):
            raise FactorDown("RADIUS: what was kept of the challenge is not complete") from None
        if impossible := _impossible(prompt, code):
            return impossible
        self._tools.say("answering the challenge with the code")
        reply = await self._client.ask(self._request(prompt, code, state), seconds, at=server)
        return self._answer(reply, "wrong-code")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:  # noqa: ARG002 - the interface's
        """Listen no more; RADIUS has no word for taking a question back."""
        waiting.handle.cancel()

    async def health(self) -> str:
        """Whether a server answers: by Status-Server, by the probe's name, or only whether it is clearly gone."""
        table, client = self._table, self._client
        status = Request(wire.STATUS_SERVER, {wire.NAS_IDENTIFIER: table.nas_identifier.encode()})
        if table.status_server:
            reply = await client.ask(status, table.response_timeout)
            return f"{reply.address} answers Status-Server, signed with our secret"
        if table.probe_user is not None:
            name = {wire.USER_NAME: table.probe_user.encode(), wire.NAS_IDENTIFIER: table.nas_identifier.encode()}
            password = Secret(self._tools.entropy(12).hex().encode())
            reply = await client.ask(Request(wire.ACCESS_REQUEST, name, password), table.response_timeout)
            if reply.code == wire.ACCESS_ACCEPT:
                raise FactorDown(f"RADIUS: {reply.address} accepts a random password: it lets everybody in")
            return f"{reply.address} refuses {printable(table.probe_user)}, signed with our secret"
        try:
            reply = await client.ask(status, LISTEN)
        except NoAnswer as silence:
            if silence.ignored:
                raise
            return (
                "the name resolves and nothing says that nobody is there; whether it answers, and takes our secret, "
                "was not tried: set status_server or probe_user"
            )
        return f"{reply.address} answers, signed with our secret: status_server = true can be set"

    async def close(self) -> None:
        """Listen to nobody any more."""
        asked = list(self._asked)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        self._client.close()

    def _content(self, template: str, prompt: Prompt, **values: bytes) -> Secret | Denied:
        """`template` with the password and `values` in their places, if a server can be asked that at all."""
        known = {name.encode(): value for name, value in values.items()}
        if "{password}" in template:
            if prompt.password is None:
                raise FactorDown("RADIUS: the password is needed, and is not known here")
            try:
                known[b"password"] = prompt.password.reveal().decode().encode(self._table.password_encoding)
            except UnicodeError:
                return Denied("no-method", f"the password can't be written in {self._table.password_encoding}")
        content = Secret(re.sub(rb"\{(\w+)\}", lambda found: known[found[1]], template.encode()))
        return _impossible(prompt, content) or content

    def _request(self, prompt: Prompt, password: Secret, state: bytes | None = None) -> Request:
        table = self._table
        attributes = {wire.USER_NAME: prompt.user.encode(), wire.NAS_IDENTIFIER: table.nas_identifier.encode()}
        if prompt.client:
            attributes[wire.CALLING_STATION_ID] = prompt.client.encode()[: wire.LONGEST_VALUE]
        if table.called_station_id is not None:
            attributes[wire.CALLED_STATION_ID] = table.called_station_id.encode()
        if table.nas_port_type is not None:
            attributes[wire.NAS_PORT_TYPE] = table.nas_port_type.to_bytes(4, "big")
        if state is not None:
            attributes[wire.STATE] = state
        return Request(wire.ACCESS_REQUEST, attributes, password)

    def _answer(self, reply: Reply, why: Any) -> Answer:
        """What a last word means; `why` is what a no means."""
        if reply.code == wire.ACCESS_ACCEPT:
            self._tools.say(f"{reply.address} says Access-Accept")
            return Allowed("passcode" if why == "wrong-code" else "radius")
        if reply.code == wire.ACCESS_CHALLENGE:
            return Denied(why, "the server asks for another code")
        words = b" ".join(reply.attributes.get(wire.REPLY_MESSAGE, [])).decode(errors="replace")
        self._tools.say(f"{reply.address} says Access-Reject")
        return Denied(why, printable(words)[:_MESSAGE])

    def _code_sent(self, reply: Reply) -> CodeSent:
        states = reply.attributes.get(wire.STATE, [])
        if len(states) != 1 or not 0 < len(states[0]) <= wire.LONGEST_VALUE:
            raise FactorDown("RADIUS: the server's challenge has no State, or several")
        self._tools.say(f"{reply.address} says Access-Challenge: it wants a code")
        said = int.from_bytes(reply.attributes.get(wire.SESSION_TIMEOUT, [b""])[0], "big") or _CODE_SECONDS
        return CodeSent({"state": states[0].hex(), "server": reply.address}, min(said, _CODE_SECONDS_MOST))


def _impossible(prompt: Prompt, password: Secret) -> Denied | None:
    """Why no server could ever be asked that."""
    if not 0 < len(prompt.user.encode()) <= wire.LONGEST_VALUE:
        return Denied("not-enrolled", f"RADIUS takes no name of more than {wire.LONGEST_VALUE} octets, and none of 0")
    if len(password.reveal()) > wire.LONGEST_PASSWORD:
        return Denied("no-method", f"RADIUS takes no password of more than {wire.LONGEST_PASSWORD} octets")
    return None
