"""A group shares its partitions out, keeps what can stay, and shuts out whoever is gone."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from stream_monitor.broker.protocol import Consumer, Message, Polled, TopicPartition
from stream_monitor.errors import Fenced, TransactionAborted
from tests.contract.environment import Environment, attempts, poll_until, settle, start_reading, take


def test_the_only_member_is_given_everything_paused(env: Environment) -> None:
    topic = env.topic(partitions=3)
    env.backend.append([Message(topic, None, b"x", partition=at) for at in range(3)])
    consumer = env.consumer(env.name("group"), topic, "a")
    assert consumer.member() is None
    assert consumer.assignment() == frozenset()
    told = settle([consumer], [3])
    everything = frozenset(TopicPartition(topic, at) for at in range(3))
    assert [polled.assigned for _, polled in told] == [everything]
    assert consumer.poll(0.3) == Polled()
    assert consumer.committed(everything) == dict.fromkeys(everything)
    member = consumer.member()
    assert member is not None
    assert member.generation >= 1


def test_the_coordinator_tells_what_the_members_were_given(env: Environment) -> None:
    topic, group = env.topic(partitions=3), env.name("group")
    members = [env.consumer(group, topic, "a"), env.consumer(group, topic, "b")]
    settle(members, [2, 1])
    assert env.broker.given(group) == frozenset(TopicPartition(topic, at) for at in range(3))
    third = env.consumer(group, topic, "c")
    third.poll(0.0)
    settle([*members, third], [1, 1, 1])
    assert env.broker.given(group) == frozenset(TopicPartition(topic, at) for at in range(3))


def test_a_partition_is_read_only_from_where_the_caller_says(env: Environment) -> None:
    topic = env.topic()
    partition = TopicPartition(topic, 0)
    env.backend.append([Message(topic, None, b"%d" % at) for at in range(10)])
    consumer = env.consumer(env.name("group"), topic, "a")
    settle([consumer], [1])
    with pytest.raises(ValueError, match="seek"):
        consumer.resume([partition])
    with pytest.raises(ValueError, match="seek"):
        consumer.position(partition)
    with pytest.raises(ValueError, match="not assigned"):
        consumer.seek(TopicPartition(topic, 9), 0)
    consumer.seek(partition, 6)
    assert consumer.position(partition) == 6
    assert consumer.poll(0.2) == Polled()
    consumer.resume([partition])
    assert [record.offset for record in take(consumer, 4)] == [6, 7, 8, 9]


def test_a_joining_member_is_given_what_another_has_given_up(env: Environment) -> None:
    topic, group = env.topic(partitions=4), env.name("group")
    first = env.consumer(group, topic, "first")
    settle([first], [4])
    start_reading(first, first.assignment())
    second = env.consumer(group, topic, "second")
    told = settle([first, second], [2, 2])
    revoked = next(at for at, (who, polled) in enumerate(told) if who == 0 and polled.revoked)
    assigned = next(at for at, (who, polled) in enumerate(told) if who == 1 and polled.assigned)
    assert revoked < assigned
    assert told[revoked][1].revoked == told[assigned][1].assigned == second.assignment()
    assert not any(polled.assigned or polled.lost for who, polled in told if who == 0)


def test_a_kept_partition_keeps_position_and_pause(env: Environment) -> None:
    topic, group = env.topic(partitions=2), env.name("group")
    env.backend.append([Message(topic, None, b"x", partition=at % 2) for at in range(20)])
    first = env.consumer(group, topic, "first")
    settle([first], [2])
    start_reading(first, first.assignment())
    take(first, 20)
    first.pause(first.assignment())
    env.backend.append([Message(topic, None, b"y", partition=at % 2) for at in range(20)])
    second = env.consumer(group, topic, "second")
    settle([first, second], [1, 1])
    (kept,) = first.assignment()
    assert first.position(kept) == 10
    assert first.poll(0.3) == Polled()
    first.resume([kept])
    assert [record.offset for record in take(first, 10)] == list(range(10, 20))


def test_members_leave_and_the_rest_take_over(env: Environment) -> None:
    topic, group = env.topic(partitions=4), env.name("group")
    staying, leaving = env.consumer(group, topic, "staying"), env.consumer(group, topic, "leaving")
    settle([staying, leaving], [2, 2])
    given_up = leaving.assignment()
    leaving.close()
    told = settle([staying], [4])
    assert frozenset().union(*(polled.assigned for _, polled in told)) == given_up
    assert not any(polled.revoked or polled.lost for _, polled in told)


def test_partitions_that_are_added_are_shared_out(env: Environment) -> None:
    topic, group = env.topic(partitions=2), env.name("group")
    consumers = [env.consumer(group, topic, name) for name in "ab"]
    settle(consumers, [1, 1])
    before = [consumer.assignment() for consumer in consumers]
    env.backend.add_partitions(topic, 4)
    told = settle(consumers, [2, 2])
    assert all(consumer.assignment() > kept for consumer, kept in zip(consumers, before, strict=True))
    assert not any(polled.revoked or polled.lost for _, polled in told)


def test_an_expelled_member_is_told_that_it_lost_everything(env: Environment) -> None:
    topic, group = env.topic(partitions=4), env.name("group")
    staying, expelled = env.consumer(group, topic, "staying"), env.consumer(group, topic, "expelled")
    settle([staying, expelled], [2, 2])
    before, member = expelled.assignment(), expelled.member()
    env.backend.expel(group, "expelled")
    settle([staying], [4])
    with pytest.raises(TransactionAborted):
        env.producer().commit([], dict.fromkeys(before, 1), member)
    told = settle([staying, expelled], [2, 2])
    assert frozenset().union(*(polled.lost for who, polled in told if who == 1)) == before
    assert not any(polled.revoked for who, polled in told if who == 1)
    assert expelled.assignment().isdisjoint(staying.assignment())


def test_a_namesake_takes_the_seat_without_a_rebalance(env: Environment) -> None:
    topic, group = env.topic(partitions=4), env.name("group")
    other, older = env.consumer(group, topic, "other"), env.consumer(group, topic, "same")
    settle([other, older], [2, 2])
    before, member = older.assignment(), older.member()
    newer = env.consumer(group, topic, "same")
    told = settle([other, newer], [2, 2])
    assert newer.assignment() == before
    assert all(who == 1 for who, _ in told)
    with pytest.raises(Fenced):
        env.producer().commit([], dict.fromkeys(before, 1), member)

    def poll_in_vain() -> None:
        for _ in attempts("the older namesake to be fenced"):
            older.poll(0.1)

    with pytest.raises(Fenced, match="same"):
        poll_in_vain()


def test_groups_do_not_see_each_other(env: Environment) -> None:
    topic = env.topic()
    env.backend.append([Message(topic, None, b"x")])
    for _ in range(2):
        consumer = env.consumer(env.name("group"), topic, "a")
        settle([consumer], [1])
        start_reading(consumer, consumer.assignment())
        assert len(take(consumer, 1)) == 1


class Copier:
    """A worker that copies what it reads, exactly once, as the stages do."""

    def __init__(self, env: Environment, group: str, source: str, sink: str, instance: str) -> None:
        self.consumer: Consumer = env.consumer(group, source, instance)
        self._producer = env.producer(f"{group}.{instance}")
        self._sink = sink
        self._pending: dict[TopicPartition, list[bytes]] = defaultdict(list)

    def step(self) -> None:
        polled = self.consumer.poll(0.02)
        for partition in polled.revoked | polled.lost:
            self._pending.pop(partition, None)
        start_reading(self.consumer, polled.assigned)
        for partition, records in polled.records.items():
            self._pending[partition] += [record.value or b"" for record in records]
        if self._pending and (member := self.consumer.member()):
            messages = [Message(self._sink, None, value) for values in self._pending.values() for value in values]
            offsets = {partition: self.consumer.position(partition) for partition in self._pending}
            try:
                self._producer.commit(messages, offsets, member)
            except TransactionAborted:
                start_reading(self.consumer, offsets)
            self._pending.clear()


def test_joins_leaves_and_expulsions_lose_and_double_nothing(env: Environment) -> None:
    source, sink, group = env.topic(partitions=4), env.topic(partitions=2), env.name("group")
    total = 0

    def feed(count: int) -> None:
        nonlocal total
        env.backend.append([Message(source, None, b"%d" % at, partition=at % 4) for at in range(total, total + count)])
        total += count

    def work(copiers: list[Copier], until: dict[TopicPartition, int] | None = None) -> None:
        for turn, _ in enumerate(attempts("the copiers to catch up")):
            for copier in copiers:
                copier.step()
            done = turn > 10 if until is None else env.broker.group_offsets(group, list(until)) == until
            if done and all(copier.consumer.assignment() and copier.consumer.member() for copier in copiers):
                break

    copiers = [Copier(env, group, source, sink, "a")]
    feed(500)
    work(copiers)
    copiers.append(Copier(env, group, source, sink, "b"))
    feed(500)
    work(copiers)
    copiers.append(Copier(env, group, source, sink, "c"))
    feed(500)
    work(copiers)
    env.backend.expel(group, "b")
    feed(500)
    work(copiers)
    copiers.pop(0).consumer.close()
    feed(500)
    # Foreign records carry no markers, so the ends are the numbers of records.
    reader = env.reader([TopicPartition(source, at) for at in range(4)])
    work(copiers, until=reader.end_offsets())
    copied = Counter(record.value for record in env.read_all(sink))
    assert copied == Counter(b"%d" % at for at in range(total))


def test_rebalances_come_before_records(env: Environment) -> None:
    topic, group = env.topic(partitions=2), env.name("group")
    first = env.consumer(group, topic, "first")
    settle([first], [2])
    start_reading(first, first.assignment())
    second = env.consumer(group, topic, "second")
    held = {0: first.assignment(), 1: frozenset[TopicPartition]()}
    env.backend.append([Message(topic, None, b"x", partition=at % 2) for at in range(100)])
    told = poll_until([first, second], lambda: len(second.assignment()) == 1, "the second to be given one")
    for who, polled in told:
        held[who] = (held[who] - polled.revoked - polled.lost) | polled.assigned
        assert held[who] >= polled.records.keys()
