"""ADWIN against river's own, fed the same values; and states that are not what river wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import ADWIN as River

from stream_monitor.detectors import adwin
from stream_monitor.detectors.adwin import STRETCH, Adwin, AdwinParams, plausible
from stream_monitor.detectors.thresholds import ADWIN_RATES, adwin_delta
from tests.unit.detectors.shapes import Shape, numeric


def test_fires_at_the_rows_of_river(shape: Shape) -> None:
    params = AdwinParams(block_rows=5, delta=0.5, clock=2)
    detector = Adwin(shape.reference, params, 1.0)
    means = Adwin(shape.reference, params, 1.0).blocks.update(shape.codes, shape.strata, 0)
    values = np.clip(0.5 + (means.values - 0.5) * STRETCH, 0.0, 1.0)
    signals = detector.update(shape.codes, shape.strata, 0)
    assert signals
    for number, (column, series) in enumerate(detector.place_of.tolist()):
        river = River(delta=0.5, clock=2, max_buckets=5, min_window_length=2, grace_period=10)
        rows = []
        for block in np.flatnonzero(means.columns == column).tolist():
            river.update(values[block, series])
            if river.drift_detected:
                rows.append(int(means.rows[block]))
        name = ("rank", "spread")[series]
        assert rows == [s.row for s in signals if s.column == column and s.alternative[:-1] == name]
        if not river.drift_detected:
            assert detector.state()["windows"][number] == river._helper.__getstate__()


def _state(detector: Adwin) -> list[bytes]:
    windows = detector.state()["windows"]
    assert isinstance(windows, list)
    return windows


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_window_starts_cold_and_never_fails_later(data: st.DataObject) -> None:
    shape = numeric()
    detector = Adwin(shape.reference, AdwinParams(block_rows=5), 1e-3)
    detector.update(shape.codes[:1_000], shape.strata[:1_000], 0)
    state = detector.state()
    windows = _state(detector)
    damaged = bytearray(windows[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    state["windows"] = [bytes(damaged[:cut] if data.draw(st.booleans()) else damaged), *windows[1:]]
    other = Adwin(shape.reference, AdwinParams(block_rows=5), 1e-3)
    other.restore(state)
    other.update(shape.codes[1_000:], shape.strata[1_000:], 1_000)
    assert other.cold_starts <= 2


def test_what_river_writes_is_plausible() -> None:
    shape = numeric()
    detector = Adwin(shape.reference, AdwinParams(block_rows=5), 1e-9)
    fresh = _state(detector)[0]
    for first in range(0, 3_000, 50):
        detector.update(shape.codes[first : first + 50], shape.strata[:50], first)
        assert all(plausible(window, fresh) for window in _state(detector))
    assert not plausible(b"", fresh)
    assert not plausible(fresh[:-1], fresh)
    assert not plausible("text", fresh)


def test_another_window_length_is_not_taken_over() -> None:
    shape = numeric()
    one = Adwin(shape.reference, AdwinParams(delta=0.1), 1.0)
    other = Adwin(shape.reference, AdwinParams(delta=0.2), 1.0)
    other.restore(one.state())
    assert other.cold_starts == len(_state(other))


def failing(monkeypatch: pytest.MonkeyPatch, broken: Any, error: type[BaseException]) -> None:
    """Updates of this window raise."""
    update = adwin._update

    def update_or_fail(window: Any, value: float) -> Any:
        if window is broken:
            raise error
        return update(window, value)

    monkeypatch.setattr(adwin, "_update", update_or_fail)


def test_a_panic_of_native_code_is_counted_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """Has the name of the one that cannot be imported."""

    shape = numeric()
    detector = Adwin(shape.reference, AdwinParams(), 1e-9)
    failing(monkeypatch, detector._windows[1], PanicException)
    detector.update(shape.codes[:100], shape.strata[:100], 0)
    assert detector.cold_starts == 1
    assert detector._windows[2].get_width() == 2

    failing(monkeypatch, detector._windows[1], KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        detector.update(shape.codes[100:200], shape.strata[:100], 100)


def test_the_confidence_fits_the_simulation() -> None:
    for delta, rate in ADWIN_RATES:
        assert adwin_delta(rate) == pytest.approx(delta, rel=0.15)
    assert adwin_delta(1e-12) < adwin_delta(1e-9) < 0.001


def test_a_full_window_restarts_at_the_same_block_however_the_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_monitor.detectors.adwin.MAX_WIDTH", 37)
    shape = numeric()
    one, many = (Adwin(shape.reference, AdwinParams(block_rows=5), 1e-6) for _ in range(2))
    signals = one.update(shape.codes, shape.strata, 0)
    parts = [many.update(shape.codes[i : i + 70], shape.strata[i : i + 70], i) for i in range(0, 3_000, 70)]
    assert signals == [signal for part in parts for signal in part]
    assert _state(one) == _state(many)
    assert one._windows[0].get_width() < 37
