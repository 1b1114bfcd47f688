"""A commit is all or nothing, seen only when it is done, and refused to whoever has been replaced."""

from __future__ import annotations

import pytest

from stream_monitor.broker.protocol import COMMIT_STEPS, Consumer, Message, TopicPartition
from stream_monitor.errors import BrokerError, Fenced, TopicMismatch, TransactionAborted
from tests.contract.environment import Environment, settle, start_reading, take


class Crash(Exception):
    """What a probe raises to leave a commit as a crash would."""


def crash_at(wanted: str) -> object:
    def probe(step: str) -> None:
        if step == wanted:
            raise Crash(step)

    return probe


def member_with_input(env: Environment, topic: str, group: str, partitions: int = 1) -> Consumer:
    """A stable member who holds all partitions of a topic, and reads them."""
    consumer = env.consumer(group, topic, "worker")
    settle([consumer], [partitions])
    start_reading(consumer, consumer.assignment())
    return consumer


def test_messages_and_offsets_appear_together(env: Environment) -> None:
    source, sink, group = env.topic(), env.topic(partitions=2), env.name("group")
    env.backend.append([Message(source, None, b"in") for _ in range(5)])
    consumer = member_with_input(env, source, group)
    assert len(take(consumer, 5)) == 5
    partition = TopicPartition(source, 0)
    seen: list[str] = []

    def look(step: str) -> None:
        seen.append(step)
        if step == "commit":
            assert env.broker.group_offsets(group, [partition]) == {partition: None}
            reader = env.reader([TopicPartition(sink, 0), TopicPartition(sink, 1)])
            assert reader.poll(0.3) == []

    producer = env.producer(probe=look)
    messages = [Message(sink, None, b"out-%d" % at, partition=at) for at in range(2)]
    producer.commit(messages, {partition: consumer.position(partition)}, consumer.member())
    assert tuple(seen) == COMMIT_STEPS
    assert [record.value for record in env.read_all(sink)] == [b"out-0", b"out-1"]
    assert env.broker.group_offsets(group, [partition]) == {partition: 5}
    assert consumer.committed([partition]) == {partition: 5}


def test_a_commit_of_offsets_alone_and_one_of_nothing(env: Environment) -> None:
    source, group = env.topic(), env.name("group")
    consumer = member_with_input(env, source, group)
    partition = TopicPartition(source, 0)
    producer = env.producer()
    producer.commit([], {partition: 0}, consumer.member())
    producer.commit([], {}, None)
    assert consumer.committed([partition]) == {partition: 0}


def test_notes_beside_offsets_are_what_was_committed_last(env: Environment) -> None:
    source, group = env.topic(partitions=2), env.name("group")
    consumer = env.consumer(group, source, "one")
    settle([consumer], [2])
    first, second = partitions = [TopicPartition(source, at) for at in range(2)]
    producer = env.producer()

    def notes() -> dict[TopicPartition, str]:
        consumer.committed(partitions)  # waits until the transaction can be seen
        return env.broker.group_notes(group, partitions)

    assert notes() == {first: "", second: ""}
    assert env.broker.group_notes(group, []) == {}
    producer.commit([], {first: 0, second: 0}, consumer.member(), {first: "up to 7"})
    assert notes() == {first: "up to 7", second: ""}
    producer.commit([], {second: 0}, consumer.member(), {second: "up to 9"})
    assert notes() == {first: "up to 7", second: "up to 9"}
    producer.commit([], {first: 0}, consumer.member())
    assert notes() == {first: "", second: "up to 9"}


def test_offsets_and_member_go_together(env: Environment) -> None:
    topic = env.topic()
    consumer = member_with_input(env, topic, env.name("group"))
    producer = env.producer()
    with pytest.raises(ValueError, match="together"):
        producer.commit([Message(topic, b"k", b"v")], {TopicPartition(topic, 0): 0}, None)
    with pytest.raises(ValueError, match="together"):
        producer.commit([Message(topic, b"k", b"v")], {}, consumer.member())
    with pytest.raises(ValueError, match="neither key nor value"):
        producer.commit([Message(topic, None, None)], {}, None)


