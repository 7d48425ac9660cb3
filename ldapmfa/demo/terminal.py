"""How the demo looks on a terminal, or in a file: headings, facts, outcomes, a QR code, lines to paste.

Not in here: what is played (`ldapmfa.demo.logins`), and what on (`ldapmfa.demo.run`).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

import segno
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ldapmfa.cli.reasons import explained

_CODES: Final = {
    0: "success",
    49: "invalidCredentials",
    50: "insufficientAccessRights",
    52: "unavailable",
}


class Terminal:
    """What is told, on `console`."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, text: str) -> None:
        """Begin."""
        self.console.rule(text, characters="-")

    def heading(self, title: str, text: str) -> None:
        """Begin something new."""
        self.console.print()
        self.console.print(title, style="bold")
        self.console.print(text)

    def tell(self, *facts: tuple[str, str]) -> None:
        """Facts, each with its name."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in facts:
            table.add_row(Text(name), Text(fact))
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def paste(self, *lines: str) -> None:
        """Lines that can be pasted: never wrapped."""
        for line in lines:
            self.console.print(f"  {line}", soft_wrap=True)

    def scan(self, uri: str) -> None:
        """A URI, and its QR code where that can be drawn."""
        if not self.console.options.ascii_only:
            self.console.print(Padding(qr_code(uri, colours=self.console.color_system is not None), (1, 2)))
        self.console.print(uri, soft_wrap=True)

    def explain(self, number: int, login: Any, typed: str | None, seen: Any, *, right: bool) -> None:
        """One of the logins: what was done, what was expected, what came of it and why."""
        self.heading(f"{number}. {login.title}", login.story)
        on_record = f"; on record: {login.expected.reason}" if login.expected.reason else ""
        said = f', "{seen.text}"' if seen.text else ""
        facts = [("typed", typed if typed is not None else "nothing")]
        if login.pressed:
            facts += [("page", seen.outcome.asked or "asked nothing"), ("pressed", login.pressed)]
        facts += [
            ("expected", in_words(login.expected) + on_record),
            ("seen", in_words(seen.outcome) + said),
        ]
        why = "No bind came before it: the proxy answers this itself, and nothing reaches the directory."
        if seen.record:
            named = f", under the reference {seen.reference}" if seen.reference else ""
            detail = f" ({seen.record.detail})" if seen.record.detail else ""
            facts.append(("audit", f"{seen.record.outcome}, {seen.record.reason}{detail}{named}"))
            why = explained(seen.record.reason).meaning
        facts.append(("why", why))
        self.tell(*facts)
        tick, cross = ("OK", "WRONG") if self.console.options.ascii_only else ("✓", "✗")
        if right:
            self.console.print(f"  {tick} as it must be", style="green")
        else:
            self.console.print(f"  {cross} not as it must be", style="bold red")

    def count(self, right: list[bool]) -> None:
        """How many outcomes were right."""
        self.console.print()
        count = f"{sum(right)} of {len(right)} outcomes are as they must be."
        self.console.print(count, style="bold green" if all(right) else "bold red")


def in_words(outcome: Any) -> str:
    """What the client got."""
    verdict = "accepted" if outcome.code == 0 else "refused"
    found = f", and the search found {', '.join(outcome.entries)}" if outcome.entries else ""
    return f"{verdict}: {_CODES.get(outcome.code, 'result code')} ({outcome.code}){found}"


def qr_code(text: str, *, colours: bool) -> Text:
    """`text` as a QR code, two modules a character; without `colours` for light writing on a dark ground."""
    rows = [bytes(row) for row in segno.make(text, error="l").matrix_iter(border=2)]
    # what is written is the dark modules, on white; without colours the light ones
    letters = {(1, 1): "█", (1, 0): "▀", (0, 1): "▄", (0, 0): " "} if colours else (
        {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    )
    lines = []
    for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=bytes(len(rows[0]))):
        lines.append("".join(letters[pair] for pair in zip(upper, lower, strict=True)))
    return Text("\n".join(lines), style="black on white" if colours else "", no_wrap=True)
