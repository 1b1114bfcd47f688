"""What is timed, each in a process of its own.

    python -m benchmarks.throughput.consumers NAME ADDRESS TOPIC EVENTS PER_RECORD

Prints one JSON object: events, wall seconds from the first record on, CPU seconds over the same time, peak RSS.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
from confluent_kafka import Consumer
from kafka import KafkaConsumer
from river import drift, sketch

from benchmarks.memory import peak_rss_bytes
from benchmarks.throughput import added
from benchmarks.throughput.stages import Stages
from benchmarks.throughput.workload import reference
from stream_monitor import allocator, collector
from stream_monitor.broker.kafka import KafkaBroker
from stream_monitor.config import Settings
from stream_monitor.publish import publish
from stream_monitor.topics import specs
from stream_monitor.worker import Worker

PATIENCE_S: Final = 600.0


def batches(address: str, topic: str, group: str | None) -> Iterator[tuple[KafkaConsumer, list[bytes]]]:
    """Polls of the client, with the settings that our worker uses.

    They wait long: kafka-python loses sight of a group that it has joined between two polls, and reads nothing then.
    """
    consumer = KafkaConsumer(
        topic, bootstrap_servers=address, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
        isolation_level="read_committed", max_poll_records=10_000, fetch_min_bytes=65_536, fetch_max_wait_ms=100,
        max_partition_fetch_bytes=4_194_304,
    )  # fmt: skip
    try:
        while True:
            polled = consumer.poll(timeout_ms=30_000)
            values = [record.value for records in polled.values() for record in records]
            if values:
                yield consumer, values
    finally:
        consumer.close()


class Stopwatch:
    """Wall and CPU seconds since the first record."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s = time.monotonic(), time.process_time()

    def told(self, events: int) -> dict[str, float]:
        return {
            "events": events,
            "wall_s": time.monotonic() - self.wall_s,
            "cpu_s": time.process_time() - self.cpu_s,
            "rss_mb": peak_rss_bytes() / 2**20,
        }


def poll_only(address: str, topic: str, events: int, per_record: int) -> dict[str, float]:
    """(b) the floor: poll and count."""
    return _drain(address, topic, events, lambda values: per_record * len(values))


def poll_parse(address: str, topic: str, events: int, _per_record: int) -> dict[str, float]:
    """(c) poll and `orjson.loads`."""

    def parse(values: list[bytes]) -> int:
        return sum(len(found) if isinstance(found, list) else 1 for found in map(orjson.loads, values))

    return _drain(address, topic, events, parse)


def _drain(address: str, topic: str, events: int, use: Callable[[list[bytes]], int]) -> dict[str, float]:
    seen, watch = 0, None
    for _, values in batches(address, topic, None):
        watch = watch or Stopwatch()
        seen += use(values)
        if seen >= events:
            break
    assert watch is not None  # there was a record, or the loop would go on
    return watch.told(seen)


def plain(address: str, topic: str, events: int, _per_record: int) -> dict[str, float]:
    """(a) what a good engineer writes in an afternoon: river's detectors and sketch a feature, a commit a poll."""
    adwin: dict[str, Any] = {}
    page_hinkley: dict[str, Any] = {}
    histogram: dict[str, Any] = {}
    counts: dict[str, dict[object, int]] = {}
    seen, watch = 0, None
    for consumer, values in batches(address, topic, f"plain-{time.time_ns()}"):
        watch = watch or Stopwatch()
        for value in values:
            found = orjson.loads(value)
            for event in found if isinstance(found, list) else [found]:
                seen += 1
                for name, x in [*event["features"].items(), ("prediction", event["prediction"])]:
                    if isinstance(x, str):
                        tally = counts.setdefault(name, {})
                        tally[x] = tally.get(x, 0) + 1
                        continue
                    if name not in adwin:
                        adwin[name], page_hinkley[name] = drift.ADWIN(), drift.PageHinkley()
                        histogram[name] = sketch.Histogram()
                    adwin[name].update(x)
                    page_hinkley[name].update(x)
                    histogram[name].update(x)
        consumer.commit()
        if seen >= events:
            break
    assert watch is not None  # as above
    return watch.told(seen)


def confluent(address: str, topic: str, events: int, per_record: int) -> dict[str, float]:
    """(d) what another client would need for the same: confluent-kafka, poll, count and take the values."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": f"floor-{time.time_ns()}", "auto.offset.reset": "earliest",
         "isolation.level": "read_committed", "enable.auto.commit": False}
    )  # fmt: skip
    consumer.subscribe([topic])
    seen, watch = 0, None
    while seen < events:
        messages = consumer.consume(10_000, timeout=0.2)
        if messages:
            watch = watch or Stopwatch()
            seen += per_record * len([message.value() for message in messages])
    assert watch is not None  # as above
    told = watch.told(seen)
    consumer.close()
    return told


def main_job(
    address: str,
    topic: str,
    events: int,
    _per_record: int,
    on_start: Callable[[], None] = lambda: None,
    case: str = added.WITHOUT,
) -> dict[str, float]:
    """Both stages of our worker, until every event is detected and every label joined; with a group and topics of its
    own."""
    allocator.settle()  # both as `worker.run` does
    labels = added.topics_of(case)[1]
    settings = Settings.model_validate(
        {"kafka": {"bootstrap_servers": [address]}, "group": f"b{time.time_ns()}", "instance": "a",
         "topics": {"predictions": topic, "labels": labels, "alerts": f"alerts-{time.time_ns()}"},
         **added.settings_of(case)}
    )  # fmt: skip
    broker = KafkaBroker(settings.kafka.to_settings())
    broker.create_topics(specs(settings))
    known = reference() if case == added.WITHOUT else added.reference_of(case, reference().stream)
    publish(broker, settings.topics.references, "bench", [known])
    worker = Worker(settings, broker)
    collector.settle()
    assert worker.encode is not None
    assert worker.detect is not None
    deadline_s, watch, busy = time.monotonic() + PATIENCE_S, None, False
    while worker.detect.counts.rows < events or worker.detect.counts.labels < (events if labels else 0):
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{worker.detect.counts.rows} of {events} events after {PATIENCE_S:g} s")
        busy = worker.step(0.0 if busy else 0.1)
        if watch is None and worker.encode.counts.records + len(worker.encode._rows.pending):
            watch = Stopwatch()
            on_start()
    assert watch is not None  # as above
    told = watch.told(worker.detect.counts.rows + worker.detect.counts.labels)
    worker.close()
    broker.close()
    return told | {"alerts": worker.detect.counts.alerts.total()}


def profiled(address: str, topic: str, events: int, per_record: int) -> dict[str, float]:
    """The main job with a clock in every stage: CPU seconds of each, those of what it calls left out."""
    stages = Stages()
    stages.watch_all()
    told = main_job(address, topic, events, per_record, stages.spent_s.clear)
    return told | {f"stage {name}": spent_s for name, spent_s in stages.spent_s.items()}


def _with(case: str) -> Callable[[str, str, int, int], dict[str, float]]:
    return lambda address, topic, events, per_record: main_job(address, topic, events, per_record, case=case)


NAMES: Final = {
    **{f"added-{case}": _with(case) for case in added.CASES},
    "profile": profiled,
    "poll": poll_only,
    "parse": poll_parse,
    "plain": plain,
    "confluent": confluent,
    "main": main_job,
}

if __name__ == "__main__":
    name, address, topic, events, per_record = sys.argv[1:]
    print(json.dumps(NAMES[name](address, topic, int(events), int(per_record))))
