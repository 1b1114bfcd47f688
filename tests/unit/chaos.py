"""A broker in memory that fails: every call of a worker may be its last, may be refused, or may be cut in on.

One `Chaos` belongs to one worker process. What it injects is what a real broker can do to a client (see
`docs/guarantees.md`); `Killed` is no `Exception`, so no handler of the code under test can survive it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stream_monitor.broker.memory import MemoryBroker, MemoryConsumer, MemoryMember, MemoryProducer, MemoryReader
from stream_monitor.broker.protocol import (
    COMMIT_STEPS,
    NO_NOTES,
    Member,
    Message,
    Polled,
    Probe,
    Record,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)
from stream_monitor.errors import BrokerUnavailable, OutcomeUnknown, TransactionAborted

BEFORE = COMMIT_STEPS[:-1]
"""Steps at which nothing of the transaction is visible yet."""
CALL_FAULTS: Final = ("killed", "unavailable", "unavailable", "interlude")
CALLS: Final = (
    "consumer", "reader", "producer", "topics", "committed", "bounds", "ends", "group offsets", "group notes", "given",
)  # fmt: skip
POLL_FAULTS: Final = ("killed", "nothing", "nothing", "interlude")
COMMIT_FAULTS: Final[Mapping[str, Sequence[str]]] = {
    "killed": COMMIT_STEPS, "interlude": COMMIT_STEPS, "aborted": BEFORE, "unknown": ("commit", "done")
}  # fmt: skip
"""Where each fault of a commit strikes; `unknown`: its reply is lost, before or after it was done."""
EVERY_FAULT: Final = frozenset(
    [f"{call}: {fault}" for call in CALLS for fault in CALL_FAULTS]
    + [f"{call}: {fault}" for call in ("poll", "read") for fault in POLL_FAULTS]
    + [f"commit: {fault} at {step}" for fault, steps in COMMIT_FAULTS.items() for step in steps]
    + ["commit: unavailable", "member: unstable"]
)
"""All that can happen at a broker's call, as `Chaos.happened` words it."""


class Killed(BaseException):
    """The process is gone: no clean-up, no close, as after kill −9."""


@dataclass(slots=True)
class Chaos:
    """Draws the faults of one process. `rate`: faults a call; `interlude`: the rest of the world goes on meanwhile."""

    random: random.Random
    rate: float
    interlude: Callable[[], None]
    happened: list[str] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    """Clients opened and not closed: none may be left when a worker gives up without dying."""
    left: dict[TopicPartition, int] = field(default_factory=dict)
    """Where the consumers stood when they were closed."""

    def strikes(self, what: str, *faults: str, more: int = 1) -> str:
        """The fault that this call is struck by; empty for none. `more` times as often as others."""
        if self.random.random() >= self.rate * more:
            return ""
        fault = self.random.choice(faults)
        self.happened.append(f"{what}: {fault}")
        return fault

    def call(self, what: str, *, more: int = 1) -> None:
        """A request to the broker that may go unanswered, or take its time."""
        match self.strikes(what, *CALL_FAULTS, more=more):
            case "killed":
                raise Killed(what)
            case "unavailable":
                raise BrokerUnavailable(f"injected: {what}")
            case "interlude":
                self.interlude()


