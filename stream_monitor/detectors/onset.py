"""When did it begin? The likelihood of every row as the onset, from the codes that are still remembered. Pure.

If rows follow q from row j on and the reference p before it, their log-likelihood is S_j = Σ_{i ≥ j} log q(x_i)/p(x_i)
and a constant. The likeliest onset maximises S. The true onset is less than c below that maximum but for a chance of
exp(−c) on either side: both walks away from it have a mean factor of 1 (Wald's bound), so that the interval of all
rows that near covers the truth however lopsided the data, as a category at 1 % that is seen every hundred rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SPEAKING: Final = 5.0
"""Log-likelihood from which on a profile says more about the onset than the detector that fired."""


def rows_earlier(steps: Floats, slack: float, gain: float) -> int:
    """How many rows before the likeliest onset the earliest plausible one lies.

    `steps`: `[rows]` log q/p of the remembered rows before the likeliest onset, in order. Where they end before the
    likelihood is `slack` lower, the rest is taken to fall by `gain` a row.
    """
    fall = np.cumsum(steps[::-1])
    plausible = np.flatnonzero(fall >= -slack)
    rows = int(plausible[-1]) + 1 if len(plausible) else 0
    if rows < len(steps):
        return rows
    left = slack + (float(fall[-1]) if len(fall) else 0.0)
    return rows + int(left / max(gain, 1e-6))


def likeliest(steps: Floats, log_weights: Floats) -> tuple[int, int, float]:
    """The alternative and the row from which on it explains the rows best, and its log-likelihood.

    `steps`: `[rows, alternatives]` log q/p of the remembered rows, in order. `log_weights`: `[alternatives]`.
    """
    likelihood = np.cumsum(steps[::-1], axis=0)[::-1]
    row, alternative = np.unravel_index(int(np.argmax(likelihood + log_weights)), steps.shape)
    return int(alternative), int(row), float(likelihood[row, alternative])
