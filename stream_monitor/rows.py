"""Many records at once: bytes → the rows of every stream, held by column. Pure.

`events.decode` is the definition, a record at a time; this is the same in a quarter of the time: every check of
`events.row_of` is made on whole columns of a run of records. A run in which anything is unusual is halved, and what is
left of it goes record by record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, repeat
from operator import itemgetter
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import orjson

from stream_monitor.batch import Origins
from stream_monitor.broker.protocol import Record
from stream_monitor.events import (
    DATES_MS,
    Reject,
    Row,
    Shape,
    dated_ahead,
    decode,
    is_nested,
    name_of,
    parse_time,
    text_of,
    within_depth,
)  # fmt: skip
from stream_monitor.merge import Merged
from stream_monitor.reference import StreamKey

RUN: Final = 256
"""Records taken at once."""
RUN_BYTES: Final = 256 * 1024
"""Bytes taken at once: what is parsed stays in the processor's cache until it is coded. A run of 1 MB costs
more to parse and to gather (ADR 8)."""
FEW: Final = 8
"""A run of so many is not worth halving."""
_TEXTS: Final[Collection[type]] = frozenset((str, type(None)))
_NUMBERS: Final[Collection[type]] = frozenset((int, type(None)))
"""Types that dict keys tell apart as texts do: 1, 1.0 and True are one key."""


class Rows(Sequence[Row]):
    """Rows of one stream, by column; a sequence of `Row` besides."""

    __slots__ = ("features", "ids", "labels", "origins", "predictions", "stream")

    def __init__(
        self, stream: StreamKey, features: Sequence[dict[str, Any]], predictions: Sequence[Any],
        labels: Sequence[Any], ids: Sequence[str | None], origins: Origins,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.features = features
        self.predictions = predictions
        self.labels = labels
        self.ids = ids
        self.origins = origins

    def __len__(self) -> int:
        return len(self.features)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        o = self.origins
        return Row(
            *self.stream, int(o.time_ms[at]), self.features[at], self.predictions[at], self.labels[at], self.ids[at],
            int(o.partition[at]), int(o.offset[at]), int(o.index[at]), int(o.record_ms[at]),
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of one stream, in the order of the parts."""
        if len(parts) == 1:
            return parts[0]
        chained = chain.from_iterable
        return cls(
            parts[0].stream, list(chained(p.features for p in parts)), list(chained(p.predictions for p in parts)),
            list(chained(p.labels for p in parts)), list(chained(p.ids for p in parts)),
            Origins.join([p.origins for p in parts]),
        )  # fmt: skip


@dataclass(slots=True)
class Decoded:
    """Events in the order of their records, by column; rejects with the position of their record."""

    models: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    rejects: list[tuple[int, Reject]] = field(default_factory=list)

    def add(self, row: Row, record: int) -> None:
        self.models.append(row.model)
        self.versions.append(row.version)
        self.segments.append(row.segment)
        self.times.append(row.time_ms)
        self.features.append(row.features)
        self.predictions.append(row.prediction)
        self.labels.append(row.label)
        self.ids.append(row.id)
        self.records.append(record)
        self.indexes.append(row.index)

    def extend(self, more: Decoded) -> None:
        """Take the events of the next run over."""
        for name in _COLUMNS:
            getattr(self, name).extend(getattr(more, name))

    def keep(self, kept: Sequence[bool]) -> None:
        """Leave the other events out."""
        for name in _COLUMNS:
            setattr(self, name, list(compress(getattr(self, name), kept)))

    @property
    def streams(self) -> int:
        """How many streams these are events of."""
        return len(set(zip(self.models, self.versions, self.segments, strict=True)))


_COLUMNS: Final = (
    "models", "versions", "segments", "times", "features", "predictions", "labels", "ids", "records", "indexes",
)  # fmt: skip


def values_of(entries: Sequence[Merged]) -> list[bytes]:
    """The records' values, empty where there is none."""
    values: list[Any] = list(map(_value_of, map(_record_of, entries)))
    return values if all(values) else [value or b"" for value in values]


