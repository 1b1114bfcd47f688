"""A partition's log in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter

from stream_monitor.broker.protocol import Message, Record

_offset = attrgetter("offset")


class PartitionLog:
    """The records of one partition, ordered by offset; compaction and transaction markers leave gaps.

    `start_offset` is the first offset kept, `end_offset` the one the next record will get.
    """

    __slots__ = ("_partition", "_records", "_topic", "end_offset", "start_offset")

    def __init__(self, topic: str, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._records: list[Record] = []
        self.start_offset = 0
        self.end_offset = 0

    def append(self, messages: Iterable[Message], now_ms: int) -> None:
        """Add messages at the end; those without a timestamp get `now_ms`."""
        topic, partition, offset = self._topic, self._partition, self.end_offset
        for message in messages:
            timestamp_ms = now_ms if message.timestamp_ms is None else message.timestamp_ms
            self._records.append(
                Record(topic, partition, offset, timestamp_ms, message.key, message.value, message.headers)
            )
            offset += 1
        self.end_offset = offset

    def mark(self) -> None:
        """Spend one offset on a transaction marker, which no reader sees but every position has to pass."""
        self.end_offset += 1

    def holds(self, offset: int) -> bool:
        """Whether a reader may stand at this offset."""
        return self.start_offset <= offset <= self.end_offset

    def read(self, offset: int, limit: int) -> tuple[list[Record], int]:
        """At most `limit` records from `offset` on, and the offset to read next (past markers and gaps)."""
        first = bisect_left(self._records, offset, key=_offset)
        records = self._records[first : first + limit]
        if first + len(records) == len(self._records):
            return records, max(offset, self.end_offset)
        return records, records[-1].offset + 1

    def compact(self) -> None:
        """Keep the last record of every key (a tombstone too); records without a key go, as in Kafka."""
        last = {record.key: record.offset for record in self._records}
        last.pop(None, None)
        self._records = [record for record in self._records if last.get(record.key) == record.offset]

    def truncate(self, before_offset: int) -> None:
        """Forget everything below an offset, as retention does."""
        self.start_offset = min(max(before_offset, self.start_offset), self.end_offset)
        del self._records[: bisect_left(self._records, self.start_offset, key=_offset)]
