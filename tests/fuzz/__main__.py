"""`python -m tests.fuzz`: run the targets one after the other, and print what each executed, reached and broke.

Exit code 0: nothing was raised. 1: something was; the input is kept, and printed. 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from fuzz import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"some of: {' '.join(run.NAMES)}; all of them if none is named")
    parser.add_argument("--seconds", type=float, default=120, help="for all targets together (%(default)g)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--keep", action="store_true", help="take what found a new branch into tests/fuzz/corpus, minimised")
    parser.add_argument("--input", type=Path, help="play this one input, of one target, and see what is raised")
    words = parser.parse_args()
    unknown = set(words.targets) - set(run.NAMES)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    why = run.unavailable()
    if why and not words.input:
        print(why, file=sys.stderr)
        return 2
    names = words.targets or list(run.NAMES)
    if words.input:
        from fuzz.targets import TARGETS

        for name in names:
            TARGETS[name](words.input.read_bytes())
        return 0
    found = []
    for name, seconds in run.shares(names, words.seconds).items():
        found.append(run.fuzz(name, seconds, keep=words.keep))
        if not words.json:
            print(found[-1].line(), flush=True)
    if words.json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
    else:
        print(f"{sum(one.executions for one in found):,} executions; {sum(bool(one.raised) for one in found)} targets raised")
    return 1 if any(one.raised for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
