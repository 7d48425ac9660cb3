"""`ldapmfa audit`: what a refusal's reference code means, and what happened last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ldapmfa.cli.accounts import on_accounts, yes
from ldapmfa.cli.command import Command, Failed, actor, answer, say, table
from ldapmfa.cli.reasons import explained
from ldapmfa.cli.rows import event_cells, event_value, local
from ldapmfa.cli.user import complete_name

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts, Details, No
    from ldapmfa.audit import AccountChanged, LoginEnded


@click.command(
    cls=Command,
    examples=("ldapmfa audit --ref K7RT29XA", "ldapmfa audit alice", "ldapmfa audit --limit 100 --json"),
)
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--ref", "reference", metavar="CODE", help="The reference code that a user was shown.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many events to list.")
def audit(name: str | None, reference: str | None, limit: int) -> None:
    """Say why a login was refused.

    With --ref: by the reference code in the refusal. Without: list what happened last, to everybody or to NAME.
    Users are told one text whatever was wrong, with a reference code; the true reason is found here. NAME is as for
    `ldapmfa user`. Logins refused before the password was looked at have no reference code.
    """
    if reference:
        if name:
            raise Failed(2, "NAME and --ref do not go together: the reference code says whose login it was")
        _explain(reference)
        return

    async def of_all(accounts: Accounts) -> tuple[LoginEnded | AccountChanged, ...]:
        return await accounts.as_operator(actor()).events(limit)

    async def of_one(accounts: Accounts) -> Details | No:
        return await accounts.as_operator(actor()).show(name or "", events=limit)

    events = yes(on_accounts(of_one)).events if name else on_accounts(of_all)
    def show() -> None:
        if events:
            table(("when", "who", "what", "from", "reference"), map(event_cells, events))
        else:
            say("Nothing is recorded.")

    answer({"events": [event_value(event) for event in events]}, show)


def _explain(reference: str) -> None:
    async def work(accounts: Accounts) -> LoginEnded | No:
        return await accounts.as_operator(actor()).refusal(reference)

    event = yes(on_accounts(work))
    why = explained(event.reason)

    def show() -> None:
        say(f"{event.reference}: the login was {event.outcome} ({event.reason})")
        say(f"  who       typed {event.name}" + (f", which is {event.dn} ({event.account})" if event.account else ""))
        say(f"  when      {local(event.at)}")
        say(f"  where     from {event.client} at the listener {event.listener}, directory {event.directory}")
        if event.application not in ("", event.listener):
            say(f"  as        the application {event.application}")
        say(f"  took      {event.total_ms:.0f} ms (directory {event.directory_ms:.0f}, factor {event.factor_ms:.0f})")
        if event.detail:
            say(f"  detail    {event.detail}")
        say(f"\n{why.meaning}")
        if why.remedy:
            say(why.remedy)

    answer({**event_value(event), "meaning": why.meaning, "remedy": why.remedy}, show)
