"""Where the recent rows of a stream came from, and what their codes were: what an alert cites.

Rows are the stream's own numbers, from 0. The last `FINE` rows are remembered exactly, older ones by one mark every
`STRIDE` rows, up to `MARKS` marks; an onset further back is reported as the oldest mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.batch import Origins
from stream_monitor.errors import WireError

FINE: Final = 1024
STRIDE: Final = 256
MARKS: Final = 512


@dataclass(frozen=True, slots=True)
class Origin:
    """The input row behind one row of a stream."""

    partition: int
    offset: int
    index: int
    time_ms: int


class Trail:
    """Two rings of origins and one of codes; memory is fixed: (1024 + 512) × 24 bytes and 1024 bytes a column."""

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self._fine = np.zeros((FINE, 4), dtype=np.int64)
        self._marks = np.zeros((MARKS, 4), dtype=np.int64)
        self._codes = np.zeros((FINE, columns), dtype=np.uint8)

    def extend(self, codes: npt.NDArray[np.uint8], origins: Origins) -> None:
        """Append rows; at most `FINE` at a time, so that none overwrites another of the same call."""
        count = len(origins)
        assert count <= FINE
        numbers = np.arange(self.rows, self.rows + count)
        table = np.empty((count, 4), dtype=np.int64)
        table[:, 0], table[:, 1] = origins.partition, origins.offset
        table[:, 2], table[:, 3] = origins.index, origins.time_ms
        slots = numbers % FINE
        self._fine[slots] = table
        self._codes[slots] = codes
        first_mark = -self.rows % STRIDE
        if first_mark < count:
            self._marks[(numbers[first_mark::STRIDE] // STRIDE) % MARKS] = table[first_mark::STRIDE]
        self.rows += count

    def at(self, row: int) -> Origin:
        """The origin of a row already fed; for one no longer remembered, of the nearest remembered one before it, or
        of the oldest."""
        if row >= self.rows - FINE:
            entry = self._fine[row % FINE]
        else:
            oldest = max(0, (self.rows - 1) // STRIDE - MARKS + 1)
            entry = self._marks[max(row // STRIDE, oldest) % MARKS]
        partition, offset, index, time_ms = (int(value) for value in entry)
        return Origin(partition, offset, index, time_ms)

    def codes_between(self, first: int, stop: int, column: int) -> npt.NDArray[np.uint8]:
        """The column's codes of rows `first … stop − 1`; the last `FINE` rows fed are remembered."""
        assert self.rows - FINE <= first <= stop <= self.rows
        codes: npt.NDArray[np.uint8] = self._codes[np.arange(max(first, 0), stop) % FINE, column]
        return codes

    @property
    def ring(self) -> npt.NDArray[np.uint8]:
        """The codes of the last `FINE` rows, row r at r modulo `FINE`; to be read only."""
        return self._codes

    def last(self, rows: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Codes `[rows, columns]` and times of the last rows, `FINE` of them at most and fewer if there were fewer."""
        slots = np.arange(max(self.rows - min(rows, FINE), 0), self.rows) % FINE
        return self._codes[slots], self._fine[slots, 3]

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """The rings, cut to what is filled."""
        return {
            "fine": self._fine[: min(self.rows, FINE)].copy(),
            "marks": self._marks[: min(-(-self.rows // STRIDE), MARKS)].copy(),
            "codes": self._codes[: min(self.rows, FINE)].copy(),
        }

    def restore(self, rows: int, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take a state over; raises WireError where it does not fit."""
        fresh = Trail(self._codes.shape[1])
        fresh.rows = rows
        for name, target in (("fine", fresh._fine), ("marks", fresh._marks), ("codes", fresh._codes)):
            given, wanted = state.get(name), fresh.state()[name]
            if given is None or given.dtype != wanted.dtype or given.shape != wanted.shape:
                raise WireError(f"trail: {name} does not fit {rows} rows")
            target[: len(given)] = given
        self.rows, self._fine, self._marks, self._codes = rows, fresh._fine, fresh._marks, fresh._codes
