"""Where the edges of a numeric column's bins go. Pure.

Bins of equal mass, finer in the tails, with every frequent value (an atom) in a bin of its own. Masses need not come
out equal, since they are counted afterwards; the edges only decide how sharp the detectors see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import MAX_BINS

Floats = npt.NDArray[np.float64]

EQUAL_BINS: Final = 64
TAILS: Final = (1 / 128, 1 / 256, 1 / 512, 1 / 1024)
"""Levels at which the outermost of the equal bins is split again, at both ends."""
ROWS_PER_BIN: Final = 8
"""A bin should hold at least so many reference rows, or its probability would be anyone's guess."""


def levels(n: int) -> Floats:
    """The quantile levels at which `n` rows are cut, ascending, without 0 and 1.

    >>> len(levels(50_000)) + 1, len(levels(1_000)) + 1, len(levels(100)) + 1, len(levels(5)) + 1
    (72, 64, 12, 1)
    """
    bins = min(max(n // ROWS_PER_BIN, 1), EQUAL_BINS)
    low = [tail for tail in TAILS if tail < 1 / bins and n * tail >= ROWS_PER_BIN]
    return np.array(sorted(low + [i / bins for i in range(1, bins)] + [1 - tail for tail in low]))


def edges_of(values: Floats) -> list[float]:
    """The inclusive upper edges for the *sorted, finite* `values`; none of them, none.

    The last is the maximum; no bin is empty; at most `MAX_BINS`.

    >>> edges_of(np.array([0.0] * 90 + [1.0] * 10))
    [0.0, 1.0]
    """
    if not len(values):
        return []
    atoms = _atoms(values)
    below = np.nextafter(atoms[atoms > values[0]], -np.inf)
    edges = np.unique(np.concatenate((_at_levels(values, levels(len(values))), atoms, below)))
    return _merge_small(edges[np.array(counts_of(values, edges)) > 0], values, atoms)


def aligned_edges(strata: Sequence[Floats]) -> list[list[float]]:
    """Edges for the sorted values of every stratum: the same number in each, at the same quantile levels.

    So a code means the same rank in every stratum. A column of few distinct values takes the same edges everywhere
    instead; a stratum of few values (a sensor that is mostly off at night) those of all values. Where levels share a
    value, edges stand one float apart and the bins between hold nothing.
    """
    everything = np.sort(np.concatenate(strata))
    if len(np.unique(everything)) <= EQUAL_BINS:
        return [edges_of(everything)] * len(strata)
    enough = max(map(len, strata)) / 4
    cuts = levels(min(len(values) for values in strata if len(values) >= enough))
    return [_spread(_at_levels(values if len(values) >= enough else everything, cuts)).tolist() for values in strata]


def _at_levels(values: Floats, cuts: Floats) -> Floats:
    """The values at the levels `cuts`, and the maximum."""
    at = np.ceil(cuts * len(values) - 1e-6).astype(np.int64) - 1
    chosen: Floats = values[np.append(np.maximum(at, 0), len(values) - 1)]
    return chosen


def _atoms(values: Floats) -> Floats:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts >= max(len(values) / EQUAL_BINS, ROWS_PER_BIN)]


def counts_of(values: Floats, edges: Floats | list[float]) -> list[int]:
    """How many sorted `values` lie in each bin."""
    counts: list[int] = np.diff(np.searchsorted(values, edges, side="right"), prepend=0).tolist()
    return counts


def _merge_small(edges: Floats, values: Floats, atoms: Floats) -> list[float]:
    """Merge what holds too few rows into its smaller neighbour, atoms excepted; then down to `MAX_BINS`."""
    counts = counts_of(values, edges)
    bounds: list[float] = edges.tolist()
    atom = np.isin(edges, atoms).tolist()
    while True:
        joints = [(counts[i] + counts[i + 1], i) for i in range(len(bounds) - 1) if not (atom[i] or atom[i + 1])]
        small = [joint for joint in joints if min(counts[joint[1]], counts[joint[1] + 1]) < ROWS_PER_BIN]
        if not small and len(bounds) <= MAX_BINS:
            return bounds
        if not joints:
            joints = [(counts[i] + counts[i + 1], i) for i in range(len(bounds) - 1)]
        total, i = min(small or joints)
        counts[i : i + 2] = [total]
        atom[i : i + 2] = [False]
        del bounds[i]


def _spread(edges: Floats) -> Floats:
    """Strictly ascending edges: equal ones move down, one float apart, so that the last keeps its value."""
    spread = edges.copy()
    for i in range(len(spread) - 2, -1, -1):
        if spread[i] >= spread[i + 1]:
            spread[i] = np.nextafter(spread[i + 1], -np.inf)
    return spread
