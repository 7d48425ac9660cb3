"""The control socket: how `ldapmfa reload` speaks to the program that runs, and hears what came of it.

Promised here: the socket is its owner's alone (mode 0600), and who is neither that user nor root is not answered; one
line is asked and one is answered, both JSON; a socket that somebody listens at is left alone. Not in here: what is done
(`reloading`).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

#: Seconds within which a request must be there, and octets that it may have.
_PATIENCE: Final = 5.0
_LONGEST: Final = 4096
#: Seconds that an answer may take: a reload waits for workers that are starting.
_ANSWERED: Final = 120.0
_CREDENTIALS: Final = struct.Struct("3i")

Answer = dict[str, Any]


class Control:
    """Answers at `path`, by what `asked` gives for a request. OSError: it can't be made there."""

    def __init__(self, path: Path, asked: Callable[[Answer], Awaitable[Answer]]) -> None:
        self._path = path
        self._asked = asked
        self._socket = _listening(path)
        self._file = path.stat().st_ino
        self._server: asyncio.Server | None = None

    async def begin(self) -> None:
        """Answer from now on."""
        self._server = await asyncio.start_unix_server(self._answer, sock=self._socket, limit=_LONGEST)

    def end(self) -> None:
        """Answer nobody any more, and leave no file behind."""
        if self._server:
            self._server.close()
        self._socket.close()
        with suppress(OSError):
            if self._path.stat().st_ino == self._file:
                self._path.unlink()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError, RecursionError):
            if _user(writer) in {0, os.geteuid()}:
                async with asyncio.timeout(_PATIENCE):
                    asked = json.loads(await reader.readline())
                if isinstance(asked, dict):
                    writer.write(json.dumps(await self._asked(asked)).encode() + b"\n")
        writer.close()


def ask(path: Path, asked: Answer) -> Answer | None:
    """What the program that listens at `path` answers; None: nobody listens. OSError: it can't be asked."""
    with socket.socket(socket.AF_UNIX) as asking, _short(path) as short:
        asking.settimeout(_ANSWERED)
        try:
            asking.connect(short)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        asking.sendall(json.dumps(asked).encode() + b"\n")
        line = asking.makefile("rb").readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise OSError(f"{path}: no answer; see the log of the program") from None
    return answer if isinstance(answer, dict) else None


def _listening(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        with _short(path) as short:
            if path.is_socket() and not _is_heard(short):
                path.unlink()  # of one that was killed
            opened.bind(short)
        opened.listen(8)
        opened.setblocking(False)  # noqa: FBT003 - Python's own
    except BaseException:
        opened.close()
        raise
    finally:
        os.umask(mask)
    return opened


def _is_heard(short: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(short)
        except ConnectionRefusedError:
            return False
    return True


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """`path` by another name: a socket's may have 107 octets only."""
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no directory {path.parent}") from None
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _user(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])
