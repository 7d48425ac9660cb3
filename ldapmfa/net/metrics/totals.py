"""What the figures of all processes amount to, and whether those are well and a login could succeed.

Promised here: a sum of counts never gets less, whichever worker ends or comes back. Not in here: HTTP (`page`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ldapmfa.net.metrics import catalogue
from ldapmfa.net.metrics.memory import Key, Memory

#: Seconds without a sign after which a process is not well: its loop does not turn.
UNHEARD: Final = 10.0

_METRICS: Final = {metric.name: metric for metric in catalogue.ALL}
_MERGE: Final[dict[str, Callable[[float, float], float]]] = {"max": max, "min": min, "sum": lambda one, two: one + two}


def totals(memories: Iterable[Memory]) -> dict[Key, float]:
    """The figures of all processes together; of those that are gone only what they counted."""
    found: dict[Key, float] = {}
    for memory in memories:
        there = memory.pulse is not None
        for key, value in memory.items():
            metric = _METRICS[key[0]]
            if metric.kind != "gauge":
                found[key] = found.get(key, 0.0) + value
            elif there and not math.isnan(value):
                found[key] = _MERGE[metric.merge](found[key], value) if key in found else value
    return found


def unwell(memories: Mapping[str, Memory], now: float) -> list[str]:
    """What is wrong with the processes themselves; `now` is time.monotonic's."""
    wrong = []
    for name, memory in memories.items():
        pulse = memory.pulse
        if pulse is None:
            wrong.append(f"{name} is not there")
        elif now - pulse > UNHEARD:
            wrong.append(f"{name} was last heard of {now - pulse:.0f} s ago")
    return wrong


def unready(found: Mapping[Key, float], directories: Iterable[str]) -> list[str]:
    """Why no login could succeed now, by the totals `found`; or one that needs one of `directories`."""
    if catalogue.STORE_UP.name not in {key[0] for key in found}:
        return ["no process serves clients"]
    wrong = []
    if not found[catalogue.STORE_UP.name,]:
        wrong.append("the store does not answer")
    servers: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in found.items():
        if key[0] == catalogue.DIRECTORY_UP.name and key[2] == "directory":
            servers[key[1]].append(value)
    wrong += [f"no server of the directory {name} can be reached" for name in directories if not any(servers[name])]
    closed = [key[1] for key, value in found.items() if key[0] == catalogue.LISTENING.name and not value]
    return wrong + [f"the listener {name} accepts nobody" for name in closed]
