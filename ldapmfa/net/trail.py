"""Where audit events go besides the database: each place has a queue, and a thread that waits in the loop's stead.

Promised here: nobody waits for a place, no login and no event of the loop; what a place can't take waits for it, up to
the queue's length, and what is dropped behind that is counted. An outage is an error in the log, once, and so is its
end. What is changed by whichever process (the command line's, another node's) is told by one of those that run. Not in
here: the record that a success needs (`ldapmfa.store`), and how a place is spoken to (`jsonl`, `journald`, `rfc5424`).
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from ldapmfa import audit
from ldapmfa.config.values import SyslogServer
from ldapmfa.errors import StoreDown
from ldapmfa.net import log
from ldapmfa.net.journald import Journald
from ldapmfa.net.jsonl import JsonLines
from ldapmfa.net.rfc5424 import Syslog
from ldapmfa.net.waiting import pause, within

if TYPE_CHECKING:
    from ldapmfa.config.audit import Audit
    from ldapmfa.store import Store

#: Seconds for which events are gathered, so that one call takes many.
GATHER: Final = 0.05
#: Events that one call takes.
BATCH: Final = 500
#: Seconds until a place that failed is tried again, at first and at most: each pause is twice the one before.
PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: Seconds from one line in the log about a place to the next.
QUIET: Final = 60.0
#: Seconds that all places have at the end to take what waits.
FAREWELL: Final = 2.0
#: Seconds from one look for changes to the next.
LOOK: Final = 2.0


class Place(Protocol):
    """Where events go; both calls may block."""

    def write(self, events: Sequence[audit.Event]) -> int:
        """Take `events`, in order; gives how many it has, at least one of any. OSError: not one."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class _Aside:
    """A thread for calls that may block: the process ends though one of them never does."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._serve, name=f"ldapmfa-{name}", daemon=True).start()

    def run(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """What `call` returns or raises, later."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """When all calls have returned, so does the thread."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            try:
                value, failed = call(), None
            except Exception as error:  # noqa: BLE001 - raised where it was asked for
                value, failed = None, error
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(_settle, future, value, failed)


def _settle(future: asyncio.Future[Any], value: Any, failed: Exception | None) -> None:
    if future.done():
        return
    if failed is None:
        future.set_result(value)
    else:
        future.set_exception(failed)


class Outlet:
    """The way to one place. `written` and `dropped` count events; `failing` says why the place takes none now."""

    def __init__(self, name: str, place: Place, *, most: int, clock: Any, says: Any) -> None:
        self.name = name
        self.written = 0
        self.dropped = 0
        self.failing: str | None = None
        self._place = place
        self._most = most
        self._clock = clock
        self._says = says
        self._events: deque[audit.Event] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._alarmed = False  # whether the log says that something is wrong
        self._told_at: float | None = None
        self._lost = 0  # since it last said that nothing is
        self._one_by_one = False
        self._aside = _Aside(name)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._events)

    def put(self, event: audit.Event) -> None:
        """Let the place have `event` soon, or drop it where too many wait."""
        if len(self._events) >= self._most:
            self._drop(1)
            self._alarm(self.failing or "it is too slow")
            return
        self._events.append(event)
        self._wake.set()

    async def close(self, seconds: float) -> None:
        """Let the place take what waits, for so many seconds, and let go of it."""
        self._closing = True
        self._wake.set()
        await within(self._clock, seconds, self._task)
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._events:
            self._drop(len(self._events))
            self._says.error("audit events lost at the end", to=self.name, events=len(self._events))
        self._aside.run(self._place.close).add_done_callback(_looked_at)
        self._aside.end()

    async def _serve(self) -> None:
        await self._write([])  # whether the place can be reached is said at the start, not at the first login
        while self._events or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            if not self._closing:
                await pause(self._clock, GATHER)
            wait = PAUSE
            while self._events:
                batch = list(islice(self._events, 1 if self._one_by_one else BATCH))
                if await self._write(batch):
                    wait = PAUSE
                    continue
                if self._closing:
                    return
                await pause(self._clock, wait)
                wait = min(2 * wait, LONGEST_PAUSE)

    async def _write(self, batch: list[audit.Event]) -> bool:
        """Whether anything became of `batch`."""
        try:
            count = await self._aside.run(lambda: self._place.write(batch))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                self._fails(error.strerror or str(error))
                return False
            return self._refused(batch, error)
        except Exception as error:  # noqa: BLE001 - one event's trouble must not be the others'
            return self._refused(batch, error)
        for _ in range(count):
            self._events.popleft()
        self.written += count
        self._one_by_one = False
        self._heals()
        return True

    def _refused(self, batch: list[audit.Event], error: Exception) -> bool:
        """There is an event that the place will never take: find it, and leave it out."""
        if len(batch) == 1:
            self._events.popleft()
            self._drop(1)
            self._says.error("audit event left out", to=self.name, reason=type(error).__name__)
        self._one_by_one = len(batch) > 1
        return bool(batch)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._lost += count

    def _fails(self, reason: str) -> None:
        self.failing = reason
        self._alarm(reason)

    def _alarm(self, reason: str) -> None:
        now = self._clock.seconds()
        if self._alarmed or (self._told_at is not None and now - self._told_at < QUIET):
            return
        self._alarmed, self._told_at = True, now
        self._says.error("audit trail interrupted", to=self.name, reason=reason, waiting=len(self._events))

    def _heals(self) -> None:
        self.failing = None
        if self._alarmed and not self._events:
            self._says.warning("audit trail goes on", to=self.name, dropped=self._lost)
            self._alarmed, self._lost = False, 0


