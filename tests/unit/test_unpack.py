"""Our unpacking of a fetch against kafka-python's own, on batches made by its builder."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from stream_monitor.broker.kafka.unpack import Unpacker
from stream_monitor.broker.protocol import Record

PARTITION = TopicPartition("t", 3)
HEADER = 61


class Aborted:
    """What a fetch response says of a transaction that was rolled back."""

    def __init__(self, producer_id: int, first_offset: int) -> None:
        self.producer_id, self.first_offset = producer_id, first_offset


def batch(
    base: int,
    records: list[tuple[int, int, Any, Any, list[Any]]],
    codec: int = 0,
    producer: int = -1,
    attributes: int = 0,
) -> bytes:
    """One batch of (offset within it, time, key, value, headers)."""
    sequence = 0 if producer >= 0 else -1
    builder = DefaultRecordBatchBuilder(2, codec, producer >= 0, producer, 0 if producer >= 0 else -1, sequence, 2**20)
    for record in records:
        builder.append(*record)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, 12, 7)  # leader epoch
    struct.pack_into(">h", data, 21, struct.unpack_from(">h", data, 21)[0] | attributes)
    struct.pack_into(">I", data, 17, calc_crc32c(memoryview(data)[21:]))
    return bytes(data)


def marker(base: int, producer: int, kind: int) -> bytes:
    return batch(base, [(0, 5, struct.pack(">hh", 0, kind), b"\0" * 6, [])], producer=producer, attributes=0x20)


def unpacked(unpacker: Any, data: bytes, size: int | None, offset: int, aborted: list[Aborted]) -> list[Any]:
    """What a consumer sees: the records of each `take`, and the offset and leader epoch it would go on with."""
    part = unpacker(offset, PARTITION, MemoryRecords(data), isolation_level=IsolationLevel.READ_COMMITTED,
                    aborted_transactions=aborted)  # fmt: skip
    seen = []
    while part:
        records = [(r[0], r[1], r.offset, r[4 if len(r) > 7 else 3], r.key, r.value, list(r.headers))
                   for r in part.take(size)]  # fmt: skip
        seen.append((records, part.next_fetch_offset, part.leader_epoch))
    return seen


def random_records(rng: np.random.Generator, count: int) -> list[tuple[int, int, Any, Any, list[Any]]]:
    """Gaps as compaction leaves them, times that run backwards, nulls, headers, values of all sizes."""
    offsets = np.cumsum(rng.integers(1, 4, size=count)) - 1
    return [
        (
            int(offset),
            int(rng.integers(1_700_000_000_000, 1_700_000_100_000)),
            None if rng.random() < 0.3 else rng.bytes(int(rng.integers(0, 100))),
            None if rng.random() < 0.1 else rng.bytes(int(rng.integers(0, 20_000 if rng.random() < 0.1 else 200))),
            [("näme", None if rng.random() < 0.2 else rng.bytes(3)) for _ in range(int(rng.integers(0, 3)))]
            if rng.random() < 0.3
            else [],
        )
        for offset in offsets
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [None, 1, 3, 1_000])
def test_any_fetch_gives_what_kafka_python_gives(seed: int, size: int | None) -> None:
    rng = np.random.default_rng(seed)
    data, base, aborted = b"", 1_000, []
    for _ in range(int(rng.integers(1, 6))):
        records = random_records(rng, int(rng.integers(1, 40)))
        producer = int(rng.integers(-1, 3))
        codec = int(rng.choice([0, 1, 3, 4]))
        data += batch(base, records, codec, producer, 0x08 if rng.random() < 0.2 else 0)
        kind = int(rng.random() < 0.5)
        if producer >= 0 and not kind:
            aborted.append(Aborted(producer, base))
        base += records[-1][0] + 1
        if producer >= 0:
            data += marker(base, producer, kind)
            base += 1
    offset = 1_000 + int(rng.integers(0, 20))
    theirs = unpacked(Fetcher.PartitionRecords, data, size, offset, aborted)
    assert unpacked(Unpacker, data, size, offset, aborted) == theirs


def test_old_message_formats_are_read_too() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 10_000)
    for offset in range(5):
        builder.append(offset, 1_700_000_000_000 + offset, b"k", b"v%d" % offset)
    data = bytes(builder.build())
    theirs = unpacked(Fetcher.PartitionRecords, data, 2, 1, [])
    assert unpacked(Unpacker, data, 2, 1, []) == theirs


def test_records_are_ours() -> None:
    data = batch(5, [(0, 1_700_000_000_000, b"k", b"v", [])])
    (record,) = Unpacker(5, PARTITION, MemoryRecords(data)).take()
    assert isinstance(record, Record)
    assert record == Record("t", 3, 5, 1_700_000_000_000, b"k", b"v")


def test_a_wrong_checksum_is_told_after_the_records_before_it() -> None:
    first, second = batch(0, [(0, 5, None, b"a", [])]), bytearray(batch(1, [(0, 5, None, b"b", [])]))
    second[-1] ^= 1
    part = Unpacker(0, PARTITION, MemoryRecords(first + bytes(second)))
    assert [record.value for record in part.take(10)] == [b"a"]
    with pytest.raises(CorruptRecordError, match="offset 1 fails its checksum"):
        part.take(10)


def test_damage_below_the_checksum_is_an_error_never_a_crash() -> None:
    """A batch whose bytes are damaged at any place, with a checksum that fits, reads as something or is refused."""
    whole = batch(0, [(i, 5, b"key", b"value", [("h", b"x")]) for i in range(3)])
    for at in range(HEADER - 4, len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[at] ^= flip
            struct.pack_into(">I", data, 17, calc_crc32c(memoryview(data)[21:]))
            try:
                records = Unpacker(0, PARTITION, MemoryRecords(bytes(data))).take()
            except (CorruptRecordError, UnicodeDecodeError):
                continue
            assert len(records) <= 3, "an offset before the one asked for is skipped"
            assert all(isinstance(record, Record) for record in records)
