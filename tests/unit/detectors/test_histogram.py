"""The histogram detector against plain counting and scipy's χ²."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare, false_discovery_control

from stream_monitor.detectors.histogram import Histogram, HistogramParams, _chi_square, critical_values, significant
from stream_monitor.detectors.panes import pack, row_bytes, unpack
from stream_monitor.errors import WireError
from tests.unit.detectors.shapes import ROWS, SHAPES, Shape, numeric


def feed(detector: Histogram, shape: Shape, stop: int) -> None:
    for first in range(0, stop, 100):
        last = min(first + 100, stop)
        detector.update(shape.codes[first:last], shape.strata[first:last], first)


@pytest.mark.parametrize("stop", [40, 150, 1_999, 2_000, 2_970])
def test_windows_are_the_counts_of_the_last_rows(shape: Shape, stop: int) -> None:
    detector = Histogram(shape.reference, HistogramParams(), 1e-9)
    feed(detector, shape, stop)
    first = max((stop // 100 - 20) * 100, 0)
    recent = max((stop // 100 - 3) * 100, 0)
    for column, watched in enumerate(shape.reference.columns):
        width = len(watched.strata[0].counts)
        window = detector.window(column)
        assert window.counts.tolist() == np.bincount(shape.codes[first:stop, column], minlength=width).tolist()
        short = detector.recent(column)
        assert short.counts.tolist() == np.bincount(shape.codes[recent:stop, column], minlength=width).tolist()
        shares = detector.tables.p[shape.strata[first:stop], column, :width].mean(axis=0, dtype=np.float64)
        assert window.p == pytest.approx(shares / shares.sum(), abs=1e-6)
        assert window.n == stop - first


@given(st.integers(5, 90), st.integers(1, 255), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 1.0, 10.0]))
def test_a_pane_comes_out_of_the_ring_as_it_went_in(width: int, pane_rows: int, seed: int, evenness: float) -> None:
    """However many rows are in one bin."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(pane_rows, rng.dirichlet(np.full(width, evenness))).astype(np.uint8)
    row = rng.integers(0, 256, row_bytes(width, pane_rows)).astype(np.uint8)
    found = np.zeros_like(counts)
    pack(counts, row)
    unpack(row, found)
    assert found.tolist() == counts.tolist()


def test_the_largest_counts_that_a_pane_can_have_fit() -> None:
    counts = np.zeros(40, dtype=np.uint8)
    counts[:17] = 15
    row = np.zeros(row_bytes(40, 255), dtype=np.uint8)
    found = np.zeros_like(counts)
    pack(counts, row)
    unpack(row, found)
    assert (len(row), found.tolist()) == (37, counts.tolist())


@pytest.mark.parametrize(("name", "most"), [("ring", 100), ("open", 40)])
def test_more_rows_than_a_pane_has_are_refused(name: str, most: int) -> None:
    shape = numeric()
    detector = Histogram(shape.reference, HistogramParams(), 1e-9)
    feed(detector, shape, 340)
    state = detector.state()
    given = state[name]
    assert isinstance(given, np.ndarray)
    counts = given.reshape(-1, given.shape[-1])[0]
    counts[:] = 0
    counts[0] = most
    detector.restore(state)
    counts[0] = most + 1
    with pytest.raises(WireError, match=name):
        detector.restore(state)


def test_chi_square_is_that_of_scipy(rng: np.random.Generator) -> None:
    """All bins above the least expected count: the plain statistic, scaled by both sizes."""
    p = rng.dirichlet(np.full(20, 5.0))
    counts = rng.multinomial(2_000, p).astype(np.uint16)
    statistic, freedom = np.zeros(1), np.zeros(1)
    far = _chi_square(
        counts[None], p[None], np.array([20]), np.array([10_000.0]), np.array([1.5]), 1.0, 500,
        critical_values(20, 0.01), statistic, freedom,
    )  # fmt: skip
    plain = chisquare(counts, p * 2_000).statistic
    assert statistic[0] == pytest.approx(plain / 1.2 / 1.5)
    assert freedom[0] == 19
    assert far == (statistic[0] > chi2.isf(0.01, 19))


def test_rare_bins_are_joined_until_ten_rows_are_expected() -> None:
    p = np.array([0.001] * 4 + [0.3, 0.003, 0.003, 0.3, 0.001, 0.389])
    p = p / p.sum()
    order = [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]
    counts = np.round(1_000 * p).astype(np.uint16)
    counts[5] += 30
    statistic, freedom = np.zeros(1), np.zeros(1)
    _chi_square(
        counts[None], p[None], np.array([10]), np.array([1e12]), np.ones(1), 10.0, 500, critical_values(10, 0.01),
        statistic, freedom,
    )  # fmt: skip
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])  # missing … bin 0 | bins 1-3 | bins 4, 5, above
    seen = np.bincount(groups, counts[order])
    expected = np.bincount(groups, p[order]) * counts.sum()
    assert freedom[0] == len(seen) - 1
    assert statistic[0] == pytest.approx(((seen - expected) ** 2 / expected).sum())


def test_significance_is_benjamini_hochberg(rng: np.random.Generator) -> None:
    freedom = np.full(50, 10.0)
    statistic = rng.chisquare(10, 50)
    statistic[:10] += 25
    adjusted = false_discovery_control(chi2.sf(statistic, freedom))
    assert significant(statistic, freedom, 0.01).tolist() == (adjusted <= 0.01).tolist()


@pytest.mark.parametrize("level", [1e-12, 1e-6, 0.003, 0.5, 7.0])
def test_a_window_is_looked_at_wherever_it_could_be_significant(level: float, rng: np.random.Generator) -> None:
    freedom = np.arange(1, 74)
    critical = critical_values(73, level)
    assert critical[0] == np.inf
    at_level = chi2.isf(min(level, 1.0), freedom)
    assert (critical[1:] <= at_level).all()
    assert critical[1:] == pytest.approx(at_level, rel=1e-5, abs=1e-5)
    for each in freedom.tolist():
        statistic = np.nextafter(critical[each], 0) * rng.uniform(0.5, 1.0, size=20)
        assert not significant(statistic, np.full(20, float(each)), level).any() or level >= 0.5


def test_stationary_rows_raise_nothing_and_drift_is_dated() -> None:
    shape = numeric()
    detector = Histogram(shape.reference, HistogramParams(), 1e-4)
    signals = []
    for first in range(0, ROWS, 100):
        signals += detector.update(shape.codes[first : first + 100], shape.strata[:100], first)
    assert [s.row for s in signals] == sorted(s.row for s in signals)
    assert {s.column for s in signals} == {0, 1, 2, 3}
    assert min(s.row for s in signals) > ROWS // 2
    for signal in signals:
        assert abs(signal.onset_row - ROWS // 2) <= 200
        assert signal.value >= signal.threshold == 0.1
    assert next(s for s in signals if s.column == 0).direction == "up"
    assert next(s for s in signals if s.column == 1).direction == "change"


def test_release_empties_the_window() -> None:
    shape = SHAPES["seasonal"]()
    detector = Histogram(shape.reference, HistogramParams(), 1e-9)
    feed(detector, shape, 700)
    detector.release(0)
    assert detector.window(0).n == 0
    assert detector.window(1).n == 700
    assert detector.effect(0).n == 0
    detector.update(shape.codes[700:800], shape.strata[700:800], 700)
    assert detector.window(0).n == 100


def test_panes_must_fit_a_byte() -> None:
    with pytest.raises(ValueError):
        Histogram(numeric().reference, HistogramParams(pane_rows=256), 1e-9)
