"""Counting wrong codes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.core.throttle import Failures, Limit

NOW = 1_700_000_000.0


def test_ten_wrong_codes_lock_for_a_quarter_of_an_hour():
    failures, limit = Failures(), Limit()
    for count in range(1, 10):
        failures = failures.after_wrong_code(NOW, limit)
        assert failures == Failures(count)
        assert not failures.locked(NOW)
    failures = failures.after_wrong_code(NOW, limit)
    assert failures == Failures(0, NOW + 900)
    assert failures.locked(NOW)
    assert failures.locked(NOW + 899.9)
    assert not failures.locked(NOW + 900)


def test_the_count_begins_anew_behind_a_lock():
    failures = Failures(0, NOW).after_wrong_code(NOW + 1, Limit(2, 60))
    assert failures == Failures(1)
    assert not failures.locked(NOW + 1)
    assert failures.after_wrong_code(NOW + 2, Limit(2, 60)) == Failures(0, NOW + 62)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 2000), max_size=60), st.integers(1, 10))
def test_no_more_wrong_codes_are_seen_than_the_limit_allows(waits, most):
    """However the guesses are timed: in any stretch as long as the lock, fewer than twice the limit are looked at."""
    failures, limit, now, seen = Failures(), Limit(most, 900.0), NOW, []
    for wait in waits:
        now += wait
        if not failures.locked(now):
            failures = failures.after_wrong_code(now, limit)
            seen.append(now)
    for time in seen:
        assert len([one for one in seen if time <= one < time + 900]) < 2 * most
