"""Where the recent rows of a stream came from, and what their codes were: what an alert cites.

Rows are the stream's own numbers, from 0. The last `FINE` rows are remembered exactly, older ones by one mark every
`STRIDE` rows, up to `MARKS` marks; an onset further back is reported as the oldest mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

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


class _Ring:
    """Where the last `size` of something came from; 24 bytes each."""

    def __init__(self, size: int) -> None:
        self._small = np.zeros((size, 2), dtype=np.int32)
        """Input partition, index in the record."""
        self._large = np.zeros((size, 2), dtype=np.int64)
        """Offset, time."""

    def put(self, slots: slice, origins: Origins, rows: slice) -> None:
        small, large = self._small[slots], self._large[slots]
        small[:, 0], small[:, 1] = origins.partition[rows], origins.index[rows]
        large[:, 0], large[:, 1] = origins.offset[rows], origins.time_ms[rows]

    def at(self, slot: int) -> Origin:
        (partition, index), (offset, time_ms) = self._small[slot].tolist(), self._large[slot].tolist()
        return Origin(partition, offset, index, time_ms)

    def times(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        times: npt.NDArray[np.int64] = self._large[slots, 1]
        return times

    def first(self, count: int) -> npt.NDArray[np.int64]:
        """`[count, 4]`: partition, offset, index and time of the first slots, as a state holds them."""
        table = np.empty((count, 4), dtype=np.int64)
        table[:, 0], table[:, 2] = self._small[:count].T
        table[:, 1], table[:, 3] = self._large[:count].T
        return table

    def take(self, table: npt.NDArray[np.int64]) -> None:
        """Take over what `first` gave."""
        self._small[: len(table)] = table[:, [0, 2]]
        self._large[: len(table)] = table[:, [1, 3]]


class Trail:
    """Two rings of origins and one of codes; memory is fixed: (1024 + 512) × 24 bytes and 1024 bytes a column."""

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self._fine, self._marks = _Ring(FINE), _Ring(MARKS)
        self._codes = np.zeros((FINE, columns), dtype=np.uint8)

    def extend(self, codes: npt.NDArray[np.uint8], origins: Origins) -> None:
        """Append rows; at most `FINE` at a time, so that none overwrites another of the same call."""
        count = len(origins)
        assert count <= FINE
        start = 0
        while start < count:
            slot = (self.rows + start) % FINE
            stop = min(count, start + FINE - slot)
            self._fine.put(slice(slot, slot + stop - start), origins, slice(start, stop))
            self._codes[slot : slot + stop - start] = codes[start:stop]
            start = stop
        for row in range(-self.rows % STRIDE, count, STRIDE):
            mark = (self.rows + row) // STRIDE % MARKS
            self._marks.put(slice(mark, mark + 1), origins, slice(row, row + 1))
        self.rows += count

    def at(self, row: int) -> Origin:
        """The origin of a row already fed; for one no longer remembered, of the nearest remembered one before it, or
        of the oldest."""
        if row >= self.rows - FINE:
            return self._fine.at(row % FINE)
        oldest = max(0, (self.rows - 1) // STRIDE - MARKS + 1)
        return self._marks.at(max(row // STRIDE, oldest) % MARKS)

    def codes_between(self, first: int, stop: int, column: int) -> npt.NDArray[np.uint8]:
        """The column's codes of rows `first … stop − 1`; the last `FINE` rows fed are remembered."""
        assert self.rows - FINE <= first <= stop <= self.rows
        codes: npt.NDArray[np.uint8] = self._codes[np.arange(max(first, 0), stop) % FINE, column]
        return codes

    def rows_between(self, first_ms: int, last_ms: int) -> int:
        """At least so many of the rows remembered by marks have a time in between, both ends included.

        By marks alone: so it does not matter how many rows came after the last of them.
        """
        times = self._marks.times(np.arange(min(-(-self.rows // STRIDE), MARKS)))
        return max(int(((times >= first_ms) & (times <= last_ms)).sum()) - 1, 0) * STRIDE

    @property
    def ring(self) -> npt.NDArray[np.uint8]:
        """The codes of the last `FINE` rows, row r at r modulo `FINE`; to be read only."""
        return self._codes

    def last(self, rows: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Codes `[rows, columns]` and times of the last rows, `FINE` of them at most and fewer if there were fewer."""
        slots = np.arange(max(self.rows - min(rows, FINE), 0), self.rows) % FINE
        return self._codes[slots], self._fine.times(slots)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """The rings, cut to what is filled."""
        return {
            "fine": self._fine.first(min(self.rows, FINE)),
            "marks": self._marks.first(min(-(-self.rows // STRIDE), MARKS)),
            "codes": self._codes[: min(self.rows, FINE)].copy(),
        }

    def restore(self, rows: int, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take a state over; raises WireError where it does not fit."""
        fresh = Trail(self._codes.shape[1])
        fresh.rows = rows
        for name, wanted in fresh.state().items():
            given = state.get(name)
            if given is None or given.dtype != wanted.dtype or given.shape != wanted.shape:
                raise WireError(f"trail: {name} does not fit {rows} rows")
        fresh._fine.take(_narrow("fine", state["fine"]))
        fresh._marks.take(_narrow("marks", state["marks"]))
        fresh._codes[: len(state["codes"])] = state["codes"]
        self.rows, self._fine, self._marks, self._codes = rows, fresh._fine, fresh._marks, fresh._codes


def _narrow(name: str, table: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Partitions and indexes as a batch can hold them, else WireError."""
    small = table[:, [0, 2]]
    if len(small) and (small.min() < -(2**31) or small.max() >= 2**31):
        raise WireError(f"trail: {name} holds partitions or indexes that cannot be")
    return table
