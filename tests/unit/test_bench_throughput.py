"""The throughput benchmark's own parts: what is a pass, what is kept, and that its codes are codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.throughput import results
from benchmarks.throughput.detection import sample
from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import wide_reference
from stream_monitor.encode import code_of


def test_bounds_hold_from_either_side() -> None:
    assert Figure("main", "c", "m", 4.5, "×", 4.5).passed is True
    assert Figure("main", "c", "m", 4.4, "×", 4.5).passed is False
    assert Figure("flat", "c", "m", 4.4, "×", 4.0, least=False).passed is False
    assert Figure("flat", "c", "m", 4.4, "×").passed is None


def test_parts_measured_anew_replace_the_old_ones_and_only_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "JSON", tmp_path / "throughput.json")
    results.write([Figure("flat", "c", "old", 1.0, "×"), Figure("main", "c", "m", 5.0, "×", 4.5, 6.0)], "first")
    results.write([Figure("flat", "c", "new", 2_000.0, "×", 4.0, least=False)], "second")
    records = json.loads((tmp_path / "throughput.json").read_text())
    assert [(record["test"], record["metric"]) for record in records] == [("main", "m"), ("flat", "new")]
    report = (tmp_path / "throughput.md").read_text()
    assert "1 gates hold, 1 do not" in report
    assert "| c | m | 5.00 × | ≥ 4.5 | ≥ 6 | pass |" in report
    assert "| c | new | 2,000 × | ≤ 4 |  | **FAIL** |" in report


def test_sample_codes_are_those_of_the_reference() -> None:
    reference, values, codes = sample(25, 400)
    assert len(reference.columns) == 25
    for column in (0, 7, 24):
        watched = reference.columns[column]
        assert [code_of(float(x), watched) for x in values[:, column]] == codes[:, column].tolist()
    assert np.array_equal(wide_reference(25).columns[0].strata[0].edges, wide_reference(25).columns[20].strata[0].edges)
