"""Is the mean of a bounded loss above a limit? A sequential test that may be looked at after every outcome. Pure.

A bet against "the mean loss is at most m": with stakes λ_k > 0 each outcome multiplies by 1 + λ_k (loss − m), whose
mean is at most 1 as long as the limit is kept, whatever the distribution of the losses in 0 … 1 (I. Waudby-Smith,
A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024). The Shiryaev–Roberts sums make
an e-detector, as in `detectors/evidence.py`: R_k ← (R_k + 1)(1 + λ_k (loss − m)), and `mean R_k ≥ 1/α` fires at most
once in 1/α outcomes in the mean. So it may run for ever, without correction for looking often.

The same bet with the signs turned proves a return: that the mean is below the limit again.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.compiled import njit

Floats = npt.NDArray[np.float64]

STAKES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Excesses of the mean loss that are bet on, in standard deviations of a 0/1 loss at the limit."""
LARGEST: Final = 1e100


def stakes(limit: float) -> tuple[Floats, Floats]:
    """λ of the bet on more loss than the limit, and of the bet on less; `limit` in 0 … 1, both ends excluded.

    >>> worse, better = stakes(0.1)
    >>> bool((worse <= 1 / 0.1).all() and (better <= 1 / 0.9).all())
    True
    """
    spread = math.sqrt(limit * (1 - limit))
    wanted = np.array(STAKES) / spread
    return np.minimum(wanted, 0.9 / limit), np.minimum(wanted, 0.9 / (1 - limit))


class Bet:
    """One limit on one mean loss. `worse`, `better`: the sums `[stakes]`; `cusum`, `since`: the same
    products as a CUSUM, and outcomes since each began: about when the limit was broken."""

    def __init__(self, limit: float, alpha: float, return_odds: float) -> None:
        self.limit = min(max(limit, 1e-6), 1 - 1e-6)
        self.threshold = 1 / alpha
        self._return_odds = return_odds
        self._stakes = stakes(self.limit)
        self.worse = np.zeros(len(STAKES))
        self.better = np.zeros(len(STAKES))
        self.cusum = np.ones(len(STAKES))
        self.since = np.zeros(len(STAKES), dtype=np.int64)

    def watch(self, losses: Floats, about: Floats) -> int:
        """Feed outcomes, `about` 1 where the loss is one, up to the first that fires; its place, −1 if none does."""
        return int(_bet(losses, about, self.limit, self._stakes[0], self.worse, self.cusum, self.since, self.threshold))

    def follow(self, losses: Floats, about: Floats) -> bool:
        """Feed outcomes while an alert is open; whether a return has been proved."""
        cusum, ages = np.ones(len(STAKES)), np.zeros(len(STAKES), dtype=np.int64)
        _bet(1 - losses, about, 1 - self.limit, self._stakes[1], self.better, cusum, ages, math.inf)
        return float(self.better.mean()) >= self._return_odds

    @property
    def evidence(self) -> float:
        """The natural logarithm of the statistic."""
        return math.log(max(float(self.worse.mean()), 1e-300))

    @property
    def age(self) -> int:
        """Outcomes since about when the limit has been broken."""
        return int(self.since[int(self.worse.argmax())])

    def clear(self) -> None:
        self.worse[:], self.better[:], self.cusum[:], self.since[:] = 0.0, 0.0, 1.0, 0


@njit
def _bet(
    losses: Any, about: Any, limit: float, stake: Any, sums: Any, cusum: Any, since: Any, threshold: float
) -> int:  # fmt: skip
    for i in range(len(losses)):
        if about[i] > 0:
            for k in range(len(sums)):
                factor = 1.0 + stake[k] * (losses[i] - limit)
                sums[k] = min((sums[k] + 1.0) * factor, LARGEST)
                cusum[k] = min(max(cusum[k] * factor, 1.0), LARGEST)
        for k in range(len(sums)):
            since[k] = since[k] + 1 if cusum[k] > 1.0 else 0
        if sums.mean() >= threshold:
            return i
    return -1
