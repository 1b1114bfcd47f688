"""A partition whose state is being read back, a bounded piece at a time, while the others go on.

First the records of its state topic partition are read, then its streams are built from them. What one step reads and
builds is bounded in bytes, not in seconds, so that a restore takes the same steps wherever it runs: polls (which keep
the membership) and the partitions already restored have their turn between two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stream_monitor import state as states
from stream_monitor.broker.protocol import Reader, Record, TopicPartition
from stream_monitor.model_state import group_models
from stream_monitor.reference import StreamKey

STEP_BYTES: int = 1_000_000
"""State that one step builds streams from, at most (one stream at least): a tenth of a second of work."""
BUFFER_BYTES: Final = 64_000_000
"""State that is read and not yet built, all partitions together, at which only one partition is read on."""

Parts = dict[str, dict[int, bytes]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the restores under way have come: records of the state topic, and streams of partitions read whole."""

    partitions: int = 0
    records: int = 0
    records_total: int = 0
    streams: int = 0
    streams_total: int = 0


@dataclass(slots=True)
class Restoring:
    """`offset`: where the codes of the partition go on, `end`: up to where its state has to be read."""

    reader: Reader
    source: TopicPartition
    offset: int
    end: int
    first: int = 0
    committed: bool = True
    """False: the group has no offset, be it new, or that its offset expired, or that the topic was deleted."""
    records: dict[bytes, bytes] = field(default_factory=dict)
    bytes: int = 0
    """Read and not yet built."""
    streams: int = 0
    left: deque[tuple[StreamKey | str, Parts]] | None = None
    """Streams, and models by their names, to be built; None while records are read."""

    @property
    def read_whole(self) -> bool:
        return self.reader.position(self.source) >= self.end

    def read(self, timeout_s: float) -> None:
        """Take what the reader has; of a key the last record counts."""
        for record in self.reader.poll(timeout_s):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        if record.key is None:
            return
        self.bytes += len(record.value or b"") - len(self.records.pop(record.key, b""))
        if record.value is not None:
            self.records[record.key] = record.value

    def group(self) -> int:
        """All is read: what is to be built, and how many keys were not ours."""
        grouped, strange = states.group_records(self.records)
        self.left, self.streams = deque([*grouped.items(), *group_models(self.records).items()]), len(grouped)
        self.records = {}
        return strange

    def next(self) -> tuple[StreamKey | str, Parts]:
        """The next stream's or model's records, which are forgotten here."""
        assert self.left
        key, parts = self.left.popleft()
        self.bytes -= size_of(parts)
        return key, parts


def size_of(parts: Parts) -> int:
    return sum(len(data) for numbered in parts.values() for data in numbered.values())


def progress(restoring: Iterable[Restoring]) -> Progress:
    """The sum over all partitions being restored."""
    each = list(restoring)
    built = [max(r.streams - len(r.left), 0) for r in each if r.left is not None]
    done = [r.reader.position(r.source) - r.first if r.left is None else r.end - r.first for r in each]
    total = [r.end - r.first for r in each]
    return Progress(len(each), sum(done), sum(total), sum(built), sum(r.streams for r in each))
