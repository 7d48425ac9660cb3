"""`ldapmfa fraud test`: whether those who would be told of a fraud report can be."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

import click

from ldapmfa.audit import printable
from ldapmfa.cli.command import Failed, Group, answer, load, say

if TYPE_CHECKING:
    from ldapmfa.config.settings import Fraud


@click.group(cls=Group)
def fraud() -> None:
    """What happens when a user reports fraud: see [fraud] in the configuration."""


@fraud.command(examples=("ldapmfa fraud test", "ldapmfa fraud test --json"))
def test() -> int:
    """Send a test notice, by every way in [fraud].

    Nobody is blocked. Exit code 0: every way took it. 3: one did not.
    """
    config = load()
    if not config.fraud.ways:
        raise Failed(2, f"{config.source}: [fraud] tells nobody: set mail_to, or webhook_url")
    told = asyncio.run(_told(config.fraud))

    def show() -> None:
        for one in told:
            say(printable(f"{one['way']}: {'delivered' if one['delivered'] else 'NOT delivered'}: {one['what']}"))

    answer({"ways": told}, show)
    return 0 if all(one["delivered"] for one in told) else 3


async def _told(settings: Fraud) -> list[dict[str, Any]]:
    """What became of a test notice, for each way."""
    from ldapmfa.net import notify  # noqa: PLC0415 - takes long

    told: list[dict[str, Any]] = []
    for name, way in notify.ways_of(settings).items():
        try:
            what, delivered = await way.tell(uuid.uuid4().hex, {"what": "test", "at": time.time()}), True
        except notify.NotDelivered as why:
            what, delivered = str(why), False
        finally:
            await way.close()
        told.append({"way": name, "delivered": delivered, "what": what})
    return told
