"""The machine and the services: open files, memory, time-outs that go together, who keeps the clock, who answers.

Not in here: the running proxy itself (`process`).
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ldapmfa.cli import services as trials
from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.config import Config
from ldapmfa.net.descriptors import wanted

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.patient import Patient

_SERVICES: Final = Area("services")
_LIMITS: Final = Area("limits")
#: KiB that a process takes, and that a connected client does: docs/explanation/performance.md has the measures.
_PROCESS, _CLIENT = 80 << 10, 40
#: The seconds after which Active Directory ends an idle connection (MaxConnIdleTime).
_IDLE: Final = 900
_UNSYNCHRONISED: Final = 5  # adjtimex's TIME_ERROR


def services(patient: Patient) -> Iterator[Finding]:
    """Every service that is asked: its health, which asks nobody."""
    found = asyncio.run(trials.check(patient.config))
    for health in found:
        key = f"factors.{health.service}"
        for broken in health.broken:
            fix = f"`ldapmfa factor test {health.service} --user NAME` tries it step by step."
            yield _SERVICES.broken(key, broken, fix)
        if not health.broken:
            yield _SERVICES.ok(key, f"{health.kind}: {health.found}")
    if not found:
        yield _SERVICES.skipped("factors", "nobody is asked by a service")


def limits(patient: Patient) -> Iterator[Finding]:
    """Whether what the configuration allows fits the machine."""
    config = patient.config
    yield _open_files(config, patient.pid)
    yield _memory(config)
    idle = config.limits.idle_timeout
    if not idle or idle >= _IDLE:
        yield _LIMITS.warning(
            "limits.idle_timeout",
            f"it is {idle:g}: Active Directory ends idle connections after {_IDLE} s, and programs see them break",
            "Set idle_timeout = 840 in [limits].",
        )
    else:
        yield _LIMITS.ok("limits.idle_timeout", f"{idle:g} s, less than Active Directory's {_IDLE}")
    for listen in config.listen:
        seconds = listen.deadline or config.login.deadline
        if seconds > config.limits.bind_timeout:
            yield _LIMITS.warning(
                f"listener {listen.name}",
                f"deadline is {seconds:g} s, and a client that was refused once is closed after bind_timeout,"
                f" {config.limits.bind_timeout:g} s",
                f"Set bind_timeout = {seconds + 60:g} in [limits].",
            )


def _open_files(config: Config, pid: int | None) -> Finding:
    need = wanted(config, config.limits.connections)
    who = "a process started here"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if pid is not None:
        found = re.search(r"Max open files\s+\S+\s+(\d+)", _read(f"/proc/{pid}/limits"))
        if found:
            who, hard = f"the running process {pid}", int(found[1])
    text = f"{who} may open {hard} files, and {config.limits.connections} clients need {need}"
    if hard != resource.RLIM_INFINITY and hard < need:
        fix = f"Set LimitNOFILE={need} in the systemd unit (ulimit -Hn elsewhere), or lower limits.connections."
        return _LIMITS.warning("open files", text, fix)
    return _LIMITS.ok("open files", text)


def _memory(config: Config) -> Finding:
    found = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    if not found:
        return _LIMITS.skipped("memory", "/proc/meminfo can't be read")
    total = int(found[1])
    table = config.limits
    need = config.service.workers * (_PROCESS + table.connections * _CLIENT + (table.buffered_bytes >> 10))
    text = f"the machine has {total >> 10} MiB, and as many clients as are allowed may take {need >> 10} MiB"
    if need > total:
        fix = "Lower limits.connections, limits.buffered_bytes or service.workers, or give it more memory."
        return _LIMITS.warning("memory", text, fix)
    return _LIMITS.ok("memory", text)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def kept_right(area: Area) -> Finding:
    """Whether the kernel knows that something sets its clock."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # all zero: it only asks
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return area.skipped("this machine", "the kernel does not say whether its clock is kept right")
    if state == _UNSYNCHRONISED:
        fix = "Run chrony or systemd-timesyncd (`timedatectl set-ntp true`)."
        return area.warning("this machine", "nothing keeps its clock right, says the kernel", fix)
    return area.ok("this machine", "its clock is kept right, says the kernel")
