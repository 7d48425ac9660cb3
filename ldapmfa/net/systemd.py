"""What systemd is told: ready, reloading, stopping, a status in plain words, and that the program still turns.

Promised here: the protocol of sd_notify(3) at a path or an abstract socket; what is read from the environment is taken
out of it, so that no child process speaks for this one; who is told by nobody tells nobody. Not in here: when it is
ready (`service`), and the sockets that systemd hands over (`ports`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Self

import structlog

#: Seconds that a datagram may wait for its reader: it stops the whole program.
_PATIENCE: Final = 0.5


class Supervisor:
    """Who started this program, if it wants to be told; `watchdog` is in seconds, 0 for none."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = address
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say, which are gone then."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        meant = microseconds.isascii() and microseconds.isdigit() and whose in {"", str(os.getpid())}
        return cls(address if address[:1] in {"/", "@"} else "", int(microseconds) / 1e6 if meant else 0.0)

    def tell(self, *lines: str) -> None:
        """Say all of `lines` at once, each KEY=VALUE."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as failed:
            structlog.get_logger().warning("systemd not told", what=lines[0], reason=failed.strerror or "no answer")

    def ready(self, status: str) -> None:
        """Everything listens, or does so once more."""
        self.tell("READY=1", _status(status))

    def reloading(self) -> None:
        """The configuration is read again; `ready` follows, whatever comes of it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("Reading the configuration."))

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self.tell("STOPPING=1", _status(status))

    def status(self, status: str) -> None:
        """How it is, for whoever calls `systemctl status`."""
        self.tell(_status(status))

    def watch(self, clock: Any, turns: Callable[[], bool]) -> None:
        """Tell the watchdog at half its time that all is well, for as long as `clock` goes on and `turns()`."""
        if not self._address or not self.watchdog:
            return

        def again() -> None:
            if turns():
                self.tell("WATCHDOG=1")
            clock.callLater(self.watchdog / 2, again)

        again()


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
