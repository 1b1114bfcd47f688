"""The memory broker: topics, groups and epochs behind one lock."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from stream_monitor.broker.memory.clients import MemoryConsumer, MemoryProducer, MemoryReader
from stream_monitor.broker.memory.group import Group, MemoryMember
from stream_monitor.broker.memory.log import PartitionLog
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message, Probe, Record, TopicInfo, TopicPartition, TopicSpec
from stream_monitor.errors import BrokerError, Fenced, TopicMismatch


@dataclass(slots=True)
class _Topic:
    settings: dict[str, str]
    logs: list[PartitionLog]
    # Kafka draws a partition for a record without a key; in turn is as even, and the same every time.
    turn: count[int] = field(default_factory=count)


class MemoryBroker:
    """A broker in this process: deterministic, transactional, gone with it. See `protocol.Broker`.

    `clock_ms` dates records that carry no timestamp, in epoch milliseconds. A poll returns at most `max_poll_records`;
    a producer refuses a message of more than `max_message_bytes`. Threads may share it. Nothing happens behind a
    caller's back: compaction, retention and the loss of a member are asked for (`compact`, `truncate`, `expel`).

    >>> broker = MemoryBroker(clock_ms=lambda: 0)
    >>> broker.create_topics([TopicSpec("predictions", partitions=1)])
    >>> broker.append([Message("predictions", b"k", b"v")])
    >>> [record.value for record in broker.records("predictions")]
    [b'v']
    """

    def __init__(
        self, clock_ms: Callable[[], int], *, max_poll_records: int = 10_000, max_message_bytes: int = 1_048_576
    ) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.max_poll_records = max_poll_records
        self._clock_ms = clock_ms
        self.max_message_bytes = max_message_bytes
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, Group] = {}
        self._epochs: dict[str, int] = {}

    # ---- the protocol ----

    def consumer(self, group: str, topics: Sequence[str], *, instance: str) -> MemoryConsumer:
        with self.changed:
            return MemoryConsumer(self, self._group(group), topics, instance)

    def reader(self, partitions: Collection[TopicPartition]) -> MemoryReader:
        with self.changed:
            return MemoryReader(self, partitions)

    def producer(self, transactional_id: str, *, probe: Probe | None = None) -> MemoryProducer:
        return MemoryProducer(self, transactional_id, probe)

    def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        with self.changed:
            return {
                name: TopicInfo(name, len(topic.logs), dict(topic.settings))
                for name in names
                if (topic := self._topics.get(name)) is not None
            }

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        with self.changed:
            for spec in specs:
                if spec.partitions < 1:
                    raise BrokerError(f"topic {spec.name}: {spec.partitions} partitions are too few, ask for 1 or more")
                if spec.name not in self._topics:
                    self._topics[spec.name] = _Topic(dict(spec.settings), [])
                    self._grow(spec.name, spec.partitions)

    def group_offsets(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        with self.changed:
            offsets = self._group(group).offsets
            return {partition: offsets.get(partition) for partition in partitions}

    def group_notes(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, str]:
        with self.changed:
            notes = self._group(group).notes
            return {partition: notes.get(partition, "") for partition in partitions}

    def given(self, group: str) -> frozenset[TopicPartition] | None:
        with self.changed:
            found = self._group(group)
            return None if found.rebalancing else frozenset().union(*found.assigned.values())

    def close(self) -> None:
        """Nothing is held; topics stay for whoever still has a client."""

    # ---- what a broker does by itself, on request ----

    def append(self, messages: Iterable[Message]) -> None:
        """Write without a transaction, as a foreign producer does: input for demos, replays and tests."""
        with self.changed:
            for partition, batch in self._route(messages).items():
                self.log(partition).append(batch, self._clock_ms())
            self.changed.notify_all()

    def records(self, topic: str) -> list[Record]:
        """All records a topic holds, partition by partition."""
        with self.changed:
            return [record for log in self._topic(topic).logs for record in log.read(0, log.end_offset + 1)[0]]

    def compact(self, topic: str) -> None:
        """Keep the last record of every key; offsets keep their gaps."""
        with self.changed:
            for log in self._topic(topic).logs:
                log.compact()

    def truncate(self, partition: TopicPartition, before_offset: int) -> None:
        """Forget what lies below an offset, as retention does."""
        with self.changed:
            self.log(partition).truncate(before_offset)
            self.changed.notify_all()

    def add_partitions(self, topic: str, total: int) -> None:
        """Grow a topic to `total` partitions; its groups rebalance."""
        with self.changed:
            self._topic(topic)
            self._grow(topic, total)

    def delete_topic(self, name: str) -> None:
        """A topic goes, and with it the offsets that groups have in it, as in Kafka."""
        with self.changed:
            self._topic(name)
            del self._topics[name]
            for group in self._groups.values():
                for partition in [each for each in group.offsets if each.topic == name]:
                    del group.offsets[partition]
                    group.notes.pop(partition, None)
            self.changed.notify_all()

    def expel(self, group: str, instance: str) -> None:
        """Remove a member as when its session expires: it was killed, or hangs; if it polls again, it has lost all."""
        with self.changed:
            seat = self._group(group).seats.get(instance)
            if seat is None:
                raise ValueError(f"group {group} has no member {instance}")
            self._group(group).leave(seat)
            self.changed.notify_all()

    # ---- for the clients of this package, which hold the lock ----

    def log(self, partition: TopicPartition) -> PartitionLog:
        """The log of a partition; raises TopicMismatch when there is none."""
        logs = self._topic(partition.topic).logs
        if not 0 <= partition.partition < len(logs):
            raise TopicMismatch(
                f"topic {partition.topic} has {len(logs)} partitions, there is no partition {partition.partition}"
            )
        return logs[partition.partition]

    def partitions(self, topics: Collection[str]) -> list[TopicPartition]:
        """All partitions of those of the topics that exist."""
        known = (name for name in topics if name in self._topics)
        return [TopicPartition(name, at) for name in known for at in range(len(self._topics[name].logs))]

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """First offset kept and next offset to be written."""
        with self.changed:
            logs = {partition: self.log(partition) for partition in partitions}
            return {partition: (log.start_offset, log.end_offset) for partition, log in logs.items()}

    def open_epoch(self, transactional_id: str) -> int:
        """A new epoch of a producer's name; older ones are fenced from now on."""
        with self.changed:
            self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
            return self._epochs[transactional_id]

    def apply(
        self,
        transactional_id: str,
        epoch: int,
        messages: Sequence[Message],
        offsets: Mapping[TopicPartition, int],
        member: MemoryMember | None,
        notes: Mapping[TopicPartition, str],
    ) -> None:
        """One transaction, all or nothing; raises what `protocol.Producer.commit` says, before anything is changed."""
        with self.changed:
            if self._epochs[transactional_id] != epoch:
                raise Fenced(
                    f"another producer named {transactional_id} took over; "
                    "exit, and give each worker its own instance name"
                )
            routed = self._route(messages)
            if member is not None:
                self._group(member.group).check(member)
                self._group(member.group).offsets.update(offsets)
                self._group(member.group).notes.update({each: notes.get(each, "") for each in offsets})
            for partition, batch in routed.items():
                self.log(partition).append(batch, self._clock_ms())
                self.log(partition).mark()
            self.changed.notify_all()

    # ---- inside ----

    def _group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group(name))

    def _topic(self, name: str) -> _Topic:
        if name not in self._topics:
            raise TopicMismatch(f"topic {name} does not exist; create it first")
        return self._topics[name]

    def _grow(self, name: str, total: int) -> None:
        logs = self._topics[name].logs
        logs += [PartitionLog(name, partition) for partition in range(len(logs), total)]
        for group in self._groups.values():
            if any(name in seat.topics for seat in group.seats.values()):
                group.rebalancing = True
        self.changed.notify_all()

    def _route(self, messages: Iterable[Message]) -> dict[TopicPartition, list[Message]]:
        """Messages by partition, in order; raises for the first that cannot be written."""
        routed: dict[TopicPartition, list[Message]] = defaultdict(list)
        for message in messages:
            routed[self._place(message)].append(message)
        return routed

    def _place(self, message: Message) -> TopicPartition:
        topic = self._topic(message.topic)
        if message.partition is not None:
            partition = TopicPartition(message.topic, message.partition)
            self.log(partition)
            return partition
        if message.key is not None:
            return TopicPartition(message.topic, partition_of(message.key, len(topic.logs)))
        return TopicPartition(message.topic, next(topic.turn) % len(topic.logs))
