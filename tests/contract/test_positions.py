"""Positions: seeking, pausing, ends, markers, and what happens outside of the log."""

from __future__ import annotations

import pytest

from stream_monitor.broker.protocol import Consumer, Message, Polled, TopicPartition
from stream_monitor.errors import BrokerError
from tests.contract.environment import Environment, attempts, poll_until, read_to_end, settle, start_reading, take


def reading(env: Environment, topic: str, offset: int = 0) -> Consumer:
    """A stable member who holds the one partition of a topic and reads from an offset."""
    consumer = env.consumer(env.name("group"), topic, "a")
    settle([consumer], [1])
    start_reading(consumer, consumer.assignment(), default_offset=offset)
    return consumer


def test_polls_that_do_not_wait_get_there_too(env: Environment) -> None:
    topic = env.topic()
    env.backend.append([Message(topic, None, b"x")])
    consumer = env.consumer(env.name("group"), topic, "a")
    for _ in attempts("a record"):
        polled = consumer.poll(0)
        for partition in polled.assigned:
            consumer.seek(partition, 0)
            consumer.resume([partition])
        if polled.records:
            break
    assert [len(records) for records in polled.records.values()] == [1]


def test_seek_goes_back_and_forth(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    consumer = reading(env, topic)
    assert [record.offset for record in take(consumer, 10)] == list(range(10))
    consumer.seek(partition, 2)
    assert [record.offset for record in take(consumer, 8)] == list(range(2, 10))
    consumer.seek(partition, 9)
    assert [record.offset for record in take(consumer, 1)] == [9]


def test_pause_holds_back_and_resume_goes_on_without_loss(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    consumer = reading(env, topic)
    take(consumer, 10)
    consumer.pause([partition])
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    assert consumer.poll(0.3) == Polled()
    assert consumer.position(partition) == 10
    consumer.resume([partition])
    assert [record.offset for record in take(consumer, 10)] == list(range(10, 20))


def test_what_was_fetched_before_a_pause_comes_after_it_though_nothing_new_is_written(env: Environment) -> None:
    """Each partition is paused with its first records, while the rest of what was fetched waits in the client."""
    topic = env.topic(partitions=3)
    counts = (25_000, 25_000, 10)
    env.backend.append([Message(topic, None, b"x", at) for at, count in enumerate(counts) for _ in range(count)])
    consumer = env.consumer(env.name("group"), topic, "a")
    settle([consumer], [3])
    start_reading(consumer, consumer.assignment())
    found: dict[TopicPartition, list[int]] = {}
    for _ in attempts("what was fetched"):
        polled = consumer.poll(0.2)
        for partition, records in polled.records.items():
            found.setdefault(partition, []).extend(record.offset for record in records)
            consumer.pause([partition])
        if not polled:
            consumer.resume(consumer.assignment())
        if sum(map(len, found.values())) == sum(counts):
            break
    assert {partition.partition: offsets for partition, offsets in found.items()} == {
        at: list(range(count)) for at, count in enumerate(counts)
    }


def test_bounds_and_end_seen(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    consumer = reading(env, topic)
    assert consumer.bounds([partition]) == {partition: (0, 0)}
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    assert consumer.bounds([partition]) == {partition: (0, 10)}
    take(consumer, 10)
    assert consumer.end_seen(partition) == 10
    assert consumer.end_seen(TopicPartition(topic, 5)) is None
    env.backend.truncate(partition, 4)
    assert consumer.bounds([partition]) == {partition: (4, 10)}


def test_positions_reach_the_end_past_transaction_markers(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    producer = env.producer()
    for _ in range(3):
        producer.commit([Message(topic, b"k", b"v")], {}, None)
    reader = env.reader([partition])
    assert [record.offset for record in read_to_end(reader)] == [0, 2, 4]
    assert reader.end_offsets() == {partition: 6}
    assert reader.position(partition) == 6
    consumer = reading(env, topic)
    poll_until([consumer], lambda: consumer.position(partition) == 6, "the position to pass the last marker")
    assert consumer.bounds([partition]) == {partition: (0, 6)}
    producer.commit([Message(topic, b"k", b"v")], {}, None)
    assert [record.offset for record in take(consumer, 1)] == [6]


def test_a_reader_seeks(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    reader = env.reader([partition])
    assert reader.position(partition) == 0
    assert len(read_to_end(reader)) == 10
    reader.seek(partition, 7)
    assert [record.offset for record in read_to_end(reader)] == [7, 8, 9]


def test_a_reader_starts_where_the_log_does(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    env.backend.truncate(partition, 7)
    assert [record.offset for record in read_to_end(env.reader([partition]))] == [7, 8, 9]


def test_a_reader_out_of_range_says_so(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    env.backend.truncate(partition, 7)
    reader = env.reader([partition])
    reader.seek(partition, 2)

    def poll_in_vain() -> None:
        for _ in attempts("the reader to notice"):
            reader.poll(0.1)

    with pytest.raises(BrokerError, match=topic):
        poll_in_vain()


@pytest.mark.parametrize(("position", "kept_from"), [(3, 7), (25, 0)], ids=["below the log", "beyond its end"])
def test_a_position_out_of_range_is_told_once_and_waits_for_a_seek(
    env: Environment, position: int, kept_from: int
) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    if kept_from:
        env.backend.truncate(partition, kept_from)
    consumer = reading(env, topic, offset=position)
    await_out_of_range(consumer, partition)
    assert consumer.poll(0.3) == Polled()
    assert consumer.position(partition) == position
    first, end = consumer.bounds([partition])[partition]
    assert (first, end) == (kept_from, 10)
    consumer.seek(partition, first)
    consumer.resume([partition])
    assert [record.offset for record in take(consumer, end - first)] == list(range(first, end))


def await_out_of_range(consumer: Consumer, partition: TopicPartition) -> None:
    for _ in attempts("the position to be found out of range"):
        polled = consumer.poll(0.1)
        assert not polled.records
        if polled:
            break
    assert polled == Polled(out_of_range=frozenset({partition}))


def test_retention_that_overtakes_a_reader_is_told(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    consumer = reading(env, topic)
    take(consumer, 10)
    consumer.pause([partition])
    env.backend.append([Message(topic, None, b"x") for _ in range(10)])
    env.backend.truncate(partition, 15)
    consumer.resume([partition])
    await_out_of_range(consumer, partition)
    assert consumer.position(partition) == 10
