"""What is written comes back, as it was written, in order."""

from __future__ import annotations

from collections import defaultdict

from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message, Record, TopicPartition
from tests.contract.environment import Environment, read_to_end, start_reading, take


def test_a_record_keeps_key_value_headers_and_time(env: Environment) -> None:
    topic = env.topic()
    message = Message(
        topic, b"key", b"value", headers=(("ce_id", b"1"), ("ce_id", b"2")), timestamp_ms=1_700_000_000_123
    )
    env.producer().commit([message], {}, None)
    (record,) = env.read_all(topic)
    assert record[:6] == (topic, 0, 0, 1_700_000_000_123, b"key", b"value")
    assert [tuple(header) for header in record.headers] == [("ce_id", b"1"), ("ce_id", b"2")]
    assert isinstance(record, Record)


def test_a_record_without_a_time_gets_the_present(env: Environment) -> None:
    topic = env.topic()
    env.producer().commit([Message(topic, None, b"value")], {}, None)
    (record,) = env.read_all(topic)
    assert record.timestamp_ms > 1_600_000_000_000
    assert record.key is None
    assert list(record.headers) == []


def test_a_tombstone_has_no_value_and_an_empty_value_is_none(env: Environment) -> None:
    topic = env.topic()
    env.producer().commit([Message(topic, b"gone", None), Message(topic, b"empty", b"")], {}, None)
    assert [record.value for record in env.read_all(topic)] == [None, b""]


def test_a_foreign_record_may_lack_both_key_and_value(env: Environment) -> None:
    topic = env.topic()
    env.backend.append([Message(topic, None, None)])
    (record,) = env.read_all(topic)
    assert (record.key, record.value) == (None, None)


def test_order_holds_within_a_partition_across_transactions(env: Environment) -> None:
    topic = env.topic(partitions=3)
    producer = env.producer()
    for start in range(0, 300, 100):
        numbers = range(start, start + 100)
        producer.commit([Message(topic, None, b"%d" % each, partition=each % 3) for each in numbers], {}, None)
    values = defaultdict(list)
    for record in env.read_all(topic):
        values[record.partition].append(int(record.value or b""))
    assert values == {at: list(range(at, 300, 3)) for at in range(3)}


def test_a_key_goes_where_every_client_of_kafka_sends_it(env: Environment) -> None:
    topic = env.topic(partitions=8)
    keys = [b"key-%d" % each for each in range(40)]
    env.producer().commit([Message(topic, key, b"ours") for key in keys], {}, None)
    env.backend.append([Message(topic, key, b"foreign") for key in keys])
    records = env.read_all(topic)
    assert len(records) == 80
    assert all(record.partition == partition_of(record.key or b"", 8) for record in records)


def test_a_group_member_reads_many_records_over_several_polls(env: Environment) -> None:
    topic = env.topic(partitions=2)
    env.backend.append([Message(topic, None, b"%d" % each, partition=each % 2) for each in range(25_000)])
    consumer = env.consumer(env.name("group"), topic, "a")
    while not consumer.assignment():
        consumer.poll(1.0)
    start_reading(consumer, consumer.assignment())
    records = take(consumer, 25_000)
    assert len(records) == 25_000
    for at in range(2):
        mine = [record for record in records if record.partition == at]
        assert [record.offset for record in mine] == list(range(12_500))
        assert [int(record.value or b"") for record in mine] == list(range(at, 25_000, 2))


def test_a_reader_sees_several_topics_from_their_beginning(env: Environment) -> None:
    first, second = env.topic(), env.topic()
    env.backend.append([Message(first, b"k", b"1"), Message(second, b"k", b"2")])
    reader = env.reader([TopicPartition(first, 0), TopicPartition(second, 0)])
    assert {record.value for record in read_to_end(reader)} == {b"1", b"2"}
    env.backend.append([Message(second, b"k", b"3")])
    assert [record.value for record in read_to_end(reader)] == [b"3"]
