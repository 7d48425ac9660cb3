"""Which passwords the directory is asked about now: what may be under way at once, and what becomes of each.

Promised here: guesses made in parallel are no more than guesses made one after the other, within this process; several
processes know of each other what is counted, not what is under way (`PasswordLimit.room`). A password that was right a
moment ago is no guess, and waits for nobody. A guess whose client has left is counted like any other, and a wrong one
is durable before anybody is told. Where the directory did not answer, nothing is counted. Not in here: what the limits
are (`ldapmfa.core.throttle`), who has spent how much (`ldapmfa.store.tries`).
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ldapmfa.core.login import says_of_password
from ldapmfa.core.questions import PasswordAnswer, Throttled
from ldapmfa.core.rules import Address, Network, lies_in
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit, source_of
from ldapmfa.errors import StoreDown
from ldapmfa.net.link import Link
from ldapmfa.store import Counted, Store

#: For how long, in seconds, and of how many accounts at most it is known which password was right.
_KNOWN_SECONDS: Final = 300.0
_KNOWN: Final = 10_000
#: Clients that have left and whose passwords are judged all the same; of further ones they count as wrong.
LEFT: Final = 100

Key = tuple[str, ...]
Answered = tuple[Link, PasswordAnswer]


class UnderWay:
    """How many attempts are at the directory, by what they are counted under; who finds no room waits in line."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()
        self._lines: dict[Key, deque[asyncio.Future[None]]] = {}

    def full(self, rooms: Mapping[Key, int], called: Key | None) -> Key | None:
        """Where there is no room, or somebody waits who came before; one who was `called` there came before all."""
        for key, room in rooms.items():
            if self._counts[key] >= room or (key in self._lines and key != called):
                return key
        return None

    def begin(self, keys: Iterable[Key]) -> None:
        """One more is under way."""
        for key in keys:
            self._counts[key] += 1

    def end(self, keys: Iterable[Key]) -> None:
        """It is known what became of one."""
        for key in keys:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
            self.call(key)

    async def wait(self, key: Key, called: Key | None) -> None:
        """Until there may be room: as the last in line, but as the first for who was `called` in vain."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(key, deque())
        line.insert(0 if key == called else len(line), future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.call(key)  # another one may go instead
            raise

    def call(self, key: Key) -> None:
        """Let the next one in line look again."""
        line = self._lines.get(key)
        while line:
            future = line.popleft()
            if not future.done():
                future.set_result(None)
                break
        if line is not None and not line:
            del self._lines[key]


class Right:
    """Which password was right lately for a name as typed, from where: a hash under a key of this process alone."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._known: OrderedDict[Key, tuple[bytes, float]] = OrderedDict()

    def note(self, named: Key, password: Secret) -> None:
        """The directory has just accepted it."""
        self._known[named] = self._hash(password), asyncio.get_running_loop().time() + _KNOWN_SECONDS
        self._known.move_to_end(named)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def forget(self, named: Key) -> None:
        """The directory has refused one: it may have been changed."""
        self._known.pop(named, None)

    def was(self, named: Key, password: Secret) -> bool:
        """Whether it is the one that was right lately."""
        known, until = self._known.get(named, (b"", 0.0))
        if until <= asyncio.get_running_loop().time():
            self._known.pop(named, None)
            return False
        return hmac.compare_digest(known, self._hash(password))

    def _hash(self, password: Secret) -> bytes:
        return hmac.digest(self._key, password.reveal(), "sha256")


