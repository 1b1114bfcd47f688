"""The snapshot of a stream on the state topic: typed, versioned, checked, size-capped; never pickled.

Records of one stream: `["s", model, version, segment, part]`, the snapshot split into parts below the record limit, and
`["w", model, version, segment, chunk]`, the raw rows of a warm-up, each written once. All parts of a snapshot are
written in one transaction, so a reader of committed records sees them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor import wire
from stream_monitor.batch import RawBatch, encode_raw
from stream_monitor.batch import decode as decode_batch
from stream_monitor.book import Entry, ReferenceBook
from stream_monitor.errors import WireError
from stream_monitor.events import DATES_MS, Row
from stream_monitor.limits import UNBORN, Birth
from stream_monitor.monitor import Monitor, MonitorState
from stream_monitor.ordering import LONG_AGO, Clock
from stream_monitor.reference import StreamKey
from stream_monitor.silence import Rhythm
from stream_monitor.state_records import (
    MAX_PARTS,
    Array,
    Detector,
    frames,
    key,
    pack_array,
    pack_detector,
    parse_key,
    read_frames,
    unpack_array,
    unpack_detector,
)
from stream_monitor.stream import Stream

KIND: Final = b"S"
MAX_CHUNKS: Final = 65_536
MODEL_LETTERS: Final = frozenset("mpj")
"""Of keys that are a model's, see `model_state.py`."""
INCIDENT_LETTER: Final = "i"
"""Of the key of a model's incidents, see `incident_state.py`."""
MAX_UPDATES: Final = 64
"""Of one episode: each takes twice as many rows as the one before."""


class Watched(msgspec.Struct, frozen=True):
    """A monitor: the reference it works under, its own state, the trail and the detectors."""

    digest: str
    epoch: int
    generation: int
    monitor: MonitorState
    trail: dict[str, Array]
    detectors: dict[str, Detector]


class Snapshot(msgspec.Struct, frozen=True):
    """Everything of one stream: the rows that came before the codes offset `stamp` and were merged by a time up to
    `released_ms` are in it (see `ordering.Queue`). `chunks`: of the warm-up. `segments`: the monitors of the parts of
    the stream by name, where its reference has some."""

    model: str
    version: str
    segment: str
    stamp: int
    released_ms: int
    watched: Watched | None = None
    chunks: int = 0
    birth: Birth | msgspec.UnsetType = msgspec.UNSET
    rhythm: Rhythm | msgspec.UnsetType = msgspec.UNSET
    segments: dict[str, Watched] | msgspec.UnsetType = msgspec.UNSET


_snapshots = msgspec.msgpack.Decoder(Snapshot)


CLOCK_KEY: Final = msgspec.json.encode(["c", "", "", "", 0])
CLOCK_KIND: Final = b"K"
_clocks = msgspec.msgpack.Decoder(Clock)


def pack_clock(clock: Clock, version: int = wire.NEWEST) -> bytes:
    """The state of a codes partition itself: what its ticks said, as of the committed offset."""
    return wire.pack(CLOCK_KIND, version, clock)


def unpack_clock(data: bytes | None) -> Clock:
    """Raises WireError, or VersionUnknown."""
    clock = wire.unpack(CLOCK_KIND, data, _clocks)
    if not (clock.promises.keys() >= clock.behind.keys()
            and clock.label_promises.keys() >= clock.labels_behind.keys()):  # fmt: skip
        raise WireError("a clock says that a partition is behind, and not where")
    return clock


@dataclass(slots=True)
class Saved:
    """What the topic holds of a stream by our own account, so that the next save can delete what it leaves behind.

    `warmup_rows` of the present warm-up are in the chunks, the last of them `last_row`; none: the chunks are of no use.
    """

    parts: int = 0
    chunks: int = 0
    warmup_rows: int = 0
    last_row: Row | None = None

    def is_of(self, warmup: list[Row]) -> bool:
        """Whether what was saved is the beginning of these rows; a warm-up that failed has begun anew."""
        return 0 < self.warmup_rows <= len(warmup) and warmup[self.warmup_rows - 1] is self.last_row


