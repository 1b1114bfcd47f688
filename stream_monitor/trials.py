"""Known changes put into windows of one's own rows, and the smallest that is found: by bisection, seeded.

The detector `evidence` alone has to find them, which is what leads; the others can only be faster. It is fed a lead
first, that brings it to where it would be; windows in which a column fires by itself do not count. All columns share a
run: evidence watches each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW
from stream_monitor.detectors.ensemble import PANE_ROWS, DetectorSet
from stream_monitor.encode import Binner, number
from stream_monitor.events import Row
from stream_monitor.inject import value_of
from stream_monitor.reference import Column, Kind, Reference

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ENOUGH: Final = 0.8
"""Share of the windows a change has to be found in."""
STEPS: Final = 7
FEWEST_WINDOWS: Final = 3
RANGES: Final = {"mean": (0.01, 6.0), "share": (0.002, 1.0), "new": (0.001, 1.0), "null": (0.001, 1.0)}
UNITS: Final = {"mean": "sd", "share": "share", "new": "share", "null": "share"}


@dataclass(slots=True)
class Smallest:
    """The smallest change found within `within` rows in four of five windows; None: not even the largest one tried.

    `change`: mean (in sd of the reference), share (of a known category), new (share of an unseen one), null (rate).
    `windows`: those that counted.
    """

    change: str
    amount: float | None
    unit: str
    within: int
    windows: int


class Trials:
    """Changes put into the windows of one stream: the last `within` rows of each, those before being the lead.

    `params`: of `evidence`. `budget_rows`: mean number of rows between two false alarms of the stream.
    """

    def __init__(
        self,
        reference: Reference,
        windows: Sequence[Sequence[Row]],
        within: int,
        params: object,
        budget_rows: float,
        seed: int,
    ) -> None:
        self._columns = reference.columns
        source = msgspec.structs.replace(reference.source, ordered=True)  # a window is too short to be paced by
        paced = msgspec.structs.replace(reference, source=source)
        self._detectors = DetectorSet(paced, {"evidence": params}, budget_rows)
        self._fresh = self._detectors.states()
        self._lead = len(windows[0]) - within if windows else 0
        self._within = within
        binner = Binner(reference)
        coded = [binner.encode(rows) for rows in windows]
        self._codes = [c.codes for c in coded]
        self._strata = [c.strata for c in coded]
        self._rows = [rows[self._lead :] for rows in windows]
        self._chance = np.random.default_rng([seed, 7]).random((len(coded), self._within, len(self._columns)))
        self._values: dict[int, list[Floats]] = {}
        self._pools: dict[int, Floats] = {}
        self._leads: list[tuple[Any, Mask]] = []
        for codes, strata in zip(self._codes, self._strata, strict=True):
            self._detectors.restore(self._fresh)
            fired = self._feed(codes[: self._lead], strata[: self._lead], 0)
            self._leads.append((self._detectors.states(), fired >= 0))

    def smallest(self, change: str, columns: Sequence[int]) -> dict[int, Smallest]:
        """By column that can change so: the smallest change found, all columns bisected at once."""
        tried = [i for i in columns if self._can(change, self._columns[i])]
        if not tried or not self._codes:
            return {}
        low, high = RANGES[change]
        lows, highs = np.full(len(tried), math.log(low)), np.full(len(tried), math.log(high))
        quiet = self._found(change, tried, np.zeros(len(tried)))
        usable = np.array([~quiet[:, j] & ~self._void(i) for j, i in enumerate(tried)]).T
        count = usable.sum(axis=0)

        def enough(amounts: Floats) -> Mask:
            found = self._found(change, tried, amounts) & usable
            result: Mask = found.sum(axis=0) >= ENOUGH * np.maximum(count, 1)
            return result

        possible = enough(np.exp(highs)) & (count >= FEWEST_WINDOWS)
        for _ in range(STEPS):
            middle = (lows + highs) / 2
            hit = enough(np.exp(middle))
            highs, lows = np.where(hit, middle, highs), np.where(hit, lows, middle)
        within, unit = self._within, UNITS[change]
        said = [self._said(change, i, high) if ok else None for i, high, ok in zip(tried, highs, possible, strict=True)]
        return {i: Smallest(change, said[j], unit, within, int(count[j])) for j, i in enumerate(tried)}

    def _can(self, change: str, column: Column) -> bool:
        if change == "mean":
            return column.kind is Kind.NUMERIC and bool(column.sd)
        if change == "share":
            return column.kind is Kind.CATEGORICAL and column.bins > 1
        return change == "null" or (column.kind is Kind.CATEGORICAL and column.exhaustive)

    def _void(self, column: int) -> Mask:
        return np.array([fired[column] for _, fired in self._leads])

    def _said(self, change: str, column: int, log_amount: float) -> float:
        """An amount as it is reported: by how many sd the mean moves, by how much the share of a category grows."""
        amount, it = math.exp(log_amount), self._columns[column]
        if change == "mean":
            moves = [self._shifted(column, w, amount) - values for w, values in enumerate(self._numbers(column))]
            amount = float(np.nanmean(np.concatenate(moves))) / (it.sd or 1.0)
        elif change == "share":
            counts = np.sum([bins.counts for bins in it.strata], axis=0)
            amount *= 1 - float(counts[self._target(column)]) / float(counts.sum())
        return float(f"{amount:.2g}")

    def _target(self, column: int) -> int:
        """The category whose share grows: the second most common."""
        return FIRST_BIN + 1

    def _found(self, change: str, columns: Sequence[int], amounts: Floats) -> Mask:
        """`[windows, columns]`: whether a change by so much was found in time."""
        found = np.zeros((len(self._codes), len(columns)), dtype=np.bool_)
        for window, (codes, strata) in enumerate(zip(self._codes, self._strata, strict=True)):
            changed = codes[self._lead :].copy()
            for i, amount in zip(columns, amounts.tolist(), strict=True):
                if amount:
                    changed[:, i] = self._changed(change, window, i, amount, changed[:, i], strata[self._lead :])
            self._detectors.restore(self._leads[window][0])
            found[window] = self._feed(changed, strata[self._lead :], self._lead)[list(columns)] >= 0
        return found

    def _changed(self, change: str, window: int, column: int, amount: float, codes: Codes, strata: Codes) -> Codes:
        if change == "mean":
            moved = self._shifted(column, window, amount)
            return np.where(np.isnan(moved), codes, numeric_codes(self._columns[column], moved, strata))
        code = {"share": self._target(column), "new": NEW, "null": MISSING}[change]
        return np.where(self._chance[window, :, column] < amount, np.uint8(code), codes)

    def _shifted(self, column: int, window: int, amount: float) -> Floats:
        """The window's values moved up by `amount` normal scores among all values of the column, NaN where there is no
        number. Unlike an added constant this gives no value that the column never has, however it is bounded or
        rounded; for a normal column it is the same."""
        values, pool = self._numbers(column)[window], self._pool(column)
        low, high = np.searchsorted(pool, values, "left"), np.searchsorted(pool, values, "right")
        level = (low + self._chance[window, :, column] * (high - low)) / max(len(pool), 1)
        moved = special.ndtr(special.ndtri(np.clip(level, 1e-9, 1 - 1e-9)) + amount)
        place = np.minimum((moved * len(pool)).astype(np.int64), len(pool) - 1)
        return np.where(np.isfinite(values), pool[place], np.nan) if len(pool) else np.full(len(values), np.nan)

    def _pool(self, column: int) -> Floats:
        """All finite values of the windows, sorted."""
        if column not in self._pools:
            values = np.concatenate(self._numbers(column))
            self._pools[column] = np.sort(values[np.isfinite(values)])
        return self._pools[column]

    def _numbers(self, column: int) -> list[Floats]:
        if column not in self._values:
            it = self._columns[column]
            self._values[column] = [np.array([number(value_of(row, it)) for row in rows]) for rows in self._rows]
        return self._values[column]

    def _feed(self, codes: Codes, strata: Codes, first_row: int) -> Ints:
        """Rows through the detector; by column the row of its first signal, −1 if it is silent."""
        fired = np.full(codes.shape[1], -1, dtype=np.int64)
        for start in range(0, len(codes), PANE_ROWS):
            part = slice(start, start + PANE_ROWS)
            for signal in self._detectors.update(np.ascontiguousarray(codes[part]), strata[part], first_row + start):
                if fired[signal.column] < 0:
                    fired[signal.column] = signal.row
        return fired


def numeric_codes(column: Column, values: Floats, strata: Codes) -> Codes:
    """Codes of finite numbers (anything else is invalid): `encode.code_of`, an array at a time."""
    codes = np.full(len(values), INVALID, dtype=np.uint8)
    for stratum in np.unique(strata).tolist():
        bins = column.strata[stratum]
        here = (strata == stratum) & np.isfinite(values)
        x, edges = values[here], np.array(bins.edges)
        found = np.where(x < bins.low, BELOW, FIRST_BIN + np.searchsorted(edges, x, side="left"))
        codes[here] = np.where(x > edges[-1], ABOVE, found) if len(edges) else ABOVE
    return codes
