"""Clients that log in, search, try used codes, wrong codes and none, one after the other, and write it all down."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Self

import pyotp
from playbook import bind, search

from ldapmfa.core.secret import Secret
from ldapmfa.factors.hotp import base32
from ldapmfa.wire import ldap
from soak.ledger import ACCEPTED, CUT, INVALID, Answer, Ledger, Request

#: Seconds that a client waits for an answer; longer than every deadline of the proxy's.
PATIENCE = 60.0
#: Counters that a wrong code must not belong to.
_NEAR = 60


class Gone(Exception):  # noqa: N818 - named as what is the case
    """The connection ended; `code` is the notice's before it, if there was one."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class Line:
    """One connection to the proxy."""

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        self._buffer = b""
        self._number = 0

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(10):
                self._reader, self._writer = await asyncio.open_connection(*self._where)
        except (OSError, TimeoutError):
            raise Gone from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    async def ask(self, request: Callable[[int], bytes]) -> tuple[int, int]:
        """The result code, and the number of entries before it. Gone; TimeoutError."""
        self._number += 1
        entries = 0
        async with asyncio.timeout(PATIENCE):
            try:
                self._writer.write(request(self._number))
                while True:
                    frame = await self._frame()
                    if frame.id == 0:
                        raise Gone(ldap.read_result(frame).code)
                    if frame.tag not in ldap.NOT_FINAL:
                        return ldap.read_result(frame).code, entries
                    entries += 1
            except OSError:
                raise Gone from None

    async def _frame(self) -> ldap.Frame:
        while True:
            frame = ldap.read_frame(self._buffer, 0, 1 << 24) if self._buffer else 0
            if isinstance(frame, ldap.Frame):
                self._buffer = self._buffer[len(frame.raw) :]
                return frame
            data = await self._reader.read(1 << 16)
            if not data:
                raise Gone
            self._buffer += data


class Person:
    """One account, and the token in its owner's hand, or the phone: then there is no `secret`.

    `doubtful`: the next code may be used up already. `sign` stands before a code.
    """

    def __init__(self, name: str, dn: str, password: str, secret: bytes | None, sign: str = "") -> None:
        self.name, self.dn, self.password, self.sign = name, dn, password, sign
        self.asks = secret is None
        self._otp = pyotp.HOTP(base32(Secret(secret or bytes(20))))
        self.next = 0
        self.doubtful = False
        self.used: int | None = None

    def typed(self, counter: int) -> str:
        """Password and the code of that counter."""
        return self.password + self.sign + self._otp.at(counter)

    def wrong(self, chance: random.Random) -> str:
        """Password and a code that is none of this token's, as far as it matters."""
        near = {self._otp.at(counter) for counter in range(max(0, self.next - 5), self.next + _NEAR)}
        while (code := f"{chance.randrange(10**6):06}") in near:
            pass
        return self.password + self.sign + code


class Load:
    """`people` at a proxy, each one request at a time with `pause` seconds between; stopped by `stop`.

    Those who are `settled` log in once, and go on searching; who of them is cut off logs in again.
    """

    def __init__(
        self, host: str, port: int, people: list[Person], settled: list[Person], ledger: Ledger, *, pause: float = 0.2
    ) -> None:
        self._where = host, port
        self._people, self._settled, self._ledger, self._pause = people, settled, ledger, pause
        self._chance = random.Random(7)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """All of them begin."""
        lives = (*map(self._live, self._people), *map(self._settle, self._settled))
        self._tasks = [asyncio.create_task(life) for life in lives]

    async def stop(self) -> None:
        """Each ends what it has begun."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _live(self, person: Person) -> None:
        await asyncio.sleep(self._chance.random() * self._pause)
        while not self._stopping:
            await self._log_in(person)
            await asyncio.sleep(self._pause)
            if person.asks:
                continue
            if person.used is not None and self._chance.random() < 0.25:
                await self._refused(person, "replay", person.typed(person.used), person.used)
            if self._chance.random() < 0.2:
                await self._refused(person, "wrong", person.wrong(self._chance), None)
            if self._chance.random() < 0.1 and not person.sign:  # where owners are asked, a password alone asks
                await self._refused(person, "bare", person.password, None)

    async def _settle(self, person: Person) -> None:
        while not self._stopping:
            async with self._line() as line:
                found = await self._bind(line, person)
                while found == ACCEPTED and not self._stopping:
                    await asyncio.sleep(self._pause)
                    found = await self._search(line, "settled", person)
            await asyncio.sleep(self._pause)

    async def _log_in(self, person: Person) -> None:
        async with self._line() as line:
            if await self._bind(line, person) != ACCEPTED:
                return
            for _ in range(self._chance.randrange(3)):
                await asyncio.sleep(self._pause / 4)
                if await self._search(line, "search", person) == CUT:
                    return

    async def _search(self, line: Line | None, what: str, person: Person) -> Answer:
        return await self._ask(line, what, person, None, lambda number: search(number, person.dn, scope=0, attributes=("cn",)))

    async def _bind(self, line: Line | None, person: Person) -> Answer:
        """With the next code; it counts as used only if that is certain."""
        counter = None if person.asks else person.next
        what = "push" if person.asks else "again" if person.doubtful else "fresh"
        typed = person.password if counter is None else person.typed(counter)
        answer = await self._ask(line, what, person, counter, lambda number: bind(number, person.dn, typed))
        if answer == CUT:
            await asyncio.sleep(self._pause)  # nobody tries again at once
        if counter is None:
            pass
        elif answer in (ACCEPTED, INVALID):
            person.next, person.doubtful = counter + 1, False
            person.used = counter if answer == ACCEPTED else person.used
        else:
            person.doubtful = True
        return answer

    async def _refused(self, person: Person, what: str, typed: str, code: int | None) -> None:
        """A login that must fail, and a search behind it on the same connection."""
        async with self._line() as line:
            await self._ask(line, what, person, code, lambda number: bind(number, person.dn, typed))
            if line is not None:
                marked = f"sneaked in as {person.name}"
                await self._ask(line, "sneak", person, None, lambda number: search(number, person.dn, scope=0, where=_says(marked)))

    @contextlib.asynccontextmanager
    async def _line(self) -> AsyncIterator[Line | None]:
        line = Line(*self._where)
        try:
            await line.__aenter__()
        except Gone:
            line = None
        try:
            yield line
        finally:
            if line is not None:
                await line.__aexit__()

    async def _ask(
        self, line: Line | None, what: str, person: Person, code: int | None, request: Callable[[int], bytes]
    ) -> Answer:
        written = self._ledger.write(Request(what, person.name, code, time.monotonic()))
        try:
            if line is None:
                written.answer = CUT
            else:
                written.answer, written.entries = await line.ask(request)
        except Gone as gone:
            written.answer = CUT if gone.code is None else gone.code
        except TimeoutError:
            pass  # silent, as it was written down
        written.seconds = time.monotonic() - written.began
        return written.answer


def _says(text: str) -> bytes:
    """The filter (description=TEXT): the directory's log would show it."""
    return ldap.equals("description", text.encode())
