"""What parent and worker say to each other: the order on a worker's standard input, the report on its standard output.

Promised here: what is in the configuration is in no command line and no environment, and a worker that takes another's
place reads no other configuration than that one did. Not in here: when either is said (`workers`).

A worker's standard input brings one line, the order, and ends when the worker shall: because the parent stops, or is
gone. Its standard output carries one line, the report: it listens, or why not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Self

from ldapmfa.errors import ConfigError, LdapMfaError

INPUT: Final = 0
_OUTPUT: Final = 1
_ERRORS: Final = 2


@dataclass(frozen=True)
class Order:
    """What a worker is told: the configuration's file and what it said, and descriptors that it inherits.

    `sockets` listen, one for each listener; `counts` is the memory of `turns`, `figures` that of `metrics`.
    """

    file: str
    text: str = field(repr=False)
    sockets: Sequence[int]
    counts: int
    figures: int

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
