"""The ledger sees each kind of mistake; of a run without any it says so."""

from collections import Counter

import pytest

from soak.ledger import CUT, SILENT, Ledger, Request


def ledger(*requests, phase="during"):
    written = Ledger()
    written.phase = phase
    for number, (what, code, answer, *entries) in enumerate(requests):
        written.write(Request(what, "ann", code, float(number), answer, 0.5, *entries))
    return written


GOOD = (("fresh", 1, 0), ("search", None, 0, 1), ("replay", 1, 49), ("wrong", None, 49), ("sneak", None, 50), ("bare", None, 49), ("fresh", 2, 52), ("again", 2, 0))


def judged(written, recorded=2, position=2):
    verdict = written.judge()
    written.against_the_store(verdict, Counter(ann=recorded), {"ann": position})
    return verdict.lost, verdict.wrong


def test_a_good_run_is_good():
    verdict = ledger(*GOOD).judge()
    assert (verdict.sent, verdict.accepted, verdict.cut) == (8, 3, 0)
    assert verdict.refused == {49: 3, 50: 1, 52: 1}
    assert judged(ledger(*GOOD)) == (0, 0)


@pytest.mark.parametrize(
    ("request_", "mistake"),
    [
        (("fresh", 3, SILENT), (1, 0)),
        (("search", None, SILENT), (1, 0)),
        (("replay", 1, 0), (0, 1)),
        (("wrong", None, 0), (0, 1)),
        (("bare", None, 0), (0, 1)),
        (("sneak", None, 0), (0, 1)),
        (("fresh", 3, 49), (0, 1)),
        (("push", None, 49), (0, 1)),
        (("search", None, 0, 0), (0, 1)),
        (("search", None, 0, 2), (0, 1)),
        (("settled", None, 0, 0), (0, 1)),
        (("again", 3, 49), (0, 1)),
    ],
)
def test_a_mistake_is_seen(request_, mistake):
    assert judged(ledger(*GOOD, request_)) == mistake


@pytest.mark.parametrize("answer", [CUT, 51, 52, 80])
def test_who_is_told_or_cut_has_lost_nothing(answer):
    written = ledger(*GOOD, ("fresh", 3, answer), ("search", None, answer, 0))
    assert judged(written) == (0, 0)
    assert judged(written, recorded=3, position=3) == (0, 0), "used, and its client was not told"


def test_a_code_that_was_used_unheard_is_refused_when_it_comes_again():
    written = ledger(*GOOD, ("fresh", 3, CUT), ("again", 3, 49))
    assert judged(written, recorded=3, position=3) == (0, 0)
    assert judged(written) == (0, 1), "it was not used: that was a good code"


def test_a_success_that_is_not_recorded_is_lost():
    assert judged(ledger(*GOOD), recorded=1) == (1, 0)


def test_a_code_that_the_store_does_not_know_as_used_is_lost():
    assert judged(ledger(*GOOD), position=1) == (1, 0)


def test_a_record_of_more_than_there_was_is_wrong():
    assert judged(ledger(*GOOD), recorded=4) == (0, 1)


def test_a_code_accepted_twice_is_wrong():
    assert judged(ledger(("fresh", 1, 0), ("again", 1, 0)), position=1) == (0, 1)


def test_who_was_settled_is_counted_while_the_fault_lasts():
    assert ledger(("settled", None, 0, 1), ("settled", None, CUT), *GOOD).settled() == (1, 2)
    assert ledger(("settled", None, 0, 1), phase="before").settled() == (0, 0)


def test_when_it_is_well_again():
    written = ledger(*GOOD)
    assert written.healed(0.0) is None, "nobody has come since"
    written.phase = "after"
    written.write(Request("again", "ann", 3, 10.0, 52, 0.5))
    assert written.healed(9.0) is None
    assert not written.is_well({"ann"})
    written.write(Request("again", "ann", 3, 11.0, 0, 0.5))
    assert written.healed(9.0) == 1.5
    assert written.is_well({"ann"})
    assert not written.is_well({"ann", "bob"})
