"""The rows of several encoders in order, whatever the turns they take, and the same after a restore."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.batch import Batch, CodedBatch, Extra, Origins, RawBatch, Unknown
from stream_monitor.errors import WireError
from stream_monitor.events import Row
from stream_monitor.labels import Label, LabelBatch
from stream_monitor.ordering import MAX_WAIT_MS, Clock, Queue, Tick, decode_tick, encode_tick, is_tick
from stream_monitor.reference import StreamKey

STREAM = StreamKey("m")


def coded(partition: int, first_offset: int, times: list[int], digest: str = "d") -> CodedBatch:
    """Rows of one input partition; the code of a row is its offset mod 200."""
    offsets = np.arange(first_offset, first_offset + len(times), dtype=np.int64)
    stamps = np.array(times, dtype=np.int64)
    zeros = np.zeros(len(times), np.int32)
    origins = Origins(np.full(len(times), partition, np.int32), offsets, zeros, stamps, stamps)
    return CodedBatch(STREAM, digest, 1, (offsets % 200).astype(np.uint8)[:, None], origins)


def rows_of(batches: list[Batch]) -> list[tuple[int, int]]:
    found = []
    for batch in batches:
        origins = batch.origins if isinstance(batch, CodedBatch) else Origins.of(batch.rows)
        found += list(zip(origins.partition.tolist(), origins.offset.tolist(), strict=True))
    return found


def tick(
    clock: Clock, offset: int, clock_ms: int = 0, total: int = 2, behind: tuple[int, ...] = (), **promises: int
) -> Clock:
    said = {int(name[1:]): ms for name, ms in promises.items()}
    return clock.advance(Tick(clock_ms, total, said, list(behind)), offset)


def ticks(clock: Clock, offset: int, for_ms: int, behind: tuple[int, ...] = (), **promises: int) -> Clock:
    """One a second."""
    for _ in range(for_ms // 1_000):
        clock = tick(clock, offset, clock.clock_ms + 1_000, behind=behind, **promises)
    return clock


def test_rows_of_two_encoders_come_out_by_time() -> None:
    queue, clock = Queue(), Clock()
    queue.add(coded(0, 0, [10, 30, 50]), 0, Clock())
    queue.add(coded(1, 0, [20, 40]), 1, Clock())
    batches, from_offset = queue.release(tick(clock, 2, p0=50, p1=45))
    assert rows_of(batches) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert from_offset == 0
    assert queue.first_offset == 0  # its last row waits: partition 1 may bring an older one


def test_rows_of_one_millisecond_are_mixed_whichever_encoder_brought_them() -> None:
    queue, clock = Queue(), Clock()
    queue.add(coded(0, 100, [5] * 30 + [6] * 10), 0, Clock())
    queue.add(coded(1, 200, [5] * 10 + [6] * 30), 1, Clock())
    batches, _ = queue.release(tick(clock, 2, p0=9, p1=9))
    partitions = [partition for partition, _ in rows_of(batches)]
    assert [partitions[start : start + 8].count(0) for start in range(0, 80, 8)] == [6] * 5 + [2] * 5


def test_one_encoder_is_never_kept_waiting() -> None:
    queue = Queue()
    queue.add(coded(0, 0, [10, 30, 50]), 0, Clock())
    batches, _ = queue.release(tick(Clock(), 1, total=1, p0=50))
    assert rows_of(batches) == [(0, 0), (0, 1), (0, 2)]
    assert queue.first_offset is None


def test_a_partition_that_nobody_spoke_for_is_waited_for_but_not_for_ever() -> None:
    queue, clock = Queue(), tick(Clock(), 0, clock_ms=1_000, p0=5)
    queue.add(coded(0, 0, [10]), 1, clock)
    clock = ticks(clock, 2, MAX_WAIT_MS - 1_000, p0=100)
    assert queue.release(clock) == ([], None)
    clock = ticks(clock, 3, 1_000, p0=100)
    assert rows_of(queue.release(clock)[0]) == [(0, 0)]


def test_time_in_which_nobody_ticked_is_not_waited() -> None:
    """After an outage the first encoder to be back is not fed before the other one had a chance."""
    queue, clock = Queue(), tick(Clock(), 0, clock_ms=1_000, p0=5, p1=5)
    queue.add(coded(0, 0, [10]), 1, clock)
    clock = tick(clock, 2, clock_ms=3_600_000, p0=100)
    assert queue.release(clock) == ([], None)
    assert rows_of(queue.release(tick(clock, 3, clock_ms=3_601_000, p1=100))[0]) == [(0, 0)]


def test_a_partition_that_is_behind_is_waited_for_while_somebody_speaks_of_it() -> None:
    queue, clock = Queue(), tick(Clock(), 0, clock_ms=1_000, p0=5, p1=5)
    queue.add(coded(0, 0, [10, 30]), 1, clock)
    clock = ticks(clock, 2, 10 * MAX_WAIT_MS, behind=(1,), p0=100, p1=20)
    assert rows_of(queue.release(clock)[0]) == [(0, 0)]
    gone = ticks(clock, 3, MAX_WAIT_MS - 1_000, p0=100)
    assert queue.release(gone) == ([], None)
    assert rows_of(queue.release(ticks(gone, 4, 1_000, p0=100))[0]) == [(0, 1)]


def test_a_partition_that_was_read_to_its_end_is_not_waited_for_for_ever() -> None:
    """A producer's clock that is ahead must not have all its rows wait for those of the others."""
    queue, clock = Queue(), tick(Clock(), 0, clock_ms=1_000, behind=(1,), p0=5, p1=5)
    queue.add(coded(0, 0, [10**9]), 1, clock)
    assert rows_of(queue.release(ticks(clock, 2, MAX_WAIT_MS, p0=10**9, p1=100))[0]) == [(0, 0)]


