"""docs/reference/promises.md: every promise names what keeps it, and that exists, by its full name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/promises.md"
ROWS = [row for row in re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE) if row[0] != "promise"]
_FILE = re.compile(r"\[([\w/]+)\]\(\.\./\.\./tests/([\w/]+)\.py\)(?:: (.+))?")


@cache
def functions_in(file):
    return set(re.findall(r"^\s*(?:async )?def (test_\w+)\(", (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(("promise", "kept"), ROWS, ids=[promise[:60] for promise, _kept in ROWS])
def test_every_promise_is_kept_by_tests_that_exist(promise, kept):
    found = 0
    for part in kept.split("<br>"):
        command = re.fullmatch(r"`(make|ldapmfa) [^`]+`", part)
        if command:
            continue
        words, file, names = _FILE.fullmatch(part).groups()
        assert words == file
        assert functions_in(file)
        if names is not None:
            named = names.split(", ")
            assert {name.strip("`") for name in named} <= functions_in(file)
            assert all(re.fullmatch(r"`test_\w+`", name) for name in named)
        found += 1
    assert found, "a command alone keeps nothing"


def test_there_are_promises():
    assert len(ROWS) > 60


def test_every_promise_of_the_readme_is_kept_by_a_file_that_is_here():
    """The README has the most important ones; a file that keeps one of them keeps one of these."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Security")[2].partition("What is not promised")[0]
    named = set(re.findall(r"\(tests/([\w/]+)\.py\)", readme))
    here = {_FILE.fullmatch(part)[2] for _promise, kept in ROWS for part in kept.split("<br>") if _FILE.fullmatch(part)}
    assert named <= here
