"""Records out of a fetched partition, a whole batch at a time.

kafka-python reads a record in some 30 Python operations a field and makes two objects of it, the floor of any consumer
built on it (ADR 8). Here one compiled pass finds where the fields of all records of a batch lie, and the rest is
slicing. What a fetch means (checksums, aborted transactions, control batches, which offset comes next) is done by
kafka-python's own methods, in its own order; old message formats go its own way altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from kafka import errors
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel

from stream_monitor.broker.protocol import Headers, Record
from stream_monitor.compiled import njit

Ints = npt.NDArray[np.int64]

# Record from a tuple without a Python frame, unlike a constructor.
record_of: Final[Callable[[Iterable[Any]], Record]] = partial(tuple.__new__, Record)
_fields = itemgetter(0, 1, 3, 4, 6, 7, 8)
_offset_of = itemgetter(2)

OFFSET, TIME, KEY, KEY_END, VALUE, VALUE_END, HEADERS, COUNT = range(8)
"""Of a record, where in the batch's bytes: offset and time relative to the batch, start (−1: null) and end of key and
value, start and number of headers."""


class Unpacker(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python is untyped
    """One partition's part of a fetch response; `take` gives `Record`s, in lists as long as asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ready: list[Record] = []
        self._at = 0

    def take(self, n: int | None = None) -> list[Record]:
        """The next `n` records, or all; `next_fetch_offset` is then behind the last of them."""
        self._maybe_raise_next_inline_exception()
        taken: list[Record] = []
        try:
            while n is None or len(taken) < n:
                if self._at == len(self._ready):
                    chunk = next(self.record_iterator or iter(()), None)
                    if chunk is None:
                        break
                    self._ready, self._at = chunk, 0
                    continue
                part = self._ready[self._at : None if n is None else self._at + n - len(taken)]
                self._at += len(part)
                taken += part
                self.next_fetch_offset = part[-1].offset + 1
        except Exception as error:
            if not taken:
                raise
            self._next_inline_exception = error  # told by the next call, as kafka-python does
        return taken

    def _maybe_skip_record(self, record: object) -> bool:
        return False  # `_unpack_records` has skipped what lies before the offset asked for

    def _unpack_records(self, tp: Any, records: Any, *_deserializers: object) -> Iterator[list[Record]]:
        """A list for every batch that holds records to be delivered."""
        last = None
        while (batch := records.next_batch()) is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise errors.CorruptRecordError(f"a batch of {tp} at offset {batch.base_offset} fails its checksum")
            if batch.magic == 2 and self._is_passed_over(batch):
                self.next_fetch_offset = batch.next_offset
                continue
            found = _unpack(tp, batch) if batch.magic == 2 else self._unpack_old(tp, batch)
            if found and found[0].offset < self.fetch_offset:
                found = [record for record in found if record.offset >= self.fetch_offset]
            if found:
                yield found
        if last is not None and last.magic == 2:
            self.next_fetch_offset = last.next_offset  # compaction may have removed the records before it
        self.drain()

    def _is_passed_over(self, batch: Any) -> bool:
        """Whether the batch is a marker, or part of a transaction that was rolled back."""
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _unpack_old(self, tp: Any, batch: Any) -> list[Record]:
        """Message formats 0 and 1, by kafka-python; each record has a checksum of its own."""
        found = list(batch)
        if self.check_crcs and not all(record.validate_crc() for record in found):
            raise errors.CorruptRecordError(f"a record of {tp} in the batch at {batch.base_offset} fails its checksum")
        return [Record(tp[0], tp[1], r.offset, r.timestamp, r.key, r.value, r.headers) for r in found]


