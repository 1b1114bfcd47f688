"""A column's bins as an alert shows them: few, labelled in the column's own unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN, SPECIAL_CATEGORICAL, SPECIAL_NUMERIC
from stream_monitor.reference import Column, Kind
from stream_monitor.summary import number

MOST: Final = 16


@dataclass(frozen=True, slots=True)
class Display:
    """`group[code]` is the shown bin of a code; `labels` and `reference_share` have one entry a shown bin."""

    group: npt.NDArray[np.intp]
    labels: list[str]
    reference_counts: npt.NDArray[np.int64]
    reference_share: list[float]

    @classmethod
    def of(cls, column: Column) -> Display:
        """The four special codes first, then at most `MOST` bins of about equal reference mass, or categories."""
        counts = np.sum([bins.counts for bins in column.strata], axis=0).astype(np.int64)
        special = list(SPECIAL_NUMERIC if column.kind is Kind.NUMERIC else SPECIAL_CATEGORICAL)
        groups = _grouped(column, counts[FIRST_BIN:])
        names = _numeric_labels(column, groups) if column.kind is Kind.NUMERIC else _category_labels(column, groups)
        group = np.concatenate([np.arange(FIRST_BIN), np.asarray(groups, dtype=np.intp) + FIRST_BIN])
        shares = np.bincount(group, weights=counts, minlength=len(special) + len(names)) / max(counts.sum(), 1)
        return cls(group.astype(np.intp), special + names, counts, _rounded(shares))

    def share(self, counts: npt.NDArray[np.int64]) -> list[float]:
        """Counts by code → share of each shown bin."""
        shares = np.bincount(self.group, weights=counts, minlength=len(self.labels)) / max(int(counts.sum()), 1)
        return _rounded(shares)


def _grouped(column: Column, counts: npt.NDArray[np.int64]) -> list[int]:
    """The shown bin of each ordinary bin: neighbours of about equal mass together; categories by rank."""
    if column.kind is Kind.CATEGORICAL:
        return [min(i, MOST - 1) for i in range(len(counts))]
    total, groups, current, filled = max(int(counts.sum()), 1), [], 0, 0
    for count in counts:
        if filled and filled + count / 2 > total / MOST and current < MOST - 1:
            current, filled = current + 1, 0
        groups.append(current)
        filled += int(count)
    return groups


def _numeric_labels(column: Column, groups: list[int]) -> list[str]:
    size = max(groups) + 1 if groups else 0
    last = [max(i for i, g in enumerate(groups) if g == wanted) for wanted in range(size)]
    if len(column.strata) > 1:  # edges differ by stratum: only the rank is common to them
        return [f"rank ≤ {(i + 1) / len(groups):.2f}" for i in last]
    return [f"≤ {number(column.strata[0].edges[i])}" for i in last]


def _category_labels(column: Column, groups: list[int]) -> list[str]:
    if len(groups) <= MOST:
        return list(column.categories)
    return [*column.categories[: MOST - 1], f"{len(groups) - MOST + 1} further categories"]


def _rounded(shares: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(share), 6) for share in shares]
