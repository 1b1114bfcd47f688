"""`adwin`: did a column's mean rank, or its spread, change within the live stream, and when?

A. Bifet and R. Gavaldà, "Learning from time-changing data with adaptive windowing", SDM 2007: a window grows while any
split of it into an older and a newer part has equal means within a Hoeffding-Bernstein bound, and drops its older end
otherwise. The windows are river's own (its compiled helper); as in river a detection starts a new one. They are fed
block means of ranks (`blocks.py`), stretched so that their scatter fills the range [0, 1] that the bound assumes, and
clipped to it. Its bound holds for any distribution but is loose: the confidence comes from a simulation
(`thresholds.py`).

The windows' states are opaque bytes of river's native code. They are compared with what that code writes before they
are taken over, and a state that makes it fail starts that one window afresh: counted in `cold_starts`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import pairwise
from math import isfinite
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from river._river_rust.drift import AdaptiveWindowing

from stream_monitor.compiled import njit
from stream_monitor.detectors.blocks import BLOCK_SD, SERIES, Blocks
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import Array, restored
from stream_monitor.detectors.tables import tables_of
from stream_monitor.detectors.thresholds import adwin_delta
from stream_monitor.errors import WireError
from stream_monitor.reference import Reference

STRETCH: Final = 0.15 / BLOCK_SD
"""Block means are stretched to a standard deviation of 0.15: [0, 1] is then 3.3 of them to either side."""
MAX_WIDTH: Final = 2**14
"""Blocks after which a window starts afresh, so that its state stays small; 800,000 rows."""
ONSET_SLACK: Final = 4
"""Blocks by which the earliest plausible onset lies before the likeliest."""


_update: Any = AdaptiveWindowing.update
"""Of no window yet: a bound method for each of them would take 72 bytes more."""
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _End(Enum):
    """What ended a run of updates."""

    INPUT = 0
    CHANGE = 1
    PANIC = 2


@dataclass(frozen=True, slots=True)
class AdwinParams:
    """River's parameters, in blocks. `delta` 0: from the false-alarm budget."""

    block_rows: int = 50
    delta: float = 0.0
    clock: int = 4
    max_buckets: int = 5
    min_window_length: int = 2
    grace_period: int = 10


