"""Load by the million: records of many events each, made once and drawn from, so that the load costs little itself; and
the labels of some of them, later.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
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
Made = tuple[bytes, bytes, bytes]
"""Key, value and the record of its labels; the key says how many events there are, and which are bad: [100, [17]]."""
NUMBER: Final = b"@@@@@@@@"
"""Stands in the ids for the number of the record, eight hexadecimal digits."""
LABELLED: Final = 4
"""One record in so many has labels."""
LATE_RECORDS: Final = 100


class Load(threading.Thread):
    """Writes `records_per_s` records a second until stopped, drifting every other `drift_s` seconds.

    `labels`: a topic for the labels of one record in `LABELLED`, `LATE_RECORDS` of those later.
    """

    def __init__(
        self,
        address: str,
        topic: str,
        records_per_s: float,
        seed: int,
        drift_s: float = 120.0,
        labels: str | None = None,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self.written = 0
        self.refused = 0
        self._topic = topic
        self._labels = labels
        self._late: deque[tuple[bytes, bytes]] = deque()
        self._first_id = int(time.time())  # the ids of two loads are not the same
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
        key, value, labels = made
        number = b"%08x" % ((self._first_id + self.written) % 2**32)
        poisoned = self._draw.random() < 0.01
        if poisoned:
            self._put(self._topic, b"[1,[0]]", self._draw.choice([poison for poison in POISON if poison]), 3)
        else:
            self._put(self._topic, key, value.replace(NUMBER, number), 3)
        if self._labels is not None and not poisoned and self.written % LABELLED == 0:
            self._late.append((key, labels.replace(NUMBER, number)))
            if len(self._late) > LATE_RECORDS // LABELLED:
                self._put(self._labels, *self._late.popleft(), 2)
        self.written += 1

    def _put(self, topic: str, key: bytes, value: bytes, partitions: int) -> None:
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, partition=self.written % partitions,
                                       on_delivery=self._delivered)  # fmt: skip
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: object, _: object) -> None:
        self.refused += error is not None

    def _record(self, mean: float) -> Made:
        bad = [self._draw.randrange(EVENTS)] if self._draw.random() < 0.01 else []
        made = [(b"7", b"7") if index in bad else self._event(index, mean) for index in range(EVENTS)]
        events, labels = (b"[" + b",".join(each) + b"]" for each in zip(*made, strict=True))
        return json.dumps([EVENTS, bad]).encode(), events, labels

    def _event(self, index: int, mean: float) -> tuple[bytes, bytes]:
        """An event and its label, which has nothing to do with its score while it drifts."""
        draw = self._draw
        features = {"x": round(draw.gauss(mean, 1), 4), "y": round(draw.lognormvariate(0, 1), 4),
                    "city": draw.choice(("Rome", "Paris", "Oslo"))}  # fmt: skip
        named = {"model": draw.choice(MODELS), "id": f"{NUMBER.decode()}-{index}"}
        score = round(draw.random(), 3)
        label = int(draw.random() < (0.5 if mean else score))
        return orjson.dumps(named | {"features": features, "prediction": score}), orjson.dumps(named | {"label": label})


def written_rows(address: str, ends: dict[TopicPartition, int], labels: str | None) -> tuple[Tally, Tally]:
    """The rows below these offsets that are to be coded, and those to be rejected, by the keys of what really is on
    the topics; labels under −1 − their partition."""
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
            at = -1 - at if message.topic() == labels else at
            valid.add(at, np.full(good.size, offset), good)
            for index in poisoned:
                bad.add_row(at, offset, index)
            left -= 1
    consumer.close()
    return valid, bad
