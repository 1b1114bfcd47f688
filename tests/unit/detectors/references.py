"""References straight from arrays, for the detectors' tests and benchmarks; the product's own fitting is `fit.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW
from stream_monitor.reference import Bins, Column, Kind, Reference, Role, Season, Source

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
Values = Mapping[str, npt.NDArray[Any]]

TAIL = (1 / 1024, 1 / 512, 1 / 256, 1 / 128, 1 / 96)
LEVELS = np.unique(np.r_[TAIL, np.arange(1, 62) / 62, 1 - np.array(TAIL)])


def autocorrelation_time(codes: Codes, longest: int = 2_000) -> float:
    """Integrated autocorrelation time of the codes as numbers (Sokal's window), at least 1; by FFT."""
    x = codes.astype(np.float64) - codes.mean()
    size = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x, size)) ** 2
    rho = np.fft.irfft(spectrum)[: min(longest, len(x) // 4)]
    if rho[0] <= 0:
        return 1.0
    time = 2 * np.cumsum(rho / rho[0]) - 1
    window = int(np.argmax(np.arange(len(time)) >= 5 * time)) or len(time) - 1
    best = float(time[window])
    return best if best > 1 + 4 * np.sqrt(window / len(x)) else 1.0


def numeric_bins(values: Floats, edges: Floats | None = None) -> Bins:
    """62 bins of equal mass and 5 finer ones in each tail; atoms keep a bin of their own."""
    finite = values[np.isfinite(values)]
    if edges is None:
        count = len(finite)
        levels = LEVELS if count >= 10_000 else LEVELS[np.minimum(LEVELS, 1 - LEVELS) * count >= 10]
        edges = np.unique(np.r_[np.quantile(finite, levels, method="inverted_cdf"), finite.max()])
        unique, counts = np.unique(finite, return_counts=True)
        atoms = unique[counts > count / 62]
        below = np.searchsorted(unique, atoms) - 1
        edges = np.unique(np.r_[edges, atoms, unique[below[below >= 0]]])
    codes = encode_numeric(values, Bins(counts=[], edges=edges.tolist(), low=float(finite.min())))
    counts = np.bincount(codes, minlength=FIRST_BIN + len(edges))
    return Bins(counts=counts.tolist(), edges=edges.tolist(), low=float(finite.min()))


def encode_numeric(values: Floats, bins: Bins) -> Codes:
    """Codes of values; NaN is `missing`, ±inf `invalid`."""
    edges = np.asarray(bins.edges)
    codes = np.searchsorted(edges, values, side="left") + FIRST_BIN
    codes = np.where(values > edges[-1], ABOVE, np.where(values < bins.low, BELOW, codes))
    codes = np.where(np.isinf(values), INVALID, codes)
    return np.where(np.isnan(values), MISSING, codes).astype(np.uint8)


def encode_categories(values: npt.NDArray[np.int64], categories: int) -> Codes:
    """Codes of category numbers 0 … categories − 1; −1 is missing, anything else new."""
    codes = np.where(values < categories, values + FIRST_BIN, NEW)
    return np.where(values < 0, MISSING, codes).astype(np.uint8)


@dataclass(frozen=True)
class Made:
    """A reference with its encoder."""

    reference: Reference

    def encode(self, values: Values, strata: npt.NDArray[np.uint8] | None = None) -> Codes:
        """Codes `[rows, columns]` of raw values by column name."""
        parts = []
        for column in self.reference.columns:
            raw = values[column.name]
            if column.kind is Kind.CATEGORICAL:
                parts.append(encode_categories(raw.astype(np.int64), column.bins))
                continue
            each = [encode_numeric(raw.astype(np.float64), bins) for bins in column.strata]
            parts.append(each[0] if strata is None else np.choose(strata, each).astype(np.uint8))
        return np.ascontiguousarray(np.stack(parts, axis=1))


def make(
    values: Values,
    categorical: Sequence[str] = (),
    strata: npt.NDArray[np.uint8] | None = None,
    slots: Sequence[int] = (),
    dependent: bool = True,
) -> Made:
    """A reference of arrays by column name; `strata` is the stratum of every row, `slots` of every hour of the day."""
    rows = len(next(iter(values.values())))
    groups = np.zeros(rows, dtype=np.uint8) if strata is None else strata
    columns = []
    for name, raw in values.items():
        kind = Kind.CATEGORICAL if name in categorical else Kind.NUMERIC
        if kind is Kind.CATEGORICAL:
            size = int(raw.max()) + 1
            coded = encode_categories(raw.astype(np.int64), size)
            each = [
                Bins(counts=np.bincount(coded[groups == group], minlength=FIRST_BIN + size).tolist())
                for group in range(int(groups.max()) + 1)
            ]
        else:
            floats = raw.astype(np.float64)
            each = [numeric_bins(floats[groups == group]) for group in range(int(groups.max()) + 1)]
            most = max(len(bins.edges) for bins in each)
            assert all(len(bins.edges) == most for bins in each), "strata with different numbers of bins"
            coded = np.choose(groups, [encode_numeric(floats, bins) for bins in each]).astype(np.uint8)
        columns.append(
            Column(
                name=name,
                role=Role.INPUT,
                kind=kind,
                strata=each,
                categories=[str(i) for i in range(int(raw.max()) + 1)] if kind is Kind.CATEGORICAL else [],
                autocorrelation_time=autocorrelation_time(coded) if dependent else 1.0,
                repeat=float((coded[1:] == coded[:-1]).mean()),
            )
        )
    return Made(
        Reference(
            schema_version=1,
            model="m",
            version="1",
            segment="",
            columns=columns,
            source=Source(origin="files", rows=rows),
            season=Season.HOUR_OF_DAY if slots else Season.NONE,
            slots=list(slots),
        )
    )
