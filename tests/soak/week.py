"""A week of a site's logins, as fast as they go, by a clock that runs as fast: the memory of the process stays flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak.faults import fast_clock
from soak.ledger import Verdict
from soak.stage import Fault, Stage

#: A site of some 3,000 people who log in six or seven times on a working day.
LOGINS = 100_000
#: Seconds between two looks at the process.
EVERY = 1.0
#: By how much the memory of the second half may grow: a fiftieth, which a leak of 200 octets a login exceeds.
MOST = 0.02


@dataclass
class Week:
    """What it came to. `memory` in octets: the process's resident set, once a second."""

    logins: int
    seconds: float
    days: float
    verdict: Verdict
    memory: Sequence[int] = field(repr=False)

    @property
    def halves(self) -> tuple[float, float]:
        """The mean of the third quarter of the time, and that of the fourth: their difference is what grows."""
        size = len(self.memory)
        third, fourth = self.memory[size // 2 : size * 3 // 4], self.memory[size * 3 // 4 :]
        return sum(third) / max(1, len(third)), sum(fourth) / max(1, len(fourth))

    @property
    def grown(self) -> float:
        """By which part of it the memory grew between them."""
        third, fourth = self.halves
        return fourth / third - 1 if third else 0.0

    @property
    def passed(self) -> bool:
        """Nothing lost or wrong, and the memory flat."""
        return not (self.verdict.lost or self.verdict.wrong) and self.grown < MOST

    def __str__(self) -> str:
        start, peak = (f"{one / 1e6:.1f}" for one in (self.memory[0], max(self.memory)))
        third, fourth = (f"{one / 1e6:.1f}" for one in self.halves)
        return (
            f"week: {self.logins:,} logins in {self.seconds:.0f} s, {self.days:.1f} days by the proxy's clock; lost {self.verdict.lost},"
            f" wrong {self.verdict.wrong}; memory {start} MB at first, {third} MB in the third quarter, {fourth} MB in the fourth"
            f" ({self.grown:+.2%}), {peak} MB at most"
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "logins": self.logins, "seconds": self.seconds, "days": self.days, "memory": list(self.memory), "grown": self.grown,
            "passed": self.passed, **self.verdict.as_dict(),
        }  # fmt: skip


async def live(path: Path, logins: int) -> Week:
    """So many logins, by thirty people who don't rest, at a proxy of one process."""
    memory: list[int] = []
    took = 0.0

    async def during(stage: Stage) -> None:
        nonlocal took
        began = time.monotonic()
        status = Path(f"/proc/{stage.proxy.process.popen.pid}/status")
        while sum(one.what in ("fresh", "again") for one in stage.ledger.requests) < logins:
            memory.append(int(status.read_text().partition("VmRSS:")[2].split()[0]) * 1024)
            await asyncio.sleep(EVERY)
        took = time.monotonic() - began

    fault = Fault("week", "", during, prepare=fast_clock, people=30, pause=0.0)
    stage = Stage(fault, path)
    row = await stage.play()
    count = sum(one.what in ("fresh", "again") and one.answer == 0 for one in stage.ledger.requests)
    return Week(count, took, took * stage.speed / 86400, row.verdict or Verdict(), memory)


