"""`histogram`: how far is the last window from the reference, in the numbers people know?

A ring of panes of counts a column, the window's counts being their sum. A distance alone is no evidence: of windows of
300 rows that did not drift at all, most have a JS distance above 0.1 in 20 bins (`test_distances.py`). So at the end of
every pane a column fires only when its window differs *significantly* (Pearson's χ², two-sample because the reference
is finite, its effective size reduced by the autocorrelation time; Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995),
across the stream's columns, at a level that keeps the false-alarm budget) **and** by at least `min_effect`,
bias-corrected. Under a season the expected counts are the mixture of the strata as seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, chdtri

from stream_monitor.codes import ABOVE, BELOW, INVALID
from stream_monitor.compiled import njit
from stream_monitor.detectors.distances import Distances, distances, effect_groups, sums
from stream_monitor.detectors.panes import move_on, pack_all, row_bytes, unpack_all
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import Array, restored, within
from stream_monitor.detectors.tables import RANK, code_order, tables_of
from stream_monitor.reference import Reference

Floats = npt.NDArray[np.float64]
MAX_PANE_ROWS: Final = 255
"""A pane's counts are bytes."""


@dataclass(frozen=True, slots=True)
class HistogramParams:
    """`min_effect`: smallest JS distance worth a signal. `min_rows`: fewest rows that are compared.

    `min_expected`: neighbouring bins are joined until the reference expects this many rows in each.
    """

    panes: int = 20
    pane_rows: int = 100
    min_effect: float = 0.1
    min_rows: int = 500
    min_expected: float = 10.0


@dataclass(frozen=True, slots=True)
class Window:
    """Counts by code of the rows looked at, and the probabilities the reference gives them."""

    counts: npt.NDArray[np.int64]
    p: Floats

    @property
    def n(self) -> int:
        return int(self.counts.sum())


