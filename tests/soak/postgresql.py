"""What happens to the proxy while PostgreSQL is its store: each fault as in `faults`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from system.servers.common import wait_for
from system.servers.postgresql import Postgresql

from soak.faults import kill_workers
from soak.stage import Fault, Stage

#: A commit that is told of survives whatever happens to the machine.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


async def _postgresql(stage: Stage) -> dict[str, Any]:
    stage.cluster = Postgresql(**DURABLE)
    stage.stack.push_async_callback(asyncio.to_thread, stage.cluster.stop)
    stage.database = await asyncio.to_thread(lambda: stage.cluster.start().database())
    return {"store_url": stage.cluster.url(stage.database)}


async def _with_standby(stage: Stage) -> dict[str, Any]:
    """It tells of no commit that its standby has not got."""
    await _postgresql(stage)
    await asyncio.to_thread(_follow, stage)
    return {"store_url": stage.cluster.url(stage.database, stage.standby)}


def _follow(stage: Stage) -> None:
    stage.standby = stage.cluster.standby(**DURABLE)
    stage.stack.callback(stage.standby.stop)
    wait_for(lambda: stage.cluster.sql("SELECT state FROM pg_stat_replication") == [("streaming",)], 30)
    stage.cluster.configure("synchronous_standby_names", "standby")


async def kill_postgresql(stage: Stage) -> None:
    """All of its processes at once; it is started again after five seconds."""
    _signal(stage, signal.SIGKILL)
    await stage.lasts(5)
    await asyncio.to_thread(stage.cluster.process.stop)
    await asyncio.to_thread(stage.cluster.run)


async def stop_postgresql(stage: Stage) -> None:
    """None of its processes goes on; the connections live, and nobody answers."""
    _signal(stage, signal.SIGSTOP)
    try:
        await stage.lasts(12)
    finally:
        _signal(stage, signal.SIGCONT)


async def fail_over(stage: Stage) -> None:
    """It is gone for good; after three seconds its standby takes over."""
    _signal(stage, signal.SIGKILL)
    await stage.lasts(3)
    await asyncio.to_thread(stage.standby.promote)


def _signal(stage: Stage, number: int) -> None:
    for pid in stage.cluster.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


FAULTS = (
    Fault("postgresql-worker", "kill -9 of one of two workers, four times; PostgreSQL is the store", kill_workers, proxy={"workers": 2}, prepare=_postgresql),
    Fault("postgresql-killed", "kill -9 of all of PostgreSQL; it is back after 5 s", kill_postgresql, prepare=_postgresql),
    Fault("postgresql-hung", "none of PostgreSQL's processes goes on, for 12 s", stop_postgresql, prepare=_postgresql),
    Fault("postgresql-standby", "kill -9 of all of PostgreSQL; its standby takes over after 3 s", fail_over, prepare=_with_standby),
)