class Adwin:
    """River's ADWIN for every column and series of a stream.

    `alpha`: false alarms a row of the stream that this detector may raise in the mean, shared equally by the columns.
    `cold_starts`: windows that had to start afresh because native code failed on their state.
    """

    def __init__(self, reference: Reference, params: AdwinParams, alpha: float) -> None:
        self.params = params
        self.cold_starts = 0
        tables = tables_of(reference)
        columns = len(reference.columns)
        self.blocks = Blocks(tables, params.block_rows)
        watched = np.stack([np.ones(columns, dtype=np.bool_), tables.ordered], axis=1)
        self._window_of = np.where(watched, np.cumsum(watched).reshape(watched.shape) - 1, -1).astype(np.int32)
        self.place_of = np.argwhere(watched).astype(np.int32)
        """`[windows, 2]`: column and series of every window."""
        rates = alpha / columns * self.blocks.rows / len(SERIES)
        self.deltas = np.array([params.delta or adwin_delta(rate) for rate in rates.tolist()])
        self._next_row = np.zeros(1, dtype=np.int64)
        self._fed = np.zeros((len(self.place_of), 2))
        """`[windows, 2]`: the sum of what each was fed since it started, and how often."""
        self._most_fed = 0
        """No window has been fed more often."""
        self._windows: list[Any] = [self._fresh(column) for column, _ in self.place_of.tolist()]

    def _fresh(self, column: int) -> Any:
        params = self.params
        return AdaptiveWindowing(
            delta=float(self.deltas[column]),
            clock=params.clock,
            max_buckets=params.max_buckets,
            min_window_length=params.min_window_length,
            grace_period=params.grace_period,
        )

    def _restart(self, number: int) -> None:
        self._windows[number] = self._fresh(int(self.place_of[number, 0]))
        self._fed[number] = 0.0

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, ordered by row, then column."""
        means = self.blocks.update(codes, strata, first_row)
        self._next_row[0] = first_row + len(codes)
        if not len(means.rows):
            return []
        capacity = means.values.size
        rows, numbers = np.empty((2, capacity), dtype=np.int64)
        values = np.empty(capacity)
        count = _stretched(means.rows, means.columns, means.values, self._window_of, STRETCH, rows, numbers, values)
        rows, numbers, values = rows[:count], numbers[:count], values[:count]
        self._most_fed += len(codes)
        if self._most_fed < MAX_WIDTH:
            return self._feed(rows, numbers, values)
        # A window may fill up in here: one block of every column at a time, so that it restarts at the same block
        # however the rows were cut.
        edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1)).tolist()
        signals = [s for i, j in pairwise(edges) for s in self._feed(rows[i:j], numbers[i:j], values[i:j])]
        self._most_fed = int(self._fed[:, 1].max())
        return signals

    def _feed(self, rows: Integers, numbers: Integers, values: Floats) -> list[Signal]:
        """Feed window `numbers[i]` with `values[i]`, of the block that ended at `rows[i]`, in this order."""
        signals, done = [], 0
        given, amounts = numbers.tolist(), values.tolist()
        while done < len(given):
            start = done
            fed, end = self._until_change(given[start:] if start else given, amounts[start:] if start else amounts)
            done += fed
            _note(self._fed, numbers[start:done], values[start:done])
            if end is _End.CHANGE:
                signals.append(self._signal(int(rows[done - 1]), given[done - 1]))
            if end is not _End.INPUT:
                self._restart(given[done - 1])
        if self._most_fed >= MAX_WIDTH:
            for number in np.flatnonzero(self._fed[:, 1] >= MAX_WIDTH).tolist():
                self._restart(number)
        return signals

    def _until_change(self, numbers: list[int], values: list[float]) -> tuple[int, _End]:
        """Feed windows until one finds a change or its native code panics: how many were fed, and what ended it."""
        fed = 0
        found = map(_update, map(self._windows.__getitem__, numbers), values)
        try:
            for changed in found:
                fed += 1
                if changed:
                    return fed, _End.CHANGE
        except BaseException as error:
            self._survive(error)
            return fed + 1, _End.PANIC
        return fed, _End.INPUT

    def _survive(self, error: BaseException) -> None:
        """Count a panic of river's native code; raise anything else.

        A panic reaches Python as `pyo3_runtime.PanicException`, which is a BaseException and cannot be imported.
        """
        if type(error).__name__ != "PanicException":
            raise error
        self.cold_starts += 1

    def _signal(self, row: int, number: int) -> Signal:
        """A detection: river has shortened the window to the part after the change."""
        column, series = self.place_of[number].tolist()
        block_rows = int(self.blocks.rows[column])
        total, count = self._fed[number].tolist()
        width, kept = self._windows[number].get_width(), self._windows[number].get_total()
        change = kept / width - (total - kept) / max(count - width, 1.0)
        onset = max(row + 1 - int(width) * block_rows, 0)
        return Signal(
            row=row,
            column=column,
            detector="adwin",
            statistic="mean_change",
            value=abs(change) / STRETCH,
            threshold=0.0,
            direction=("up" if change > 0 else "down") if SERIES[series] == "rank" else "change",
            onset_row=onset,
            earliest_row=max(onset - ONSET_SLACK * block_rows, 0),
            alternative=f"{SERIES[series]}{'+' if change > 0 else '-'}",
        )

    def engage(self, column: int) -> None:
        """Nothing to do: the detector compares the stream with itself."""

    def release(self, column: int) -> None:
        """The column's episode was resolved: start afresh for it."""
        self.blocks.clear(column)
        for number in self._window_of[column].tolist():
            if number >= 0:
                self._restart(number)

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""
        windows: list[bytes] = [window.__getstate__() for window in self._windows]
        return {**self.blocks.state(), "next_row": self._next_row.copy(), "fed": self._fed.copy(), "windows": windows}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this reference, and changes nothing then.

        A single window whose bytes river would not write, or refuses, starts afresh instead (`cold_starts`).
        """
        windows = state.get("windows")
        if not isinstance(windows, list) or len(windows) != len(self._windows):
            raise WireError(f"adwin state: windows must be {len(self._windows)} byte strings: start this detector cold")
        own: dict[str, Array] = {"next_row": self._next_row, "fed": self._fed}
        arrays = restored("adwin", {name: part for name, part in state.items() if name in own}, own)
        self.blocks.restore("adwin", {n: part for n, part in state.items() if n not in own and n != "windows"})
        self._next_row, self._fed = arrays["next_row"], arrays["fed"]
        for number, (data, fed) in enumerate(zip(windows, self._fed.tolist(), strict=True)):
            self._restore_window(number, data, fed)
        self._most_fed = int(self._fed[:, 1].max(initial=0))

    def _restore_window(self, number: int, data: bytes, fed: list[float]) -> None:
        self._restart(number)
        window = self._windows[number]
        if not plausible(data, window.__getstate__()) or not 0 <= fed[0] <= fed[1] <= MAX_WIDTH:
            self.cold_starts += 1
            return
        try:
            window.__setstate__(data)
        except Exception:  # whatever river's decoder refuses with: this window starts cold
            self.cold_starts += 1
            self._restart(number)
        except BaseException as error:
            self._survive(error)
            self._restart(number)
        else:
            self._fed[number] = fed


@njit
def _stretched(
    rows: Any, columns: Any, means: Any, window_of: Any, stretch: float, row: Any, number: Any, value: Any
) -> int:
    """Of every block mean that is watched: the block's last row, the window's number and what to feed it."""
    count = 0
    for block in range(len(rows)):
        for series in range(means.shape[1]):
            window = window_of[columns[block], series]
            if window < 0:
                continue
            row[count], number[count] = rows[block], window
            value[count] = min(max(0.5 + (means[block, series] - 0.5) * stretch, 0.0), 1.0)
            count += 1
    return count


@njit
def _note(fed: Any, numbers: Any, values: Any) -> None:
    for i in range(len(numbers)):
        fed[numbers[i], 0] += values[i]
        fed[numbers[i], 1] += 1.0


_HEAD: Final = struct.Struct("<diQddddddiiiiQ")
"""delta, clock, max_buckets, min window, grace; total, variance, width, total width; four counters; bucket rows."""


def plausible(data: object, fresh: bytes) -> bool:
    """Whether `data` has the structure of river's serialised window with the parameters of `fresh`.

    Every length is checked against what the parameters imply, and every count that native code will use as an index.
    """
    if not isinstance(data, bytes) or len(data) < len(fresh):
        return False
    head, own = _HEAD.unpack_from(data), _HEAD.unpack_from(fresh)
    rows, slots = head[13], own[2] + 1
    tail = len(fresh) - _HEAD.size - _bucket_size(slots)
    if head[:5] != own[:5] or not 1 <= rows <= 40 or len(data) != _HEAD.size + rows * _bucket_size(slots) + tail:
        return False
    if data[len(data) - tail :] != fresh[len(fresh) - tail :] or head[11] < 0 or not isfinite(sum(head[5:9])):
        return False
    part, size = _parts(rows, slots).unpack_from(data, _HEAD.size), 4 + 2 * slots
    used, most = part[1::size], own[2]
    # A sum is finite only if all of its terms are.
    if not (set(part[0::size]) == {most} and max(used) <= most and isfinite(sum(part))):
        return False
    if not set(part[2::size]) == set(part[3 + slots :: size]) == {slots}:
        return False
    width = sum(count << number for number, count in enumerate(used))
    return bool(width == head[7] and (used[-1] > 0 or rows == 1))


@cache
def _parts(rows: int, slots: int) -> struct.Struct:
    """Of every row: capacity, used, and two vectors (totals, variances) with their lengths."""
    return struct.Struct("<" + f"QQQ{slots}dQ{slots}d" * rows)


def _bucket_size(slots: int) -> int:
    return 32 + 16 * slots