class Try:
    """One password that the directory may be asked about: `ask`, or `end`."""

    def __init__(
        self, tries: Tries, counted: Counted, named: Key, keys: Sequence[Key], password: Secret
    ) -> None:
        self.counted = counted
        self._named = named
        self._tries = tries
        self._keys = keys
        self._password: Secret | None = password

    async def ask(self, asked: Awaitable[Answered]) -> Answered:
        """What the directory answers, when it is counted; that goes on without a client that leaves."""
        return await self._tries.finished(self._judged(asked))

    def end(self) -> None:
        """Whatever became of it is counted, or nothing did."""
        if self._password is not None:
            self._password = None
            self._tries.under_way.end(self._keys)

    async def _judged(self, asked: Awaitable[Answered]) -> Answered:
        try:
            link, answer = await asked
            right = says_of_password(answer)
            if right is False:
                self._tries.right.forget(self._named)
                await self._count()
            elif right and self._password is not None:
                self._tries.right.note(self._named, self._password)
            if right and self.counted.failures:
                self._tries.store.forget_wrong(self.counted)
        except asyncio.CancelledError:
            self._tries.keep(self._unseen())
            raise
        except BaseException:
            self.end()
            raise
        self.end()
        return link, answer

    async def _count(self) -> None:
        assert self._password is not None  # noqa: S101 - for mypy; only `end` lets go of it
        with suppress(StoreDown):  # who typed it is refused all the same
            await self._tries.store.count_wrong(self.counted, self._password, self._tries.limit)

    async def _unseen(self) -> None:
        """What the directory found out is not known."""
        try:
            await self._count()
        finally:
            self.end()


class Tries:
    """What all listeners of this process, one of `workers`, let through to the directories.

    `gateways` are where many users come from; `keep` runs what may outlive a login.
    """

    def __init__(
        self,
        limit: PasswordLimit,
        store: Store,
        *,
        keep: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        gateways: Sequence[Network] = (),
        workers: int = 1,
    ) -> None:
        self.limit = limit
        self.store = store
        self.keep = keep
        self.under_way = UnderWay()
        self.right = Right()
        self._gateways = tuple(gateways)
        self._workers = workers
        self._left: set[asyncio.Task[Answered]] = set()

    async def begin(self, directory: str, name: str, client: Address | None, password: Secret) -> Try | Throttled:
        """Whether the directory may be asked: at once, or when enough is known of those that are under way."""
        source, gateway = source_of(client), client is None or lies_in(client, self._gateways)
        called: Key | None = None
        while True:
            try:
                counted, tried = await self.store.tried(directory, name, source, password, self.limit)
            except BaseException:
                self._pass_on(called)
                raise
            barred = self.limit.bars(tried, gateway=gateway)
            if barred:
                self._pass_on(called)
                return Throttled(barred)
            named = (directory, name, source)
            if self.right.was(named, password):
                self._pass_on(called)
                return Try(self, counted, named, (), password)
            room = self.limit.room(tried, gateway=gateway, workers=self._workers)
            keyed = {
                (directory, counted.who, source): room.of_name,
                ("source", source): room.of_source,
                ("strangers",): room.of_strangers,
            }
            rooms = {key: room for key, room in keyed.items() if room is not None}
            full = self.under_way.full(rooms, called)
            if full is None:
                self.under_way.begin(rooms)
                self._pass_on(called)
                return Try(self, counted, named, tuple(rooms), password)
            if full != called:
                self._pass_on(called)
            await self.under_way.wait(full, called)
            called = full

    def _pass_on(self, called: Key | None) -> None:
        """There may be room for the next one, too, or the same to be heard."""
        if called is not None:
            self.under_way.call(called)

    async def finished(self, judging: Coroutine[Any, Any, Answered]) -> Answered:
        """What comes of `judging`, which goes on when whoever waits for it is cancelled."""
        task = self.keep(judging)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if len(self._left) >= LEFT:
                asyncio.get_running_loop().call_soon(task.cancel)  # when it has begun: it counts itself
            self._left.add(task)
            task.add_done_callback(self._forget)
            raise

    def _forget(self, task: asyncio.Task[Answered]) -> None:
        """Nobody uses what was bound."""
        self._left.discard(task)
        if not task.cancelled() and task.exception() is None:
            task.result()[0].close()
