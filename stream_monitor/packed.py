"""A reference's numbers held as what they are: 8 bytes an edge where a list of Python's floats takes 32. Pure.

A worker holds the reference of every stream it watches, and a column has some 70 edges, counts and levels; read from
JSON as they come, they would take 5 KB of memory a column.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from stream_monitor.reference import Bins, Column, Reference, Relations, Segment

Item = TypeVar("Item")
_NONE: Final[list[str]] = []
"""For all that have none: a document is never written to."""


class Numbers(array):  # type: ignore[type-arg]  # a type code decides which numbers, at run time
    """Numbers that cannot be told from a list of them, but by what they take."""

    __slots__ = ()
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, array | list) and self.tolist() == (other if isinstance(other, list) else list(other))


class Rows(Sequence[Numbers]):
    """Rows of numbers one behind another in a single array, where each in an array of its own would take 96 bytes more.

    Cannot be told from a list of lists, but by what it takes.
    """

    __hash__ = None  # type: ignore[assignment]  # as a list's
    __slots__ = ("_ends", "_numbers")

    def __init__(self, kind: str, rows: Sequence[Sequence[Any]]) -> None:
        self._numbers = Numbers(kind, [*chain.from_iterable(rows)])
        self._ends = _ends(tuple(map(len, rows)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        row = range(len(self))[row]
        start = self._ends[row - 1] if row else 0
        return Numbers(self._numbers.typecode, self._numbers[start : self._ends[row]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows | list) and [*self] == [*other]

    def padded(self) -> npt.NDArray[Any]:
        """`[rows, widest]`, −1 where a row is shorter; where none is, it takes no memory of its own."""
        numbers = np.frombuffer(self._numbers, dtype=self._numbers.typecode)
        widths = np.diff(self._ends, prepend=0)
        if len(set(widths.tolist())) == 1:
            return numbers.reshape(len(widths), -1)
        table = np.full((len(widths), widths.max()), -1, dtype=numbers.dtype)
        table[np.arange(table.shape[1]) < widths[:, None]] = numbers
        return table


@lru_cache(maxsize=1024)
def _ends(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Where each row ends; one for all references of that shape."""
    return tuple(accumulate(widths))


class Quantiles(Mapping[str, float]):
    """One column's row of a table that all columns of a reference share: level → value, as in a dict."""

    __hash__ = None  # type: ignore[assignment]  # as a dict's
    __slots__ = ("_levels", "_row", "_table")

    def __init__(self, levels: tuple[str, ...], table: Numbers, row: int) -> None:
        self._levels, self._table, self._row = levels, table, row

    def __getitem__(self, level: str) -> float:
        try:
            value: float = self._table[self._row * len(self._levels) + self._levels.index(level)]
        except ValueError:
            raise KeyError(level) from None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)


def padded(levels: Sequence[Sequence[int]]) -> npt.NDArray[np.int8]:
    """As `Rows.padded`, of the levels of `Relations`, packed or not; not to be written to."""
    return (levels if isinstance(levels, Rows) else Rows("b", levels)).padded()


def plain(found: Any) -> Any:
    """What a JSON encoder shall write for it."""
    if isinstance(found, Numbers):
        return found.tolist()
    if isinstance(found, Rows):
        return [*found]
    if isinstance(found, Quantiles):
        return dict(found)
    raise TypeError(f"{type(found).__name__} is no part of a reference")


def packed(reference: Reference) -> Reference:
    """The same reference, whose lists of numbers take a fraction of the memory; the document is the same, too."""
    changed: dict[str, Any] = {"columns": _columns(reference.columns)}
    if reference.relations:
        changed["relations"] = _relations(reference.relations)
    if reference.segments:
        changed["segments"] = [_segment(segment) for segment in reference.segments]
    return msgspec.structs.replace(reference, **changed)


def _columns(columns: Sequence[Column]) -> list[Column]:
    shared: dict[tuple[str, ...], list[float]] = {}
    for column in columns:
        shared.setdefault(_levels(column.quantiles), []).extend(column.quantiles.values())
    tables = {levels: (Numbers("d", values), iter(range(len(columns)))) for levels, values in shared.items()}
    return [_column(column, *tables[_levels(column.quantiles)]) for column in columns]


def _column(column: Column, table: Numbers, row: Iterator[int]) -> Column:
    quantiles: Any = Quantiles(_levels(column.quantiles), table, next(row))
    return msgspec.structs.replace(
        column, name=sys.intern(column.name), strata=_listed(map(_bins, column.strata)),
        categories=column.categories or _NONE, rare=column.rare or _NONE, quantiles=quantiles,
    )  # fmt: skip


def _levels(quantiles: Mapping[str, float]) -> tuple[str, ...]:
    return _known(tuple(quantiles))


@lru_cache(maxsize=1024)
def _known(levels: tuple[str, ...]) -> tuple[str, ...]:
    """The same levels; one tuple for all references that have them."""
    return levels


def _bins(bins: Bins) -> Bins:
    edges: Any = Numbers("d", bins.edges) if bins.edges else _NONE
    return msgspec.structs.replace(bins, counts=_counts(bins.counts), edges=edges)


def _relations(relations: Relations) -> Relations:
    levels: Any = Rows("b", relations.levels)
    correlation: Any = Rows("d", relations.correlation)
    names = _listed(map(sys.intern, relations.columns))
    return msgspec.structs.replace(relations, columns=names, levels=levels, correlation=correlation)


def _listed(items: Iterable[Item]) -> list[Item]:
    """A list that has no room for more."""
    return [*items][:]


def _segment(segment: Segment) -> Segment:
    columns = [
        msgspec.structs.replace(column, counts=[_counts(counts) for counts in column.counts])
        for column in segment.columns
    ]
    return msgspec.structs.replace(segment, columns=columns)


def _counts(counts: Sequence[int]) -> Any:
    """Natural numbers below 2⁶³, in as few bytes as the largest takes."""
    largest = max(counts, default=0)
    return Numbers("B" if largest < 2**8 else "H" if largest < 2**16 else "I" if largest < 2**32 else "q", counts)
