"""A process that keeps something of each login is seen; so is a fault that did not heal."""

import json

import pytest

from soak import tables
from soak.ledger import Verdict
from soak.stage import Row
from soak.week import Week

START = 110_000_000


def week(memory, **verdict):
    return Week(100_000, 600.0, 7.0, Verdict(**verdict), memory)


def grows(octets_a_login, settles_after=100, seconds=600):
    """The memory of a process that fills its caches at first, and keeps so much of each of 100,000 logins."""
    return [START + min(second, settles_after) * 50_000 + octets_a_login * 100_000 * second // seconds for second in range(seconds)]


@pytest.mark.parametrize(("octets", "passed"), [(0, True), (20, True), (200, False), (1000, False)])
def test_a_leak_is_seen(octets, passed):
    assert week(grows(octets)).passed is passed


def test_a_flat_week_in_which_something_was_lost_is_no_good():
    assert not week(grows(0), lost=1).passed
    assert not week(grows(0), wrong=1).passed


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        (Row("x", Verdict(), 0.0), True),
        (Row("x", Verdict(lost=1), 0.0), False),
        (Row("x", Verdict(wrong=1), 0.0), False),
        (Row("x", Verdict(), None), False),
        (Row("x", skipped="needs root"), True),
        (Row("x", notes={"failed": "it could not be played"}), False),
    ],
)
def test_what_is_not_well_does_not_pass(row, passed):
    assert row.passed is passed
    assert json.dumps(tables.as_dict([row], [week(grows(0))], []))
    for text in (tables.as_text([row], [week(grows(0))], []), tables.as_markdown([row], [], [], "make soak")):
        assert "x" in text
