"""Counting wrong codes, and wrong passwords."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.core.throttle import Failures, Limit, PasswordLimit, Room, Tried, bare_name, source_of, without_marks

NOW = 1_700_000_000.0
DAY = 86400.0


def locked(failures, now, limit=Limit()):  # noqa: B008 - frozen
    """As many wrong codes as it takes."""
    for _ in range(limit.wrong_codes):
        failures = failures.after_wrong_code(now, limit)
    return failures


def test_A20_ten_wrong_codes_lock_for_a_quarter_of_an_hour():
    failures, limit = Failures(), Limit()
    for count in range(1, 10):
        failures = failures.after_wrong_code(NOW, limit)
        assert failures == Failures(count)
        assert not failures.locked(NOW)
    failures = failures.after_wrong_code(NOW, limit)
    assert failures == Failures(0, NOW + 900, 1)
    assert failures.locked(NOW)
    assert failures.locked(NOW + 899.9)
    assert not failures.locked(NOW + 900)


def test_A20_the_count_begins_anew_behind_a_lock():
    failures = Failures(0, NOW, 1).after_wrong_code(NOW + 1, Limit(2, 60))
    assert failures == Failures(1, NOW, 1)
    assert not failures.locked(NOW + 1)
    assert failures.after_wrong_code(NOW + 2, Limit(2, 60)) == Failures(0, NOW + 122, 2)


def test_A20_each_lock_without_a_right_code_lasts_twice_as_long_up_to_a_day():
    failures, now, lasted = Failures(), NOW, []
    for _ in range(10):
        failures = locked(failures, now)
        lasted.append(failures.locked_until - now)
        now = failures.locked_until
    assert lasted == [900, 1800, 3600, 7200, 14400, 28800, 57600, DAY, DAY, DAY]
    assert failures.locks == 10


def test_A20_quiet_for_as_long_as_the_longest_lock_sets_it_back():
    failures = locked(locked(Failures(), NOW), NOW + 900)
    assert failures == Failures(0, NOW + 2700, 2)
    assert locked(failures, NOW + 2700 + DAY - 1).locks == 3
    assert locked(failures, NOW + 2700 + DAY) == Failures(0, NOW + 2700 + DAY + 900, 1)


def test_A20_quiet_does_not_set_back_the_codes_in_a_row():
    failures = locked(Failures(), NOW).after_wrong_code(NOW + 900, Limit())
    assert failures == Failures(1, NOW + 900, 1)
    assert failures.after_wrong_code(NOW + 900 + DAY, Limit()) == Failures(2)


@pytest.mark.parametrize("longest", [1.0, 60.0])
def test_A20_no_lock_is_shorter_than_the_first(longest):
    failures = locked(Failures(), NOW, Limit(2, 60, longest))
    assert locked(failures, NOW + 60, Limit(2, 60, longest)).locked_until == NOW + 120


def test_A20_locks_can_be_many():
    assert Limit().lasts(10**9) == DAY


def test_A20_what_was_kept_before_locks_grew_is_no_lock():
    assert Failures(0, NOW - 5).after_wrong_code(NOW, Limit()) == Failures(1)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 2000), max_size=60), st.integers(1, 10))
def test_A20_no_more_wrong_codes_are_seen_than_the_limit_allows(waits, most):
    """However the guesses are timed: in any stretch as long as the lock, fewer than twice the limit are looked at."""
    failures, limit, now, seen = Failures(), Limit(most, 900.0), NOW, []
    for wait in waits:
        now += wait
        if not failures.locked(now):
            failures = failures.after_wrong_code(now, limit)
            seen.append(now)
    for time in seen:
        assert len([one for one in seen if time <= one < time + 900]) < 2 * most


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 2 * DAY), min_size=200, max_size=400))
def test_A20_over_days_fewer_than_forty_a_day_are_seen(waits):
    """The attacker's best is to stop at five locks, and to be quiet for a day."""
    failures, now, seen = Failures(), NOW, 0
    for wait in [0.0] * 50 + [*waits, *[0.0] * 50]:
        now = max(now + wait, failures.locked_until or 0.0)
        for _ in range(10):
            failures = failures.after_wrong_code(now, Limit())
            seen += 1
    assert seen <= 100 + 40 * (now - NOW) / DAY


