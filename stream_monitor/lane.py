"""One input topic on its way through the encode stage: what is read and waits to be merged, what is merged and waits to
be written, and how far ahead of other encoders that is. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from stream_monitor.alignment import Alignment
from stream_monitor.broker.protocol import TopicPartition
from stream_monitor.merge import Merged, Merger, size_of
from stream_monitor.ordering import NEVER

MAX_PENDING_RECORDS: Final = 50_000
"""Records of one transaction, at most."""

Promises = Mapping[TopicPartition, tuple[int, bool]]
"""Of input partitions held: the merge time that nothing still to come is older than, and whether it is behind."""


@dataclass(slots=True)
class Lane:
    """`topic`: "" for none. `total`: its partitions. `pending`: records merged, for the next transaction."""

    topic: str
    merger: Merger
    alignment: Alignment
    total: int = 0
    pending: list[Merged] = field(default_factory=list)
    _in_order: bool = True
    """Whether `pending` is."""

    def take(self, lagging: Collection[TopicPartition], room_bytes: int, now_s: float) -> int:
        """Merge what may go on, at most so many bytes; how many it was."""
        if self.alignment.ahead:
            self.merger.hold()
            return 0
        limit = min(MAX_PENDING_RECORDS - len(self.pending), self.merger.fitting(room_bytes))
        waiting = self.merger.bytes
        taken = self.merger.take(lagging, limit, now_s) if limit > 0 else []
        if not taken:
            return 0
        size = waiting - self.merger.bytes
        self._in_order = self._in_order and (not self.pending or self.pending[-1][0] <= taken[0][0])
        self.pending += taken
        self.alignment.take(taken[-1][0], len(taken), size)
        return size

    def give_up(self, partitions: Collection[TopicPartition]) -> None:
        """Forget what is of these partitions."""
        self.merger.drop(partitions)
        self.alignment.forget()
        self.pending = [each for each in self.pending
                        if TopicPartition(each[1].topic, each[1].partition) not in partitions]  # fmt: skip

    def sort(self) -> None:
        """Late records of a partition that was not waited for are among what is pending."""
        if not self._in_order:
            self.pending.sort(key=itemgetter(0))
            self._in_order = True

    @property
    def pending_bytes(self) -> int:
        return size_of([record for _, record in self.pending])

    def wrote(self, messages: int) -> None:
        """What is pending becomes so many records of the codes topic."""
        if self.pending:
            self.alignment.wrote(self.pending[-1][0], messages)

    def others(self, mine: Collection[TopicPartition]) -> set[TopicPartition]:
        """The partitions held by other encoders."""
        return {TopicPartition(self.topic, number) for number in range(self.total)} - set(mine)

    def told(self, promises: Promises) -> tuple[int, dict[int, int], list[int]]:
        """What a tick says of it: how many partitions there are, how far those held have come, which are behind."""
        said = {partition.partition: promise_ms for partition, (promise_ms, _) in promises.items()}
        behind = sorted(partition.partition for partition, (_, is_behind) in promises.items() if is_behind)
        return max(self.total, *(number + 1 for number in said), 0), said, behind


def behind_ms(promises: Promises) -> int:
    """No row older than this is still to come from partitions that are behind; NEVER without one."""
    return min((promise_ms for promise_ms, behind in promises.values() if behind), default=NEVER)
