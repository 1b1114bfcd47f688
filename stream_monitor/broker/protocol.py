"""What the workers need of a message broker, and nothing more.

Two implementations exist: `kafka.KafkaBroker` (kafka-python) and `memory.MemoryBroker` (demo, replay, back-tests,
tests). One contract suite, `tests/contract`, runs on both.

A call that misuses the contract (a partition that is not assigned, `resume` before `seek`, offsets without a member)
raises ValueError; everything the broker refuses is a `BrokerError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes]]
Start = Literal["earliest", "latest"]

COMMIT_STEPS = ("begin", "send", "flush", "check", "offsets", "commit", "done")
"""The steps of a commit block, in order; a `Probe` is called with the name *before* each ("done": after the last)."""

Probe = Callable[[str], None]


class TopicPartition(NamedTuple):
    topic: str
    partition: int


NO_NOTES: Final[Mapping[TopicPartition, str]] = MappingProxyType({})


class Record(NamedTuple):
    """One record as read; `value` is None for a tombstone.

    A tuple, because records are made by the hundred thousand a second and a tuple is made entirely in C.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written. `partition` None lets the broker hash the key; `timestamp_ms` None means now."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: rebalances first (apply them before the records), then records by partition.

    `lost` partitions were taken without notice (their owner may already be another); `revoked` were given up in order.
    A partition can be in one of these *and* in `assigned`: it left and came back; drop it first, then restore it.
    Records never belong to a partition that is not assigned any more.

    `out_of_range`: the position lies outside what the log holds (retention went past it, or the log was truncated).
    Such a partition is paused and told once; `position` still answers, `bounds` says what is left; `seek` and `resume`.
    """

    records: Mapping[TopicPartition, Sequence[Record]] = field(default_factory=dict)
    revoked: frozenset[TopicPartition] = frozenset()
    lost: frozenset[TopicPartition] = frozenset()
    assigned: frozenset[TopicPartition] = frozenset()
    out_of_range: frozenset[TopicPartition] = frozenset()

    def __bool__(self) -> bool:
        """Whether anything was brought at all."""
        return bool(self.records or self.revoked or self.lost or self.assigned or self.out_of_range)


class Member(Protocol):
    """An opaque proof of group membership of one moment, as `Producer.commit` needs it to be fenced (KIP-447)."""

    @property
    def group(self) -> str: ...

    @property
    def generation(self) -> int: ...


class Consumer(Protocol):
    """A member of a consumer group, reading committed records only. Not thread-safe. Never commits by itself.

    No offset is ever reset silently: who reads from where is the caller's decision, see `Polled.out_of_range`.
    """

    def poll(self, timeout_s: float) -> Polled:
        """Wait at most `timeout_s` for records or a rebalance.

        A partition just assigned is *paused* and has no position: `seek` and `resume` it to read.
        Raises Fenced when a namesake has joined, BrokerError when the records cannot be read. An unreachable broker
        raises nothing: the poll is empty, and the group's changes arrive once it answers again.
        """

    def assignment(self) -> frozenset[TopicPartition]: ...

    def member(self) -> Member | None:
        """The present membership, or None while it is not stable (do not commit then)."""

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's offsets, None where there is none; waits for transactions under way that may change them.

        Raises BrokerUnavailable when they do not end in time (worth a retry).
        """

    def position(self, partition: TopicPartition) -> int:
        """The offset of the next record that `poll` will deliver."""

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def pause(self, partitions: Collection[TopicPartition]) -> None: ...

    def resume(self, partitions: Collection[TopicPartition]) -> None: ...

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """First offset kept, and the end as a read-committed reader can reach it (the last stable offset), asked of
        the broker now."""

    def end_seen(self, partition: TopicPartition) -> int | None:
        """The end (last stable offset or high watermark) as the last fetch told it, without asking; None before."""

    def rejoin(self) -> None:
        """Ask the group to rebalance, with the next poll; nothing where it has lost its seat."""

    def close(self) -> None:
        """Leave cleanly (a static member keeps its seat until the session times out)."""


class Reader(Protocol):
    """A read-committed consumer without a group, of partitions named by hand, for compacted topics.

    Starts at the beginning.
    """

    def poll(self, timeout_s: float) -> list[Record]:
        """Wait at most `timeout_s` for records, in offset order within a partition.

        Raises BrokerError when a position is out of range (open a new reader).
        """

    def position(self, partition: TopicPartition) -> int: ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def end_offsets(self) -> dict[TopicPartition, int]:
        """The *read-uncommitted* end (high watermark) of every partition read, asked of the broker now.

        A restore is complete when the *position* has reached it: the last records may be transaction markers."""

    def close(self) -> None: ...


class Producer(Protocol):
    """A transactional producer; opening it fences older ones of the same id."""

    def commit(
        self,
        messages: Sequence[Message],
        offsets: Mapping[TopicPartition, int],
        member: Member | None,
        notes: Mapping[TopicPartition, str] = NO_NOTES,
    ) -> None:
        """Write the messages and the consumer group's offsets (next to read) in one transaction: all or nothing.

        `notes`: what is kept beside some of the offsets, for other members and groups to read (`Broker.group_notes`);
        each commit replaces that of its partitions, by "" if it has none.

        `member` None is for a transaction that consumes nothing (`offsets` must then be empty, and only then: the
        offsets are what fences a stale member).

        Raises TransactionAborted (nothing visible; the producer is usable again), Fenced, OutcomeUnknown,
        BrokerUnavailable (nothing begun), TopicMismatch (nothing begun), and BrokerError where a retry would fail the
        same way: a message too large, no authorization (nothing visible). What a probe raises passes through, and
        leaves the transaction as a crash would.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. `settings` are Kafka topic configs (`cleanup.policy`, `retention.ms`, …)."""

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)
    replication: int | None = None


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is. `allowed`: what we may do with it, as ACLs name it; None where the broker does not tell."""

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] | None = None


class Broker(Protocol):
    """A connection factory."""

    def consumer(self, group: str, topics: Sequence[str], *, instance: str) -> Consumer: ...

    def reader(self, partitions: Collection[TopicPartition]) -> Reader: ...

    def producer(self, transactional_id: str, *, probe: Probe | None = None) -> Producer: ...

    def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        """What is known of the topics named; missing ones are left out.

        Raises BrokerUnavailable, and BrokerError naming those that we may not even see.
        """

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that do not exist (an existing one is left alone). Raises BrokerError naming the topic."""

    def group_offsets(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The committed offsets of *another* group (for back-pressure and lag); a transaction just
        committed may not be in them yet."""

    def group_notes(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, str]:
        """What the members of a group last committed beside their offsets, "" where there is nothing; like
        `group_offsets`."""

    def given(self, group: str) -> frozenset[TopicPartition] | None:
        """The partitions that a group's coordinator has given to its members; None in the middle of a rebalance."""

    def close(self) -> None: ...
