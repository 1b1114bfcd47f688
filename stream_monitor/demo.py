"""The main job on real data without Kafka: both stages of the real worker over the in-memory broker.

The car-loan stream of NannyML (synthetic, Apache-2.0): 50,000 rows of training, 50,000 of production, of which the
second half has drifted in a known way. What became of the loans is known 2,000 events later, on a topic of its own.
"""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from typing import Final

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream_monitor import log, topics
from stream_monitor.alerts import Alert, AlertKind, State, minute
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, Reader, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.events import Row
from stream_monitor.fit import build_references
from stream_monitor.publish import publish
from stream_monitor.reference import Reference
from stream_monitor.say import INDENT, line
from stream_monitor.tables import TableColumns, read
from stream_monitor.worker import Worker

MODEL: Final = "car-loan"
DRIFT_ROW: Final = 25_000
DRIFT_TIME: Final = "2019-03-31 03:00"
DRIFTED: Final = ("car_value", "loan_length", "repaid_loan_on_prev_car", "salary_range", "prediction")
STABLE: Final = ("debt_to_income_ratio", "driver_tenure", "size_of_downpayment")
COLUMNS: Final = TableColumns(
    model=MODEL, time="timestamp", id="id", prediction="y_pred_proba", ignore=frozenset({"y_pred", "repaid"})
)
TRAINING: Final = replace(COLUMNS, label="repaid", ignore=frozenset({"y_pred"}))
"""The same of the training file, which says what became of the loans."""
LABELS: Final = "labels"
LATE_ROWS: Final = 2_000
"""Events between one and its label."""
OUTCOMES: Final = frozenset({AlertKind.CONCEPT_DRIFT, AlertKind.PERFORMANCE})
ACCURACY: Final = (0.947, 0.916)
"""Of the production rows before the drift and from it on (a test counts it)."""
NEAR: Final = 0.01
"""How far from the truth the interval that was told may lie."""
PARTITIONS: Final = 3
SLICE_S: Final = 0.1
"""How long the producer lets events gather before the worker steps."""


