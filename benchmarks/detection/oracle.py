"""The oracle: a CUSUM that knows the densities before and after, at a given mean time between false alarms.

Its threshold h is computed without waiting for a single false alarm. A CUSUM is a chain of sequential tests that start
at 0 and end at ≤ 0 or ≥ h; so, with T the length of one such test and P the chance that it ends at h,

    mean time between false alarms = E₀[T] / P₀,    P₀ = E₁[exp(−S_T); S_T ≥ h]    (Wald's change of measure)

(D. Siegmund, "Sequential Analysis", 1985, chapter 2), both simulated: the lengths under the density before, the rare
ends under the one after.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Final

import numpy as np

from benchmarks.detection.values import CHANGES, MARGINALS, Floats, rng_of
from stream_monitor.compiled import njit

STEPS: Final = 2_000_000


@cache
def threshold(key: str, between_rows: float) -> float:
    """h of the change `key` for a mean of `between_rows` rows between false alarms."""
    return threshold_of(*_steps(key), between_rows)


def threshold_of(before: Floats, after: Floats, between_rows: float) -> float:
    """h for that mean time, from steps of the log-likelihood ratio before and after."""
    low, high = 0.0, 40.0
    for _ in range(24):
        middle = (low + high) / 2
        if mean_time(before, after, middle) < between_rows:
            low = middle
        else:
            high = middle
    return high


def mean_time(before: Floats, after: Floats, h: float) -> float:
    """Mean time between false alarms at threshold h, from steps of the log-likelihood ratio before and after."""
    cycles, _ = _tests(before, h)
    reached, weight = _tests(after, h)
    return len(before) / cycles / max(weight / reached, 1e-300)


@lru_cache(maxsize=1)  # 32 MB
def _steps(key: str) -> tuple[Floats, Floats]:
    change = next(change for change in CHANGES if change.key == key)
    assert change.ratio is not None
    values = MARGINALS[change.marginal].draw(rng_of("oracle", key, 0), STEPS)
    changed = MARGINALS[change.marginal].draw(rng_of("oracle", key, 1), STEPS)
    change.apply(rng_of("oracle", key, 2), changed, 0)
    return change.ratio(values), change.ratio(changed)


@njit
def _tests(steps: Any, h: float) -> tuple[int, float]:
    """How many sequential tests the steps make up, and Σ exp(−S) of those that ended at h."""
    s = weight = 0.0
    count = 1
    for i in range(len(steps)):
        s += steps[i]
        if s >= h:
            weight += np.exp(-s)
        if s <= 0.0 or s >= h:
            s = 0.0
            count += 1
    return count, weight


@njit
def first_alarm(steps: Any, h: float, row: int) -> int:
    """The first row ≥ `row` at which the CUSUM reaches h (it starts afresh after alarms before), −1 if none."""
    s = 0.0
    for i in range(len(steps)):
        s = max(0.0, s + steps[i])
        if s >= h:
            if i >= row:
                return i
            s = 0.0
    return -1
