"""What a row says about how good its prediction was: prediction and label as numbers or categories, and its id. Pure.

A prediction or a label is a *number* or one of a few *categories*; a map of class to score is the category with the
highest score, and that score. Booleans and texts that are numbers count as numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor import wire
from stream_monitor.errors import WireError
from stream_monitor.events import Row
from stream_monitor.features import canonical, clean

ID_BYTES: Final = 16
NO_NAME: Final = -1
MAX_NAMES: Final = 1_000
"""Of one batch; what lies beyond has no value."""
MAX_JOINED: Final = 32_000

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.int16]
Ids = npt.NDArray[np.uint64]
"""`[rows, 2]`: the digests of ids, all zero where a row has none."""


@dataclass(frozen=True, slots=True)
class Values:
    """Numbers or categories of `[rows]`: `number` (NaN: none), and `name`, an index into the names (−1: no category).

    With a category the number is its score, or NaN.
    """

    number: Floats
    name: Names

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: slice | npt.NDArray[np.intp]) -> Values:
        return Values(self.number[rows], self.name[rows])

    def renamed(self, places: Sequence[int]) -> Values:
        """The same with names numbered anew: name i becomes `places[i]`."""
        if not len(places):
            return self
        table = np.array([*places, NO_NAME], dtype=np.int16)  # the last is what −1 finds
        return Values(self.number, table[self.name])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Predictions and labels of `[rows]`, the digests of their ids (`[0, 2]` where nobody joins), and the names that
    the categories refer to."""

    prediction: Values
    label: Values
    ids: Ids
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prediction)

    def take(self, rows: slice | npt.NDArray[np.intp]) -> Outcomes:
        ids = self.ids[rows] if len(self.ids) else self.ids
        return Outcomes(self.prediction.take(rows), self.label.take(rows), ids, self.names)

    @classmethod
    def of(cls, rows: Sequence[Row], *, with_ids: bool) -> Outcomes | None:
        """Of rows; None where there is nothing to compare and nothing to join: no label, and no ids asked for."""
        columns = [row.prediction for row in rows], [row.label for row in rows], [row.id for row in rows]
        return cls.of_columns(*columns, with_ids=with_ids)

    @classmethod
    def of_columns(
        cls, predictions: Sequence[Any], labels: Sequence[Any], ids: Sequence[str | None], *, with_ids: bool
    ) -> Outcomes | None:
        """The same of rows that are held by column."""
        if not with_ids and labels.count(None) == len(labels):
            return None
        names: dict[str, int] = {}
        prediction, label = values_of(predictions, names), values_of(labels, names)
        digests = ids_of(ids) if with_ids else np.zeros((0, 2), dtype=np.uint64)
        return cls(prediction, label, digests, tuple(names))

    @classmethod
    def join(cls, parts: Sequence[tuple[Outcomes | None, int]]) -> Outcomes | None:
        """Of batches in a row, each with its number of rows; those without any have no values."""
        if all(part is None for part, _ in parts):
            return None
        names: dict[str, int] = {}
        with_ids = any(part is not None and len(part.ids) for part, _ in parts)
        filled = []
        for part, rows in parts:
            part = part or nothing(rows)
            places = [_place(name, names, MAX_JOINED) for name in part.names]
            ids = part.ids if len(part.ids) or not with_ids else np.zeros((rows, 2), dtype=np.uint64)
            filled.append((part.prediction.renamed(places), part.label.renamed(places), ids))
        return cls(
            joined([prediction for prediction, _, _ in filled]), joined([label for _, label, _ in filled]),
            np.concatenate([ids for _, _, ids in filled]), tuple(names),
        )  # fmt: skip


def nothing(rows: int) -> Outcomes:
    """Rows without prediction and label."""
    return Outcomes(_none(rows), _none(rows), np.zeros((0, 2), dtype=np.uint64))


def _none(rows: int) -> Values:
    return Values(np.full(rows, math.nan), np.full(rows, NO_NAME, dtype=np.int16))


def joined(parts: Sequence[Values]) -> Values:
    return Values(np.concatenate([part.number for part in parts]), np.concatenate([part.name for part in parts]))


def values_of(raw: Sequence[Any], names: dict[str, int]) -> Values:
    """Raw values → numbers and categories; new names are added to `names`."""
    kinds = set(map(type, raw))
    if kinds <= {float, int, bool, type(None)}:  # the common case
        with suppress(OverflowError):  # an integer that no float can hold: one by one, below
            numbers = np.array(raw, dtype=np.float64)  # None becomes NaN
            numbers[~np.isfinite(numbers)] = math.nan
            return Values(numbers, np.full(len(raw), NO_NAME, dtype=np.int16))
    found = [value_of(value) for value in raw]
    places = [NO_NAME if name is None else _place(name, names) for _, name in found]
    return Values(np.array([number for number, _ in found]), np.array(places, dtype=np.int16))


def _place(name: str, names: dict[str, int], most: int = MAX_NAMES) -> int:
    if name not in names and len(names) >= most:
        return NO_NAME
    return names.setdefault(name, len(names))


def value_of(value: Any) -> tuple[float, str | None]:
    """A raw prediction or label → its number (NaN: none) and its category (None: it is a number, or nothing).

    >>> value_of(True), value_of("0.5"), value_of({"no": 0.3, "yes": 0.7})
    ((1.0, None), (0.5, None), (0.7, 'yes'))
    >>> value_of("paid"), value_of(None), value_of([1])
    ((nan, 'paid'), (nan, None), (nan, None))
    """
    if isinstance(value, dict):
        scores = [(float(score), name) for name, score in value.items() if _is_number(score)]
        if not scores:
            return math.nan, None
        score, name = max(scores, key=lambda each: (each[0], str(each[1])))
        return score, clean(str(name))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return float(value), None
    return (float(value), None) if _is_number(value) else (math.nan, None)


def _text(value: str) -> tuple[float, str | None]:
    name = canonical(value)
    if name in ("true", "false"):
        return float(name == "true"), None
    if value[:1] in "+-.0123456789" and "_" not in value:
        try:
            number = float(value)
        except ValueError:
            return math.nan, name or None
        return (number, None) if math.isfinite(number) else (math.nan, None)
    return math.nan, name or None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def ids_of(ids: Iterable[str | None]) -> Ids:
    """The 16-byte digests of ids (BLAKE2b), zero for none."""
    empty, blake2b = bytes(ID_BYTES), hashlib.blake2b
    data = b"".join([blake2b(_bytes(i), digest_size=ID_BYTES).digest() if i else empty for i in ids])
    return np.frombuffer(data, dtype="<u8").reshape(-1, 2)


def _bytes(identity: str) -> bytes:
    return identity.encode("utf-8", "surrogatepass")  # Python's json admits half a surrogate pair


def values_in(number: bytes, name: bytes, names: Sequence[str], rows: int, what: str) -> Values:
    """Numbers and categories from their bytes (`name` empty: all are numbers); raises WireError."""
    numbers: Any = wire.array(number, "<f8", rows, what)
    places: Any = wire.array(name, "<i2", rows, what) if name else np.full(rows, NO_NAME, dtype=np.int16)
    if len(names) > 2 * MAX_NAMES or (name and not (places.min() >= NO_NAME and places.max() < len(names))):
        raise WireError(f"{what}: a category that has no name")
    if np.isinf(numbers).any():
        raise WireError(f"{what}: an infinite number")
    return Values(numbers, places)
