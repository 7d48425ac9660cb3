"""Where a process keeps its figures: memory that outlives it, and that the parent of several workers reads.

Promised here: what was written is there when the process was killed a moment later, and a worker that takes another's
place goes on with its counts; a value is read whole while it is being changed. One process writes. Not in here: what
the figures mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from mmap import mmap
from typing import Final, Self

#: A figure's name, and its labels' values.
Key = tuple[str, ...]

_WORD: Final = 8
#: Octets for all figures of a process, of which only those in use cost anything: some thousands of series.
_SIZE: Final = 4 << 20
#: Words at the beginning: how many are in use, when the process was last there, and where goes what finds no place.
_USED, _PULSE, _NOWHERE, _FIRST = range(4)


class Memory:
    """The figures of one process; `descriptor` is the memory's own, by which a worker has it too, or -1."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        mapped = mmap(descriptor, _SIZE)
        self.values: Final = memoryview(mapped).cast("d")  #: written and read by the index that `place` gives
        self._octets = memoryview(mapped)
        self._read = _FIRST
        self._places: dict[Key, int] = {}

    @classmethod
    def shared(cls) -> Self:
        """Memory for a worker, in which nothing was counted yet."""
        descriptor = os.memfd_create("ldapmfa-figures")
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    def place(self, key: Key) -> int:
        """Where the value of `key` is; it is 0 at first. Where there is no room, it counts for nobody."""
        places = self._known()
        if key in places:
            return places[key]
        name = json.dumps(key).encode()
        place, begin = self._read, (self._read + 2) * _WORD
        end = self._read + 2 + -(-len(name) // _WORD)
        if end * _WORD > len(self._octets):
            return _NOWHERE
        self._octets[begin : begin + len(name)] = name
        self.values[place] = 0.0
        self.values[place + 1] = len(name)
        self.values[_USED] = end  # last: whoever reads sees the whole entry, or none
        places[key], self._read = place, end
        return place

    def items(self) -> Iterator[tuple[Key, float]]:
        """Every figure, and its value now."""
        for key, place in self._known().items():
            yield key, self.values[place]

    def _known(self) -> dict[Key, int]:
        used = int(self.values[_USED])
        while self._read < used:
            place, begin = self._read, (self._read + 2) * _WORD
            length = int(self.values[place + 1])
            self._places[tuple(json.loads(bytes(self._octets[begin : begin + length])))] = place
            self._read = place + 2 + -(-length // _WORD)
        return self._places

    # -- whether its process is there

    @property
    def pulse(self) -> float | None:
        """When its process was last there, by the machine's steady clock (time.monotonic); None: it is not."""
        return self.values[_PULSE] or None

    def beat(self, now: float) -> None:
        """Its process is there."""
        self.values[_PULSE] = now

    def absent(self) -> None:
        """Its process is gone: its counts stay, what it measured counts no more."""
        self.values[_PULSE] = 0.0
