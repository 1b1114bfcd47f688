"""What a likelihood ratio is worth when the reference is a finite sample, and what overshoot gives back. Pure.

**Doubt.** The reference's probabilities are shares m/n of n rows, not the truth. Given those counts the truth is
Dirichlet distributed, and evidence that takes N rows to reach the threshold, k = N·q of them in a bin, is in the mean
over that truth larger than its nominal value by Π Γ(m + k)/(Γ(m) mᵏ) over the bins: for a well-filled one, and k a
Poisson variable, exp(k²/2m); for a code that was never seen, k!. Every ratio is divided by its share of that,
which costs log(1/α)/n a row where all bins are well filled. So the mean time between false alarms is at least 1/α in
the mean over references, of whatever size and at whatever budget; weak alternatives that a small reference cannot
support die of it. A stratum takes its share of the rows, and τ dependent rows count as one.

**Overshoot.** Evidence passes the threshold by a jump, so that one alternative k raises not α but ν_k·α false alarms,
ν_k = E exp(−overshoot) < 1 (Pollak, Ann. Statist. 15 (1987), theorem 1). Its weight may be 1/ν_k larger.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_INFORMATION: Final = 0.003
"""Alternatives nearer to the reference than 0.08 standard deviations are not tested."""
MOST_ROWS: Final = 0.6
"""An alternative that needs more rows than this share of the reference's is not tested: doubt would leave less than
half of its growth, and its estimate is good for small doubts only."""
OVERSHOOT: Final = 0.583
"""−ζ(½)/√(2π): mean overshoot of a Gaussian random walk, in standard deviations of a step (Siegmund 1985, ch. 10)."""


def doubted(ratios: Floats, p: Floats, rows: Floats, share: Floats, doubt: float, log_threshold: float) -> Floats:
    """Logarithms of `ratios`, less the doubt; 0 throughout for an alternative that is not tested.

    `ratios`: `[pairs, codes, alternatives]` q/p. `p`: `[pairs, codes]`. `rows`: `[pairs]` independent reference rows.
    `share`: `[pairs]` the part of all rows that is in this stratum.
    """
    logs: Floats = np.log(ratios)
    q = p[:, :, None] * ratios
    information = (q * logs).sum(axis=1)
    tested = information > LEAST_INFORMATION
    m = np.maximum(p * rows[:, None], 1.0)[:, :, None]
    needed = log_threshold * share[:, None]
    n_rows = needed / np.where(tested, information, 1.0)
    cost = doubt * (_rise(m, n_rows[:, None, :] * q) - _rise(rows[:, None], n_rows)[:, None, :])
    tested &= told_apart(information, rows / share, log_threshold)
    tested &= information > (q * cost).sum(axis=1)
    return np.where(tested[:, None, :], logs - cost, 0.0)


def told_apart(information: Floats, rows: Floats, log_threshold: float) -> npt.NDArray[np.bool_]:
    """Whether `rows` `[pairs]` of reference can tell from it alternatives of so much `[pairs, alternatives]` a row."""
    apart: npt.NDArray[np.bool_] = log_threshold <= MOST_ROWS * rows[:, None] * information
    return apart


def _rise(m: Floats, k: Floats) -> Floats:
    """log(Γ(m' + k)/(Γ(m') mᵏ))/k, the mean cost of each of k hits in a bin that the reference saw m ≥ 1 times.

    m' is m for a rare code, where the evidence takes exactly k hits, and m + ½ for a common one, where hits are
    Poisson.
    """
    k = np.maximum(k, 1e-3)
    low = m + m * m / (2 * m * m + 10)
    top = low + k
    rise = ((top - 0.5) * np.log(top / low) + (1 / top - 1 / low) / 12) / k - 1 + np.log(low / m)
    positive: Floats = np.maximum(rise, 0.0)
    return positive


def overshoot(logs: Floats, q: Floats) -> Floats:
    """−log ν of every alternative, `[pairs, alternatives]`, from the moments of a step under the alternative itself.

    To second order in the step size (Siegmund 1985, 10.37): 0.583 σ + κ₃/(6 σ²), at least 0: a walk that climbs in many
    small steps and falls in a few large ones does not overshoot.
    """
    total = np.maximum(q.sum(axis=1), 1e-300)
    mean = (q * logs).sum(axis=1) / total
    off = logs - mean[:, None, :]
    square = q * off * off
    variance = np.maximum(square.sum(axis=1) / total, 1e-300)
    skewed = (square * off).sum(axis=1) / total
    rho: Floats = np.clip(OVERSHOOT * np.sqrt(variance) + skewed / (6 * variance), 0.0, 2.0)
    return np.where(variance > 1e-12, rho, 0.0)
