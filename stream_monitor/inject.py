"""Known drift put into rows, to see whether and how fast it is found. Pure, and deterministic.

An injection is written `KIND:COLUMN[:…]@START[..END]`; `START` and `END` (exclusive) are row numbers of the files,
counted from 0, or times. Whether a row is hit by a share is a hash of the injection and of the row's place, so that the
same files give the same rows however they are cut, and a larger share hits all rows that a smaller one does.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

import msgspec

from stream_monitor.cells import time_ms_of
from stream_monitor.errors import ConfigError, Fault
from stream_monitor.events import Row, lookup
from stream_monitor.features import feature_of
from stream_monitor.reference import Column, Kind, Reference, Role, StreamKey

OPTION: Final = "--inject"
_TIMES_FROM: Final = 10**11
"""A whole number from here on is a time in epoch milliseconds, below a row."""
_MASK: Final = 2**64 - 1


class Change(StrEnum):
    MEAN = "mean"
    SCALE = "scale"
    NULL = "null"
    CATEGORY = "category"
    UNIT = "unit"
    STUCK = "stuck"


USAGE: Final = {
    Change.MEAN: "mean:COLUMN:SD adds so many standard deviations",
    Change.SCALE: "scale:COLUMN:FACTOR widens (or narrows) the spread about the mean",
    Change.NULL: "null:COLUMN:SHARE makes a share of the values null",
    Change.CATEGORY: "category:COLUMN:NAME:SHARE replaces a share of the values by NAME",
    Change.UNIT: "unit:COLUMN:FACTOR multiplies",
    Change.STUCK: "stuck:COLUMN repeats the last value before",
}
_KINDS: Final = {
    Change.MEAN: Kind.NUMERIC, Change.SCALE: Kind.NUMERIC, Change.UNIT: Kind.NUMERIC,
    Change.CATEGORY: Kind.CATEGORICAL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """A row number or an event time; the other is None."""

    row: int | None = None
    time_ms: int | None = None

    def passed(self, row: Row) -> bool:
        """Whether `row` lies at it or after it."""
        if self.row is not None:
            return row.offset >= self.row
        return self.time_ms is not None and row.time_ms >= self.time_ms

    def ends_before(self, start: Mark) -> bool:
        """Whether nothing lies between `start` and this; a row and a time cannot be compared."""
        if self.row is not None and start.row is not None:
            return self.row <= start.row
        return self.time_ms is not None and start.time_ms is not None and self.time_ms <= start.time_ms


@dataclass(frozen=True, slots=True)
class Injection:
    """One change of one column; `amount` as its kind counts it (0 for `stuck`), `stop` exclusive, None: to the end."""

    text: str
    change: Change
    column: str
    amount: float
    category: str
    start: Mark
    stop: Mark | None = None

    def hits(self, row: Row) -> bool:
        """Whether `row` lies in its range."""
        return self.start.passed(row) and not (self.stop is not None and self.stop.passed(row))

    def chance(self, row: Row) -> float:
        """A number in [0, 1) that depends on the kind, the column and the row's place alone."""
        seed = zlib.crc32(f"{self.change}:{self.column}".encode())
        return _mixed(_mixed(row.offset * 4_099 + row.index) ^ seed) / 2**64


