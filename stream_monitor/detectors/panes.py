"""Counts by code of the panes of a window, as a ring holds them: most of a pane's counts are small."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream_monitor.compiled import njit

LARGE: Final = 15
"""A count of the ring that does not fit four bits says so with this."""


def row_bytes(width: int, pane_rows: int) -> int:
    """Of the counts by code of one pane and column: half a byte each, and a byte for each that can be large."""
    return min((width + 1) // 2 + pane_rows // LARGE, width)


@njit
def pack(counts: Any, row: Any) -> None:
    """The first half of the codes in the lower, the others in the upper half of bytes; then the counts that are
    `LARGE` or more, in the order of their codes. Plain bytes where that would not be shorter."""
    width = len(counts)
    if len(row) == width:
        for code in range(width):
            row[code] = counts[code]
        return
    half, large = (width + 1) // 2, False
    for code in range(width):
        large |= counts[code] >= LARGE
    for code in range(half):
        row[code] = min(counts[code], np.uint8(LARGE))
    for code in range(width - half):
        row[code] |= min(counts[half + code], np.uint8(LARGE)) << np.uint8(4)
    if large:
        place = half
        for code in range(width):
            if counts[code] >= LARGE and place < len(row):  # there is room for all that a pane's rows can make large
                row[place] = counts[code]
                place += 1


@njit
def unpack(row: Any, counts: Any) -> None:
    """What `pack` was given."""
    width = len(counts)
    if len(row) == width:
        for code in range(width):
            counts[code] = row[code]
        return
    half, large = (width + 1) // 2, False
    for code in range(half):
        counts[code] = row[code] & np.uint8(LARGE)
    for code in range(width - half):
        counts[half + code] = row[code] >> np.uint8(4)
    for code in range(width):
        large |= counts[code] == LARGE
    if large:
        place = half
        for code in range(width):
            if counts[code] == LARGE and place < len(row):
                counts[code] = row[place]
                place += 1


@njit
def pack_all(counts: Any, rows: Any) -> None:
    for i in range(len(rows)):
        pack(counts[i], rows[i])


@njit
def unpack_all(rows: Any, counts: Any) -> None:
    for i in range(len(rows)):
        unpack(rows[i], counts[i])


@njit
def move_on(opened: Any, oldest: Any, sums: Any) -> None:
    """Put the open pane in the place of the oldest, and bring the window's counts up to date."""
    columns, width = sums.shape
    leaving = np.empty(width, dtype=np.uint8)
    for column in range(columns):
        unpack(oldest[column], leaving)
        pack(opened[column], oldest[column])
        for code in range(width):
            sums[column, code] += np.int64(opened[column, code]) - np.int64(leaving[code])
            opened[column, code] = 0
