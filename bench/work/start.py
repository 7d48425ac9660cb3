"""The row about starting."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import machine
from bench.directory import answers
from bench.peers import ldapmfa
from bench.site import Site
from bench.work import Sample


@contextmanager
def start(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """From the start of the process to the first bind that succeeds, on a store that was made before."""
    with site.fresh(peer, site.directory) as first:
        made = first.process.log.parent

    def sample() -> Sample:
        place = site.new_place("start")
        for file in made.glob("st*"):
            shutil.copy(file, place)
        began = time.perf_counter()
        proxy = ldapmfa(place, site.directory)
        with proxy.process:
            proxy.process.wait_until(lambda: answers(proxy.port), every=0.002)
            seconds = time.perf_counter() - began
            time.sleep(0.5)
            return {"seconds": seconds, "memory": machine.resident_kib(proxy.process.pid) / 1024}

    yield sample