def save(
    stream: Stream, stamp: int, released_ms: int, saved: Saved, version: int = wire.NEWEST
) -> tuple[list[tuple[bytes, bytes | None]], Saved]:
    """The records (None: tombstone) that bring the topic from `saved` to the stream's present state, and what it then
    holds. Warm-up rows already saved are not written again."""
    records: list[tuple[bytes, bytes | None]] = []
    warmup = stream.warmup
    chunks, warmup_rows = saved.chunks, saved.warmup_rows
    if not saved.is_of(warmup) or chunks >= MAX_CHUNKS // 2:
        records += [(key(stream.key, chunk, "w"), None) for chunk in range(chunks)]
        chunks, warmup_rows = 0, 0
    if len(warmup) > warmup_rows:
        for data in encode_raw(RawBatch(stream.key, tuple(warmup[warmup_rows:])), version):
            records.append((key(stream.key, chunks, "w"), data))
            chunks += 1
        # A chunk deleted above and written again must end as written: keep the last record of each key.
        records = list(dict(records).items())
    snapshot = msgspec.msgpack.encode(wire.as_of(version, _snapshot(stream, stamp, released_ms, chunks)))
    parts = list(frames(snapshot, stamp, KIND, version))
    records += [(key(stream.key, part), data) for part, data in enumerate(parts)]
    records += [(key(stream.key, part), None) for part in range(len(parts), saved.parts)]
    return records, Saved(len(parts), chunks, len(warmup), warmup[-1] if warmup else None)


def _snapshot(stream: Stream, stamp: int, released_ms: int, chunks: int) -> Snapshot:
    monitor = stream.monitor
    if monitor is None:
        return Snapshot(*stream.key, stamp, released_ms, None, chunks, _birth(stream), _rhythm(stream))
    monitors = stream.segments.monitors if stream.segments is not None else {}
    segments = {name: pack_monitor(monitors[name]) for name in sorted(monitors)}
    return Snapshot(*stream.key, stamp, released_ms, pack_monitor(monitor), chunks, _birth(stream), _rhythm(stream),
                    segments or msgspec.UNSET)  # fmt: skip


def _birth(stream: Stream) -> Birth | msgspec.UnsetType:
    """Left out where it is not known, as by a release that did not note it."""
    return stream.birth if stream.birth != UNBORN else msgspec.UNSET


def _rhythm(stream: Stream) -> Rhythm | msgspec.UnsetType:
    """Left out while no row has come."""
    return stream.rhythm if stream.rhythm is not None else msgspec.UNSET


def pack_monitor(monitor: Monitor) -> Watched:
    return Watched(
        monitor.entry.digest,
        monitor.entry.epoch,
        monitor.entry.generation,
        monitor.state(),
        {name: pack_array(array) for name, array in monitor.trail.state().items()},
        {name: pack_detector(tag, state) for name, (tag, state) in monitor.detectors.states().items()},
    )


@dataclass(slots=True)
class Restored:
    """A stream as read back. `cold`: detectors that had to start afresh and why; `lost`: why everything had.

    `version`: the wire version it was saved in.
    """

    stream: Stream
    stamp: int
    released_ms: int
    saved: Saved
    cold: dict[str, str] = field(default_factory=dict)
    lost: str = ""
    version: int = wire.NEWEST


def group_records(records: Mapping[bytes, bytes]) -> tuple[dict[StreamKey, dict[str, dict[int, bytes]]], int]:
    """The live records of one partition by stream, letter and number; and how many keys were not ours.

    Raises VersionUnknown where a key that is not ours has a record of another release.
    """
    streams: dict[StreamKey, dict[str, dict[int, bytes]]] = {}
    strange = 0
    for raw_key, value in records.items():
        if raw_key == CLOCK_KEY:
            continue
        letter, stream, number = parse_key(raw_key)
        if letter in MODEL_LETTERS or letter == INCIDENT_LETTER:
            continue
        if not 0 <= number < {"s": MAX_PARTS, "w": MAX_CHUNKS}.get(letter, 0):
            strange += 1
            with suppress(WireError):
                wire.check(value)
            continue
        streams.setdefault(stream, {}).setdefault(letter, {})[number] = value
    return streams, strange


def restore(stream: Stream, parts: dict[str, dict[int, bytes]], book: ReferenceBook) -> Restored:
    """Bring a fresh stream to the state in its records. Never raises for bad bytes: what cannot be read starts cold,
    with the reason said; nothing else is touched. Raises VersionUnknown for a sound state of another release."""
    pieces, chunks = parts.get("s", {}), parts.get("w", {})
    saved = Saved(parts=max(pieces, default=-1) + 1, chunks=max(chunks, default=-1) + 1)
    try:
        snapshot = _read(pieces)
    except WireError as error:
        return Restored(stream, 0, LONG_AGO, saved, lost=str(error))
    restored = Restored(stream, snapshot.stamp, snapshot.released_ms, saved, version=wire.version_of(pieces[0]))
    if snapshot.birth is not msgspec.UNSET and snapshot.birth.sound:
        stream.birth = snapshot.birth
    try:
        stream.rhythm = _checked(snapshot.rhythm or None)
        if snapshot.watched is not None:
            _restore_watched(stream, snapshot, book, restored)
        else:
            rows = list(_warmup_rows(chunks, snapshot.chunks, stream.key))
            saved.warmup_rows, saved.last_row = len(rows), rows[-1] if rows else None
            stream.restore_warmup(rows)
    except WireError as error:
        stream.monitor = stream.segments = None
        stream.restore_warmup([])
        restored.lost = str(error)
    return restored


