"""One worker and two on the same records: CPU an event, and whether anything is done twice."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any, Final

import msgspec

from benchmarks.throughput.results import Figure
from benchmarks.throughput.worker import Watched
from benchmarks.throughput.workload import fill, model, reference
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import TopicSpec
from stream_monitor.config import Settings
from stream_monitor.publish import publish
from stream_monitor.topics import specs

MODELS: Final = 16
PARTITIONS: Final = 6


def measure(address: str, runs: int, events: int) -> list[Figure]:
    """What `events` more cost than a third of them: so what start and join take does not count, nor that encoding is
    ahead of detection in between."""
    few = events // 3
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec("many", PARTITIONS), TopicSpec("few", PARTITIONS)])
    broker.close()
    fill(address, "many", few + events, 1, models=MODELS)
    fill(address, "few", few, 1, models=MODELS)
    cpu_us: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    doubled = 0.0
    for _ in range(runs):
        for workers in (1, 2):
            short = run(address, "few", workers, few)
            whole = run(address, "many", workers, few + events)
            cpu_us[workers].append(1e6 * (whole["cpu_s"] - short["cpu_s"]) / events)
            rates[workers].append(events / (whole["wall_s"] - short["wall_s"]))
            doubled = max(doubled, whole["rows"] - few - events, short["rows"] - few)
    one, two = median(cpu_us[1]), median(cpu_us[2])
    figures = [
        Figure("scaling", "one worker, 16 models", "CPU", one, "µs/event"),
        Figure("scaling", "two workers, 16 models", "CPU", two, "µs/event"),
        Figure("scaling", "two workers ÷ one", "CPU", two / one, "×", 1.15, least=False),
        Figure("scaling", "two workers", "events detected twice", doubled, "", 0, least=False),
    ]
    speed = median(rates[2]) / median(rates[1])
    enough = (os.cpu_count() or 1) >= 6
    case = "two workers ÷ one" if enough else f"two workers ÷ one, {os.cpu_count()} cores shared with the broker"
    return [*figures, Figure("scaling", case, "events/s", speed, "×", 1.7 if enough else None)]


def settings_of(address: str, topic: str, group: str, instance: str, **worker: float) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": [address]}, "group": group, "instance": instance, "worker": worker,
        "topics": {"predictions": topic, "codes": f"{group}-codes", "state": f"{group}-state",
                   "references": f"{group}-references", "rejects": f"{group}-rejects", "alerts": f"{group}-alerts"},
    }  # fmt: skip


def prepare(address: str, document: dict[str, Any], models: int) -> None:
    """Topics of this run's own, and the references of its models."""
    settings = Settings.model_validate(document)
    broker = KafkaBroker(settings.kafka.to_settings())
    broker.create_topics(specs(settings))
    fitted = reference(rows_used=5_000)
    named = [msgspec.structs.replace(fitted, model=model(i)) for i in range(models)]
    publish(broker, settings.topics.references, "bench", named)
    broker.close()


def run(address: str, topic: str, workers: int, events: int, models: int = MODELS) -> dict[str, float]:
    """Workers on a topic that is full, of so many models: the CPU and the time of their lives until all is detected,
    and the rate from when every one is at work."""
    group = f"s{time.time_ns()}"
    documents = [settings_of(address, topic, group, name) for name in "ab"[:workers]]
    prepare(address, documents[0], models)
    born_s = time.monotonic()
    started = [Watched(document) for document in documents]
    for each in started:
        each.wait(lambda last: last["rows"] > 0)
    before, began_s = sum(each.last["rows"] for each in started), time.monotonic()
    while sum(each.last["rows"] for each in started) < events:
        if time.monotonic() - began_s > 300:
            raise RuntimeError(f"workers came no further than {[each.last for each in started]}")
        time.sleep(0.05)
    ended_s = time.monotonic()
    time.sleep(1.0)  # whatever would be done twice, or more
    told = [each.last for each in started]
    for each in started:
        each.stop()
    rows, cpu_s = sum(last["rows"] for last in told), sum(last["cpu_s"] for last in told)
    rate = max(rows - before, 1) / (ended_s - began_s)
    return {"cpu_s": cpu_s, "wall_s": ended_s - born_s, "rows": rows, "rate": rate}
