"""The judgement of one pair of columns on its rows (`pairs.py`), and the onset of its change; compiled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream_monitor.association import margins, mean_log, moment, rate, scores, selected, smoothed, transformed
from stream_monitor.compiled import njit
from stream_monitor.detectors.pair_sums import BLOCK, KEPT
from stream_monitor.reference import LEVELS

FEWEST: Final = 100
"""Rows of a pair that have a place in both orders, for a judgement."""


@njit
def level_of(levels: Any, code: int) -> int:
    """A code's level; −1 for one that is not of the reference, too."""
    found: int = levels[code] if code < len(levels) else -1
    return found


@njit
def counts_of_rows(ring: Any, first: int, stop: int, a: int, b: int, of_a: Any, of_b: Any) -> Any:
    table = np.zeros((LEVELS, LEVELS))
    for row in range(first, stop):
        x, y = level_of(of_a, ring[row % len(ring), a]), level_of(of_b, ring[row % len(ring), b])
        if x >= 0 and y >= 0:
            table[x, y] += 1
    return table


@njit
def within_blocks(
    ring: Any, first: int, stop: int, a: int, b: int, of_a: Any, of_b: Any, s: Any, t: Any, sign: float
) -> float:  # fmt: skip
    """The correlation of scores within the blocks of a window, without the block that speaks most for `sign`."""
    sums = np.zeros((KEPT + 2, 3))
    blocks = 0
    begin = first
    while begin < stop:
        end = min((begin // BLOCK + 1) * BLOCK, stop)
        n = x = y = xx = yy = xy = 0.0
        for row in range(begin, end):
            p, q = level_of(of_a, ring[row % len(ring), a]), level_of(of_b, ring[row % len(ring), b])
            if p >= 0 and q >= 0:
                n += 1
                x += s[p]
                y += t[q]
                xx += s[p] ** 2
                yy += t[q] ** 2
                xy += s[p] * t[q]
        if n > 0:
            sums[blocks, 0], sums[blocks, 1], sums[blocks, 2] = xx - x * x / n, yy - y * y / n, xy - x * y / n
            blocks += 1
        begin = end
    total = sums.sum(axis=0)
    worst = np.inf
    for each in range(blocks if blocks > 1 else 0):
        xx, yy, xy = total[0] - sums[each, 0], total[1] - sums[each, 1], total[2] - sums[each, 2]
        r = xy / np.sqrt(xx * yy) if xx > 1e-9 and yy > 1e-9 else -sign
        worst = min(worst, r * sign)
    return worst * sign if blocks > 1 else 0.0


@njit
def explained(counts: Any, trained: Any) -> tuple[Any, Any, float, float]:
    """The two tables with the window's margins that the reference explains, and their correlations."""
    n = counts.sum()
    sums = margins(counts) / n
    s, t = scores(sums[0]), scores(sums[1])
    shares = smoothed(trained)
    odds, copula = selected(shares, sums[0], sums[1]), transformed(shares, sums[0], sums[1])
    return odds, copula, moment(odds, s, t), moment(copula, s, t)


@njit
def judge(
    ring: Any, first: int, stop: int, a: int, b: int, of_a: Any, of_b: Any, trained: Any, result: Any
) -> int:  # fmt: skip
    """Fills now, low, high, excess, Λ, θ; returns the rows that had a place in both orders."""
    counts = counts_of_rows(ring, first, stop, a, b, of_a, of_b)
    n = int(counts.sum())
    if n < FEWEST:
        return n
    sums = margins(counts)
    s, t = scores(sums[0]), scores(sums[1])
    if np.abs(s).max() == 0 or np.abs(t).max() == 0:
        return 0
    now = moment(counts, s, t)
    odds, copula, of_odds, of_copula = explained(counts, trained)
    low, high = min(of_odds, of_copula), max(of_odds, of_copula)
    result[0], result[1], result[2] = now, low, high
    if low <= now <= high:
        return n
    sign, edge = (1.0, high) if now > high else (-1.0, low)
    inner = within_blocks(ring, first, stop, a, b, of_a, of_b, s, t, sign)
    excess = min(abs(now - edge), max((inner - edge) * sign, 0.0)) * sign
    result[3] = excess
    if excess != 0:
        table = odds if edge == of_odds else copula
        result[4], result[5] = rate(table, s, t, edge + excess)
    return n


@njit
def steps_of(
    ring: Any, changed: int, first: int, stop: int, a: int, b: int, of_a: Any, of_b: Any, trained: Any, excess: float
) -> Any:  # fmt: skip
    """Log-likelihood ratios of the rows `first …`, of the change found in the rows `changed …` against none."""
    counts = counts_of_rows(ring, changed, stop, a, b, of_a, of_b)
    sums = margins(counts)
    s, t = scores(sums[0]), scores(sums[1])
    odds, copula, of_odds, of_copula = explained(counts, trained)
    upper = of_odds > of_copula
    table = odds if upper == (excess > 0) else copula
    edge = max(of_odds, of_copula) if excess > 0 else min(of_odds, of_copula)
    _, theta = rate(table, s, t, edge + excess)
    normal = mean_log(table, s, t, theta)
    steps = np.zeros(stop - first)
    for row in range(first, stop):
        p, q = level_of(of_a, ring[row % len(ring), a]), level_of(of_b, ring[row % len(ring), b])
        if p >= 0 and q >= 0:
            steps[row - first] = theta * s[p] * t[q] - normal
    return steps
