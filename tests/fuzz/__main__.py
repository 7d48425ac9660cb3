"""`python -m tests.fuzz`: run the targets one after the other, and print what each executed, reached and broke.

Exit code 0: nothing was raised. 1: something was; the input is printed, in hexadecimal. 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import sys

from fuzz import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"some of: {' '.join(run.NAMES)}; all of them if none is named")
    parser.add_argument("--seconds", type=float, default=120, help="for all targets together (%(default)g)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--keep", action="store_true", help="take what found a new branch into tests/fuzz/corpus, minimised")
    parser.add_argument("--input", metavar="HEX", type=bytes.fromhex, help="play this one input, and see what is raised")
    words = parser.parse_args()
    unknown = set(words.targets) - set(run.NAMES)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    why = run.unavailable()
    if why and words.input is None:
        print(why, file=sys.stderr)
        return 2
    names = words.targets or list(run.NAMES)
    if words.input is not None:
        from fuzz.targets import target

        for name in names:
            target(name)(words.input)
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
