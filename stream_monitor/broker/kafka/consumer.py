"""Reading from Kafka: a group member, and a reader of named partitions."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kafka import KafkaConsumer, errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import ConsumerGroupMetadata, MemberState

from stream_monitor.broker.kafka.clients import describe, open_client, theirs, translated, translating
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.broker.kafka.unpack import Unpacker
from stream_monitor.broker.protocol import Polled, Record, TopicPartition
from stream_monitor.errors import BrokerError

log = logging.getLogger(__name__)

_NONE: frozenset[TopicPartition] = frozenset()
_SLICE_S = 0.1
"""How long a poll may wait inside kafka-python, which does not return early for a rebalance."""
_SURE_S = 0.25
"""After which a group without an offset is asked for once more: a broker that had just been killed and started was seen
to say that of one that had committed for 20 minutes, and whoever believes it reads everything again."""


def ours(partitions: Iterable[Any]) -> frozenset[TopicPartition]:
    """kafka-python's partitions as ours."""
    return frozenset(TopicPartition(*partition) for partition in partitions)


class _OutOfRange(Exception):
    """The positions of these partitions lie outside their logs."""

    def __init__(self, partitions: frozenset[TopicPartition]) -> None:
        super().__init__(partitions)
        self.partitions = partitions


class _Join:
    """A join under way that is never "done", so that the next poll awaits it whatever became of it meanwhile."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


class _Source:
    """One KafkaConsumer's poll: what it raises, sorted into passing, telling and final."""

    def __init__(self, consumer: KafkaConsumer, doing: str, settings: KafkaSettings) -> None:
        self._consumer = consumer
        consumer._fetcher.PartitionRecords = Unpacker
        self._doing = doing
        self._settings = settings
        self._failed: BrokerError | None = None

    def poll(self, timeout_s: float) -> Mapping[Any, Any]:
        """Our `Record`s by partition; raises _OutOfRange, Fenced, BrokerError, the latter two for good."""
        if self._failed is not None:
            raise self._failed
        try:
            self._keep_join()
            self._clear_line()
            batches: Mapping[Any, Any] = self._consumer.poll(timeout_ms=round(timeout_s * 1000))
            self._raise_if_fenced()
        except errors.OffsetOutOfRangeError as error:
            raise _OutOfRange(ours(error.args[0])) from error
        except errors.LogTruncationError as error:
            raise _OutOfRange(ours(error.divergent_offsets)) from error
        except errors.RetriableError as error:
            log.info("%s: %s; trying again", self._doing, describe(error))
            time.sleep(timeout_s)
            return {}
        except Exception as error:
            # A record that cannot be unpacked leaves the client's iterator dead but in place, and the next poll would
            # never return. So whatever else is raised ends this consumer.
            self._failed = translated(error, self._doing, self._settings)
            raise self._failed from error
        return batches

    def _keep_join(self) -> None:
        """Have a join that ends between two polls count.

        The client would forget its outcome and ask everybody to rebalance again, for ever if polls are short. And if
        new partitions were what it joined for, it would not even look: no heartbeats, no records, no error.
        """
        coordinator = self._consumer._coordinator
        if coordinator.rejoining:
            coordinator.request_rejoin()
        if coordinator._join_task is not None and not isinstance(coordinator._join_task, _Join):
            coordinator._join_task = _Join(coordinator._join_task)

    def _clear_line(self) -> None:
        """Have what was fetched of a partition before it was paused come when it is resumed.

        The client puts that aside, fetches no more of the partition while it has it, and looks for it only when no
        other fetch is in line. One that was read to its end stays in line, though, until something else is fetched: of
        a backlog whose partitions are all paused and resumed, never.
        """
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _raise_if_fenced(self) -> None:
        """Notice a namesake: the client only stops its heartbeats then, stays "stable", and spins without waiting."""
        coordinator = self._consumer._coordinator
        if coordinator.stable() and not coordinator.rejoin_needed and not coordinator._heartbeat_enabled:
            raise errors.FencedInstanceIdError("in answer to a heartbeat")


