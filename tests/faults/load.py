"""Load by the million: records of many events each, made once and drawn from, so that the load costs little itself."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Final

import orjson
from confluent_kafka import Consumer as ForeignConsumer
from confluent_kafka import Producer as ForeignProducer
from confluent_kafka import TopicPartition as ForeignPartition

from stream_monitor.broker.protocol import TopicPartition
from tests.faults.arena import MODELS, PATIENCE_S, POISON
from tests.faults.follower import Tally

EVENTS: Final = 100
"""Of one record."""
POOL: Final = 200
Made = tuple[bytes, bytes]
"""Key and value; the key says how many events there are, and which are bad: [100, [17]]."""


class Load(threading.Thread):
    """Writes `records_per_s` records a second until stopped, drifting every other `drift_s` seconds."""

    def __init__(self, address: str, topic: str, records_per_s: float, seed: int, drift_s: float = 120.0) -> None:
        super().__init__(name="load", daemon=True)
        self.written = 0
        self.refused = 0
        self._topic = topic
        self._rate = records_per_s
        self._drift_s = drift_s
        self._draw = random.Random(seed)
        self._pools = [[self._record(mean) for _ in range(POOL)] for mean in (0.0, 1.5)]
        self._stopping = threading.Event()
        # Idempotent: a broker that dies must not make two events out of one, whose offsets would then differ in vain.
        self._producer = ForeignProducer(
            {"bootstrap.servers": address, "linger.ms": 20, "enable.idempotence": True, "compression.type": "lz4",
             "message.timeout.ms": 300_000, "queue.buffering.max.messages": 50_000}
        )  # fmt: skip

    def run(self) -> None:
        started_s = time.monotonic()
        while not self._stopping.is_set():
            passed_s = time.monotonic() - started_s
            pool = self._pools[int(passed_s / self._drift_s) % 2]
            while self.written < passed_s * self._rate:
                self._write(self._draw.choice(pool))
            self._producer.poll(0.02)
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records of the load were not written"

    def stop(self) -> None:
        self._stopping.set()
        self.join(2 * PATIENCE_S)
        assert not self.is_alive()
        assert self.refused == 0

    def _write(self, made: Made) -> None:
        key, value = made
        if self._draw.random() < 0.01:
            key, value = b"[1,[0]]", self._draw.choice([poison for poison in POISON if poison])
        while True:
            try:
                self._producer.produce(self._topic, key=key, value=value, partition=self.written % 3,
                                       on_delivery=self._delivered)  # fmt: skip
                break
            except BufferError:
                self._producer.poll(0.1)
        self.written += 1

    def _delivered(self, error: object, _: object) -> None:
        self.refused += error is not None

    def _record(self, mean: float) -> Made:
        bad = [self._draw.randrange(EVENTS)] if self._draw.random() < 0.01 else []
        events = [b"7" if index in bad else self._event(mean) for index in range(EVENTS)]
        return json.dumps([EVENTS, bad]).encode(), b"[" + b",".join(events) + b"]"

    def _event(self, mean: float) -> bytes:
        draw = self._draw
        features = {"x": round(draw.gauss(mean, 1), 4), "y": round(draw.lognormvariate(0, 1), 4),
                    "city": draw.choice(("Rome", "Paris", "Oslo"))}  # fmt: skip
        return orjson.dumps({"model": draw.choice(MODELS), "features": features, "prediction": 1.0})


def written_rows(address: str, ends: dict[TopicPartition, int]) -> tuple[Tally, Tally]:
    """The rows below these offsets that are to be coded, and those to be rejected, by the keys of what really is on
    the topic."""
    import numpy as np

    valid, bad = Tally(), Tally()
    consumer = ForeignConsumer({"bootstrap.servers": address, "group.id": "rows", "enable.auto.commit": False})
    consumer.assign([ForeignPartition(at.topic, at.partition, 0) for at in ends])
    left = sum(ends.values())
    deadline_s = time.monotonic() + 600.0
    while left:
        assert time.monotonic() < deadline_s, "the input cannot be read to its end"
        for message in consumer.consume(1000, timeout=5.0):
            assert not message.error(), message.error()
            count, poisoned = json.loads(message.key())
            good = np.setdiff1d(np.arange(count), poisoned)
            at, offset = message.partition(), message.offset()
            if offset >= ends[TopicPartition(message.topic(), at)]:
                continue
            valid.add(at, np.full(good.size, offset), good)
            for index in poisoned:
                bad.add_row(at, offset, index)
            left -= 1
    consumer.close()
    return valid, bad
