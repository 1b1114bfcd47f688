"""The trail: where recent rows came from, exactly while they are recent, by marks after that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.batch import Origins
from stream_monitor.errors import WireError
from stream_monitor.trail import FINE, MARKS, STRIDE, Origin, Trail


def fill(trail: Trail, rows: int, step: int = 100) -> None:
    """Row i came from offset 10 i, at time 1000 i; its codes are i mod 7 in every column."""
    while rows:
        count = min(rows, step)
        numbers = np.arange(trail.rows, trail.rows + count)
        origins = Origins(
            np.zeros(count, np.int32), numbers * 10, np.zeros(count, np.int32), numbers * 1000, numbers
        )  # fmt: skip
        trail.extend(np.repeat((numbers % 7).astype(np.uint8)[:, None], 2, axis=1), origins)
        rows -= count


def test_recent_rows_are_remembered_exactly() -> None:
    trail = Trail(2)
    fill(trail, 5_000)
    assert trail.at(4_999) == Origin(0, 49_990, 0, 4_999_000)
    assert trail.at(5_000 - FINE) == Origin(0, (5_000 - FINE) * 10, 0, (5_000 - FINE) * 1000)


def test_older_rows_by_the_mark_before_them_and_the_oldest_by_the_oldest_mark() -> None:
    trail = Trail(2)
    fill(trail, 5_000)
    assert trail.at(STRIDE + 3).offset == STRIDE * 10
    fill(trail, STRIDE * MARKS)
    assert trail.at(0).offset > 0
    assert trail.at(0).offset <= (trail.rows - STRIDE * (MARKS - 1)) * 10


def test_codes_of_a_stretch() -> None:
    trail = Trail(2)
    fill(trail, 3_000)
    np.testing.assert_array_equal(trail.codes_between(2_500, 2_600, 1), np.arange(2_500, 2_600) % 7)


@settings(max_examples=30)
@given(st.lists(st.integers(1, FINE), min_size=1, max_size=20))
def test_how_rows_are_cut_does_not_matter(cuts: list[int]) -> None:
    cut, whole = Trail(2), Trail(2)
    for count in cuts:
        fill(cut, count, FINE)
    fill(whole, sum(cuts))
    for name, array in whole.state().items():
        np.testing.assert_array_equal(cut.state()[name], array)


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 1023, 1024, 5_000, STRIDE * MARKS + 5])
def test_a_restored_trail_goes_on_as_if_nothing_had_been(rows: int) -> None:
    trail, restored = Trail(2), Trail(2)
    fill(trail, rows)
    restored.restore(trail.rows, trail.state())
    fill(trail, 500)
    fill(restored, 500)
    for name, array in trail.state().items():
        np.testing.assert_array_equal(restored.state()[name], array)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    trail = Trail(2)
    fill(trail, 300)
    with pytest.raises(WireError, match="does not fit 400 rows"):
        trail.restore(400, trail.state())
    assert trail.rows == 300


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 300),
            st.sampled_from([0, 1, 255, 256, 2**31 - 1]),
            st.sampled_from([0, 7, 2**31, 2**33, 2**62]),
            st.sampled_from([-(2**41), 0, 2**31, 2**32, 2**41]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_numbers_of_any_size_are_kept_exactly(runs: list[tuple[int, int, int, int]]) -> None:
    trail, kept = Trail(1), []
    for count, small, offset, time_ms in runs:
        numbers = np.arange(count)
        origins = Origins(
            np.full(count, small, np.int32), offset + numbers, np.full(count, small // 2, np.int32),
            time_ms - numbers, numbers,
        )  # fmt: skip
        trail.extend(np.zeros((count, 1), np.uint8), origins)
        kept += [Origin(small, offset + i, small // 2, time_ms - i) for i in range(count)]
    first = max(len(kept) - FINE, 0)
    assert [trail.at(row) for row in range(first, len(kept))] == kept[first:]
    assert trail.last(FINE)[1].tolist() == [origin.time_ms for origin in kept[first:]]
    restored = Trail(1)
    restored.restore(trail.rows, trail.state())
    for name, array in trail.state().items():
        np.testing.assert_array_equal(restored.state()[name], array)
