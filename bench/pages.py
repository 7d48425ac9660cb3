"""A run written down: JSON with every sample, a Markdown table, a plot drawn as SVG by hand."""

from __future__ import annotations

import contextlib
import datetime as dt
import html
import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from bench import machine
from bench.peers import PEERS
from bench.results import US, Measured, Verdict
from bench.rows import Figure, Goal


@dataclass(frozen=True)
class Run:
    """What was measured, and on what; `disturbance` is the share of the processor that other programs took."""

    measured: list[Measured]
    repeat: int
    seconds: float
    disturbance: float
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def now(cls, measured: list[Measured], repeat: int, seconds: float, disturbance: float) -> Self:
        """With today's date, this machine and the versions installed on it."""
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return cls(measured, repeat, seconds, disturbance, date, _machine(), _versions())

    @property
    def peers(self) -> list[str]:
        """Those that took part, in the table's order."""
        return [peer for peer in PEERS if any(peer in one.row.peers for one in self.measured)]


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("ldapmfa", "twisted", "uvloop", "ldaptor")}
    found["python"] = platform.python_version()
    for name, argv in (("haproxy", ["haproxy", "-v"]), ("slapd", ["slapd", "-VV"])):
        done = subprocess.run([machine.program(argv[0]), *argv[1:]], capture_output=True, text=True, check=False)
        words = (done.stdout + done.stderr).split()
        found[name] = next((word for word in words if word[0].isdigit()), "unknown")
    with contextlib.suppress(machine.Missing):
        argv = [machine.program("git"), "-C", str(machine.ROOT), "describe", "--always", "--dirty"]
        commit = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
        found |= {"commit": commit} if commit else {}
    return found


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _with_unit(value: float | None, figure: Figure) -> str:
    return f"{_number(value)} {figure.unit}".strip() if value is not None else "-"


def _sentence(one: Measured, verdict: Verdict) -> str:
    """A verdict in words: what it is, what it is to be, and whether it is."""
    goal = verdict.goal
    figure = next(figure for figure in one.row.figures if figure.name == goal.figure)
    judged = "met" if verdict.met else "missed" if verdict.value is not None else "missed: not measured"
    if goal.of:
        value = "?" if verdict.value is None else f"{verdict.value:.2f}"
        return f"{value} x {PEERS[goal.of][0]} ({_aim(goal)}): {judged}"
    return f"{figure.what} {_with_unit(verdict.value, figure)} ({_aim(goal)}): {judged}"


def _aim(goal: Goal) -> str:
    return f"goal {goal.most:g}" if goal.most is not None else f"goal at least {goal.least:g}"


def summary(one: Measured) -> str:
    """A row in a few lines, for whoever watches."""
    lines = [f"{one.row.name}: {one.row.what}"]
    for figure in one.row.figures:
        values = (f"{peer} {_number(one.median(peer, figure.name))}" for peer in one.row.peers)
        lines.append(f"  {figure.what}, {figure.unit or 'as such'}: {', '.join(values)}")
    lines += [f"  {_sentence(one, verdict)}" for verdict in one.verdicts()]
    return "\n".join(lines)


# -- JSON


def as_json(run: Run) -> str:
    """Everything, every sample included."""
    rows = [
        {
            "name": one.row.name,
            "what": one.row.what,
            "figures": [
                {
                    "name": figure.name,
                    "unit": figure.unit,
                    "what": figure.what,
                    "median": {peer: one.median(peer, figure.name) for peer in one.row.peers},
                }
                for figure in one.row.figures
            ],
            "samples": one.samples,
            "goals": [
                {**asdict(verdict.goal), "value": verdict.value, "met": verdict.met} for verdict in one.verdicts()
            ],
            "broken": one.broken,
        }
        for one in run.measured
    ]
    head = {
        "date": run.date,
        "repeat": run.repeat,
        "seconds": round(run.seconds),
        "disturbance": round(run.disturbance, 3),
    }
    return json.dumps({**head, "machine": run.machine, "versions": run.versions, "rows": rows}, indent=2) + "\n"


# -- Markdown


