"""The row about starting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import machine
from bench.directory import answers
from bench.site import Site
from bench.work import Sample


@contextmanager
def start(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """From the start of the process to the first bind that succeeds, with a store that has to be made first."""

    def sample() -> Sample:
        directory = site.directory
        began = time.perf_counter()
        with site.fresh(peer, directory, wait=False) as proxy:
            proxy.process.wait_until(lambda: answers(proxy.port), every=0.002)
            seconds = time.perf_counter() - began
            time.sleep(0.5)
            return {"seconds": seconds, "memory": machine.resident_kib(proxy.process.pid) / 1024}

    yield sample
