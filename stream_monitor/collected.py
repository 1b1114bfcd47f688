"""The outcomes among training rows, as a reference is fitted from them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.events import Row
from stream_monitor.outcomes import Values, joined, values_of
from stream_monitor.performance import pairs_of
from stream_monitor.reference import OutcomeRelations, Performance, Reference, Relations

MOST: Final = 1_000_000
"""Outcomes kept: the first ones; 20 bytes each."""


class Collected:
    """Predictions and labels of the rows that have a label, in order."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._parts: list[tuple[Values, Values]] = []
        self._times: list[npt.NDArray[np.int64]] = []
        self._numbers: list[npt.NDArray[np.int64]] = []
        self._count = self._seen = 0

    def add(self, rows: Sequence[Row]) -> None:
        numbers = [i for i, row in enumerate(rows) if row.label is not None][: MOST - self._count]
        self._seen, first = self._seen + len(rows), self._seen
        if not numbers:
            return
        labelled = [rows[i] for i in numbers]
        prediction = values_of([row.prediction for row in labelled], self._names)
        self._parts.append((prediction, values_of([row.label for row in labelled], self._names)))
        self._times.append(np.array([row.time_ms for row in labelled], dtype=np.int64))
        self._numbers.append(first + np.array(numbers, dtype=np.int64))
        self._count += len(labelled)

    def learn(self, *, by_time: bool, ordered: bool) -> Performance | None:
        """How good the predictions were; None with too few outcomes. `by_time`: their order is that of their times."""
        from stream_monitor.baseline import learn  # fits the errors as columns, so it stands above this module

        if not self._parts:
            return None
        prediction, label, _ = self._in_order(by_time=by_time)
        return learn(prediction, label, list(self._names), ordered=ordered)

    def relate(
        self, reference: Reference, relations: Relations, codes: npt.NDArray[np.uint8], *, by_time: bool
    ) -> OutcomeRelations | None:
        """How the inputs went with the label over the first rows, those of `codes`; see `outcome_levels.learn`."""
        from stream_monitor.outcome_levels import learn

        performance = reference.performance
        assert isinstance(performance, Performance)  # there were outcomes
        prediction, label, numbers = self._in_order(by_time=by_time)
        first = np.flatnonzero(numbers < len(codes))
        pairs = pairs_of(
            performance.task, performance.positive, prediction.take(first), label.take(first), list(self._names),
            lambda _: 0,
        )  # fmt: skip
        return learn(reference, relations, codes[numbers[first][pairs.kept]], performance.task, pairs.actual)

    def _in_order(self, *, by_time: bool) -> tuple[Values, Values, npt.NDArray[np.int64]]:
        """Predictions, labels, and the numbers of their rows."""
        prediction, label = (joined([part[i] for part in self._parts]) for i in (0, 1))
        numbers = np.concatenate(self._numbers)
        if not by_time:
            return prediction, label, numbers
        order = np.argsort(np.concatenate(self._times), kind="stable")
        return prediction.take(order), label.take(order), numbers[order]
