"""Likelihood ratios of a reference's columns, by stratum, code and alternative, as `evidence` looks them up.

Equal tables of columns, and of streams with equal references, are kept once. A ratio is kept as its fourth root in
sixteen bits, rounded down so that evidence never grows by it: 3 KB a numeric column of 70 bins (`test_ratios.py`). That
costs at most 0.00007 of a ratio near 1 where none is above 2, and 0.0004 where one is 1,000; the weakest alternative
that is tested grows by a factor of 1.003 a row (`doubt.LEAST_INFORMATION`).
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN
from stream_monitor.compiled import njit
from stream_monitor.detectors.alternatives import LANES, Layout, families, layout_of, likelihood_ratios
from stream_monitor.detectors.doubt import doubted, overshoot, told_apart
from stream_monitor.detectors.tables import Tables
from stream_monitor.reference import Column, Reference

Rows = npt.NDArray[np.int64]

PACE: Final = 0.85
"""Share of the autocorrelation time beyond 1 that likelihood ratios are slowed down by: what keeps the budget, on
AR(1) 0.5 and 0.9 (`benchmarks/detection.md`, A2: 0.84 and 1.02 of the false alarms asked for; ADR 4)."""
CHUNK: Final = 64
"""Columns whose ratios are computed at once, to bound the working memory: an array of all their ratios is 1.2 MB."""
LARGEST_RATIO: Final = 2.0**26
"""A row says no more than this: four roots of what is smaller have a digit for every percent."""
REPEAT_SCALE: Final = 2.0**-57
"""A repeat says no more than 0.9 / 0.01, which is below 2⁷: see `_repeats`."""
_DOWN: Final = 1 - 1e-7
"""What a root is shrunk by before it is cut: more than what float32 can round up when the fourth power is taken."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Ratios:
    """Likelihood ratios of a stream, ragged: column c has `widths[c]` alternatives, its first at `first[c]`.

    `table`: uint16, fourth roots r; the ratio is r⁴ · `scale[scale_base[c] + k]`, a power of two. The root of
    alternative k at code x of column c in stratum s is `table[base[s, c] + x · (full[c] − 1) + k − 1]` for k below
    `full[c]`; the others say the same of most codes, and have one row for all of those, of `widths[c] − full[c]`: it
    starts at `rest[s, c]`, and a code's is number `kinds[kind_base[s, c] + x]`. Eight roots may be read at once from
    one place before any of these on. Number 0 is `repeat`, which looks at two rows: where the code x repeats its root
    is `repeat[repeat_base[s, c] + x]`, of scale `REPEAT_SCALE`, else its ratio is `no_repeat[c]`.
    `weights`: `[Σ widths]`, and `repeat_weights`: `[columns]`, in whose place `weights` has 0: sum 1 a column but for
    what overshoot allows. `gain`: `[Σ widths]` expected growth a row of log-evidence under the
    alternative itself. `half`: `[Σ widths]` 1/E√ratio under the reference, less its doubt, which makes √ratio the
    ratio of the distribution half-way to the alternative; 0 where that is too near the reference to be told from it,
    and where a weaker alternative of the family is there. `weaker`: `[Σ widths]` the number of that one, −1 for none.
    """

    layouts: tuple[Layout, ...]
    widths: Rows
    first: Rows
    full: Rows
    base: Rows
    rest: Rows
    kind_base: Rows
    kinds: npt.NDArray[np.uint8]
    table: npt.NDArray[np.uint16]
    scale_base: Rows
    scale: npt.NDArray[np.float32]
    repeat_base: Rows
    repeat: npt.NDArray[np.uint16]
    no_repeat: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    repeat_weights: npt.NDArray[np.float32]
    gain: npt.NDArray[np.float16]
    half: npt.NDArray[np.float32]
    weaker: npt.NDArray[np.int8]

    def at(self, strata: npt.NDArray[Any], column: int, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """`[rows, alternatives]` of rows with these codes (of the column's own); `repeat` is taken to say nothing."""
        width, full = int(self.widths[column]), int(self.full[column])
        codes = codes.astype(np.int64)
        kinds = self.kinds[self.kind_base[strata, column] + codes].astype(np.int64)
        own = (self.base[strata, column] + codes * (full - 1))[:, None] + np.arange(full - 1)
        shared = (self.rest[strata, column] + kinds * (width - full))[:, None] + np.arange(width - full)
        first = int(self.scale_base[column])
        squares = np.concatenate([self.table[own], self.table[shared]], axis=1).astype(np.float32) ** 2
        ratios = np.ones((len(codes), width), dtype=np.float32)
        ratios[:, 1:] = squares * squares * self.scale[first + 1 : first + width]
        return ratios


_RATIOS: weakref.WeakValueDictionary[str, Ratios] = weakref.WeakValueDictionary()
_RATIOS_OF: weakref.WeakKeyDictionary[Tables, dict[tuple[float, float], Ratios]] = weakref.WeakKeyDictionary()
"""The same by what is at hand: there is one `Tables` a reference."""


def ratios_of(reference: Reference, tables: Tables, doubt: float, log_threshold: float) -> Ratios:
    """The ratios of a reference, weakened by its own uncertainty (see `doubt.py`); one object for equal tables.

    `tables`: `tables_of` the reference. `doubt`: share of that uncertainty that is paid for, 0 … 1. `log_threshold`:
    log(1/α) of one column, rounded up.
    """
    known = _RATIOS_OF.setdefault(tables, {})
    if (doubt, log_threshold) not in known:
        known[doubt, log_threshold] = _shared_ratios(reference, tables, doubt, log_threshold)
    return known[doubt, log_threshold]


def _shared_ratios(reference: Reference, tables: Tables, doubt: float, log_threshold: float) -> Ratios:
    key = hashlib.sha256()
    for column in reference.columns:
        key.update(repr((column.kind, column.autocorrelation_time, column.repeat)).encode())
    for array in (tables.p, tables.n):
        key.update(array.tobytes())
    name = f"{doubt}-{log_threshold}-{key.hexdigest()}"
    found = _RATIOS.get(name)
    if found is None:
        found = _build(reference.columns, tables, doubt, log_threshold)
        _RATIOS[name] = found
    return found


def _build(columns: Iterable[Column], tables: Tables, doubt: float, log_threshold: float) -> Ratios:
    columns = list(columns)
    layouts = tuple(layout_of(column) for column in columns)
    widths = np.array([layout.width for layout in layouts], dtype=np.int64)
    full = np.array([layout.full for layout in layouts], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64)
    distinct, base, total = _distinct(layouts, tables, widths)
    table = np.ones(total, dtype=np.float32)
    told: dict[int, npt.NDArray[np.float64]] = {}
    for layout in dict.fromkeys(layouts):
        members = [place for place in distinct if layouts[place[1]] is layout]
        for start in range(0, len(members), CHUNK):
            told |= _fill(layout, members[start : start + CHUNK], tables, doubt, log_threshold, base, table)
    scale_base, scale = _scales(layouts, base, told)
    gain_of, boost_of, half_of = np.zeros((3, len(columns), int(widths.max())))
    for index, layout in enumerate(layouts):
        each = np.stack([told[place] for place in base[:, index].tolist()])
        gain_of[index, : layout.width] = each[:, 0].mean(axis=0)
        boost_of[index, : layout.width] = each[:, 1].min(axis=0)
        half_of[index, : layout.width] = each[:, 2].min(axis=0)
    repeat_base, repeat, no_repeat, repeat_gain = _repeats(columns, tables, doubt * log_threshold)
    gain_of[:, 0] = repeat_gain
    weights = _weights(layouts, gain_of > 0, boost_of)
    repeat_weights, weights[first] = weights[first], 0.0
    weaker_of = _weaker(layouts, gain_of > 0)
    half_of[:, 0] = 0.0
    half_of[weaker_of >= 0] = 0.0
    short = _compressed(distinct, base, table, tables.widths, widths, full, scale_base, scale)
    own = np.arange(gain_of.shape[1]) < widths[:, None]
    return Ratios(
        layouts, widths, first, full, *short, scale_base, scale, repeat_base, repeat, no_repeat, weights,
        repeat_weights, gain_of[own].astype(np.float16), half_of[own].astype(np.float32),
        weaker_of[own].astype(np.int8),
    )  # fmt: skip


def _distinct(layouts: tuple[Layout, ...], tables: Tables, widths: Rows) -> tuple[list[tuple[int, int]], Rows, int]:
    """The (stratum, column) pairs whose tables differ, and where every pair's table starts."""
    strata, columns, _ = tables.shape
    base = np.zeros((strata, columns), dtype=np.int64)
    seen: dict[tuple[object, ...], int] = {}
    distinct, total = [], 0
    for stratum in range(strata):
        for column in range(columns):
            p = tables.p[stratum, column, : tables.widths[column]]
            key = (id(layouts[column]), float(tables.time[column]), int(tables.n[stratum, column]), p.tobytes())
            if key not in seen:
                seen[key] = total
                distinct.append((stratum, column))
                total += len(p) * int(widths[column])
            base[stratum, column] = seen[key]
    return distinct, base, total


def _fill(
    layout: Layout,
    members: list[tuple[int, int]],
    tables: Tables,
    doubt: float,
    log_threshold: float,
    base: Rows,
    table: npt.NDArray[np.float32],
) -> dict[int, npt.NDArray[np.float64]]:
    """Compute the ratios of some (stratum, column) pairs of one layout into `table`.

    Returns, by where a pair's table starts, `[4, alternatives]`: how fast log-evidence grows under each, 0 where it
    does not; the factor by which overshoot lets its weight be raised; `Ratios.half`; and the largest ratio.
    """
    strata, index = np.array(members).T
    n = tables.n[strata, index].astype(np.float64)
    p = tables.p[strata, index, : FIRST_BIN + layout.bins].astype(np.float64)
    ratios = likelihood_ratios(layout, p, n)
    time = 1 + PACE * (tables.time[index] - 1)
    share = n / tables.n[:, index].sum(axis=0)
    logs = doubted(ratios, p, n / time, share, doubt, log_threshold) / time[:, None, None]
    q = p[:, :, None] * ratios
    growth = (q * logs).sum(axis=1)
    dead = growth <= 0
    logs[np.broadcast_to(dead[:, None, :], logs.shape)] = 0.0
    boost = np.where(time[:, None] > 1, 1.0, np.exp(overshoot(logs, q)))
    worth = np.minimum(np.exp(logs), LARGEST_RATIO)
    starts = base[strata, index].tolist()
    for start, block in zip(starts, worth.astype(np.float32), strict=True):
        table[start : start + block.size] = block.ravel()
    root = (p[:, :, None] * np.sqrt(worth)).sum(axis=1)
    rows = n / time / share
    root *= np.exp(doubt * log_threshold * share / n)[:, None]
    half = np.where(told_apart(growth / 4 * time[:, None], rows, log_threshold), 1 / root, 0.0)
    each = np.stack([np.maximum(growth, 0.0), boost, half, worth.max(axis=1)], axis=1)
    return dict(zip(starts, each, strict=True))


def _scales(
    layouts: tuple[Layout, ...], base: Rows, told: dict[int, npt.NDArray[np.float64]]
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Where each column's scales start, and the scales of every layout: the largest root takes all sixteen bits."""
    peaks: dict[Layout, npt.NDArray[np.float64]] = {}
    for index, layout in enumerate(layouts):
        for place in base[:, index].tolist():
            peaks[layout] = np.maximum(peaks.get(layout, 0.0), told[place][3])
    starts = dict(zip(peaks, accumulate((layout.width for layout in peaks), initial=0), strict=False))
    scales = np.exp2(np.ceil(np.log2(np.concatenate(list(peaks.values())))) - 64).astype(np.float32)
    return np.array([starts[layout] for layout in layouts], dtype=np.int64), scales


def _compressed(
    distinct: list[tuple[int, int]], base: Rows, table: npt.NDArray[np.float32], code_widths: Rows, widths: Rows,
    full: Rows, scale_base: Rows, scale: npt.NDArray[np.float32],
) -> tuple[Rows, Rows, Rows, npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:  # fmt: skip
    """`base`, `rest`, `kind_base`, `kinds` and `table` of a table with a whole row of ratios for every code, at
    `base`."""
    strata, columns = np.array(distinct).T
    starts = base[strata, columns]
    places = np.empty((3, len(starts)), dtype=np.int64)
    short = np.empty(1 + len(table) + LANES, dtype=np.uint16)
    kinds = np.empty(int(code_widths[columns].sum()), dtype=np.uint8)
    length = _compress(
        table, starts, code_widths[columns], widths[columns], full[columns], scale_base[columns], 1 / scale, places,
        short, kinds,
    )  # fmt: skip
    short[length : length + LANES] = 0
    which = np.searchsorted(starts, base)  # pairs are numbered as their tables lie
    return places[0, which], places[1, which], places[2, which], kinds, short[: length + LANES].copy()


@njit
def _compress(
    table: Any, starts: Any, codes: Any, widths: Any, fulls: Any, scale_base: Any, inverse: Any, places: Any,
    short: Any, kinds: Any,
) -> int:  # fmt: skip
    """Fill `places` (`[3, pairs]`), `short` and `kinds`; returns the length of `short` that is used."""
    short[0] = 0
    length, codes_before = 1, 0
    for pair in range(len(starts)):
        width, full = widths[pair], fulls[pair]
        shrunk = inverse[scale_base[pair] : scale_base[pair] + width]
        own, rest = length, length + codes[pair] * (full - 1)
        places[0, pair], places[1, pair], places[2, pair] = own, rest, codes_before
        found = 0
        for code in range(codes[pair]):
            row = table[starts[pair] + code * width : starts[pair] + (code + 1) * width]
            _roots(row[1:full], shrunk[1:full], short[own + code * (full - 1) :])
            new = short[rest + found * (width - full) :]
            _roots(row[full:], shrunk[full:], new)
            kind = 0
            while kind < found and _differ(short[rest + kind * (width - full) :], new, width - full):
                kind += 1
            if kind == found:
                found += 1
            kinds[codes_before + code] = kind
        length = rest + found * (width - full)
        codes_before += codes[pair]
    return length


@njit
def _roots(ratios: Any, inverse: Any, target: Any) -> None:
    for k in range(len(ratios)):
        target[k] = np.uint16(np.sqrt(np.sqrt(np.float64(ratios[k]) * np.float64(inverse[k]))) * _DOWN)


@njit
def _differ(one: Any, other: Any, count: int) -> bool:
    different = False
    for k in range(count):
        different = different or one[k] != other[k]
    return different


def _weights(
    layouts: tuple[Layout, ...], usable: npt.NDArray[np.bool_], boost: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The prior weights of the alternatives a column can use, to sum 1, and then raised by their overshoot."""
    parts = []
    for index, layout in enumerate(layouts):
        weight = _prior(layout) * usable[index, : layout.width]
        parts.append(weight / max(float(weight.sum()), 1e-300) * boost[index, : layout.width])
    return np.concatenate(parts).astype(np.float32)


@cache
def _prior(layout: Layout) -> npt.NDArray[np.float64]:
    return np.array([alternative.weight for alternative in layout.alternatives])


def _weaker(layouts: tuple[Layout, ...], usable: npt.NDArray[np.bool_]) -> Rows:
    """`[columns, alternatives]`: see `Ratios.weaker`."""
    found = np.full(usable.shape, -1, dtype=np.int64)
    for column, layout in enumerate(layouts):
        _chain(usable[column], *_families(layout), found[column])
    return found


@cache
def _families(layout: Layout) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """The numbers of `families`, one family after the other, and which are the first of theirs."""
    numbers = [number for family in families(layout) for number in family]
    return np.array(numbers), np.array([number in {family[0] for family in families(layout)} for number in numbers])


@njit
def _chain(usable: Any, numbers: Any, starts: Any, found: Any) -> None:
    last = -1
    for i in range(len(numbers)):
        if starts[i]:
            last = -1
        found[numbers[i]] = last
        if usable[numbers[i]]:
            last = numbers[i]


def _repeats(
    columns: list[Column], tables: Tables, tolerance_rows: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Ratios of the alternative "90 % of rows repeat the one before" to the reference's own stickiness.

    The reference is taken to repeat the row before with probability s, else to draw from p; s is what makes its share
    of repeats the one measured. Codes rarer than 1 % count as 1 %: a repeat of a rare code proves less than it seems.
    """
    strata, count, width = tables.shape
    base = np.arange(strata * count, dtype=np.int64).reshape(strata, count) * width
    p = tables.p.astype(np.float64)
    chance = (p**2).sum(axis=2)
    measured = np.array([1.0 if column.repeat is None else column.repeat for column in columns])
    stick = np.clip((measured - chance) / np.maximum(1 - chance, 1e-12), 0.0, 1.0)
    share = 0.9
    tolerance = 1 + tolerance_rows / np.maximum(tables.n, 1)
    floored = np.maximum(p, 0.01)
    hit = (share + (1 - share) * floored) / (stick[..., None] + (1 - stick[..., None]) * floored)
    miss = ((1 - share) / np.maximum(1 - stick, 1e-12)).max(axis=0)
    # Repeats of a dependent column come in bursts, in its tails above all.
    burst = np.sqrt(tables.time)
    hit, miss = hit ** (1 / burst[:, None]), miss ** (1 / burst)
    usable = (measured < 1) & (stick.max(axis=0) < share / 2)
    hit = np.where(usable[:, None], hit / tolerance[..., None], 1.0)
    miss = np.where(usable, miss / tolerance.min(axis=0), 1.0)
    gain = np.where(usable, (p * np.log(hit)).sum(axis=2).mean(axis=0) * share + 0.1 * np.log(miss), 0.0)
    roots = np.sqrt(np.sqrt(hit.ravel() / REPEAT_SCALE)) * _DOWN
    return base, roots.astype(np.uint16), miss.astype(np.float32), np.maximum(gain, 0.0)
