"""What happens to the proxy while people log in: each fault by name, begun and ended by one coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pyotp
from fakes.webhook import APPROVED, Approvals
from playbook import bind
from system.servers.common import wait_for

from ldapmfa.core.secret import Secret
from ldapmfa.factors.hotp import base32
from soak.disturbances import Middleman, Names, SmallDisk, bound_over
from soak.ledger import Request
from soak.load import Gone, Line
from soak.stage import Fault, Stage

#: Set by `python -m tests.soak` where it runs in a mount namespace of its own.
INSIDE = "LDAPMFA_SOAK_MOUNTS"


def _no_mounts() -> str:
    return "" if os.environ.get(INSIDE) else "needs root, to mount something in a namespace of its own"


# -- processes that are killed


async def kill_workers(stage: Stage) -> None:
    """One of the two, each in its turn, when both listen."""
    for turn in range(stage.times(4)):
        pids = await asyncio.to_thread(_two_workers, stage, turn)
        os.kill(pids[1 + turn % 2], signal.SIGKILL)
        await stage.lasts(3)


def _two_workers(stage: Stage, replaced: int) -> dict[int, int]:
    wait_for(lambda: len(stage.proxy.logged("listening")) == 2 + replaced, 60)
    return stage.proxy.children()


async def kill_all(stage: Stage) -> None:
    """The parent, and with it its workers; then it is started again."""
    for _ in range(stage.times(3)):
        children = set(stage.proxy.children().values())
        stage.proxy.process.popen.kill()
        stage.proxy.process.popen.wait()
        await asyncio.to_thread(wait_for, lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30)  # noqa: B023
        await stage.lasts(1)
        started = stage.proxy.log.stat().st_size
        await asyncio.to_thread(_start_again, stage, started)
        await stage.lasts(3)


def _start_again(stage: Stage, seen: int) -> None:
    log = stage.proxy.log
    log.rename(log.with_name(f"proxy.{seen}.log"))
    stage.proxy.start()


# -- the store


async def _small_disk(stage: Stage) -> dict[str, Any]:
    stage.disk = SmallDisk(stage.path / "small", 8)
    stage.stack.callback(stage.disk.close)
    (stage.path / "proxy").mkdir()
    (stage.path / "proxy/state.db").symlink_to(stage.path / "small/state.db")
    return {}


async def fill_disk(stage: Stage) -> None:
    """To the last octet, for six seconds; whatever becomes free meanwhile is filled, too.

    The journal is emptied first: what fits into it as it is could be written to a full disk.
    """
    with contextlib.closing(sqlite3.connect(stage.proxy.path / "state.db", timeout=5)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    end = time.monotonic() + 6 * stage.pace
    while time.monotonic() < end:
        await asyncio.to_thread(stage.disk.fill)
        await asyncio.sleep(0.5)
    stage.disk.free()


async def lock_store(stage: Stage) -> None:
    """Another process's transaction, for three seconds, and for eight."""
    for seconds in (3, 8):
        with contextlib.closing(sqlite3.connect(stage.proxy.path / "state.db", isolation_level=None, timeout=30)) as other:
            await _begin(other)
            await stage.lasts(seconds)
            other.execute("ROLLBACK")
        await stage.lasts(2)


async def _begin(other: sqlite3.Connection) -> None:
    other.execute("PRAGMA busy_timeout=0")
    while True:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            await asyncio.sleep(0.001)
        else:
            return


# -- the directory


async def hang_directory(stage: Stage) -> None:
    """It accepts connections (the kernel does), and answers nothing."""
    pid = stage.slapd.process.popen.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await stage.lasts(15)
    finally:
        os.kill(pid, signal.SIGCONT)


async def kill_directory(stage: Stage) -> None:
    """And start it again, after five seconds."""
    stage.slapd.process.popen.kill()
    stage.slapd.process.popen.wait()
    await stage.lasts(5)
    await asyncio.to_thread(stage.slapd.restart)


async def _middleman(stage: Stage) -> dict[str, Any]:
    stage.middle = await stage.stack.enter_async_context(Middleman(stage.slapd.host, stage.slapd.port))
    return {"to_directory": f'uris = ["{stage.middle.uri}"]'}


async def slow_directory(stage: Stage) -> None:
    """Every piece of its answers comes a second late."""
    stage.middle.delay = 1.0
    await stage.lasts(15)
    stage.middle.delay = 0.0


async def cut_directory(stage: Stage) -> None:
    """Its connections end within an answer, after more and more octets of it."""
    for octets in range(10):
        stage.middle.cut_after = octets
        await stage.lasts(1)
    stage.middle.cut_after = None


async def _names(stage: Stage) -> dict[str, Any]:
    stage.names = await stage.stack.enter_async_context(Names())
    over = Path("/etc/resolv.conf")
    bound_over(f"nameserver {Names.ADDRESS}\noptions timeout:2 attempts:2\n", over, stage.path / "resolv.conf")
    stage.stack.callback(subprocess.run, ["umount", str(over)], check=False)
    return {"to_directory": f'uris = ["ldap://directory.example.test:{stage.slapd.port}"]'}


async def lose_names(stage: Stage) -> None:
    """The name server does not answer."""
    stage.names.silent = True
    await stage.lasts(15)
    stage.names.silent = False
    stage.notes["names_asked"] = stage.names.asked


# -- the service


