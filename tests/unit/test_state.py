"""Snapshots: bit for bit at any row; and whatever the bytes, an error with a reason or a cold start, never a crash."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_monitor import state as states
from stream_monitor import wire
from stream_monitor.batch import RawBatch
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.coding import code
from stream_monitor.encode import Binner
from stream_monitor.errors import VersionUnknown, WireError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.ordering import LONG_AGO, Clock, decode_tick
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.state import Array, Saved, Snapshot
from stream_monitor.stream import Stream
from stream_monitor.streams import StreamFactory
from tests.unit import world

HOUR_MS = 3_600_000
Live = dict[bytes, bytes]


@cache
def seasonal_rows(count: int, seed: int) -> tuple[Row, ...]:
    """Two weeks and more of a value that follows the hour of the day."""
    rng = np.random.default_rng(seed)
    step_ms = 14 * 24 * HOUR_MS // 5_000
    times = world.START_MS + np.arange(count) * step_ms
    values = rng.normal(size=count) + 3 * np.sin(2 * np.pi * (times // HOUR_MS % 24) / 24)
    return tuple(
        Row("m", "", "", t, {"x": x}, None, None, None, 0, i, 0)
        for i, (t, x) in enumerate(zip(times.tolist(), values.tolist(), strict=True))
    )


@cache
def references() -> dict[str, Reference]:
    seasonal = fit(list(seasonal_rows(5_000, 1)), StreamKey("m"), FitOptions(season=Season.HOUR_OF_DAY, ordered=True))
    return {"plain": world.reference(), "seasonal": seasonal}


@cache
def book() -> ReferenceBook:
    made = ReferenceBook()
    for epoch, reference in enumerate(references().values(), FIRST_EPOCH):
        made.apply(key_of(reference.stream, epoch), reference.to_json())
    return made


def new_stream(**detection: Any) -> Stream:
    return StreamFactory(world.settings(detection={"budget_events": 10_000, **detection})).stream(StreamKey("m"))


def feed(stream: Stream, rows: list[Row], kind: str) -> list[str]:
    """Rows in their form for this kind of stream; the ids of the alerts."""
    if not rows:
        return []
    if kind == "warming":
        return [alert.id for alert in stream.feed(RawBatch(stream.key, tuple(rows)), book()).alerts]
    entry = ReferenceBook.entry(references()[kind], FIRST_EPOCH)
    batch = code(rows, stream.key, entry, binner(kind))
    return [alert.id for alert in stream.feed(batch, book()).alerts]


@cache
def binner(kind: str) -> Binner:
    return Binner(references()[kind])


def applied(records: list[tuple[bytes, bytes | None]], live: Live) -> Live:
    """What a compacted topic holds after these records."""
    kept = live | {key: value for key, value in records if value is not None}
    return {key: value for key, value in kept.items() if dict(records).get(key, b"") is not None}


def restored(live: Live, stream: Stream | None = None) -> states.Restored:
    grouped, strange = states.group_records(live)
    assert not strange
    return states.restore(stream or new_stream(), grouped[StreamKey("m")], book())


def snapshot(stream: Stream, stamp: int = 7, released_ms: int = 9) -> Live:
    return applied(states.save(stream, stamp, released_ms, Saved())[0], {})


ROWS: dict[str, Callable[[], list[Row]]] = {
    "plain": lambda: world.rows(1_700, drift_at=700),
    "seasonal": lambda: list(seasonal_rows(1_700, 2)),
    "warming": lambda: world.rows(1_700, drift_at=1_200),
}


@pytest.mark.parametrize("kind", ROWS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1_700), later=st.integers(0, 1_700))
def test_a_snapshot_is_bit_for_bit_at_any_row_and_goes_on_equal(kind: str, cut: int, later: int) -> None:
    """Watched (with an open episode from row 710 or so), seasonal, and warming up with the switch at row 1,000."""
    rows = ROWS[kind]()
    cut, later = sorted((cut, later))
    whole, head = new_stream(), new_stream()
    ids = feed(whole, rows, kind)
    found = feed(head, rows[:cut], kind)
    live = snapshot(head)
    learned = head.monitor.entry.reference if head.monitor is not None else None
    if learned is not None and kind == "warming":
        book().apply(key_of(learned.stream, 0), learned.to_json())
    back = restored(live)
    assert (back.lost, back.cold, back.stamp, back.released_ms) == ("", {}, 7, 9)
    assert snapshot(back.stream) == live
    found += feed(back.stream, rows[cut:later], kind)
    found += feed(back.stream, rows[later:], kind)
    assert found == ids
    assert snapshot(back.stream) == snapshot(whole)


def test_an_open_episode_is_in_the_snapshots_above() -> None:
    stream = new_stream()
    feed(stream, ROWS["plain"]()[:1_000], "plain")
    assert stream.monitor is not None
    assert stream.monitor.episodes


# ---- parts, chunks, tombstones ----


def test_a_large_snapshot_is_split_and_the_parts_left_over_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream()
    feed(stream, world.rows(500), "plain")
    monkeypatch.setattr(wire, "RECORD_BYTES", 1_000)
    records, saved = states.save(stream, 1, 1, Saved())
    live = applied(records, {})
    assert saved.parts == len(live) > 5
    monkeypatch.setattr(wire, "RECORD_BYTES", 3_000)
    records, smaller = states.save(stream, 2, 2, saved)
    live = applied(records, live)
    assert len(live) == smaller.parts < saved.parts
    assert restored(live).stamp == 2


@pytest.mark.parametrize("change", ["missing", "mixed", "swapped"])
def test_parts_that_do_not_belong_together_start_cold(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream()
    feed(stream, world.rows(500), "plain")
    monkeypatch.setattr(wire, "RECORD_BYTES", 1_000)
    live, other = snapshot(stream, 1), snapshot(stream, 2)
    one, two = states.key(stream.key, 1), states.key(stream.key, 2)
    match change:
        case "missing":
            del live[one]
        case "mixed":
            live[one] = other[one]
        case "swapped":
            live[one], live[two] = live[two], live[one]
    back = restored(live)
    assert back.lost
    assert (back.stamp, back.released_ms) == (0, LONG_AGO)
    healed = applied(states.save(back.stream, 3, 3, back.saved)[0], live)
    assert restored(healed).lost == ""
    assert len(healed) == 1


def test_chunks_of_a_warm_up_are_written_once_and_deleted_when_it_is_over() -> None:
    live: Live = {}
    stream, saved = new_stream(warmup_events=300), Saved()
    written = 0
    for start in range(0, 300, 50):
        feed(stream, world.rows(300)[start : start + 50], "warming")
        records, saved = states.save(stream, start, start, saved)
        written += sum(key.startswith(b'["w"') and value is not None for key, value in records)
        live = applied(records, live)
    assert written == 5
    assert stream.monitor is not None
    assert not [key for key in live if key.startswith(b'["w"')]


def test_a_warm_up_that_failed_and_began_anew_between_two_saves_is_written_anew() -> None:
    """The new rows are as many as the old ones: their number alone does not tell them apart."""
    stream = new_stream(warmup_events=100)
    hopeless = [Row("m", "", "", i, {}, None, None, None, 0, i, 0) for i in range(100)]
    feed(stream, hopeless[:60], "warming")
    records, saved = states.save(stream, 1, 1, Saved())
    live = applied(records, {})
    assert stream.feed(RawBatch(stream.key, tuple(hopeless[60:])), book()).failed
    fresh = world.rows(80)
    feed(stream, fresh, "warming")
    live = applied(states.save(stream, 2, 2, saved)[0], live)
    assert restored(live, new_stream(warmup_events=100)).stream.warmup == fresh


def test_a_warm_up_after_a_loss_does_not_build_on_old_chunks() -> None:
    stream = new_stream(warmup_events=100)
    feed(stream, world.rows(40), "warming")
    live = snapshot(stream)
    part = states.key(stream.key, 0)
    live[part] = live[part][:-3]
    back = restored(live, new_stream(warmup_events=100))
    assert back.lost
    fresh = world.rows(30, seed=5)
    feed(back.stream, fresh, "warming")
    live = applied(states.save(back.stream, 2, 2, back.saved)[0], live)
    assert restored(live, new_stream(warmup_events=100)).stream.warmup == fresh


def test_a_warm_up_made_shorter_than_what_is_saved_ends_with_the_next_row() -> None:
    stream = new_stream(warmup_events=1_000)
    rows = world.rows(900)
    feed(stream, rows[:800], "warming")
    back = restored(snapshot(stream), new_stream(warmup_events=300))
    feed(back.stream, rows[800:801], "warming")
    assert back.stream.monitor is not None
    assert back.stream.monitor.entry.reference.source.rows == 300


# ---- another version ----


def test_another_tag_starts_that_detector_cold_and_no_other() -> None:
    stream = new_stream()
    feed(stream, world.rows(650), "plain")
    before = decoded(snapshot(stream))
    assert before.watched is not None
    for name, detector in before.watched.detectors.items():
        other = {**before.watched.detectors, name: msgspec.structs.replace(detector, tag=f"{name}/0/river-0.1/abc")}
        back = restored(encoded(with_watched(before, detectors=other)))
        assert back.lost == ""
        assert list(back.cold) == [name]
        assert "its parameters or its library changed" in back.cold[name]
        after = decoded(snapshot(back.stream))
        assert after.watched is not None
        same = {each for each in before.watched.detectors
                if after.watched.detectors[each] == before.watched.detectors[each]}  # fmt: skip
        assert same == before.watched.detectors.keys() - {name}
        assert after.watched.monitor == before.watched.monitor
        feed(back.stream, world.rows(500, drift_at=100), "plain")


def test_a_state_of_the_future_is_neither_lost_nor_cold() -> None:
    stream = new_stream()
    live = snapshot(stream)
    part = states.key(stream.key, 0)
    newer = wire.frame(states.KIND, wire.NEWEST + 1, live[part][wire.HEADER_BYTES :])
    with pytest.raises(VersionUnknown, match="upgrading"):
        restored({part: newer})
    with pytest.raises(VersionUnknown):
        states.group_records({msgspec.json.encode(["z", "m", "", "", 0]): newer})
    live[part] = live[part][:4] + b"\x09" + live[part][5:]
    assert restored(live).lost == "checksum does not match: the bytes are damaged"


def test_a_reference_that_is_gone_is_named() -> None:
    stream = new_stream()
    feed(stream, world.rows(100), "plain")
    grouped, _ = states.group_records(snapshot(stream))
    back = states.restore(new_stream(), grouped[stream.key], ReferenceBook())
    assert "no longer on the references topic" in back.lost


# ---- hostile bytes ----


def decoded(live: Live) -> Snapshot:
    pieces = msgspec.msgpack.Decoder(list[Any])
    parts = [wire.unpack(states.KIND, data, pieces) for data in live.values()]
    data = b"".join(part[3] for part in parts)
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data), type=Snapshot)


def encoded(given: Snapshot) -> Live:
    return framed(msgspec.msgpack.encode(given))


def framed(data: bytes) -> Live:
    """Any bytes as a snapshot of one part, with the right checksums; as version 1, which is not compressed."""
    return {states.key(StreamKey("m"), 0): wire.pack(states.KIND, 1, [7, 0, 1, data])}


def with_watched(given: Snapshot, **changes: Any) -> Snapshot:
    assert given.watched is not None
    return msgspec.structs.replace(given, watched=msgspec.structs.replace(given.watched, **changes))


def survive(live: Live) -> None:
    """Restore, go on feeding, save: whatever the bytes said, nothing is raised."""
    grouped, _ = states.group_records(live)
    for parts in grouped.values():
        back = states.restore(new_stream(warmup_events=200), parts, book())
        feed(back.stream, DRIFTING, "plain")
        states.save(back.stream, 1, 1, back.saved)


DRIFTING = world.rows(350, drift_at=50)


@cache
def sound() -> Live:
    """A watched stream's snapshot with an episode, and a warm-up's."""
    watched, warming = new_stream(), new_stream(warmup_events=200)
    feed(watched, ROWS["plain"]()[:1_000], "plain")
    feed(warming, world.rows(50), "warming")
    other = {key.replace(b'"m"', b'"n"'): value for key, value in snapshot(warming).items()}
    return snapshot(watched) | other


def damage(sound: bytes, rng: random.Random) -> bytes:
    data = bytearray(sound)
    match rng.randrange(4):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            return bytes(data) + rng.randbytes(rng.randint(1, 50))
        case 2:
            start = rng.randrange(len(data))
            data[start : start + 8] = rng.randbytes(8)
        case _:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_records_start_cold_with_a_reason(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        live = dict(sound())
        key = rng.choice(sorted(live))
        live[key] = damage(live[key], rng)
        grouped, _ = states.group_records(live)
        lost = [stream for stream, parts in grouped.items()
                if states.restore(new_stream(warmup_events=200), parts, book()).lost]  # fmt: skip
        assert lost == [StreamKey(msgspec.json.decode(key)[1])], "the damaged one, and no other"


@pytest.mark.parametrize("seed", range(5))
def test_damage_with_the_right_checksum_is_survived(seed: int) -> None:
    rng = random.Random(seed)
    whole = msgspec.msgpack.encode(decoded({states.key(StreamKey("m"), 0): sound()[states.key(StreamKey("m"), 0)]}))
    for _ in range(30):
        survive(framed(damage(whole, rng)))


EDGES = (-(2**63), -1, 0, 1, 255, 2**31, 2**62, 2**63 - 1)


def mutated(value: Any, rng: random.Random) -> Any:
    """One leaf of a decoded document replaced by an edge value of its type, or by another type."""
    if isinstance(value, dict) and value and rng.random() < 0.97:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.97:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and len(value) >= 8 and rng.random() < 0.9:
        at = rng.randrange(len(value) // 8) * 8
        piece = rng.choice((rng.randbytes(8), np.float64(np.nan).tobytes(), b"\xff" * 8, b"\0" * 7 + b"\x7f"))
        return value[:at] + piece + value[at + 8 :]
    if isinstance(value, int) and not isinstance(value, bool):
        return rng.choice(EDGES)
    if isinstance(value, float):
        return rng.choice((float("nan"), float("inf"), -1e308, 0.0))
    return rng.choice((None, "", "x" * 300, b"\0", [], {}, *EDGES))


@pytest.mark.parametrize("seed", range(8))
def test_hostile_values_in_a_well_formed_snapshot_are_survived(seed: int) -> None:
    """Every type may fit and every checksum be right: what was never a state of ours must not bring the worker down."""
    rng = random.Random(seed)
    whole = msgspec.msgpack.encode(decoded({states.key(StreamKey("m"), 0): sound()[states.key(StreamKey("m"), 0)]}))
    document = msgspec.msgpack.decode(whole)
    for _ in range(30):
        survive(framed(msgspec.msgpack.encode(mutated(document, rng))))


@pytest.mark.parametrize(
    "shape",
    [[2**62], [2**31, 2**31], [0, 2**62], [0, 0, 2**40], [1] * 100, [2**20, 2**20, 2**20], [-1], [-1, -1]],
)
def test_shapes_that_cannot_be_are_refused_before_anything_is_allocated(shape: list[int]) -> None:
    tracemalloc.start()
    with pytest.raises(WireError):
        states.unpack_array(Array("<f8", shape, b""))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_wire_error_or_cold(data: bytes) -> None:
    key = states.key(StreamKey("m"), 0)
    for value in (data, wire.frame(states.KIND, 1, data), framed(data)[key]):
        assert restored({key: value}).lost
    for read in (states.unpack_clock, decode_tick):
        with pytest.raises(WireError):
            read(data)


@given(st.binary(max_size=60))
def test_any_key_is_ours_or_strange(key: bytes) -> None:
    _, strange = states.group_records({key: b"x"})
    assert strange == 1


@pytest.mark.parametrize("number", [-1, states.MAX_PARTS, 2**40, 2**70])
def test_a_key_of_an_impossible_number_costs_no_tombstones(number: int) -> None:
    grouped, strange = states.group_records({msgspec.json.encode(["s", "m", "", "", number]): b"x"})
    assert (grouped, strange) == ({}, 1)


def test_what_looks_small_but_unpacks_large_is_bounded() -> None:
    """A frame cannot announce more than it carries."""
    bombs = (
        b"\xdd\xff\xff\xff\xff",  # an array of 2³² − 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\x91" * 500_000,  # deep nesting
        b"\x81\xa1a" * 300_000,
    )
    tracemalloc.start()
    for bomb in bombs:
        assert restored(framed(bomb)).lost
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def squeezed(data: bytes, *, told: bool = True) -> Live:
    """Any bytes as a compressed snapshot; `told`: it says how large it is."""
    packed = zstandard.ZstdCompressor(write_content_size=told).compress(data)
    return {states.key(StreamKey("m"), 0): wire.pack(states.KIND, 2, [7, 0, 1, packed])}


@pytest.mark.parametrize(
    "live",
    [
        squeezed(bytes(states.MAX_SNAPSHOT_BYTES + 1)),
        squeezed(bytes(1_000_000), told=False),
        squeezed(b"not a snapshot"),
        {states.key(StreamKey("m"), 0): wire.pack(states.KIND, 2, [7, 0, 1, b"not compressed"])},
        # A header that announces 2⁶² bytes, and nothing behind it.
        {
            states.key(StreamKey("m"), 0): wire.pack(
                states.KIND, 2, [7, 0, 1, bytes.fromhex("28b52ffde0") + b"\0" * 7 + b"\x40"]
            )
        },
    ],
    ids=["too large", "untold", "no snapshot", "not compressed", "announced"],
)
def test_what_is_not_a_compressed_snapshot_of_ours_is_refused_in_bounded_memory(live: Live) -> None:
    tracemalloc.start()
    assert restored(live).lost
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def clocks() -> Iterator[bytes]:
    good = states.pack_clock(Clock(5, 6, 2, {0: 1, 1: 2}))
    yield good[:-1]
    yield good.replace(b"SM1", b"SM2")
    yield wire.pack(states.CLOCK_KIND, 1, {"offset": "x"})


def test_a_clock_comes_back_or_is_refused() -> None:
    clock = Clock(5, 6, 2, {0: 1, 1: 2})
    assert states.unpack_clock(states.pack_clock(clock)) == clock
    for damaged in clocks():
        with pytest.raises(WireError):
            states.unpack_clock(damaged)