def demo(console: Console, *, events_per_s: int = 10_000) -> int:
    """Play the stream at about that rate; prints alerts as they fire, then what was found beside the truth.

    Returns 0 if exactly the drifted columns and the fall of accuracy were found, nothing before the drift, else 1.
    """
    log.setup("warning", "console", 0)
    settings = Settings.model_validate(
        {"worker": {"commit_interval_s": 0.2, "state_interval_s": 0.0}, "topics": {"partitions": 4, "labels": LABELS}}
    )
    broker = MemoryBroker(clock_ms=lambda: time.time_ns() // 1_000_000)
    broker.create_topics(topics.specs(settings, predictions=PARTITIONS))
    console.print("[bold]1.[/] building a reference from 50,000 training rows", highlight=False)
    reference = car_loan_reference()
    publish(broker, settings.topics.references, "demo", [reference])
    console.print(
        f"[bold]2.[/] watching {len(reference.columns)} columns of 50,000 production events, "
        f"about {events_per_s:,} a second; every label comes {LATE_ROWS:,} events late",
        highlight=False,
    )
    alerts = _play(console, settings, broker, events_per_s)
    console.print(
        f"[bold]3.[/] what was found beside the truth (the drift is at row {DRIFT_ROW:,}, {DRIFT_TIME})",
        highlight=False,
    )
    console.print(_verdict(reference, alerts))
    console.print(_outcomes(alerts))
    return 0 if _right(alerts) else 1


def car_loan_reference() -> Reference:
    """The reference of the packaged training data, which knows how good the predictions were."""
    with as_file(files("stream_monitor") / "data" / "reference.csv.gz") as path:
        (reference,) = build_references(lambda: read([path], TRAINING), files=[path.name])
    return reference


def car_loan_production() -> Iterator[list[Row]]:
    """The packaged production rows, in the order of their time stamps."""
    with as_file(files("stream_monitor") / "data" / "production.csv.gz") as path:
        yield from read([path], COLUMNS)


def car_loan_labels() -> dict[str, int]:
    """By id: whether the loan was repaid."""
    with as_file(files("stream_monitor") / "data" / "labels.csv.gz") as path, gzip.open(path, "rt") as lines:
        return {row["id"]: int(row["repaid"]) for row in csv.DictReader(lines)}


def label_of(row: Row, label: int, time_ms: int) -> bytes:
    """What became of a row, known at that time, as the topic of labels takes it."""
    return orjson.dumps({"model": row.model, "id": row.id, "label": label, "time": time_ms})


def event_of(row: Row) -> bytes:
    """A row as a model would have logged it: an event in the default shape."""
    return orjson.dumps(
        {
            "model": row.model,
            "id": row.id,
            "time": row.time_ms,
            "features": row.features,
            "prediction": row.prediction,
        }
    )


def _message(topic: str, row: Row) -> Message:
    """Keyed by id, so that a model's events spread over all partitions; dated by the event, as if it were live."""
    return Message(topic, (row.id or "").encode(), event_of(row), timestamp_ms=row.time_ms)


def _play(console: Console, settings: Settings, broker: MemoryBroker, events_per_s: int) -> list[Alert]:
    """Feed the worker and print alerts as they appear on the topic."""
    worker = Worker(settings, broker)
    subscriber = broker.reader([TopicPartition(settings.topics.alerts, 0)])
    alerts: list[Alert] = []
    waiting, repaid = [], car_loan_labels()
    bar = Progress(
        TextColumn("   events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    )  # fmt: skip
    with bar:
        task = bar.add_task("events", total=50_000)
        for rows in _paced(car_loan_production(), events_per_s):
            broker.append([_message(settings.topics.predictions, row) for row in rows])
            waiting += rows
            due, waiting = waiting[:-LATE_ROWS], waiting[-LATE_ROWS:]
            _tell(broker, due, repaid, rows[-1].time_ms)
            worker.step(0.0)
            alerts += _news(subscriber, bar.console)
            bar.advance(task, len(rows))
        _tell(broker, waiting, repaid, waiting[-1].time_ms)
        while not worker.idle:
            worker.step(0.05)
        worker.close()
        alerts += _news(subscriber, bar.console)
    subscriber.close()
    return alerts


def _tell(broker: MemoryBroker, rows: Sequence[Row], repaid: dict[str, int], time_ms: int) -> None:
    """The labels of those rows, by model, on a topic whose partitions have nothing to do with those of the events."""
    broker.append([Message(LABELS, MODEL.encode(), label_of(row, repaid[row.id or ""], time_ms), timestamp_ms=time_ms)
                   for row in rows])  # fmt: skip


def _paced(chunks: Iterator[list[Row]], events_per_s: int) -> Iterator[list[Row]]:
    """Slices of rows, one every `SLICE_S`, as a live producer would bring them."""
    size = max(1, int(events_per_s * SLICE_S))
    due_s = time.monotonic()
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            time.sleep(max(0.0, due_s - time.monotonic()))
            due_s += SLICE_S * min(size, len(chunk) - start) / size
            yield chunk[start : start + size]


def _news(subscriber: Reader, console: Console) -> list[Alert]:
    alerts = [Alert.model_validate_json(record.value) for record in subscriber.poll(0.0) if record.value]
    for alert in alerts:
        head, below = line(alert).split("\n", 1)
        console.print("   " + head, highlight=False)
        console.print(Padding(below.lstrip(), (0, 0, 0, 2 * len(INDENT)), expand=False), highlight=False)
    return alerts


def _verdict(reference: Reference, alerts: list[Alert]) -> Table:
    """Per column: what is known, what was found, and since when."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("column", "truth", "found", "onset found", "fired after", ""):
        table.add_column(title, overflow="fold")
    for column in reference.columns:
        first = _first(alerts, column.name)
        drifted = column.name in DRIFTED
        table.add_row(
            column.name,
            "drifts" if drifted else "stable",
            "drift" if first else "nothing",
            minute(first.onset.time) if first else "",
            f"{first.detected.rows_since_onset:,} rows" if first else "",
            "[green]right[/]" if (first is not None) == drifted else "[red]WRONG[/]",
        )
    return table


def _outcomes(alerts: Sequence[Alert]) -> Table:
    """The same of the outcomes: how far off scores are, and accuracy, with the interval of its first alert."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("outcome", "truth", "found", "fired after", ""):
        table.add_column(title, overflow="fold")
    error, accuracy = _first(alerts, "absolute_error"), _first(alerts, "accuracy")
    fact = accuracy.performance if accuracy is not None else None
    fell = f"{fact.reference:.3f} → {fact.value:.3f} ({fact.low:.3f}–{fact.high:.3f})" if fact else "nothing"
    found = "concept drift" if error is not None else "nothing"
    for name, truth, told, first in (("score error", "grows", found, error),
                                     ("accuracy", f"{ACCURACY[0]} → {ACCURACY[1]}", fell, accuracy)):  # fmt: skip
        right = first is not None and _holds(first)
        table.add_row(
            name, truth, told, f"{first.detected.rows_since_onset:,} labels" if first else "",
            "[green]right[/]" if right else "[red]WRONG[/]",
        )  # fmt: skip
    return table


def _first(alerts: Sequence[Alert], column: str) -> Alert | None:
    return next((a for a in alerts if a.column == column and a.state is State.FIRING), None)


def _holds(alert: Alert) -> bool:
    """Whether an alert says of accuracy what is true from the drift on: that it is lower than in training, and (of the
    alert about it, which has seen enough) about how low it is."""
    fact = alert.performance
    if fact is None or fact.reference is None:
        return False
    near = fact.low - NEAR <= ACCURACY[1] <= fact.high + NEAR
    return fact.value < fact.reference and (alert.column != "accuracy" or near)


def _right(alerts: list[Alert]) -> bool:
    columns = [alert for alert in alerts if alert.kind not in OUTCOMES and alert.scope != "model"]
    fired = {alert.column for alert in columns if alert.state is State.FIRING}
    in_time = all(minute(alert.detected.time) >= DRIFT_TIME for alert in alerts)
    outcomes = [_first(alerts, column) for column in ("absolute_error", "accuracy")]
    return fired == set(DRIFTED) and in_time and all(alert is not None and _holds(alert) for alert in outcomes)
