"""The events: 20 numeric features, 2 categories and a prediction, about 800 bytes of JSON; seeded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np
import orjson
from confluent_kafka import Producer

from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, Season, StreamKey

MODEL: Final = "throughput"
NUMERIC: Final = 20
REFERENCE_ROWS: Final = 20_000
START_MS: Final = 1_767_225_600_000


def rows(count: int, seed: int, numeric: int = NUMERIC, models: int = 1) -> Iterator[Row]:
    """Stationary rows, one a millisecond, of models in turn."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        values = rng.normal(size=(size, numeric)).tolist()
        categories = rng.integers(0, 8, size=(size, 2)).tolist()
        for i, (numbers, (region, plan)) in enumerate(zip(values, categories, strict=True)):
            features = {f"feature_{j:02d}": value for j, value in enumerate(numbers)}
            features |= {"region": f"region-{region}", "plan": f"plan-{plan}"}
            number = start + i
            yield Row(
                model(number % models), "1", "", START_MS + number, features, numbers[0] * 0.1 + 0.5, None,
                str(number), 0, number, 0,
            )  # fmt: skip


def model(number: int) -> str:
    return f"{MODEL}-{number}" if number else MODEL


def reference(of: str = MODEL, numeric: int = NUMERIC, rows_used: int = REFERENCE_ROWS) -> Reference:
    options = FitOptions(season=Season.NONE, ordered=True)
    return fit(list(rows(rows_used, seed=1, numeric=numeric)), StreamKey(of, "1"), options)


@lru_cache
def wide_reference(columns: int, rows_used: int = 5_000) -> Reference:
    """Of `columns` normal columns and nothing else; every 20 are the same 20, of which tables are built once."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(rows_used, min(columns, NUMERIC)))
    features = [{f"x{j:04d}": row[j % len(row)] for j in range(columns)} for row in values.tolist()]
    found = [Row(MODEL, "1", "", START_MS + i, each, None, None, None, 0, i, 0) for i, each in enumerate(features)]
    return fit(found, StreamKey(MODEL, "1"), FitOptions(season=Season.NONE, ordered=True))


def event(row: Row) -> dict[str, object]:
    return {
        "model": row.model, "version": row.version, "id": row.id, "time": row.time_ms,
        "features": row.features, "prediction": row.prediction,
    }  # fmt: skip


def label_of(row: Row) -> int:
    return int(row.features["feature_00"] > 0)


def fill(address: str, topic: str, count: int, per_record: int, models: int = 1, *, labelled: bool = False) -> float:
    """Write `count` events, `per_record` to a record (an array if more than one); mean bytes of an event."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    written, batch = 0, []
    for number, row in enumerate(rows(count, seed=2, models=models), 1):
        batch.append(event(row) | ({"label": label_of(row)} if labelled else {}))
        if len(batch) == per_record or number == count:
            value = orjson.dumps(batch if per_record > 1 else batch[0])
            written += len(value)
            producer.produce(topic, key=row.id, value=value)
            producer.poll(0)
            batch = []
    if producer.flush(120):
        raise RuntimeError(f"the broker at {address} did not take all events")
    return written / count


def fill_labels(address: str, topic: str, count: int) -> None:
    """Write the labels of the first `count` events, in a record each."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for row in rows(count, seed=2):
        producer.produce(
            topic, key=row.id, value=orjson.dumps({"model": row.model, "id": row.id, "label": label_of(row)})
        )
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError(f"the broker at {address} did not take all labels")