def _looked_at(future: asyncio.Future[Any]) -> None:
    """What it raised is of no use to anybody."""
    if not future.cancelled():
        future.exception()


class Trail:
    """All places of a process: `record` an event, `close` at the end."""

    def __init__(self, places: dict[str, Place], *, logs: bool, most: int, clock: Any, says: Any) -> None:
        self.outlets = tuple(
            Outlet(name, place, most=most, clock=clock, says=says) for name, place in places.items()
        )
        self._logs = logs

    @property
    def record(self) -> Callable[[audit.Event], None]:
        """What takes an event, at once."""
        return log.record if self._logs and not self.outlets else self._record

    def _record(self, event: audit.Event) -> None:
        if self._logs:
            log.record(event)
        for outlet in self.outlets:
            outlet.put(event)

    @property
    def written(self) -> dict[str, int]:
        """How many events each place has taken."""
        return {outlet.name: outlet.written for outlet in self.outlets}

    @property
    def dropped(self) -> dict[str, int]:
        """How many events each place was not given, as too many waited."""
        return {outlet.name: outlet.dropped for outlet in self.outlets}

    @property
    def failing(self) -> dict[str, str]:
        """Why a place takes nothing now, for those that don't."""
        return {outlet.name: outlet.failing for outlet in self.outlets if outlet.failing is not None}

    async def close(self, seconds: float = FAREWELL) -> None:
        """Let each place take what waits, for so many seconds."""
        await asyncio.gather(*(outlet.close(seconds) for outlet in self.outlets))


def trail_of(settings: Audit, *, clock: Any, says: Any) -> Trail:
    """The places that the configuration names."""
    places: dict[str, Place] = {}
    if "file" in settings.to and settings.file:
        mode = 0o640 if settings.file_group_reads else 0o600
        places["file"] = JsonLines(
            settings.file, mode=mode, rotate_bytes=settings.rotate_bytes, keep_files=settings.keep_files
        )
    if "journald" in settings.to:
        places["journald"] = Journald(settings.journald_socket)
    if "syslog" in settings.to and settings.syslog:
        places["syslog"] = Syslog(SyslogServer.parse(settings.syslog), settings.syslog_ca_file)
    return Trail(places, logs="log" in settings.to, most=settings.queue, clock=clock, says=says)


async def tell_changes(store: Store, record: Callable[[audit.Event], None], clock: Any) -> None:
    """Record what was changed, by whomever: each change by one process; until cancelled."""
    while True:
        with suppress(StoreDown):  # what was not taken is there next time
            for change in await store.take_changes():
                record(change)
        await pause(clock, LOOK)
