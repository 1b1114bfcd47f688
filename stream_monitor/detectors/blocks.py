"""Block means of ranks: what ADWIN and Page-Hinkley are fed, so that their cost is a fiftieth of a row's.

Two series a column: the mean rank (which moves when the location does) and the mean rank of the distance from the
middle (which moves when the spread does). A block has 50 rows times the column's autocorrelation time, so that the
means of a slowly moving feature scatter no more than those of an independent one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.compiled import njit
from stream_monitor.detectors.signal import Codes, State, Strata
from stream_monitor.detectors.states import restored, within
from stream_monitor.detectors.tables import RANK, Tables

SERIES: Final = ("rank", "spread")
BLOCK_SD: Final = (1 / 12 / 50) ** 0.5
"""Standard deviation of a block mean of 50 independent uniform ranks; no other distribution's is larger."""


@dataclass(frozen=True, slots=True)
class Means:
    """Finished blocks in the order of row, then column: last row, column, and the means `[blocks, 2]` of `SERIES`."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Blocks:
    """Running sums of the open block of every column; cutting the rows differently changes nothing."""

    def __init__(self, tables: Tables, block_rows: int = 50) -> None:
        columns = len(tables.widths)
        self._tables, self._block_rows = tables, block_rows
        self._shared = False
        self._last: tuple[Codes, int, Means] | None = None
        """Of a shared one: the rows that one user has fed and the other has not, and what they finished."""
        self.rows = np.ceil(block_rows * tables.time).astype(np.int64)
        """`[columns]` rows a block."""
        self._least_rows = int(self.rows.min(initial=block_rows))
        self.sums = np.zeros((columns, len(SERIES)), dtype=np.float64)
        self.filled = np.zeros(columns, dtype=np.int64)

    def update(self, codes: Codes, strata: Strata, first_row: int) -> Means:
        """Feed rows; the blocks that they finish."""
        last, self._last = self._last, None  # let go of at once: the codes are part of a whole batch
        if last is not None and last[0] is codes and last[1] == first_row:
            return last[2]
        capacity = len(self.rows) * (len(codes) // self._least_rows + 1)
        ends, whose = np.empty((2, capacity), dtype=np.int64)
        values = np.empty((capacity, len(SERIES)), dtype=np.float64)
        tables = self._tables
        count = _accumulate(
            codes, strata, first_row, tables.widths, tables.rank, tables.spread, self.rows, self.sums, self.filled,
            ends, whose, values,
        )  # fmt: skip
        means = Means(ends[:count], whose[:count], values[:count])
        if self._shared:
            self._last = codes, first_row, means
        return means

    def share(self, other: Blocks) -> bool:
        """Whether `other`, of the same tables, is as this one in all it holds: then both users may have this one, and
        what it finds for the same rows is found once."""
        self._shared = all(
            np.array_equal(mine, others)
            for mine, others in ((self.rows, other.rows), (self.sums, other.sums), (self.filled, other.filled))
        )
        return self._shared

    def copy(self) -> Blocks:
        """The same, for one user alone."""
        own = Blocks(self._tables, self._block_rows)
        own.sums, own.filled = self.sums.copy(), self.filled.copy()
        return own

    def clear(self, column: int) -> None:
        """Forget the column's open block."""
        self.sums[column] = 0.0
        self.filled[column] = 0

    def state(self) -> State:
        return {"sums": self.sums.copy(), "filled": self.filled.copy()}

    def restore(self, detector: str, state: State) -> None:
        """Take over a state; raises WireError where it cannot be, and changes nothing then."""
        arrays = restored(detector, state, {"sums": self.sums, "filled": self.filled})
        within(detector, "filled", arrays["filled"], 0, float(self.rows.max()))
        within(detector, "sums", arrays["sums"], 0, float(self.rows.max()))
        self.sums, self.filled = arrays["sums"], arrays["filled"]


@njit
def _accumulate(
    codes: Any, strata: Any, first_row: int, widths: Any, rank: Any, spread: Any, block_rows: Any,
    sums: Any, filled: Any, ends: Any, whose: Any, values: Any,
) -> int:  # fmt: skip
    """Add rows to the open blocks, column by column; returns how many blocks were finished, put in the order of their
    last row, then column."""
    rows, columns = codes.shape
    starts = np.zeros(rows + 1, dtype=np.int64)
    for column in range(columns):
        for i in range(max(block_rows[column] - 1 - filled[column], 0), rows, block_rows[column]):
            starts[i + 1] += 1
    for i in range(rows):
        starts[i + 1] += starts[i]
    count: int = starts[rows]
    for column in range(columns):
        location, distance, fill = sums[column, 0], sums[column, 1], filled[column]
        for i in range(rows):
            code = codes[i, column]
            if code >= widths[column]:
                code = 1
            location += RANK * rank[strata[i], column, code]
            distance += RANK * spread[strata[i], column, code]
            fill += 1
            if fill >= block_rows[column]:
                place = starts[i]
                starts[i] += 1
                ends[place] = first_row + i
                whose[place] = column
                values[place, 0] = location / fill
                values[place, 1] = distance / fill
                location, distance, fill = 0.0, 0.0, 0
        sums[column, 0], sums[column, 1], filled[column] = location, distance, fill
    return count
