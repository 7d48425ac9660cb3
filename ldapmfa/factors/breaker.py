"""A service behind a circuit breaker: when it has failed, logins are answered at once, and it is tried again aside.

Promised here: after the table's `failures` in a row, or when the service asks to be left alone (Retry-After), no login
waits for it; its health is asked for every `probe_seconds` until it is there again; then one login tries it before all
do. While the breaker is open it is an outage only as long as the last probe found the service unreachable. What an
outage opens lasts `fail_open_minutes` at most, counted from its first failure until a login works again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from ldapmfa.errors import FactorDown, FactorResting, FactorUnreachable

if TYPE_CHECKING:
    from ldapmfa.config import ServiceTable
    from ldapmfa.core.secret import Secret
    from ldapmfa.factors.service import Answer, CodeSent, Prompt, Service, Started, Waiting

Value = TypeVar("Value")

#: The longest that a service is left alone because it says so, in seconds.
REST: Final = 300.0
State = Literal["closed", "open", "trial"]


class Guarded:
    """The service called `name`. `clock` gives seconds that only grow, `sleep` waits by it, `keep` runs a coroutine.

    `says` is told when the breaker opens or closes, and why.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        table: ServiceTable,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        keep: Callable[[Coroutine[Any, Any, None]], None],
        says: Callable[[str, str, str], None] = lambda _name, _state, _why: None,
    ) -> None:
        self.name = name
        self.service = service
        self.table = table
        self.state: State = "closed"
        self._clock = clock
        self._sleep = sleep
        self._keep = keep
        self._says = says
        self._failures = 0
        self._trying = False
        self._closed = False
        self._outage = False  # what the last probe found, while the breaker is open
        self._rests = False  # the service wants to be left alone
        self._unreachable_since: float | None = None

    async def start(self, prompt: Prompt) -> Started:
        """As `Service.start`; at once, while the breaker is open."""
        return await self._through(lambda: self.service.start(prompt))

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """As `Service.verify`; at once, while the breaker is open."""
        return await self._through(lambda: self.service.verify(prompt, code, sent))

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """As `Service.wait`."""
        return await self.service.wait(prompt, waiting)

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """As `Service.cancel`."""
        await self.service.cancel(prompt, waiting)

    async def may_open(self) -> bool:
        """Whether the service's own health says that it can't be reached either, and that not for too long.

        One request that found nobody may be our own fault, or the network's, for a moment.
        """
        since = self._unreachable_since
        if since is None or self._clock() - since > self.table.fail_open_minutes * 60:
            return False
        probed = self.state == "open" and self._outage
        if not probed and not self._rests:
            await self._look()
        return self._outage

    async def close(self) -> None:
        """Nobody asks the service any more, not even for its health."""
        self._closed = True
        await self.service.close()

    async def _through(self, call: Callable[[], Awaitable[Value]]) -> Value:
        if self.state == "open" or (self.state == "trial" and self._trying):
            down = FactorUnreachable if self.state == "open" and self._outage else FactorResting
            raise down(f"{self.name}: has failed, and is being tried again")
        trial = self._trying = self.state == "trial"
        try:
            value = await call()
        except FactorDown as error:
            self._failed(error)
            raise
        finally:
            if trial:
                self._trying = False
        self._failures = 0
        self._unreachable_since = None
        self._outage = False
        if self.state == "trial":
            self.state = "closed"
            self._says(self.name, "closed", "it works again")
        return value

    def _failed(self, error: FactorDown) -> None:
        self._failures += 1
        self._note_outage(error)
        if self.state == "open":
            return  # of those that were under way when it opened
        if self.state == "trial" or error.retry_after is not None or self._failures >= self.table.failures:
            # well by its own account, but not for a login: the next one tries it in a while, not each in turn
            before_trial = self.table.probe_seconds if self.state == "trial" else 0.0
            self.state, self._outage, self._rests = "open", False, error.retry_after is not None
            self._says(self.name, "open", str(error))
            self._keep(self._probe(min(error.retry_after or 0.0, REST), before_trial))

    def _note_outage(self, error: Exception) -> None:
        if isinstance(error, FactorUnreachable) and self._unreachable_since is None:
            self._unreachable_since = self._clock()

    async def _probe(self, rest: float, before_trial: float) -> None:
        """Ask for its health until it is well, and `before_trial` seconds later let a login try it."""
        table = self.table
        while not self._closed:
            if rest > 0:
                await self._sleep(rest)
            self._rests = False
            error = await self._look()
            if error is None:
                if before_trial > 0:
                    await self._sleep(before_trial)
                self.state = "trial"
                return
            rest = max(table.probe_seconds, min(getattr(error, "retry_after", None) or 0.0, REST))

    async def _look(self) -> Exception | None:
        """What is wrong with its health; whether that is an outage is kept."""
        try:
            async with asyncio.timeout(self.table.connect_timeout + 2 * self.table.response_timeout):
                await self.service.health()
        except Exception as error:  # noqa: BLE001 - a plug-in's bug must not leave the breaker open for ever
            self._outage = isinstance(error, FactorUnreachable)
            self._note_outage(error)
            return error
        self._outage = self._rests = False
        return None
