"""`python -m bench`: measure, write the pages, say which goals are missed."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from rich.console import Console

from bench import machine, pages
from bench.results import Measured
from bench.rows import ROWS, Row
from bench.site import Invalid, Site
from bench.work import Sample

_BY_NAME: Final = {row.name: row for row in ROWS}
_EXAMPLES: Final = """\b
Examples:
  python -m bench
  python -m bench --only search,login --repeat 9
  python -m bench --only start --json"""


def _rows(_context: click.Context, _option: click.Parameter, value: str | None) -> list[Row]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    for name in names:
        if name not in _BY_NAME:
            raise click.BadParameter(f"{name!r} is no row; there are {', '.join(_BY_NAME)}")
    return [row for row in ROWS if not names or row.name in names]


@click.command(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "rows", metavar="ROW[,ROW...]", callback=_rows, help=f"Some rows of: {', '.join(_BY_NAME)}.")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Samples of each peer and row.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent,
    help="Where results.json, results.md and results.svg go; bench/ if not given.",
)
def main(*, rows: list[Row], repeat: int, as_json: bool, output: Path) -> None:
    """Measure ldapmfa beside its peers, on this machine, in one run.

    A median of the samples counts. Exit code 0: every goal is reached. 1: one is missed, or something could not be
    measured. 2: the command line is wrong, or a program is not installed.
    """
    progress = Console(stderr=True)
    signal.signal(signal.SIGTERM, _end)
    machine.open_files_limit(20_000)
    began, others = time.monotonic(), machine.Others()
    try:
        with tempfile.TemporaryDirectory(prefix="ldapmfa-bench-") as place, Site(Path(place)) as site:
            measured = [_measure(site, row, repeat, progress) for row in rows]
    except machine.Missing as missing:
        raise click.UsageError(str(missing)) from None
    except KeyboardInterrupt:
        progress.print("stopped; nothing was written")
        sys.exit(130)
    run = pages.Run.now(measured, repeat, time.monotonic() - began, others.share())
    output.mkdir(exist_ok=True)
    for name, text in (("json", pages.as_json(run)), ("md", pages.as_markdown(run)), ("svg", pages.as_svg(run))):
        (output / f"results.{name}").write_text(text, encoding="utf-8")
    click.echo(pages.as_json(run) if as_json else pages.as_markdown(run))
    sys.exit(not all(one.met for one in measured))


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _measure(site: Site, row: Row, repeat: int, progress: Console) -> Measured:
    """All samples of a row, the peers in turn; one that fails is left out from then on."""
    measured = Measured(row)
    takers: dict[str, Callable[[], Sample]] = {}

    def attempt(peer: str, step: str, take: Callable[[], Sample]) -> Sample | None:
        status.update(f"{row.name}: {step}, {peer}")
        try:
            return take()
        except (Invalid, machine.StartError, OSError) as failure:
            measured.broken[peer] = str(failure)
            takers.pop(peer, None)
            progress.print(f"{row.name}: {peer} is left out: {failure}", style="red", markup=False, soft_wrap=True)
            return None

    with contextlib.ExitStack() as prepared, progress.status(row.name) as status:

        def preparation(peer: str) -> Callable[[], Sample]:
            def prepare() -> Sample:
                takers[peer] = prepared.enter_context(row.measure(site, peer))
                return takers[peer]()

            return prepare

        for peer in row.peers:
            attempt(peer, "warm-up", preparation(peer))
        for number in range(1, repeat + 1):
            for peer, take in tuple(takers.items()):
                sample = attempt(peer, f"{number} of {repeat}", take)
                if sample is not None:
                    measured.samples.setdefault(peer, []).append(sample)
    progress.print(pages.summary(measured), markup=False, highlight=False, soft_wrap=True)
    return measured


if __name__ == "__main__":
    main()
