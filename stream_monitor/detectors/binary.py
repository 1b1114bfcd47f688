"""`ddm`, `hddm_a`, `hddm_w`: river's detectors for streams of right (0) and wrong (1), for those who know them.

DDM: J. Gama et al., "Learning with drift detection", SBIA 2004. HDDM: I. Frías-Blanco et al., "Online and
non-parametric drift detection methods based on Hoeffding's bounds", IEEE TKDE 27 (2015); `A` by plain means, `W` by
means that forget. They say what river's classes say when fed the same values, row for row (tested), compiled, and their
state is plain numbers.

All three compare the stream with itself and promise no mean time between false alarms. So a detection is a suspicion
first: the errors since about when they became more than the reference's (the last start of a CUSUM) are counted on
until they are too many for it, by Chernoff's bound n·KL(k/n ‖ p) ≥ log(1/chance), or few enough to drop it. (Not since
the detector's own cut, which is where errors were fewest and may lie far before the change.) `chance` 0: from the
budget; 1: river's word counts at once. Off unless selected, and only for columns of errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt
from typing import Any, Final

import numpy as np

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN
from stream_monitor.compiled import njit
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import Array, restored, within
from stream_monitor.reference import Column, Reference, Role

LARGEST: Final = 1e300
"""Stands for river's infinity, which a state may not hold."""
DROPPED: Final = 2.0
"""A suspicion whose bound falls below this is dropped."""
ODDS: Final = 1.5
"""How much the odds of an error have grown in the CUSUM's alternative."""
_FRESH: Final = {"ddm": (0, 0, 0, 0, LARGEST, 0, 0, 0, 0), "hddm_a": (0, 0, 0, 0, 0, 0, 0, 0, 0),
                 "hddm_w": (0, 0, 1, 0, 1, 0, 1, LARGEST, 0)}  # fmt: skip
"""River's numbers as the kernels say, and the CUSUM last."""


@dataclass(frozen=True, slots=True)
class DdmParams:
    """River's parameters, and the `chance` at which errors are too many for the reference."""

    warm_start: int = 30
    drift_threshold: float = 3.0
    chance: float = 0.0

    def __post_init__(self) -> None:
        _check(chance=self.chance)


@dataclass(frozen=True, slots=True)
class HddmAParams:
    """River's parameters, and the `chance` at which errors are too many for the reference."""

    drift_confidence: float = 0.001
    chance: float = 0.0

    def __post_init__(self) -> None:
        _check(chance=self.chance, drift_confidence=self.drift_confidence)


@dataclass(frozen=True, slots=True)
class HddmWParams:
    """River's parameters, and the `chance` at which errors are too many for the reference."""

    drift_confidence: float = 0.001
    lambda_val: float = 0.05
    chance: float = 0.0

    def __post_init__(self) -> None:
        _check(chance=self.chance, drift_confidence=self.drift_confidence, lambda_val=self.lambda_val)


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if value > 1:
            raise ValueError(f"{name} is a share: give at most 1, not {value:g}")


Params = DdmParams | HddmAParams | HddmWParams