# -- guesses that were none


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=25), st.integers(1, 4), st.integers(0, 2))
def test_A20_a_guess_that_was_none_leaves_nothing(guesses, most, earlier):
    """Whatever is under way at once, and in whichever order it ends: what is left is what the wrong ones alone leave."""
    limit, kept = Limit(most, 900.0), Failures()
    for _ in range(earlier):
        kept = locked(kept, NOW, limit)
        kept = Failures(0, NOW, kept.locks)
    failures, wrong, pending = kept, kept, []
    for was_wrong, over in guesses:
        for _ in range(over):
            if pending:
                failures = failures.without_guess(pending.pop(0), NOW, limit)
        if failures.locked(NOW):
            continue
        before, failures = failures.before_guess(NOW, limit), failures.after_wrong_code(NOW, limit)
        if was_wrong:
            wrong = wrong.after_wrong_code(NOW, limit)
        else:
            pending.append(before)
    for before in pending:
        failures = failures.without_guess(before, NOW, limit)
    assert failures == wrong


def test_A20_behind_a_lock_that_has_ended_nothing_is_given_back():
    limit = Limit(2, 60)
    before = Failures().before_guess(NOW, limit)
    failures = locked(Failures(), NOW, limit)
    assert failures.without_guess(before, NOW + 59, limit) == Failures(1)
    assert failures.without_guess(before, NOW + 60, limit) == failures
    assert locked(failures, NOW + 60, limit).without_guess(before, NOW + 61, limit).locks == 2
    assert Failures().without_guess(before, NOW, limit) == Failures(), "a right code came first"


# -- passwords


@pytest.mark.parametrize(
    ("tried", "barred"),
    [
        (Tried(), None),
        (Tried(4, 99, 599), None),
        (Tried(5), "wrong_passwords"),
        (Tried(0, 100), "source_wrong_passwords"),
        (Tried(0, 0, 600), "wrong_passwords_a_minute"),
        (Tried(0, 0, 600, known=True), None),
        (Tried(5, known=True), "wrong_passwords"),
        (Tried(0, 100, known=True), "source_wrong_passwords"),
        (Tried(1, again=True), "same wrong password again"),
    ],
)
def test_A22_which_limit_bars_a_password(tried, barred):
    assert PasswordLimit().bars(tried, gateway=False) == barred


def test_A22_a_gateway_is_not_locked_out_as_a_whole():
    assert PasswordLimit().bars(Tried(0, 10_000), gateway=True) is None
    assert PasswordLimit().bars(Tried(5, 10_000), gateway=True) == "wrong_passwords"


def test_A22_no_more_are_under_way_than_may_be_wrong():
    limit = PasswordLimit()
    assert limit.room(Tried(), gateway=False, workers=1) == Room(5, 100, 600)
    assert limit.room(Tried(3, 99, 200), gateway=False, workers=1) == Room(2, 1, 400)
    assert limit.room(Tried(3, known=True), gateway=True, workers=1) == Room(2, None, None)


@given(st.integers(1, 64), st.integers(0, 4))
def test_A22_each_worker_has_its_share_and_one_at_least(workers, failures):
    room = PasswordLimit().room(Tried(failures), gateway=False, workers=workers)
    assert room.of_name == 1 or workers * room.of_name <= 5 - failures


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (None, ""),
        (ip_address("192.0.2.7"), "192.0.2.7"),
        (ip_address("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
        (ip_address("2001:db8:1:2:ffff::"), "2001:db8:1:2::/64"),
        (ip_address("2001:db8:1:3::"), "2001:db8:1:3::/64"),
    ],
)
def test_A22_where_a_client_is_as_far_as_it_counts(client, source):
    assert source_of(client) == source


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("ann", "ann"),
        ("example\\ann", "ann"),
        ("ann@example.test", "ann"),
        ("example\\ann@example.test", "ann"),
        ("dn:cn=a\\,b@c,dc=x", "dn:cn=a\\,b@c,dc=x"),
        ("example\\", "example\\"),
        ("@example.test", "@example.test"),
        ("", ""),
    ],
)
def test_A22_a_name_without_its_domain(name, bare):
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    ("name", "unmarked"),
    [
        ("ann", "ann"),
        ("\u00e4nn", "ann"),
        ("a\u0302n\u0303n\u0301\u0302", "ann"),
        ("an\u0378n\ue000", "ann"),
        ("dn:cn=\u00e5nn,dc=x", "dn:cn=ann,dc=x"),
        ("\u0430nn", "\u0430nn"),
        ("\u0301", "\u0301"),
        ("", ""),
    ],
)
def test_A22_a_name_without_its_accents(name, unmarked):
    assert without_marks(name) == unmarked
