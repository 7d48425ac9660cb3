"""Certificates while the program runs: files that change are read again, and what ends soon is said in time.

Promised here: a certificate and its key are taken together or not at all; what can't be read, or does not belong
together, as a file that is half written, leaves what was there, is said once, and is tried again at each look.
Connections that stand are not touched. A link that is made to point elsewhere is a file that changes. Not in here: how
contexts are made (`tls`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ldapmfa.config import Listen
from ldapmfa.errors import ConfigError
from ldapmfa.net.tls import server_context
from ldapmfa.net.waiting import pause

#: Seconds from one look at the files to the next, and from one word about what ends soon to the next.
LOOK: Final = 3.0
DAY: Final = 86400.0
#: From how many days before its end a certificate is spoken of, how loudly, and what is said; the first that fits.
_SAID: Final = (
    (0, "critical", "certificate has expired"),
    (7, "error", "certificate expires soon"),
    (21, "warning", "certificate expires soon"),
)

Stamps = tuple[tuple[int, ...] | None, ...]


def stamps(files: Iterable[Path]) -> Stamps:
    """What is another as soon as one of `files` is: the file itself, its size, its times; None where there is none."""
    found: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116 - Path.stat makes the same call
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


class Watched:
    """Files that count as they are now. `renew` reads them, or raises ConfigError and changes nothing."""

    def __init__(self, name: str, files: Sequence[Path], renew: Callable[[], None]) -> None:
        self.name = name
        self.files = tuple(files)
        self._renew = renew
        self._stamps = stamps(self.files)
        self._said: str | None = None

    def look(self, log: Any) -> None:
        """Read the files again, if they are others than they were."""
        now = stamps(self.files)
        if now == self._stamps and self._said is None:
            return
        try:
            self._renew()
        except ConfigError as wrong:
            if str(wrong) != self._said:
                self._said = str(wrong)
                log.warning("certificates not renewed", of=self.name, reason="; ".join(wrong.mistakes))
            return
        self._stamps, self._said = now, None
        log.info("certificates renewed", of=self.name)


class Presented:
    """What a listener presents to its clients, as Twisted wants it: `getContext` is the present one."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._options: Any = None
        files = [file for file in (listen.certificate, listen.key, listen.client_ca_file) if file]
        self.watched = Watched(f"listener {listen.name}", files, self.renew)  # stamped before they are read
        self.renew()

    def getContext(self) -> Any:
        """For the handshake that begins now."""
        return self._options.getContext()

    @property
    def ends(self) -> datetime:
        """When the certificate does."""
        end: datetime = self._options.certificate.to_cryptography().not_valid_after_utc
        return end

    def renew(self) -> None:
        """Read the files. ConfigError: they are no good."""
        listen = self._listen
        if listen.certificate is None or listen.key is None:
            raise AssertionError(listen)
        self._options = server_context(
            listen.certificate,
            listen.key,
            client_ca=listen.client_ca_file,
            require_client_certificate=listen.require_client_certificate,
        )

    def tell_its_end(self, now: float, log: Any) -> None:
        """Say it, if the certificate ends soon after `now`, in seconds since the epoch."""
        end = self.ends
        days = (end - datetime.fromtimestamp(now, UTC)).total_seconds() / DAY
        for most, level, what in _SAID:
            if days < most:
                fields = {"listener": self._listen.name, "file": str(self._listen.certificate)}
                getattr(log, level)(what, **fields, days=int(days), ends=end.isoformat())
                return


async def watch_certificates(
    watched: Callable[[], Iterable[Watched]],
    presented: Callable[[], Iterable[Presented]],
    *,
    clock: Any,
    now: Callable[[], float],
    log: Any,
) -> None:
    """Look after the files of `watched`; say each day which of `presented` end soon; until cancelled."""
    said: float | None = None
    while True:
        if said is None or clock.seconds() - said >= DAY:
            said = clock.seconds()
            for one in presented():
                one.tell_its_end(now(), log)
        await pause(clock, LOOK)
        for files in watched():
            files.look(log)