def _mixed(x: int) -> int:
    """splitmix64 (Steele, Lea and Flood, 2014): neighbouring numbers → independent ones."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def parse(texts: Sequence[str]) -> list[Injection]:
    """The injections as written; raises ConfigError with every fault.

    >>> [found] = parse(["category:region:XX:0.02@25000..30000"])
    >>> found.column, found.category, found.amount, found.start.row, found.stop.row
    ('region', 'XX', 0.02, 25000, 30000)
    """
    found, faults = [], []
    for text in texts:
        try:
            found.append(_parsed(text))
        except _Problem as problem:
            faults.append(Fault(OPTION, text, problem.what, problem.remedy))
    if faults:
        raise ConfigError(faults)
    return found


class _Problem(Exception):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def _parsed(text: str) -> Injection:
    what, at, where = text.rpartition("@")
    if not at:
        raise _Problem("does not say from which row on", "add @ROW or @TIME, as `mean:age:0.5@25000`")
    kind, _, rest = what.partition(":")
    if kind not in set(Change):
        near = get_close_matches(kind, list(Change), 1)
        raise _Problem(
            f"{kind!r} is no kind of change", f"did you mean {near[0]}?" if near else f"known: {', '.join(Change)}"
        )
    change, category, amount = Change(kind), "", 0.0
    if change is not Change.STUCK:
        rest, _, number = rest.rpartition(":")
        amount = _amount(change, number)
    if change is Change.CATEGORY:
        rest, _, category = rest.rpartition(":")
        if not category:
            raise _Problem("lacks a part", USAGE[change])
        if not rest:
            raise _Problem("has three parts of four before the @", USAGE[change])
    if not rest:
        raise _Problem("names no column", USAGE[change])
    start, _, stop = where.partition("..")
    first, last = _mark(start), _mark(stop) if stop else None
    if last is not None and last.ends_before(first):
        raise _Problem("ends before it begins", "give @START..END, END being the first row or time after it")
    return Injection(text, change, rest, amount, category, first, last)


def _amount(change: Change, text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        raise _Problem(f"{text!r} is no number", USAGE[change]) from None
    if not math.isfinite(amount):
        raise _Problem(f"{text!r} is no finite number", USAGE[change])
    if change in (Change.NULL, Change.CATEGORY) and not 0 < amount <= 1:
        raise _Problem(f"{text} is no share", "give one above 0 and up to 1, as 0.02 for 2 %")
    if change is Change.SCALE and amount < 0:
        raise _Problem(f"a spread cannot be multiplied by {text}", "give a factor of 0 or more")
    if amount == {Change.MEAN: 0.0, Change.SCALE: 1.0, Change.UNIT: 1.0}.get(change):
        raise _Problem(f"{text} changes nothing", USAGE[change])
    return amount


def _mark(text: str) -> Mark:
    if text.isdecimal() and int(text) < _TIMES_FROM:
        return Mark(row=int(text))
    time_ms = time_ms_of(text)
    if not isinstance(time_ms, int) or not text:
        raise _Problem(
            f"{text!r} is neither a row nor a time", "rows are counted from 0, times are as 2026-03-01T12:00:00Z"
        )
    return Mark(time_ms=time_ms)


def check(injections: Sequence[Injection], references: Sequence[Reference]) -> None:
    """Whether the references have the columns, and of the right kind; raises ConfigError with every fault."""
    faults = []
    for injection in injections:
        try:
            _check(injection, references)
        except _Problem as problem:
            faults.append(Fault(OPTION, injection.text, problem.what, problem.remedy))
    if faults:
        raise ConfigError(faults)


def _check(injection: Injection, references: Sequence[Reference]) -> None:
    if not references:
        raise _Problem("needs a reference to know the column by", "add --reference FILE")
    name, change = injection.column, injection.change
    columns = [column for reference in references for column in reference.columns if column.name == name]
    if not columns:
        raise _unwatched(name, references)
    wanted = _KINDS.get(change)
    kinds = {column.kind for column in columns}
    if wanted is not None and wanted not in kinds:
        fitting = [kind for kind in Change if _KINDS.get(kind) in (None, *kinds)]
        raise _Problem(
            f"{change} needs a {wanted} column, {name!r} is {' and '.join(sorted(kinds))}", f"use {', '.join(fitting)}"
        )
    if change in (Change.MEAN, Change.SCALE) and not any(column.sd for column in columns):
        raise _Problem(f"{name!r} has no spread in the reference", "use unit, null or stuck")


def _unwatched(name: str, references: Sequence[Reference]) -> _Problem:
    skipped = [why for reference in references for feature, why in reference.skipped.items() if feature == name]
    if skipped:
        return _Problem(f"the reference does not watch {name!r}: {skipped[0]}", "choose a column it watches")
    known = sorted({column.name for reference in references for column in reference.columns})
    near = get_close_matches(name, known, 1)
    more = ", …" if len(known) > 10 else ""
    return _Problem(
        f"the reference has no column {name!r}",
        f"did you mean {near[0]}?" if near else f"it has {', '.join(known[:10])}{more}",
    )


@dataclass(slots=True)
class _Place:
    """What an injection remembers of one stream: the value before it began."""

    last: Any = None


class Injector:
    """Applies injections to rows as they come, stream by stream, in order.

    `begun`: by injection (its position) and stream, the first row of its range.
    """

    def __init__(self, injections: Sequence[Injection]) -> None:
        self.injections = list(injections)
        self.begun: dict[tuple[int, StreamKey], Row] = {}
        self._places: dict[tuple[int, StreamKey], _Place] = {}

    def inject(self, rows: Sequence[Row], stream: StreamKey, reference: Reference) -> list[Row]:
        """The rows of one stream with every injection applied, in the order they were given."""
        changed = list(rows)
        for number, injection in enumerate(self.injections):
            column = next((column for column in reference.columns if column.name == injection.column), None)
            if column is None or _KINDS.get(injection.change, column.kind) is not column.kind:
                continue
            place = self._places.setdefault((number, stream), _Place())
            for i, row in enumerate(changed):
                if injection.hits(row):
                    self.begun.setdefault((number, stream), row)
                    changed[i] = _changed(injection, column, row, place)
                elif injection.change is Change.STUCK:
                    value = value_of(row, column)
                    place.last = place.last if value is None else value
        return changed


def _changed(injection: Injection, column: Column, row: Row, place: _Place) -> Row:
    value = value_of(row, column)
    match injection.change:
        case Change.NULL:
            return with_value(row, column, None) if injection.chance(row) < injection.amount else row
        case Change.CATEGORY:
            hit = injection.chance(row) < injection.amount
            return with_value(row, column, injection.category) if hit else row
        case Change.STUCK:
            place.last = value if place.last is None else place.last
            return with_value(row, column, place.last)
        case _:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return row
            return with_value(row, column, shifted(injection.change, column, float(value), injection.amount))


def shifted(change: Change, column: Column, value: float, amount: float) -> float:
    """A number of the column after a change of `amount`."""
    if change is Change.UNIT:
        return value * amount
    mean, sd = column.mean or 0.0, column.sd or 0.0
    return value + amount * sd if change is Change.MEAN else mean + (value - mean) * amount


def value_of(row: Row, column: Column) -> Any:
    """The raw value behind a column."""
    if column.role is Role.OUTCOME:
        return row.label
    if column.role is Role.INPUT:
        return lookup(row.features, feature_of(column.name))
    _, _, label = column.name.partition(".")
    if not label:
        return row.prediction
    return row.prediction.get(label) if isinstance(row.prediction, dict) else None


def with_value(row: Row, column: Column, value: Any) -> Row:
    """The row with another value behind a column."""
    if column.role is Role.OUTCOME:
        return msgspec.structs.replace(row, label=value)
    if column.role is Role.INPUT:
        return msgspec.structs.replace(row, features=_with(row.features, feature_of(column.name), value))
    _, _, label = column.name.partition(".")
    if label and isinstance(row.prediction, dict):
        return msgspec.structs.replace(row, prediction={**row.prediction, label: value})
    return row if label else msgspec.structs.replace(row, prediction=value)


def _with(values: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path, where `events.lookup` finds it; a key that holds the dots wins."""
    head, _, rest = path.partition(".")
    inner = values.get(head)
    if rest and path not in values and isinstance(inner, dict):
        return {**values, head: _with(inner, rest, value)}
    if rest and isinstance(inner, dict) and value is None:
        return {**values, path: None, head: _with(inner, rest, None)}
    return {**values, path: value}