@dataclass(frozen=True, slots=True)
class KafkaMember:
    """Proof of membership: the group's metadata as of one moment (kafka-python's own object is live)."""

    group: str
    generation: int
    metadata: ConsumerGroupMetadata


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python is untyped
    """Queues what a rebalance did; runs on the client's I/O thread, where nothing may block.

    A new partition is paused and given a position here and now: kafka-python would otherwise look up the committed
    offset before it returns to us, fail for want of one, and fetch from it before we could say no.
    """

    def __init__(self) -> None:
        self.events: deque[tuple[str, frozenset[TopicPartition]]] = deque()
        self.consumer: KafkaConsumer = None

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        self.events.append(("revoked", ours(revoked)))

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        self.events.append(("lost", ours(lost)))

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self.consumer.pause(*assigned)
        for partition in assigned:
            self.consumer.seek(partition, 0)
        self.events.append(("assigned", ours(assigned)))


class GroupConsumer:
    """A group member; see `protocol.Consumer`."""

    def __init__(self, settings: KafkaSettings, group: str, topics: Sequence[str], instance: str) -> None:
        self._settings = settings
        self._name = f"{instance} of group {group}"
        self._listener = _Listener()
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._unplaced: set[TopicPartition] = set()
        config = settings.grouped(group, instance)
        self._consumer = self._listener.consumer = open_client(
            partial(KafkaConsumer, partition_assignment_strategy=[CooperativeStickyAssignor]), settings, config
        )
        self._source = _Source(self._consumer, f"polling for {self._name}", settings)
        self._consumer.subscribe(topics=list(topics), listener=self._listener)

    def poll(self, timeout_s: float) -> Polled:
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            polled = self._poll(min(left_s, _SLICE_S))
            if polled or left_s <= _SLICE_S:
                return polled

    def assignment(self) -> frozenset[TopicPartition]:
        return self._assigned

    def member(self) -> KafkaMember | None:
        metadata = self._consumer.group_metadata()
        # A lost membership reads as generation -1 and no member id, which brokers accept *unfenced*. And while events
        # wait to be told, the caller still believes in an assignment of before.
        stable = metadata.state == MemberState.STABLE and metadata.generation_id >= 0 and metadata.member_id
        if not stable or self._listener.events:
            return None
        return KafkaMember(metadata.group_id, metadata.generation_id, metadata)

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        # Asked for stable offsets, the broker waits for an open transaction of a former owner, which may last until
        # its timeout and the next check of the broker.
        timeout_ms = self._settings.transaction_timeout_ms + self._settings.request_timeout_ms
        found: dict[TopicPartition, int | None] = {}
        for turn in range(2):
            asked = [each for each in partitions if found.get(each) is None]
            if turn and asked:
                time.sleep(_SURE_S)
            with translating(f"asking for the offsets of {self._name}", self._settings):
                # All at once, which `KafkaConsumer.committed` cannot.
                told = self._consumer._coordinator.fetch_committed_offsets(list(map(theirs, asked)), timeout_ms)
            found |= {each: told[theirs(each)].offset if theirs(each) in told else None for each in asked}
        return found

    def position(self, partition: TopicPartition) -> int:
        self._require([partition])
        if partition in self._unplaced:
            raise ValueError(f"{partition} has no position yet: seek first")
        # Not `KafkaConsumer.position`: that validates all positions with the brokers, and may raise or block.
        return int(self._consumer._subscription.position(theirs(partition)).offset)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._require([partition])
        self._consumer.seek(theirs(partition), offset)
        self._unplaced.discard(partition)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._require(partitions)
        self._consumer.pause(*map(theirs, partitions))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._require(partitions)
        if unplaced := self._unplaced.intersection(partitions):
            raise ValueError(f"{min(unplaced)} has no position yet: seek before resume")
        self._consumer.resume(*map(theirs, partitions))

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        asked = [theirs(partition) for partition in partitions]
        with translating("asking for the bounds of partitions", self._settings):
            first, end = self._consumer.beginning_offsets(asked), self._consumer.end_offsets(asked)
        return {partition: (first[partition], end[partition]) for partition in partitions}

    def end_seen(self, partition: TopicPartition) -> int | None:
        if partition not in self._assigned:
            return None
        end: int | None = self._consumer.highwater(theirs(partition))
        return end

    def rejoin(self) -> None:
        self._consumer._coordinator.request_rejoin()

    def close(self) -> None:
        _close(self._consumer, self._name, self._settings)

    def _require(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            if partition not in self._assigned:
                raise ValueError(f"{partition} is not assigned to {self._name}")

    def _poll(self, timeout_s: float) -> Polled:
        try:
            batches = self._source.poll(timeout_s)
            strays: frozenset[TopicPartition] = frozenset()
        except _OutOfRange as error:
            batches, strays = {}, error.partitions & ours(self._consumer.assignment())
            self._consumer.pause(*map(theirs, strays))
        revoked, lost, assigned = self._rebalanced() if self._listener.events else (_NONE, _NONE, _NONE)
        return Polled(
            records={TopicPartition(*partition): records for partition, records in batches.items()},
            revoked=revoked,
            lost=lost,
            assigned=assigned,
            out_of_range=strays,
        )

    def _rebalanced(self) -> tuple[frozenset[TopicPartition], ...]:
        """Fold the queued rebalances into one; what came and went without the caller's knowing is left out."""
        gone: dict[str, set[TopicPartition]] = {"revoked": set(), "lost": set()}
        assigned: set[TopicPartition] = set()
        while self._listener.events:
            kind, partitions = self._listener.events.popleft()
            if kind == "assigned":
                assigned |= partitions
            else:
                gone[kind] |= partitions - assigned
                assigned -= partitions
            self._unplaced -= partitions
        self._unplaced |= assigned
        self._assigned = ours(self._consumer.assignment())
        return frozenset(gone["revoked"] - gone["lost"]), frozenset(gone["lost"]), frozenset(assigned)


class PartitionReader:
    """A reader of named partitions without a group; see `protocol.Reader`."""

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: Collection[TopicPartition],
        ends: Callable[[Collection[TopicPartition]], dict[TopicPartition, int]],
    ) -> None:
        self._settings = settings
        self._partitions = frozenset(partitions)
        self._ends = ends
        self._name = "a reader of " + ", ".join(sorted({partition.topic for partition in partitions}))
        self._consumer = open_client(KafkaConsumer, settings, settings.consuming())
        self._source = _Source(self._consumer, f"polling for {self._name}", settings)
        self._consumer.assign([theirs(partition) for partition in sorted(self._partitions)])
        self._consumer.seek_to_beginning()

    def poll(self, timeout_s: float) -> list[Record]:
        try:
            batches = self._source.poll(timeout_s)
        except _OutOfRange as error:
            raise BrokerError(f"{self._name}: {error.__cause__}; open a new reader") from error
        return [record for records in batches.values() for record in records]

    def position(self, partition: TopicPartition) -> int:
        with translating(f"asking for the position of {self._name}", self._settings):
            position = self._consumer.position(theirs(partition), timeout_ms=self._settings.request_timeout_ms)
            if position is None:
                raise errors.KafkaTimeoutError(f"the first offset of {partition} is not known yet")
        return int(position)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(theirs(partition), offset)

    def end_offsets(self) -> dict[TopicPartition, int]:
        return self._ends(self._partitions)

    def close(self) -> None:
        _close(self._consumer, self._name, self._settings)


def _close(consumer: KafkaConsumer, name: str, settings: KafkaSettings) -> None:
    try:
        consumer.close(autocommit=False, timeout_ms=settings.request_timeout_ms)
    except (errors.KafkaError, OSError, RuntimeError) as error:
        log.warning("closing %s: %s", name, describe(error))
