"""What holds an encoder back: how far detection is, with or without the rows that wait there."""

from __future__ import annotations

import pytest

from stream_monitor.alignment import Alignment, note
from stream_monitor.backpressure import Backpressure, Sight
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, TopicPartition
from stream_monitor.ordering import NEVER
from stream_monitor.topics import specs
from tests.unit.world import settings

ROWS, LABELS = TopicPartition("predictions", 1), TopicPartition("labels", 1)
AT_MS = 100


@pytest.mark.parametrize(
    ("rows_ms", "labels_ms", "lag"),
    [
        (AT_MS + 1, NEVER, 90),  # ahead: what waits for the other is its affair
        (AT_MS, NEVER, 20),  # furthest behind: what waits, waits for this one
        (NEVER, NEVER, 90),  # at the end
        (AT_MS + 1, AT_MS - 1, 20),  # else each of two could wait for the other
        (AT_MS + 1, AT_MS + 1, 90),
    ],
)
def test_rows_that_wait_count_for_an_encoder_that_is_ahead_and_behind_none(
    rows_ms: int, labels_ms: int, lag: int
) -> None:
    base = settings(topics={"partitions": 1, "labels": "labels"})
    broker = MemoryBroker(clock_ms=lambda: 0)

    broker.create_topics(specs(base, predictions=2))
    codes = TopicPartition(base.topics.codes, 0)
    broker.append([Message(codes.topic, None, b"x", 0) for _ in range(100)])
    commit(broker, f"{base.group}-detect", codes, 10, "80")  # ten are committed, and all but twenty done with
    for partition in (ROWS, LABELS):
        commit(broker, f"{base.group}-encode", partition, 0, note(AT_MS, 1))
    backpressure = Backpressure(base, broker, broker.reader([codes]))
    sights = [Sight(Alignment(100), {partition}, own_ms)
              for partition, own_ms in ((ROWS, rows_ms), (LABELS, labels_ms))]  # fmt: skip
    backpressure.look(sights, 1.0)
    assert backpressure.lag == lag


def commit(broker: MemoryBroker, group: str, partition: TopicPartition, offset: int, text: str) -> None:
    consumer = broker.consumer(group, [partition.topic], instance="it")
    consumer.poll(0.0)
    broker.producer(group).commit([], {partition: offset}, consumer.member(), {partition: text})


def test_what_an_older_release_has_committed_has_no_notes() -> None:

    base = settings(topics={"partitions": 1})
    broker = MemoryBroker(clock_ms=lambda: 0)
    broker.create_topics(specs(base, predictions=1))
    codes = TopicPartition(base.topics.codes, 0)
    broker.append([Message(codes.topic, None, b"x", 0) for _ in range(100)])
    commit(broker, f"{base.group}-detect", codes, 10, "")
    backpressure = Backpressure(base, broker, broker.reader([codes]))
    backpressure.look([], 1.0)
    assert backpressure.lag == 90
