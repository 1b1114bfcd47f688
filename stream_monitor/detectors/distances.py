"""How far apart two distributions over the same codes are, in the numbers people know. Pure.

"JS" is the Jensen-Shannon *distance*, the root of the divergence in base 2, in 0 … 1. PSI and JS are biased upwards by
the window's size (and the reference's): their expectation without any drift is subtracted. To first order
n·JS²·8 ln 2 and n·PSI are both χ² with bins − 1 degrees of freedom, where 1/n = 1/n_window + 1/n_reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN

Floats = npt.NDArray[np.float64]

MERGED_BINS: Final = 16
"""Bins that PSI and JS are computed over, as people are used to."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Bias-corrected `js_distance` (root, base 2) and `psi`; `ks` and `wasserstein_rank` in 0 … 1; `n` rows seen."""

    js_distance: float
    psi: float
    ks: float
    wasserstein_rank: float
    n: int


def distances(
    counts: npt.NDArray[np.integer], p: Floats, order: npt.NDArray[np.int64], reference_rows: float, ordered: bool
) -> Distances:
    """Of a window's `counts` by code from the reference's `p` (positive, sum 1), `order` being the codes' rank order.

    PSI and JS see the ordinary bins joined into `MERGED_BINS`, and each special code by itself. For unordered columns
    KS and Wasserstein say nothing; they are 0 then.
    """
    n = int(counts.sum())
    if n == 0:
        return Distances(0.0, 0.0, 0.0, 0.0, 0)
    expected, seen = p[order], counts[order] / n
    gap = np.cumsum(seen) - np.cumsum(expected)
    groups = effect_groups(expected, order, ordered)
    few_p, few_q = sums(groups, expected), sums(groups, seen)
    rows = n * reference_rows / (n + reference_rows)
    # A group in which not even one row is expected adds its expectation instead of a whole degree of freedom.
    bias = max(float(np.minimum(few_p * rows, 1).sum()) - 1, 0) / rows
    return Distances(
        js_distance=max(js_divergence(few_p, few_q) - bias / (8 * log(2)), 0.0) ** 0.5,
        psi=max(psi(few_p, few_q, n) - bias, 0.0),
        ks=float(np.abs(gap).max()) if ordered else 0.0,
        wasserstein_rank=wasserstein_rank(expected, gap) if ordered else 0.0,
        n=n,
    )


def effect_groups(p: Floats, order: npt.NDArray[np.int64], ordered: bool) -> npt.NDArray[np.int64]:
    """Number of the group of every code: ordinary bins of ordered columns are joined, specials and categories not."""
    if not ordered:
        return np.arange(len(order))
    special = order < FIRST_BIN
    groups = np.empty(len(order), dtype=np.int64)
    groups[special] = np.arange(special.sum())
    if not special.all():
        share = p[~special] / p[~special].sum()
        groups[~special] = merged_groups(share, MERGED_BINS) + special.sum()
    return groups


def sums(groups: npt.NDArray[np.int64], values: Floats) -> Floats:
    """Sums of values by group."""
    total: Floats = np.bincount(groups, values).astype(np.float64)
    return total


def merged_groups(p: Floats, groups: int) -> npt.NDArray[np.int64]:
    """Number of the group of every bin: neighbours are joined into at most `groups` of about equal mass."""
    middle = np.cumsum(p) - p / 2
    number = np.minimum((middle * groups).astype(np.int64), groups - 1)
    _, dense = np.unique(number, return_inverse=True)
    return np.asarray(dense, dtype=np.int64)


def js_divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence in bits."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return float(parts.sum() / 2)


def psi(p: Floats, q: Floats, n: int) -> float:
    """Population stability index; an empty bin counts as half a row."""
    floor = 0.5 / n
    p, q = np.maximum(p, floor), np.maximum(q, floor)
    return float(((q - p) * np.log(q / p)).sum())


def wasserstein_rank(p: Floats, gap: Floats) -> float:
    """Wasserstein-1 distance of the ranks from uniform ranks: ∫|F(u) − u| du, u running over the reference.

    Within a bin of mass p the gap moves linearly from its value at the lower edge to that at the upper one.
    """
    low, high = np.concatenate([[0.0], gap[:-1]]), gap
    same = low * high >= 0
    total = np.abs(low) + np.abs(high)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(total > 0, (low**2 + high**2) / (2 * total), 0.0)
    return float((p * np.where(same, total / 2, crossing)).sum())
