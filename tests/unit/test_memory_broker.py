"""What only the memory broker has: compaction and retention on request, expulsion, determinism, its clock."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.broker.memory import MemoryBroker, MemoryConsumer
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import COMMIT_STEPS, Message, Polled, Record, TopicPartition, TopicSpec
from stream_monitor.errors import BrokerError, Fenced, TopicMismatch


def broker_with(topic: str = "t", partitions: int = 1, **options: int) -> MemoryBroker:
    broker = MemoryBroker(clock_ms=lambda: 1_000, **options)
    broker.create_topics([TopicSpec(topic, partitions)])
    return broker


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def settled(*consumers: MemoryConsumer) -> list[Polled]:
    """Poll in turn until nobody learns anything, and return what was told."""
    told: list[Polled] = []
    quiet = 0
    while quiet < 3:
        news = [polled for consumer in consumers if (polled := consumer.poll(0))]
        told += news
        quiet = 0 if news else quiet + 1
    return told


def test_compaction_keeps_the_last_of_every_key_and_the_gaps() -> None:
    broker = broker_with()
    broker.append([Message("t", key, value) for key, value in [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None)]])
    broker.append([Message("t", None, b"keyless")])
    broker.compact("t")
    records = broker.records("t")
    assert [(record.offset, record.key, record.value) for record in records] == [(2, b"a", b"3"), (3, b"b", None)]
    reader = broker.reader([TopicPartition("t", 0)])
    assert reader.poll(0) == records
    assert reader.position(TopicPartition("t", 0)) == 5 == reader.end_offsets()[TopicPartition("t", 0)]


def test_a_position_in_a_compacted_gap_reads_on() -> None:
    broker = broker_with()
    broker.append([Message("t", b"%d" % (at % 2), b"%d" % at) for at in range(10)])
    reader = broker.reader([TopicPartition("t", 0)])
    reader.seek(TopicPartition("t", 0), 3)
    broker.compact("t")
    assert values(reader.poll(0)) == [b"8", b"9"]


def test_the_clock_dates_what_has_no_date() -> None:
    broker = broker_with()
    broker.append([Message("t", None, b"x"), Message("t", None, b"y", timestamp_ms=5)])
    assert [record.timestamp_ms for record in broker.records("t")] == [1_000, 5]


def test_records_without_a_key_take_turns() -> None:
    broker = broker_with(partitions=3)
    broker.append([Message("t", None, b"%d" % at) for at in range(7)])
    assert Counter(record.partition for record in broker.records("t")) == {0: 3, 1: 2, 2: 2}


def test_a_transaction_spends_one_offset_a_partition_on_its_marker() -> None:
    broker = broker_with(partitions=2)
    broker.producer("p").commit([Message("t", None, b"x", partition=0)], {}, None)
    assert broker.bounds(broker.partitions(["t"])) == {TopicPartition("t", 0): (0, 2), TopicPartition("t", 1): (0, 0)}


def test_a_probe_is_told_every_step_and_sees_nothing_before_the_commit() -> None:
    broker = broker_with()
    seen: list[tuple[str, int]] = []
    producer = broker.producer("p", probe=lambda step: seen.append((step, len(broker.records("t")))))
    producer.commit([Message("t", None, b"x")], {}, None)
    assert seen == [(step, int(step == "done")) for step in COMMIT_STEPS]


def test_a_poll_is_bounded_and_fair() -> None:
    broker = broker_with(partitions=2, max_poll_records=10)
    broker.append([Message("t", None, b"x", partition=at % 2) for at in range(40)])
    consumer = broker.consumer("g", ["t"], instance="a")
    for partition in consumer.poll(0).assigned:
        consumer.seek(partition, 0)
        consumer.resume([partition])
    polls = [consumer.poll(0).records for _ in range(4)]
    assert [sum(map(len, records.values())) for records in polls] == [10] * 4
    assert all(len(records) == 1 for records in polls)
    assert [next(iter(records)).partition for records in polls] in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_partitions_added_to_a_topic_are_assigned() -> None:
    broker = broker_with(partitions=1)
    consumer = broker.consumer("g", ["t"], instance="a")
    settled(consumer)
    broker.add_partitions("t", 3)
    told = settled(consumer)
    assert [polled.assigned for polled in told] == [{TopicPartition("t", 1), TopicPartition("t", 2)}]
    with pytest.raises(TopicMismatch, match="nowhere"):
        broker.add_partitions("nowhere", 3)


def test_members_with_different_topics_get_only_theirs() -> None:
    broker = broker_with("t", 4)
    broker.create_topics([TopicSpec("u", 2)])
    both, only_u = broker.consumer("g", ["t", "u"], instance="both"), broker.consumer("g", ["u"], instance="u")
    settled(both, only_u)
    assert only_u.assignment() == {TopicPartition("u", 0), TopicPartition("u", 1)}
    assert both.assignment() == {TopicPartition("t", at) for at in range(4)}


def test_a_member_that_does_not_poll_holds_everybody_up_until_expelled() -> None:
    broker = broker_with(partitions=2)
    hung, new = broker.consumer("g", ["t"], instance="hung"), broker.consumer("g", ["t"], instance="new")
    settled(hung)
    assert settled(new) == []
    assert new.member() is None
    assert hung.member() is not None
    broker.expel("g", "hung")
    assert [polled.assigned for polled in settled(new)] == [frozenset(broker.partitions(["t"]))]
    assert hung.poll(0).lost == frozenset(broker.partitions(["t"]))
    with pytest.raises(ValueError, match="nobody"):
        broker.expel("g", "nobody")


def test_a_member_waiting_for_the_others_is_not_stable_but_may_still_commit() -> None:
    broker = broker_with(partitions=2)
    first, second = broker.consumer("g", ["t"], instance="1"), broker.consumer("g", ["t"], instance="2")
    settled(first)
    member = first.member()
    second.poll(0)
    assert first.member() == member
    broker.producer("p").commit([], {TopicPartition("t", 0): 4}, member)
    assert first.committed([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 4}


def test_a_closed_consumer_and_a_fenced_one_stay_so() -> None:
    broker = broker_with()
    closed = broker.consumer("g", ["t"], instance="a")
    closed.poll(0)
    closed.close()
    with pytest.raises(BrokerError, match="closed"):
        closed.poll(0)
    older, newer = broker.consumer("g", ["t"], instance="b"), broker.consumer("g", ["t"], instance="b")
    settled(older)
    settled(newer)
    for _ in range(2):
        with pytest.raises(Fenced):
            older.poll(0)
    assert older.member() is None


def test_polls_in_threads_wait_for_each_other() -> None:
    broker = broker_with(partitions=2)
    shares: dict[str, frozenset[TopicPartition]] = {}
    got: list[Record] = []

    def work(instance: str) -> None:
        consumer = broker.consumer("g", ["t"], instance=instance)
        while len(shares) < 2 or not got:
            polled = consumer.poll(0.5)
            for partition in polled.assigned:
                consumer.seek(partition, 0)
                consumer.resume([partition])
            for records in polled.records.values():
                got.extend(records)
            if len(consumer.assignment()) == 1:
                shares[instance] = consumer.assignment()
                broker.append([Message("t", None, b"wake", partition=0)])

    workers = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()
    assert shares["a"].isdisjoint(shares["b"])


@given(st.lists(st.tuples(st.sampled_from(["poll", "poll", "poll", "leave", "expel"]), st.sampled_from("abcd"))))
def test_no_partition_is_ever_held_by_two(moves: list[tuple[str, str]]) -> None:
    broker = broker_with(partitions=5)
    consumers: dict[str, MemoryConsumer] = {}
    held: dict[str, frozenset[TopicPartition]] = {}
    for move, name in moves:
        if move == "poll":
            consumer = consumers.setdefault(name, broker.consumer("g", ["t"], instance=name))
            polled = consumer.poll(0)
            held[name] = (held.get(name, frozenset()) - polled.revoked - polled.lost) | polled.assigned
            assert held[name] == consumer.assignment()
        elif name in consumers and held[name]:
            if move == "leave":
                consumers.pop(name).close()
            else:
                broker.expel("g", name)
            held[name] = frozenset()
        assert sum(map(len, held.values())) == len(frozenset().union(*held.values()))
    if consumers:
        settled(*consumers.values())
        shares = [len(consumer.assignment()) for consumer in consumers.values()]
        assert sum(shares) == 5
        assert max(shares) - min(shares) <= 1


def test_a_partition_left_to_nobody_by_a_namesake_is_given_on_request() -> None:
    """As in Kafka: killed before it gave anything up, and back as a new process that does not know of it."""
    broker = broker_with(partitions=3)
    first, second, third = (broker.consumer("g", ["t"], instance=name) for name in "abc")
    settled(first, second)
    for each in (third, first, second):
        each.poll(0)  # the last one ends the rebalance: the first is to give one up, and does not hear of it
    again = broker.consumer("g", ["t"], instance="a")
    settled(again, second, third)
    assert len(broker.given("g") or ()) == 2
    third.rejoin()
    settled(again, second, third)
    assert len(broker.given("g") or ()) == 3


def test_the_same_moves_give_the_same_shares() -> None:
    def play() -> list[list[Polled]]:
        broker = broker_with(partitions=7)
        consumers = [broker.consumer("g", ["t"], instance=name) for name in "abc"]
        story = [settled(*consumers[: at + 1]) for at in range(3)]
        consumers[0].close()
        return [*story, settled(*consumers[1:])]

    assert play() == play()


# From Kafka's own UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_spread_as_in_java(key: bytes, hashed: int) -> None:
    assert partition_of(key, 1_000_003) == (hashed & 0x7FFFFFFF) % 1_000_003