class Binary:
    """One of the three over the first column of errors of a stream; none there, none watched.

    `alpha`: false alarms a row that it may raise in the mean.
    """

    def __init__(self, name: str, reference: Reference, params: Params, alpha: float) -> None:
        self.name = name
        self.column = next((i for i, column in enumerate(reference.columns) if _is_of_errors(column)), -1)
        self.params = params
        self.bar = log(1 / (params.chance or min(alpha, 1.0)))
        self._codes, self._rate = (-1, -1), 0.0
        if self.column >= 0:
            self._codes, self._rate = _learned(reference.columns[self.column])
        self._fields = np.array(_FRESH[name], dtype=np.float64)
        self._counts = np.zeros(7, dtype=np.int64)
        """Rows and errors of the CUSUM, and its first; the same of the suspicion, if it has rows; the next row."""

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, by row."""
        self._counts[6] = first_row + len(codes)
        if self.column < 0:
            return []
        signals: list[Signal] = []
        own, at = np.ascontiguousarray(codes[:, self.column]), 0
        errors = np.where(own == self._codes[1], 1, np.where(own == self._codes[0], 0, -1)).astype(np.int8)
        while at < len(errors):
            found, bound, cut = _KERNELS[self.name](self, errors[at:], first_row + at)
            if found < 0:
                break
            at += found + 1
            row = first_row + at - 1
            signals.append(
                Signal(row, self.column, self.name, "log_chance", bound, self.bar, "up", cut, cut, "errors+")
            )
        return signals

    def engage(self, column: int) -> None:
        """Nothing to do: the detector compares the stream with itself."""

    def release(self, column: int) -> None:
        """The column's episode was resolved: start afresh for it."""
        if column == self.column:
            self._fields[:] = _FRESH[self.name]
            self._counts[:6] = 0

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""
        return {"fields": self._fields.copy(), "counts": self._counts[:6].copy(), "next_row": self._counts[6:].copy()}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this detector, and changes nothing then."""
        like: dict[str, Array] = {"fields": self._fields, "counts": self._counts[:6], "next_row": self._counts[6:]}
        arrays = restored(self.name, state, like)
        fields, counts, next_row = arrays["fields"], arrays["counts"], arrays["next_row"]
        within(self.name, "next_row", next_row, 0, 2**62)
        within(self.name, "counts", counts, 0, int(next_row[0]))
        within(self.name, "errors", counts[[1, 4]] - counts[[0, 3]], -(2**62), 0)
        within(self.name, "fields", fields, 0, LARGEST)
        numbers, shares = (0, 2) if self.name == "hddm_a" else (0,), {"ddm": (1, 2), "hddm_a": (1, 3)}
        within(self.name, "rows", fields[list(numbers)], 0, 2**53)
        within(self.name, "shares", fields[list(shares.get(self.name, (1, 2, 3, 4, 5, 6)))], 0, 1)
        if self.name == "hddm_a":  # the mean at the cut is of no more rows than that of all
            within(self.name, "rows at the cut", fields[2:3], 0, float(fields[0]))
        self._fields = fields
        self._counts = np.concatenate([counts, next_row])

    # ---- the kernels' arguments ----

    def ddm(self, errors: Any, first_row: int) -> tuple[int, float, int]:
        params = self.params
        assert isinstance(params, DdmParams)
        return _ddm(errors, first_row, params.warm_start, params.drift_threshold, self._rate, self.bar, self._fields,
                    self._counts)  # fmt: skip

    def hddm_a(self, errors: Any, first_row: int) -> tuple[int, float, int]:
        params = self.params
        assert isinstance(params, HddmAParams)
        cut, drift = log(1.0 / params.drift_confidence), log(2.0 / params.drift_confidence)
        return _hddm_a(errors, first_row, cut, drift, self._rate, self.bar, self._fields, self._counts)

    def hddm_w(self, errors: Any, first_row: int) -> tuple[int, float, int]:
        params = self.params
        assert isinstance(params, HddmWParams)
        return _hddm_w(errors, first_row, params.lambda_val, log(1 / params.drift_confidence), self._rate, self.bar,
                       self._fields, self._counts)  # fmt: skip


_KERNELS: Final[dict[str, Callable[[Binary, Any, int], tuple[int, float, int]]]] = {
    "ddm": Binary.ddm, "hddm_a": Binary.hddm_a, "hddm_w": Binary.hddm_w,
}  # fmt: skip


def _is_of_errors(column: Column) -> bool:
    """Whether it holds 0 and 1 (or only one of them) of outcomes."""
    return (
        column.role is Role.OUTCOME and len(column.strata) == 1
        and 0 < len(column.strata[0].edges) <= 2 and set(column.strata[0].edges) <= {0.0, 1.0}
    )  # fmt: skip


def _learned(column: Column) -> tuple[tuple[int, int], float]:
    """The codes of right and wrong, and the reference's rate of errors, its own uncertainty (two standard errors)
    included."""
    bins = column.strata[0]
    places = {edge: FIRST_BIN + i for i, edge in enumerate(bins.edges)}
    right, wrong = places.get(0.0, BELOW), places.get(1.0, ABOVE)
    rows = sum(bins.counts)
    rate = (bins.counts[wrong] + 0.5) / (rows + 1)
    return (right, wrong), min(rate + 2 * sqrt(rate * (1 - rate) * column.autocorrelation_time / rows), 1 - 1e-9)


@njit
def _bound(rows: int, errors: int, rate: float) -> float:
    """n·KL(k/n ‖ rate), 0 where the errors are not more than it says."""
    if rows == 0 or errors <= rows * rate:
        return 0.0
    share = errors / rows
    found = share * np.log(share / rate)
    if errors < rows:
        found += (1.0 - share) * np.log((1.0 - share) / (1.0 - rate))
    return float(rows * found)


@njit
def _suspect(x: int, row: int, drift: bool, rate: float, bar: float, f: Any, counts: Any) -> tuple[float, int]:
    """Count a row of the CUSUM and of the suspicion; what one that is confirmed says, else −1, and its first row."""
    grown = ODDS * rate / (1.0 - rate + ODDS * rate)
    f[8] += np.log(grown / rate) if x > 0 else np.log((1.0 - grown) / (1.0 - rate))
    if f[8] <= 0:
        f[8], counts[0], counts[1], counts[2] = 0.0, 0, 0, row + 1
    else:
        counts[0] += 1
        counts[1] += x
    if counts[3] > 0:
        counts[3] += 1
        counts[4] += x
    if drift and _bound(counts[0], counts[1], rate) >= _bound(counts[3], counts[4], rate):
        counts[3], counts[4], counts[5] = counts[0], counts[1], counts[2]
    if counts[3] == 0 and not (drift and bar == 0):
        return -1.0, 0
    bound, since = _bound(counts[3], counts[4], rate), counts[5]
    if bound >= bar:
        counts[3], counts[4] = 0, 0
        return bound, min(since, row)
    if bound < DROPPED:
        counts[3], counts[4] = 0, 0
    return -1.0, 0


@njit
def _ddm(
    errors: Any, first_row: int, warm_start: int, threshold: float, rate: float, bar: float, f: Any, counts: Any
) -> tuple[int, float, int]:  # fmt: skip
    """Rows until a suspicion is confirmed: its place (−1: none), its bound, its first row. Fields: n, p, p_min, s_min,
    p_min + s_min, whether it has detected."""
    for i in range(len(errors)):
        x = errors[i]
        if x < 0:
            continue
        if f[5] > 0:
            f[0], f[1], f[2], f[3], f[4], f[5] = 0.0, 0.0, 0.0, 0.0, LARGEST, 0.0
        f[0] += 1.0
        f[1] += (1.0 / f[0]) * (x - f[1])
        p = f[1]
        s = np.sqrt(p * (1 - p) / f[0])
        if f[0] > warm_start:
            if p + s <= f[4]:
                f[2], f[3], f[4] = p, s, p + s
            f[5] = 1.0 if p + s > f[2] + threshold * f[3] else 0.0
        bound, since = _suspect(x, first_row + i, f[5] > 0, rate, bar, f, counts)
        if bound >= 0:
            return i, bound, since
    return -1, 0.0, 0


@njit
def _hddm_a(
    errors: Any, first_row: int, log_cut: float, log_drift: float, rate: float, bar: float, f: Any, counts: Any
) -> tuple[int, float, int]:  # fmt: skip
    """As `_ddm`. Fields: rows and mean of all, and at the cut; whether it has detected."""
    for i in range(len(errors)):
        x = errors[i]
        if x < 0:
            continue
        if f[4] > 0:
            f[0], f[1], f[2], f[3], f[4] = 0.0, 0.0, 0.0, 0.0, 0.0
        f[0] += 1.0
        f[1] += (1.0 / f[0]) * (x - f[1])
        if f[2] == 0:
            f[2], f[3] = f[0], f[1]
        eps_all, eps_cut = np.sqrt(1.0 / (2 * f[0]) * log_cut), np.sqrt(1.0 / (2 * f[2]) * log_cut)
        if f[3] + eps_cut >= f[1] + eps_all:
            f[2], f[3] = f[0], f[1]
        if f[2] != f[0]:
            m = (f[0] - f[2]) / f[2] * (1.0 / f[0])
            f[4] = 1.0 if f[1] - f[3] >= np.sqrt(m / 2 * log_drift) else 0.0
        bound, since = _suspect(x, first_row + i, f[4] > 0, rate, bar, f, counts)
        if bound >= 0:
            return i, bound, since
    return -1, 0.0, 0


@njit
def _hddm_w(
    errors: Any, first_row: int, weight: float, log_confidence: float, rate: float, bar: float, f: Any, counts: Any
) -> tuple[int, float, int]:  # fmt: skip
    """As `_ddm`. Fields: rows (0 after a detection); mean and bound condition of all, at the cut, and since; the cut.
    A condition of 1: no row yet."""
    square, rest = weight * weight, (1 - weight) ** 2
    for i in range(len(errors)):
        x = errors[i]
        if x < 0:
            continue
        if f[0] == 0:
            f[1], f[2], f[3], f[4], f[5], f[6], f[7] = 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, LARGEST
        f[0] += 1.0
        f[1] = weight * x + (1 - weight) * f[1] if f[2] < 1 else float(x)
        f[2] = square + rest * f[2]
        eps = np.sqrt(f[2] * log_confidence / 2)
        if f[1] + eps < f[7]:
            f[7], f[3], f[4], f[5], f[6] = f[1] + eps, f[1], f[2], 0.0, 1.0
        else:
            f[5] = weight * x + (1 - weight) * f[5] if f[6] < 1 else float(x)
            f[6] = square + rest * f[6]
        drift = f[4] < 1 and f[6] < 1 and f[5] - f[3] > np.sqrt((f[4] + f[6]) * log_confidence / 2)
        if drift:
            f[0] = 0.0
        bound, since = _suspect(x, first_row + i, drift, rate, bar, f, counts)
        if bound >= 0:
            return i, bound, since
    return -1, 0.0, 0
