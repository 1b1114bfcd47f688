"""The segments of a stream: which rows belong to which, what each is compared with, and choosing them. Pure.

Rows are coded once, under the whole stream's reference. What makes a segment is a category of a watched column, so a
row's codes say which segments it belongs to: one a feature of `segment_by` (of its value, or the pool `other`), and one
of the combination of all of them, where that is watched. A segment has the bins of the whole and counts of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN
from stream_monitor.features import column_name
from stream_monitor.reference import MAX_SEGMENT_COLUMNS, POOLED, Bins, Column, Reference, Segment

Codes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

NONE: Final = -1
WHOLE_SHARE: Final = 0.5
"""The share of a segmented stream's false-alarm budget that the whole gets; the segments share the rest."""


def whole_budget(reference: Reference, budget_rows: float) -> float:
    """Mean rows between two false alarms of the whole stream by itself."""
    return budget_rows / WHOLE_SHARE if reference.parts else budget_rows


def segment_budget(reference: Reference, budget_rows: float) -> float:
    """The same of one segment, in its own rows.

    A row belongs to at most `levels` segments. Each raises one false alarm in `levels` / (1 − `WHOLE_SHARE`) budgets of
    its own rows, so all together one in budget / (1 − `WHOLE_SHARE`) rows of the stream, however many they are.
    """
    return budget_rows * levels(reference) / (1 - WHOLE_SHARE)


def levels(reference: Reference) -> int:
    """How many segments a row can belong to: one a feature, and one of their combination."""
    return len({segment.features for segment in reference.parts})


def watched_columns(reference: Reference, segment: Segment) -> npt.NDArray[np.intp]:
    """The columns of the whole stream that are watched in a segment: all but those that make it."""
    own = {column_name(feature) for feature in segment.features}
    return np.array([i for i, column in enumerate(reference.columns) if column.name not in own], dtype=np.intp)


def reference_of(reference: Reference, segment: Segment) -> Reference:
    """The reference of one segment: the bins of the whole stream, with the segment's counts."""
    columns = []
    for index, part in zip(watched_columns(reference, segment).tolist(), segment.columns, strict=True):
        column = reference.columns[index]
        strata = [Bins(counts, bins.edges, bins.low) for counts, bins in zip(part.counts, column.strata, strict=True)]
        columns.append(
            msgspec.structs.replace(
                column, strata=strata, autocorrelation_time=part.autocorrelation_time, repeat=part.repeat,
                quantiles={}, mean=None, sd=None,
            )
        )  # fmt: skip
    source = msgspec.structs.replace(reference.source, rows=segment.rows)
    none = msgspec.UNSET
    return msgspec.structs.replace(
        reference,
        segment=segment.name,
        columns=columns,
        source=source,
        segment_by=none,
        segments=none,
        performance=none,
    )


class Router:
    """Which rows of a coded batch belong to which segments, by tables of codes."""

    def __init__(self, reference: Reference) -> None:
        self._levels: list[tuple[list[int], list[npt.NDArray[np.int64]], npt.NDArray[np.int16]]] = []
        places = {column.name: i for i, column in enumerate(reference.columns)}
        parts = list(enumerate(reference.parts))
        for features in dict.fromkeys(segment.features for _, segment in parts):
            columns = [places[column_name(feature)] for feature in features]
            own = [(number, segment) for number, segment in parts if segment.features == features]
            self._levels.append((columns, *_tables([reference.columns[c] for c in columns], features, own)))

    def numbers(self, codes: Codes) -> Iterator[npt.NDArray[np.int16]]:
        """Level by level the segment of every row, `NONE` where it belongs to none; `codes` `[rows, columns]`."""
        for columns, offsets, table in self._levels:
            place = offsets[0][codes[:, columns[0]]]
            for column, offset in zip(columns[1:], offsets[1:], strict=True):
                place = place + offset[codes[:, column]]
            yield table[place]

    def split(self, codes: Codes) -> Iterator[tuple[int, Rows]]:
        """The segments that have rows in the batch, and which those are, in order."""
        for numbers in self.numbers(codes):
            order = np.argsort(numbers, kind="stable")
            found, starts = np.unique(numbers[order], return_index=True)
            for number, rows in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
                if number != NONE:
                    yield number, rows


