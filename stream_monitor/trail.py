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
from stream_monitor.compiled import njit
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


_HALF: Final = 2**31
_FAR: Final = 2**62


class _Ring:
    """Where the last `size` of something came from; 10 bytes each, 24 where that is too narrow.

    Partitions and indexes are bytes, offsets and times counted from a base of their own that moves along: a stream of
    twenty columns has 1,536 of these. What lies too far apart for that widens the ring, and changes nothing else.
    """

    def __init__(self, size: int) -> None:
        self._small: npt.NDArray[Any] = np.zeros((size, 2), dtype=np.uint8)
        """Input partition, index in the record."""
        self._large: npt.NDArray[Any] = np.zeros((size, 2), dtype=np.uint32)
        """Offset, time, above `_base`."""
        self._base = np.zeros(2, dtype=np.int64)
        self._filled = 0

    def put(self, slots: slice, origins: Origins, rows: slice) -> None:
        """Slots fill up in order."""
        while not _put(
            self._small, self._large, self._base, slots.start, rows.start, rows.stop, origins.partition, origins.index,
            origins.offset, origins.time_ms,
        ):  # fmt: skip
            self._make_room(
                np.stack([origins.partition[rows], origins.index[rows]], axis=1),
                np.stack([origins.offset[rows], origins.time_ms[rows]], axis=1),
            )
        self._filled = max(self._filled, slots.stop)

    def _make_room(self, small: npt.NDArray[np.int32], large: npt.NDArray[np.int64]) -> None:
        """For numbers that do not fit: another base, or else as wide as they can be."""
        if self._small.dtype == np.uint8 and not (small.min() >= 0 and small.max() <= 255):
            self._small = self._small.astype(np.int32)
        known = np.concatenate([self._base + self._large[: self._filled].astype(np.int64), large])
        low, high = known.min(axis=0), known.max(axis=0)
        base = np.maximum(high, -_FAR) - _HALF  # rows to come are mostly later ones
        narrow = self._large.dtype == np.uint32 and bool((low >= base).all())
        self._large = np.zeros(self._large.shape, dtype=np.uint32 if narrow else np.int64)
        self._base = base if narrow else np.zeros(2, dtype=np.int64)
        self._large[: self._filled] = known[: self._filled] - self._base

    def at(self, slot: int) -> Origin:
        (partition, index), (offset, time_ms) = self._small[slot].tolist(), self._large[slot].tolist()
        base_offset, base_time = self._base.tolist()
        return Origin(partition, base_offset + offset, index, base_time + time_ms)

    def times(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        times: npt.NDArray[np.int64] = self._base[1] + self._large[slots, 1].astype(np.int64)
        return times

    def first(self, count: int) -> npt.NDArray[np.int64]:
        """`[count, 4]`: partition, offset, index and time of the first slots, as a state holds them."""
        table = np.empty((count, 4), dtype=np.int64)
        table[:, 0], table[:, 2] = self._small[:count].T
        table[:, [1, 3]] = self._base + self._large[:count].astype(np.int64)
        return table

    def take(self, table: npt.NDArray[np.int64]) -> None:
        """Take over what `first` gave."""
        if not len(table):
            return
        self._make_room(table[:, [0, 2]].astype(np.int32), table[:, [1, 3]])
        self._small[: len(table)] = table[:, [0, 2]]
        self._large[: len(table)] = table[:, [1, 3]] - self._base
        self._filled = len(table)


@njit
def _put(
    small: Any, large: Any, base: Any, slot: int, start: int, stop: int, partition: Any, index: Any, offset: Any,
    time_ms: Any,
) -> bool:  # fmt: skip
    """Rows `start …` into slots `slot …`, or nothing at all if one of their numbers does not fit."""
    if small.itemsize == 1:
        for i in range(start, stop):
            if not (0 <= partition[i] <= 255 and 0 <= index[i] <= 255):
                return False
    if large.itemsize == 4:
        for i in range(start, stop):
            if not (0 <= offset[i] - base[0] < 2 * _HALF and 0 <= time_ms[i] - base[1] < 2 * _HALF):
                return False
    for i in range(start, stop):
        to = slot + i - start
        small[to, 0], small[to, 1] = partition[i], index[i]
        large[to, 0], large[to, 1] = offset[i] - base[0], time_ms[i] - base[1]
    return True


class Trail:
    """Two rings of origins and one of codes; memory is bounded: (1024 + 512) × 10 bytes (24 at most) and 1024 bytes
    a column."""

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