def test_late_rows_are_fed_with_the_next_tick() -> None:
    queue, clock = Queue(), Clock()
    queue.add(coded(0, 0, [100]), 0, Clock())
    clock = tick(clock, 1, p0=100, p1=100)
    queue.release(clock)
    queue.add(coded(1, 0, [50]), 2, Clock())
    assert rows_of(queue.release(tick(clock, 3, p0=100, p1=100))[0]) == [(1, 0)]


def test_the_last_word_on_a_partition_holds() -> None:
    clock = tick(tick(Clock(), 0, p0=100, p1=80), 1, p0=60)
    assert clock.watermark_ms == 60


def test_extras_and_unknown_features_follow_their_rows() -> None:
    queue = Queue()
    first, second = coded(0, 0, [10, 30]), coded(1, 0, [20, 40])
    one = CodedBatch(STREAM, "d", 1, first.codes, first.origins, (Extra(1, 0, "x"),), ())
    other = CodedBatch(STREAM, "d", 1, second.codes, second.origins, (Extra(0, 0, "y"),), (Unknown(1, "f"),))
    queue.add(one, 0, Clock())
    queue.add(other, 1, Clock())
    ((merged,), _) = queue.release(tick(Clock(), 2, p0=100, p1=100))
    assert isinstance(merged, CodedBatch)
    assert merged.extras == (Extra(1, 0, "y"), Extra(2, 0, "x"))
    assert merged.unknown == (Unknown(3, "f"),)
    assert merged.codes[:, 0].tolist() == [0, 0, 1, 1]


def test_batches_of_different_references_are_not_mixed() -> None:
    queue = Queue()
    queue.add(coded(0, 0, [10, 30]), 0, Clock())
    queue.add(coded(1, 0, [20, 40], digest="e"), 1, Clock())
    batches, _ = queue.release(tick(Clock(), 2, p0=100, p1=100))
    assert [batch.digest for batch in batches if isinstance(batch, CodedBatch)] == ["d", "e"]


def test_raw_rows_are_merged_too() -> None:
    def raw(partition: int, times: list[int]) -> RawBatch:
        return RawBatch(STREAM, tuple(Row("m", "", "", t, {}, None, None, None, partition, i, 0, t)
                                      for i, t in enumerate(times)))  # fmt: skip

    queue = Queue()
    queue.add(raw(0, [10, 30]), 0, Clock())
    queue.add(raw(1, [20]), 1, Clock())
    assert rows_of(queue.release(tick(Clock(), 2, p0=100, p1=100))[0]) == [(0, 0), (1, 0), (0, 1)]


