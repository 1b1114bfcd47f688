"""Block means against plain slices."""

from __future__ import annotations

import numpy as np
import pytest

from stream_monitor.detectors.blocks import Blocks
from stream_monitor.detectors.tables import RANK, mid_ranks, quantised_time, tables_of
from tests.unit.detectors.shapes import Shape


def test_equal_the_means_of_slices(shape: Shape) -> None:
    tables = tables_of(shape.reference)
    blocks = Blocks(tables)
    means = blocks.update(shape.codes, shape.strata, 0)
    for column in range(shape.codes.shape[1]):
        rows = int(blocks.rows[column])
        assert rows == int(np.ceil(50 * tables.time[column]))
        own = means.values[means.columns == column]
        rank = tables.rank[shape.strata, column, shape.codes[:, column]] * RANK
        spread = tables.spread[shape.strata, column, shape.codes[:, column]] * RANK
        count = len(shape.codes) // rows
        assert own[:, 0] == pytest.approx(rank[: count * rows].reshape(count, rows).mean(axis=1))
        assert own[:, 1] == pytest.approx(spread[: count * rows].reshape(count, rows).mean(axis=1))
    assert (np.diff(means.rows) >= 0).all()


def test_blocks_come_in_the_order_of_row_then_column_however_full_they_were(shape: Shape) -> None:
    blocks = Blocks(tables_of(shape.reference))
    blocks.filled += np.arange(len(blocks.rows)) % 7 * 7
    blocks.filled[-1] = blocks.rows[-1]  # as a restored state may say: it is full at the next row
    found = []
    for first, stop in ((0, 130), (130, 131), (131, 1_000)):
        means = blocks.update(shape.codes[first:stop], shape.strata[first:stop], first)
        found += list(zip(means.rows.tolist(), means.columns.tolist(), strict=True))
    assert found == sorted(found)
    assert (0, len(blocks.rows) - 1) in found


def test_shared_blocks_are_fed_once_and_parted_ones_each(shape: Shape) -> None:
    mine, other = Blocks(tables_of(shape.reference)), Blocks(tables_of(shape.reference))
    assert mine.share(other)
    part = shape.codes[:120], shape.strata[:120], 0
    assert mine.update(*part) is mine.update(*part)
    own = mine.copy()
    assert np.array_equal(own.filled, mine.filled)
    mine.update(shape.codes[120:140], shape.strata[120:140], 120)
    assert own.filled.tolist() != mine.filled.tolist()
    assert not mine.share(own)
    assert mine.update(*part) is not mine.update(*part)


def test_mid_ranks_have_mean_one_half_and_at_most_the_variance_of_a_uniform(rng: np.random.Generator) -> None:
    for size in (2, 5, 70):
        p = rng.dirichlet(np.full(size, 0.5))
        u = mid_ranks(p, rng.permutation(size))
        assert p @ u == pytest.approx(0.5)
        assert p @ (u - 0.5) ** 2 <= 1 / 12 + 1e-12


def test_times_are_rounded_up_in_steps() -> None:
    assert quantised_time(1.0) == quantised_time(1.019) == 1.0
    for time in (1.5, 3.0, 19.0):
        assert time <= quantised_time(time) < time * 1.05
    assert quantised_time(1e6) < 2_200
