"""The screen over pairs of columns (`pairs.py`): sums of scores and of their products over blocks of rows, exact on
every machine, kept by block and by window; compiled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream_monitor.compiled import njit

BLOCK: Final = 100
WINDOWS: Final = (2, 4, 9)
"""In blocks; the longest is what a trail holds for certain after a restart."""
KEPT: Final = WINDOWS[-1]
SCALE: Final = 16
"""Scores are rounded to sixteenths of a standard deviation."""
LEAST_VARIANCE: Final = 0.001 * SCALE**2
"""Of a window's scores, for a correlation."""


@njit
def move_on(
    ring: Any, begin: int, stop: int, places: Any, levels: Any, table: Any, products: Any, sums: Any, all_products: Any,
    all_sums: Any, expected: Any, bounds: Any, weights: Any, among: Any, either: Any, squares: Any, standing: Any,
    found: Any, total: Any,
) -> None:  # fmt: skip
    """Move all windows on by blocks; then, by window, the pairs that stand out, all squares, and the sum of those of
    steady pairs of inputs."""
    for block in range(begin, stop):
        _move(ring, block, places, levels, table, products, sums, all_products, all_sums)
    count = len(places)
    mean, size = np.empty(count), np.empty(count)
    for w, blocks in enumerate(WINDOWS):
        each = 1.0 / (blocks * BLOCK)
        for i in range(count):
            mean[i] = all_sums[w, i] * each
            variance = all_products[w, i * (i + 3) // 2] * each - mean[i] ** 2
            size[i] = 1 / np.sqrt(variance) if variance > LEAST_VARIANCE else 0.0
        pair = out = 0
        summed = 0.0
        for i in range(count):
            for j in range(i + 1, count):
                r = (all_products[w, j * (j + 1) // 2 + i] * each - mean[i] * mean[j]) * size[i] * size[j]
                away = r - expected[pair] if size[i] * size[j] > 0 else 0.0
                square = weights[w, pair] * away * away
                squares[w, pair] = square
                if among[pair] and not either[pair]:
                    summed += square
                if away < bounds[0, w, pair] or away > bounds[1, w, pair]:
                    standing[w, out] = pair
                    out += 1
                pair += 1
        found[w], total[w] = out, summed


@njit
def _move(
    ring: Any, block: int, places: Any, levels: Any, table: Any, products: Any, sums: Any, all_products: Any,
    all_sums: Any,
) -> None:  # fmt: skip
    """One block into all windows, and the oldest of each out. Sums of products are the lower triangle, row by row."""
    count, slot = len(places), block % KEPT
    for w, blocks in enumerate(WINDOWS):
        old = (block - blocks) % KEPT
        for i in range(count):
            all_sums[w, i] -= sums[old, i]
        for k in range(products.shape[1]):
            all_products[w, k] -= products[old, k]
    products[slot] = 0
    sums[slot] = 0
    own = np.empty(count, dtype=np.float32)
    for row in range(block * BLOCK, (block + 1) * BLOCK):
        at = row % len(ring)
        for i in range(count):
            code = ring[at, places[i]]
            level = levels[i, code] if code < levels.shape[1] else -1  # `level_of`, without a view of the row
            own[i] = table[i, level] if level >= 0 else np.float32(0.0)
        for i in range(count):
            value, first = own[i], i * (i + 1) // 2
            line = products[slot, first : first + i + 1]
            sums[slot, i] += value
            for j in range(i + 1):
                line[j] += value * own[j]
    for w in range(len(WINDOWS)):
        for i in range(count):
            all_sums[w, i] += sums[slot, i]
        for k in range(products.shape[1]):
            all_products[w, k] += products[slot, k]