def runs(values: Sequence[bytes], most: int, most_bytes: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """The bounds of runs of at most so many records and bytes each, but for a record that is larger by itself; the
    first record is number `start`."""
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
    first, done = 0, 0
    while first < len(ends):
        fitting = int(np.searchsorted(ends, done + most_bytes, side="right"))
        last = min(max(fitting, first + 1), first + most, len(ends))
        yield start + first, start + last
        first, done = last, int(ends[last - 1])


def decode_runs(
    entries: Sequence[Merged], shape: Shape, latest_ms: int = DATES_MS[-1], start: int = 0, stop: int | None = None
) -> Iterator[Decoded]:
    """All events of the records `start` to `stop`, as `events.decode` gives them one by one, a run of records at a
    time; those dated after `latest_ms` as rejects."""
    for first, last in runs(values_of(entries[start:stop]), RUN, RUN_BYTES, start):
        decoded = Decoded()
        _decode_run(entries, first, last, shape, decoded)
        if decoded.times and max(decoded.times) > latest_ms:
            _refuse_later(entries, latest_ms, decoded)
        yield decoded


def _decode_run(entries: Sequence[Merged], start: int, stop: int, shape: Shape, decoded: Decoded) -> None:
    if _decode_plain(list(map(_record_of, entries[start:stop])), start, shape, decoded):
        return
    if stop - start > FEW:
        middle = (start + stop) // 2
        _decode_run(entries, start, middle, shape, decoded)
        _decode_run(entries, middle, stop, shape, decoded)
        return
    for number in range(start, stop):
        merged_ms, record = entries[number]
        for row in decode(record.value, record.timestamp_ms, record.partition, record.offset, shape, merged_ms):
            if isinstance(row, Row):
                decoded.add(row, number)
            else:
                decoded.rejects.append((number, row))


def _refuse_later(entries: Sequence[Merged], latest_ms: int, decoded: Decoded) -> None:
    timely = [time_ms <= latest_ms for time_ms in decoded.times]
    for number, index, kept in zip(decoded.records, decoded.indexes, timely, strict=True):
        if not kept:
            record = entries[number][1]
            decoded.rejects.append((number, dated_ahead(record.partition, record.offset, index)))
    decoded.keep(timely)


_merged_of, _record_of = itemgetter(0), itemgetter(1)
_partition_of, _offset_of, _value_of = itemgetter(1), itemgetter(2), itemgetter(5)


def _decode_plain(records: list[Record], first: int, shape: Shape, decoded: Decoded) -> bool:
    """Take the records if all of them are as usual; False, and nothing taken, if any is not."""
    values: list[Any] = list(map(_value_of, records))
    if not shape.flat or not shape.features or not all(values):
        return False
    if max(map(len, values)) > shape.limits.max_record_bytes:
        return False
    try:
        documents = parse(values)
    except orjson.JSONDecodeError:
        return False
    kinds = set(map(type, documents))
    if kinds == {dict}:
        sizes, arrays, events = None, 0, documents
    elif kinds == {list}:
        sizes, arrays = list(map(len, documents)), len(documents)
        if not all(sizes) or max(sizes) > shape.limits.max_events:
            return False
        events = list(chain.from_iterable(documents))
        if set(map(type, events)) != {dict}:
            return False
    else:
        return False
    features = _column(events, shape.features)
    if set(map(type, features)) != {dict} or max(map(len, features)) > shape.limits.max_features:
        return False
    flat = _openings(values) == 2 * len(events) + arrays  # each event's own, no more
    if not flat and not all(within_depth(each, shape.limits.max_depth) for each in features if is_nested(each)):
        return False
    models = _names(_column(events, shape.model, shape.fixed_model), _TEXTS)
    versions = _names(_column(events, shape.version, shape.fixed_version), _TEXTS, _NUMBERS)
    segments = _names(_column(events, shape.segment), _TEXTS, _NUMBERS)
    times = _times(_column(events, shape.time), records, sizes)
    if models is None or "" in models or versions is None or segments is None or times is None:
        return False
    decoded.models += models
    decoded.versions += versions
    decoded.segments += segments
    decoded.times += times
    decoded.features += features
    decoded.predictions += _column(events, shape.prediction)
    decoded.labels += _column(events, shape.label)
    decoded.ids += _ids(_column(events, shape.id))
    numbers = range(first, first + len(records))
    decoded.records += numbers if sizes is None else chain.from_iterable(map(repeat, numbers, sizes))
    decoded.indexes += repeat(0, len(events)) if sizes is None else chain.from_iterable(map(range, sizes))
    return True


def parse(values: list[bytes]) -> list[Any]:
    """The JSON documents of the values; raises JSONDecodeError if one of them is none."""
    return list(map(orjson.loads, values))


def _openings(values: list[bytes]) -> int:
    """How many braces and brackets the texts open, those within strings counted too."""
    letters = np.frombuffer(b"".join(values), dtype=np.uint8)
    return int(np.count_nonzero((letters & 0xDF) == ord("[")))  # "{" is "[" but for that bit, and nothing else is


def _column(events: list[dict[str, Any]], path: str | None, fixed: str | None = None) -> Any:
    if fixed or path is None:
        return [fixed or None] * len(events)
    return list(map(dict.get, events, repeat(path)))


def _names(given: list[Any], *admitted: Collection[type]) -> list[str] | None:
    """Models, versions or segments as text; None where one is none, or of a type to be looked at one by one."""
    kinds = set(map(type, given))
    if not any(kinds.issubset(plain) for plain in admitted):
        return None
    table = {value: name_of(value) for value in set(given)}
    if None in table.values():
        return None
    return given if kinds == {str} else [table[value] or "" for value in given]


def _times(given: list[Any], records: list[Record], sizes: list[int] | None) -> list[int] | None:
    kinds = set(map(type, given))
    if kinds == {int}:
        return given if min(given) >= DATES_MS[0] and max(given) <= DATES_MS[-1] else None
    stamps: Any = [record.timestamp_ms for record in records]
    if sizes is not None:
        stamps = chain.from_iterable(map(repeat, stamps, sizes))
    times: list[Any] = [stamp if time is None else parse_time(time) for time, stamp in zip(given, stamps, strict=True)]
    return None if None in times else times


def _ids(given: list[Any]) -> list[str | None]:
    return given if set(map(type, given)) == {str} and all(given) else [text_of(value) or None for value in given]


def by_stream(decoded: Decoded, entries: Sequence[Merged]) -> Iterator[Rows]:
    """The events of each stream, streams in the order in which they first appear."""
    if not decoded.models:
        return
    origins = _origins(decoded, entries)
    features, predictions, labels, ids = decoded.features, decoded.predictions, decoded.labels, decoded.ids
    names = decoded.models, decoded.versions, decoded.segments
    if all(each.count(each[0]) == len(each) for each in names):
        yield Rows(StreamKey(*(each[0] for each in names)), features, predictions, labels, ids, origins)
        return
    keys = list(zip(*names, strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    number = np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
    order = np.argsort(number, kind="stable")
    ordered = itemgetter(*order.tolist())
    features, predictions, labels, ids = ordered(features), ordered(predictions), ordered(labels), ordered(ids)
    origins = origins.take(order)
    bounds = np.searchsorted(number[order], np.arange(len(numbers) + 1)).tolist()
    for key, start, stop in zip(numbers, bounds, bounds[1:], strict=False):
        own = slice(start, stop)
        yield Rows(StreamKey(*key), features[own], predictions[own], labels[own], ids[own], origins.take(own))


def _origins(decoded: Decoded, entries: Sequence[Merged]) -> Origins:
    """Of each event, from its record: looked up once a record, of those from the first to the last."""
    at = np.array(decoded.records)
    index, time_ms = np.array(decoded.indexes, dtype=np.int32), np.array(decoded.times, dtype=np.int64)
    return origins_of(entries[at[0] : at[-1] + 1], at - at[0], index, time_ms)


def origins_of(
    entries: Sequence[Merged], record: npt.NDArray[np.int64], index: npt.NDArray[np.int32],
    time_ms: npt.NDArray[np.int64],
) -> Origins:  # fmt: skip
    """Of events with these times, of the records `entries[record]`, each the `index`-th of its record."""
    records = list(map(_record_of, entries))
    partition = np.fromiter(map(_partition_of, records), np.int32, len(entries))
    offset = np.fromiter(map(_offset_of, records), np.int64, len(entries))
    merged_ms = np.fromiter(map(_merged_of, entries), np.int64, len(entries))
    return Origins(partition[record], offset[record], index, time_ms, merged_ms[record])
