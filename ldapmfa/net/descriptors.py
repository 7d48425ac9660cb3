"""How many clients the operating system lets a process have: each costs it file descriptors.

Promised here: a process may open as many files as its hard limit allows, and lets in no more clients than fit into
that: who is let in finds a descriptor left for the link to the directory, and the store for its files. Not in here:
what becomes of a client that is too much.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Any, Final

from ldapmfa.config import Config

#: Descriptors of a client: its connection, and the link to the directory behind it.
EACH: Final = 2
#: What else a process opens: the store, the log, listening sockets, connections to services, and some to spare.
OWN: Final = 128


def wanted(config: Config, connections: int) -> int:
    """The descriptors that a process with so many clients may come to need."""
    spare = sum(directory.spare_links for directory in config.every_directory.values())
    return EACH * connections + spare + OWN + len(config.listen)


def fitting(config: Config, log: Any) -> int:
    """Raise the process's limit as far as needed; for how many clients it is enough then, which `log` is told of."""
    connections = config.limits.connections
    need = wanted(config, connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _covers(soft, need):
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (need if _covers(hard, need) else hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _covers(soft, need):
        return connections
    fits = max(1, (soft - wanted(config, 0)) // EACH)
    tell = log.warning if "connections" in config.limits.model_fields_set else log.info  # nobody asked for so many
    tell(
        "fewer clients than configured",
        connections=fits,
        reason=f"limits.connections = {connections} needs {need} open files, and the process may have {soft}: set "
        f"LimitNOFILE={need} in the systemd unit (ulimit -Hn elsewhere), or lower limits.connections to {fits}",
    )
    return fits


def _covers(limit: int, need: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= need
