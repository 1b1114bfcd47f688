"""How long it takes from an event being produced to the alert that it raises being read, at half load.

Rows are those of the reference, but four times a second a feature of one stream jumps by five standard deviations for
300 of its rows, all features of all streams in turn: it fires within a few rows, and resolves later. The time of an
event is that of its production, and an alert names the time of the event that decided it: the difference to when a
read-committed subscriber has it is the whole way. The first seconds do not count.

Half load is half of the events of as many streams that a worker takes a second of a full topic, as measured just before
on the same machine and beside whatever else runs there: the load is what was asked for only as long as that stays so.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer

from benchmarks.throughput.results import Figure
from benchmarks.throughput.scaling import prepare, run, settings_of
from benchmarks.throughput.worker import Watched
from benchmarks.throughput.workload import NUMERIC, event, fill, model, rows
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import TopicSpec

CASES: Final = ((1, 1.0), (10, 1.0), (100, 1.0), (100, 0.25))
"""(streams, commit interval in seconds; 1.0 is the default)."""
WARM_S: Final = 12.0
SLICE_S: Final = 0.02
JUMPS_A_SECOND: Final = 4
JUMP_ROWS: Final = 300
POOL: Final = 40_000
"""Rows to draw from: so many that their own distribution is none that a detector could tell from the reference's."""


def measure(address: str, seconds: float, events: int) -> list[Figure]:
    """`events`: of the topic that half load is measured on."""
    figures = []
    for streams, interval_s in CASES:
        rate = _most(address, streams, events) / 2
        late = _run(address, streams, interval_s, rate, seconds)
        case = f"{streams} streams, commit every {interval_s:g} s, {rate:,.0f} events/s, {len(late):,} alerts"
        default = interval_s == 1.0
        for share, gate in ((50, 1.5), (99, 3.0)):
            value = float(np.percentile(late, share))
            figures.append(Figure("latency", case, f"p{share}", value, "s", gate if default else None, least=False))
    return figures


def _most(address: str, streams: int, events: int) -> float:
    """Events a second that a worker takes of a topic with events of so many streams."""
    topic = f"full-{streams}-{time.time_ns()}"
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec(topic, 6)])
    broker.close()
    fill(address, topic, events, 1, models=streams)
    return run(address, topic, 1, events, models=streams)["rate"]


def _run(address: str, streams: int, interval_s: float, rate: float, seconds: float) -> list[float]:
    group = f"l{time.time_ns()}"
    document = settings_of(address, f"{group}-in", group, "a", commit_interval_s=interval_s)
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec(f"{group}-in", 6)])
    broker.close()
    prepare(address, document, streams)
    worker = Watched(document)
    worker.wait(lambda last: last["cpu_s"] > 0)
    late: list[float] = []
    over = threading.Event()
    subscriber = threading.Thread(target=_subscribe, args=(address, f"{group}-alerts", late, over))
    subscriber.start()
    try:
        sent = _produce(address, f"{group}-in", streams, rate, seconds)
        worker.wait(lambda last: last["rows"] >= sent)
        time.sleep(2.0)
    finally:
        over.set()
        subscriber.join()
    worker.stop()
    if not late:
        raise RuntimeError("no alert was seen")
    return late


def _produce(address: str, topic: str, streams: int, rate: float, seconds: float) -> int:
    """Events at a steady rate, of the streams in turn; how many."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    pool = [event(row) for row in rows(POOL, seed=7)]
    calm = [orjson.dumps(document["features"]) for document in pool]
    scores = [orjson.dumps(document["prediction"]) for document in pool]
    models = [model(i).encode() for i in range(streams)]
    left, jumping = [0] * streams, [""] * streams
    sent, jumps, began_s = 0, 0, time.monotonic()
    while (elapsed_s := time.monotonic() - began_s) < WARM_S + seconds:
        now_ms = time.time_ns() // 1_000_000
        if elapsed_s * JUMPS_A_SECOND > jumps:
            jumps += 1
            left[jumps % streams], jumping[jumps % streams] = JUMP_ROWS, f"feature_{jumps // streams % NUMERIC:02d}"
        while sent < elapsed_s * rate:
            stream = sent % streams
            row = (sent // streams + 997 * stream) % POOL
            features = calm[row]
            if left[stream]:
                left[stream] -= 1
                values: Any = pool[row]["features"]
                features = orjson.dumps(values | {jumping[stream]: values[jumping[stream]] + 5})
            value = b'{"model":"%b","version":"1","time":%d,"features":%b,"prediction":%b}' % (
                models[stream], now_ms, features, scores[row],
            )  # fmt: skip
            producer.produce(topic, key=b"%d" % sent, value=value)
            sent += 1
        producer.poll(0)
        time.sleep(SLICE_S)
    producer.flush(60)
    return sent


def _subscribe(address: str, topic: str, late: list[float], over: threading.Event) -> None:
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": f"{topic}-reader", "isolation.level": "read_committed",
         "auto.offset.reset": "earliest"}
    )  # fmt: skip
    consumer.subscribe([topic])
    first_s: float | None = None
    while not over.is_set():
        for message in consumer.consume(1_000, timeout=0.05):
            if message.error() is None:
                alert = orjson.loads(message.value())
                produced_s = datetime.fromisoformat(alert["detected"]["time"]).timestamp()
                first_s = produced_s if first_s is None else first_s
                if produced_s - first_s > WARM_S / 2:
                    late.append(time.time() - produced_s)
    consumer.close()
