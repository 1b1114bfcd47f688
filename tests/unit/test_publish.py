"""Publishing references: the next epoch of each stream, all in one transaction, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest

from stream_monitor.book import LEARNED_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import TopicPartition, TopicSpec
from stream_monitor.errors import TopicMismatch
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.publish import plan, publish
from stream_monitor.reference import Reference, StreamKey

TOPIC = "references"


def reference(model: str, seed: int = 1, version: str = "") -> Reference:
    rng = random.Random(seed)
    rows = [Row(model, version, "", i, {"x": rng.random()}, None, None, None, 0, i, 0) for i in range(300)]
    return fit(rows, StreamKey(model, version, ""), FitOptions(ordered=True))


@pytest.fixture
def broker() -> MemoryBroker:
    memory = MemoryBroker(clock_ms=lambda: 0)
    memory.create_topics([TopicSpec(TOPIC, 1)])
    return memory


def epochs(broker: MemoryBroker, references: Iterable[Reference]) -> list[tuple[int, bool]]:
    return [(each.epoch, each.new) for each in publish(broker, TOPIC, "t", list(references))]


def test_epochs_count_up_and_the_same_document_is_left_alone(broker: MemoryBroker) -> None:
    assert epochs(broker, [reference("a"), reference("b")]) == [(1, True), (1, True)]
    assert epochs(broker, [reference("a", seed=2), reference("b")]) == [(2, True), (1, False)]
    assert epochs(broker, [reference("a")]) == [(3, True)], "an older document again is news"


def test_what_was_published_is_what_is_read(broker: MemoryBroker) -> None:
    publish(broker, TOPIC, "t", [reference("a")])
    reader = broker.reader([TopicPartition(TOPIC, 0)])
    [record] = reader.poll(0.0)
    book = ReferenceBook()
    book.apply(record.key, record.value)
    entry = book.find(StreamKey("a"))
    assert entry is not None
    assert (entry.epoch, entry.digest) == (1, reference("a").digest())


def test_a_published_reference_follows_a_learned_one_even_if_they_are_equal() -> None:
    book = ReferenceBook()
    learned = reference("a")
    book.apply(key_of(learned.stream, LEARNED_EPOCH), learned.to_json())
    [planned] = plan(book, [learned])
    assert (planned.epoch, planned.new) == (1, True)


def test_the_reference_for_all_versions_is_another_stream() -> None:
    book = ReferenceBook()
    general = reference("a")
    book.apply(key_of(general.stream, 4), general.to_json())
    special = msgspec.structs.replace(general, version="7")
    [planned] = plan(book, [special])
    assert (planned.epoch, planned.new) == (1, True)


def test_without_the_topic_it_says_which_command_makes_it() -> None:
    with pytest.raises(TopicMismatch, match="stream-monitor topics create"):
        publish(MemoryBroker(clock_ms=lambda: 0), TOPIC, "t", [reference("a")])
