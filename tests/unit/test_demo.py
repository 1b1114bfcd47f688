"""The demo: the truth it shows, its labels, and that it finds what it says."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from stream_monitor import demo, demo_producer
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.config import Settings
from stream_monitor.errors import TopicMismatch
from stream_monitor.labels import Label, LabelShape, decode_labels
from stream_monitor.topics import specs


def test_accuracy_is_what_it_says() -> None:
    rows = [row for chunk in demo.car_loan_production() for row in chunk]
    repaid = demo.car_loan_labels()
    right = np.array([(row.prediction >= 0.5) == (repaid[row.id or ""] == 1) for row in rows])
    assert (round(right[: demo.DRIFT_ROW].mean(), 3), round(right[demo.DRIFT_ROW :].mean(), 3)) == demo.ACCURACY


def test_every_label_comes_once_and_late() -> None:
    rows = [row for chunk in demo.car_loan_production() for row in chunk][:7_000]
    labels = demo_producer._Labels("labels")
    seen: list[str] = []
    for start in range(0, len(rows), 300):
        sent = rows[start : start + 300]
        for message in labels.due(sent):
            (label,) = decode_labels(message.value, 0, 0, 0, LabelShape())
            assert isinstance(label, Label)
            assert label.time_ms == sent[-1].time_ms
            seen.append(label.id)
        assert len(seen) == max(0, start + len(sent) - demo.LATE_ROWS)
    seen += [label.id for message in labels.rest() for label in decode_labels(message.value, 0, 0, 0, LabelShape())
             if isinstance(label, Label)]  # fmt: skip
    assert seen == [row.id for row in rows]


def test_the_producer_sends_labels_where_a_topic_is_named() -> None:
    settings = Settings.model_validate({"topics": {"partitions": 2, "labels": "labels"}})
    broker = MemoryBroker(clock_ms=lambda: 0)
    broker.create_topics(specs(settings, predictions=2))
    said: list[str] = []
    demo_producer.produce(settings, broker, 10_000_000, said.append)
    assert len(broker.records(settings.topics.predictions)) == 50_000
    assert len(broker.records("labels")) == 50_000
    assert "2,000 events late" in " ".join(said)


def test_the_producer_publishes_nothing_where_a_topic_is_missing() -> None:
    settings = Settings.model_validate({"topics": {"partitions": 2}})
    broker = MemoryBroker(clock_ms=lambda: 0)
    broker.create_topics(specs(settings))
    with pytest.raises(TopicMismatch, match="--with-predictions"):
        demo_producer.produce(settings, broker, 10_000_000, lambda _: None)
    assert not broker.records(settings.topics.references)


@pytest.mark.slow
@pytest.mark.usefixtures("untouched")  # it sets up logging
def test_it_finds_what_is_true() -> None:
    written = io.StringIO()
    assert demo.demo(Console(file=written, width=100), events_per_s=100_000) == 0
    shown = written.getvalue()
    assert "WRONG" not in shown
    assert re.search(r"accuracy +0\.947 → 0\.916 +0\.948 → 0\.9\d\d \(0\.\d{3}–0\.\d{3}\) +[\d,]+ labels +right", shown)
    assert re.search(r"score error +grows +concept drift +\d+ labels +right", shown)
