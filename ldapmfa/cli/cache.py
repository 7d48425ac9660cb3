"""`ldapmfa cache ...`: what the processes keep of the directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ldapmfa.cli.accounts import on_accounts
from ldapmfa.cli.command import Group, actor, answer, say

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts


@click.group(cls=Group)
def cache() -> None:
    """What is kept of directories for seconds: in which groups an account is, and how they are called."""


@cache.command(examples=("ldapmfa cache clear",))
def clear() -> None:
    """Have every process forget what it keeps of directories.

    It counts from the next login for which a rule looks at groups; otherwise what is kept ends by itself after
    group_seconds. It is recorded in the audit trail.
    """

    async def work(accounts: Accounts) -> int:
        return await accounts.as_operator(actor()).clear_caches()

    count = on_accounts(work)
    answer({"cleared": count}, lambda: say("Whatever is known of groups is asked anew."))
