"""The car-loan stream with its labels 2,000 rows late on a topic of their own: the fall of accuracy at row 25,000."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from importlib.resources import as_file, files
from typing import Any

import orjson
import pytest

from stream_monitor import demo, topics
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.fit import build_references
from stream_monitor.model import Model
from stream_monitor.publish import publish
from stream_monitor.reference import Performance, Reference
from stream_monitor.tables import read
from stream_monitor.worker import Worker

LATE_ROWS = 2_000
ROWS = 31_000
AFTERWARDS_S = 1_800_000_000.0
"""When it is played, epoch seconds: events are not of the future."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    columns = replace(demo.COLUMNS, label="repaid", ignore=frozenset({"y_pred"}))
    with as_file(files("stream_monitor") / "data" / "reference.csv.gz") as path:
        (found,) = build_references(lambda: read([path], columns))
    return found


def labels() -> dict[str, int]:
    with as_file(files("stream_monitor") / "data" / "labels.csv.gz") as path, gzip.open(path, "rt") as lines:
        return {row["id"]: int(row["repaid"]) for row in csv.DictReader(lines)}


def run(reference: Reference) -> tuple[list[dict[str, Any]], Model]:
    """Alerts about outcomes, and the model as it was in the end."""
    settings = Settings.model_validate({"topics": {"partitions": 2, "labels": "labels"}})
    now_s = [AFTERWARDS_S]
    broker = MemoryBroker(clock_ms=lambda: int(now_s[0] * 1000))
    broker.create_topics(topics.specs(settings, predictions=3))
    publish(broker, settings.topics.references, "test", [reference])
    worker = Worker(settings, broker, clock_s=lambda: now_s[0], clock_ms=lambda: int(now_s[0] * 1000))
    outcome = labels()
    rows = [row for chunk in demo.car_loan_production() for row in chunk][:ROWS]
    for start in range(0, ROWS + LATE_ROWS, 500):
        sent = [
            Message(settings.topics.predictions, (row.id or "").encode(), demo.event_of(row), timestamp_ms=row.time_ms)
            for row in rows[start : start + 500]
        ]
        time_ms = rows[min(start, ROWS - 1)].time_ms
        late = rows[max(start - LATE_ROWS, 0) : max(start - LATE_ROWS + 500, 0)] if start >= LATE_ROWS else []
        sent += [
            Message("labels", None, orjson.dumps({"id": row.id, "model": row.model, "label": outcome[row.id or ""],
                                                  "time": time_ms}))
            for row in late
        ]  # fmt: skip
        broker.append(sent)
        for _ in range(4):
            worker.step(0.0)
            now_s[0] += 0.6
    while not worker.idle:
        worker.step(0.0)
        now_s[0] += 0.6
    assert worker.detect is not None
    model = worker.detect.model(demo.MODEL)
    worker.close()
    alerts = [orjson.loads(record.value or b"") for record in broker.records(settings.topics.alerts)]
    return [alert for alert in alerts if alert["kind"] in ("concept_drift", "performance")], model


def test_the_fall_of_accuracy_is_found_in_a_thousand_labelled_rows(reference: Reference) -> None:
    assert isinstance(reference.performance, Performance)
    assert reference.performance.metrics["accuracy"] == pytest.approx(0.9477)
    alerts, model = run(reference)
    assert model.counts.joined == ROWS
    assert model.report().coverage == 1.0
    found = int(alerts[0]["detected"]["time"] >= demo.DRIFT_TIME.replace(" ", "T"))
    assert found, "no false alarm before"
    assert alerts[0]["kind"] == "concept_drift"
    assert alerts[0]["column"] == "absolute_error"
    assert alerts[0]["detected"]["rows_since_onset"] < 1_000
    fact = alerts[0]["performance"]
    assert fact["metric"] == "accuracy"
    assert fact["low"] < 0.916 < fact["high"], "what accuracy is from there on"
    accuracy = next(alert for alert in alerts if alert["column"] == "accuracy")
    assert accuracy["performance"]["high"] < fact["reference"]
    assert all(alert["detected"]["time"] >= demo.DRIFT_TIME.replace(" ", "T") for alert in alerts)
