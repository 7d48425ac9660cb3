"""Waiting by a clock that is a parameter: Twisted's, which is asyncio's where the program runs, and a test's own."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ldapmfa.errors import LdapMfaError


class DeadlineExceeded(LdapMfaError):  # noqa: N818 - named as what is the case
    """The login took longer than it may."""


async def within(clock: Any, seconds: float, future: asyncio.Future[Any]) -> bool:
    """Whether `future` is done after `seconds` by `clock` at most; it is left alone otherwise."""
    if future.done():
        return True
    # asyncio.wait would do, and keep several kilobytes: thousands may wait here
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.callLater(max(0.0, seconds), _settle, over)

    def done(_future: asyncio.Future[Any]) -> None:
        _settle(over)

    future.add_done_callback(done)
    try:
        await over
    finally:
        future.remove_done_callback(done)
        if timer.active():
            timer.cancel()
    return future.done()


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def pause(clock: Any, seconds: float) -> None:
    """Wait, by `clock`."""
    waited = asyncio.get_running_loop().create_future()
    timer = clock.callLater(max(0.0, seconds), waited.cancel)
    try:
        await asyncio.wait([waited])
    finally:
        if timer.active():
            timer.cancel()


class Deadline:
    """`async with Deadline(clock, seconds):` what is not done in time by `clock` is cancelled: DeadlineExceeded.

    As asyncio.timeout, but by a clock that is a parameter. A cancellation from outside stays one.
    """

    def __init__(self, clock: Any, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = False
        self._task: asyncio.Task[Any]

    async def __aenter__(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._timer = self._clock.callLater(self._seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded(f"not done within {self._seconds:g} s") from None
