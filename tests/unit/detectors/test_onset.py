"""When it began: the profile of the likelihood, and how often its interval covers the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_monitor.detectors.evidence import Evidence, EvidenceParams
from stream_monitor.detectors.onset import likeliest, rows_earlier
from tests.unit.detectors.references import make


def test_goes_back_while_the_likelihood_is_near_its_maximum() -> None:
    steps = np.array([-9.0, -1.0, 0.5, -2.0, -1.0])
    assert rows_earlier(steps, 0.5, 1.0) == 0
    assert rows_earlier(steps, 1.0, 1.0) == 1
    assert rows_earlier(steps, 2.5, 1.0) == 3
    assert rows_earlier(steps, 3.9, 1.0) == 4


def test_beyond_what_is_remembered_the_gain_tells() -> None:
    assert rows_earlier(np.array([-1.0, -1.0]), 5.0, 0.5) == 2 + 6
    assert rows_earlier(np.empty(0), 5.0, 0.5) == 10


def test_the_likeliest_row_and_alternative() -> None:
    steps = np.array([[-1.0, 2.0], [3.0, -4.0], [2.0, 1.0]])
    assert likeliest(steps, np.log([0.5, 0.5])) == (0, 1, 5.0)
    assert likeliest(steps, np.array([-np.inf, 0.0])) == (1, 2, 1.0)


@pytest.mark.parametrize("case", ["mean", "spread", "new"])
def test_the_interval_covers_the_onset_in_nine_of_ten_runs(case: str) -> None:
    """Seeded: 200 columns of categories or numbers, the change at row 500."""
    rng, columns, rows, at = np.random.default_rng(3), 200, 1_400, 500
    names = [f"c{i}" for i in range(columns)]
    late = np.arange(rows) >= at
    if case == "new":
        made = make({name: rng.integers(0, 4, 20_000) for name in names}, categorical=names)
        values = {n: np.where(late & (rng.random(rows) < 0.01), 9, rng.integers(0, 4, rows)) for n in names}
    else:
        made = make({name: rng.normal(size=20_000) for name in names})
        shift, spread = (0.5, 0.0) if case == "mean" else (0.0, 0.5)
        values = {n: rng.normal(size=rows) * (1 + spread * late) + shift * late for n in names}
    codes, strata = made.encode(values), np.zeros(rows, dtype=np.uint8)
    detector = Evidence(made.reference, EvidenceParams(), columns * 1e-6)
    errors, others, covered = [], [], []
    for signal in detector.update(codes, strata, 0):
        first = max(signal.row - 900, 0)
        own = codes[first : signal.row + 1, signal.column], strata[first : signal.row + 1]
        onset, earliest = detector.onset(signal, *own)
        assert onset == signal.onset_row
        assert earliest <= onset <= signal.row
        errors.append(abs(onset - at))
        covered.append(earliest <= at <= signal.row)
        elsewhere, _ = detector.onset(replace(signal, detector="adwin", onset_row=0, earliest_row=0), *own)
        others.append(abs(elsewhere - at))
    assert len(covered) > columns * 0.8
    assert np.mean(covered) >= 0.9
    most = {"mean": 20, "spread": 20, "new": 150}[case]
    assert np.median(errors) < most
    assert np.median(others) < most


def test_without_evidence_the_detectors_own_onset_stands() -> None:
    rng = np.random.default_rng(1)
    made = make({"x": rng.normal(size=5_000)})
    codes, strata = made.encode({"x": rng.normal(size=200)}), np.zeros(200, dtype=np.uint8)
    detector = Evidence(made.reference, EvidenceParams(), 1e-6)
    drifted = made.encode({"x": rng.normal(size=200) + 2})
    (signal,) = detector.update(drifted, strata, 0)
    quiet = replace(signal, detector="adwin", row=199, onset_row=7, earliest_row=3)
    assert detector.onset(quiet, codes[:, 0], strata) == (7, 3)
