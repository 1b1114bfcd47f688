"""From a reference to stacked arrays: probabilities and mid-ranks by column, stratum and code.

All detectors of a stream share one `Tables`; streams with equal references do, too.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING
from stream_monitor.reference import Column, Kind, Reference

RANK: Final = 2.0**-16
"""The unit of ranks. A block's mean is 0.04 off by chance alone (`blocks.BLOCK_SD`)."""
MAX_TIME: Final = 2_000.0
"""Longest autocorrelation time that is worked with; a slower feature hardly ever says anything new."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Tables:
    """What the detectors of one stream look up.

    `widths`: `[columns]` codes each column has. `p`, `rank`, `spread`: `[strata, columns, codes]`, probability,
    mid-rank u and mid-rank of |2u − 1| of every code, the ranks in units of `RANK`; 0 beyond the column's own.
    `n`: `[strata, columns]` rows. `time`: `[columns]` autocorrelation time in rows, rounded up in steps of 5 %.
    `ordered`: `[columns]` numeric ones.
    """

    widths: npt.NDArray[np.int64]
    p: npt.NDArray[np.float32]
    rank: npt.NDArray[np.uint16]
    spread: npt.NDArray[np.uint16]
    n: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    ordered: npt.NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Strata, columns, codes."""
        strata, columns, codes = self.p.shape
        return strata, columns, codes


_TABLES: weakref.WeakValueDictionary[str, Tables] = weakref.WeakValueDictionary()


def tables_of(reference: Reference) -> Tables:
    """The tables of a reference; one object for equal references."""
    digest = reference.digest()
    found = _TABLES.get(digest)
    if found is None:
        found = _build(reference)
        _TABLES[digest] = found
    return found


def _build(reference: Reference) -> Tables:
    columns = reference.columns
    widths = np.array([FIRST_BIN + column.bins for column in columns], dtype=np.int64)
    shape = (reference.strata, len(columns), int(widths.max()))
    p = np.zeros(shape, dtype=np.float32)
    rank, spread = np.zeros((2, *shape), dtype=np.uint16)
    n = np.zeros(shape[:2], dtype=np.int64)
    for width in np.unique(widths).tolist():  # all columns of a width at once: a call costs more than its numbers
        alike = np.flatnonzero(widths == width)
        counts = np.array([[bins.counts for bins in columns[i].strata] for i in alike.tolist()], dtype=np.float64)
        counts = counts.swapaxes(0, 1)
        share = probabilities(counts)
        n[:, alike] = counts.sum(axis=2).astype(np.int64)
        p[:, alike, :width] = share
        ranks = mid_ranks(share, code_order(width))
        rank[:, alike, :width] = _in_units(ranks)
        order = np.argsort(np.abs(2 * ranks.astype(np.float32) - 1), kind="stable")
        spread[:, alike, :width] = _in_units(mid_ranks(share, order))
    time = np.array([quantised_time(column.autocorrelation_time) for column in columns])
    ordered = np.array([column.kind is Kind.NUMERIC for column in columns])
    return Tables(widths, p, rank, spread, n, time, ordered)


def _in_units(ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(np.rint(ranks / RANK), 0, 1 / RANK - 1)


def probabilities(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares of counts along the last axis; a code never seen in n rows gets 1/(n + 1), as the next row's chance."""
    n = counts.sum(axis=-1, keepdims=True)
    filled = np.where(counts > 0, counts, n / (n + 1.0))
    shares: npt.NDArray[np.float64] = filled / filled.sum(axis=-1, keepdims=True)
    return shares


def rank_order(column: Column) -> npt.NDArray[np.int64]:
    """The codes of a column in ascending order; `missing` and `invalid` come first, as the lowest ranks."""
    return code_order(FIRST_BIN + column.bins)


def code_order(codes: int) -> npt.NDArray[np.int64]:
    """`rank_order` of a column with that many codes."""
    bins = np.arange(FIRST_BIN, codes)
    return np.concatenate([[MISSING, INVALID, BELOW], bins, [ABOVE]]).astype(np.int64)


def mid_ranks(p: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mid-ranks under p of every code, codes ranked in `order` (one for all rows of p, or one each).

    The mean is ½ and the variance at most 1/12, that of a uniform variable, whatever p.
    """
    order = np.broadcast_to(order, p.shape)
    sorted_p = np.take_along_axis(p, order, axis=-1)
    ranks = np.empty_like(p)
    np.put_along_axis(ranks, order, np.cumsum(sorted_p, axis=-1) - sorted_p / 2, axis=-1)
    return ranks


def quantised_time(time: float) -> float:
    """Rounded up to a power of 1.05, so that columns share tables; exactly 1 for what passes as independent."""
    if time < 1.02:
        return 1.0
    return float(1.05 ** np.ceil(np.log(min(time, MAX_TIME)) / np.log(1.05)))
