"""Topics and other groups, as seen from outside."""

from __future__ import annotations

import pytest

from stream_monitor.broker.protocol import TopicPartition, TopicSpec
from stream_monitor.errors import BrokerError
from tests.contract.environment import Environment, settle


def test_topics_are_created_once_and_described(env: Environment) -> None:
    name, missing = env.name("topic"), env.name("missing")
    spec = TopicSpec(name, 3, {"cleanup.policy": "compact", "segment.bytes": "67108864"})
    env.broker.create_topics([spec])
    env.broker.create_topics([spec, TopicSpec(name, 5)])
    env.broker.create_topics([])
    known = env.broker.topics([name, missing])
    assert known.keys() == {name}
    assert (known[name].name, known[name].partitions) == (name, 3)
    assert known[name].settings["cleanup.policy"] == "compact"
    assert known[name].settings["segment.bytes"] == "67108864"
    assert env.broker.topics([missing]) == {}
    assert env.broker.topics([]) == {}


def test_a_topic_that_cannot_be_says_which(env: Environment) -> None:
    name = env.name("topic")
    with pytest.raises(BrokerError, match=name):
        env.broker.create_topics([TopicSpec(name, 0)])


def test_offsets_of_an_unknown_group_are_none(env: Environment) -> None:
    partition = TopicPartition(env.topic(), 0)
    assert env.broker.group_offsets(env.name("nobody"), [partition]) == {partition: None}
    assert env.broker.group_offsets(env.name("nobody"), []) == {}


def test_a_topic_that_is_created_late_is_assigned(env: Environment) -> None:
    name = env.name("late")
    consumer = env.consumer(env.name("group"), name, "a")
    consumer.poll(0.2)
    assert consumer.assignment() == frozenset()
    env.broker.create_topics([TopicSpec(name, 2)])
    settle([consumer], [2])
