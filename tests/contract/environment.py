"""The two brokers the contract is tested on, with what a test needs besides the protocol."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

from confluent_kafka import Producer as ForeignProducer
from confluent_kafka import TopicPartition as ForeignPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import (
    Broker,
    Consumer,
    Message,
    Polled,
    Probe,
    Producer,
    Reader,
    Record,
    TopicPartition,
    TopicSpec,
)

PATIENCE_S = 20.0
"""How long anything awaited may take before a test fails."""

Closable = TypeVar("Closable", Consumer, Producer, Reader)


class Backend(Protocol):
    """A broker, and what only its operator can do."""

    broker: Broker

    def append(self, messages: Sequence[Message]) -> None:
        """Write as a foreign producer does, without a transaction."""

    def truncate(self, partition: TopicPartition, before_offset: int) -> None:
        """Drop what lies below an offset."""

    def expel(self, group: str, instance: str) -> None:
        """Remove a member that does not leave by itself."""

    def add_partitions(self, topic: str, total: int) -> None:
        """Grow a topic."""

    def close(self) -> None: ...


class MemoryBackend:
    def __init__(self) -> None:
        self.broker: Broker
        self.memory = self.broker = MemoryBroker(clock_ms=itertools.count(1_700_000_000_000).__next__)

    def append(self, messages: Sequence[Message]) -> None:
        self.memory.append(messages)

    def truncate(self, partition: TopicPartition, before_offset: int) -> None:
        self.memory.truncate(partition, before_offset)

    def expel(self, group: str, instance: str) -> None:
        self.memory.expel(group, instance)

    def add_partitions(self, topic: str, total: int) -> None:
        self.memory.add_partitions(topic, total)

    def close(self) -> None:
        self.memory.close()


class KafkaBackend:
    """Writes as a foreign producer with another client than the one under test."""

    def __init__(self, node: KafkaNode) -> None:
        self.broker: Broker = KafkaBroker(contract_settings(node.address))
        self._address = node.address
        self._producer = ForeignProducer({"bootstrap.servers": node.address, "partitioner": "murmur2_random"})

    def append(self, messages: Sequence[Message]) -> None:
        failures: list[object] = []
        for message in messages:
            self._producer.produce(
                message.topic,
                key=message.key,
                value=message.value,
                headers=list(message.headers),
                partition=-1 if message.partition is None else message.partition,
                timestamp=message.timestamp_ms or 0,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        assert self._producer.flush(PATIENCE_S) == 0
        assert not failures

    def truncate(self, partition: TopicPartition, before_offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": self._address})
        for future in admin.delete_records([ForeignPartition(*partition, before_offset)]).values():
            future.result(PATIENCE_S)

    def expel(self, group: str, instance: str) -> None:
        with KafkaAdminClient(bootstrap_servers=self._address) as admin:
            admin.remove_group_members(group, [MemberToRemove(group_instance_id=instance)])

    def add_partitions(self, topic: str, total: int) -> None:
        admin = AdminClient({"bootstrap.servers": self._address})
        for future in admin.create_partitions([NewPartitions(topic, total)]).values():
            future.result(PATIENCE_S)

    def close(self) -> None:
        self.broker.close()


def contract_settings(address: str) -> KafkaSettings:
    """The defaults, except for the times that a test would have to wait for."""
    return KafkaSettings(
        (address,),
        session_timeout_ms=3_000,
        heartbeat_interval_ms=300,
        fetch_min_bytes=1,
        metadata_max_age_ms=1_000,
        connect_timeout_ms=5_000,
    )


class Environment:
    """One test's view of a backend: names nobody else uses, and clients that are closed at its end."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.broker = backend.broker
        self._closing = ExitStack()

    def name(self, prefix: str) -> str:
        """A topic, group or producer name of this test's own."""
        return f"{prefix}-{uuid.uuid4().hex[:8]}"

    def topic(self, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """The name of a new topic."""
        name = self.name("topic")
        self.broker.create_topics([TopicSpec(name, partitions, settings or {})])
        return name

    def consumer(self, group: str, topic: str, instance: str) -> Consumer:
        return self._closed_at_end(self.broker.consumer(group, [topic], instance=instance))

    def producer(self, transactional_id: str | None = None, probe: Probe | None = None) -> Producer:
        return self._closed_at_end(self.broker.producer(transactional_id or self.name("producer"), probe=probe))

    def reader(self, partitions: Collection[TopicPartition]) -> Reader:
        return self._closed_at_end(self.broker.reader(partitions))

    def read_all(self, *topics: str) -> list[Record]:
        """All that a read-committed reader can see of topics, by partition and offset."""
        known = self.broker.topics(topics)
        reader = self.broker.reader(
            [TopicPartition(name, at) for name in topics for at in range(known[name].partitions)]
        )
        try:
            return read_to_end(reader)
        finally:
            reader.close()

    def close(self) -> None:
        self._closing.close()

    def _closed_at_end(self, client: Closable) -> Closable:
        self._closing.callback(client.close)
        return client


def read_to_end(reader: Reader) -> list[Record]:
    """Read until the positions have reached the ends of now."""
    ends = reader.end_offsets()
    records: list[Record] = []
    for _ in attempts("the reader to reach its ends"):
        if all(reader.position(partition) >= end for partition, end in ends.items()):
            break
        records += reader.poll(0.1)
    return sorted(records, key=lambda record: (record.topic, record.partition, record.offset))


def attempts(what: str) -> Iterable[None]:
    """Turns of a loop that polls (and so waits) until it breaks; fails when patience is at its end."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        yield
    raise AssertionError(f"waited {PATIENCE_S} s in vain for {what}")


def poll_until(consumers: Sequence[Consumer], done: Callable[[], bool], what: str) -> list[tuple[int, Polled]]:
    """Poll consumers in turn until something is true; returns who was told what, in order."""
    told: list[tuple[int, Polled]] = []
    for _ in attempts(what):
        for at, consumer in enumerate(consumers):
            if polled := consumer.poll(0.05):
                told.append((at, polled))
        if done():
            break
    return told


def settle(consumers: Sequence[Consumer], sizes: Sequence[int]) -> list[tuple[int, Polled]]:
    """Poll until the consumers are stable and hold so many partitions each."""
    return poll_until(
        consumers,
        lambda: (
            [len(consumer.assignment()) for consumer in consumers] == list(sizes)
            and all(consumer.member() for consumer in consumers)
        ),
        f"shares of {sizes}",
    )


def start_reading(consumer: Consumer, partitions: Iterable[TopicPartition], default_offset: int = 0) -> None:
    """Seek to the committed offsets, or a default, and resume."""
    for partition, offset in consumer.committed(list(partitions)).items():
        consumer.seek(partition, default_offset if offset is None else offset)
        consumer.resume([partition])


def take(consumer: Consumer, count: int) -> list[Record]:
    """Poll until so many records have come."""
    records: list[Record] = []
    for _ in attempts(f"{count} records"):
        for batch in consumer.poll(0.1).records.values():
            records += batch
        if len(records) >= count:
            break
    return records