def test_labels_of_two_encoders_come_out_by_time_and_do_not_wait_for_rows() -> None:
    queue, clock = Queue(), Clock(0, 0)
    for partition, times in ((0, [10, 30]), (1, [20])):
        labels = [Label("m", str(ms), 1, ms, partition, ms, 0, ms) for ms in times]
        queue.add(LabelBatch.of("m", labels), partition, clock)
        clock = clock.advance(Tick(0, 2, {0: 0}, labels_total=2, label_promises={partition: 25}), partition)
        released, _ = queue.release_labels(clock)
        if partition == 0:
            assert not released, "nobody has spoken for the other partition"
    assert sorted(ms for batch in released for ms in batch.origins.record_ms.tolist()) == [10, 20]
    assert queue.first_offset == 0


def test_ticks_on_the_wire() -> None:
    sent = Tick(5, 3, {0: 7, 2: -1}, [2], 2, {1: 8}, [1])
    data = encode_tick(sent)
    assert is_tick(data)
    assert decode_tick(data) == sent
    with pytest.raises(WireError, match="cannot be"):
        decode_tick(encode_tick(Tick(5, 1, {1: 7})))
    with pytest.raises(WireError, match="not where"):
        decode_tick(encode_tick(Tick(5, 2, {1: 7}, [0])))
    with pytest.raises(WireError):
        decode_tick(encode_tick(Tick(5, 2, {1: 7}, [], 1, {1: 7})))
    assert decode_tick(encode_tick(sent, version=1)) == Tick(5, 3, {0: 7, 2: -1}), "nobody is behind"
    with pytest.raises(WireError):
        decode_tick(data[:-1])


Entry = CodedBatch | Tick


@st.composite
def codes_topics(draw: st.DrawFn) -> list[Entry]:
    """What two encoders of one input partition each might write: batches with ascending times, ticks behind them."""
    times, offsets = [0, 0], [0, 0]
    topic: list[Entry] = []
    clock_ms = 0
    for _ in range(draw(st.integers(1, 25))):
        partition = draw(st.integers(0, 1))
        stamps = []
        for step in draw(st.lists(st.integers(0, 2_000), max_size=4)):
            times[partition] += step
            stamps.append(times[partition])
        if stamps:
            topic.append(coded(partition, offsets[partition], stamps))
            offsets[partition] += len(stamps)
        clock_ms += draw(st.integers(0, 3_000))
        behind = [partition] if draw(st.booleans()) else []
        topic.append(Tick(clock_ms, 2, {partition: times[partition]}, behind))
    return topic


def play(topic: list[Entry], start: int, queue: Queue, clock: Clock, fed: list[tuple[int, int]]) -> list[Clock]:
    """Read the topic from an offset on; returns the clock after every offset."""
    clocks = []
    for offset in range(start, len(topic)):
        entry = topic[offset]
        if isinstance(entry, Tick):
            clock = clock.advance(entry, offset)
            fed += rows_of(queue.release(clock)[0])
        else:
            queue.add(entry, offset, clock)
        clocks.append(clock)
    return clocks


@settings(max_examples=200)
@given(codes_topics(), st.data())
def test_every_row_is_fed_once_in_partition_order_and_a_restore_changes_nothing(
    topic: list[Entry], data: st.DataObject
) -> None:
    topic = [*topic, Tick(10**9, 2, {0: 10**9, 1: 10**9})]
    whole: list[tuple[int, int]] = []
    clocks = play(topic, 0, Queue(), Clock(), whole)
    for partition in (0, 1):
        own = [offset for p, offset in whole if p == partition]
        assert own == list(range(len(own)))
    assert len(whole) == sum(len(entry) for entry in topic if isinstance(entry, CodedBatch))

    stop = data.draw(st.integers(0, len(topic)))
    before: list[tuple[int, int]] = []
    queue = Queue()
    play(topic[:stop], 0, queue, Clock(), before)
    first = queue.first_offset
    committed = data.draw(st.integers(0, stop if first is None else first))
    after: list[tuple[int, int]] = []
    base = max((c for c in clocks[:committed] if c.offset <= committed), key=lambda c: c.offset, default=Clock())
    play(topic, committed, Queue(queue.stamp, queue.released_ms), base, after)
    assert before + after == whole
