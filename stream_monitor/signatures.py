"""Which one simple fault explains a change of a numeric column, if one clearly does: a change of unit, of sign, a
shift, a factor. Pure.

Every explanation is a map of the training values, x → a·x + c, possibly of a share of the rows only. It *fits* where
the mapped training distribution lies within the Kolmogorov–Smirnov distance of what was observed that its own truth
would keep 19 times in 20. It is told only if it fits, the unchanged distribution is far off, and no rival fits as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN
from stream_monitor.reference import Bins

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

POWERS: Final = tuple(power for power in range(-9, 10) if power)
FEWEST_TO_SHIFT: Final = 50
"""Values it takes to tell a shift from a factor."""
FEWEST_TO_FLIP: Final = 10
KS_95: Final = 1.36
BIN_SLACK: Final = 0.02
"""What interpolation within bins may add to a distance."""
WORST_FIT: Final = 0.45
CLEARLY: Final = 0.1
MOST_OF: Final = 0.8
"""A change of unit of more than this share of the values is told as one of all: the onset is known to a few rows."""


@dataclass(frozen=True, slots=True)
class Signature:
    """`kind`: unit, flip, shift or factor; `amount`: the factor, or the shift in the column's unit; `share` of rows."""

    kind: str
    amount: float = 1.0
    share: float = 1.0


class _Sample:
    """What is known of the present values: a distribution function at certain points."""

    def __init__(self, bins: Bins, before: Counts, now: Counts, outside: Sequence[float]) -> None:
        self.knots = np.array([bins.low, *bins.edges])
        reference = before[BELOW:].astype(np.float64)
        self.cumulated = np.concatenate([[0.0], np.cumsum(reference[FIRST_BIN - BELOW :])])
        self.cumulated /= max(self.cumulated[-1], 1.0)
        self.least, self.most = float(bins.low), float(bins.edges[-1])
        self.n = int(now[BELOW:].sum())
        below, above = now[BELOW] / max(self.n, 1), now[ABOVE] / max(self.n, 1)
        self.outside = float(below + above)
        values = np.sort(np.array([value for value in outside if math.isfinite(value)], dtype=np.float64))
        low, high = values[values < self.least], values[values > self.most]
        self.values = np.concatenate([low, high])
        self.known = not (below and not len(low)) and not (above and not len(high))
        ordinary = below + np.cumsum(now[FIRST_BIN:]) / max(self.n, 1)
        self.points = np.concatenate([low, self.knots, high])
        self.observed = np.concatenate(
            [_steps(low) * below, [below], ordinary, 1 - above + _steps(high) * above]
        )  # fmt: skip
        spread = self.outside**2 / len(self.values) if len(self.values) else 0.0
        self.slack = min(KS_95 * math.sqrt(1 / max(self.n, 1) + spread + 1 / max(float(before.sum()), 1.0)) + BIN_SLACK,
                         WORST_FIT)  # fmt: skip

    def mapped(self, a: float, c: float = 0.0) -> Floats:
        """The distribution function of a·x + c at the points, x as in training."""
        at: Floats = np.interp((self.points - c) / a, self.knots, self.cumulated, left=0.0, right=1.0)
        return 1 - at if a < 0 else at

    def distance(self, expected: Floats) -> float:
        return float(np.abs(self.observed - expected).max())

    def level(self, level: float) -> float:
        """A quantile of the present values."""
        return float(np.interp(level, self.observed, self.points))

    def trained(self, level: float) -> float:
        return float(np.interp(level, self.cumulated, self.knots))


def _steps(values: Floats) -> Floats:
    """The middles of the steps of their distribution function."""
    steps: Floats = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    return steps


def signature(bins: Bins, before: Counts, now: Counts, outside: Sequence[float]) -> Signature | None:
    """The one explanation that clearly fits; None if none does. `outside`: some of the values outside the training
    range, of the rows counted in `now`."""
    if not bins.edges or bins.edges[-1] <= bins.low:
        return None
    sample = _Sample(bins, before, now, outside)
    if sample.n < 2 or not sample.known:
        return None
    return _unit(sample) or _flip(sample) or _moved(sample)


def _unit(sample: _Sample) -> Signature | None:
    """A power of ten, of all values or of a share."""
    unchanged = sample.mapped(1.0)
    found: list[tuple[float, int, float, float]] = []
    for power in POWERS:
        mapped = sample.mapped(10.0**power)
        difference = mapped - unchanged
        share = _share_of(difference, sample.observed - unchanged)
        expected = unchanged + share * difference
        share = 1.0 if share > MOST_OF else share  # a few rows of before the onset may be among them
        found.append((sample.distance(expected), power, share, float(np.abs(difference).max())))
    found.sort()
    (best, power, share, apart), (second, *_) = found[:2]
    if best > sample.slack or second < best + CLEARLY:
        return None
    if sample.distance(unchanged) - best < max(0.05, sample.slack if sample.n >= FEWEST_TO_FLIP else 0.3):
        return None
    if share < 1.0 and (apart < 0.7 or sample.n * share < 5 or _simple(sample) <= sample.slack):
        return None
    if share == 1.0 and not _beyond_a_shift(sample, power, best):
        return None
    return Signature("unit", 10.0**power, share)


def _share_of(difference: Floats, observed: Floats) -> float:
    """The share of a mixture, by least squares."""
    size = float(difference @ difference)
    return min(max(float(difference @ observed) / size, 0.0), 1.0) if size else 0.0


def _beyond_a_shift(sample: _Sample, power: int, best: float) -> bool:
    """Whether no constant added to the training values could give these."""
    values, trained = sample.values, sample.most - sample.least
    if power > 0 and len(values) > 1 and values[-1] - values[0] > trained:
        return True
    middle = sample.trained(0.75) - sample.trained(0.25)
    if power < 0 and sample.outside > MOST_OF and len(values) >= 3 and 0 < values[-1] - values[0] < 0.1 * middle:
        return True
    return sample.n >= 2 * FEWEST_TO_FLIP and _shifted(sample) > best + CLEARLY


def _shifted(sample: _Sample) -> float:
    return sample.distance(sample.mapped(1.0, sample.level(0.5) - sample.trained(0.5)))


def _factor(sample: _Sample) -> float | None:
    old, new = sample.trained(0.5), sample.level(0.5)
    return new / old if old and new / old > 0 else None


def _simple(sample: _Sample) -> float:
    """How well the better of a shift and a factor fits."""
    factor = _factor(sample)
    scaled = sample.distance(sample.mapped(factor)) if factor else 1.0
    return min(scaled, _shifted(sample))


def _flip(sample: _Sample) -> Signature | None:
    flipped, unchanged = sample.distance(sample.mapped(-1.0)), sample.distance(sample.mapped(1.0))
    fits = sample.n >= FEWEST_TO_FLIP and flipped <= sample.slack and unchanged - flipped > 2 * CLEARLY
    return Signature("flip", -1.0) if fits else None


def _moved(sample: _Sample) -> Signature | None:
    """A constant added, or a factor that is no change of unit; where both or neither fit, nothing."""
    if sample.n < FEWEST_TO_SHIFT:
        return None
    unchanged = sample.distance(sample.mapped(1.0))
    shift, factor = sample.level(0.5) - sample.trained(0.5), _factor(sample)
    shifted = _shifted(sample)
    scaled = sample.distance(sample.mapped(factor)) if factor else 1.0
    better = max(CLEARLY, sample.slack)
    if shifted <= sample.slack < scaled and unchanged - shifted > better:
        return Signature("shift", shift)
    if factor and scaled <= sample.slack < shifted and unchanged - scaled > better:
        return Signature("factor", factor)
    return None
