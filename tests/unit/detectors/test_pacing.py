"""A reference of shuffled rows: how dependent the events are is measured on the stream itself."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import lfilter

from stream_monitor.detectors import PARAMS
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.detectors.pacing import ROWS, Pacing
from stream_monitor.detectors.signal import Codes, Signal
from stream_monitor.errors import WireError
from stream_monitor.reference import Column, Reference
from stream_monitor.state_records import pack_detector, unpack_detector
from tests.unit.detectors.references import Made, make

COLUMNS = ("a", "b", "c")
PANE = 100
BUDGET = 100_000.0


def slow(rng: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.float64]]:
    """AR(1) 0.9, but for `c`, which is independent."""
    noise = rng.standard_normal((3, rows))
    return {name: noise[i] if name == "c" else lfilter([0.19**0.5], [1, -0.9], noise[i])
            for i, name in enumerate(COLUMNS)}  # fmt: skip


def unordered(reference: Reference) -> Reference:
    """What `reference build --unordered` makes of it."""
    columns = [msgspec.structs.replace(column, autocorrelation_time=1.0, repeat=None) for column in reference.columns]
    source = msgspec.structs.replace(reference.source, ordered=False)
    return msgspec.structs.replace(reference, columns=columns, source=source)


@pytest.fixture(scope="module")
def made() -> Made:
    return make(slow(np.random.default_rng(1), 20_000), dependent=False)


@pytest.fixture(scope="module")
def codes(made: Made) -> Codes:
    return made.encode(slow(np.random.default_rng(2), 20_000))


def detectors(reference: Reference) -> DetectorSet:
    return DetectorSet(reference, {name: of() for name, of in PARAMS.items()}, BUDGET)


def fed(own: DetectorSet, codes: Codes, start: int = 0, cuts: tuple[int, ...] = ()) -> list[Signal]:
    signals, first = [], start
    for stop in sorted({*range(start - start % PANE + PANE, len(codes), PANE), *cuts, len(codes)}):
        if stop > first:
            signals += own.update(codes[first:stop], np.zeros(stop - first, dtype=np.uint8), first)
            first = stop
    return signals


def column_of(own: DetectorSet, name: str) -> Column:
    return next(column for column in own._reference.columns if column.name == name)


def test_slow_features_keep_the_budget_though_the_reference_was_shuffled(made: Made, codes: Codes) -> None:
    hoping = detectors(msgspec.structs.replace(unordered(made.reference), source=made.reference.source))
    assert {signal.column for signal in fed(hoping, codes) if signal.detector == "evidence"} == {0, 1}
    own = detectors(unordered(made.reference))
    assert [signal for signal in fed(own, codes) if signal.detector in ("evidence", "histogram")] == []
    assert [column_of(own, name).autocorrelation_time > 10 for name in COLUMNS] == [True, True, False]
    assert column_of(own, "c").autocorrelation_time == 1.0
    assert column_of(own, "c").repeat == pytest.approx((codes[1:ROWS, 2] == codes[: ROWS - 1, 2]).mean(), abs=1e-3)


def test_a_drift_in_the_rows_held_back_is_told_when_they_are_over(made: Made) -> None:
    values = slow(np.random.default_rng(3), ROWS + PANE)
    values["c"] += 1.0
    found = [s for s in fed(detectors(unordered(made.reference)), made.encode(values)) if s.detector == "evidence"]
    assert [(signal.row, signal.column, signal.direction) for signal in found] == [(ROWS - 1, 2, "up")]
    assert found[0].onset_row < 50


@pytest.mark.parametrize("row", [1, 250, ROWS - 1, ROWS, ROWS + 50, ROWS + 700])
def test_a_restart_changes_nothing(made: Made, row: int) -> None:
    values = slow(np.random.default_rng(4), ROWS + 1_500)
    values["c"][ROWS + 300 :] += 1.0
    codes = made.encode(values)
    whole, early, late = (detectors(unordered(made.reference)) for _ in range(3))
    signals = fed(whole, codes, cuts=(row,))
    assert signals
    before = fed(early, codes[:row])
    saved = {name: pack_detector(tag, state) for name, (tag, state) in early.states().items()}
    assert late.restore({name: (part.tag, unpack_detector(part)) for name, part in saved.items()}) == {}
    assert before + fed(late, codes, start=row) == signals


def test_a_state_that_cannot_be_is_measured_again(made: Made, codes: Codes) -> None:
    own = detectors(unordered(made.reference))
    fed(own, codes[: ROWS + PANE])
    states = own.states()
    again = detectors(unordered(made.reference))
    assert "measured again" in again.restore({name: state for name, state in states.items() if name != "pacing"})[
        "evidence"
    ]  # fmt: skip
    good = states["pacing"][1]
    wrong: list[tuple[str, npt.NDArray[np.generic]]] = [
        ("times", np.full(3, 0.5)),
        ("times", np.zeros(2)),
        ("codes", np.zeros((ROWS, 3), np.uint8)),
        ("first_row", np.array([-1])),
        ("strata", np.zeros(1, np.uint8)),
        ("repeats", np.full(3, 2.0)),
    ]
    for name, bad in wrong:
        with pytest.raises(WireError):
            Pacing(made.reference).restore({**good, name: bad})
    with pytest.raises(WireError):
        Pacing(made.reference).restore({"times": good["times"]})
