"""Read the configuration again, and put all of it in the old one's place, or nothing.

Promised here: whatever is wrong with the new configuration, in the file or in what it comes to, in any process, the old
one counts on, whole (A44); what changed is logged key by key, a secret only as changed; one reload at a time. SIGHUP
and `ldapmfa reload` are the same. Not in here: how it is made and put in place (`service`, `workers`), and what
differs (`ldapmfa.config.changes`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from ldapmfa import config as configuration
from ldapmfa.config import Config
from ldapmfa.config.changes import Change, changes
from ldapmfa.errors import ConfigError, LdapMfaError
from ldapmfa.net.control import Control
from ldapmfa.net.systemd import Supervisor


class Reloadable(Protocol):
    """What can go by another configuration: `prepare`, then `commit` or `abort`."""

    supervisor: Supervisor
    stopping: bool

    @property
    def config(self) -> Config:
        """The one that counts."""
        ...

    def status(self) -> str:
        """How it is, in plain words."""
        ...

    async def make_ready(self, config: Config) -> None:
        """Make all of it, in every process, so that nothing can fail later. LdapMfaError: nothing has changed."""
        ...

    async def put(self, *, forget: bool) -> None:
        """Let it count, in every process, before this is over; and `forget` which logins were remembered."""
        ...

    async def give_up(self) -> None:
        """Let go of what was made ready, in every process."""
        ...

    def fail(self, bug: BaseException) -> None:
        """End as one that failed."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: what would change or has, or what is wrong."""

    applied: bool
    changes: list[Change]
    mistakes: list[str]
    broken: bool = False  #: whether it was not the configuration's fault

    def as_dict(self) -> dict[str, Any]:
        """As the control socket answers."""
        return asdict(self)


def _same_file(named: object, own: object) -> bool:
    """Whether the file that was `named`, if any was, is our `own`, by whatever path."""
    return not isinstance(named, str) or os.path.realpath(named) == os.path.realpath(str(own))


class Reloading:
    """The reloads of `service`. `stop` ends the program, for a terminal that is gone sends SIGHUP, too."""

    def __init__(self, service: Reloadable, reactor: Any, stop: Callable[[], None], log: Any) -> None:
        self._service = service
        self._reactor = reactor
        self._stop = stop
        self._log = log
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._control: Control | None = None
        self._terminal = os.isatty(2)
        self._to_forget = False  # what was remembered, for it could not be forgotten at the last one
        self.successful = True  #: whether the last one was applied
        self.success_at = time.time()  #: when the configuration that counts was read, in seconds since the epoch

    async def begin(self) -> None:
        """Hear of SIGHUP, and at the control socket."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hung_up))
        path = self._service.config.control_socket
        try:
            self._control = Control(path, self._asked)
            await self._control.begin()
        except OSError as failed:
            self._control = None
            hint = "`ldapmfa reload` can't reach this program; SIGHUP can. service.control names another place"
            self._log.warning("no control socket", path=str(path), reason=failed.strerror or str(failed), hint=hint)

    def end(self) -> None:
        """Hear of nothing any more."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self._control:
            self._control.end()
            self._control = None

    def _hung_up(self) -> None:
        if self._terminal and not os.isatty(2):
            self._stop()  # the terminal is gone, as for any program that runs in one
            return
        if len(self._tasks) > 1:
            return  # one runs, and the one that waits reads what the file says by then
        task = asyncio.ensure_future(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _asked(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("do") != "reload":
            return {"error": "unknown request"}
        if not _same_file(asked.get("config"), self._service.config.source):
            at, own = self._service.config.control_socket, self._service.config.source
            mistake = f"the program that listens at {at} goes by {own}, not by {asked['config']}: set service.control"
            mistake += " in one of them, and restart the program that goes by that"
            return Outcome(applied=False, changes=[], mistakes=[mistake], broken=True).as_dict()
        # a client that goes leaves the reload to its end
        outcome = await asyncio.shield(asyncio.ensure_future(self.reload(check=bool(asked.get("check")))))
        return outcome.as_dict()

    async def reload(self, *, check: bool = False) -> Outcome:
        """Read the file and go by it; with `check` only find out whether that could be done."""
        async with self._lock:
            if self._service.stopping:
                return _ENDING
            self._service.supervisor.reloading()
            try:
                outcome = await self._reload(check=check)
            finally:
                if not self._service.stopping:
                    self._service.supervisor.ready(self._service.status())
            if not check:
                self.successful = outcome.applied
                self.success_at = time.time() if outcome.applied else self.success_at
            return outcome

    async def _reload(self, *, check: bool) -> Outcome:
        found: list[Change] = []
        service = self._service

        def refused(mistakes: list[str], *, broken: bool = False) -> Outcome:
            for mistake in mistakes:
                self._log.error("reload refused", reason=mistake)
            return Outcome(applied=False, changes=found, mistakes=mistakes, broken=broken)

        try:
            new = await asyncio.to_thread(configuration.load, service.config.source)
            found = changes(service.config, new)
            fixed = [f"{change.key}: can't change while the program runs: restart it" for change in found
                     if change.needs_restart]  # fmt: skip
            if fixed:
                return refused(fixed)
            await service.make_ready(new)
        except ConfigError as wrong:
            return refused(wrong.mistakes)
        except LdapMfaError as broken:
            return refused([str(broken)], broken=True)
        except Exception as bug:  # noqa: BLE001 - whatever it is, the old configuration counts on
            await service.give_up()
            return refused([f"a bug: {type(bug).__name__}"], broken=True)
        if check:
            await service.give_up()
            return Outcome(applied=False, changes=found, mistakes=[])
        if service.stopping:
            await service.give_up()
            return _ENDING
        unforgotten: list[str] = []
        self._to_forget = self._to_forget or any(change.is_policy for change in found)
        try:
            await service.put(forget=self._to_forget)
            self._to_forget = False
        except LdapMfaError as broken:
            self._log.error("remembered logins not forgotten", reason=str(broken))
            unforgotten = [f"it is applied, but remembered logins are not forgotten: {broken}: reload once more"]
        except Exception as bug:  # noqa: BLE001 - whatever it is
            # half of one configuration and half of another: started again it has one
            service.fail(bug)
            return Outcome(applied=False, changes=found, mistakes=["a bug: the program is being stopped"], broken=True)
        for change in found:
            self._log.info("setting changed", key=change.key, old=change.old, new=change.new)
        self._log.info("reloaded", changes=len(found))
        return Outcome(applied=True, changes=found, mistakes=unforgotten, broken=bool(unforgotten))


_ENDING: Final = Outcome(applied=False, changes=[], mistakes=["the program is being stopped"], broken=True)
