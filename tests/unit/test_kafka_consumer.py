"""What the group consumer makes of a client's answers, where a real broker cannot be made to give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kafka.structs import OffsetAndMetadata

from stream_monitor.broker.kafka.consumer import GroupConsumer
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.broker.protocol import TopicPartition

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


class Answers:
    """A client that answers from lists, one for every partition."""

    def __init__(self, answers: dict[int, list[int | None]]) -> None:
        self.answers = answers

    @property
    def _coordinator(self) -> Answers:
        return self

    def fetch_committed_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, OffsetAndMetadata]:
        assert timeout_ms > 0
        told = {partition: self.answers[partition.partition].pop(0) for partition in partitions}
        return {
            partition: OffsetAndMetadata(offset, "", -1) for partition, offset in told.items() if offset is not None
        }


@pytest.mark.parametrize(
    ("zero", "one", "found", "waits"),
    [([7], [9], (7, 9), 0), ([7], [None, 9], (7, 9), 1), ([None, None], [None, None], (None, None), 1)],
)
def test_that_nothing_was_committed_is_believed_the_second_time(
    monkeypatch: pytest.MonkeyPatch, zero: Sequence[Any], one: Sequence[Any], found: tuple[Any, Any], waits: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("stream_monitor.broker.kafka.consumer.time.sleep", slept.append)
    group = object.__new__(GroupConsumer)
    group._settings, group._name = KafkaSettings(("127.0.0.1:1",)), "a of group g"
    group._consumer = client = Answers({0: list(zero), 1: list(one)})
    assert group.committed([ZERO, ONE]) == {ZERO: found[0], ONE: found[1]}
    assert len(slept) == waits
    assert client.answers == {0: [], 1: []}