def as_markdown(run: Run) -> str:
    """The table, with each goal beside its row, and what it was measured on."""
    lines = [
        "| work | figure | " + " | ".join(PEERS[peer][0] for peer in run.peers) + " | goals of ldapmfa |",
        "|---|---|" + "---:|" * len(run.peers) + "---|",
    ]
    for one in run.measured:
        for number, figure in enumerate(one.row.figures):
            cells = [_number(one.median(peer, figure.name)) for peer in run.peers]
            verdicts = [_sentence(one, verdict) for verdict in one.verdicts() if verdict.goal.figure == figure.name]
            what = one.row.what if number == 0 else ""
            unit = f", {figure.unit}" if figure.unit else ""
            goals = "<br>".join(verdicts).replace(": missed", ": **missed**")
            lines.append(f"| {what} | {figure.what}{unit} | {' | '.join(cells)} | {goals} |")
    lines += ["", *_circumstances(run)]
    lines += [
        f"- {one.row.name}: {peer} could not be measured: {why.splitlines()[0]}"
        for one in run.measured
        for peer, why in one.broken.items()
    ]
    return "\n".join(lines) + "\n"


def _circumstances(run: Run) -> Iterator[str]:
    about = run.machine
    yield (
        f"- Medians of {run.repeat}, {run.date}, in {run.seconds / 60:.1f} minutes. {about['processor']},"
        f" {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, {about['open_files']} open files."
    )
    doubt = "; figures that are taken in turn may still be compared, with care" if run.disturbance > 0.05 else ""
    yield f"- Other programs took {run.disturbance:.0%} of the processor meanwhile{doubt}."
    yield "- " + ", ".join(f"{name} {number}" for name, number in run.versions.items()) + "."


# -- SVG

_COLOURS: Final = {
    "haproxy": "#8d99ae",
    "back-ldap": "#6a9fb5",
    "ldaptor": "#d9a05b",
    "bare": "#a3b18a",
    "ldapmfa": "#c8434b",
}
_GREY: Final = "#9a9a9a"
_WIDTH: Final = 760
_LEFT: Final = 160
_BAR: Final = 18


def as_svg(run: Run) -> str:
    """A panel of bars for each figure that is a cost, ours in red, with a line where the nearest goal lies."""
    parts: list[str] = []
    y = 34
    for one in run.measured:
        for figure in one.row.figures:
            if figure.shown:
                panel, y = _panel(one, figure, y)
                parts += panel
    style = (
        "text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}.small{font-size:11px;fill:#666}"
        ".goal{stroke:#333;stroke-dasharray:3 3}@media(prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#aaa}"
        ".goal{stroke:#ddd}}"
    )
    caption = f"less is better; the dashed line is the goal of ldapmfa; {run.date}"
    head = f'<text x="12" y="20" class="small">{caption}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}">'
        f"<style>{style}</style>{head}{''.join(parts)}</svg>\n"
    )


def _panel(one: Measured, figure: Figure, y: int) -> tuple[list[str], int]:
    medians = {peer: one.median(peer, figure.name) for peer in one.row.peers}
    values = {peer: value for peer, value in medians.items() if value is not None}
    if not values:
        return [], y
    limit = _limit(one, figure, values)
    widest = max(_widest(list(values.values())), limit or 0)
    room = _WIDTH - _LEFT - 120
    title = html.escape(f"{one.row.name}: {figure.what}, {figure.unit}")
    parts = [f'<text x="12" y="{y + 14}" class="head">{title}</text>']
    top = y + 22
    for place, (peer, value) in enumerate(values.items()):
        at = top + place * (_BAR + 4)
        width = max(1, round(room * min(value, widest) / widest))
        cut = " (bar cut)" if value > widest else ""
        parts.append(
            f'<text x="{_LEFT - 8}" y="{at + 13}" text-anchor="end">{html.escape(PEERS[peer][0])}</text>'
            f'<rect x="{_LEFT}" y="{at}" width="{width}" height="{_BAR}" rx="2" fill="{_COLOURS.get(peer, _GREY)}"/>'
            f'<text x="{_WIDTH - 12}" y="{at + 13}" text-anchor="end" class="small">{_number(value)}{cut}</text>'
        )
    bottom = top + len(values) * (_BAR + 4)
    if limit:
        x = _LEFT + round(room * limit / widest)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{top - 3}" y2="{bottom}" class="goal"/>')
    return parts, bottom + 14


def _widest(values: list[float]) -> float:
    """What the longest bar stands for: where one value would make all others invisible, its bar is cut."""
    *_, second, most = sorted([0.0, *values])
    return 1.5 * second if most > 4 * second > 0 else most


def _limit(one: Measured, figure: Figure, values: dict[str, float]) -> float | None:
    """The strictest goal of ours, in the figure's own unit."""
    limits = [
        goal.most * (values[goal.of] if goal.of else 1)
        for goal in one.row.goals
        if goal.figure == figure.name
        and goal.most is not None
        and (goal.of is None or goal.of in values)
        and US in one.row.peers
    ]
    return min(limits, default=None)
