"""How many rows count as one: the integrated autocorrelation time of a column's codes. Pure.

A sum over n rows of a column with autocorrelation time τ varies like a sum over n/τ independent ones. A detector that
takes dependent rows for independent ones cries wolf: river's ADWIN 6,302 times in 10⁶ rows of AR(1) 0.9, and never in
independent ones (`benchmarks/detection.md`, A1 and A2).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN
from stream_monitor.reference import Kind

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

MAX_ROWS: Final = 131_072
"""Rows that are looked at; the relative error of τ is then about √(4τ / rows)."""
_LARGEST: Final = 1e5
_Z: Final = 4.0
_SPECIAL_SHARE: Final = 1e-3
_MOST_CATEGORIES: Final = 8


def autocorrelation_time(series: Floats) -> float:
    """The integrated autocorrelation time τ = 1 + 2 Σ ρ(k) of `series` `[rows]`, in rows; 1.0 if independent.

    τ(W) is estimated with windows of W = 1, 2, 4 … rows up to a sixteenth of the series. One that stands less than
    four standard errors above independence is taken for noise; so the answer for independent rows is exactly 1. Of the
    others that window is taken which is *surest* to hold the most (largest lower bound), and doubled, for what it cut
    off: unlike Sokal's rule W ≥ 5 τ(W) this also finds a slow component under much noise. Series that alternate
    (τ < 1) count as independent.

    Sokal 1997, "Monte Carlo Methods in Statistical Mechanics"; the bias and error terms are those of Wolff 2004,
    "Monte Carlo errors with less errors", arXiv hep-lat/0306017.

    >>> noise = np.random.default_rng(1).normal(size=20_000)
    >>> autocorrelation_time(noise)
    1.0
    >>> from scipy.signal import lfilter
    >>> 15 < autocorrelation_time(lfilter([1.0], [1.0, -0.9], noise)) < 23
    True
    """
    n = len(series)
    centred = series - series.mean() if n else series
    variance = float(centred @ centred) / n if n else 0.0
    if n < 64 or variance < 1e-12:
        return 1.0
    windows = 2 ** np.arange(int(np.log2(n / 16)) + 1)
    sums = np.cumsum(_autocovariances(centred, int(windows[-1]))[1:]) / variance
    times = (1 + 2 * sums[windows - 1]) * (1 + (2 * windows + 1) / n)
    # The null of a sum of products is skewed like the square of the series' own skewness: few ones among many zeros.
    skewness = float(centred @ (centred * centred) / n / variance**1.5) ** 2 / np.sqrt(n * windows)
    significant = sums[windows - 1] * np.sqrt(n / windows) > _Z + 3 * skewness
    sure = np.where(significant, times * (1 - 2 * np.sqrt(2 * (2 * windows + 1) / n)), -np.inf)
    best = int(np.argmax(sure))
    if sure[best] <= 1:
        return 1.0
    return float(np.clip(times[best : best + 2].max(), 1.0, _LARGEST))


def _autocovariances(centred: Floats, most: int) -> Floats:
    """At lags 0 … `most`, each over the pairs there are."""
    from scipy import fft  # takes a tenth of a worker's start, which may never need it

    n = len(centred)
    spectrum = fft.rfft(centred, fft.next_fast_len(n + most + 1, real=True))
    products: Floats = fft.irfft(np.abs(spectrum) ** 2, fft.next_fast_len(n + most + 1, real=True))[: most + 1]
    return products / (n - np.arange(most + 1))


def column_time(codes: Codes, strata: Codes, counts: npt.NDArray[np.int64], kind: Kind) -> float:
    """The autocorrelation time of one column: the largest of all that its detectors look at.

    `codes`, `strata`: `[rows]` in order; `counts`: `[strata, codes]`, so that ranks are conditional on the stratum.
    Looked at are the mid-ranks u (location) and |2u − 1| (spread: a column may be white and its variance clustered, as
    returns are), or each of the commonest categories; and whether there is a value at all (nulls come in bursts).
    """
    ranks = mid_ranks(counts)[strata, codes]
    special = codes < FIRST_BIN
    series = [ranks]
    if kind is Kind.NUMERIC:
        series.append(np.where(special, 0.5, np.abs(2 * ranks - 1)))
    else:
        common = np.argsort(-counts.sum(axis=0), kind="stable")[:_MOST_CATEGORIES]
        series += [_surprise(codes == code, counts[:, code] / counts.sum(axis=1), strata) for code in common.tolist()]
    if _SPECIAL_SHARE < special.mean() < 1 - _SPECIAL_SHARE:
        share = counts[:, :FIRST_BIN].sum(axis=1) / counts.sum(axis=1)
        series.append(_surprise(special, share, strata))
    return float(f"{max(autocorrelation_time(s) for s in series):.4g}")  # more digits would only tell machines apart


def _surprise(happened: npt.NDArray[np.bool_], share: Floats, strata: Codes) -> Floats:
    """An indicator less its expectation in the row's stratum."""
    return happened - share[strata]


def mid_ranks(counts: npt.NDArray[np.int64]) -> Floats:
    """The mid-rank of every code in every stratum, `[strata, codes]`; 1/2 for the special codes, which have none."""
    ordinary = counts[:, FIRST_BIN:]
    total = np.maximum(ordinary.sum(axis=1, keepdims=True), 1)
    ranks = np.full(counts.shape, 0.5)
    ranks[:, FIRST_BIN:] = (np.cumsum(ordinary, axis=1) - ordinary / 2) / total
    return ranks
