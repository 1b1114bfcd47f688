"""The reference book: which reference is in force for a stream, and what cannot be one."""

from __future__ import annotations

import pytest

from stream_monitor.book import ReferenceBook, key_of, parse_key
from stream_monitor.codes import FIRST_BIN
from stream_monitor.errors import ReferenceInvalid
from stream_monitor.reference import Bins, Column, Kind, Reference, Role, Source, StreamKey


def reference(stream: StreamKey, rows: int = 10) -> Reference:
    column = Column("x", Role.INPUT, Kind.NUMERIC, [Bins([0] * FIRST_BIN + [rows], [1.0], 0.0)])
    return Reference(1, *stream, [column], Source("file", rows))


def publish(book: ReferenceBook, stream: StreamKey, epoch: int, rows: int = 10) -> str:
    document = reference(stream, rows)
    book.apply(key_of(stream, epoch), document.to_json())
    return document.digest()


def digest_for(book: ReferenceBook, *stream: str) -> str | None:
    entry = book.find(StreamKey(*stream))
    return entry.digest if entry else None


def test_the_newest_epoch_is_in_force_whatever_the_order_of_arrival() -> None:
    book = ReferenceBook()
    newer = publish(book, StreamKey("m"), 2, rows=20)
    older = publish(book, StreamKey("m"), 1, rows=10)
    assert digest_for(book, "m") == newer
    assert book.by_digest(older) is not None


def test_a_version_falls_back_to_its_model_and_prefers_its_own() -> None:
    book = ReferenceBook()
    whole = publish(book, StreamKey("m"), 9)
    assert digest_for(book, "m", "7") == whole
    before = book.find(StreamKey("m", "7"))
    own = publish(book, StreamKey("m", "7"), 1)
    after = book.find(StreamKey("m", "7"))
    assert digest_for(book, "m", "7") == own
    assert before is not None
    assert after is not None
    assert after.generation > before.generation


def test_a_segment_never_borrows_the_reference_of_the_whole() -> None:
    book = ReferenceBook()
    publish(book, StreamKey("m"), 1)
    assert digest_for(book, "m", "", "region=EU") is None
    own = publish(book, StreamKey("m", "", "region=EU"), 1)
    assert digest_for(book, "m", "7", "region=EU") == own


def test_a_published_reference_supersedes_a_learned_one() -> None:
    book = ReferenceBook()
    learned = ReferenceBook.entry(reference(StreamKey("m")), 0)
    publish(book, StreamKey("m"), 0)
    found = book.find(StreamKey("m"))
    assert found is not None
    assert found.generation == learned.generation
    publish(book, StreamKey("m"), 1, rows=11)
    found = book.find(StreamKey("m"))
    assert found is not None
    assert found.generation > learned.generation


def test_a_tombstone_brings_the_epoch_before_back() -> None:
    book = ReferenceBook()
    first = publish(book, StreamKey("m"), 1, rows=10)
    second = publish(book, StreamKey("m"), 2, rows=20)
    book.apply(key_of(StreamKey("m"), 2), None)
    assert digest_for(book, "m") == first
    assert book.by_digest(second) is None


@pytest.mark.parametrize("key", [None, b"", b"nonsense", b'["m"]', b'["m","","",-1]', b'["m","","","1"]'])
def test_keys_that_are_none_are_refused(key: bytes | None) -> None:
    with pytest.raises(ReferenceInvalid):
        ReferenceBook().apply(key, b"{}")


def test_a_document_under_the_key_of_another_stream_is_refused_and_changes_nothing() -> None:
    book = ReferenceBook()
    with pytest.raises(ReferenceInvalid, match="published under the key"):
        book.apply(key_of(StreamKey("m"), 1), reference(StreamKey("other")).to_json())
    assert book.streams() == []


def test_keys_come_back() -> None:
    assert parse_key(key_of(StreamKey("m", "7", "a=b"), 3)) == (StreamKey("m", "7", "a=b"), 3)
