"""Less processor time than there is: control groups of the kernel, one for each process that is to have a share.

Promised here: at the end the processes are back where they were and the groups are gone. Both hierarchies will do: the
`cpu` controller of version 1, and version 2 where its root hands the controller on. It takes root.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
#: Microseconds after which a share is given anew.
_PERIOD: Final = 20_000


class Unavailable(OSError):  # noqa: N818 - named as what is the case
    """This machine lets us give no process less than all."""


@contextlib.contextmanager
def capped(pids: Sequence[int], share: float) -> Iterator[None]:
    """Let each process have no more than `share` of one processor, until the block ends. Raises Unavailable."""
    with contextlib.ExitStack() as groups:
        for pid in pids:
            groups.enter_context(_group(pid, round(share * _PERIOD)))
        yield


@contextlib.contextmanager
def _group(pid: int, quota: int) -> Iterator[None]:
    above = _above()
    group = above / f"ldapmfa-bench-{os.getpid()}-{pid}"
    try:
        group.mkdir()
    except OSError as refused:
        raise Unavailable(f"no control group can be made in {above}: {refused.strerror}") from None
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    except OSError as refused:
        raise Unavailable(f"the control group {group} can't be used: {refused}") from None
    finally:
        with contextlib.suppress(OSError):
            (above / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            group.rmdir()


def _above() -> Path:
    """The group in which ours are made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        mounted = _ROOT / controllers / own.lstrip("/")
        if "cpu" in controllers.split(",") and (mounted / "cpu.cfs_quota_us").exists():
            return mounted
    handed_on = _ROOT / "cgroup.subtree_control"
    if handed_on.exists() and "cpu" in handed_on.read_text().split():
        return _ROOT
    raise Unavailable("there are no control groups with a processor quota here")
