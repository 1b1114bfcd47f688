"""Streams to be saved and restored, and their snapshots as a compacted topic holds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import zstandard

from stream_monitor import state as states
from stream_monitor import state_records, wire
from stream_monitor.batch import RawBatch
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.coding import code
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.state import Saved, Snapshot
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
    name = "plain" if kind == "again" else kind
    entry = ReferenceBook.entry(references()[name], FIRST_EPOCH)
    batch = code(rows, stream.key, entry, binner(name))
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


def coming_and_going(count: int) -> list[Row]:
    """Two spells of drift with normal rows between: the second episode is one that was reopened."""
    spells = [world.rows(count, drift_at=0, seed=2), world.rows(count, seed=3)]
    drifted = {*range(200, 500), *range(900, 1_200)}
    return [spells[i not in drifted][i] for i in range(count)]


ROWS: dict[str, Callable[[], list[Row]]] = {
    "plain": lambda: world.rows(1_700, drift_at=700),
    "seasonal": lambda: list(seasonal_rows(1_700, 2)),
    "warming": lambda: world.rows(1_700, drift_at=1_200),
    "again": lambda: coming_and_going(1_700),
}


def decoded(live: Live) -> Snapshot:
    pieces = msgspec.msgpack.Decoder(list[Any])
    parts = [wire.unpack(states.KIND, data, pieces) for data in live.values()]
    data = b"".join(part[3] for part in parts)
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data), type=Snapshot)


def encoded(given: Snapshot) -> Live:
    return framed(msgspec.msgpack.encode(given))


def framed(data: bytes) -> Live:
    """Any bytes as a snapshot of one part, with the right checksums; as version 1, which is not compressed."""
    return {state_records.key(StreamKey("m"), 0): wire.pack(states.KIND, 1, [7, 0, 1, data])}


def with_watched(given: Snapshot, **changes: Any) -> Snapshot:
    assert given.watched is not None
    return msgspec.structs.replace(given, watched=msgspec.structs.replace(given.watched, **changes))
