"""Both stages over the in-memory broker and a clock of our own: equal rates, however many streams or columns.

Every second of that clock brings as many values as any other case, and ends with a commit of either stage: at 1,000
streams each of them has 15 rows a second, the hardest case for whatever is done once a stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import cycle
from statistics import median
from typing import Final

import msgspec
import numpy as np
import orjson
import structlog

from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import MODEL, NUMERIC, START_MS, model, wide_reference
from stream_monitor import allocator, collector
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, TopicSpec
from stream_monitor.config import Settings
from stream_monitor.publish import publish
from stream_monitor.reference import Reference
from stream_monitor.topics import specs
from stream_monitor.worker import Worker

ROWS_A_SECOND: Final = 15_000
VALUES_A_SECOND: Final = 300_000
PARTITIONS: Final = 6


def measure(runs: int, scale: float = 1.0) -> list[Figure]:
    seconds = max(int(8 * scale), 2)
    streams = {count: median(_streams(count, seconds) for _ in range(runs)) for count in (1, 10, 100, 1_000)}
    columns = {count: median(_columns(count, seconds) for _ in range(runs)) for count in (5, 20, 200, 2_000)}
    figures = [
        Figure("flat", f"{count:,} streams of 20 columns, {ROWS_A_SECOND // count:,} rows a stream-second", "CPU", ns,
               "ns/value")
        for count, ns in streams.items()
    ]  # fmt: skip
    figures.append(Figure("flat", "1,000 streams ÷ 1 stream", "CPU", streams[1_000] / streams[1], "×", 4, least=False))
    figures += [
        Figure("flat", f"one stream of {count:,} columns", "CPU", ns, "ns/value") for count, ns in columns.items()
    ]
    figures.append(
        Figure("flat", "2,000 columns ÷ 20 columns", "CPU", columns[2_000] / columns[20], "×", 1.2, least=False)
    )
    return figures


class World:
    """A worker on an in-memory broker; `second` gives it a second's records and lets it commit them."""

    def __init__(self, references: list[Reference], settings: dict[str, object] | None = None) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        self.now_ms = START_MS
        self.settings = Settings.model_validate({"group": "flat", "instance": "a"} | (settings or {}))
        self.broker = MemoryBroker(lambda: self.now_ms, max_message_bytes=2**24)  # a wide reference is one record
        self.broker.create_topics(specs(self.settings, predictions=PARTITIONS))
        if self.settings.topics.labels:
            self.broker.create_topics([TopicSpec(self.settings.topics.labels, PARTITIONS)])
        publish(self.broker, self.settings.topics.references, "flat", references)
        self.worker = Worker(
            self.settings, self.broker, clock_s=lambda: self.now_ms / 1000, clock_ms=lambda: self.now_ms
        )
        for _ in range(20):
            self.now_ms += 100
            self.worker.step(0.0)

    def second(self, values: list[bytes], labels: Sequence[bytes] = ()) -> float:
        """CPU seconds of a second's work: so many records of an event each, and of a label each."""
        topics = self.settings.topics
        for topic, each in ((topics.predictions, values), (topics.labels, labels)):
            self.broker.append(
                [
                    Message(topic or "", None, value, partition=i % PARTITIONS, timestamp_ms=self.now_ms)
                    for i, value in enumerate(each)
                ]
            )
        assert self.worker.detect is not None
        counts = self.worker.detect.counts
        wanted, labelled = counts.rows + len(values), counts.labels + len(labels)
        began = time.process_time()
        for _ in range(40):
            self.now_ms += 250
            self.worker.step(0.0)
            if counts.rows >= wanted and counts.labels >= labelled:
                return time.process_time() - began
        raise RuntimeError(f"{wanted - counts.rows} rows and {labelled - counts.labels} labels are still missing")

    def close(self) -> None:
        self.worker.abandon()
        self.broker.close()


def events(names: list[str], features: list[str], count: int, seed: int) -> list[bytes]:
    """Events of models in turn, of columns that repeat as those of `wide_reference` do."""
    numbers = np.random.default_rng(seed).normal(size=(count, min(len(features), NUMERIC))).tolist()
    return [
        orjson.dumps(
            {"model": names[i % len(names)], "version": "1",
             "features": dict(zip(features, cycle(row), strict=False)), "prediction": 0.5}
        )
        for i, row in enumerate(numbers)
    ]  # fmt: skip


def _streams(count: int, seconds: int) -> float:
    base = wide_reference(NUMERIC)
    names = [model(i) for i in range(count)]
    return _ns_a_value([_renamed(base, name) for name in names], names, ROWS_A_SECOND, seconds)


def _columns(count: int, seconds: int) -> float:
    return _ns_a_value([wide_reference(count)], [MODEL], VALUES_A_SECOND // count, seconds)


def _ns_a_value(references: list[Reference], names: list[str], rows: int, seconds: int) -> float:
    """No row comes twice: a stream that saw the same few again and again would drift, and rightly."""
    world = World(references)
    allocator.settle()
    collector.settle()  # as `worker.run` does
    features = [column.name for column in references[0].columns]
    spent = [world.second(events(names, features, rows, seed)) for seed in range(seconds + 2)][2:]
    assert world.worker.detect is not None
    if alerts := world.worker.detect.counts.alerts:
        raise RuntimeError(f"stationary streams raised {dict(alerts)}: their cost is not that of watching")
    world.close()
    collector.release()
    return 1e9 * median(spent) / (rows * len(features))


def _renamed(base: Reference, name: str) -> Reference:
    return msgspec.structs.replace(base, model=name)
