"""The operating system's side: child processes, what they cost, and places to listen.

Promised here: nothing listens on anything but loopback, and nothing outlives the run: a process is stopped by whoever
started it, and by the kernel's parent-death signal where that one was killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"
ROOT: Final = Path(__file__).resolve().parent.parent
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class StartError(Exception):
    """A process did not come up, or ended; the message holds the end of its log."""


class Missing(Exception):  # noqa: N818 - named as what is the case
    """Something this machine has not: a program, or enough open files."""


def program(name: str) -> str:
    """The path of a system program; /usr/sbin counts even where PATH lacks it."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Missing(f"{name} is not installed; bench/install-packages installs it")
    return found


def free_port() -> int:
    """A port nobody listens on, below those the kernel gives to outgoing connections."""
    for _ in range(1000):
        port = random.randint(20000, 29999)  # noqa: S311 - no secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                return port
    raise StartError(f"no free port on {LOOPBACK}")


class Process:
    """A child in a session of its own, with its output in `log`."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        talks: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`talks`: its standard input and output are pipes, not nothing and the log. `variables`: more of them."""
        self.log = log
        self.name = Path(argv[0]).name
        environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        environment |= variables or {}
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [program("setpriv"), "--pdeathsig", "TERM", *map(str, argv)],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else out,
                stderr=out,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its number; that of setpriv, which becomes the program."""
        return self.popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def wait_until(self, ready: Callable[[], bool], seconds: float = 30, *, every: float = 0.01) -> None:
        """Until `ready`; StartError when the child dies or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise StartError(self.obituary(f"did not answer within {seconds:g} s"))
            time.sleep(every)

    def obituary(self, otherwise: str) -> str:
        """Why there is no answer, with the end of the log."""
        code = self.popen.poll()
        end = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""
        return f"{self.name} {otherwise if code is None else f'ended with {code}'}; the end of its log:\n{end}"

    def stop(self, seconds: float = 10) -> None:
        """TERM to the child, then KILL to whatever is left of its session."""
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


# -- what a process costs


def tree(pid: int) -> list[int]:
    """The process and all its descendants that still run."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of the process tree, its threads that have ended included.

    Read from the processes' own clocks, clock_getcpuclockid(3), which count nanoseconds: /proc/PID/stat counts ticks
    of 10 ms.
    """
    # the number of a clock is made as the kernel's MAKE_PROCESS_CPUCLOCK does, of the kind CPUCLOCK_SCHED
    return sum(time.clock_gettime((~one << 3) | 2) for one in tree(pid))


def resident_kib(pid: int) -> int:
    """Memory of the process tree that is resident now (VmRSS), in KiB."""
    return sum(_status(one, "VmRSS") for one in tree(pid))


def threads(pid: int) -> int:
    """How many threads the process tree has."""
    return sum(_status(one, "Threads") for one in tree(pid))


def connections_to(pid: int, port: int) -> int:
    """How many established connections the process has to `port`; proc_pid_net_tcp(5)."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    with Path(f"/proc/{pid}/net/tcp").open() as lines:
        next(lines)
        rows = (line.split() for line in lines)
        return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" and row[9] in sockets for row in rows)


class Others:
    """How much of the processor was taken by programs that are not ours, from now on until asked."""

    def __init__(self) -> None:
        self._busy, self._all = _ticks()
        self._ours = self._own()

    def share(self) -> float:
        """From 0 to 1. It counts the children that have ended as ours: ask when all have."""
        busy, everything = _ticks()
        ours = (self._own() - self._ours) * os.sysconf("SC_CLK_TCK")
        return max(0.0, busy - self._busy - ours) / max(1, everything - self._all)

    @staticmethod
    def _own() -> float:
        spent = os.times()
        return spent.user + spent.system + spent.children_user + spent.children_system


def _ticks() -> tuple[int, int]:
    """What all cores have spent at work, and altogether, in clock ticks; proc_stat(5)."""
    with Path("/proc/stat").open() as lines:
        user, nice, system, idle, waiting, *interrupts = map(int, lines.readline().split()[1:8])
    busy = user + nice + system + sum(interrupts)
    return busy, busy + idle + waiting


def open_files_limit(wanted: int) -> int:
    """Raise our limit of open files as far as allowed, up to `wanted`; gives the limit. Children inherit it."""
    import resource  # noqa: PLC0415 - Unix only, as are those who ask

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


class Peak:
    """The highest resident memory of a process tree, looked at every 10 ms until it is closed, in KiB."""

    def __init__(self, pid: int) -> None:
        self.before = self.highest = resident_kib(pid)
        self._pid = pid
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.highest = max(self.highest, resident_kib(self._pid))

    @property
    def growth_kib(self) -> int:
        """How far it rose above where it was at first."""
        return self.highest - self.before

    def close(self) -> None:
        """Stop looking."""
        self._done.set()
        self._watching.join()


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """The peak of a process tree's memory during the block."""
    peak = Peak(pid)
    try:
        yield peak
    finally:
        peak.close()
