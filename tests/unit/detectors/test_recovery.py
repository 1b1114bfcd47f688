"""When an episode ends, and why."""

from __future__ import annotations

import numpy as np

from stream_monitor.detectors.recovery import REASONS, Reason, Recovery, decide, reopened


def test_every_case_has_its_reason() -> None:
    policy = Recovery(hold_rows=100, hold_delays=2.0)
    opened = np.array([1_000, 1_000, 1_950, 1_000, 1_000, 1_000, 1_000])
    onset = np.array([900, 900, 1_900, 1_000, 1_000, 1_000, 900])
    returned = np.array([-1, 1_500, 1_960, 1_951, 1_950, 1_651, 1_751])
    times = np.array([0, 0, 0, 1, 1, 2, 1])
    assert decide(policy, 2_050, opened, onset, returned, times).tolist() == [
        Reason.DRIFTING,
        Reason.RETURNED,
        Reason.RETURNED,
        Reason.HELD,
        Reason.RETURNED,
        Reason.HELD,
        Reason.HELD,
    ]
    assert decide(policy, 2_051, opened, onset, returned, times).tolist()[3:] == [Reason.RETURNED] * 4
    assert set(REASONS) == set(Reason)


def test_reopenings_are_counted_for_a_while() -> None:
    policy = Recovery()
    assert reopened(policy, 0, -1, 500) == 0
    assert reopened(policy, 2, 10_000, 50_000) == 3
    assert reopened(policy, 2, 10_000, 200_000) == 0
