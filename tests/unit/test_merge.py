"""Merging input partitions by time: order within a partition is sacred, order across them as far as can be known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.broker.protocol import Record, TopicPartition
from stream_monitor.merge import LATENESS_MS, LEAST_POLLS, Merged, Merger

A, B, C = (TopicPartition("predictions", number) for number in range(3))


def records(partition: TopicPartition, *times: int, first: int = 0) -> list[Record]:
    return [Record(*partition, first + i, time, None, b"") for i, time in enumerate(times)]


def merger(*partitions: TopicPartition) -> Merger:
    made = Merger(max_idle_s=0.5)
    made.assign(partitions)
    return made


def idle(m: Merger, lagging: list[TopicPartition], now_s: float, limit: int = 100) -> list[Merged]:
    """What goes on after enough polls that brought nothing, the last one at `now_s`."""
    for _ in range(LEAST_POLLS - 1):
        assert m.take(lagging, limit, now_s - 0.01) == []
    return m.take(lagging, limit, now_s)


def times(taken: list[Merged]) -> list[int]:
    return [record.timestamp_ms for _, record in taken]


def test_partitions_are_merged_by_time() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1, 4, 5), 0)
    m.add(B, records(B, 2, 3, 6), 0)
    assert times(m.take([], 100, 0.0)) == [1, 2, 3, 4, 5, 6]


def test_records_of_one_millisecond_are_mixed_as_they_were_written() -> None:
    m = merger(A, B)
    m.add(A, records(A, *[5] * 30, *[6] * 10), 0)
    m.add(B, records(B, *[5] * 10, *[6] * 30), 0)
    taken = [record.partition for _, record in m.take([], 100, 0.0)]
    assert [taken[start : start + 8].count(0) for start in range(0, 80, 8)] == [6] * 5 + [2] * 5


def test_a_lagging_partition_holds_back_what_is_later_than_its_newest() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1, 4, 9), 0)
    m.add(B, records(B, 2, 5), 0)
    assert times(m.take([B], 100, 0.0)) == [1, 2, 4, 5]
    m.add(B, records(B, 10, first=2), 0)
    assert times(m.take([], 100, 0.0)) == [9, 10]


def test_an_empty_lagging_partition_is_waited_for_but_not_for_ever() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1, 2), 0)
    assert m.take([B], 100, 10.0) == []
    assert m.take([B], 100, 10.4) == []
    assert times(idle(m, [B], 10.5)) == [1, 2]


def test_waiting_goes_on_while_other_partitions_bring_records() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1), 0)
    assert m.take([B], 100, 0.0) == []
    for i in range(1, 13):
        m.add(A, records(A, i + 1, first=i), 0)
        assert m.take([B], 100, 0.4 * i) == []
    m.add(A, records(A, 20, first=13), 0)
    assert len(m.take([B], 100, 5.2)) == 14  # but not for ever


def test_waiting_starts_afresh_after_the_partition_brought_something() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1, 5), 0)
    assert m.take([B], 100, 0.0) == []
    m.add(B, records(B, 3), 0)
    assert times(m.take([B], 100, 0.4)) == [1, 3]
    assert m.take([B], 100, 0.6) == []
    assert times(idle(m, [B], 1.2)) == [5]


def test_the_time_before_anything_arrived_is_no_waiting() -> None:
    m = merger(A, B)
    assert m.take([A, B], 100, 0.0) == []
    m.add(A, records(A, 1), 0)
    assert idle(m, [B], 60.0) == []


def test_a_timestamp_that_runs_backwards_does_not_break_the_order_within_a_partition() -> None:
    m = merger(A, B)
    m.add(A, records(A, 5, 1, 6), 0)
    m.add(B, records(B, 2, 7), 0)
    taken = m.take([], 100, 0.0)
    assert [r.offset for _, r in taken if r.partition == A.partition] == [0, 1, 2]
    assert [key for key, _ in taken] == sorted(key for key, _ in taken)


def test_the_limit_takes_the_earliest_and_leaves_the_rest() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1, 3, 5), 0)
    m.add(B, records(B, 2, 4, 6), 0)
    assert times(m.take([], 2, 0.0)) == [1, 2]
    assert m.first_offset(A) == 1
    assert times(m.take([], 100, 0.0)) == [3, 4, 5, 6]
    assert m.first_offset(A) is None


def test_a_dropped_partition_is_forgotten() -> None:
    m = merger(A, B)
    m.add(A, records(A, 1), 0)
    m.drop([A])
    assert m.take([], 100, 0.0) == []


def test_promises() -> None:
    m = merger(A, B, C)
    m.add(A, records(A, 100, 200), 0)
    m.add(B, records(B, 150), 0)
    assert times(m.take([A, C], 1, 0.0)) == []
    assert times(idle(m, [A, C], 1.0, limit=1)) == [100]
    assert m.promise_ms(A, lagging=True, now_ms=10_000) == 200  # what waits goes next
    m.take([A, C], 1, 2.0)
    # Read to its end: the present, by the clock of the records, of which the newest (200) was read at 0.
    assert m.promise_ms(B, lagging=False, now_ms=10_000) == 10_200 - LATENESS_MS
    assert m.promise_ms(C, lagging=True, now_ms=10_000) == 150  # not waited for: what was taken meanwhile counts


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), min_size=3, max_size=3), st.integers(1, 20))
def test_nothing_is_lost_doubled_or_reordered(stamps: list[list[int]], limit: int) -> None:
    m = merger(A, B, C)
    for partition, given_times in zip((A, B, C), stamps, strict=True):
        m.add(partition, records(partition, *given_times), 0)
    taken: list[Merged] = []
    while part := m.take([], limit, 0.0):
        assert len(part) <= limit
        taken += part
    for partition, given_times in zip((A, B, C), stamps, strict=True):
        own = [record.offset for _, record in taken if record.partition == partition.partition]
        assert own == list(range(len(given_times)))
    if all(given_times == sorted(given_times) for given_times in stamps):
        assert times(taken) == sorted(times(taken))
