"""The streams: marginals, changes of them, and the log-likelihood ratios that an oracle would know."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Draw = Callable[[Rng, int], Floats]

SEED: Final = 20_260_301
PERIOD_ROWS: Final = 1_000
"""Of the sine; one day, so that a row is 86.4 s."""
ROW_MS: Final = 86_400


def rng_of(*key: str | int) -> Rng:
    """A generator of its own for every part of the benchmark, whatever else runs."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng([SEED, *words])


@dataclass(frozen=True, slots=True)
class Marginal:
    """A stationary stream; `draw(rng, rows)`. NaN is a null; of a categorical one the values are category numbers.

    `seasonal`: rows carry time stamps.
    """

    name: str
    draw: Draw
    categorical: bool = False
    continuous: bool = False
    seasonal: bool = False


def _normal(rng: Rng, rows: int, scale: float = 1.0, offset: float = 0.0) -> Floats:
    return offset + scale * rng.standard_normal(rows)


def _lognormal(rng: Rng, rows: int, sigma: float) -> Floats:
    return np.exp(sigma * rng.standard_normal(rows))


def _student(rng: Rng, rows: int) -> Floats:
    return rng.standard_t(3, rows)


def _uniform(rng: Rng, rows: int) -> Floats:
    return rng.random(rows)


def _bernoulli(rng: Rng, rows: int, share: float) -> Floats:
    return (rng.random(rows) < share).astype(np.float64)


def _categories(rng: Rng, rows: int, shares: tuple[float, ...]) -> Floats:
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(rows), side="right").astype(np.float64)


def _poisson(rng: Rng, rows: int) -> Floats:
    return rng.poisson(3.0, rows).astype(np.float64)


def _zeros(rng: Rng, rows: int) -> Floats:
    return np.where(rng.random(rows) < 0.9, 0.0, rng.exponential(1.0, rows))


def _nulls(rng: Rng, rows: int, share: float) -> Floats:
    return np.where(rng.random(rows) < share, np.nan, rng.standard_normal(rows))


def _ar1(rng: Rng, rows: int, rho: float) -> Floats:
    noise = rng.standard_normal(rows)
    noise[1:] *= np.sqrt(1 - rho * rho)
    path: Floats = lfilter([1.0], [1.0, -rho], noise)
    return path


def _sine(rng: Rng, rows: int) -> Floats:
    """Amplitude 0.5 σ of the noise; row 0 is midnight."""
    return rng.standard_normal(rows) + 0.5 * np.sin(2 * np.pi * np.arange(rows) / PERIOD_ROWS)


def _bimodal(rng: Rng, rows: int) -> Floats:
    """Two normals at ± 0.9: mean 0, variance 1."""
    return np.where(rng.random(rows) < 0.5, -BIMODAL_AT, BIMODAL_AT) + BIMODAL_SD * rng.standard_normal(rows)


BIMODAL_AT: Final = 0.9
BIMODAL_SD: Final = float(np.sqrt(1 - BIMODAL_AT**2))
SKEWED: Final = (0.4, 0.3, 0.2, 0.1)
EVEN: Final = (0.25, 0.25, 0.25, 0.25)
OUTER: Final = (0.4, 0.1, 0.1, 0.4)
"""The same mean code as `EVEN`."""

