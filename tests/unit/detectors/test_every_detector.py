"""What holds for all detectors: cutting the rows, saving and restoring at any row, change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_monitor.detectors import BUILDERS, PARAMS
from stream_monitor.detectors.signal import Detector, Signal
from stream_monitor.errors import WireError
from stream_monitor.reference_checks import load
from tests.unit.detectors.shapes import ROWS, SHAPES, Shape

ALPHA = 1e-3
PANE = 100
CASES = [(name, detector) for name in sorted(SHAPES) for detector in BUILDERS]


def build(name: str, shape: Shape) -> Detector:
    return BUILDERS[name](shape.reference, PARAMS[name](), ALPHA)


def run(detector: Detector, shape: Shape, cuts: set[int], start: int = 0) -> list[Signal]:
    """Feed the rows from `start` as the monitor does: cut at panes, engage at signals, release at some panes."""
    signals: list[Signal] = []
    edges = sorted({c for c in cuts if start < c < ROWS} | set(range(start - start % PANE + PANE, ROWS, PANE)) | {ROWS})
    first = start
    for stop in edges:
        found = detector.update(shape.codes[first:stop], shape.strata[first:stop], first)
        for signal in found:
            detector.engage(signal.column)
        signals += found
        if stop % (7 * PANE) == 0:
            detector.release(stop // (7 * PANE) % shape.codes.shape[1])
        first = stop
    return signals


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        one[name] == two[name] if isinstance(one[name], list) else np.array_equal(one[name], two[name]) for name in one
    )


@pytest.mark.parametrize(("shape_name", "name"), CASES)
def test_shapes_are_references_and_drift_is_found(shape_name: str, name: str) -> None:
    shape = SHAPES[shape_name]()
    assert load(shape.reference.to_json()) == shape.reference
    signals = run(build(name, shape), shape, set())
    keys = [(signal.row, signal.column) for signal in signals]
    assert keys == sorted(keys)
    if name in ("evidence", "histogram"):
        assert any(signal.row >= ROWS // 2 for signal in signals)
    for signal in signals:
        assert 0 <= signal.earliest_row <= signal.onset_row <= signal.row + 1


@pytest.mark.parametrize(("shape_name", "name"), CASES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.sets(st.integers(1, ROWS - 1), max_size=40))
def test_cutting_the_rows_changes_nothing(shape_name: str, name: str, cuts: set[int]) -> None:
    shape = SHAPES[shape_name]()
    whole, parts = build(name, shape), build(name, shape)
    assert run(whole, shape, set()) == run(parts, shape, cuts)
    assert same(whole.state(), parts.state())


@pytest.mark.parametrize(("shape_name", "name"), CASES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=st.integers(1, ROWS - 1))
def test_restoring_at_any_row_changes_nothing(shape_name: str, name: str, row: int) -> None:
    shape = SHAPES[shape_name]()
    straight, restored = build(name, shape), build(name, shape)
    signals = run(straight, shape, {row})
    early = build(name, shape)
    head = Shape(shape.reference, shape.codes[:row], shape.strata[:row])
    before = _run_head(early, head, row)
    restored.restore(early.state())
    assert same(restored.state(), early.state())
    assert before + run(restored, shape, set(), row) == signals
    assert same(straight.state(), restored.state())


def _run_head(detector: Detector, head: Shape, row: int) -> list[Signal]:
    signals: list[Signal] = []
    for first in range(0, row, PANE):
        stop = min(first + PANE, row)
        found = detector.update(head.codes[first:stop], head.strata[first:stop], first)
        for signal in found:
            detector.engage(signal.column)
        signals += found
        if stop % (7 * PANE) == 0:
            detector.release(stop // (7 * PANE) % head.codes.shape[1])
    return signals


@pytest.mark.parametrize("name", BUILDERS)
def test_damaged_states_are_refused_and_change_nothing(name: str) -> None:
    shape = SHAPES["numeric"]()
    detector = build(name, shape)
    run(detector, shape, set())
    good = detector.state()
    for part, value in good.items():
        wrong: list[Any] = [None]
        if isinstance(value, np.ndarray):
            wrong = [None, value[..., :-1], value.astype(np.float16)]
            if value.dtype.kind == "f":
                wrong.append(np.full_like(value, np.nan))
        for bad in wrong:
            with pytest.raises(WireError):
                detector.restore({**good, part: bad})
        with pytest.raises(WireError):
            detector.restore({key: kept for key, kept in good.items() if key != part})
    assert same(detector.state(), good)


@pytest.mark.parametrize("name", BUILDERS)
def test_codes_beyond_the_reference_are_survived(name: str) -> None:
    shape = SHAPES["discrete"]()
    detector = build(name, shape)
    wild = np.random.default_rng(0).integers(0, 256, shape.codes.shape, dtype=np.uint8)
    for first in range(0, ROWS, PANE):
        detector.update(wild[first : first + PANE], shape.strata[first : first + PANE], first)
    detector.restore(detector.state())


def test_the_state_of_a_numeric_column_stays_below_six_kilobytes() -> None:
    shape = SHAPES["numeric"]()
    rng = np.random.default_rng(0)
    codes = rng.choice(shape.codes[: ROWS // 2], 100_000)
    strata = np.zeros(len(codes), dtype=np.uint8)
    size = 0
    for name in BUILDERS:
        detector = BUILDERS[name](shape.reference, PARAMS[name](), 1e-9)
        for first in range(0, len(codes), PANE):
            detector.update(codes[first : first + PANE], strata[first : first + PANE], first)
        size += sum(
            sum(map(len, part)) if isinstance(part, list) else part.nbytes for part in detector.state().values()
        )
    # ADWIN's windows grow by two buckets of 128 bytes each time their 2,000 blocks here double, eight-fold at most.
    assert size / codes.shape[1] + 2 * 3 * 128 < 6_000