async def _webhook(stage: Stage) -> dict[str, Any]:
    stage.service = await stage.stack.enter_async_context(Approvals(stage.path, tls=False, host="127.0.0.1"))
    stage.service.says = {"poll": APPROVED}
    services = {"webhook": stage.service.table | {"connections": 100}}
    return {"services": services, "login": 'factors = ["webhook", "hotp"]\nprompts = 1000\ncode = "delimiter"'}


async def hang_service(stage: Stage) -> None:
    """It accepts, and never answers."""
    stage.service.disturb("slow")
    await stage.lasts(20)
    stage.service.calm()


# -- too much


async def burst(stage: Stage) -> None:
    """Ten thousand connections at once, from eight addresses, which stay for five seconds."""
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        opened = await asyncio.to_thread(_connect, stack, stage, 10_000)
        stage.notes["connects"] = opened
        stage.notes["connects_in_seconds"] = round(time.monotonic() - began, 1)
        await stage.lasts(5)


def _connect(stack: contextlib.ExitStack, stage: Stage, count: int) -> int:
    opened = 0
    for number in range(count):
        link = stack.enter_context(socket.socket())
        link.setblocking(False)
        link.bind((f"127.0.1.{number % 8 + 1}", 0))
        opened += link.connect_ex((stage.proxy.host, stage.proxy.port)) in (0, 115)
    return opened


async def exhaust_descriptors(stage: Stage) -> None:
    """The process may have a hundred, and idle clients take all of them, for eight seconds."""
    pid = stage.proxy.process.popen.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(_connect, stack, stage, 300)
        await stage.lasts(8)
        stage.notes["descriptors"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    await asyncio.sleep(3)
    stage.notes["descriptors_afterwards"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


# -- time

_FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def _no_faketime() -> str:
    return "" if _FAKETIME else "libfaketime is not installed (Debian package libfaketime)"


async def _faked(stage: Stage, clock: str) -> dict[str, Any]:
    """The proxy's clock, and not its monotonic one, is told by a file."""
    stage.clock = stage.path / "clock"
    stage.clock.write_text(clock)
    words = {
        "LD_PRELOAD": str(_FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(stage.clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }  # fmt: skip
    return {"environment": words}


async def _stepped(stage: Stage) -> dict[str, Any]:
    return await _faked(stage, "+0")


async def fast_clock(stage: Stage) -> dict[str, Any]:
    """A clock on which some ten minutes are a week, where libfaketime is there to make it."""
    stage.speed = 1000 if _FAKETIME else 1
    return await _faked(stage, f"+0 x{stage.speed}") if _FAKETIME else {}


async def step_clock(stage: Stage) -> None:
    """An hour on, two back, one on; a TOTP code used at each time is tried again at each later one."""
    user = stage.slapd.user("bulk0900")
    token = await asyncio.to_thread(stage.proxy.enrol_account, user.account, "totp")
    otp = pyotp.TOTP(base32(Secret(token.secret)))
    used: list[int] = []
    for offset in (0, 3600, -3600, 0):
        stage.clock.write_text(f"{offset:+d}")
        await asyncio.sleep(1.5)
        step = int(time.time() + offset) // 30
        for old in used:
            await _try(stage, "replay", user, otp.generate_otp(old), old)
        code = await _try(stage, "totp", user, otp.generate_otp(step), step)
        stage.notes.setdefault("totp_codes", []).append((offset, code))
        if code == 0:
            used.append(step)
        await stage.lasts(4)


async def _try(stage: Stage, what: str, user: Any, code: str, step: int) -> Any:
    written = stage.ledger.write(Request(what, user.name, step, time.monotonic()))
    try:
        async with Line(stage.proxy.host, stage.proxy.port) as line:
            written.answer, _ = await line.ask(lambda number: bind(number, user.dn, user.password + code))
    except Gone as gone:
        written.answer = "cut" if gone.code is None else gone.code
    written.seconds = time.monotonic() - written.began
    return written.answer


FAULTS = (
    Fault("kill-worker", "kill -9 of one of two workers, four times", kill_workers, proxy={"workers": 2}),
    Fault("kill-proxy", "kill -9 of the proxy and its workers, three times; then a start", kill_all, proxy={"workers": 2}),
    Fault("disk-full", "no octet is left where the store lies, for 6 s", fill_disk, prepare=_small_disk, missing=_no_mounts),
    Fault("store-locked", "another process's transaction, for 3 s and for 8 s", lock_store),
    Fault("directory-hung", "the directory accepts and does not answer, for 15 s", hang_directory),
    Fault("directory-killed", "kill -9 of the directory; another one after 5 s", kill_directory),
    Fault("directory-slow", "each of its answers comes a second late, for 15 s", slow_directory, prepare=_middleman),
    Fault("directory-cut", "its connections end within an answer, for 10 s", cut_directory, prepare=_middleman),
    Fault("service-hung", "the service that asks owners accepts and does not answer, for 20 s", hang_service, prepare=_webhook, asked=8),
    Fault("dns-gone", "the name server does not answer, for 15 s", lose_names, prepare=_names, missing=_no_mounts),
    Fault("burst", "10,000 connections at once, for 5 s", burst),
    Fault("descriptors", "100 descriptors, all in use, for 8 s", exhaust_descriptors),
    Fault("clock", "the clock steps an hour on, two back, one on", step_clock, prepare=_stepped, missing=_no_faketime),
)
