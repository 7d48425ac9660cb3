"""What happens when an account's owner says that it is somebody else who is logging in.

Promised here: the account is blocked before anybody hears of the answer; its record, what it drops and what people are
to be told are in the block's transaction; its connections of this process are ended at once (other processes look for
them in the store). If the store fails at that moment, it is said critically, and tried again until the block is
written, every `RETRY` seconds for `RETRIED`: meanwhile the store lets nobody in. Not in here: that the login itself is
refused, which does not depend on any of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.audit import AccountChanged
from ldapmfa.errors import StoreDown
from ldapmfa.net.waiting import pause

if TYPE_CHECKING:
    from ldapmfa.core.identity import Identity
    from ldapmfa.store import Store

#: Seconds from one try to write a block to the next: few, as logins are let in again when the store is well.
RETRY: Final = 1.0
#: Seconds after which nobody tries any more; the log has said whom to block by hand.
RETRIED: Final = 3600.0
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Report:
    """An owner's word that it was somebody else, said to `service` of a login at `application` from `client`."""

    identity: Identity
    service: str
    application: str
    client: str


@dataclass(frozen=True, slots=True)
class Measures:
    """What is done about a report: the account is blocked for `days`, and people are told by these `ways`.

    `cut` ends an account's live connections in this process; `critical` is a log's.
    """

    days: float = 90.0
    ways: tuple[str, ...] = ()
    cut: Callable[[str], None] = lambda _account: None
    critical: Callable[..., None] = lambda _what, **_fields: None


class Precaution:
    """Takes the `measures`, on a store. `now` gives seconds since the epoch, `keep` runs what may outlive a login."""

    __slots__ = ("_clock", "_keep", "_measures", "_now", "_store")

    def __init__(
        self,
        store: Store,
        measures: Measures,
        *,
        clock: Any,
        now: Callable[[], float],
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._store = store
        self._measures = measures
        self._clock = clock
        self._now = now
        self._keep = keep

    async def take(self, report: Report) -> None:
        """Block the account; this returns when that is durable, or when the store has failed once.

        Whoever waits may be cancelled: it is done all the same.
        """
        await asyncio.shield(self._keep(self._take(report)))

    async def _take(self, report: Report) -> None:
        at, account = self._now(), report.identity.key
        said = {"account": account, "service": report.service, "application": report.application}
        self._measures.critical("fraud reported", client=report.client, **said)
        try:
            await self._block(report, at)
        except StoreDown as down:
            self._measures.critical("block not written, trying again", reason=str(down), **said)
            self._keep(self._block_later(report, at, said))
        self._measures.cut(account)

    async def _block_later(self, report: Report, at: float, said: dict[str, str]) -> None:
        end = self._clock.seconds() + RETRIED
        while self._clock.seconds() < end:
            await pause(self._clock, RETRY)
            try:
                await self._block(report, at)
            except StoreDown:
                continue
            self._measures.critical("block written at last", **said)
            self._measures.cut(report.identity.key)
            return
        self._measures.critical("block given up: block the account by hand", **said)

    async def _block(self, report: Report, at: float) -> None:
        identity, measures = report.identity, self._measures
        until = at + measures.days * _DAY
        reason = f"fraud reported at {report.service}"
        change = AccountChanged(at=at, action="blocked", account=identity.key, actor="owner", detail=reason)
        told = {
            "what": "fraud",
            "account": identity.key,
            "dn": identity.dn,
            "name": identity.upn or next(iter(identity.accounts), identity.dn),
            "service": report.service,
            "application": report.application,
            "client": report.client,
            "at": at,
            "until": until,
        }
        await self._store.block(identity, until, reason, change, notices=[(way, told) for way in measures.ways])