def _unpack(tp: Any, batch: Any) -> list[Record]:
    """The records of a batch of message format 2."""
    batch._maybe_uncompress()
    data = bytes(batch._buffer)
    count = batch.records_count
    places = np.empty((count if 0 <= count <= len(data) else 0, 8), dtype=np.int64)
    if count != len(places) or _scan(np.frombuffer(data, dtype=np.uint8), batch._pos, places) != len(data):
        raise errors.CorruptRecordError(f"the batch of {tp} at offset {batch.base_offset} has not the records it says")
    offsets = (places[:, OFFSET] + batch.base_offset).tolist()
    times: Iterable[int] = (places[:, TIME] + batch.first_timestamp).tolist()
    if batch.timestamp_type == batch.LOG_APPEND_TIME:
        times = repeat(batch.max_timestamp, len(places))
    keys, values = _cut(data, places[:, KEY : KEY_END + 1]), _cut(data, places[:, VALUE : VALUE_END + 1])
    headers: Iterable[Headers] = repeat((), len(places))
    if places[:, COUNT].any():
        headers = _headers(data, places)
    topic, partition = repeat(tp[0]), repeat(tp[1])
    fields = zip(topic, partition, offsets, times, keys, values, headers)  # noqa: B905  # the endless ones end too
    return list(map(record_of, fields))


def _cut(data: bytes, bounds: Ints) -> list[bytes | None]:
    """The bytes between each start and end; None where the start is −1."""
    pairs = bounds.tolist()
    if len(bounds) and bounds[:, 0].min() < 0:
        return [None if start < 0 else data[start:end] for start, end in pairs]
    return [data[start:end] for start, end in pairs]


def _headers(data: bytes, places: Ints) -> Iterator[Headers]:
    counts = places[:, COUNT]
    bounds = np.empty((int(counts.sum()), 4), dtype=np.int64)
    _scan_headers(np.frombuffer(data, dtype=np.uint8), places[:, HEADERS], counts, bounds)
    names = (data[start:end].decode() for start, end in bounds[:, :2].tolist())
    found: Iterator[Any] = zip(names, _cut(data, bounds[:, 2:]), strict=True)  # a value may be None, whatever `Headers`
    return ([next(found) for _ in range(count)] for count in counts.tolist())


@njit
def _varint(data: Any, at: int) -> tuple[int, int]:
    """A zig-zag integer and where it ends; −1 for an end beyond the data."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < len(data) and shift < 64:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < 0x80:
            whole: Any = np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))
            return whole, at
        shift += np.uint64(7)
    return 0, -1


@njit
def _span(data: Any, at: int) -> tuple[int, int]:
    """Start and end of bytes that their length precedes; a start of −1 for null, an end of −1 if it is damaged."""
    length, at = _varint(data, at)
    if at < 0 or length > len(data) - at:
        return -1, -1
    return (at, at + length) if length >= 0 else (-1, at)


@njit
def _scan(data: Any, at: int, places: Any) -> int:
    """Fill in `places` `[records, 8]` from the bytes at `at`; where the records end, −1 if they are damaged."""
    for i in range(len(places)):
        place = places[i]
        length, at = _varint(data, at)
        end = at + length
        if at < 0 or length < 0 or end > len(data):
            return -1
        _, at = _varint(data, at)  # attributes, of which there are none
        if at < 0:
            return -1
        place[TIME], at = _varint(data, at)
        if at < 0:
            return -1
        place[OFFSET], at = _varint(data, at)
        if at < 0:
            return -1
        place[KEY], at = _span(data, at)
        place[KEY_END] = at
        if at < 0:
            return -1
        place[VALUE], at = _span(data, at)
        place[VALUE_END] = at
        if at < 0:
            return -1
        place[COUNT], at = _varint(data, at)
        place[HEADERS] = at
        if at < 0 or place[COUNT] < 0:
            return -1
        for _ in range(2 * place[COUNT]):
            _, at = _span(data, at)
            if at < 0:
                return -1
        if at != end:
            return -1
    return at


@njit
def _scan_headers(data: Any, starts: Any, counts: Any, bounds: Any) -> None:
    """Start and end of the name and of the value of every header of records that `_scan` has checked."""
    done = 0
    for i in range(len(starts)):
        at = starts[i]
        for _ in range(counts[i]):
            bounds[done, 0], at = _span(data, at)
            bounds[done, 1] = at
            bounds[done, 2], at = _span(data, at)
            bounds[done, 3] = at
            done += 1