def test_what_cannot_be_written_is_refused_before_anything_is(env: Environment) -> None:
    topic, nowhere = env.topic(), env.name("nowhere")
    producer = env.producer()
    good = Message(topic, b"k", b"v")
    with pytest.raises(TopicMismatch, match=nowhere):
        producer.commit([good, Message(nowhere, b"k", b"v")], {}, None)
    with pytest.raises(TopicMismatch, match=r"no partition 7"):
        producer.commit([good, Message(topic, b"k", b"v", partition=7)], {}, None)
    with pytest.raises(BrokerError, match="split it"):
        producer.commit([good, Message(topic, b"k", bytes(1_048_577))], {}, None)
    assert env.read_all(topic) == []
    producer.commit([good], {}, None)
    assert len(env.read_all(topic)) == 1


def test_a_stale_member_is_refused_and_its_offsets_never_surface(env: Environment) -> None:
    source, sink, group = env.topic(partitions=2), env.topic(), env.name("group")
    first, second = (TopicPartition(source, at) for at in range(2))
    old = env.consumer(group, source, "old")
    settle([old], [2])
    stale = old.member()
    new = env.consumer(group, source, "new")
    settle([old, new], [1, 1])
    producer = env.producer()
    with pytest.raises(TransactionAborted):
        producer.commit([Message(sink, None, b"stale")], {first: 7, second: 7}, stale)
    assert env.read_all(sink) == []
    assert env.broker.group_offsets(group, [first, second]) == {first: None, second: None}

    # The producer goes on; what it had been told of the partition it no longer reads is forgotten.
    (mine,) = old.assignment()
    producer.commit([Message(sink, None, b"fresh")], {mine: 3}, old.member())
    assert [record.value for record in env.read_all(sink)] == [b"fresh"]
    offsets = env.broker.group_offsets(group, [first, second])
    assert offsets == {mine: 3, (second if mine == first else first): None}


def test_a_namesake_fences_the_older_producer(env: Environment) -> None:
    topic, name = env.topic(), env.name("producer")
    older = env.producer(name)
    older.commit([Message(topic, None, b"1")], {}, None)
    newer = env.producer(name)
    for _ in range(2):
        with pytest.raises(Fenced):
            older.commit([Message(topic, None, b"2")], {}, None)
    newer.commit([Message(topic, None, b"3")], {}, None)
    assert [record.value for record in env.read_all(topic)] == [b"1", b"3"]


@pytest.mark.parametrize("step", ["send", "flush", "check", "offsets", "commit"])
def test_a_namesake_who_arrives_in_the_middle_wins(env: Environment, step: str) -> None:
    source, sink, name = env.topic(), env.topic(), env.name("producer")
    consumer = member_with_input(env, source, env.name("group"))
    partition = TopicPartition(source, 0)

    def arrive(at: str) -> None:
        if at == step:
            env.producer(name)

    older = env.producer(name, probe=arrive)
    with pytest.raises(Fenced):
        older.commit([Message(sink, None, b"lost")], {partition: 1}, consumer.member())
    assert env.read_all(sink) == []
    assert consumer.committed([partition]) == {partition: None}


@pytest.mark.parametrize("step", COMMIT_STEPS)
def test_a_crash_leaves_all_or_nothing(env: Environment, step: str) -> None:
    topic, name = env.topic(partitions=2), env.name("producer")
    messages = [Message(topic, None, b"%d" % at, partition=at) for at in range(2)]
    doomed = env.producer(name, probe=crash_at(step))  # type: ignore[arg-type]
    with pytest.raises(Crash):
        doomed.commit(messages, {}, None)
    successor = env.producer(name)
    expected = messages if step == "done" else []
    assert [record.value for record in env.read_all(topic)] == [message.value for message in expected]
    successor.commit(messages, {}, None)
    assert len(env.read_all(topic)) == len(expected) + 2
