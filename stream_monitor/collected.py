"""The outcomes among training rows, as a reference is fitted from them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.events import Row
from stream_monitor.outcomes import Values, joined, values_of
from stream_monitor.reference import Performance

MOST: Final = 1_000_000
"""Outcomes kept: the first ones; 20 bytes each."""


class Collected:
    """Predictions and labels of the rows that have a label, in order."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._parts: list[tuple[Values, Values]] = []
        self._times: list[npt.NDArray[np.int64]] = []
        self._count = 0

    def add(self, rows: Sequence[Row]) -> None:
        labelled = [row for row in rows if row.label is not None][: MOST - self._count]
        if not labelled:
            return
        prediction = values_of([row.prediction for row in labelled], self._names)
        self._parts.append((prediction, values_of([row.label for row in labelled], self._names)))
        self._times.append(np.array([row.time_ms for row in labelled], dtype=np.int64))
        self._count += len(labelled)

    def learn(self, *, by_time: bool, ordered: bool) -> Performance | None:
        """How good the predictions were; None with too few outcomes. `by_time`: their order is that of their times."""
        from stream_monitor.baseline import learn  # fits the errors as columns, so it stands above this module

        if not self._parts:
            return None
        prediction, label = (joined([part[i] for part in self._parts]) for i in (0, 1))
        if by_time:
            order = np.argsort(np.concatenate(self._times), kind="stable")
            prediction, label = prediction.take(order), label.take(order)
        return learn(prediction, label, list(self._names), ordered=ordered)
