"""Merging input partitions by record timestamp, as far as can be known. Pure: lag and time are arguments.

Kafka orders rows within a partition only, and a backlog arrives a partition at a time. A detector should see the rows
in the order they happened, so records wait here until no partition that lags can still bring an earlier one. A
partition that lags and brings nothing is waited for until nothing has arrived for `max_idle_s` (as Kafka Streams' task
idling), and `MOST_IDLE_TIMES` that at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_monitor.broker.protocol import Record, TopicPartition
from stream_monitor.events import DATES_MS

Merged = tuple[int, Record]
"""A record and the time it is merged by: the greatest time stamp up to it in its partition, epoch milliseconds."""
LATENESS_MS: Final = 200
"""How old a record may be when it arrives on a partition that is read to its end."""
MOST_IDLE_TIMES: Final = 10
LEAST_POLLS: Final = 3
"""Polls that have to bring nothing before a partition counts as idle: a process that was held up saw nothing either."""
AHEAD_MS: Final = 3_600_000
"""How far ahead of the clock a time stamp may put a record: one from the far future must not end all order."""
_stamp_of: Final = itemgetter(3)
_value_of: Final[Any] = itemgetter(5)


@dataclass(slots=True)
class _Buffer:
    """Records not yet taken; `keys[i]` is the greatest timestamp up to record i, so that order within the partition
    is never broken by a timestamp that runs backwards. `sizes`: the bytes of their values, looked at once: to look at
    the values again and again costs a cache miss each."""

    keys: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    newest: int = -(2**62)
    bytes: int = 0


@dataclass(slots=True)
class Merger:
    """Buffers of the assigned partitions."""

    max_idle_s: float
    _buffers: dict[TopicPartition, _Buffer] = field(default_factory=dict)
    _waiting_since_s: float | None = None
    _quiet_since_s: float = 0.0
    _quiet_times: int = 0
    _arrived: bool = False
    _taken_ms: int = -(2**62)
    _newest_ms: int = -(2**62)
    _newest_at_ms: int | None = None

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._buffers[partition] = _Buffer()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions given up."""
        for partition in partitions:
            self._buffers.pop(partition, None)

    def add(self, partition: TopicPartition, records: Sequence[Record], now_ms: int) -> None:
        """Records as read, in the order of their offsets, at the wall-clock time `now_ms`.

        A time stamp that cannot be written as a date becomes the nearest that can: a producer may count microseconds.
        """
        self._arrived = True
        if not records:
            return
        buffer = self._buffers[partition]
        stamps = np.fromiter(map(_stamp_of, records), np.int64, len(records))
        if stamps.min() < DATES_MS[0] or stamps.max() > DATES_MS[-1]:
            stamps = np.clip(stamps, DATES_MS[0], DATES_MS[-1])
            records = [
                record._replace(timestamp_ms=stamp) for record, stamp in zip(records, stamps.tolist(), strict=True)
            ]
        stamps = np.maximum.accumulate(np.minimum(stamps, now_ms + AHEAD_MS))
        keys = np.maximum(stamps, buffer.newest).tolist()
        buffer.newest = newest = keys[-1]
        buffer.keys += keys
        buffer.records += records
        sizes = _sizes(records)
        buffer.sizes += sizes
        buffer.bytes += sum(sizes)
        if newest > self._newest_ms:
            self._newest_ms, self._newest_at_ms = newest, now_ms

    def hold(self) -> None:
        """Nothing is taken for now: nobody is kept waiting."""
        self._waiting_since_s = None

    def buffered(self, partition: TopicPartition) -> int:
        return len(self._buffers[partition].records)

    def buffered_bytes(self, partition: TopicPartition) -> int:
        """Of the records' values."""
        return self._buffers[partition].bytes

    @property
    def bytes(self) -> int:
        """Of the values of all records that wait."""
        return sum(buffer.bytes for buffer in self._buffers.values())

    def fitting(self, room_bytes: int) -> int:
        """How many of the records that wait take up so many bytes, by their mean size; with any room at least 1."""
        count = sum(len(buffer.records) for buffer in self._buffers.values())
        return 0 if room_bytes <= 0 else max(1, room_bytes * count // max(1, self.bytes))

    def first_offset(self, partition: TopicPartition) -> int | None:
        """The offset of the first record still waiting, None without one."""
        records = self._buffers[partition].records
        return records[0].offset if records else None

    def promise_ms(self, partition: TopicPartition, *, lagging: bool, now_ms: int) -> int:
        """Time stamp that no record still to be taken from the partition will be older than, as far as can be known.

        One that lags and brought nothing may hold this process back only for so long, hence what was taken meanwhile
        counts; one that is read to its end will bring records of the present, by the clock of the records' time stamps
        (which need not be ours: a topic may be filled with records dated in the past).
        """
        buffer = self._buffers[partition]
        if buffer.keys:
            return buffer.keys[0]
        present_ms = now_ms if self._newest_at_ms is None else self._newest_ms + now_ms - self._newest_at_ms
        return max(buffer.newest, self._taken_ms if lagging else present_ms - LATENESS_MS)

    def take(self, lagging: Collection[TopicPartition], limit: int, now_s: float) -> list[Merged]:
        """Records that may go on, in merged order, at most `limit`, each with the time it was merged by; `lagging`:
        partitions with more to fetch."""
        taken = self._take(lagging, limit, now_s)
        if taken:
            self._taken_ms = max(self._taken_ms, taken[-1][0])
        return taken

    def _take(self, lagging: Collection[TopicPartition], limit: int, now_s: float) -> list[Merged]:
        watermark = self._watermark(lagging, now_s)
        if watermark is None:
            return []
        runs = []
        for buffer in self._buffers.values():
            count = len(buffer.keys) if watermark == _END else bisect_right(buffer.keys, watermark)
            if count:
                runs.append((buffer, count))
        if len(runs) <= 1:
            buffer, count = runs[0] if runs else (_Buffer(), 0)
            return _cut(buffer, min(count, limit))
        spread = [_spread(buffer.keys[: min(count, limit)]) for buffer, count in runs]
        order = np.argsort(np.concatenate(spread), kind="stable")[:limit]  # stable: never against a partition's order
        sizes = np.array([len(each) for each in spread])
        run_of = np.repeat(np.arange(len(runs)), sizes)[order]
        counts = np.bincount(run_of, minlength=len(runs))
        cuts = [_cut(buffer, count) for (buffer, _), count in zip(runs, counts.tolist(), strict=True)]
        entries = list(chain.from_iterable(cuts))  # of each run a beginning: less than `order` counts
        left = np.cumsum(sizes - counts) - (sizes - counts)
        return list(map(entries.__getitem__, (order - left[run_of]).tolist()))

    def _watermark(self, lagging: Collection[TopicPartition], now_s: float) -> int | None:
        """Up to which time nothing earlier can come; None: wait; `_END`: everything may go."""
        behind = [self._buffers[partition] for partition in lagging if partition in self._buffers]
        if all(buffer.records for buffer in behind):
            self._waiting_since_s = None
            return min((buffer.newest for buffer in behind), default=_END)
        if not any(buffer.records for buffer in self._buffers.values()):
            self._waiting_since_s = None  # nobody is kept waiting
            return None
        if self._waiting_since_s is None or self._arrived:
            # While others bring records, the one that lags has its turn yet to come.
            self._quiet_since_s, self._quiet_times = now_s, 0
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        self._arrived = False
        self._quiet_times += 1
        quiet = self._quiet_times > LEAST_POLLS and now_s - self._quiet_since_s >= self.max_idle_s
        if not quiet and now_s - self._waiting_since_s < MOST_IDLE_TIMES * self.max_idle_s:
            return None
        return min((buffer.newest for buffer in behind if buffer.records), default=_END)


_END = 2**63


def _spread(keys: Sequence[int]) -> NDArray[np.float64]:
    """Times to sort by, milliseconds: records that share one in their partition are spread evenly over it.

    A fast producer writes tens of records a millisecond. Were each partition's share of it taken in turn, the merge
    would be wrong by as many rows; so it is by their square root. (A float holds today's times to 1/4,096 ms.)
    """
    times = np.asarray(keys, np.float64)
    return times + within_runs(np.diff(times, prepend=-np.inf) != 0)


def within_runs(starts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far into its run each element lies, between 0 and 1; `starts`: whether a run begins there."""
    first = np.flatnonzero(starts)
    sizes = np.diff(first, append=len(starts))
    shares: NDArray[np.float64] = (np.arange(len(starts)) - np.repeat(first, sizes) + 0.5) / np.repeat(sizes, sizes)
    return shares


def _cut(buffer: _Buffer, count: int) -> list[Merged]:
    """Remove and return the first `count` records."""
    taken = list(zip(buffer.keys[:count], buffer.records[:count], strict=True))
    buffer.bytes -= sum(buffer.sizes[:count])
    del buffer.records[:count]
    del buffer.keys[:count]
    del buffer.sizes[:count]
    return taken


def size_of(records: Sequence[Record]) -> int:
    """Bytes of the records' values."""
    return sum(_sizes(records))


def _sizes(records: Sequence[Record]) -> list[int]:
    try:
        return list(map(len, map(_value_of, records)))
    except TypeError:  # a tombstone is among them
        return [len(record.value or b"") for record in records]