def _tables(
    columns: Sequence[Column], features: tuple[str, ...], own: Sequence[tuple[int, Segment]]
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.int16]]:
    """By column what a code adds to the place in the table, and the table: place → segment.

    Every watched value of a column has a number, and all others share the number 0.
    """
    offsets, size = [], 1
    values: list[dict[str, int]] = []
    for column, feature in zip(columns, features, strict=True):
        watched = sorted({segment.where[feature] for _, segment in own if segment.where})
        values.append({value: i for i, value in enumerate(watched, 1)})
        offset = np.zeros(256, dtype=np.int64)
        for code, category in enumerate(column.categories, FIRST_BIN):
            offset[code] = values[-1].get(category, 0) * size
        offsets.append(offset)
        size *= len(watched) + 1
    table = np.full(size, NONE, dtype=np.int16)
    for number, segment in own:
        place, factor = 0, 1
        for feature, value in zip(features, values, strict=True):
            place += value.get(segment.where.get(feature, ""), 0) * factor
            factor *= len(value) + 1
        table[place] = number
    return offsets, table


@dataclass(frozen=True, slots=True)
class Chosen:
    """The segments chosen, without their counts; `notes` say what was left out."""

    segments: list[Segment]
    notes: list[str]


def choose(
    reference: Reference, by: Sequence[str], joint: Mapping[tuple[int, ...], int], most: int, fewest_rows: int
) -> Chosen:
    """Which segments to watch: every value with at least `fewest_rows` rows, then their combinations, the largest
    first, `most` in all; of each feature the other values are pooled, if they have so many rows together.

    `joint`: rows by the codes of the columns of `by`. A segment that holds the same rows as another one (a feature
    with one value, a plan sold in one region) is not watched twice.
    """
    columns = [next(c for c in reference.columns if c.name == column_name(feature)) for feature in by]
    total = sum(joint.values())
    fewest = fewest_rows * reference.strata
    notes: list[str] = []
    most = min(most, MAX_SEGMENT_COLUMNS // max(len(reference.columns), 1))
    singles: list[tuple[int, int, str]] = []
    for i, column in enumerate(columns):
        rows = _value_rows(joint, i, column)
        singles += [(count, i, value) for value, count in rows.items() if fewest <= count < total and value != POOLED]
    singles.sort(key=lambda each: (-each[0], each[1:]))
    kept = singles[: max(most - len(by), 0)]
    if len(singles) > len(kept):
        notes.append(f"segments: values pooled as `{POOLED}` for max_segments {most}: {len(singles) - len(kept)}")
    segments = [Segment(count, [], where={by[i]: value}) for count, i, value in kept]
    for i, feature in enumerate(by):
        rest = total - sum(count for count, j, _ in kept if j == i)
        if fewest <= rest < total:
            segments.append(Segment(rest, [], pool=feature))
    if len(by) > 1:
        segments += _combinations(columns, by, joint, segments, most - len(segments), fewest, notes)
    if not segments:
        notes.append(f"segments: no value of {', '.join(by)} has {fewest} rows and is not in all of them")
    return Chosen(segments, notes)


def _value_rows(joint: Mapping[tuple[int, ...], int], place: int, column: Column) -> dict[str, int]:
    """Rows by category of one column."""
    rows: dict[str, int] = {}
    for codes, count in joint.items():
        if codes[place] >= FIRST_BIN:
            value = column.categories[codes[place] - FIRST_BIN]
            rows[value] = rows.get(value, 0) + count
    return rows


def _combinations(
    columns: Sequence[Column], by: Sequence[str], joint: Mapping[tuple[int, ...], int], singles: Sequence[Segment],
    room: int, fewest: int, notes: list[str],
) -> list[Segment]:  # fmt: skip
    """The largest combinations of values that are watched by themselves, and hold fewer rows than any of those."""
    rows = {next(iter(s.where.items())): s.rows for s in singles if s.where}
    found = []
    for codes, count in joint.items():
        if count < fewest or min(codes) < FIRST_BIN:
            continue
        where = {f: c.categories[code - FIRST_BIN] for f, c, code in zip(by, columns, codes, strict=True)}
        if all(count < rows.get(item, -1) for item in where.items()):
            found.append(Segment(count, [], where=where))
    found.sort(key=lambda segment: (-segment.rows, segment.name))
    if len(found) > room:
        notes.append(f"segments: combinations not watched for max_segments: {len(found) - max(room, 0)}")
    return found[: max(room, 0)]
