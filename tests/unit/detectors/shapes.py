"""Reference shapes with rows that drift in the middle: numeric, discrete, categorical, dependent, seasonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from stream_monitor.detectors.signal import Codes, Strata
from stream_monitor.reference import Reference
from tests.unit.detectors.references import make

ROWS = 3_000


@dataclass(frozen=True)
class Shape:
    """A reference and rows coded by it; the second half has drifted."""

    reference: Reference
    codes: Codes
    strata: Strata


def _made(
    reference_rows: dict[str, npt.NDArray[np.generic]],
    rows: dict[str, npt.NDArray[np.generic]],
    categorical: tuple[str, ...] = (),
) -> Shape:
    made = make(reference_rows, categorical)
    return Shape(made.reference, made.encode(rows), np.zeros(ROWS, dtype=np.uint8))


@cache
def numeric() -> Shape:
    rng = np.random.default_rng(1)
    late = np.arange(ROWS) >= ROWS // 2
    rows = {
        "moved": rng.normal(size=ROWS) + 0.7 * late,
        "spread": rng.normal(size=ROWS) * (1 + late),
        "nulls": np.where((rng.random(ROWS) < 0.1) & late, np.nan, rng.normal(size=ROWS)),
        "stuck": np.where(late, 0.3, rng.normal(size=ROWS)),
    }
    return _made({name: rng.normal(size=5_000) for name in rows}, rows)


@cache
def discrete() -> Shape:
    rng = np.random.default_rng(2)
    late = np.arange(ROWS) >= ROWS // 2
    return _made(
        {"poisson": rng.poisson(3, 5_000), "zeros": rng.poisson(0.1, 5_000), "binary": rng.integers(0, 2, 5_000)},
        {
            "poisson": rng.poisson(3 + late),
            "zeros": rng.poisson(0.1 + 0.2 * late),
            "binary": (rng.random(ROWS) < 0.5 + 0.2 * late).astype(int),
        },
    )


@cache
def categorical() -> Shape:
    rng = np.random.default_rng(3)
    late = np.arange(ROWS) >= ROWS // 2
    many = rng.zipf(1.5, 5_000) % 40
    return _made(
        {"few": rng.integers(0, 4, 5_000), "many": many, "number": rng.normal(size=5_000)},
        {
            "few": np.where(late & (rng.random(ROWS) < 0.3), 0, rng.integers(0, 4, ROWS)),
            "many": np.where(late & (rng.random(ROWS) < 0.05), 99, rng.choice(many, ROWS)),
            "number": rng.normal(size=ROWS),
        },
        categorical=("few", "many"),
    )


@cache
def dependent() -> Shape:
    rng = np.random.default_rng(4)

    def ar1(rows: int) -> npt.NDArray[np.float64]:
        values = np.empty(rows)
        last = 0.0
        for i, noise in enumerate(rng.normal(size=rows).tolist()):
            last = values[i] = 0.5 * last + noise
        return values

    late = np.arange(ROWS) >= ROWS // 2
    return _made({"ar": ar1(20_000), "iid": rng.normal(size=20_000)}, {"ar": ar1(ROWS) + 2 * late, "iid": ar1(ROWS)})


@cache
def seasonal() -> Shape:
    rng = np.random.default_rng(5)
    hours = np.arange(24)
    groups = (hours >= 12).astype(np.uint8)
    reference_strata = groups[np.arange(6_000) // 10 % 24]
    made = make(
        {"wave": rng.normal(size=6_000) + 3 * reference_strata, "flat": rng.normal(size=6_000)},
        strata=reference_strata,
        slots=groups.tolist(),
    )
    strata = groups[np.arange(ROWS) // 10 % 24]
    late = np.arange(ROWS) >= ROWS // 2
    rows = {"wave": rng.normal(size=ROWS) + 3 * strata + 0.7 * late, "flat": rng.normal(size=ROWS)}
    return Shape(made.reference, made.encode(rows, strata), strata)


SHAPES: dict[str, Callable[[], Shape]] = {
    "numeric": numeric,
    "discrete": discrete,
    "categorical": categorical,
    "dependent": dependent,
    "seasonal": seasonal,
}