def _checked(rhythm: Rhythm | None) -> Rhythm | None:
    """Raises WireError where its times are no dates, so that no alert about them could be written."""
    if rhythm is not None:
        times = (rhythm.first_ms, rhythm.last_ms, rhythm.last[3], rhythm.longest_ms, rhythm.before_ms, rhythm.period)
        if any(time not in DATES_MS for time in times) or min(rhythm.longest_ms, rhythm.before_ms) < 0:
            raise WireError("the stream's rhythm holds times that are no dates")
    return rhythm


def tombstones(stream: StreamKey, saved: Saved) -> list[tuple[bytes, bytes | None]]:
    """The records that delete what the topic holds of a stream."""
    parts: list[tuple[bytes, bytes | None]] = [(key(stream, part), None) for part in range(saved.parts)]
    return [*parts, *((key(stream, chunk, "w"), None) for chunk in range(saved.chunks))]


def _read(pieces: dict[int, bytes]) -> Snapshot:
    try:
        return _snapshots.decode(read_frames(pieces, KIND, MAX_PARTS))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"snapshot cannot be read: {error}") from error


def _restore_watched(stream: Stream, snapshot: Snapshot, book: ReferenceBook, restored: Restored) -> None:
    watched = snapshot.watched
    assert watched is not None
    reference = book.by_digest(watched.digest)
    if reference is None:
        raise WireError(f"its reference {watched.digest} is no longer on the references topic")
    stream.watch(Entry(reference, watched.digest, watched.epoch, watched.generation))
    assert stream.monitor is not None
    restored.cold = restore_monitor(stream.monitor, watched)
    parts = snapshot.segments or {}
    if stream.segments is None:
        return
    for number, segment in enumerate(reference.parts):
        if (part := parts.get(segment.name)) is not None:
            cold = restore_monitor(stream.segments.monitor(number), part)
            restored.cold |= {f"{segment.name}: {name}": why for name, why in cold.items()}


def restore_monitor(monitor: Monitor, watched: Watched) -> dict[str, str]:
    """Bring a fresh monitor to a state; the detectors that had to start cold, and why. Raises WireError."""
    columns = monitor.entry.reference.columns
    _check(watched.monitor, len(columns))
    trail = {name: unpack_array(array) for name, array in watched.trail.items()}
    monitor.trail.restore(watched.monitor.rows, trail)
    check_trail(trail, np.array([len(column.strata[0].counts) for column in columns]))
    monitor.restore(watched.monitor)
    given = {name: (detector.tag, unpack_detector(detector)) for name, detector in watched.detectors.items()}
    return monitor.detectors.restore(given, watched.monitor.rows)


def _check(monitor: MonitorState, columns: int) -> None:
    """Raise WireError for numbers that no monitor of that many columns can have; later they would be an index, an
    exponent or a date."""
    rows = monitor.rows
    if not 0 <= rows < 2**62:
        raise WireError(f"a monitor of {rows} rows")
    for episode in monitor.episodes:
        at = (episode.earliest_row, episode.onset_row, episode.opened_row, episode.published_row)
        if (
            not 0 <= episode.column < columns
            or not all(-1 <= row < rows for row in at)
            or not (0 <= episode.updates <= MAX_UPDATES and 0 <= episode.reopenings <= rows)
            or not (episode.onset[3] in DATES_MS and episode.earliest_time_ms in DATES_MS)
        ):
            raise WireError(f"an episode of column {episode.column} that cannot be")
    if not all(-1 <= row < rows and 0 <= times <= rows for row, times in monitor.past.values()):
        raise WireError("past episodes that cannot be")


def check_trail(trail: dict[str, npt.NDArray[np.generic]], widths: npt.NDArray[np.int64]) -> None:
    """Raise WireError for codes that the reference does not have, or for times that are no dates."""
    if (trail["codes"].astype(np.int64) >= widths).any():
        raise WireError("trail: codes that the reference does not have")
    for name in ("fine", "marks"):
        times = trail[name][:, 3]
        if len(times) and not (int(times.min()) in DATES_MS and int(times.max()) in DATES_MS):
            raise WireError(f"trail: {name} holds times that are no dates")


def _warmup_rows(chunks: dict[int, bytes], count: int, stream: StreamKey) -> Iterator[Row]:
    for number in range(count):
        batch = decode_batch(chunks.get(number))
        if not isinstance(batch, RawBatch) or batch.stream != stream:
            raise WireError(f"warm-up chunk {number} is of another stream")
        yield from batch.rows
