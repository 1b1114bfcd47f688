"""What a column may turn into: the alternatives that `evidence` tests the reference against.

An alternative is a distribution q over the column's codes. Ordered columns: a latent standard normal is cut into the
reference's bins, and q is what those bins hold once the latent variable is moved, spread or bent, so that one set
serves any marginal distribution. Categories and the special codes: one code becomes more or less frequent, by a step of
given Kullback-Leibler divergence; so does half of the codes at once; or all become more or less even. Every q is mixed
with 2 % of the reference, so that no single value can kill it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from stream_monitor.codes import (
    ABOVE,
    BELOW,
    FIRST_BIN,
    INVALID,
    MISSING,
    NEW,
    SPECIAL_CATEGORICAL,
    SPECIAL_NUMERIC,
)
from stream_monitor.compiled import njit
from stream_monitor.reference import Column, Kind

Floats = npt.NDArray[np.float64]

MIX: Final = 0.02
"""Share of the reference in every alternative."""
REPEAT_SHARE: Final = 0.9
"""The alternative `repeat`: this share of rows repeats the row before."""
MAX_SINGLES: Final = 12
"""Most categories that get alternatives of their own (the most common ones)."""
RARE_ROWS: Final = 30
"""An alternative whose raised code would hold fewer than this many of the reference's rows is left out: on so rare a
code the reference's own uncertainty is larger than the change."""
NULLABLE_ROWS: Final = 30
"""A column with this many missing values in its reference is watched for changes of their rate."""
LANES: Final = 8
"""Alternatives are padded to a multiple of this, for the compiler's sake."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to differ from the reference.

    `step`: in latent standard deviations, or √(2 KL) for a group of `codes` that becomes more or less frequent (of
    `flatter` and `steeper` the power of p).
    """

    name: str
    direction: str
    step: float
    weight: float
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The alternatives of one shape of column, one object a shape; number 0 is always `repeat`, unused ones have
    weight 0."""

    alternatives: tuple[Alternative, ...]
    ordered: bool
    bins: int

    @property
    def width(self) -> int:
        return len(self.alternatives)

    @property
    def full(self) -> int:
        """How many of them, `repeat` among them, may say something else of every code; those behind speak of one
        special code, or of all of them, and say much the same of all others."""
        if not self.ordered:
            return self.width
        return next((k for k, alternative in enumerate(self.alternatives) if alternative.codes), self.width)


LOCATIONS: Final = ((0.12, 0.09), (0.25, 0.08), (0.5, 0.06), (1.0, 0.055), (2.0, 0.04))
SCALES: Final = ((0.5, 0.05), (0.75, 0.03), (1.4, 0.06), (2.0, 0.06))
SHAPES: Final = (("bimodal", 0.05), ("two_humps", 0.015), ("peaked", 0.02), ("skew+", 0.025), ("skew-", 0.025))
OUTSIDE: Final = Alternative("outside", "change", 1.0, 0.008)
"""Half of all rows outside the training range, on either side: a change of unit or scale."""
BINARY_STEPS: Final = ((0.12, 0.36), (0.25, 0.17), (0.55, 0.06), (1.2, 0.012))
SINGLE_STEPS: Final = ((0.15, 0.15), (0.35, 0.1), (0.8, 0.06), (-0.15, 0.15), (-0.35, 0.1), (-0.8, 0.06))
"""Of up to four categories, each by itself; of more, see `MANY_STEPS`."""
MANY_STEPS: Final = ((0.2, 0.2), (0.5, 0.12), (1.0, 0.06), (-0.3, 0.15))
GROUP_STEPS: Final = ((0.22, 0.18), (0.48, 0.2), (-0.22, 0.18), (-0.48, 0.2))
POWERS: Final = (("flatter", 0.6), ("steeper", 1.5))
_POWER_NAMES: Final = frozenset(name for name, _ in POWERS)
RARE_STEPS: Final = ((0.3, 0.007), (1.1, 0.003))
NEW_STEPS: Final = ((0.35, 0.1), (1.1, 0.01))
"""Of a code that the reference has not, or hardly."""
NULL_STEPS: Final = ((0.16, 0.42), (0.4, 0.04), (1.1, 0.005), (-0.25, 0.01))
NO_NULL_STEPS: Final = ((0.3, 0.015), (1.1, 0.004))


def layout_of(column: Column) -> Layout:
    """The alternatives of a column, by kind, number of bins and codes seen; equal shapes share one object."""
    totals = np.sum([bins.counts for bins in column.strata], axis=0)
    nullable = bool(totals[MISSING] >= NULLABLE_ROWS)
    if column.kind is Kind.NUMERIC and column.bins > 2:
        return _ordered_layout(column.bins, nullable)
    present = tuple(int(code) for code in np.argsort(-totals[3:], kind="stable") + 3 if totals[code] > 0)
    if column.kind is Kind.NUMERIC:
        present = tuple(code for code in present if code >= FIRST_BIN)
    return _unordered_layout(column.kind, column.bins, present, nullable)


@cache
def _ordered_layout(bins: int, nullable: bool) -> Layout:
    found = [Alternative("repeat", "change", 1.0, 0.05)]
    for step, weight in LOCATIONS:
        found.append(Alternative(f"location+{step:g}", "up", step, weight))
        found.append(Alternative(f"location-{step:g}", "down", -step, weight))
    found += [Alternative(f"scale×{scale:g}", "change", scale, weight) for scale, weight in SCALES]
    found += [Alternative(shape, "change", 1.0, weight) for shape, weight in SHAPES]
    found += [*_specials(SPECIAL_NUMERIC, (MISSING, INVALID, BELOW, ABOVE), nullable), OUTSIDE]
    return Layout(_finish(found), ordered=True, bins=bins)


@cache
def _unordered_layout(kind: Kind, bins: int, codes: tuple[int, ...], nullable: bool) -> Layout:
    numeric = kind is Kind.NUMERIC
    names = SPECIAL_NUMERIC if numeric else SPECIAL_CATEGORICAL
    specials = (MISSING, INVALID, BELOW, ABOVE) if numeric else (MISSING, INVALID, NEW)
    found = [Alternative("repeat", "change", 1.0, 0.04), *_singles(names, codes), *_groups(codes)]
    if len(codes) > 2:
        found += [Alternative(name, "change", power, 0.04, codes) for name, power in POWERS]
    return Layout(_finish(found + _specials(names, specials, nullable)), ordered=False, bins=bins)


def _singles(names: tuple[str, ...], codes: tuple[int, ...]) -> list[Alternative]:
    """Each of the common categories up and down by itself; of two, one going up is the other going down."""
    if len(codes) <= 2:
        steps = BINARY_STEPS + tuple((-step, weight) for step, weight in BINARY_STEPS)
        return [a for code in codes[1:2] for a in _moved(_name(names, code), (code,), steps, 1)]
    steps = SINGLE_STEPS if len(codes) <= 4 else MANY_STEPS
    watched = codes[:MAX_SINGLES]
    return [a for code in watched for a in _moved(_name(names, code), (code,), steps, len(watched))]


def _groups(codes: tuple[int, ...]) -> list[Alternative]:
    """Half of the categories up, the others down: for four all pairs, for more a few balanced splits (Walsh)."""
    if len(codes) < 4:
        return []
    masks = (1, 2, 3) if len(codes) == 4 else (1, 2, 4, 3, 5, 6, 7) if len(codes) <= 8 else (1, 2, 4, 8, 3, 6, 12)
    steps = GROUP_STEPS if len(codes) == 4 else ((0.35, 0.25), (-0.35, 0.25))
    halves = [tuple(c for i, c in enumerate(codes) if (i & mask).bit_count() % 2) for mask in masks]
    return [a for number, half in enumerate(halves) for a in _moved(f"split{number + 1}", half, steps, len(halves))]


def _specials(names: tuple[str, ...], codes: tuple[int, ...], nullable: bool) -> list[Alternative]:
    steps = {"missing": NULL_STEPS if nullable else NO_NULL_STEPS, "new": NEW_STEPS}
    return [a for code in codes for a in _moved(names[code], (code,), steps.get(names[code], RARE_STEPS), 1)]


def _moved(
    name: str, codes: tuple[int, ...], steps: tuple[tuple[float, float], ...], share: float
) -> list[Alternative]:
    return [
        Alternative(f"{name}{step:+g}", "up" if step > 0 else "down", step, weight / share, codes)
        for step, weight in steps
    ]


def _name(names: tuple[str, ...], code: int) -> str:
    return names[code] if code < FIRST_BIN else f"bin{code - FIRST_BIN}"


def _finish(found: list[Alternative]) -> tuple[Alternative, ...]:
    """Pad to whole lanes, weights to sum 1."""
    total = sum(alternative.weight for alternative in found)
    found = found + [Alternative("", "change", 0.0, 0.0)] * (-len(found) % LANES)
    return tuple(replace(a, weight=a.weight / total) for a in found)


@cache
def families(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The numbers of the alternatives that differ by their step only, each family from the weakest on."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, alternative in enumerate(layout.alternatives):
        if alternative.weight > 0:
            found.setdefault(_family(alternative), []).append(number)
    return tuple(tuple(sorted(own, key=lambda k: _strength(layout.alternatives[k]))) for own in found.values())


def _family(alternative: Alternative) -> tuple[object, ...]:
    name, step = alternative.name, alternative.step
    if name.startswith("scale"):
        return "scale", step > 1
    if name.startswith("location") or (alternative.codes and name not in _POWER_NAMES):
        return "location", alternative.codes, step > 0
    return (name,)


def _strength(alternative: Alternative) -> float:
    return abs(log(alternative.step)) if alternative.name.startswith("scale") else abs(alternative.step)


def likelihood_ratios(layout: Layout, p: Floats, n: Floats) -> Floats:
    """The ratios q/p, shape `[columns, codes, alternatives]`, of columns of one layout.

    `p`: `[columns, codes]` reference probabilities, all positive; `n`: `[columns]` reference rows behind them.
    Alternatives that a column cannot support have ratio 1 throughout (see `supported`).
    """
    ratios = np.ones((*p.shape, layout.width))
    if layout.ordered:
        _ordered_ratios(layout, p, n, ratios)
    _single_ratios(layout, p, n, ratios)
    for index, alternative in enumerate(layout.alternatives):
        if alternative.name == OUTSIDE.name:
            inside = p[:, [BELOW, ABOVE]].sum(axis=1, keepdims=True)
            ratios[:, :, index] = (1 - MIX) * 0.5 / (1 - inside) + MIX
            ratios[:, [BELOW, ABOVE], index] = (1 - MIX) * 0.25 / p[:, [BELOW, ABOVE]] + MIX
        if alternative.name in _POWER_NAMES:
            _power_ratio(alternative, p, ratios[:, :, index])
        elif len(alternative.codes) > 1:
            _group_ratio(alternative, p, n, ratios[:, :, index])
    return ratios


def _ordered_ratios(layout: Layout, p: Floats, n: Floats, ratios: Floats) -> None:
    """Latent-normal alternatives, in place; the special codes `missing` and `invalid` keep ratio 1."""
    order = np.r_[BELOW, FIRST_BIN : FIRST_BIN + layout.bins, ABOVE]
    mass = p[:, order] / p[:, order].sum(axis=1, keepdims=True)
    cuts = ndtri(np.clip(np.cumsum(mass, axis=1)[:, :-1], 1e-12, 1 - 1e-12))
    latent = [(index, cdf) for index, each in enumerate(layout.alternatives) if (cdf := _latent(each)) is not None]
    q = np.empty((len(latent), *mass.shape))  # all at once: a call costs more than its numbers
    for k, (_, cdf) in enumerate(latent):
        below = cdf(cuts)
        q[k, :, 0], q[k, :, -1] = below[:, 0], 1.0 - below[:, -1]
        np.subtract(below[:, 1:], below[:, :-1], out=q[k, :, 1:-1])
    ratio = (1 - MIX) * _pooled_ratio(q, mass, _tail_pools(mass, n)) + MIX
    ratios[:, order[:, None], [index for index, _ in latent]] = ratio.transpose(1, 2, 0)


def _tail_pools(mass: Floats, n: Floats) -> npt.NDArray[np.int64]:
    """`[columns, bins]` number of the pool of every bin: the outermost bins share one until it holds 10 rows."""
    rows = mass * n[:, None]
    low = np.cumsum(rows, axis=1) < 10
    high = np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] < 10
    numbers = np.broadcast_to(np.arange(mass.shape[1]), mass.shape)
    first = low.sum(axis=1, keepdims=True)
    last = mass.shape[1] - 1 - high.sum(axis=1, keepdims=True)
    pools: npt.NDArray[np.int64] = np.clip(numbers, np.minimum(first, last), np.maximum(first, last))
    return pools


def _pooled_ratio(q: Floats, mass: Floats, pool: npt.NDArray[np.int64]) -> Floats:
    """`[alternatives, columns, bins]`, as `q`."""
    columns, bins = mass.shape
    flat = (pool + np.arange(columns)[:, None] * bins).ravel()
    every = (flat + np.arange(len(q))[:, None] * mass.size).ravel()
    top = np.bincount(every, q.ravel(), q.size)
    bottom = np.bincount(flat, mass.ravel(), mass.size)
    ratio: Floats = top[every].reshape(len(q), -1) / bottom[flat]
    return ratio.reshape(q.shape)


def _latent(alternative: Alternative) -> Callable[[Floats], Floats] | None:
    """The distribution function of the latent variable under an alternative."""
    name, step = alternative.name, alternative.step
    if name.startswith("location"):
        return lambda z: ndtr(z - step)
    if name.startswith("scale"):
        return lambda z: ndtr(z / step)
    return _SHAPE_CDF.get(name)


def _mixture(parts: tuple[tuple[float, float, float], ...]) -> Callable[[Floats], Floats]:
    return lambda z: sum((share * ndtr((z - mean) / sd) for share, mean, sd in parts), np.zeros_like(z))


def _gamma(z: Floats) -> Floats:
    """Standardised gamma distribution of shape 4: skewness 1."""
    x = np.maximum(4.0 + 2.0 * z, 0.0)
    cdf: Floats = 1.0 - np.exp(-x) * (1.0 + x * (1.0 + x / 2 * (1.0 + x / 3)))
    return cdf


_SHAPE_CDF: Final[dict[str, Callable[[Floats], Floats]]] = {
    "bimodal": _mixture(((0.5, -0.9, 0.436), (0.5, 0.9, 0.436))),
    "two_humps": _mixture(((0.5, -0.8, 0.6), (0.5, 0.8, 0.6))),
    "peaked": _mixture(((0.5, 0.0, 0.5), (0.5, 0.0, 1.323))),
    "skew+": _gamma,
    "skew-": lambda z: 1.0 - _gamma(-z),
}


def _single_ratios(layout: Layout, p: Floats, n: Floats, ratios: Floats) -> None:
    """The alternatives of one code each, as `_group_ratio` but all at once."""
    singles = [(index, each) for index, each in enumerate(layout.alternatives)
               if len(each.codes) == 1 and each.name not in _POWER_NAMES]  # fmt: skip
    if not singles:
        return
    base = np.ascontiguousarray(p[:, [each.codes[0] for _, each in singles]].T)
    q = np.stack([step_probability(own, each.step) for own, (_, each) in zip(base, singles, strict=True)])
    keep = supported(base, q, n)
    rest = np.where(keep, (1 - MIX) * (1 - q) / (1 - base) + MIX, 1.0)
    hit = np.where(keep, (1 - MIX) * q / base + MIX, 1.0)
    for k, (index, each) in enumerate(singles):
        ratios[:, :, index] = rest[k][:, None]
        ratios[:, each.codes[0], index] = hit[k]


def _group_ratio(alternative: Alternative, p: Floats, n: Floats, ratio: Floats) -> None:
    """Some codes up or down by √(2 KL) = `step`, the others in proportion; in place, `ratio` is `[columns, codes]`."""
    codes = list(alternative.codes)
    base = p[:, codes].sum(axis=1)
    q = step_probability(base, alternative.step)
    keep = supported(base, q, n)
    rest = np.where(keep, (1 - MIX) * (1 - q) / (1 - base) + MIX, 1.0)
    ratio[:] = rest[:, None]
    ratio[:, codes] = np.where(keep, (1 - MIX) * q / base + MIX, 1.0)[:, None]


def _power_ratio(alternative: Alternative, p: Floats, ratio: Floats) -> None:
    """The categories seen, q ∝ p^`step`: more or less even than they were; in place."""
    codes = list(alternative.codes)
    seen = p[:, codes]
    q = seen**alternative.step
    q *= seen.sum(axis=1, keepdims=True) / q.sum(axis=1, keepdims=True)
    ratio[:, codes] = (1 - MIX) * q / seen + MIX


def supported(base: Floats, q: Floats, n: Floats) -> npt.NDArray[np.bool_]:
    """Whether an alternative of a group of codes is far enough above the reference's uncertainty to be tested."""
    with np.errstate(invalid="ignore"):
        keep: npt.NDArray[np.bool_] = np.isfinite(q) & (np.maximum(base, q) * n >= RARE_ROWS) & (base < 1)
    return keep


def step_probability(base: Floats, step: float) -> Floats:
    """The q above (step > 0) or below `base` with KL(q ‖ base) = step²/2; NaN where there is none."""
    q = np.empty_like(base)
    _newton(base, step * step / 2, 1 - 1e-9 if step > 0 else 1e-9, q)
    return q


@njit
def _newton(base: Any, goal: float, end: float, q: Any) -> None:
    """The divergence is convex: from where it is above `goal` on, Newton's steps stay above and come ever nearer."""
    for i in range(len(base)):
        p, x = base[i], end
        if not _divergence(end, p) >= goal:
            q[i] = np.nan
            continue
        for _ in range(60):
            nearer = x - (_divergence(x, p) - goal) / (np.log(x / p) - np.log((1 - x) / (1 - p)))
            if not abs(nearer - x) > 1e-14 * x:
                break
            x = nearer
        q[i] = x


@njit
def _divergence(q: float, p: float) -> float:
    kl: float = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    return kl
