"""The second pass over training rows: exact counts under given bins, and what only the order of rows can tell. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN, MAX_BINS
from stream_monitor.compiled import njit
from stream_monitor.dependence import MAX_ROWS, column_time, mid_ranks
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.reference import Reference
from stream_monitor.season import Hours

Codes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

_KEPT_BYTES: Final = 128 * 1024 * 1024
_HOURLY_CELLS: Final = 8_000_000
_HOUR_MS: Final = 3_600_000


class Tally:
    """Counts rows under a reference whose own counts need only be roughly right.

    `counts`: `[strata, columns, FIRST_BIN + MAX_BINS]`. The first rows' codes are kept, in order, to measure
    dependence; with `hourly` also the sums of their mid-ranks by hour, to find a rhythm. `memory_share`: of the memory
    there is for both. `joint`: rows by the codes of the columns numbered `together`.
    """

    def __init__(
        self, reference: Reference, memory_share: float = 1.0, *, hourly: bool = False, together: Sequence[int] = ()
    ) -> None:
        width = len(reference.columns)
        self._columns = reference.columns
        self._reference = reference
        self._binner: Binner | None = None
        self.joint: Counter[tuple[int, ...]] = Counter()
        self._together = list(together)
        self.counts: Counts = np.zeros((reference.strata, width, FIRST_BIN + MAX_BINS), dtype=np.int64)
        self.rows = self.descents = 0
        self.first_time_ms = self.last_time_ms = 0
        self._repeats = np.zeros(width, dtype=np.int64)
        self._last: Codes = np.zeros((0, width), dtype=np.uint8)
        self._last_time_ms = 0
        self._most_kept = min(MAX_ROWS, int(_KEPT_BYTES * memory_share) // width + 1)
        self._most_hourly = int(_HOURLY_CELLS * memory_share)
        self._codes: list[Codes] = []
        self._strata: list[Codes] = []
        self._times: list[Times] = []
        self._kept = 0
        self._ranks = _rank_table(reference) if hourly else None
        self._hours: dict[int, Floats] = {}

    def add(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        if self._binner is None:
            self._binner = Binner(self._reference)
        coded = self._binner.encode(rows)
        self.add_codes(coded.codes, coded.strata, times_of(rows))

    def add_codes(self, codes: Codes, strata: Codes, times: Times) -> None:
        """Rows coded already, one at least."""
        _count(codes, strata, self.counts)
        self._add_order(codes, times)
        if self._kept < self._most_kept:
            self._codes.append(codes)
            self._strata.append(strata)
            self._times.append(times)
            self._kept += len(times)
        if self._ranks is not None:
            self._add_hours(self._ranks, codes, times // _HOUR_MS)
        if self._together:
            self.joint.update(map(tuple, codes[:, self._together].tolist()))
        self.rows += len(times)

    def _add_order(self, codes: Codes, times: Times) -> None:
        if not self.rows:
            self.first_time_ms = self.last_time_ms = self._last_time_ms = int(times[0])
        self._repeats += (codes[:1] == self._last).sum(axis=0) if self.rows else 0
        self._repeats += (codes[1:] == codes[:-1]).sum(axis=0)
        self.descents += int((np.diff(times, prepend=self._last_time_ms) < 0).sum())
        self._last, self._last_time_ms = codes[-1:].copy(), int(times[-1])
        self.first_time_ms = min(self.first_time_ms, int(times.min()))
        self.last_time_ms = max(self.last_time_ms, int(times.max()))

    def _add_hours(self, ranks: Floats, codes: Codes, hours: Times) -> None:
        """Per hour `[rows, sum of mid-ranks by column]`; hours beyond a bound on memory are left out."""
        present, where = np.unique(hours, return_inverse=True)
        sums = np.zeros((len(present), 1 + codes.shape[1]))
        np.add.at(sums[:, 0], where, 1)
        np.add.at(sums[:, 1:], where, ranks[np.arange(codes.shape[1]), codes])
        for hour, sum_ in zip(present.tolist(), sums, strict=True):
            if hour in self._hours:
                self._hours[hour] += sum_
            elif (len(self._hours) + 1) * len(sum_) <= self._most_hourly:
                self._hours[hour] = sum_.copy()

    @property
    def timed(self) -> bool:
        """Whether the rows carry times at all."""
        return not self.first_time_ms == self.last_time_ms == 0

    @property
    def complete(self) -> bool:
        """Whether every row's codes are still here."""
        return self._kept == self.rows

    def hours(self) -> Hours:
        """What `season` asks for; needs `hourly`."""
        hour = np.array(sorted(self._hours), dtype=np.int64)
        sums = np.array([self._hours[h] for h in hour.tolist()]).reshape(len(hour), -1)
        rows = sums[:, 0].astype(np.int64)
        counts = self.counts.sum(axis=0)
        ranks = mid_ranks(counts)
        total = np.maximum(counts.sum(axis=1), 1)
        mean = (counts * ranks).sum(axis=1) / total
        variance = (counts * ranks**2).sum(axis=1) / total - mean**2
        return Hours(hour, rows, sums[:, 1:] / np.maximum(sums[:, :1], 1), variance)

    def dependence(self, *, by_time: bool) -> tuple[list[float], list[float]]:
        """By column the autocorrelation time and the share of repeats; `by_time` sorts first (needs `complete`)."""
        codes, strata = np.concatenate(self._codes), np.concatenate(self._strata)
        repeats = self._repeats
        if by_time:
            order = np.argsort(np.concatenate(self._times), kind="stable")
            codes, strata = codes[order], strata[order]
            repeats = (codes[1:] == codes[:-1]).sum(axis=0)
        codes, strata = codes[: self._most_kept], strata[: self._most_kept]
        times = [
            column_time(np.ascontiguousarray(codes[:, i]), strata, self.counts[:, i], column.kind)
            for i, column in enumerate(self._columns)
        ]
        return times, (repeats / max(self.rows - 1, 1)).tolist()

    def first_codes(self, kept: Sequence[npt.NDArray[np.bool_]]) -> Codes:
        """The codes of the first rows, numbered anew among those that each column has `kept`."""
        codes = np.concatenate(self._codes)[: self._most_kept]
        for i, keep in enumerate(kept):
            if not keep.all():
                codes[:, i] = np.maximum(np.cumsum(keep) - 1, 0).astype(np.uint8)[codes[:, i]]
        return codes


def times_of(rows: Sequence[Row]) -> Times:
    return np.fromiter(map(attrgetter("time_ms"), rows), np.int64, len(rows))


def _rank_table(reference: Reference) -> Floats:
    """Mid-ranks by column and code, `[columns, codes]`, of a reference without season."""
    counts = np.zeros((len(reference.columns), FIRST_BIN + MAX_BINS), dtype=np.int64)
    for row, column in zip(counts, reference.columns, strict=True):
        row[: len(column.strata[0].counts)] = column.strata[0].counts
    return mid_ranks(counts)


@njit
def _count(codes: Codes, strata: Codes, counts: Counts) -> None:
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            counts[strata[i], j, codes[i, j]] += 1
