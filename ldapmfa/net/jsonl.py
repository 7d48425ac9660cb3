"""Audit events as lines of a file, which several processes share, and which is put aside when it is full.

Promised here: a line is there whole, once, or not at all, whoever else writes, puts the file aside or moves it away,
and though the disk is full in the middle of it; nobody but the file's owner, and its group where that is wanted, may
read it. Not in here: waiting, and what becomes of events that the file can't take (`trail`).

Whoever writes holds a lock on the very file, and looks behind it whether that is still the one of this name: who has
put it aside has made a new one. So no line is written to a file that is being counted as full by somebody else, and no
file of its own is needed for the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ldapmfa import audit

#: Seconds until a lock that somebody else holds is given up for this time.
PATIENCE: Final = 5.0
#: Octets that one line may have: a program that ships the file reads it into a buffer.
LINE: Final = 8192


class JsonLines:
    """A file of JSON lines; `rotate_bytes` 0: others put it aside. Its calls may wait for the disk."""

    def __init__(self, file: Path, *, mode: int = 0o600, rotate_bytes: int = 0, keep_files: int = 10) -> None:
        self._file = file
        self._mode = mode
        self._rotate_bytes = rotate_bytes
        self._keep_files = keep_files
        self._descriptor: int | None = None

    def write(self, events: Sequence[audit.Event]) -> int:
        """Add `events`; gives how many are in the file. OSError: not one is."""
        data = b"".join(audit.as_json(event, LINE).encode() + b"\n" for event in events)
        descriptor = self._locked()
        try:
            size = os.fstat(descriptor).st_size
            while self._rotate_bytes and size and size + len(data) > self._rotate_bytes:
                self._put_aside()
                self._let_go()
                descriptor = self._locked()  # others may have filled it meanwhile
                size = os.fstat(descriptor).st_size
            return _added(descriptor, data, size)
        finally:
            if self._descriptor is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _locked(self) -> int:
        """The file that has the name now, locked."""
        patient_until = time.monotonic() + PATIENCE
        while True:
            if self._descriptor is None:
                self._descriptor = self._opened()
            descriptor = self._descriptor
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > patient_until:
                    raise OSError(errno.EAGAIN, "another process keeps it locked", str(self._file)) from None
                time.sleep(0.01)
                continue
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._file.stat()):
                    return descriptor
            self._let_go()

    def _opened(self) -> int:
        # O_NONBLOCK: what is no file at all must not keep us waiting
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._file, flags, self._mode)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is no regular file", str(self._file))
            if stat.S_IMODE(found.st_mode) != self._mode:
                try:
                    os.fchmod(descriptor, self._mode)
                except PermissionError:  # somebody else's file, for whom it may be right
                    if found.st_mode & 0o007:
                        raise
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _put_aside(self) -> None:
        """Rename the file, which is locked, and those that were put aside before."""
        name = str(self._file)
        for number in range(self._keep_files - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{name}.{number}", f"{name}.{number + 1}")  # noqa: PTH105 - names with dots are no suffixes
        os.replace(name, f"{name}.1")  # noqa: PTH105 - see above


def _added(descriptor: int, data: bytes, size: int) -> int:
    """How many lines of `data` are in the file now, which had `size` octets; what is no whole line is taken back."""
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data, torn = b"\n" + data, 1  # somebody died in the middle of a line: it must not spoil ours
    else:
        torn = 0
    done = 0
    try:
        while done < len(data):
            done += os.write(descriptor, data[done:])
    except OSError:
        whole = data[:done].rfind(b"\n") + 1
        os.ftruncate(descriptor, size + whole)
        lines = data[:whole].count(b"\n") - torn
        if lines <= 0:
            raise
        return lines
    return data.count(b"\n") - torn