class Histogram:
    """The windows of all columns of a stream.

    `alpha`: false alarms a row of the stream that this detector may raise in the mean.
    """

    def __init__(self, reference: Reference, params: HistogramParams, alpha: float) -> None:
        if not 0 < params.pane_rows <= MAX_PANE_ROWS:
            raise ValueError(f"pane_rows {params.pane_rows}: 1 … {MAX_PANE_ROWS} are possible")
        self.params = params
        self.tables = tables_of(reference)
        self.level = alpha * params.pane_rows
        """The Benjamini-Hochberg level of one look."""
        strata, columns, width = self.tables.shape
        self._width = width
        self._critical = critical_values(width, self.level)
        self._reference_rows = self.tables.n.sum(axis=0).astype(np.float64)
        self._ring = np.zeros((params.panes, columns, row_bytes(width, params.pane_rows)), dtype=np.uint8)
        """As `panes.pack` writes: most counts of a pane are small, and a stream has some 1,500 a pane."""
        self._ring_strata = np.zeros((params.panes, strata), dtype=np.uint8)
        self._open = np.zeros((columns, width), dtype=np.uint8)
        self._open_strata = np.zeros(strata, dtype=np.uint8)
        self._sum = np.zeros((columns, width), dtype=np.uint16)
        self._since_pane = np.zeros(columns, dtype=np.int64)
        self._pending = np.zeros(columns, dtype=np.bool_)
        self._engaged = np.zeros(columns, dtype=np.bool_)
        self._next_row = np.zeros(1, dtype=np.int64)

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, ordered by row, then column."""
        signals: list[Signal] = []
        start, pane_rows = 0, self.params.pane_rows
        while start < len(codes):
            row = first_row + start
            if row % pane_rows == 0:
                self._engaged |= self._pending
                self._pending[:] = False
            stop = min(len(codes), start + pane_rows - row % pane_rows)
            _count(codes[start:stop], strata[start:stop], self.tables.widths, self._open, self._open_strata)
            self._next_row[0] = first_row + stop
            if (first_row + stop) % pane_rows == 0:
                self._close_pane()
                signals += self._look(first_row + stop - 1)
            start = stop
        return signals

    def _close_pane(self) -> None:
        slot = (int(self._next_row[0]) // self.params.pane_rows - 1) % self.params.panes
        self._ring_strata[slot] = self._open_strata
        self._open_strata[:] = 0
        move_on(self._open, self._ring[slot], self._sum)

    def _look(self, row: int) -> list[Signal]:
        """Every column's window against the reference, at the end of a pane."""
        params, tables = self.params, self.tables
        statistic, freedom = np.zeros((2, len(self._sum)))
        far = _chi_square(
            self._sum, self._expected_shares(), tables.widths, self._reference_rows, tables.time,
            params.min_expected, params.min_rows, self._critical, statistic, freedom,
        )  # fmt: skip
        if not far:
            return []
        found = np.flatnonzero(significant(statistic, freedom, self.level) & ~self._engaged)
        signals = []
        for column in found.tolist():
            window = self.window(column)
            away = self._distances(column, window)
            if away.js_distance >= params.min_effect:  # much is significant for long that is too small to be told
                signals.append(self._signal(row, column, window, away))
        self._engaged[[signal.column for signal in signals]] = True
        return signals

    def _expected_shares(self) -> npt.NDArray[np.floating[Any]]:
        """`[columns, codes]`: the mixture of the strata that each column's window has seen."""
        p = self.tables.p
        first: npt.NDArray[np.float32] = p[0]
        if len(p) == 1:
            return first
        shares: Floats = first.astype(np.float64)
        for since in np.unique(self._since_pane).tolist():
            mix = self._mix(since)
            members = self._since_pane == since
            shares[members] = np.tensordot(mix, p[:, members].astype(np.float64), axes=1)
        return shares

    def _mix(self, since_pane: int) -> Floats:
        """Share of each stratum among the rows since the start of a pane."""
        next_pane = int(self._next_row[0]) // self.params.pane_rows
        panes = np.arange(max(since_pane, next_pane - self.params.panes, 0), next_pane) % self.params.panes
        rows = self._ring_strata[panes].sum(axis=0, dtype=np.float64) + self._open_strata
        mix: Floats = rows / rows.sum() if rows.sum() else np.full(len(rows), 1 / len(rows))
        return mix

    def _signal(self, row: int, column: int, window: Window, far: Distances) -> Signal:
        onset_pane = self._onset_pane(column, window.p)
        rank = self.tables.rank[0, column, : len(window.counts)] * RANK
        shift = float((window.counts / window.n - window.p) @ rank)
        moved = bool(self.tables.ordered[column]) and abs(shift) > far.wasserstein_rank / 2
        onset = onset_pane * self.params.pane_rows
        return Signal(
            row=row,
            column=column,
            detector="histogram",
            statistic="js_distance",
            value=far.js_distance,
            threshold=self.params.min_effect,
            direction=("up" if shift > 0 else "down") if moved else "change",
            onset_row=onset,
            earliest_row=max(onset - ONSET_SLACK * self.params.pane_rows, 0),
        )

    def _onset_pane(self, column: int, p: Floats) -> int:
        """The pane from which on the rows are likeliest to have left the reference (Akaike-corrected)."""
        order = code_order(int(self.tables.widths[column]))
        groups = effect_groups(p[order], order, bool(self.tables.ordered[column]))
        expected = sums(groups, p[order])
        next_pane = int(self._next_row[0]) // self.params.pane_rows
        best, best_gain = next_pane - 1, -np.inf
        seen = np.zeros(len(expected))
        for pane in range(next_pane - 1, max(int(self._since_pane[column]), next_pane - self.params.panes, 0) - 1, -1):
            seen += sums(groups, self._panes(pane % self.params.panes, column)[order].astype(np.float64))
            present = seen > 0
            gain = float((seen[present] * np.log(seen[present] / (seen.sum() * expected[present]))).sum())
            if seen.sum() and gain > best_gain:
                best, best_gain = pane, gain
        return best

    def window(self, column: int) -> Window:
        """The last `panes` panes and the open one, as of the last row fed."""
        width = int(self.tables.widths[column])
        counts = self._sum[column, :width].astype(np.int64) + self._open[column, :width]
        mix = self._mix(int(self._since_pane[column]))
        return Window(counts, self._own_shares(column, mix))

    def recent(self, column: int, panes: int = 3) -> Window:
        """The last whole panes (as many as there are) and the open one."""
        width = int(self.tables.widths[column])
        next_pane = int(self._next_row[0]) // self.params.pane_rows
        first = max(next_pane - panes, int(self._since_pane[column]), 0)
        slots = np.arange(first, next_pane) % self.params.panes
        counts = self._panes(slots, column)[:, :width].sum(axis=0, dtype=np.int64) + self._open[column, :width]
        return Window(counts, self._own_shares(column, self._mix(first)))

    def _panes(self, slots: Any, column: Any) -> npt.NDArray[np.uint8]:
        """Counts by code of whole panes, `[…, codes]`, by their places in the ring."""
        rows = self._ring[slots, column]
        counts = np.empty((*rows.shape[:-1], self._width), dtype=np.uint8)
        unpack_all(rows.reshape(-1, rows.shape[-1]), counts.reshape(-1, self._width))
        return counts

    def _own_shares(self, column: int, mix: Floats) -> Floats:
        share = mix @ self.tables.p[:, column, : int(self.tables.widths[column])].astype(np.float64)
        total: Floats = share / share.sum()
        return total

    def effect(self, column: int) -> Distances:
        """The window's distances from the reference."""
        return self._distances(column, self.window(column))

    def _distances(self, column: int, window: Window) -> Distances:
        return distances(
            window.counts, window.p, code_order(int(self.tables.widths[column])), float(self._reference_rows[column]),
            bool(self.tables.ordered[column]),
        )  # fmt: skip

    def engage(self, column: int) -> None:
        """An episode has opened: no more signals of the column from the next pane on, until it is released."""
        if not self._engaged[column]:
            self._pending[column] = True

    def release(self, column: int) -> None:
        """The column's episode was resolved: an empty window."""
        self._ring[:, column], self._open[column], self._sum[column] = 0, 0, 0
        self._since_pane[column] = self._next_row[0] // self.params.pane_rows
        self._pending[column] = self._engaged[column] = False

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""
        return {"ring": self._panes(..., slice(None)), **{name: array.copy() for name, array in self._own().items()}}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this reference, and changes nothing then."""
        panes = (self.params.panes, *self._open.shape)
        arrays = restored("histogram", state, {"ring": np.broadcast_to(np.uint8(0), panes), **self._own()})
        within("histogram", "next_row", arrays["next_row"], 0, 2**62)
        pane_rows, ring = self.params.pane_rows, arrays.pop("ring")
        within("histogram", "open", arrays["open"].sum(axis=1), 0, int(arrays["next_row"][0]) % pane_rows)
        within("histogram", "ring", ring.sum(axis=2, dtype=np.uint16), 0, pane_rows)
        pack_all(ring.reshape(-1, ring.shape[-1]), self._ring.reshape(-1, self._ring.shape[-1]))
        for name, array in arrays.items():
            setattr(self, f"_{name}", array)
        self._sum = ring.sum(axis=0, dtype=np.uint16)

    def _own(self) -> dict[str, Array]:
        return {
            "ring_strata": self._ring_strata,
            "open": self._open,
            "open_strata": self._open_strata,
            "since_pane": self._since_pane,
            "pending": self._pending,
            "engaged": self._engaged,
            "next_row": self._next_row,
        }


ONSET_SLACK: Final = 2
"""Panes by which the earliest plausible onset lies before the likeliest."""


@lru_cache(maxsize=1024)
def critical_values(most: int, level: float) -> Floats:
    """By degrees of freedom, 0 … `most`: what a χ² statistic has to exceed for its p-value to be `level` or less. A
    little less than that, since it decides only what is looked at more closely."""
    freedom = np.arange(1, most + 1)
    values: Floats = np.concatenate([[np.inf], chdtri(freedom, min(level, 1.0)) * (1 - 1e-6) - 1e-6])
    return values


def significant(statistic: Floats, freedom: Floats, level: float) -> npt.NDArray[np.bool_]:
    """Benjamini-Hochberg at `level` over χ² statistics; columns with no degree of freedom have p-value 1.

    Exact tails only where the statistic is far above its mean: elsewhere p ≥ `level` anyway.
    """
    p_values = np.ones(len(statistic))
    worth = (freedom > 0) & (statistic > freedom + np.sqrt(2 * freedom))
    p_values[worth] = chdtrc(freedom[worth], statistic[worth])
    ranked = np.argsort(p_values, kind="stable")
    passed = np.flatnonzero(p_values[ranked] <= level * np.arange(1, len(ranked) + 1) / len(ranked))
    chosen = np.zeros(len(statistic), dtype=np.bool_)
    if len(passed):
        chosen[ranked[: passed[-1] + 1]] = True
    return chosen


@njit
def _count(codes: Any, strata: Any, widths: Any, counts: Any, rows_of: Any) -> None:
    """Add rows to the open pane."""
    rows, columns = codes.shape
    for column in range(columns):
        for i in range(rows):
            code = codes[i, column]
            counts[column, code if code < widths[column] else INVALID] += 1
    for i in range(rows):
        rows_of[strata[i]] += 1


@njit
def _chi_square(
    sums: Any, shares: Any, widths: Any, reference_rows: Any, time: Any, least: float, min_rows: int,
    critical: Any, statistic: Any, freedom: Any,
) -> bool:  # fmt: skip
    """Pearson's χ² of every column over neighbouring codes joined until `least` rows are expected in each; whether any
    exceeds the `critical` value of its degrees of freedom.

    Codes go in the order missing, invalid, below or new, the bins, above or other.
    """
    far = False
    for column in range(len(sums)):
        n = 0.0
        for code in range(widths[column]):
            n += sums[column, code]
        if n < min_rows:
            continue
        expected = seen = total = 0.0
        last_expected = last_seen = last_part = 0.0
        groups = 0
        for place in range(widths[column]):
            code = place if place <= BELOW else place + 1
            if place == widths[column] - 1:
                code = ABOVE
            expected += n * shares[column, code]
            seen += sums[column, code]
            if expected >= least:
                last_expected, last_seen = expected, seen
                last_part = (seen - expected) ** 2 / expected
                total += last_part
                groups += 1
                expected = seen = 0.0
        if groups and (expected > 0 or seen > 0):  # what is left over joins the last group
            expected, seen = last_expected + expected, last_seen + seen
            total += (seen - expected) ** 2 / expected - last_part
        if groups > 1:
            statistic[column] = total / (1.0 + n / reference_rows[column]) / time[column]
            freedom[column] = groups - 1
            far = far or statistic[column] >= critical[groups - 1]
    return far
