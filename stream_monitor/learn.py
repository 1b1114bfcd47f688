"""The first pass over training rows: everything that has to be known before bins can be chosen. Pure.

Numbers are kept exactly while there is room. Beyond, the rows to keep are thinned by a hash of the row's number: a
uniform sample that depends on nothing but the rows, so that building twice gives the same document to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.discover import Learned
from stream_monitor.events import Row
from stream_monitor.features import flatten
from stream_monitor.options import FitOptions
from stream_monitor.reference import Kind

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CHUNK: Final = 1_000
FEWEST_KEPT: Final = 2_000
"""Rows whose numbers are kept whatever the bound says."""
_MOST_CLASSES: Final = 1_000
_NAME_COST: Final = 16


class Learner:
    """Learns from chunks of one stream's rows, in order; memory is bounded by `thin`.

    `inputs`: feature → what was learned, in order of appearance. `classes`: class → scores, where predictions are maps
    (`maps` of them); `scalar`: predictions that are none. `thinned`: how often the kept rows were halved.
    """

    def __init__(self, options: FitOptions) -> None:
        self.rows = 0
        self.inputs: dict[str, Learned] = {}
        self.scalar = Learned()
        self.classes: dict[str, Learned] = {}
        self.maps = 0
        self.thinned = 0
        named = (*options.kinds, *options.segment_by)
        self._categorical = {name for name in named if options.kind(name) is Kind.CATEGORICAL}
        self._kept_numbers = 0
        self._times: list[Times] = []
        self._numbers: list[Times] = []

    def add(self, rows: Sequence[Row]) -> None:
        numbers = np.arange(self.rows, self.rows + len(rows))
        keep = _kept(numbers, self.thinned) if self.thinned else None
        chunk = len(self._times)
        times = np.fromiter(map(attrgetter("time_ms"), rows), np.int64, len(rows))
        self._times.append(times if keep is None else times[keep])
        self._numbers.append(numbers if keep is None else numbers[keep])
        for name, values in flatten([row.features for row in rows]).items():
            if name not in self.inputs:
                self.inputs[name] = Learned(names_numbers=name in self._categorical)
            self._learn(self.inputs[name], values, chunk, keep)
        self._add_predictions([row.prediction for row in rows], chunk, keep)
        self.rows += len(rows)

    def _add_predictions(self, predictions: list[Any], chunk: int, keep: Mask | None) -> None:
        maps = [value for value in predictions if type(value) is dict]
        if not maps:
            self._learn(self.scalar, predictions, chunk, keep)
            return
        self.maps += len(maps)
        self._learn(self.scalar, [None if type(value) is dict else value for value in predictions], chunk, keep)
        for label in islice(dict.fromkeys(chain(self.classes, chain.from_iterable(maps))), _MOST_CLASSES):
            scores = [value.get(label) if type(value) is dict else None for value in predictions]
            self._learn(self.classes.setdefault(label, Learned()), scores, chunk, keep)

    def _learn(self, learned: Learned, values: list[Any], chunk: int, keep: Mask | None) -> None:
        learned.add(values, chunk, keep)
        self._kept_numbers += len(learned.numbers.get(chunk, ()))

    @property
    def columns(self) -> Iterable[Learned]:
        return chain(self.inputs.values(), [self.scalar], self.classes.values())

    @property
    def kept_values(self) -> int:
        """What is in memory, in numbers of 8 bytes; a name counts as several."""
        return self._kept_numbers + _NAME_COST * sum(len(learned.names) for learned in self.columns)

    def thin(self) -> bool:
        """Let go the numbers of half of the rows, and the rarer half of many names; False if that would be too much."""
        forgot = [learned.forget_rare() for learned in self.columns]
        if sum(map(len, self._times)) <= FEWEST_KEPT:
            return any(forgot)
        self.thinned += 1
        self._kept_numbers = 0
        for chunk, numbers in enumerate(self._numbers):
            keep = _kept(numbers, self.thinned)
            self._numbers[chunk] = numbers[keep]
            self._times[chunk] = self._times[chunk][keep]
            for learned in self.columns:
                if chunk in learned.numbers:
                    learned.numbers[chunk] = learned.numbers[chunk][keep]
                    self._kept_numbers += len(learned.numbers[chunk])
        return True

    @property
    def times(self) -> Times:
        """Of the kept rows."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._times])

    def numbers(self, learned: Learned) -> Floats:
        """A column's values of the kept rows, NaN where there is no number."""
        parts = [learned.numbers.get(i, np.full(len(times), np.nan)) for i, times in enumerate(self._times)]
        return np.concatenate([np.zeros(0), *parts])


def _kept(numbers: Times, halvings: int) -> Mask:
    """Which rows stay after so many halvings: those whose hash (SplitMix64) begins with that many zero bits."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    kept: Mask = (z >> np.uint64(64 - halvings)) == 0
    return kept
