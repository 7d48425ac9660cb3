"""Which of several workers accepts the next client: one that has no more of them than the others.

Promised here: clients that stay, few as they may be, are spread over all workers; one that is busy or stuck keeps a
client waiting for `_PATIENCE`, and many for a few times that. Not in here: the sockets (`ports`); all workers listen on
the same ones, and the kernel wakes every worker for each client.
"""

from __future__ import annotations

import os
from mmap import mmap
from typing import Any, Final

#: Seconds that a worker leaves a client to those that have fewer.
_PATIENCE: Final = 0.005
#: The count of a worker that is not there: nobody has more.
_ABSENT: Final = 2**63
_SIZE: Final = 8
#: Clients that are taken at once by whoever need not mind the others.
_ALL: Final = 100


class Counts:
    """How many clients each worker has, in memory that all of them share; `descriptor` is that memory's."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._counts = memoryview(mmap(descriptor, 0)).cast("Q")

    @classmethod
    def of(cls, workers: int) -> Counts:
        """For so many workers, numbered from 1, none of which is there yet."""
        descriptor = os.memfd_create("ldapmfa-workers")
        os.ftruncate(descriptor, workers * _SIZE)
        counts = cls(descriptor)
        for number in range(1, workers + 1):
            counts.absent(number)
        return counts

    def absent(self, number: int) -> None:
        """This worker is gone, and waited for no longer."""
        self._counts[number - 1] = _ABSENT

    def has(self, number: int, clients: int) -> None:
        """This worker has so many clients."""
        self._counts[number - 1] = clients

    def ahead(self, clients: int) -> bool:
        """Whether one with so many `clients` has clearly more than another; an eighth is not."""
        return clients > self._fair

    def room(self, clients: int) -> int:
        """How many one with so many `clients` may take before it is ahead; one, where it is."""
        return min(max(1, self._fair + 1 - clients), _ALL)

    @property
    def _fair(self) -> int:
        least = min(self._counts)
        return least + least // 8


class Clients(set[Any]):
    """The clients of one worker; the others see how many there are."""

    def __init__(self, counts: Counts, number: int) -> None:
        super().__init__()
        self._counts = counts
        self._number = number

    def here(self) -> None:
        """Its worker accepts from now on."""
        self._counts.has(self._number, len(self))

    def add(self, client: Any) -> None:
        """One comes."""
        super().add(client)
        self._counts.has(self._number, len(self))

    def discard(self, client: Any) -> None:
        """One leaves."""
        super().discard(client)
        self._counts.has(self._number, len(self))

    def too_many(self) -> bool:
        """Whether the next one is for another worker."""
        return self._counts.ahead(len(self))

    def room(self) -> int:
        """How many this worker may take now."""
        return self._counts.room(len(self))


def by_turns(port: Any, clients: Clients, reactor: Any) -> None:
    """Let `port` accept clients when it is this worker's turn, no more than make it another's."""
    accept = port.doRead
    left = 1  # how many are taken of those that nobody took: each time in a row twice as many

    def some() -> None:
        port.numberAccepts = clients.room()  # Twisted tries as many as there were last time, at first a hundred
        accept()

    def late() -> None:
        nonlocal left
        if port.connected and not port.disconnecting:
            port.numberAccepts, left = left, min(2 * left, _ALL)
            accept()
            port.startReading()

    def come() -> None:
        nonlocal left
        if clients.too_many():
            port.stopReading()
            reactor.callLater(_PATIENCE, late)
        else:
            left = 1
            some()

    port.doRead = come
