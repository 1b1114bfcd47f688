"""A reference's numbers held as what they are: 8 bytes an edge where a list of Python's floats takes 32. Pure.

A worker holds the reference of every stream it watches, and a column has some 70 edges, counts and levels; read from
JSON as they come, they would take 5 KB of memory a column.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from stream_monitor.reference import Bins, Column, Reference, Relations, Segment

_NONE: Final[list[str]] = []
"""For all that have none: a document is never written to."""


class Numbers(array):  # type: ignore[type-arg]  # a type code decides which numbers, at run time
    """Numbers that cannot be told from a list of them, but by what they take."""

    __slots__ = ()
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, array | list) and self.tolist() == (other if isinstance(other, list) else list(other))


def plain(found: Any) -> Any:
    """What a JSON encoder shall write for it."""
    if isinstance(found, Numbers):
        return found.tolist()
    raise TypeError(f"{type(found).__name__} is no part of a reference")


def packed(reference: Reference) -> Reference:
    """The same reference, whose lists of numbers take a fraction of the memory; the document is the same, too."""
    columns = [_column(column) for column in reference.columns]
    changed: dict[str, Any] = {"columns": columns}
    if reference.relations:
        changed["relations"] = _relations(reference.relations)
    if reference.segments:
        changed["segments"] = [_segment(segment) for segment in reference.segments]
    return msgspec.structs.replace(reference, **changed)


def _column(column: Column) -> Column:
    return msgspec.structs.replace(
        column, name=sys.intern(column.name), strata=[_bins(bins) for bins in column.strata],
        categories=column.categories or _NONE, rare=column.rare or _NONE,
    )  # fmt: skip


def _bins(bins: Bins) -> Bins:
    edges: Any = Numbers("d", bins.edges) if bins.edges else _NONE
    return msgspec.structs.replace(bins, counts=_counts(bins.counts), edges=edges)


def _relations(relations: Relations) -> Relations:
    return msgspec.structs.replace(
        relations,
        columns=[sys.intern(name) for name in relations.columns],
        levels=[Numbers("b", levels) for levels in relations.levels],
        correlation=[Numbers("d", row) for row in relations.correlation],
    )


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
