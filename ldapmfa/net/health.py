"""Looks after the servers of a directory aside from the logins, so that no login pays for finding out.

Promised here: every server is asked at an interval, one that is down sooner, at first after a second; at most one check
of a server runs at a time, and whatever clients do, none begins within a second of the last. Not in here: what a check
consists of, and what follows for logins (`servers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.link import Server
from ldapmfa.net.servers import Servers

#: Seconds from one check of a server to the next, at least.
_SOONEST: Final = 1.0


class Unable(DirectoryDown):
    """We could not ask, for want of something of our own: it says nothing of the server."""


class Health:
    """Keeps `servers` up to date. `check(server)` says whether it is synchronised, or raises DirectoryDown.

    `seconds` is the interval; `chance` gives numbers from 0 to 1, which keep several processes out of step; `keep`
    runs a coroutine.
    """

    def __init__(
        self,
        servers: Servers,
        check: Callable[[Server], Awaitable[bool]],
        *,
        clock: Any,
        seconds: float,
        chance: Callable[[], float],
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._servers = servers
        self._check = check
        self._clock = clock
        self._seconds = seconds
        self._chance = chance
        self._keep = keep
        self._timers: dict[Server, Any] = {}
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        self._began: dict[Server, float] = {}
        self._failures: dict[Server, int] = {}

    def begin(self) -> None:
        """Check every server that is not looked after yet, and no longer those that are no servers any more."""
        for server in self._servers:
            if server not in self._timers and server not in self._tasks:
                self._start(server)
        for server in self._timers.keys() - set(self._servers):
            self._timers.pop(server).cancel()
        for server in self._began.keys() - set(self._servers) - self._tasks.keys():
            del self._began[server]
            self._failures.pop(server, None)

    def end(self) -> None:
        """Check nobody any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers = {}
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()

    def hurry(self, server: Server) -> None:
        """Something makes one doubt of `server`: check it now, or a second after it was checked last."""
        if server in self._timers:  # otherwise it is being checked
            self._wait(server, self._began[server] + _SOONEST - self._clock.seconds())

    def _wait(self, server: Server, seconds: float) -> None:
        if timer := self._timers.pop(server, None):
            timer.cancel()
        self._timers[server] = self._clock.callLater(max(0.0, seconds), self._start, server)

    def _start(self, server: Server) -> None:
        self._timers.pop(server, None)
        self._began[server] = self._clock.seconds()
        self._tasks[server] = self._keep(self._look(server))

    async def _look(self, server: Server) -> None:
        wait = self._seconds * (0.9 + 0.2 * self._chance())
        try:
            synchronised = await self._check(server)
        except Unable:
            pass
        except DirectoryDown as down:
            failures = self._failures[server] = self._failures.get(server, 0) + 1
            wait = min(wait, _SOONEST * 2 ** min(failures - 1, 16))
            self._servers.down(server, str(down))
        else:
            self._failures.pop(server, None)
            self._servers.well(server, synchronised=synchronised)
        finally:
            if self._tasks.pop(server, None) and server in set(self._servers):
                self._wait(server, wait)