class ChaosConsumer:
    def __init__(self, inner: MemoryConsumer, chaos: Chaos) -> None:
        self._inner, self._chaos = inner, chaos
        chaos.open.add(id(self))

    def poll(self, timeout_s: float) -> Polled:
        match self._chaos.strikes("poll", *POLL_FAULTS):
            case "killed":
                raise Killed("poll")
            case "nothing":  # an unreachable broker raises nothing
                return Polled()
            case "interlude":
                self._chaos.interlude()
        return self._inner.poll(timeout_s)

    def assignment(self) -> frozenset[TopicPartition]:
        return self._inner.assignment()

    def member(self) -> MemoryMember | None:
        return None if self._chaos.strikes("member", "unstable") else self._inner.member()

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        self._chaos.call("committed")
        return self._inner.committed(partitions)

    def position(self, partition: TopicPartition) -> int:
        return self._inner.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._inner.seek(partition, offset)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._inner.pause(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._inner.resume(partitions)

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        self._chaos.call("bounds")
        return self._inner.bounds(partitions)

    def end_seen(self, partition: TopicPartition) -> int | None:
        return self._inner.end_seen(partition)

    def rejoin(self) -> None:
        self._inner.rejoin()

    def close(self) -> None:
        self._chaos.left |= {
            each: self._inner.position(each) for each in self._inner.assignment() if self._placed(each)
        }
        self._inner.close()
        self._chaos.open.discard(id(self))

    def _placed(self, partition: TopicPartition) -> bool:
        try:
            self._inner.position(partition)
        except ValueError:
            return False
        return True


class ChaosReader:
    def __init__(self, inner: MemoryReader, chaos: Chaos) -> None:
        self._inner, self._chaos = inner, chaos
        chaos.open.add(id(self))

    def poll(self, timeout_s: float) -> list[Record]:
        match self._chaos.strikes("read", *POLL_FAULTS):
            case "killed":
                raise Killed("read")
            case "nothing":
                return []
            case "interlude":
                self._chaos.interlude()
        return self._inner.poll(0.0)

    def position(self, partition: TopicPartition) -> int:
        return self._inner.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._inner.seek(partition, offset)

    def end_offsets(self) -> dict[TopicPartition, int]:
        self._chaos.call("ends")
        return self._inner.end_offsets()

    def close(self) -> None:
        self._inner.close()
        self._chaos.open.discard(id(self))


class ChaosProducer:
    """A commit may be refused, die or be cut in on at each of its steps, and its reply may be lost."""

    def __init__(self, broker: MemoryBroker, transactional_id: str, chaos: Chaos) -> None:
        self._inner: MemoryProducer = broker.producer(transactional_id, probe=self._step)
        self._chaos = chaos
        self._plan = ("", "")
        chaos.open.add(id(self))

    def commit(
        self,
        messages: Sequence[Message],
        offsets: Mapping[TopicPartition, int],
        member: Member | None,
        notes: Mapping[TopicPartition, str] = NO_NOTES,
    ) -> None:
        fault = self._chaos.strikes("commit", "unavailable", *COMMIT_FAULTS, more=6)
        if fault == "unavailable":
            raise BrokerUnavailable("injected: commit")
        self._plan = (fault, self._chaos.random.choice(COMMIT_FAULTS[fault])) if fault else ("", "")
        if fault:
            self._chaos.happened[-1] += f" at {self._plan[1]}"
        self._inner.commit(messages, offsets, member, notes)

    def close(self) -> None:
        self._inner.close()
        self._chaos.open.discard(id(self))

    def _step(self, step: str) -> None:
        fault, at = self._plan
        if step != at:
            return
        match fault:
            case "killed":
                raise Killed(f"commit, at {step}")
            case "aborted":
                raise TransactionAborted(f"injected at {step}")
            case "unknown":
                raise OutcomeUnknown(f"injected at {step}")
            case "interlude":
                self._chaos.interlude()


class ChaosBroker:
    """What one process sees of the broker."""

    def __init__(self, inner: MemoryBroker, chaos: Chaos) -> None:
        self._inner, self._chaos = inner, chaos

    def consumer(self, group: str, topics: Sequence[str], *, instance: str) -> ChaosConsumer:
        self._chaos.call("consumer")
        return ChaosConsumer(self._inner.consumer(group, topics, instance=instance), self._chaos)

    def reader(self, partitions: Collection[TopicPartition]) -> ChaosReader:
        self._chaos.call("reader")
        return ChaosReader(self._inner.reader(partitions), self._chaos)

    def producer(self, transactional_id: str, *, probe: Probe | None = None) -> ChaosProducer:
        assert probe is None
        self._chaos.call("producer")
        return ChaosProducer(self._inner, transactional_id, self._chaos)

    def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        self._chaos.call("topics")
        return self._inner.topics(names)

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._inner.create_topics(specs)

    def group_offsets(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        self._chaos.call("group offsets")
        return self._inner.group_offsets(group, partitions)

    def group_notes(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, str]:
        self._chaos.call("group notes")
        return self._inner.group_notes(group, partitions)

    def given(self, group: str) -> frozenset[TopicPartition] | None:
        self._chaos.call("given", more=60)  # asked but once a schedule
        return self._inner.given(group)

    def close(self) -> None:
        """Nothing is held."""
