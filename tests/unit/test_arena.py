"""The fault suite's own load and reckoning, without Kafka: what it writes is what it says it wrote, labels and segments
included, and both oracles agree with two workers of which one is abandoned now and then."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, Record, TopicPartition
from stream_monitor.worker import Worker
from tests.faults import arena
from tests.faults.follower import Follower, Tally
from tests.faults.oracle import Committed, differences, found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def ms(self) -> int:
        return int(self.now_s * 1000)


class Producer:
    """What a foreign producer does, on the broker in memory."""

    def __init__(self, broker: MemoryBroker, clock: Clock) -> None:
        self._broker, self._clock = broker, clock

    def produce(self, topic: str, key: str, value: bytes | None) -> None:
        self._broker.append([Message(topic, key.encode(), value, timestamp_ms=self._clock.ms())])

    def poll(self, _: float) -> None: ...

    def flush(self, _: float) -> int:
        return 0


class Indoors(arena.Arena):
    """An arena on the broker in memory."""

    def partitions(self, topic: str) -> list[TopicPartition]:
        return self.memory.partitions([topic])

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        return {at: self.memory.log(at).end_offset for at in self.partitions(topic)}

    def read(self, topic: str) -> list[Record]:
        return list(self.memory.records(topic))

    @property
    def memory(self) -> MemoryBroker:
        assert isinstance(self.broker, MemoryBroker)
        return self.broker


def test_the_load_and_both_oracles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock()
    broker = MemoryBroker(clock_ms=clock.ms)
    for name, made in (("KafkaBroker", broker), ("AdminClient", None), ("ForeignProducer", Producer(broker, clock))):
        monkeypatch.setattr(arena, name, lambda *_, it=made, **__: it)
    field = Indoors(["127.0.0.1:1"], tmp_path, 1)
    topics, draw = field.settings.topics, random.Random(1)
    assert (len(field.partitions(topics.predictions)), len(field.partitions(topics.labels or ""))) == (3, 2)

    def worker(name: str) -> Worker:
        named = field.settings.model_copy(update={"instance": name})
        return Worker(named, broker, clock_s=lambda: clock.now_s, clock_ms=clock.ms)

    workers = {name: worker(name) for name in "ab"}
    for turn in range(50 + 200):
        if turn < 50:
            field.produce(150)
        for each in workers.values():
            for _ in range(3):
                each.step(0.0)
        clock.now_s += 0.3
        if turn < 50 and turn % 9 == 5:
            name = draw.choice("ab")
            workers[name].abandon()
            workers[name] = worker(name)
    for each in workers.values():
        each.close()

    assert {at: offset or 0 for at, offset in field.encoded().items()} == field.input_ends()
    committed = Committed(*(field.read(name) for name in (topics.codes, topics.alerts, topics.state,
                                                          topics.references, topics.rejects)))  # fmt: skip
    valid, bad = field.input()
    assert differences(field.settings, committed, valid, bad) == []
    kinds: Counter[Any] = Counter()
    for record in committed.alerts:
        alert = orjson.loads(record.value or b"")
        kinds.update((alert["kind"], alert["segment"]))
    assert set(kinds) >= {"data_drift", "concept_drift", "performance", "city=Rome"}
    assert {orjson.loads(record.value or b"")["reason"] for record in committed.rejects} >= {"no_id", "no_label"}

    follower = Follower(field.settings, broker)
    while any(follower.position()[at] < end for at, end in field.ends(topics.codes).items()):
        follower.advance(0.1)
    ours, theirs = found(field.settings, committed), follower.finish()
    assert (theirs.alerts, theirs.states) == (ours.alerts, ours.states)
    want = Tally()
    for row in valid.elements():
        want.add_row(*row)
    assert follower.rows.against(want) == (0, 0)
