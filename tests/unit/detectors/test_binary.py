"""River's detectors for right and wrong: river's own detections row for row, confirmed by the reference, restorable."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from river.drift.binary import DDM, HDDMA, HDDMW

from stream_monitor.baseline import learn
from stream_monitor.detectors import ERROR_BUILDERS, ERROR_PARAMS
from stream_monitor.detectors.binary import Binary
from stream_monitor.detectors.signal import Signal
from stream_monitor.errors import WireError
from stream_monitor.outcomes import values_of
from stream_monitor.reference import SCHEMA_VERSION, Reference, Source

RIVER: dict[str, Any] = {"ddm": DDM, "hddm_a": HDDMA, "hddm_w": HDDMW}
RIGHT, WRONG = 4, 5
Errors = npt.NDArray[np.uint8]


def reference(rate: float, rows: int = 20_000) -> Reference:
    """Of the errors of a model that is wrong in that share of the cases."""
    wrong = (np.random.default_rng(5).uniform(size=rows) < rate).astype(float)
    performance = learn(values_of([0.9] * rows, {}), values_of((1 - wrong).tolist(), {}), [])
    assert performance is not None
    return Reference(SCHEMA_VERSION, "m", "", "", performance.columns, Source("file", rows))


def built(name: str, rate: float = 0.05, chance: float = 0.0, alpha: float = 1e-9) -> Binary:
    detector = ERROR_BUILDERS[name](reference(rate), ERROR_PARAMS[name](chance=chance), alpha)
    assert isinstance(detector, Binary)
    assert detector.column == 0
    return detector


def feed(detector: Binary, errors: Errors, first: int = 0, step: int = 100) -> list[Signal]:
    signals = []
    for start in range(0, len(errors), step):
        codes = (RIGHT + errors[start : start + step]).reshape(-1, 1).astype(np.uint8)
        signals += detector.update(codes, np.zeros(len(codes), dtype=np.uint8), first + start)
    return signals


def drawn(seed: int, rates: list[float], each: int) -> Errors:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(size=each) < rate for rate in rates]).astype(np.uint8)


@pytest.mark.parametrize("name", RIVER)
@pytest.mark.parametrize("seed", range(12))
def test_it_detects_at_the_rows_at_which_river_does(name: str, seed: int) -> None:
    steps = np.random.default_rng(seed).uniform(0, 0.5, 8)
    steps[1::2] += 0.4
    errors = drawn(seed, steps.tolist(), 700) if seed % 3 else drawn(seed, [0.02], 6_000)
    theirs, wanted = RIVER[name](), []
    for row, error in enumerate(errors.tolist()):
        theirs.update(error)
        if theirs.drift_detected:
            wanted.append(row)
    assert [signal.row for signal in feed(built(name, chance=1.0), errors)] == wanted
    assert wanted or seed % 3 == 0


@pytest.mark.parametrize("name", RIVER)
def test_restoring_at_any_row_changes_nothing(name: str) -> None:
    errors = drawn(3, [0.05, 0.3, 0.05, 0.5], 400)
    whole = built(name, alpha=1e-4)
    wanted = feed(whole, errors)
    assert wanted
    for row in range(0, len(errors), 97):
        cut = built(name, alpha=1e-4)
        found = feed(cut, errors[:row], step=33)
        fresh = built(name, alpha=1e-4)
        fresh.restore(cut.state())
        assert found + feed(fresh, errors[row:], row, step=7) == wanted
        for part, value in whole.state().items():
            assert np.array_equal(fresh.state()[part], value)


@pytest.mark.parametrize("name", RIVER)
def test_damaged_states_are_refused_and_change_nothing(name: str) -> None:
    detector = built(name)
    feed(detector, drawn(1, [0.05, 0.2], 500))
    good: dict[str, Any] = detector.state()
    shares = good["fields"].copy()
    shares[1] = 1.5
    errors = good["counts"].copy()
    errors[1] = errors[0] + 1
    for part, bad in (("fields", shares), ("fields", good["fields"] * np.nan), ("fields", good["fields"][:-1]),
                      ("counts", errors), ("counts", good["counts"] - 2_000), ("next_row", None)):  # fmt: skip
        with pytest.raises(WireError):
            detector.restore({**good, part: bad})  # type: ignore[dict-item]  # None is no array
    for part, value in good.items():
        assert np.array_equal(detector.state()[part], value)


def test_more_rows_at_the_cut_than_in_all_cannot_be() -> None:
    detector = built("hddm_a")
    feed(detector, drawn(1, [0.05], 500))
    state: dict[str, Any] = detector.state()
    state["fields"][2] = state["fields"][0] + 1
    with pytest.raises(WireError, match="rows at the cut"):
        detector.restore(state)


@pytest.mark.parametrize("name", RIVER)
def test_what_it_suspects_is_said_when_the_reference_confirms_it(name: str) -> None:
    """Steady errors raise nothing; more errors do, from the change on; fewer do not."""
    steady = drawn(7, [0.05], 100_000)
    assert feed(built(name), steady) == []
    signals = feed(built(name), np.concatenate([steady[:5_000], drawn(8, [0.5], 2_000)]))
    assert signals
    first = signals[0]
    assert 5_000 <= first.row < 5_200
    assert abs(first.onset_row - 5_000) < 30
    assert first.value >= first.threshold > 0
    assert (first.detector, first.direction) == (name, "up")
    assert feed(built(name), np.concatenate([steady[:5_000], drawn(9, [0.01], 10_000)])) == []


def test_a_false_word_of_rivers_is_not_passed_on() -> None:
    steady = [drawn(seed, [0.05], 1_000) for seed in range(20)]
    assert sum(len(feed(built("ddm", chance=1.0), errors)) for errors in steady) > 5
    assert not [signal for errors in steady for signal in feed(built("ddm"), errors)]


def test_a_slow_rise_is_no_new_normal() -> None:
    """River alone begins anew after a detection, and takes the errors of then for normal; the suspicion stays."""
    errors = np.concatenate([drawn(1, [0.05], 3_000), drawn(2, [0.08], 20_000)])
    alone, ours = feed(built("ddm", chance=1.0), errors), feed(built("ddm"), errors)
    assert len(ours) == 1
    assert alone[-1].row < ours[0].row, "confirmed by errors that came after the detection"


def test_a_stream_without_right_and_wrong_is_not_watched() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=1_000)
    performance = learn(values_of((truth + rng.normal(size=1_000)).tolist(), {}), values_of(truth.tolist(), {}), [])
    assert performance is not None
    own = Reference(SCHEMA_VERSION, "m", "", "", performance.columns, Source("file", 1_000))
    detector = ERROR_BUILDERS["ddm"](own, ERROR_PARAMS["ddm"](), 1e-9)
    assert detector.update(np.full((100, 1), 200, dtype=np.uint8), np.zeros(100, dtype=np.uint8), 0) == []
    detector.restore(detector.state())


@pytest.mark.parametrize(("rate", "errors"), [(0.0, True), (1.0, False)])
def test_a_training_without_an_error_and_one_of_errors_alone(rate: float, errors: bool) -> None:
    """The bin that training lacks is what lies outside it."""
    detector = ERROR_BUILDERS["hddm_w"](reference(rate), ERROR_PARAMS["hddm_w"](), 1e-9)
    above = np.array([[4], [3]], dtype=np.uint8).repeat([200, 50], axis=0)
    found = detector.update(above, np.zeros(len(above), dtype=np.uint8), 0)
    assert bool(found) is errors


def test_a_share_above_one_is_refused() -> None:
    for name, params in ERROR_PARAMS.items():
        with pytest.raises(ValueError, match="chance is a share"):
            params(chance=2.0)
        assert name in ERROR_BUILDERS
