"""`python -m tests.soak`: every fault under load, one after the other; the fuzzers; a table of what became of what was sent.

Exit code 0: nothing lost, nothing wrong, and well again after every fault; nothing raised. 1: not so. 2: it could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from fuzz import run as fuzzing

from soak import faults, postgresql, tables, week
from soak.faults import INSIDE
from soak.stage import Fault, Row, Stage

FAULTS = (*faults.FAULTS, *postgresql.FAULTS)
#: Beside the faults.
OTHERS = ("week", "fuzz")


def main() -> int:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME,...", help=f"some of: {', '.join((*names, *OTHERS))}")
    parser.add_argument("--minutes", type=float, default=60, help="of fuzzing (%(default)g)")
    parser.add_argument("--logins", type=int, default=week.LOGINS, help="in the week (%(default)d)")
    parser.add_argument("--pace", type=float, default=1.0, help="which part of its time each fault takes (%(default)g)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the tables there, as Markdown")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave logs and stores there")
    words = parser.parse_args()
    wanted = words.only.split(",") if words.only else [*names, *OTHERS]
    unknown = set(wanted) - {*names, *OTHERS}
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    _own_mounts()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="ldapmfa-soak-", ignore_cleanup_errors=True) as scratch:
        place = words.keep.absolute() if words.keep else Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        rows = [_played(fault, place, words.pace, quiet=words.json) for fault in FAULTS if fault.name in wanted]
        weeks = [asyncio.run(week.live(place / "week", words.logins))] if "week" in wanted else []
        fuzzed = _fuzzed(words.minutes * 60, quiet=words.json) if "fuzz" in wanted else []
    if words.json:
        print(json.dumps(tables.as_dict(rows, weeks, fuzzed), indent=1))
    else:
        print(tables.as_text(rows, weeks, fuzzed))
    if words.results:
        words.results.write_text(tables.as_markdown(rows, weeks, fuzzed, " ".join(("python -m tests.soak", *sys.argv[1:]))))
    good = all(one.passed for one in (*rows, *weeks)) and not any(one.raised for one in fuzzed)
    return 0 if good else 1


def _own_mounts() -> None:
    """Once more, in a mount namespace of our own, where that is allowed: what is mounted there ends with us."""
    if INSIDE in os.environ or os.geteuid() != 0:
        return
    words = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp(words[0], [*words, sys.executable, "-m", "tests.soak", *sys.argv[1:]])


def _played(fault: Fault, place: Path, pace: float, *, quiet: bool) -> Row:
    why = fault.missing()
    row = Row(fault.name, skipped=why) if why else _play(fault, place / fault.name, pace)
    if not quiet:
        print(tables.line(row), flush=True)
    return row


def _play(fault: Fault, path: Path, pace: float) -> Row:
    try:
        return asyncio.run(Stage(fault, path, pace=pace).play())
    except Exception:  # noqa: BLE001 - the other faults are still to be seen
        return Row(fault.name, notes={"failed": traceback.format_exc()})


def _fuzzed(seconds: float, *, quiet: bool) -> list[fuzzing.Outcome]:
    if why := fuzzing.unavailable():
        print(why, file=sys.stderr)
        return []
    found = []
    for name, share in fuzzing.shares(list(fuzzing.NAMES), seconds).items():
        found.append(fuzzing.fuzz(name, share))
        if not quiet:
            print(found[-1].line(), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
