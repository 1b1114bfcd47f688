"""Rows → codes: every value becomes the number of the bin it falls into under its stream's reference. Pure.

This is the hot path of the main job. Whole columns are type-checked and converted in C (`msgspec.convert`,
`struct.pack`) and searched by one compiled kernel; a value of an unexpected type sends its column, not the program,
down a slower path with the same result. `code_of` is that result's definition, one value at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW, OTHER
from stream_monitor.compiled import njit
from stream_monitor.events import Row
from stream_monitor.features import MAX_DEPTH, canonical, clean, columns_of, feature_of, getter
from stream_monitor.layout import Layout
from stream_monitor.reference import Column, Kind, Reference, Role
from stream_monitor.rows import Rows
from stream_monitor.scanned import Cells, Features
from stream_monitor.texts import TextTable

Extra = tuple[int, int, float | str]
"""(row, column, raw value); numbers as float, texts cut to `MAX_EXTRA_TEXT`."""
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
NameOf = Callable[[object], str | None]
"""The category that a value names: `canonical`, or its pseudonym."""

MAX_EXTRA_TEXT: Final = 128
MAX_EXTRAS_A_COLUMN: Final = 16
MAX_EXTRAS: Final = 256
MAX_UNKNOWN: Final = 64
MAX_LAYOUTS: Final = 64
_MOST_PLACES: Final = 4_096
_MISS: Final = 255
_FLOAT_MAX: Final = 1.7976931348623157e308
_WRONG: Final = object()
"""Stands for the score of a class where the prediction is no map of scores: of no type that a column admits."""

_features_of = attrgetter("features")
_prediction_of = attrgetter("prediction")
_label_of = attrgetter("label")
_time_of = attrgetter("time_ms")


@dataclass(frozen=True, slots=True)
class Coded:
    """The codes of a run of rows of one stream.

    `codes`: uint8 `[rows, columns]`, C order. `strata`: uint8 `[rows]`. `extras`: raw values that fell in `below`,
    `above` or `new`, at most `MAX_EXTRAS_A_COLUMN` a column and `MAX_EXTRAS` in all. `unknown`: features that the
    reference neither watches nor knows as skipped, at most `MAX_UNKNOWN`.
    """

    codes: Codes
    strata: Codes
    extras: list[Extra]
    unknown: frozenset[str]


class Binner:
    """Turns rows of one stream into codes under one reference. Holds tables only: the same rows give the same codes.

    `name_of`: how a value that is no text names a category (see `privacy.Veil.category`).
    """

    def __init__(self, reference: Reference, name_of: NameOf = canonical) -> None:
        self.reference = reference
        self._name_of = name_of
        columns = list(enumerate(reference.columns))
        numeric = [(at, column) for at, column in columns if column.kind is Kind.NUMERIC]
        categorical = {at: column for at, column in columns if column.kind is Kind.CATEGORICAL}
        self._tables = {at: _table(column) for at, column in categorical.items()}
        self._texts: dict[int, TextTable] = {}
        self._defaults = {at: NEW if column.exhaustive else OTHER for at, column in categorical.items()}

        # The kernel takes the numeric inputs as one block, then every other numeric column as a block of its own.
        self._others = [(at, column) for at, column in columns if column.role is not Role.INPUT]
        inputs = [(at, column) for at, column in numeric if column.role is Role.INPUT]
        self._search = _Search(inputs + [o for o in self._others if o[1].kind is Kind.NUMERIC], reference.strata)
        self._textual_at = [at for at, column in categorical.items() if column.role is Role.INPUT]
        self._numeric = [feature_of(column.name) for _, column in inputs]
        self._textual = [feature_of(categorical[at].name) for at in self._textual_at]
        self._names = tuple(self._numeric)
        self._numeric_of = getter(self._numeric)
        self._textual_of = getter(self._textual)

        watched = self._numeric + self._textual
        self._watched = len(watched)
        self._dotted = [name for name in watched if "." in name]
        self._known = frozenset(watched) | reference.skipped.keys()
        self._layouts: dict[Layout, frozenset[str]] = {}
        """What `_unknown_in` has found."""
        self._objects = frozenset(name[:i] for name in self._known for i, letter in enumerate(name) if letter == ".")

    def encode(self, rows: Sequence[Row]) -> Coded:
        """The codes of `rows`, whatever values they hold; never raises."""
        codes = np.zeros((len(rows), len(self.reference.columns)), dtype=np.uint8)
        if not rows:
            return Coded(codes, np.zeros(0, dtype=np.uint8), [], frozenset())
        features = rows.features if isinstance(rows, Rows) else list(map(_features_of, rows))
        found: list[Sequence[Any] | Cells]
        if isinstance(features, Features):
            block, found = Block(*features.numbers(self._names)), list(map(features.cells, self._textual))
            unknown = self._unknown_of(features)
        else:
            numbers, texts, plain = self._gather(features)
            found = list(texts)
            block, unknown = numbers_of(numbers, len(rows)), self._unknown(features, plain)
        blocks = [block]
        categories = dict(zip(self._textual_at, found, strict=True))
        for at, column in self._others:
            if column.kind is Kind.NUMERIC:
                blocks.append(numbers_of(_column_of(rows, column), len(rows)))
            else:
                categories[at] = _column_of(rows, column)
        strata = self._strata_of(rows)
        extras = self._search.into(codes, strata, blocks)
        for at, values in categories.items():
            codes[:, at], new = self._categories(at, values)
            extras += [(row, at, name) for row, name in new]
        return Coded(codes, strata, capped(extras), unknown)

    def _strata_of(self, rows: Sequence[Row]) -> Codes:
        if not self.reference.slots:
            return np.zeros(len(rows), dtype=np.uint8)
        if isinstance(rows, Rows):
            return self.reference.strata_of(rows.origins.time_ms)
        return self.reference.strata_of(np.fromiter(map(_time_of, rows), np.int64, len(rows)))

    def _gather(self, features: Sequence[dict[str, Any]]) -> tuple[list[object], list[Sequence[object]], bool]:
        """The numeric inputs row by row, the categorical ones by column, and whether every row had every key itself."""
        try:
            numeric = list(chain.from_iterable(map(self._numeric_of, features)))
            textual: list[Sequence[object]] = list(zip(*map(self._textual_of, features), strict=True))
        except KeyError:
            pass
        else:
            # A null under a dotted key may hide a value that stands nested.
            if not self._dotted or not any(row[name] is None for row in features for name in self._dotted):
                return numeric, textual, True
        columns = columns_of(features, self._numeric + self._textual)
        numbers = zip(*columns[: len(self._numeric)], strict=True)
        return list(chain.from_iterable(numbers)), [*columns[len(self._numeric) :]], False

    def _categories(self, at: int, values: Sequence[Any] | Cells) -> tuple[Codes, list[tuple[int, str]]]:
        """The codes of one categorical column, and the first rows that hold a category never seen, with its name."""
        table = self._tables[at]
        if isinstance(values, Cells):
            if at not in self._texts:
                self._texts[at] = TextTable(table)
            codes = values.codes(self._texts[at], MISSING, _MISS)
        else:
            try:
                codes = np.frombuffer(bytearray(map(table.get, values, repeat(_MISS))), dtype=np.uint8)
            except TypeError:  # something unhashable
                codes = np.full(len(values), _MISS, dtype=np.uint8)
        rows = np.flatnonzero(codes == _MISS)
        missed = values.objects(rows) if isinstance(values, Cells) else [values[row] for row in rows.tolist()]
        new: list[tuple[int, str]] = []
        for row, value in zip(rows.tolist(), missed, strict=True):
            codes[row] = _category_code(value, table, self._defaults[at], self._name_of)
            if codes[row] == NEW and len(new) < MAX_EXTRAS_A_COLUMN:
                new.append((row, (self._name_of(value) or "")[:MAX_EXTRA_TEXT]))
        return codes, new

    def _unknown(self, features: Sequence[dict[str, Any]], plain: bool) -> frozenset[str]:
        if plain and max(map(len, features)) == self._watched:
            return frozenset()
        found: set[str] = set()
        self._collect_unknown(features, "", found, depth=0)
        return frozenset(sorted(found)[:MAX_UNKNOWN])

    def _unknown_of(self, features: Features) -> frozenset[str]:
        layouts = features.layouts
        # A null where an object may stand is no feature, unless another row has something else there: look at all.
        if not all(layout.features.keys().isdisjoint(self._objects) for layout in layouts):
            return self._unknown(features, plain=False)
        found = set().union(*map(self._unknown_in, layouts))
        return frozenset(sorted(found)[:MAX_UNKNOWN])

    def _unknown_in(self, layout: Layout) -> frozenset[str]:
        """The features of a layout, none of them an object, that the reference does not know."""
        found = self._layouts.get(layout)
        if found is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            found = self._layouts[layout] = self._unknown([dict.fromkeys(layout.features, 0)], plain=False)
        return found

    def _collect_unknown(self, objects: Sequence[dict[str, Any]], prefix: str, found: set[str], depth: int) -> None:
        for key in set().union(*objects):
            name = prefix + key
            if name in self._known or clean(name) in self._known:
                continue
            values = [entry[key] for entry in objects if key in entry]
            inner = [value for value in values if type(value) is dict] if "." not in key and depth < MAX_DEPTH else []
            if inner:
                self._collect_unknown(inner, name + ".", found, depth + 1)
            null = name in self._objects and all(value is None or type(value) is dict for value in values)
            if len(inner) < len(values) and not null:
                found.add(clean(name))


def _table(column: Column) -> dict[object, int]:
    """Raw value → code for everything that needs no second look. Numbers and booleans are left out on purpose: 1, 1.0
    and True are one key to a dict."""
    table: dict[object, int] = dict.fromkeys(column.rare, OTHER)
    table |= {name: FIRST_BIN + i for i, name in enumerate(column.categories)}
    for name in ("true", "false"):
        if name in table:
            table |= {name.capitalize(): table[name], name.upper(): table[name]}
    table[None] = MISSING
    return table


def _category_code(value: object, table: Mapping[object, int], default: int, name_of: NameOf = canonical) -> int:
    if value is None:
        return MISSING
    name = name_of(value)
    return INVALID if name is None else table.get(name, default)


def _column_of(rows: Sequence[Row], column: Column) -> Sequence[Any]:
    """The predictions, the outcomes or, for a column `prediction.<class>`, the scores of that class."""
    if column.role is Role.OUTCOME:
        return rows.labels if isinstance(rows, Rows) else list(map(_label_of, rows))
    predictions = rows.predictions if isinstance(rows, Rows) else list(map(_prediction_of, rows))
    _, _, label = column.name.partition(".")
    if not label:
        return predictions
    return [p.get(label) if type(p) is dict else p if p is None else _WRONG for p in predictions]


def capped(extras: list[Extra]) -> list[Extra]:
    """At most `MAX_EXTRAS_A_COLUMN` and `MAX_EXTRAS`, every column with an equal share; ordered by row, then column."""
    extras = _first(sorted(extras, key=lambda extra: extra[:2]), MAX_EXTRAS_A_COLUMN)
    if len(extras) > MAX_EXTRAS:
        share = max(1, MAX_EXTRAS // len({column for _, column, _ in extras}))
        extras = _first(extras, share)[:MAX_EXTRAS]
    return extras


def _first(extras: list[Extra], share: int) -> list[Extra]:
    """The first `share` of every column."""
    seen: dict[int, int] = {}
    kept = []
    for extra in extras:
        seen[extra[1]] = seen.get(extra[1], 0) + 1
        if seen[extra[1]] <= share:
            kept.append(extra)
    return kept


@dataclass(frozen=True, slots=True)
class Block:
    """Some numeric columns: `values` `[rows, width]`, NaN for anything unusable; `missing` (or `[0, 0]`): which of
    those were None."""

    values: Floats
    missing: Mask


_NOTHING_MISSING: Final[Mask] = np.zeros((0, 0), dtype=np.bool_)
_REFUSED: Final = (msgspec.MsgspecError, struct.error, ValueError, TypeError, OverflowError)
"""What the fast conversions raise at a value that is no number; a text with half a surrogate pair is a ValueError."""


def numbers_of(flat: Sequence[Any], rows: int) -> Block:
    """Values of any type, row by row → `number` of each."""
    try:
        msgspec.convert(flat, list[float])  # admits float and int, refuses bool, text, None, integers out of range
        packed = bytearray(8 * len(flat))
        struct.pack_into(f"{len(flat)}d", packed, 0, *flat)
        return Block(np.frombuffer(packed).reshape(rows, -1), _NOTHING_MISSING)
    except _REFUSED:
        missing = np.fromiter(map(is_, flat, repeat(None)), np.bool_, len(flat))
    try:
        msgspec.convert(flat, list[float | None])
        values = np.array(flat, dtype=np.float64)
    except _REFUSED:
        values = np.fromiter(map(number, flat), np.float64, len(flat))
    return Block(values.reshape(rows, -1), missing.reshape(rows, -1))


def number(value: object) -> float:
    """A value as a numeric column takes it; NaN if it cannot be one.

    >>> number(3), number(True), number("3"), number(10**400)
    (3.0, nan, nan, 1.7976931348623157e+308)
    """
    if type(value) is float:
        return value
    if type(value) is not int:
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.copysign(_FLOAT_MAX, value > 0 or -1)


class _Search:
    """The bins of all numeric columns as flat arrays, `[strata × columns]`, for one compiled search."""

    def __init__(self, columns: list[tuple[int, Column]], strata: int) -> None:
        self.at = np.array([at for at, _ in columns], dtype=np.int64)
        bins = [column.strata[stratum] for stratum in range(strata) for _, column in columns]
        self.starts = np.cumsum([0] + [len(b.edges) for b in bins], dtype=np.int64)
        self.edges = np.array([edge for b in bins for edge in b.edges], dtype=np.float64)
        self.low = np.array([b.low for b in bins], dtype=np.float64)

    def into(self, codes: Codes, strata: Codes, blocks: list[Block]) -> list[Extra]:
        """Fill in the codes of all numeric columns; what lay outside the training range."""
        extras: list[Extra] = []
        first = 0
        for block in blocks:
            width = block.values.shape[1]
            places = np.empty((min(block.values.size, width * MAX_EXTRAS_A_COLUMN, _MOST_PLACES), 2), dtype=np.int64)
            found = _search(
                block.values, block.missing, strata, self.edges, self.starts, self.low, self.at, first, codes,
                places, np.zeros(width, dtype=np.int64),
            )  # fmt: skip
            for row, column in places[:found].tolist():
                extras.append((row, int(self.at[first + column]), float(block.values[row, column])))
            first += width
        return extras


@njit
def _search(
    values: Floats, missing: Mask, strata: Codes, edges: Floats, starts: Ints, low: Floats, at: Ints, first: int,
    codes: Codes, places: Ints, outside: Ints,
) -> int:  # fmt: skip
    """Code `values` `[rows, width]`, the numeric columns `first …`, into `codes[:, at]`.

    Puts where values lay outside their range into `places` `[most, (row, column)]` and returns how many it put;
    `outside` `[width]` counts them. The bin is found by comparing with *all* edges: without a branch to predict the
    compiler compares many at once, which takes a fifth of a binary search's time.
    """
    found = 0
    for i in range(values.shape[0]):
        stratum = np.int64(strata[i]) * len(at) + first
        for j in range(values.shape[1]):
            x = values[i, j]
            bins = edges[starts[stratum + j] : starts[stratum + j + 1]]
            below = np.int64(0)
            for edge in range(len(bins)):
                below += np.int64(bins[edge] < x)
            code = FIRST_BIN + below
            if not np.isfinite(x):
                code = np.int64(MISSING if len(missing) and missing[i, j] else INVALID)
            elif below == len(bins) or x < low[stratum + j]:
                code = np.int64(ABOVE if below == len(bins) else BELOW)
                outside[j] += 1
                if outside[j] <= MAX_EXTRAS_A_COLUMN and found < len(places):
                    places[found, 0] = i
                    places[found, 1] = j
                    found += 1
            codes[i, at[first + j]] = code
    return found


def codes_of(columns: Sequence[Column], values: Floats) -> Codes:
    """The codes of values `[rows, columns]` of numeric columns without season; NaN is `invalid`."""
    codes = np.zeros(values.shape, dtype=np.uint8)
    search = _Search(list(enumerate(columns)), 1)
    search.into(codes, np.zeros(len(values), dtype=np.uint8), [Block(values, _NOTHING_MISSING)])
    return codes


def code_of(value: object, column: Column, stratum: int = 0) -> int:
    """The code of one value: the slow, obvious definition of what `Binner.encode` computes."""
    if value is None:
        return MISSING
    if column.kind is Kind.CATEGORICAL:
        return _category_code(value, _table(column), NEW if column.exhaustive else OTHER)
    x = number(value)
    bins = column.strata[stratum]
    if not math.isfinite(x):
        return INVALID
    if not bins.edges or x > bins.edges[-1]:
        return ABOVE
    if x < bins.low:
        return BELOW
    return FIRST_BIN + next(i for i, edge in enumerate(bins.edges) if x <= edge)
