"""A second factor that asks nobody: logins are pending until the benchmark approves of them.

In the folder that the environment names it adds an octet to the file `ASKED` for each login that begins to wait, and
approves of as many as octets come through the fifo `APPROVED`, those that wait longest first. It is found by
`bench/plugin`, and starts no thread.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Final

from ldapmfa.factors import Prompt

#: The environment variable with the folder.
PLACE: Final = "LDAP_BENCH_APPROVALS"
ASKED: Final = "asked"
APPROVED: Final = "approved"


class Approval:
    """What `login.factors` calls "bench"."""

    kind = "bench"

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._asked = -1

    async def ask(self, prompt: Prompt) -> bool:  # noqa: ARG002 - nobody is asked
        """Yes, in time."""
        loop = asyncio.get_running_loop()
        if self._asked < 0:
            place = Path(os.environ[PLACE])
            self._asked = os.open(place / ASKED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            # open for writing too: it must not end when the benchmark closes it
            approved = os.open(place / APPROVED, os.O_RDWR | os.O_NONBLOCK)
            loop.add_reader(approved, self._approve, approved)
        answer: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(answer)
        os.write(self._asked, b".")
        return await answer

    def _approve(self, approved: int) -> None:
        for _ in os.read(approved, 1 << 16):
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_result(True)
