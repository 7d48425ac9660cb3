"""One fault's stage: a directory, a proxy before it, people who log in through it, and the judgement at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playbook import bind
from sqlalchemy import select
from system.proxy import Proxy
from system.servers.slapd import Slapd

from ldapmfa.store.schema import FACTORS, LOGINS
from soak.ledger import Ledger, Request, Verdict
from soak.load import Gone, Line, Load, Person

#: Seconds of undisturbed load before the fault, and after everybody is well again; and how long that may take.
BEFORE, AFTER, PATIENCE = 2.0, 1.0, 90.0
#: How many log in once, and stay.
SETTLED = 4


@dataclass(frozen=True)
class Fault:
    """`during` is what happens; when it returns, the fault is over. `proxy` are words for `Proxy`.

    `prepare` is done before the proxy starts, and may return words for it, too; `missing` says what this machine lacks.
    """

    name: str
    about: str
    during: Callable[[Stage], Awaitable[None]]
    proxy: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Stage], Awaitable[dict[str, Any]]] | None = None
    missing: Callable[[], str] = str
    people: int = 16
    asked: int = 0  #: so many of the people say yes on a phone
    pause: float = 0.2


@dataclass
class Row:
    """What became of a fault. `healed` in seconds; `skipped` and `failed` say why there are no figures, or why not only."""

    fault: str
    verdict: Verdict | None = None
    healed: float | None = None
    skipped: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing wrong, and well again; or skipped."""
        if self.verdict is None:
            return bool(self.skipped)
        return not (self.verdict.lost or self.verdict.wrong) and self.healed is not None

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        verdict = self.verdict.as_dict() if self.verdict else {}
        return {"fault": self.fault, "passed": self.passed, "healed": self.healed, "skipped": self.skipped, **verdict, **self.notes}


class Stage:
    """What a fault may lay its hands on."""

    def __init__(self, fault: Fault, path: Path, *, pace: float = 1.0) -> None:
        """`pace`: which part of its time the fault takes."""
        self.fault, self.path, self.pace = fault, path, pace
        self.ledger = Ledger()
        self.notes: dict[str, Any] = {}
        self.stack = contextlib.AsyncExitStack()
        self.slapd: Slapd
        self.proxy: Proxy
        self.people: list[Person] = []

    async def play(self) -> Row:
        """The whole of it."""
        async with self.stack:
            await self._set_up()
            settled = self.people[self.fault.people :]
            load = Load(self.proxy.host, self.proxy.port, self.people[: self.fault.people], settled, self.ledger, pause=self.fault.pause)
            load.start()
            await asyncio.sleep(BEFORE)
            self.ledger.phase = "during"
            try:
                await self.fault.during(self)
                since = time.monotonic()
                self.ledger.phase = "after"
                await self._until_well(since)
            finally:
                await load.stop()
            await self._replay()
            verdict = self.ledger.judge()
            verdict.settled = self.ledger.settled()
            await asyncio.to_thread(self._compare, verdict)
        return Row(self.fault.name, verdict, self.ledger.healed(since), notes=self.notes)

    async def lasts(self, seconds: float) -> None:
        """So long, or the part of it that there is time for."""
        await asyncio.sleep(seconds * self.pace)

    def times(self, count: int) -> int:
        """So often, or less; once at least."""
        return max(1, round(count * self.pace))

    async def _set_up(self) -> None:
        self.path.mkdir(parents=True)
        self.slapd = Slapd(self.path / "slapd")
        self.stack.callback(self.slapd.stop)
        await asyncio.to_thread(self.slapd.start)
        words = dict(self.fault.proxy)
        if self.fault.prepare:
            words |= await self.fault.prepare(self)
        self.proxy = Proxy(self.slapd, self.path / "proxy", **words)
        self.stack.push_async_callback(asyncio.to_thread, self._leave)
        await asyncio.to_thread(self.proxy.__enter__)
        names = [f"bulk{number:04}" for number in range(self.fault.people + SETTLED)]
        with_token = names[self.fault.asked :]
        await asyncio.to_thread(self.proxy.enrol_many, with_token)
        for name in names:
            user = self.slapd.user(name)
            token = self.proxy.tokens.get(name)
            self.people.append(Person(name, user.dn, user.password, token.secret if token else None, "," if self.fault.asked else ""))

    def _leave(self) -> None:
        if hasattr(self.proxy, "process"):
            self.proxy.process.stop()

    async def _until_well(self, since: float) -> None:
        """Everybody has logged in again; or the patience is over, which `Ledger.healed` sees."""
        people = {person.name for person in self.people[: self.fault.people]}
        while not self.ledger.is_well(people) and time.monotonic() - since < PATIENCE:
            await asyncio.sleep(0.1)
        await asyncio.sleep(AFTER)

    async def _replay(self) -> None:
        """Everybody's last code again, which was used."""
        used = self.ledger.last_used()
        await asyncio.gather(*(self._again(person, used[person.name]) for person in self.people if person.name in used))

    async def _again(self, person: Person, code: int) -> None:
        written = self.ledger.write(Request("replay", person.name, code, time.monotonic()))
        with contextlib.suppress(Gone, TimeoutError):
            async with Line(self.proxy.host, self.proxy.port) as line:
                written.answer, _ = await line.ask(lambda number: bind(number, person.dn, person.typed(code)))
        written.seconds = time.monotonic() - written.began

    def _compare(self, verdict: Verdict) -> None:
        """With what the store knows, with what the directory saw, and with the proxy's own log."""

        async def read(store: Any) -> tuple[Any, Any]:
            logins = await store._read(select(LOGINS.c.name, LOGINS.c.account, LOGINS.c.outcome, LOGINS.c.reason))
            return logins, await store._read(select(FACTORS.c.account_key, FACTORS.c.position))

        self.proxy.process.stop()  # which writes what is still to be written
        logins, factors = self.proxy.with_store(read)
        names = {person.dn: person.name for person in self.people}
        recorded = Counter(names[row.name] for row in logins if row.outcome == "accepted" and row.name in names)
        keys = {row.account: names[row.name] for row in logins if row.account and row.name in names}
        self.ledger.against_the_store(verdict, recorded, {keys[key]: position for key, position in factors if key in keys})
        self.notes["reasons"] = dict(Counter(row.reason for row in logins))
        if "sneaked in as" in self.slapd.log.read_text(errors="replace"):
            verdict.errs("a search behind a refused bind reached the directory")
        log = "\n".join(one.read_text(errors="replace") for one in self.proxy.path.glob("proxy*.log"))
        for sign in ("Traceback", '"bug"'):
            if sign in log:
                place = log.index(sign)
                verdict.errs(f"the proxy's log holds {sign}: {log[max(0, place - 300) : place + 1500]}")
