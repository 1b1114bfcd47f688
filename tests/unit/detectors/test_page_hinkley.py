"""Page-Hinkley against river's own, fed the same values."""

from __future__ import annotations

import numpy as np
from river.drift import PageHinkley as River

from stream_monitor.detectors.page_hinkley import PageHinkley, PageHinkleyParams
from stream_monitor.detectors.thresholds import PAGE_HINKLEY_RATES, page_hinkley_threshold
from tests.unit.detectors.shapes import Shape


def test_fires_at_the_rows_and_with_the_sums_of_river(shape: Shape) -> None:
    """Bit for bit: the same rows, and the same sums after the last one."""
    params = PageHinkleyParams(block_rows=5, min_instances=10, delta=0.005, threshold=0.3, alpha=0.9999)
    detector = PageHinkley(shape.reference, params, 1.0)
    blocks = PageHinkley(shape.reference, params, 1.0).blocks
    means = blocks.update(shape.codes, shape.strata, 0)
    signals = detector.update(shape.codes, shape.strata, 0)
    assert signals
    for column, ordered in enumerate(detector.tables.ordered.tolist()):
        for series in range(2 if ordered else 1):
            river = River(min_instances=10, delta=0.005, threshold=0.3, alpha=0.9999)
            rows = []
            for block in np.flatnonzero(means.columns == column).tolist():
                river.update(float(means.values[block, series]))
                if river.drift_detected:
                    rows.append(int(means.rows[block]))
            name = ("rank", "spread")[series]
            assert rows == [s.row for s in signals if s.column == column and s.alternative[:-1] == name]
            if not river.drift_detected:
                count, mean, increase, _, decrease, _ = detector.state()["fields"][column, series].tolist()  # type: ignore[call-overload]
                assert (count, mean) == (river._x_mean.n, river._x_mean.get())
                assert (increase, decrease) == (river._sum_increase, river._sum_decrease)


def test_the_threshold_fits_the_simulation_and_grows_beyond_it() -> None:
    for threshold, rate in PAGE_HINKLEY_RATES:
        assert abs(page_hinkley_threshold(rate) - threshold) < 0.02
    assert page_hinkley_threshold(1e-12) > page_hinkley_threshold(1e-9) > 1
