"""Performance estimated from the scores, beside what the labels say."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import pytest

from stream_monitor import demo
from stream_monitor.alerts import Alert, AlertKind
from stream_monitor.codes import FIRST_BIN
from stream_monitor.config import Settings
from stream_monitor.encode import codes_of
from stream_monitor.estimate import can_estimate, estimate
from stream_monitor.fit import build_references
from stream_monitor.performance import measure
from stream_monitor.reference import Performance, Reference, Task
from stream_monitor.replay import replay
from stream_monitor.tables import read


@pytest.fixture(scope="module")
def reference() -> Reference:
    columns = replace(demo.COLUMNS, label="repaid", ignore=frozenset({"y_pred"}))
    with as_file(files("stream_monitor") / "data" / "reference.csv.gz") as path:
        (found,) = build_references(lambda: read([path], columns))
    return found


@pytest.fixture(scope="module")
def production() -> tuple[np.ndarray, np.ndarray]:
    scores = [float(row.prediction) for chunk in demo.car_loan_production() for row in chunk]
    with as_file(files("stream_monitor") / "data" / "labels.csv.gz") as path, gzip.open(path, "rt") as lines:
        return np.array(scores), np.array([float(row["repaid"]) for row in csv.DictReader(lines)])


@pytest.mark.parametrize(("first", "tolerance"), [(0, 0.01), (25_000, 0.02)])
def test_on_car_loan_it_is_close_to_what_the_labels_say(
    reference: Reference, production: tuple[np.ndarray, np.ndarray], first: int, tolerance: float
) -> None:
    assert isinstance(reference.performance, Performance)
    column = next(column for column in reference.columns if column.name == "prediction")
    assert can_estimate(column, reference.performance)
    for start in range(first, first + 25_000, 5_000):
        scores, labels = (part[start : start + 5_000] for part in production)
        counts = np.bincount(codes_of([column], scores[:, None])[:, 0], minlength=FIRST_BIN + column.bins)
        found = estimate(column, reference.performance, counts)
        assert found is not None
        assert found.n == 5_000
        for metric in ("accuracy", "auc"):
            real = measure(metric, Task.BINARY, scores, labels)
            assert real is not None
            assert abs(found.metrics[f"estimated_{metric}"] - real.value) < tolerance, (start, metric)


def test_nothing_is_estimated_where_there_are_no_scores(reference: Reference) -> None:
    assert not can_estimate(reference.columns[0], reference.performance)
    assert isinstance(reference.performance, Performance)
    column = next(column for column in reference.columns if column.name == "prediction")
    assert not can_estimate(column, None)
    assert estimate(column, reference.performance, np.zeros(FIRST_BIN + column.bins, dtype=np.int64)) is None


def test_a_drift_of_the_scores_says_what_accuracy_probably_is(reference: Reference) -> None:
    """And `replay` with a table of labels says what it is."""
    alerts: list[Alert] = []
    with as_file(files("stream_monitor") / "data" / "production.csv.gz") as path:
        labels = {str(50_000 + i): int(i % 2 == 0) for i in range(27_000, 28_000)}
        summary = replay([path], columns=demo.COLUMNS, settings=Settings(), references=[reference],
                         on_alert=alerts.append, labels=labels)  # fmt: skip
    assert summary.rows == 50_000
    drift = next(alert for alert in alerts if alert.kind is AlertKind.PREDICTION_DRIFT)
    assert drift.estimated_performance is not None
    assert 0.90 < drift.estimated_performance.metrics["estimated_accuracy"] < 0.94
    assert "estimated accuracy 0.948 → 0.9" in drift.summary
    first = next(alert for alert in alerts if alert.kind is AlertKind.CONCEPT_DRIFT)
    assert first.performance is not None
    assert first.performance.value < 0.7, "labels of even rows are right by chance alone"
    assert first.detected.offset < 27_100
