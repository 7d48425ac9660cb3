"""What parent and worker say to each other: the order on a worker's standard input, the report on its standard output.

Promised here: what is in the configuration is in no command line and no environment, and a worker that takes another's
place reads no other configuration than that one did. Not in here: when either is said (`workers`).

A worker's standard input brings one line, the order, and ends when the worker shall: because the parent stops, or is
gone. Its standard output carries one line, the report: it listens, or why not. What they say to each other from then on
goes over a `Line`.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from ldapmfa.errors import ConfigError, LdapMfaError

INPUT: Final = 0
_OUTPUT: Final = 1
_ERRORS: Final = 2
#: Octets of a message, and descriptors beside it, at most.
_LONGEST: Final = 64 << 10
_DESCRIPTORS: Final = 250


@dataclass(frozen=True)
class Order:
    """What a worker is told: the configuration's file and what it said, and descriptors that it inherits.

    `sockets` listen, one for each listener; `counts` is the memory of `turns`, `figures` that of `metrics`; `channel`
    is the worker's end of its `Line`.
    """

    file: str
    text: str = field(repr=False)
    sockets: Sequence[int]
    counts: int
    figures: int = -1
    channel: int = -1

    @classmethod
    def read(cls) -> Self:
        """The order on standard input. ConfigError: there is none."""
        try:
            return cls(**json.loads(sys.stdin.buffer.readline()))
        except (ValueError, TypeError):
            raise ConfigError(["a worker is started by `ldapmfa run`, not by hand"]) from None

    def line(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Line:
    """One end of what parent and worker speak over: whole messages, with descriptors beside them; it never waits."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)  # noqa: FBT003 - Python's own

    @classmethod
    def pair(cls) -> tuple[Self, int]:
        """The parent's end, and the descriptor of a worker's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours.detach()), theirs.detach()

    def fileno(self) -> int:
        """Its descriptor, to be watched."""
        return self._socket.fileno()

    def say(self, what: str, descriptors: Sequence[int] = (), **more: Any) -> None:
        """Say it, unless the other end is gone, or has not listened for long."""
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with suppress(BlockingIOError, ConnectionError):
            self._socket.sendmsg([json.dumps({"say": what, **more}).encode()], beside)

    def hear(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """What was said meanwhile, each with the descriptors beside it. EOFError: the other end is gone."""
        while True:
            try:
                said, descriptors, _, _ = socket.recv_fds(
                    self._socket, _LONGEST, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionError:
                said = b""
            if not said:
                raise EOFError
            yield json.loads(said), list(descriptors)

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


def report(failure: LdapMfaError | None = None) -> None:
    """Tell the parent that this worker listens, or why it can't; what is printed later goes where the log goes."""
    said = {"lines": str(failure).split("\n") if failure else [], "mistakes": isinstance(failure, ConfigError)}
    os.write(_OUTPUT, json.dumps(said).encode() + b"\n")
    os.dup2(_ERRORS, _OUTPUT)


def read_report(line: bytes) -> LdapMfaError | None:
    """What a worker could not start for; None: it listens."""
    said = json.loads(line)
    if said["mistakes"]:
        return ConfigError(said["lines"])
    return LdapMfaError("\n".join(said["lines"])) if said["lines"] else None
