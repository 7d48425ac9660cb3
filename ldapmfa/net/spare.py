"""Links that saw nothing but a login, and wait for another one.

Promised here: nobody is bound on a link that is given out, which only a bind as nobody that succeeded proves, and the
directory has said nothing on it since. Not in here: connecting, and whoever binds next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.link import Link, read_result
from ldapmfa.wire import ldap
from ldapmfa.wire.ldap import Frame

#: How long a login waits for a link that another one gives back, in seconds; then it opens one.
_RETURNING: Final = 0.1


class Spares:
    """At most `most` links, for at most `seconds`, none of them older than `age`; `clock` is an IReactorTime.

    `wanted` says of a link whether it leads where a fresh one would.
    """

    def __init__(
        self,
        clock: Any,
        most: int,
        seconds: float,
        age: float = float("inf"),
        wanted: Callable[[Link], bool] = lambda _link: True,
    ) -> None:
        self._clock = clock
        self._most = most
        self._seconds = seconds
        self._age = age
        self._wanted = wanted
        self._spare: list[Link] = []  # those used last come last
        self._returning = 0  # links that are being bound as nobody
        self._awaited: deque[asyncio.Future[Link | None]] = deque()  # by those who wait for one of these
        self._clearing: Any = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._spare)

    async def take(self) -> Link | None:
        """A link on which nobody is bound, if there is one, or soon will be."""
        while self._spare:
            link = self._spare.pop()
            if self._is_good(link):
                return link
            link.close()
        if len(self._awaited) < self._returning:
            returned = await self._return()
            if returned and self._is_good(returned):
                return returned
            if returned:
                returned.close()
        return None

    async def _return(self) -> Link | None:
        """The next link that is given back and free; None if it turns out to be none."""
        awaited: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        timer = self._clock.callLater(_RETURNING, _give_up, awaited)
        try:
            return await awaited
        except asyncio.CancelledError:
            link = awaited.result() if awaited.done() and not awaited.cancelled() else None
            if link:
                self._keep_spare(link)
            raise
        finally:
            if timer.active():
                timer.cancel()

    def give_back(self, link: Link) -> None:
        """Nobody uses `link` any more: if it is clean and a bind as nobody succeeds, it serves another login.

        Nothing else proves that nobody is bound (a failed bind does not), so any other link is closed.
        """
        if not self._is_good(link) or len(self._spare) + self._returning >= self._most:
            link.close()
            return
        link.detach()
        asked = link.ask(ldap.BIND_AS_NOBODY)
        self._returning += 1
        asked.add_done_callback(lambda answer: self._returned(link, answer))

    def _returned(self, link: Link, answer: asyncio.Future[tuple[Frame, list[ldap.Entry]]]) -> None:
        """The bind as nobody was answered, or the link is lost: whoever waits for a link hears of it."""
        self._returning -= 1
        nobody = False
        if not answer.cancelled() and not answer.exception():
            with suppress(DirectoryDown):
                nobody = read_result(answer.result()[0]).code == ldap.SUCCESS
        usable = nobody and self._is_good(link) and not self._closed
        if not usable:
            link.close()
        link.used = True
        while self._awaited:
            awaited = self._awaited.popleft()
            if not awaited.done():
                awaited.set_result(link if usable else None)
                return
        if usable:
            self._keep_spare(link)

    def _is_good(self, link: Link) -> bool:
        """Whether it may serve a login."""
        return link.clean and link.made + self._age > self._clock.seconds() and self._wanted(link)

    def sort_out(self) -> None:
        """Close those that are not wanted any more."""
        spare, self._spare = self._spare, []
        for link in spare:
            if self._wanted(link):
                self._spare.append(link)
            else:
                link.close()

    def _keep_spare(self, link: Link) -> None:
        if self._closed:
            link.close()
            return
        link.spare_since = self._clock.seconds()
        self._spare.append(link)
        if self._clearing is None:
            self._clearing = self._clock.callLater(self._seconds, self._clear)

    def _clear(self) -> None:
        """Close the links that have been spare for long."""
        self._clearing = None
        since = self._clock.seconds() - self._seconds
        spare, self._spare = self._spare, []
        for link in spare:
            if link.alive and link.spare_since > since and link.made + self._age > self._clock.seconds():
                self._spare.append(link)
            else:
                link.close()
        if self._spare:
            oldest = min(link.spare_since for link in self._spare)
            self._clearing = self._clock.callLater(max(0.1, oldest - since), self._clear)

    def close(self) -> None:
        """Close what nobody uses."""
        self._closed = True
        if self._clearing:
            self._clearing.cancel()
            self._clearing = None
        spare, self._spare = self._spare, []
        for link in spare:
            link.close()


def _give_up(awaited: asyncio.Future[Link | None]) -> None:
    if not awaited.done():
        awaited.set_result(None)
