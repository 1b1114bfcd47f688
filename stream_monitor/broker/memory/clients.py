"""What a worker holds of the memory broker: consumers, readers and producers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from stream_monitor.broker.memory.group import Group, MemoryMember, Seat
from stream_monitor.broker.outgoing import check_commit
from stream_monitor.broker.protocol import (
    COMMIT_STEPS,
    NO_NOTES,
    Member,
    Message,
    Polled,
    Probe,
    Record,
    TopicPartition,
)
from stream_monitor.errors import BrokerError, Fenced

if TYPE_CHECKING:
    from stream_monitor.broker.memory.broker import MemoryBroker


class MemoryConsumer:
    """A group member; see `protocol.Consumer`. Joins with its first poll."""

    def __init__(self, broker: MemoryBroker, group: Group, topics: Sequence[str], instance: str) -> None:
        self._broker = broker
        self._group = group
        self._topics = frozenset(topics)
        self._instance = instance
        self._seat: Seat | None = None
        self._positions: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        self._closed = False

    def poll(self, timeout_s: float) -> Polled:
        deadline_s = time.monotonic() + timeout_s
        with self._broker.changed:
            while True:
                polled = self._poll()
                left_s = deadline_s - time.monotonic()
                if polled or left_s <= 0:
                    return polled
                self._broker.changed.wait(left_s)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._positions)

    def member(self) -> MemoryMember | None:
        with self._broker.changed:
            seat = self._seat
            if seat is None or not self._group.is_stable(seat):
                return None
            return MemoryMember(self._group.name, seat.generation, seat)

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        return self._broker.group_offsets(self._group.name, partitions)

    def position(self, partition: TopicPartition) -> int:
        self._require([partition])
        position = self._positions[partition]
        if position is None:
            raise ValueError(f"{partition} has no position yet: seek first")
        return position

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._require([partition])
        if offset < 0:
            raise ValueError(f"{partition}: cannot seek to offset {offset}")
        self._positions[partition] = offset

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._require(partitions)
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._require(partitions)
        for partition in partitions:
            if self._positions[partition] is None:
                raise ValueError(f"{partition} has no position yet: seek before resume")
        self._paused.difference_update(partitions)

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return self._broker.bounds(partitions)

    def end_seen(self, partition: TopicPartition) -> int | None:
        return self._ends.get(partition)

    def rejoin(self) -> None:
        with self._broker.changed:
            if self._seat is not None:
                self._group.rejoin(self._seat)

    def close(self) -> None:
        with self._broker.changed:
            if self._seat is not None:
                self._group.leave(self._seat)
            self._closed = True
            self._positions.clear()
            self._broker.changed.notify_all()

    def _require(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            if partition not in self._positions:
                raise ValueError(f"{partition} is not assigned to {self._instance}")

    def _poll(self) -> Polled:
        if self._closed:
            raise BrokerError(f"the consumer {self._instance} is closed")
        lost = self._take_seat()
        assert self._seat is not None
        change = self._group.step(self._seat, self._broker.partitions(self._topics_of_group()))
        if change is not None:
            self._drop(change.revoked)
            self._positions.update(dict.fromkeys(change.assigned))
            self._paused |= change.assigned
            self._broker.changed.notify_all()
        records, out_of_range = ({}, frozenset[TopicPartition]()) if self._seat.joined else self._fetch()
        return Polled(
            records=records,
            revoked=change.revoked if change else frozenset(),
            lost=lost,
            assigned=change.assigned if change else frozenset(),
            out_of_range=out_of_range,
        )

    def _take_seat(self) -> frozenset[TopicPartition]:
        """Make sure of a seat in the group; what was lost with the old one is returned."""
        if self._seat is not None and self._group.has(self._seat):
            return frozenset()
        if self._seat is not None and self._group.is_fenced(self._seat):
            raise Fenced(
                f"group {self._group.name}: another consumer named {self._instance} has joined; "
                "exit, and give each worker its own instance name"
            )
        lost = self._seat.held if self._seat is not None else frozenset()
        self._drop(lost)
        self._seat = self._group.enter(self._instance, self._topics)
        self._broker.changed.notify_all()
        return lost

    def _topics_of_group(self) -> frozenset[str]:
        return frozenset().union(*(seat.topics for seat in self._group.seats.values()))

    def _drop(self, partitions: frozenset[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._ends.pop(partition, None)
        self._paused -= partitions

    def _fetch(self) -> tuple[dict[TopicPartition, list[Record]], frozenset[TopicPartition]]:
        records: dict[TopicPartition, list[Record]] = {}
        strays: set[TopicPartition] = set()
        room = self._broker.max_poll_records
        for partition in [each for each in self._positions if each not in self._paused]:
            position = self._positions[partition]
            assert position is not None, "only a partition with a position can be resumed"
            log = self._broker.log(partition)
            if not log.holds(position):
                strays.add(partition)
                self._paused.add(partition)
            elif room > 0:
                found, self._positions[partition] = log.read(position, room)
                self._ends[partition] = log.end_offset
                room -= len(found)
                if found:
                    records[partition] = found
                    # To the back of the queue, so that a long backlog starves nobody.
                    self._positions[partition] = self._positions.pop(partition)
        return records, frozenset(strays)


class MemoryReader:
    """A reader of named partitions without a group; see `protocol.Reader`."""

    def __init__(self, broker: MemoryBroker, partitions: Collection[TopicPartition]) -> None:
        self._broker = broker
        self._positions = {partition: broker.log(partition).start_offset for partition in partitions}

    def poll(self, timeout_s: float) -> list[Record]:
        deadline_s = time.monotonic() + timeout_s
        with self._broker.changed:
            while True:
                records = self._fetch()
                left_s = deadline_s - time.monotonic()
                if records or left_s <= 0:
                    return records
                self._broker.changed.wait(left_s)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._positions:
            raise ValueError(f"{partition} is not read by this reader")
        self._positions[partition] = offset

    def end_offsets(self) -> dict[TopicPartition, int]:
        return {partition: end for partition, (_, end) in self._broker.bounds(self._positions).items()}

    def close(self) -> None:
        """Nothing is held."""

    def _fetch(self) -> list[Record]:
        records: list[Record] = []
        for partition, position in self._positions.items():
            log = self._broker.log(partition)
            if not log.holds(position):
                raise BrokerError(
                    f"{partition}: offset {position} is out of range, the log holds {log.start_offset} to "
                    f"{log.end_offset}; open a new reader"
                )
            room = self._broker.max_poll_records - len(records)
            if room > 0:
                found, self._positions[partition] = log.read(position, room)
                records += found
        return records


class MemoryProducer:
    """A transactional producer; see `protocol.Producer`. Nothing is visible at the step "commit", all is at "done"."""

    def __init__(self, broker: MemoryBroker, transactional_id: str, probe: Probe | None) -> None:
        self._broker = broker
        self._id = transactional_id
        self._probe = probe
        self._epoch = broker.open_epoch(transactional_id)

    def commit(
        self,
        messages: Sequence[Message],
        offsets: Mapping[TopicPartition, int],
        member: Member | None,
        notes: Mapping[TopicPartition, str] = NO_NOTES,
    ) -> None:
        check_commit(messages, offsets, member, self._broker.max_message_bytes)
        if member is not None and not isinstance(member, MemoryMember):
            raise ValueError(f"{member} is not a member of a memory broker's group")
        *before, done = COMMIT_STEPS
        for step in before:
            self._tell(step)
        self._broker.apply(self._id, self._epoch, messages, offsets, member, notes)
        self._tell(done)

    def close(self) -> None:
        """Nothing is held: an epoch is only ended by a namesake."""

    def _tell(self, step: str) -> None:
        if self._probe is not None:
            self._probe(step)
