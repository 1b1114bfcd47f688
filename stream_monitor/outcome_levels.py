"""The inputs of a prediction that wait beside it for its label: levels, four bits each, in 16 bytes. Pure.

A label that comes late meets its prediction without the inputs: the row's codes are gone by then. What the relation of
an input with the label takes is its level (see `association.py`), so that is kept: of the `MAX_WAITING_LEVELS` inputs
that went most with the label in training. One place more marks the reference that they were coded under.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.association import all_tables, rank_correlation, relations_of
from stream_monitor.codes import MAX_BINS
from stream_monitor.compiled import njit
from stream_monitor.dependence import autocorrelation_time
from stream_monitor.reference import (
    LEVELS,
    MAX_WAITING_LEVELS,
    OutcomeRelations,
    Performance,
    Reference,
    Relations,
    Role,
    Task,
)

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
Packed = npt.NDArray[np.uint64]
"""`[rows, 2]`."""

NONE: Final = 255
"""Stands for no level: a null, or a value that has no place in an order."""
FEWEST: Final = 500
"""Labelled rows of a reference."""


def learn(
    reference: Reference, relations: Relations, codes: Codes, task: Task, actual: Floats
) -> OutcomeRelations | None:
    """How the inputs went with the label, over rows in order: `codes` `[rows, columns]`, labels `[rows]` in the form of
    the task. None where labels have no order (more than two classes), do not vary, or are few."""
    edges = _edges(task, actual)
    if len(actual) < FEWEST or task is Task.CLASSES or not edges:
        return None
    label = label_levels(edges, actual)
    places = {column.name: i for i, column in enumerate(reference.columns)}
    inputs = [i for i, name in enumerate(relations.columns) if reference.columns[places[name]].role is Role.INPUT]
    tables = np.zeros((len(inputs), LEVELS, LEVELS), dtype=np.int64)
    for k, i in enumerate(inputs):
        own = np.array(relations.levels[i], dtype=np.int8)[codes[:, places[relations.columns[i]]]]
        tables[k] = all_tables(np.stack([own, label], axis=1))[0]
    found = [float(f"{rank_correlation(table):.4g}") for table in tables.astype(np.float64)]
    chosen = sorted(sorted(range(len(inputs)), key=lambda k: -abs(found[k]))[:MAX_WAITING_LEVELS])
    if not chosen:
        return None
    return OutcomeRelations(
        [relations.columns[inputs[k]] for k in chosen], [found[k] for k in chosen],
        tables[chosen].astype("<u2").tobytes(), edges,
        [reference.columns[places[relations.columns[inputs[k]]]].autocorrelation_time for k in chosen],
        float(f"{autocorrelation_time(label.astype(np.float64)):.4g}"), len(inputs) - len(chosen),
    )  # fmt: skip


def _edges(task: Task, actual: Floats) -> list[float]:
    """Lower ends of the labels' levels but the first; empty where they do not vary."""
    if task is Task.BINARY:
        return [1.0] if len(np.unique(actual)) > 1 else []
    cuts = np.unique(np.quantile(actual, np.arange(1, LEVELS) / LEVELS, method="higher")) if len(actual) else actual
    return [float(cut) for cut in cuts if cut > actual.min()]


def label_levels(edges: list[float], actual: Floats) -> npt.NDArray[np.int8]:
    """The level of every label.

    >>> label_levels([1.0], np.array([0.0, 1.0])).tolist()
    [0, 1]
    """
    return np.searchsorted(np.array(edges), actual, side="right").astype(np.int8)


def outcome_relations_of(performance: Performance | Any) -> OutcomeRelations | None:
    found = performance.relations if isinstance(performance, Performance) else None
    return found if isinstance(found, OutcomeRelations) else None


def mark_of(generation: int) -> int:
    """What tells the rows of a reference from those of the one before: 1 … 15."""
    return 1 + generation % 15


class Packing:
    """From the codes of one reference to what waits."""

    def __init__(self, reference: Reference) -> None:
        self.outcome, relations = outcome_relations_of(reference.performance), relations_of(reference)
        assert self.outcome is not None  # asked for by `packing_of` alone
        assert relations is not None
        places = {column.name: i for i, column in enumerate(reference.columns)}
        levels = dict(zip(relations.columns, relations.levels, strict=True))
        self._places = np.array([places[name] for name in self.outcome.columns], dtype=np.int64)
        self._nibbles = np.zeros((len(self._places), MAX_BINS + 256), dtype=np.uint64)
        for row, name in zip(self._nibbles, self.outcome.columns, strict=True):
            row[: len(levels[name])] = np.array(levels[name]) + 1

    def pack(self, codes: Codes, generation: int) -> Packed:
        """Of codes `[rows, columns]`."""
        packed = np.zeros((len(codes), 2), dtype=np.uint64)
        _pack(codes, self._places, self._nibbles, np.uint64(mark_of(generation)), packed)
        return packed


def packing_of(reference: Reference | None) -> Packing | None:
    """None where the reference says nothing of the inputs and the label."""
    if reference is None or outcome_relations_of(reference.performance) is None or relations_of(reference) is None:
        return None
    return Packing(reference)


def unpack(packed: Packed, columns: int, mark: int) -> tuple[npt.NDArray[np.intp], Codes]:
    """The rows that bear the mark, and their levels `[rows, columns]`, `NONE` for none."""
    marked = np.flatnonzero((packed[:, 1] >> np.uint64(60)) == mark)
    return marked, _unpack(packed, marked, columns)


@njit
def _unpack(packed: Any, rows: Any, columns: int) -> Any:
    levels = np.empty((len(rows), columns), dtype=np.uint8)
    for i in range(len(rows)):
        for k in range(columns):
            nibble = (packed[rows[i], k // 16] >> np.uint64(4 * (k % 16))) & np.uint64(15)
            levels[i, k] = nibble - np.uint64(1) if nibble > 0 else NONE
    return levels


@njit
def _pack(codes: Any, places: Any, nibbles: Any, mark: Any, packed: Any) -> None:
    for row in range(len(codes)):
        for k in range(len(places)):
            packed[row, k // 16] |= nibbles[k, codes[row, places[k]]] << np.uint64(4 * (k % 16))
        packed[row, 1] |= mark << np.uint64(60)
