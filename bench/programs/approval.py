"""A second factor that asks nobody: logins are pending until the benchmark approves of them.

In the folder that the environment names it adds an octet to the file `ASKED` for each login that begins to wait, and
approves of as many as octets come through the fifo `APPROVED`, those that wait longest first. It is found by
`bench/plugin`, and starts no thread.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from ldapmfa.config import ServiceTable
from ldapmfa.core.secret import Secret
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Tools, Waiting

#: The environment variable with the folder.
PLACE: Final = "LDAP_BENCH_APPROVALS"
ASKED: Final = "asked"
APPROVED: Final = "approved"


class Approval:
    """What `login.factors` calls "bench"."""

    Table: ClassVar[type[ServiceTable]] = ServiceTable
    methods: ClassVar[Sequence[str]] = ("bench",)
    takes_codes: ClassVar[bool] = False
    wants_password = False

    def __init__(self, table: ServiceTable, tools: Tools) -> None:  # noqa: ARG002 - nothing can be set
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._asked = -1

    async def start(self, prompt: Prompt) -> Waiting:  # noqa: ARG002 - nobody is asked
        """Now the login waits."""
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
        return Waiting(answer)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:  # noqa: ARG002 - see `start`
        """Yes, in time."""
        await waiting.handle
        return Allowed("bench")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:  # noqa: ARG002 - no codes
        """No."""
        return Denied("wrong-code")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """Nobody is told."""

    async def health(self) -> str:
        """It is always there."""
        return "there"

    async def close(self) -> None:
        """Nothing is held."""

    def _approve(self, approved: int) -> None:
        for _ in os.read(approved, 1 << 16):
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_result(True)
