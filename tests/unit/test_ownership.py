"""Partitions that nobody reads are noticed, and only those."""

from __future__ import annotations

import itertools

from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, Polled, TopicPartition, TopicSpec
from stream_monitor.ownership import LOOK_S, Ownership

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


class Half:
    """A member that holds the first partition only, as after a rebalance that was left half done."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.inner = broker.consumer("g", ["t"], instance="a")
        self.asked = 0

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset({FIRST})

    def rejoin(self) -> None:
        self.asked += 1

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


def world() -> tuple[MemoryBroker, Half, Ownership]:
    broker = MemoryBroker(clock_ms=itertools.count().__next__)
    broker.create_topics([TopicSpec("t", 2)])
    member = Half(broker)
    return broker, member, Ownership(broker, member, "g", "t")  # type: ignore[arg-type]  # only what is asked of it


def write(broker: MemoryBroker, count: int) -> None:
    broker.append([Message("t", b"k", b"v", SECOND.partition)] * count)


def test_a_partition_that_stands_still_with_records_to_read_makes_the_group_rebalance() -> None:
    broker, member, ownership = world()
    write(broker, 5)
    for look in range(3):
        assert member.asked == 0
        ownership.look(look * LOOK_S)
    assert member.asked == 1


def test_a_partition_given_to_nobody_makes_the_group_rebalance_though_there_is_nothing_to_read() -> None:
    broker, member, ownership = world()
    member.inner.poll(0.0)
    broker.given = lambda group: frozenset({FIRST})  # type: ignore[method-assign]  # the rebalance was left half done
    for look in range(3):
        assert member.asked == 0
        ownership.look(look * LOOK_S)
    assert member.asked == 1


def test_nobody_is_disturbed_while_the_group_rebalances() -> None:
    broker, member, ownership = world()
    broker.given = lambda group: None  # type: ignore[method-assign]
    for look in range(9):
        ownership.look(look * LOOK_S)
    assert member.asked == 0


def test_one_that_moves_or_has_nothing_to_read_is_left_alone() -> None:
    broker, member, ownership = world()
    other = broker.consumer("g", ["t"], instance="b")
    polled: Polled = other.poll(0.0)
    other.seek(SECOND, 0)
    producer = broker.producer("p")
    for look in range(5):
        ownership.look(look * LOOK_S)
        write(broker, 5)
        producer.commit([], {SECOND: 5 * look + 1}, other.member())
    producer.commit([], {SECOND: 25}, other.member())
    for look in range(5, 9):
        ownership.look(look * LOOK_S)
    assert polled.assigned
    assert member.asked == 0
