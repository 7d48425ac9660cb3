"""Watches this machine's clock: beside the database's, beside each directory's, and whether somebody sets it.

Promised here: every minute `offsets` has by how many seconds another clock is ahead of ours, for each that can be
asked: the database's where that is a server (so that two nodes are compared by what both differ from it by), and Active
Directory's (`currentTime` of its rootDSE, to the second). What passes the limit is an error in the log, once, and so is
a clock that is set; when it was set back, the store forgets what was granted later than now. Not in here: setting a
clock, and how limits are judged (`ldapmfa.core.clock`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ldapmfa.core.clock import Offset, Steps, judged
from ldapmfa.core.identity import CannotIdentify
from ldapmfa.errors import DirectoryDown, StoreDown
from ldapmfa.net.waiting import pause
from ldapmfa.wire import ldap

if TYPE_CHECKING:
    from ldapmfa.net.directory import Directory
    from ldapmfa.store import Store

Value = TypeVar("Value")

#: Seconds from one look at our own clock to the next, and from one comparison to the next.
LOOK: Final = 5.0
COMPARE: Final = 60.0
#: Seconds from the start to the first comparison: whoever starts has other things to do.
_FIRST: Final = 15.0
_TIME: Final = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(?:(\d\d)(\d\d)?)?(?:[.,](\d+))?(?:Z|([+-])(\d\d)(\d\d)?)")


class Stopwatch:
    """Times a question: `sent` when it was put, by our clock, and how many seconds it `took`, by a steady one."""

    def __init__(self, clock: Any, now: Callable[[], float]) -> None:
        self._clock = clock
        self._now = now
        self.sent = self.took = 0.0

    async def time(self, asked: Awaitable[Value]) -> Value:
        """What the answer is."""
        began, self.sent = self._clock.seconds(), self._now()
        try:
            return await asked
        finally:
            self.took = self._clock.seconds() - began


#: Asks a clock what it says, and to how many seconds, with a stopwatch in hand; None: it does not say.
Asked = Callable[[Stopwatch], Awaitable[tuple[float, float] | None]]


class Clocks:
    """`offsets` are seconds by which others are ahead of ours, by what they are called; `steps` how often ours was set.

    `alarmed` are those that are too far off.
    """

    def __init__(
        self,
        others: Mapping[str, Asked],
        *,
        limit: float,
        clock: Any,
        now: Callable[[], float],
        says: Any,
        stepped: Callable[[], Awaitable[object]],
    ) -> None:
        self.offsets: dict[str, float] = {}
        self.alarmed: set[str] = set()
        self.steps = 0
        self._others = others
        self._limit = limit
        self._clock = clock
        self._now = now
        self._says = says
        self._stepped = stepped

    @property
    def others(self) -> tuple[str, ...]:
        """What the clocks are called that ours is compared with."""
        return tuple(self._others)

    async def watch(self) -> None:
        """Until cancelled."""
        steps = Steps(self._now(), self._clock.seconds())
        await self._forget()  # it may have been set while nobody looked
        compared = self._clock.seconds() - COMPARE + _FIRST
        while True:
            if self._clock.seconds() - compared >= COMPARE:
                compared = self._clock.seconds()
                for name, ask in self._others.items():
                    await self._compare(name, ask)
            await pause(self._clock, LOOK)
            step = steps.look(self._now(), self._clock.seconds())
            if step is not None:
                self.steps += 1
                self._says.error("clock set", seconds=round(step, 3))
                if step < 0:
                    await self._forget()

    async def _compare(self, name: str, ask: Asked) -> None:
        watch = Stopwatch(self._clock, self._now)
        try:
            said = await ask(watch)
        except (DirectoryDown, CannotIdentify, StoreDown):
            said = None  # that it is away is others' business
        if said is None:
            self.offsets.pop(name, None)
            return
        offset = Offset.measured(*said, watch.sent, watch.sent + watch.took)
        self.offsets[name] = round(offset.ahead, 3)
        verdict = judged(offset, self._limit, alarmed=name in self.alarmed)
        told = {"of": name, "ahead": round(offset.ahead, 3), "give_or_take": round(offset.margin, 3)}
        if verdict == "alarm":
            self.alarmed.add(name)
            self._says.error("clock differs", limit=self._limit, **told)
        elif verdict == "fine":
            self.alarmed.discard(name)
            self._says.warning("clock agrees again", **told)

    async def _forget(self) -> None:
        with suppress(StoreDown):  # what counts from a time to come is not accepted before that anyway
            await self._stepped()


def clocks_of(
    store: Store, directories: Mapping[str, Directory], *, limit: float, clock: Any, now: Callable[[], float], says: Any
) -> Clocks:
    """All that can be compared: "database", and "directory/NAME" for each directory."""
    others: dict[str, Asked] = {"database": lambda watch: _of_database(store, watch)}
    for name, directory in directories.items():
        others[f"directory/{name}"] = _of_directory(directory)
    return Clocks(others, limit=limit, clock=clock, now=now, says=says, stepped=store.clock_was_set_back)


async def _of_database(store: Store, watch: Stopwatch) -> tuple[float, float] | None:
    said = await watch.time(store.database_time())
    return None if said is None else (said, 0.0)


def _of_directory(directory: Directory) -> Asked:
    tells = True  # whether it is of a kind that says what time it is

    async def ask(watch: Stopwatch) -> tuple[float, float] | None:
        nonlocal tells
        if not tells:
            return None
        link = await directory.connect()
        try:
            tells = (await directory.capabilities(link)).kind == "active-directory"
            if not tells:
                return None
            _, entries = await watch.time(link.ask(ldap.search_request(b"", ("currentTime",))))
        finally:
            link.close()
        values = [value for entry in entries for value in entry.attributes.get("currenttime", ())]
        said = generalized_time(values[0]) if len(values) == 1 else None
        return None if said is None else (said, 1.0)

    return ask


def generalized_time(octets: bytes) -> float | None:
    """Seconds since the epoch of a GeneralizedTime (RFC 4517 section 3.3.13); None: it is none."""
    found = _TIME.fullmatch(octets)
    if not found:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    try:
        at = datetime(
            int(year), int(month), int(day), int(hour), int(minute or 0), min(int(second or 0), 59), tzinfo=UTC
        )
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        at = at + offset if sign == b"-" else at - offset
    except (ValueError, OverflowError):
        return None
    leap = int(second or 0) - min(int(second or 0), 59)
    unit = 1.0 if second else 60.0 if minute else 3600.0
    return at.timestamp() + leap + (float(b"0." + fraction) * unit if fraction else 0.0)
