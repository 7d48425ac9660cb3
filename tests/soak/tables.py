"""The figures as text, as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.run import Outcome

    from soak.stage import Row
    from soak.week import Week

HEADS = ("fault", "sent", "accepted", "refused", "cut", "hit", "settled", "unheard", "lost", "wrong", "longest", "healed")


def cells(row: Row) -> tuple[str, ...]:
    """A row's, in the order of `HEADS`; `refused` by result code."""
    verdict = row.verdict
    if verdict is None:
        return (row.fault, *("-",) * 10, "skipped" if row.skipped else "FAILED")
    refused = ", ".join(f"{count} x {code}" for code, count in sorted(verdict.refused.items(), key=str)) or "0"
    healed = "NOT" if row.healed is None else f"{row.healed:.1f} s"
    counts = (verdict.cut, verdict.hit, "{} of {}".format(*verdict.settled), verdict.unheard, verdict.lost, verdict.wrong)
    return (row.fault, f"{verdict.sent:,}", f"{verdict.accepted:,}", refused, *map(str, counts), f"{verdict.longest:.1f} s", healed)


def line(row: Row) -> str:
    """One row, as it is printed when its fault is over."""
    told = dict(zip(HEADS, cells(row), strict=True))
    text = f"{told.pop('fault'):20}" + "  ".join(f"{name} {value}" for name, value in told.items())
    why = row.skipped or row.notes.get("failed", "")
    mistakes = row.verdict.mistakes[:20] if row.verdict else []
    return "\n".join([f"{text}  {why}" if why else text, *(f"    {one}" for one in mistakes)])


def as_text(rows: Sequence[Row], weeks: Sequence[Week], fuzzed: Sequence[Outcome]) -> str:
    """Everything, for a terminal."""
    parts = []
    if rows:
        table = [HEADS, *map(cells, rows)]
        widths = [max(len(one[column]) for one in table) for column in range(len(HEADS))]
        parts.append("\n".join("  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip() for one in table))
    parts += [str(one) for one in weeks]
    if fuzzed:
        parts.append(f"fuzzing: {sum(one.executions for one in fuzzed):,} executions, {sum(bool(one.raised) for one in fuzzed)} targets raised")
    return "\n\n".join(parts)


def as_markdown(rows: Sequence[Row], weeks: Sequence[Week], fuzzed: Sequence[Outcome], command: str) -> str:
    """Everything, for tests/soak/results.md."""
    parts = [f"# What became of what was sent\n\nWritten by `{command}`. What the columns mean is in docs/explanation/faults.md."]
    if rows:
        parts.append("\n".join([_cells(HEADS), _cells(("---",) * len(HEADS)), *(_cells(cells(row)) for row in rows)]))
    parts += [str(one) for one in weeks]
    if fuzzed:
        heads = ("target", "executions", "branches", "inputs kept", "raised")
        figures = [
            (one.target, f"{one.executions:,}", str(one.covered), str(one.corpus), "1" if one.raised else "0") for one in fuzzed
        ]
        parts.append("\n".join([_cells(heads), _cells(("---",) * len(heads)), *map(_cells, figures)]))
    return "\n\n".join(parts) + "\n"


def _cells(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def as_dict(rows: Sequence[Row], weeks: Sequence[Week], fuzzed: Sequence[Outcome]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "faults": [row.as_dict() for row in rows],
        "week": [one.as_dict() for one in weeks],
        "fuzz": [one.as_dict() for one in fuzzed],
    }
