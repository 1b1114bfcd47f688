"""`outcome_pairs`: has the rank correlation of an input with the label left that of the reference?

Judged as the pairs of `pairs.py` are, on rows that have their label, over the same windows. There are only as many
pairs as inputs, so the tables of a window are counted anew at every look instead of keeping sums. All pairs share the
budget alike (union bound).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.association import rank_correlation
from stream_monitor.compiled import njit
from stream_monitor.detectors.pair_sums import BLOCK, WINDOWS
from stream_monitor.detectors.pairs import EVERY, LOOSE, Codes, Pairs, Rows, Verdict
from stream_monitor.reference import LEVELS, OutcomeRelations

LABEL: Final = "label"
"""What the label is called beside the inputs."""
WIDTH: Final = 256


class OutcomePairs(Pairs):
    """The relations of one stream's inputs with its label. `alpha`: false alarms an outcome that all its tests may
    raise in the mean; `times`: the autocorrelation times of the inputs, then of the label."""

    def __init__(self, relations: OutcomeRelations, times: list[float], alpha: float, min_change: float) -> None:
        count = len(relations.columns)
        self.names = [*relations.columns, LABEL]
        self.places = np.arange(count + 1)
        self.pairs = np.stack([np.arange(count), np.full(count, count)], axis=1)
        self.among_inputs = np.zeros(count, dtype=np.bool_)
        self.with_prediction = ~self.among_inputs
        self.min_change = min_change
        self.tables = np.frombuffer(relations.tables, dtype="<u2").reshape(-1, LEVELS, LEVELS)
        self.reference_rows = self.tables.sum(axis=(1, 2), dtype=np.uint32)
        self.levels = np.full((count + 1, WIDTH), -1, dtype=np.int8)
        self.levels[:, :LEVELS] = np.arange(LEVELS)
        self._bar = log(2 * count * len(WINDOWS) / (alpha * EVERY * BLOCK))
        self._roots = np.sqrt(np.array(times))
        self._near = self._screen(np.array([self.before(pair) for pair in range(count)]))

    @property
    def bar(self) -> npt.NDArray[np.float64]:
        return np.full(len(self.pairs), self._bar)

    def look(
        self, ring: Codes, rows: int, onsets: Rows, moved: npt.NDArray[np.bool_], since: Mapping[int, int]
    ) -> list[Verdict]:
        """As of `Pairs`; no column's own drift is known of here."""
        found: dict[int, Verdict] = {}
        for blocks, (low, high) in zip(WINDOWS, self._near, strict=True):
            if rows < blocks * BLOCK:
                break
            now = _correlations(ring, rows - blocks * BLOCK, rows, len(low))
            for pair in np.flatnonzero((now < low) | (now > high)).tolist():
                if pair in found or since.get(pair, 0) > rows:
                    continue
                verdict = self.judge(ring, rows, pair, blocks, onsets, since.get(pair, 0))
                if verdict is not None and abs(verdict.excess) >= self.min_change and verdict.evidence >= self._bar:
                    found[pair] = verdict
        return [found[pair] for pair in sorted(found)]

    def _screen(self, before: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """`[windows, 2, pairs]`: between these correlations of a window a pair is not judged, by a looser bar."""
        found = np.empty((len(WINDOWS), 2, len(before)))
        for own, blocks in zip(found, WINDOWS, strict=True):
            rows = self.effective(np.full(len(before), blocks * BLOCK), np.arange(len(before)))
            reach = LOOSE * np.sqrt(2 * self._bar / np.maximum(rows - 3, 1e-9))
            center = np.arctanh(np.clip(before, -0.999, 0.999))
            own[0] = np.minimum(np.tanh(center - reach), before - LOOSE * self.min_change)
            own[1] = np.maximum(np.tanh(center + reach), before + LOOSE * self.min_change)
        return found


@njit
def _correlations(ring: Any, first: int, stop: int, count: int) -> Any:
    """Of each of the first columns with the one behind them."""
    tables = np.zeros((count, LEVELS, LEVELS))
    for row in range(first, stop):
        at = row % len(ring)
        label = ring[at, count]
        for i in range(count):
            level = ring[at, i]
            if level < LEVELS and label < LEVELS:
                tables[i, level, label] += 1
    found = np.empty(count)
    for i in range(count):
        found[i] = rank_correlation(tables[i])
    return found
