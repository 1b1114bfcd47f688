"""`page_hinkley`: is a column's mean rank, or its spread, creeping up or down?

E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954), in the form of river's `PageHinkley`: deviations
from the running mean, less a slack `delta`, are summed and forgotten slowly; it fires when the sum has moved away from
its extreme by more than a threshold. Bit for bit river's numbers when fed the same values (tested), vectorised over
columns, on block means of ranks (see `blocks.py`): one scale serves every feature. The threshold comes from a
simulation of uniform ranks (`thresholds.py`), which are the widest; other features raise fewer false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stream_monitor.compiled import njit
from stream_monitor.detectors.blocks import SERIES, Blocks, Means
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import Array, restored, within
from stream_monitor.detectors.tables import tables_of
from stream_monitor.detectors.thresholds import page_hinkley_threshold
from stream_monitor.reference import Reference

FIELDS: Final = 6
"""Of a series: count, mean, sum for increases, its minimum, sum for decreases, its maximum."""


LARGEST: Final = 1e300
"""Stands for river's infinity, which a state may not hold."""
_FRESH: Final = (0.0, 0.0, 0.0, LARGEST, 0.0, -1.0)
ONSET_SLACK: Final = 10
"""Blocks by which the earliest plausible onset lies before the likeliest."""


@dataclass(frozen=True, slots=True)
class PageHinkleyParams:
    """River's parameters, in blocks. `threshold` 0: from the false-alarm budget.

    `alpha` is 1, not river's 0.9999: with forgetting the sums settle where forgetting cancels `delta`, and after some
    10⁴ values the test wanders without any slack, so that a higher threshold helps little.
    """

    block_rows: int = 50
    min_instances: int = 30
    delta: float = 0.015
    threshold: float = 0.0
    alpha: float = 1.0


class PageHinkley:
    """River's PageHinkley over all columns and both series of a stream.

    `alpha`: false alarms a row of the stream that this detector may raise in the mean, shared equally by the columns.
    """

    def __init__(self, reference: Reference, params: PageHinkleyParams, alpha: float) -> None:
        self.params = params
        self.tables = tables = tables_of(reference)
        columns = len(reference.columns)
        self.blocks = Blocks(tables, params.block_rows)
        self._watched = np.stack([np.ones(columns, dtype=np.bool_), tables.ordered], axis=1)
        rates = alpha / columns * self.blocks.rows / len(SERIES)
        self.thresholds = np.array([params.threshold or page_hinkley_threshold(rate) for rate in rates.tolist()])
        self._fields = np.zeros((columns, len(SERIES), FIELDS))
        self._fields[:] = _FRESH
        self._extreme_row = np.zeros((columns, len(SERIES), 2), dtype=np.int64)
        self._next_row = np.zeros(1, dtype=np.int64)

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, ordered by row, then column."""
        means = self.blocks.update(codes, strata, first_row)
        self._next_row[0] = first_row + len(codes)
        capacity = len(means.rows) * len(SERIES)
        if not capacity:
            return []
        found = np.empty((capacity, 4), dtype=np.int64)
        values = np.empty(capacity)
        params = self.params
        count = _page_hinkley(
            means.rows, means.columns, means.values, self._watched, self.thresholds, params.min_instances,
            params.delta, params.alpha, self._fields, self._extreme_row, found, values,
        )  # fmt: skip
        return [self._signal(means, found[i].tolist(), float(values[i])) for i in range(count)]

    def _signal(self, means: Means, found: list[int], value: float) -> Signal:
        block, series, up, extreme_row = found
        row, column = int(means.rows[block]), int(means.columns[block])
        sign = "+" if up else "-"
        slack = ONSET_SLACK * int(self.blocks.rows[column])
        return Signal(
            row=row,
            column=column,
            detector="page_hinkley",
            statistic="page_hinkley",
            value=value,
            threshold=float(self.thresholds[column]),
            direction=("up" if up else "down") if SERIES[series] == "rank" else "change",
            onset_row=extreme_row,
            earliest_row=max(extreme_row - slack, 0),
            alternative=f"{SERIES[series]}{sign}",
        )

    def engage(self, column: int) -> None:
        """Nothing to do: the detector compares the stream with itself."""

    def release(self, column: int) -> None:
        """The column's episode was resolved: start afresh for it."""
        self.blocks.clear(column)
        self._fields[column] = _FRESH
        self._extreme_row[column] = self._next_row[0]

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""
        return {**self.blocks.state(), **{name: array.copy() for name, array in self._own().items()}}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this reference, and changes nothing then."""
        own = {name: state[name] for name in self._own() if name in state}
        arrays = restored("page_hinkley", own, self._own())
        within("page_hinkley", "next_row", arrays["next_row"], 0, 2**62)
        within("page_hinkley", "extreme_row", arrays["extreme_row"], 0, int(arrays["next_row"][0]))
        within("page_hinkley", "counts", arrays["fields"][..., 0], 0, 2**53)
        within("page_hinkley", "means", arrays["fields"][..., 1], 0, 1)
        within("page_hinkley", "sums", arrays["fields"][..., 2:], -LARGEST, LARGEST)
        self.blocks.restore("page_hinkley", {name: part for name, part in state.items() if name not in own})
        self._fields, self._extreme_row, self._next_row = (arrays[name] for name in self._own())

    def _own(self) -> dict[str, Array]:
        return {"fields": self._fields, "extreme_row": self._extreme_row, "next_row": self._next_row}


@njit
def _page_hinkley(
    rows: Any, columns: Any, values: Any, watched: Any, thresholds: Any, min_instances: int, delta: float,
    alpha: float, fields: Any, extreme_row: Any, found: Any, statistics: Any,
) -> int:  # fmt: skip
    """River's PageHinkley (mode "both") on every block, in its order of operations; returns the number found.

    A row of `found`: block, series, whether upwards, the first row after the extreme it is measured from.
    """
    count = 0
    for block in range(len(rows)):
        column = columns[block]
        for series in range(values.shape[1]):
            if not watched[column, series]:
                continue
            x, field, extreme = values[block, series], fields[column, series], extreme_row[column, series]
            field[0] += 1.0
            field[1] += (1.0 / field[0]) * (x - field[1])
            deviation = x - field[1]
            field[2] = alpha * field[2] + deviation - delta
            field[4] = alpha * field[4] + deviation + delta
            if field[2] < field[3]:
                field[3] = field[2]
                extreme[0] = rows[block] + 1
            if field[4] > field[5]:
                field[5] = field[4]
                extreme[1] = rows[block] + 1
            if field[0] < min_instances:
                continue
            increase, decrease = field[2] - field[3], field[5] - field[4]
            if increase > thresholds[column] or decrease > thresholds[column]:
                up = increase > thresholds[column]
                found[count, 0], found[count, 1], found[count, 2] = block, series, up
                found[count, 3] = extreme[0] if up else extreme[1]
                statistics[count] = increase if up else decrease
                count += 1
                field[0], field[1], field[2], field[4] = 0.0, 0.0, 0.0, 0.0
                field[3], field[5] = LARGEST, -1.0
                extreme[0] = extreme[1] = rows[block] + 1
    return count
