"""How each row is measured: one function a row.

A function of this shape prepares one peer and gives a callable; each call takes one sample, figure by figure::

    @contextmanager
    def row(site: Site, peer: str) -> Iterator[Callable[[], Sample]]: ...

What it starts lasts until the row ends, so that samples of all peers can be taken in turn. The first call is a
warm-up, whose figures are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from bench import machine
from bench.site import Load, Site

Sample = dict[str, float]
Measure = Callable[[Site, str], AbstractContextManager[Callable[[], Sample]]]

#: Seconds a sample takes, about.
LONG = 1.5


class Portion:
    """How many operations a sample has: `first` in the warm-up, then what takes about `LONG`, at most `most`."""

    def __init__(self, first: int, most: int) -> None:
        self.size = first
        self._most = most
        self._warm = False

    def cost(self, pid: int, load: Load) -> tuple[float, dict[str, Any]]:
        """Processor time of the process tree for each operation, in µs, and what the load says of them all.

        It is read a moment after the last answer, for what a server has still to tidy up belongs to the operation.
        """
        size = self.size
        before = machine.cpu_seconds(pid)
        done = load.run(size)
        time.sleep(0.05)
        spent = machine.cpu_seconds(pid) - before
        if not self._warm:
            self._warm = True
            self.size = min(self._most, max(size, round(size / done["seconds"] * LONG)))
        return spent / size * 1e6, {**done, "operations": size, "rate": size / done["seconds"]}
