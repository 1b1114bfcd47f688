"""Wire versions: what the release before wrote is read, what it can read is written, what is newer is never lost."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from stream_monitor import state as states
from stream_monitor import wire
from stream_monitor.batch import CodedBatch, RawBatch, decode, encode_coded, encode_raw
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message, TopicPartition
from stream_monitor.errors import VersionUnknown, WireError
from stream_monitor.ordering import Clock, Tick, decode_tick, encode_tick
from stream_monitor.reference import StreamKey
from stream_monitor.streams import StreamFactory
from tests.unit import world
from tests.unit.test_batch import STREAM, coded, raw_row
from tests.unit.world import World

GOLDEN = Path(__file__).parents[1] / "data" / "wire-1.msgpack.gz"
OLD, NEW = wire.OLDEST, wire.NEWEST
REFERENCE = world.reference()


@cache
def golden() -> dict[str, list[tuple[bytes, bytes]]]:
    """What the last release with wire version 1 wrote, by topic; kept as it was, never made anew."""
    records = msgspec.msgpack.decode(gzip.decompress(GOLDEN.read_bytes()), type=list[tuple[str, bytes, bytes]])
    topics: dict[str, list[tuple[bytes, bytes]]] = {}
    for topic, key, value in records:
        topics.setdefault(topic, []).append((key, value))
    return topics


def test_codes_of_version_1_are_read() -> None:
    assert wire.OLDEST == 1, "once version 1 is read no more, the golden file goes"
    batch, raw, tick = (value for _, value in golden()["codes"])
    back, rows = decode(batch), decode(raw)
    assert isinstance(back, CodedBatch)
    assert isinstance(rows, RawBatch)
    assert next(encode_coded(back)) == next(encode_coded(coded(40)))
    assert rows.rows == tuple(raw_row(i, {"x": i / 3, "city": "Rome", "n": None}) for i in range(20))
    assert decode_tick(tick) == Tick(1_700_000_000_123, 3, {0: 1_700_000_000_000, 2: 1_699_999_999_000})


def test_a_watched_state_of_version_1_is_restored_whole() -> None:
    live = dict(golden()["state"])
    assert states.unpack_clock(live[states.CLOCK_KEY]) == Clock(5, 6, 2, {0: 1, 1: 2})
    book = ReferenceBook()
    for key, value in golden()["references"]:
        book.apply(key, value)
    grouped, strange = states.group_records(live)
    settings = world.settings(detection={"budget_events": 10_000})
    back = states.restore(StreamFactory(settings).stream(StreamKey("m")), grouped[StreamKey("m")], book)
    assert (strange, back.lost, back.stamp, back.released_ms, back.version) == (0, "", 7, 9, 1)
    assert back.stream.monitor is not None
    assert back.stream.monitor.rows == 1_000
    assert back.stream.monitor.episodes


def test_a_warm_up_of_version_1_is_restored_whole() -> None:
    grouped, _ = states.group_records(dict(golden()["warming"]))
    stream = StreamFactory(world.settings()).stream(StreamKey("m"))
    back = states.restore(stream, grouped[StreamKey("m")], ReferenceBook())
    assert back.stream.warmup == world.rows(60)


# ---- what is written ----


class Point(msgspec.Struct, array_like=True):
    ADDED: ClassVar[dict[str, int]] = {"z": 2}
    x: int
    z: int = 0


class Named(msgspec.Struct):
    ADDED: ClassVar[dict[str, int]] = {"z": 2}
    x: int
    z: int = 0


@pytest.mark.parametrize("kind", [Point, Named])
def test_a_field_added_later_is_left_out_for_older_readers_and_has_its_default(kind: type[Point] | type[Named]) -> None:
    decoder: msgspec.msgpack.Decoder[Point | Named] = msgspec.msgpack.Decoder(kind)
    sent = kind(1, 5)
    assert wire.unpack(b"P", wire.pack(b"P", 2, sent), decoder) == sent
    old = wire.pack(b"P", 1, sent)
    assert wire.unpack(b"P", old, decoder) == kind(1)
    assert len(msgspec.msgpack.decode(old[wire.HEADER_BYTES :])) == 1


def test_every_writer_writes_the_version_it_is_told() -> None:
    assert {value[4] for value in written(OLD)} == {OLD}
    assert {value[4] for value in written(NEW)} == {NEW}


def written(version: int) -> Iterator[bytes]:
    """Everything on codes and state, of a watched and a warming stream, with an encoder of that version."""
    given = World(world.settings(worker={"wire_version": version}), references=[REFERENCE])
    worker = given.worker()
    given.write([*world.rows(300, drift_at=100), *world.rows(50, model="w", first=300)])
    given.settle(worker)
    worker.close()
    for topic in (given.base.topics.codes, given.base.topics.state):
        for record in given.broker.records(topic):
            assert record.value is not None
            yield record.value


def test_what_is_written_for_the_release_before_has_its_form() -> None:
    """Byte for byte, but for the clock of an encoder."""
    batch, raw, tick = (value for _, value in golden()["codes"])
    assert next(encode_coded(coded(40), 1)) == batch
    rows = tuple(raw_row(i, {"x": i / 3, "city": "Rome", "n": None}) for i in range(20))
    assert next(encode_raw(RawBatch(STREAM, rows), 1)) == raw
    assert encode_tick(decode_tick(tick), 1) == tick
    grouped, _ = states.group_records(dict(golden()["warming"]))
    stream = StreamFactory(world.settings()).stream(StreamKey("m"))
    back = states.restore(stream, grouped[StreamKey("m")], ReferenceBook())
    records, _ = states.save(back.stream, 7, 9, states.Saved(), 1)
    assert records == golden()["warming"]


# ---- what is newer, and what is damaged ----


def test_a_header_that_is_damaged_is_damage_not_another_version() -> None:
    for version in (OLD, NEW):
        sound = next(encode_coded(coded(5), version))
        for at in range(wire.HEADER_BYTES):
            for value in range(256):
                if value != sound[at]:
                    with pytest.raises(WireError):
                        decode(sound[:at] + bytes((value,)) + sound[at + 1 :])


@pytest.mark.parametrize("topic", ["codes", "state"])
@pytest.mark.parametrize("kind", [b"B", b"L"])
def test_a_record_of_a_newer_release_ends_the_worker_and_is_not_passed(topic: str, kind: bytes) -> None:
    given = World(references=[REFERENCE])
    partition = partition_of(world.MODEL.encode(), 2)
    newer = Message(getattr(given.base.topics, topic), b"?", wire.frame(kind, NEW + 1, b"\x80"), partition)
    given.write(world.rows(200))
    if topic == "codes":
        worker = given.worker()
        given.turn(worker, rounds=10)
        given.broker.append([newer])
        with pytest.raises(VersionUnknown, match=f"wire version {NEW + 1}"):
            given.turn(worker, rounds=10)
        codes = TopicPartition(given.base.topics.codes, partition)
        end = next(r.offset for r in given.broker.records(codes.topic) if r.value == newer.value)
        committed = given.broker.group_offsets(f"{given.base.group}-detect", [codes])[codes]
        assert committed is not None
        assert committed <= end
    else:
        given.broker.append([newer])
        worker = given.worker()
        with pytest.raises(VersionUnknown):
            given.turn(worker, rounds=10)
    assert VersionUnknown.exit_code == 8


def test_states_of_the_older_version_are_written_anew_after_a_restore_though_no_row_comes() -> None:
    """Else a stream that sleeps through two releases could not be read by the second."""
    given = World(world.settings(worker={"wire_version": OLD}), references=[REFERENCE])
    given.write(world.rows(200))
    worker = given.worker()
    given.settle(worker)
    worker.close()
    given.base = world.settings()
    worker = given.worker()
    given.settle(worker)
    worker.close()
    live = {record.key: record.value for record in given.broker.records(given.base.topics.state)}
    assert {(value or b"")[4] for value in live.values()} == {NEW}
