"""The batch, a run of rows of one stream, and its wire form on the codes topic.

A *coded* batch holds one byte a value under a named reference. A *raw* batch holds the values themselves, for a stream
that has no reference yet: its detector learns one from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor import wire
from stream_monitor.errors import WireError
from stream_monitor.events import Row
from stream_monitor.outcomes import Outcomes, values_in
from stream_monitor.reference import MAX_COLUMNS, StreamKey

KIND: Final = b"B"
MAX_ROWS: Final = 65_536
ORIGIN_BYTES: Final = 32
OUTCOME_BYTES: Final = 36
MAX_TEXT: Final = 256

Values = Sequence[float | int | str | bool | None]


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each row came from, arrays of shape `[rows]`: input partition, offset, index in the record, event time,
    and the record's time stamp."""

    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    index: npt.NDArray[np.int32]
    time_ms: npt.NDArray[np.int64]
    record_ms: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: slice | npt.NDArray[np.intp]) -> Origins:
        return Origins(
            self.partition[rows], self.offset[rows], self.index[rows], self.time_ms[rows], self.record_ms[rows]
        )

    @classmethod
    def join(cls, parts: Sequence[Origins]) -> Origins:
        return cls(
            np.concatenate([part.partition for part in parts]),
            np.concatenate([part.offset for part in parts]),
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.time_ms for part in parts]),
            np.concatenate([part.record_ms for part in parts]),
        )

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Origins:
        return cls(
            np.array([row.partition for row in rows], dtype=np.int32),
            np.array([row.offset for row in rows], dtype=np.int64),
            np.array([row.index for row in rows], dtype=np.int32),
            np.array([row.time_ms for row in rows], dtype=np.int64),
            np.array([row.record_ms for row in rows], dtype=np.int64),
        )


class Extra(msgspec.Struct, frozen=True, array_like=True):
    """The raw value behind a code that says too little (`below`, `above`, `new`); `row` counts within the batch."""

    row: int
    column: int
    value: float | str


class Unknown(msgspec.Struct, frozen=True, array_like=True):
    """A feature the reference does not know, and the first row of the batch that has it."""

    row: int
    name: str


