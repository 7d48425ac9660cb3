"""One target under atheris, in a process of its own: what is instrumented is slow. `python child.py TARGET libFuzzer's words`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]
    with atheris.instrument_imports(include=["ldapmfa.wire", "ldapmfa.core", "ldapmfa.factors"]):
        from fuzz.targets import target

        play = target(sys.argv[1])
    atheris.Setup([os.environ.get("FUZZ_AGAIN", sys.argv[0]), *sys.argv[2:]], play)
    atheris.Fuzz()
