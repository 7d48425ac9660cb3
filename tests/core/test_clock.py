"""Clocks compared: pure arithmetic."""

import pytest

from ldapmfa.core.clock import Offset, Steps, judged


def test_an_answer_that_took_no_time_tells_to_the_resolution():
    offset = Offset.measured(1000.0, 1.0, 1000.5, 1000.5)
    assert (offset.ahead, offset.margin) == (0.0, 0.5)


def test_an_answer_is_as_good_as_half_the_time_it_took():
    offset = Offset.measured(1010.0, 0.0, 1000.0, 1004.0)
    assert (offset.ahead, offset.margin) == (8.0, 2.0)


@pytest.mark.parametrize(
    ("ahead", "margin", "alarmed", "verdict"),
    [
        (4.9, 0.5, False, None),
        (5.4, 0.5, False, None),
        (5.6, 0.5, False, "alarm"),
        (-5.6, 0.5, False, "alarm"),
        (5.6, 0.5, True, None),
        (5.1, 0.5, True, None),
        (5.0, 0.5, True, "fine"),
        (-1.0, 9.0, True, "fine"),
        (600.0, 700.0, False, None),
    ],
)
def test_an_alarm_is_raised_when_it_is_certain_and_once(ahead, margin, alarmed, verdict):
    assert judged(Offset(ahead, margin), 5.0, alarmed=alarmed) == verdict


class TestSteps:
    def test_a_clock_that_keeps_time_was_not_set(self):
        steps = Steps(1000.0, 50.0)
        assert steps.look(1005.0, 55.0) is None
        assert steps.look(1014.9, 60.0) is None

    def test_a_clock_that_is_trimmed_a_little_at_a_time_was_not_set(self):
        steps = Steps(1000.0, 50.0)
        assert [steps.look(1000.0 + 6 * tick, 50.0 + 5 * tick) for tick in range(1, 100)] == [None] * 99

    @pytest.mark.parametrize("by", [3600.0, -3600.0, 5.1])
    def test_a_clock_that_is_set_is_noticed_once(self, by):
        steps = Steps(1000.0, 50.0)
        assert steps.look(1005.0 + by, 55.0) == pytest.approx(by)
        assert steps.look(1010.0 + by, 60.0) is None