@dataclass(frozen=True, slots=True)
class CodedBatch:
    """Rows of one stream coded under the reference `digest` of that `generation` (see `book.Entry`).

    `codes`: `[rows, columns]`, C order. `outcomes`: predictions and labels themselves, where they are to be compared.
    """

    stream: StreamKey
    digest: str
    generation: int
    codes: npt.NDArray[np.uint8]
    origins: Origins
    extras: tuple[Extra, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    outcomes: Outcomes | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def showing(self, extras: tuple[Extra, ...], unknown: tuple[Unknown, ...]) -> CodedBatch:
        """The same rows with other raw values beside them."""
        return replace(self, extras=extras, unknown=unknown)

    @classmethod
    def join(cls, parts: Sequence[CodedBatch]) -> CodedBatch:
        """One batch of several of one stream and reference, rows in the order of the parts."""
        starts = [0, *accumulate(len(part) for part in parts)]
        pairs = list(zip(starts, parts, strict=False))
        return replace(
            parts[0],
            codes=np.concatenate([part.codes for part in parts]),
            origins=Origins.join([part.origins for part in parts]),
            extras=tuple(Extra(start + e.row, e.column, e.value) for start, part in pairs for e in part.extras),
            unknown=tuple(Unknown(start + u.row, u.name) for start, part in pairs for u in part.unknown),
            outcomes=Outcomes.join([(part.outcomes, len(part)) for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Rows of one stream as they came, for a stream without a reference."""

    stream: StreamKey
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)


Batch = CodedBatch | RawBatch


class _Outcomes(msgspec.Struct, frozen=True, array_like=True):
    """float64 and int16 arrays; those of names are empty where everything is a number, `ids` where nobody joins."""

    prediction: bytes
    label: bytes
    ids: bytes
    names: list[str]
    predicted: bytes
    labelled: bytes


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    """The wire form; `raw` rows are `[features, prediction, label, id]`."""

    model: str
    version: str
    segment: str
    rows: int
    partition: bytes
    offset: bytes
    index: bytes
    time_ms: bytes
    record_ms: bytes
    digest: str
    generation: int
    columns: int
    codes: bytes
    extras: list[Extra]
    unknown: list[Unknown]
    raw: list[tuple[dict[str, Any], Any, Any, str | None]]
    outcomes: _Outcomes | None = None

    ADDED: ClassVar[dict[str, int]] = {"outcomes": 2}


_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_coded(batch: CodedBatch, version: int = wire.NEWEST) -> Iterator[bytes]:
    """The batch as one or more frames of that wire version, each below the record limit; rows keep their order."""
    columns = batch.codes.shape[1]
    row_bytes = columns + ORIGIN_BYTES + (OUTCOME_BYTES if batch.outcomes is not None else 0)
    step = max(1, min(MAX_ROWS, wire.RECORD_BYTES // row_bytes))
    for start in range(0, len(batch), step):
        stop = min(start + step, len(batch))
        extras = [Extra(e.row - start, e.column, e.value) for e in batch.extras if start <= e.row < stop]
        unknown = [Unknown(u.row - start, u.name) for u in batch.unknown if start <= u.row < stop]
        outcomes = None if batch.outcomes is None else _packed(batch.outcomes.take(slice(start, stop)))
        yield wire.pack(
            KIND,
            version,
            _wire(batch.stream, batch.origins.take(slice(start, stop)), batch.digest, batch.generation,
                  batch.codes[start:stop], extras, unknown, [], outcomes),
        )  # fmt: skip


def encode_raw(batch: RawBatch, version: int = wire.NEWEST) -> Iterator[bytes]:
    """The batch as one or more frames of that wire version; a single row too large for a record is not possible below
    the input limits."""
    rows = batch.rows
    raw = [(tame(row.features), tame(row.prediction), tame(row.label), row.id) for row in rows]
    data = wire.pack(
        KIND, version,
        _wire(batch.stream, Origins.of(rows), "", 0, np.zeros((len(rows), 0), np.uint8), [], [], raw),
    )  # fmt: skip
    if len(data) <= wire.RECORD_BYTES or len(rows) == 1:
        yield data
        return
    half = len(rows) // 2
    yield from encode_raw(RawBatch(batch.stream, rows[:half]), version)
    yield from encode_raw(RawBatch(batch.stream, rows[half:]), version)


def _wire(
    stream: StreamKey, origins: Origins, digest: str, generation: int, codes: npt.NDArray[np.uint8],
    extras: list[Extra], unknown: list[Unknown], raw: list[tuple[dict[str, Any], Any, Any, str | None]],
    outcomes: _Outcomes | None = None,
) -> _Wire:  # fmt: skip
    return _Wire(
        stream.model, stream.version, stream.segment, len(origins), origins.partition.tobytes(),
        origins.offset.tobytes(), origins.index.tobytes(), origins.time_ms.tobytes(), origins.record_ms.tobytes(),
        digest, generation, codes.shape[1], codes.tobytes(), extras, unknown, raw, outcomes,
    )  # fmt: skip


def _packed(outcomes: Outcomes) -> _Outcomes:
    predicted, labelled = outcomes.prediction.name, outcomes.label.name
    named = bool(outcomes.names)
    return _Outcomes(
        outcomes.prediction.number.tobytes(), outcomes.label.number.tobytes(), outcomes.ids.tobytes(),
        list(outcomes.names), predicted.tobytes() if named else b"", labelled.tobytes() if named else b"",
    )  # fmt: skip


def _unpacked(w: _Outcomes, rows: int) -> Outcomes:
    """Raises WireError."""
    ids: Any = wire.array(w.ids, "<u8", 2 * rows if w.ids else 0, "ids")
    return Outcomes(
        values_in(w.prediction, w.predicted, w.names, rows, "prediction"),
        values_in(w.label, w.labelled, w.names, rows, "label"),
        ids.reshape(-1, 2),
        tuple(w.names),
    )


def tame(value: Any, depth: int = 16) -> Any:
    """A JSON value as msgpack can carry it, its bin unchanged: big integers as floats, texts cut, lists emptied."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, dict):
        return {str(k)[:MAX_TEXT]: tame(v, depth - 1) for k, v in value.items()} if depth else []
    if isinstance(value, list):
        return []
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    return value


def decode(data: bytes | None) -> Batch:
    """Bytes of the codes topic → batch; raises WireError for anything else, and VersionUnknown."""
    w = wire.unpack(KIND, data, _decoder)
    if not 0 < w.rows <= MAX_ROWS or not 0 <= w.columns <= MAX_COLUMNS:
        raise WireError(f"a batch of {w.rows} rows and {w.columns} columns cannot be")
    origins = Origins(
        wire.array(w.partition, "<i4", w.rows, "partition"),  # type: ignore[arg-type]  # the dtype is in the text
        wire.array(w.offset, "<i8", w.rows, "offset"),  # type: ignore[arg-type]
        wire.array(w.index, "<i4", w.rows, "index"),  # type: ignore[arg-type]
        wire.array(w.time_ms, "<i8", w.rows, "time_ms"),  # type: ignore[arg-type]
        wire.array(w.record_ms, "<i8", w.rows, "record_ms"),  # type: ignore[arg-type]
    )
    stream = StreamKey(w.model, w.version, w.segment)
    if w.digest:
        codes = wire.array(w.codes, "u1", w.rows * w.columns, "codes").reshape(w.rows, w.columns)
        if any(not (0 <= e.row < w.rows and 0 <= e.column < w.columns) for e in w.extras):
            raise WireError("an extra lies outside the batch")
        if any(not 0 <= u.row < w.rows for u in w.unknown):
            raise WireError("an unknown feature lies outside the batch")
        outcomes = None if w.outcomes is None else _unpacked(w.outcomes, w.rows)
        extra = (tuple(w.extras), tuple(w.unknown), outcomes)
        return CodedBatch(stream, w.digest, w.generation, codes, origins, *extra)  # type: ignore[arg-type]
    if len(w.raw) != w.rows:
        raise WireError(f"{len(w.raw)} raw rows where {w.rows} were announced")
    return RawBatch(stream, tuple(_row(w, origins, i) for i in range(w.rows)))


def _row(w: _Wire, origins: Origins, i: int) -> Row:
    features, prediction, label, identity = w.raw[i]
    return Row(
        w.model, w.version, w.segment, int(origins.time_ms[i]), features, prediction, label, identity,
        int(origins.partition[i]), int(origins.offset[i]), int(origins.index[i]), int(origins.record_ms[i]),
    )  # fmt: skip
