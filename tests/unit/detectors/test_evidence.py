"""`evidence` against a plain loop in log space, and what its theorem and its lifecycle promise."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import pytest

from stream_monitor.codes import FIRST_BIN
from stream_monitor.detectors.alternatives import (
    MIX,
    _divergence,
    layout_of,
    likelihood_ratios,
    step_probability,
)
from stream_monitor.detectors.evidence import Evidence, EvidenceParams
from stream_monitor.detectors.ratios import REPEAT_SCALE
from stream_monitor.detectors.recursions import NEVER
from stream_monitor.detectors.signal import Signal
from stream_monitor.detectors.tables import probabilities
from stream_monitor.reference import Bins, Column, Kind, Role
from tests.unit.detectors.references import make
from tests.unit.detectors.shapes import ROWS, Shape, numeric


def plain_loop(shape: Shape, column: int, threshold: float) -> tuple[int, float, str, int]:
    """The first firing of a column: row, log evidence, strongest alternative, its onset; one row at a time, in logs."""
    detector = Evidence(shape.reference, EvidenceParams(), shape.codes.shape[1] / threshold)
    ratios, first = detector.ratios, int(detector.ratios.first[column])
    width = int(ratios.widths[column])
    weights = [float(ratios.repeat_weights[column]), *ratios.weights[first + 1 : first + width].tolist()]
    evidence, cusum, onset = [-inf] * width, [0.0] * width, [0] * width
    previous = None
    for row, (code, stratum) in enumerate(zip(shape.codes[:, column].tolist(), shape.strata.tolist(), strict=True)):
        row_of = ratios.at(np.array([stratum]), column, np.array([code]))
        increments = np.log(row_of[0].astype(np.float64)).tolist()
        if previous is not None:
            hit = int(ratios.repeat[int(ratios.repeat_base[stratum, column]) + code]) ** 4 * REPEAT_SCALE
            increments[0] = log(hit if code == previous else float(ratios.no_repeat[column]))
        previous = code
        for k in range(width):
            evidence[k] = np.logaddexp(evidence[k], 0.0) + increments[k]
            cusum[k] += increments[k]
            if cusum[k] <= 0:
                cusum[k], onset[k] = 0.0, row + 1
        terms = [e + log(w) for e, w in zip(evidence, weights, strict=True) if w > 0]
        total = max(terms) + log(sum(exp(term - max(terms)) for term in terms))
        if total >= log(threshold):
            best = max((k for k in range(width) if weights[k] > 0), key=lambda k: evidence[k] + log(weights[k]))
            return row, total, ratios.layouts[column].alternatives[best].name, onset[best]
    return -1, 0.0, "", 0


def test_equals_the_plain_loop(shape: Shape) -> None:
    columns = shape.codes.shape[1]
    detector = Evidence(shape.reference, EvidenceParams(), 1e-6 * columns)
    first: dict[int, Signal] = {}
    for signal in detector.update(shape.codes, shape.strata, 0):
        first.setdefault(signal.column, signal)
    assert first
    for column in range(columns):
        row, total, name, onset = plain_loop(shape, column, 1e6)
        if row < 0:
            assert column not in first
            continue
        signal = first[column]
        assert (signal.row, signal.alternative) == (row, name)
        assert signal.value == pytest.approx(total, abs=1e-3)
        assert signal.threshold == pytest.approx(log(1e6))
        assert abs(signal.onset_row - onset) <= 1


def test_the_bound_on_false_alarms_holds() -> None:
    """Seeded: 20 columns of 10⁵ rows at one false alarm in 10⁴ rows a column; 200 would be the bound."""
    rng = np.random.default_rng(7)
    made = make({f"c{i}": rng.normal(size=50_000) for i in range(20)})
    detector = Evidence(made.reference, EvidenceParams(), 20e-4)
    alarms = 0
    for first in range(0, 100_000, 500):
        codes = made.encode({f"c{i}": rng.normal(size=500) for i in range(20)})
        alarms += len(detector.update(codes, np.zeros(500, dtype=np.uint8), first))
        for column in np.flatnonzero(detector.engaged).tolist():
            detector.release(column)
    assert 0.5 * 200 < alarms < 1.2 * 200


@pytest.mark.parametrize(("step", "base"), [(0.25, 0.2), (1.0, 0.01), (-0.25, 0.2), (0.5, 1e-5)])
def test_single_codes_move_by_the_asked_divergence(step: float, base: float) -> None:
    p = np.array([base])
    q = step_probability(p, step)
    assert (q[0] > base) == (step > 0)
    assert _divergence(q[0], p[0]) == pytest.approx(step * step / 2, rel=1e-6)


def test_a_step_that_cannot_be_is_not_tested() -> None:
    assert np.isnan(step_probability(np.array([0.01]), -0.5)[0])


def test_location_alternatives_are_those_of_a_normal_variable() -> None:
    rng = np.random.default_rng(0)
    column = make({"x": rng.normal(size=50_000)}).reference.columns[0]
    detector = Evidence(make({"x": rng.normal(size=50_000)}).reference, EvidenceParams(), 1.0)
    layout = detector.ratios.layouts[0]
    counts = np.array([column.strata[0].counts], dtype=np.float64)
    ratios = likelihood_ratios(layout, probabilities(counts), counts.sum(axis=1))[0]
    index = next(i for i, a in enumerate(layout.alternatives) if a.name == "location+0.5")
    edges = np.array(column.strata[0].edges)
    middle = (edges[30] + edges[31]) / 2
    assert ratios[FIRST_BIN + 31, index] == pytest.approx((1 - MIX) * exp(0.5 * middle - 0.125) + MIX, rel=0.02)


def test_an_open_episode_stays_open_and_sees_the_return() -> None:
    shape = numeric()
    codes = np.concatenate([shape.codes, shape.codes[: ROWS // 2]])
    strata = np.zeros(len(codes), dtype=np.uint8)
    detector = Evidence(shape.reference, EvidenceParams(), 4e-6)
    signals = []
    for first in range(0, ROWS, 100):
        signals += detector.update(codes[first : first + 100], strata[:100], first)
    assert sorted(s.column for s in signals) == [0, 1, 2, 3]
    assert detector.engaged.all()
    assert (detector.return_row == NEVER).all()
    for first in range(ROWS, ROWS + 1_000, 100):
        detector.update(codes[first : first + 100], strata[:100], first)
    assert (detector.return_row > ROWS).all()


def of_a_normal_column() -> Evidence:
    made = make({"x": np.random.default_rng(1).normal(size=50_000)})
    return Evidence(made.reference, EvidenceParams(), 1e-6)


def test_a_family_goes_from_strong_to_weak_and_only_its_weakest_has_a_half() -> None:
    detector = of_a_normal_column()
    names = [alternative.name for alternative in detector.ratios.layouts[0].alternatives]
    weaker = {name: names[k] for name, k in zip(names, detector.ratios.weaker.tolist(), strict=True) if k >= 0}
    assert weaker["location-2"] == "location-1"
    assert weaker["scale×0.5"] == "scale×0.75"
    assert weaker["scale×2"] == "scale×1.4"
    assert not {"bimodal", "repeat", "outside", ""} & weaker.keys()
    halved = {name for name, half in zip(names, detector.ratios.half.tolist(), strict=True) if half > 0}
    assert halved
    assert not halved & weaker.keys()


@pytest.mark.parametrize(("reference_rows", "shift", "clear"), [
    (50_000, 0.05, False), (50_000, 0.06, False), (50_000, 0.5, True), (50_000, 2.0, True),
    (2_000, 0.1, False), (2_000, 0.2, False), (2_000, 0.75, True),
])  # fmt: skip
def test_a_drift_is_clear_once_the_weakest_are_ruled_out(reference_rows: int, shift: float, clear: bool) -> None:
    columns = {f"x{i}": np.random.default_rng(i).normal(size=reference_rows) for i in range(4)}
    made = make(columns)
    detector = Evidence(made.reference, EvidenceParams(), 1e-4)
    rng = np.random.default_rng(7)
    drifted = made.encode({name: rng.normal(shift, size=20_000) for name in columns})
    told = np.zeros(4, dtype=np.bool_)
    for first in range(0, len(drifted), 100):
        detector.update(drifted[first : first + 100], np.zeros(100, dtype=np.uint8), first)
        told |= [detector.clear(column) for column in range(4)]
    assert detector.engaged.all()
    assert (told == clear).all()
    normal = made.encode({name: rng.normal(size=2_000) for name in columns})
    detector.update(normal, np.zeros(2_000, dtype=np.uint8), 20_000)
    if clear:
        assert (detector.return_row > 0).all()
        assert not any(detector.clear(column) for column in range(4))


def test_halves_that_are_no_more_are_taken_for_their_whole() -> None:
    detector = of_a_normal_column()
    state = detector.state()
    strong = [a.name for a in detector.ratios.layouts[0].alternatives].index("location+2")
    halves, evidence = np.asarray(state["halves"]), np.asarray(state["evidence"])
    halves[strong], evidence[strong] = 0.75, 0.25  # as an older version may have saved it
    detector.restore(state)
    assert np.asarray(detector.state()["halves"])[strong] == 0
    assert np.asarray(detector.state()["evidence"])[strong] == 1


def test_engaging_takes_effect_at_the_next_pane() -> None:
    shape = numeric()
    detector = Evidence(shape.reference, EvidenceParams(), 1e-9)
    detector.update(shape.codes[:50], shape.strata[:50], 0)
    detector.engage(0)
    detector.update(shape.codes[50:100], shape.strata[50:100], 50)
    assert not detector.engaged[0]
    detector.update(shape.codes[100:101], shape.strata[100:101], 100)
    assert detector.engaged[0]
    detector.release(0)
    assert not detector.engaged[0]


def column_of(counts: list[int]) -> Column:
    bins = Bins(counts=counts)
    return Column(name="x", role=Role.INPUT, kind=Kind.CATEGORICAL, strata=[bins], categories=["a"] * (len(counts) - 4))


def test_four_categories_are_tested_in_pairs() -> None:
    layout = layout_of(column_of([0, 0, 0, 0, 40, 30, 20, 10]))
    pairs = {a.codes for a in layout.alternatives if a.name.startswith("split")}
    assert pairs == {(FIRST_BIN + 1, FIRST_BIN + 3), (FIRST_BIN + 2, FIRST_BIN + 3), (FIRST_BIN + 1, FIRST_BIN + 2)}
    assert sum(a.weight for a in layout.alternatives) == pytest.approx(1)
    assert layout.width % 8 == 0


def test_more_or_less_even_leaves_what_was_never_seen_alone() -> None:
    column = column_of([0, 0, 0, 0, 4_000, 3_000, 2_000, 1_000])
    layout = layout_of(column)
    counts = np.array([column.strata[0].counts], dtype=np.float64)
    p = probabilities(counts)
    ratios = likelihood_ratios(layout, p, counts.sum(axis=1))[0]
    for number, alternative in enumerate(layout.alternatives):
        if alternative.name in ("flatter", "steeper"):
            assert ratios[:FIRST_BIN, number] == pytest.approx(1)
            assert p[0] @ ratios[:, number] == pytest.approx(1)
            assert (ratios[FIRST_BIN, number] > 1) == (alternative.name == "steeper")


def test_nulls_are_weighed_only_where_there_are_some() -> None:
    def weight(nulls: int) -> float:
        layout = layout_of(column_of([nulls, 0, 0, 0, 500, 500]))
        return sum(a.weight for a in layout.alternatives if a.name.startswith("missing"))

    assert weight(100) > 3 * weight(0) > 0