A1: Final = (
    Marginal("normal", _normal, continuous=True),
    Marginal("normal × 0.01", partial(_normal, scale=0.01), continuous=True),
    Marginal("normal × 1000 + 10⁶", partial(_normal, scale=1e3, offset=1e6), continuous=True),
    Marginal("lognormal σ 1.5", partial(_lognormal, sigma=1.5), continuous=True),
    Marginal("Student t₃", _student, continuous=True),
    Marginal("uniform", _uniform, continuous=True),
    Marginal("Bernoulli 0.2", partial(_bernoulli, share=0.2)),
    Marginal("Bernoulli 0.01", partial(_bernoulli, share=0.01)),
    Marginal("4 categories", partial(_categories, shares=SKEWED), categorical=True),
    Marginal("Poisson 3", _poisson),
    Marginal("90 % zeros", _zeros),
)
EXTRA: Final = (
    Marginal("lognormal σ 1", partial(_lognormal, sigma=1.0), continuous=True),
    Marginal("4 even categories", partial(_categories, shares=EVEN), categorical=True),
    Marginal("normal, 1 % null", partial(_nulls, share=0.01)),
)
"""Only the delay tests use these; their false alarms are measured to stand beside the delays."""
A2: Final = (
    Marginal("AR(1) 0.5", partial(_ar1, rho=0.5), continuous=True),
    Marginal("AR(1) 0.9", partial(_ar1, rho=0.9), continuous=True),
    Marginal("sine", _sine, continuous=True, seasonal=True),
)
MARGINALS: Final = {marginal.name: marginal for marginal in (*A1, *EXTRA, *A2)}


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a stream at a row. `apply(rng, values, row)` changes `values[row:]` in place.

    `ratio`: log-likelihood ratio of a value, after against before, where rows are independent; else None.
    `onset`: whether the onset's error is gated.
    """

    test: str
    case: str
    marginal: str
    apply: Callable[[Rng, Floats, int], None]
    ratio: Callable[[Floats], Floats] | None = None
    reference_rows: int = 50_000
    onset: bool = False
    curve: bool = False

    @property
    def key(self) -> str:
        return f"{self.test} {self.case}"


def _shift(rng: Rng, values: Floats, row: int, by: float) -> None:
    values[row:] += by


def _ramp(rng: Rng, values: Floats, row: int, by: float) -> None:
    values[row:] += by * np.minimum(np.arange(1, len(values) - row + 1) / 5_000, 1.0)


def _scale(rng: Rng, values: Floats, row: int, by: float) -> None:
    values[row:] *= by


def _become(rng: Rng, values: Floats, row: int, draw: Draw) -> None:
    values[row:] = draw(rng, len(values) - row)


def _stick(rng: Rng, values: Floats, row: int) -> None:
    values[row:] = values[row - 1]


def _new_category(rng: Rng, values: Floats, row: int) -> None:
    values[row:][rng.random(len(values) - row) < 0.01] = 9.0


def _shift_ratio(x: Floats, by: float) -> Floats:
    return by * x - by * by / 2


def _scale_ratio(x: Floats, by: float) -> Floats:
    ratio: Floats = x * x * (1 - 1 / (by * by)) / 2 - np.log(by)
    return ratio


def _bimodal_ratio(x: Floats) -> Floats:
    low, high = ((x + sign * BIMODAL_AT) / BIMODAL_SD for sign in (1, -1))
    ratio: Floats = np.logaddexp(-low * low / 2, -high * high / 2) - np.log(2 * BIMODAL_SD) + x * x / 2
    return ratio


def _table_ratio(x: Floats, before: tuple[float, ...], after: tuple[float, ...]) -> Floats:
    ratio: Floats = np.log(np.array(after) / np.array(before))[x.astype(np.int64)]
    return ratio


def _null_ratio(x: Floats) -> Floats:
    null, value = float(np.log(0.03 / 0.01)), float(np.log(0.97 / 0.99))
    return np.where(np.isnan(x), null, value)


def _shifts(test: str, sizes: tuple[float, ...], rows: int = 50_000, note: str = "") -> list[Change]:
    return [
        Change(
            test, f"{note}+ {size:g} σ", "normal", partial(_shift, by=size), partial(_shift_ratio, by=size), rows,
            onset=test == "B1" and size >= 0.5, curve=test == "B1" and size in (0.25, 0.5, 1.0),
        )
        for size in sizes
    ]  # fmt: skip


def _rates(base: float, shares: tuple[float, ...]) -> list[Change]:
    return [
        Change(
            "B3", f"{base:g} → {share:g}", f"Bernoulli {base:g}",
            partial(_become, draw=partial(_bernoulli, share=share)),
            partial(_table_ratio, before=(1 - base, base), after=(1 - share, share)),
            curve=share == 0.3,
        )
        for share in shares
    ]  # fmt: skip


CHANGES: Final = (
    *(Change("A2", f"{name} + 0.5 σ", name, partial(_shift, by=0.5)) for name in ("AR(1) 0.5", "AR(1) 0.9", "sine")),
    *_shifts("A3", (0.1, 0.25, 0.5, 1.0, 2.0), 5_000, "5,000 rows, "),
    *_shifts("A3", (0.25, 0.5, 1.0), 1_000, "1,000 rows, "),
    *_shifts("B1", (0.1, 0.25, 0.5, 1.0, 2.0)),
    *(
        Change("B2", f"σ × {by:g}", "normal", partial(_scale, by=by), partial(_scale_ratio, by=by))
        for by in (2.0, 1.5, 0.5)
    ),
    Change("B2", "bimodal", "normal", partial(_become, draw=_bimodal), _bimodal_ratio),
    Change("B2", "categories", "4 even categories", partial(_become, draw=partial(_categories, shares=OUTER)),
           partial(_table_ratio, before=EVEN, after=OUTER)),
    *_rates(0.2, (0.25, 0.3, 0.5)),
    *_rates(0.01, (0.05,)),
    Change("B4", "gradual + 1 σ", "normal", partial(_ramp, by=1.0)),
    Change("B4", "gradual + 0.5 σ", "normal", partial(_ramp, by=0.5)),
    Change("B4", "lognormal + 0.5 sd", "lognormal σ 1", partial(_shift, by=0.5 * float(np.sqrt((np.e - 1) * np.e)))),
    Change("B4", "t₃ + 0.5 sd", "Student t₃", partial(_shift, by=0.5 * float(np.sqrt(3)))),
    Change("B5", "null 1 % → 3 %", "normal, 1 % null", partial(_become, draw=partial(_nulls, share=0.03)), _null_ratio),
    Change("B5", "new category 1 %", "4 categories", _new_category),
    Change("B5", "stuck", "normal", _stick),
    Change("B5", "unit × 1000", "normal", partial(_scale, by=1e3)),
    Change("B5", "unit × 1000, positive", "lognormal σ 1", partial(_scale, by=1e3)),
)  # fmt: skip
