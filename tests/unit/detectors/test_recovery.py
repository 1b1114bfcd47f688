"""When an episode ends, and why."""

from __future__ import annotations

import numpy as np

from stream_monitor.detectors.recovery import NEVER, REASONS, Reason, Recovery, Strength, decide, reopened, strength


def test_every_case_has_its_reason() -> None:
    policy = Recovery(hold_rows=100, hold_delays=2.0)
    opened = np.array([1_000, 1_000, 1_950, 1_000, 1_000, 1_000])
    onset = np.array([900, 900, 1_900, 1_000, 1_000, 900])
    returned = np.array([-1, 1_500, 1_960, 1_951, 1_950, 1_751])
    times = np.array([0, 0, 0, 1, 3, 1])
    clear = np.array([False, False, False, True, True, True])
    assert decide(policy, 2_050, opened, onset, returned, times, clear).tolist() == [
        Reason.DRIFTING,
        Reason.RETURNED,
        Reason.RETURNED,
        Reason.HELD,
        Reason.RETURNED,
        Reason.HELD,
    ]
    assert decide(policy, 2_051, opened, onset, returned, times, clear).tolist()[3:] == [Reason.RETURNED] * 3
    assert set(REASONS) == set(Reason)


def test_a_weak_drift_that_came_again_stays_open_as_long_as_the_past_is_remembered() -> None:
    policy = Recovery()
    opened, onset, returned = np.array([5_000]), np.array([4_990]), np.array([6_000])
    for row, clear, reason in [
        (5_000 + policy.memory_rows - 1, False, Reason.HELD),
        (5_000 + policy.memory_rows, False, Reason.RETURNED),
        (8_000, True, Reason.RETURNED),
    ]:
        assert decide(policy, row, opened, onset, returned, np.array([1]), np.array([clear])).tolist() == [reason]


def test_what_is_seen_first_says_how_strong_a_drift_is() -> None:
    assert strength(NEVER, clear=False) is Strength.UNKNOWN
    assert strength(NEVER, clear=True) is Strength.CLEAR
    assert strength(7_000, clear=True) is Strength.WEAK


def test_reopenings_are_counted_for_a_while() -> None:
    policy = Recovery()
    assert reopened(policy, 0, -1, 500) == 0
    assert reopened(policy, 2, 10_000, 50_000) == 3
    assert reopened(policy, 2, 10_000, 200_000) == 0
