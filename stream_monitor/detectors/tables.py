"""From a reference to stacked arrays: probabilities, mid-ranks and likelihood ratios by column, stratum and code.

All detectors of a stream share one `Tables`; equal tables of columns, and of streams with equal references, are kept
once. The ratios are float32: 6 KB a numeric column of 70 bins.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING
from stream_monitor.detectors.alternatives import LANES, Layout, families, layout_of, likelihood_ratios
from stream_monitor.detectors.doubt import doubted, overshoot, told_apart
from stream_monitor.reference import Column, Kind, Reference

MAX_TIME: Final = 2_000.0
"""Longest autocorrelation time that is worked with; a slower feature hardly ever says anything new."""
PACE: Final = 0.85
"""Share of the autocorrelation time beyond 1 that likelihood ratios are slowed down by: what keeps the budget, measured
on AR(1) 0.5 and 0.9 (the whole of it gave a fifth of the false alarms asked for)."""
CHUNK: Final = 256
"""Columns whose ratios are computed at once: bounds the working memory to some 50 MB."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Tables:
    """What the detectors of one stream look up.

    `widths`: `[columns]` codes each column has. `p`, `rank`, `spread`: `[strata, columns, codes]` float32, probability,
    mid-rank u and mid-rank of |2u − 1| of every code, 0 beyond the column's own. `n`: `[strata, columns]` rows.
    `time`: `[columns]` autocorrelation time in rows, rounded up in steps of 5 %. `ordered`: `[columns]` numeric ones.
    """

    widths: npt.NDArray[np.int64]
    p: npt.NDArray[np.float32]
    rank: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
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
    p, rank, spread = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    n = np.zeros(shape[:2], dtype=np.int64)
    for width in np.unique(widths).tolist():  # all columns of a width at once: a call costs more than its numbers
        alike = np.flatnonzero(widths == width)
        counts = np.array([[bins.counts for bins in columns[i].strata] for i in alike.tolist()], dtype=np.float64)
        counts = counts.swapaxes(0, 1)
        share = probabilities(counts)
        n[:, alike] = counts.sum(axis=2).astype(np.int64)
        p[:, alike, :width] = share
        ranks = mid_ranks(share, code_order(width))
        rank[:, alike, :width] = ranks
        order = np.argsort(np.abs(2 * ranks.astype(np.float32) - 1), kind="stable")
        spread[:, alike, :width] = mid_ranks(share, order)
    time = np.array([quantised_time(column.autocorrelation_time) for column in columns])
    ordered = np.array([column.kind is Kind.NUMERIC for column in columns])
    return Tables(widths, p, rank, spread, n, time, ordered)


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Ratios:
    """Likelihood ratios of a stream, ragged: column c has `widths[c]` alternatives, its first at `first[c]`.

    `table`: float32; the ratio of alternative k at code x of column c in stratum s is
    `table[base[s, c] + x · (full[c] − 1) + k − 1]` for k below `full[c]`; the others say the same of most codes, and
    have one row for all of those, of `widths[c] − full[c]`: it starts at `rest[s, c]`, and a code's is number
    `kinds[kind_base[s, c] + x]`. Eight values may be read at once from one place before any of these on. Number 0 is
    `repeat`, which looks at two rows: `repeat[repeat_base[s, c] + x]` where the code x repeats, else `no_repeat[c]`.
    `weights`: `[Σ widths]`, and `repeat_weights`: `[columns]`, in whose place `weights` has 0: sum 1 a column but for
    what overshoot allows. `gain`: `[Σ widths]` expected growth a row of log-evidence under the
    alternative itself. `half`: `[Σ widths]` 1/E√ratio under the reference, less its doubt, which makes √ratio the
    ratio of the distribution half-way to the alternative; 0 where that is too near the reference to be told from it,
    and where a weaker alternative of the family is there. `weaker`: `[Σ widths]` the number of that one, −1 for none.
    """

    layouts: tuple[Layout, ...]
    widths: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    full: npt.NDArray[np.int64]
    base: npt.NDArray[np.int64]
    rest: npt.NDArray[np.int64]
    kind_base: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    table: npt.NDArray[np.float32]
    repeat_base: npt.NDArray[np.int64]
    repeat: npt.NDArray[np.float32]
    no_repeat: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    repeat_weights: npt.NDArray[np.float32]
    gain: npt.NDArray[np.float32]
    half: npt.NDArray[np.float32]
    weaker: npt.NDArray[np.int16]

    def at(self, strata: npt.NDArray[Any], column: int, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """`[rows, alternatives]` of rows with these codes (of the column's own)."""
        width, full = int(self.widths[column]), int(self.full[column])
        codes = codes.astype(np.int64)
        kinds = self.kinds[self.kind_base[strata, column] + codes].astype(np.int64)
        own = (self.base[strata, column] + codes * (full - 1))[:, None] + np.arange(full - 1)
        shared = (self.rest[strata, column] + kinds * (width - full))[:, None] + np.arange(width - full)
        repeat = np.ones((len(codes), 1), dtype=np.float32)
        ratios: npt.NDArray[np.float32] = np.concatenate([repeat, self.table[own], self.table[shared]], axis=1)
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
        found = _build_ratios(reference.columns, tables, doubt, log_threshold)
        _RATIOS[name] = found
    return found


def _build_ratios(columns: Iterable[Column], tables: Tables, doubt: float, log_threshold: float) -> Ratios:
    columns = list(columns)
    layouts = tuple(layout_of(column) for column in columns)
    widths = np.array([layout.width for layout in layouts], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64)
    distinct, base, total = _distinct(layouts, tables, widths)
    table = np.ones(total, dtype=np.float32)
    told: dict[int, npt.NDArray[np.float64]] = {}
    for layout in {id(layout): layout for layout in layouts}.values():
        members = [place for place in distinct if layouts[place[1]] is layout]
        for start in range(0, len(members), CHUNK):
            told |= _fill(layout, members[start : start + CHUNK], tables, doubt, log_threshold, base, table)
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
    gain, half = (
        np.concatenate([of[i, : layout.width] for i, layout in enumerate(layouts)]).astype(np.float32)
        for of in (gain_of, half_of)
    )
    weaker = np.concatenate([weaker_of[i, : layout.width] for i, layout in enumerate(layouts)]).astype(np.int16)
    full = np.array([layout.full for layout in layouts], dtype=np.int64)
    shortened = _shortened(layouts, distinct, base, table, tables.widths)
    return Ratios(
        layouts, widths, first, full, *shortened, repeat_base, repeat, no_repeat, weights, repeat_weights, gain, half,
        weaker,
    )  # fmt: skip


def _shortened(
    layouts: tuple[Layout, ...],
    distinct: list[tuple[int, int]],
    base: npt.NDArray[np.int64],
    table: npt.NDArray[np.float32],
    code_widths: npt.NDArray[np.int64],
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.float32]
]:
    """`base`, `rest`, `kind_base`, `kinds` and `table` of a table with a whole row for every code, at `base`."""
    places: dict[int, tuple[int, int, int]] = {}
    parts = [np.ones(1, dtype=np.float32)]
    kinds: list[npt.NDArray[np.uint8]] = []
    length, codes_before = 1, 0
    for stratum, column in distinct:
        layout, codes, start = layouts[column], int(code_widths[column]), int(base[stratum, column])
        block = table[start : start + codes * layout.width].reshape(codes, layout.width)
        rows, kind = _alike(block[:, layout.full :])
        own = block[:, 1 : layout.full]
        places[start] = length, length + own.size, codes_before
        parts += [own.ravel(), rows.ravel()]
        kinds.append(kind)
        length, codes_before = length + own.size + rows.size, codes_before + codes
    found = np.array([[places[start] for start in row] for row in base.tolist()], dtype=np.int64)
    starts = [np.ascontiguousarray(found[..., i]) for i in range(3)]
    parts.append(np.ones(LANES, dtype=np.float32))
    return starts[0], starts[1], starts[2], np.concatenate(kinds), np.concatenate(parts)


def _alike(block: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The rows that differ, bit by bit, and which of them each row is; there are fewer than 256 codes."""
    if not block.shape[1]:
        return block[:1], np.zeros(len(block), dtype=np.uint8)
    raw, size = block.tobytes(), block.shape[1] * block.itemsize
    rows = [raw[start : start + size] for start in range(0, len(raw), size)]
    number = {row: kind for kind, row in enumerate(sorted(set(rows)))}
    different = np.frombuffer(b"".join(number), dtype=np.float32).reshape(len(number), -1)
    return different, np.array([number[row] for row in rows], dtype=np.uint8)


def _distinct(
    layouts: tuple[Layout, ...], tables: Tables, widths: npt.NDArray[np.int64]
) -> tuple[list[tuple[int, int]], npt.NDArray[np.int64], int]:
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
    base: npt.NDArray[np.int64],
    table: npt.NDArray[np.float32],
) -> dict[int, npt.NDArray[np.float64]]:
    """Compute the ratios of some (stratum, column) pairs of one layout into `table`.

    Returns, by where a pair's table starts, `[3, alternatives]`: how fast log-evidence grows under each, 0 where it
    does not; the factor by which overshoot lets its weight be raised; and `Ratios.half`.
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
    starts = base[strata, index].tolist()
    for start, block in zip(starts, np.exp(logs).astype(np.float32), strict=True):
        table[start : start + block.size] = block.ravel()
    root = (p[:, :, None] * np.exp(logs / 2)).sum(axis=1)
    rows = n / time / share
    root *= np.exp(doubt * log_threshold * share / n)[:, None]
    half = np.where(told_apart(growth / 4 * time[:, None], rows, log_threshold), 1 / root, 0.0)
    each = np.stack([np.maximum(growth, 0.0), boost, half], axis=1)
    return dict(zip(starts, each, strict=True))


def _weights(
    layouts: tuple[Layout, ...], usable: npt.NDArray[np.bool_], boost: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The prior weights of the alternatives a column can use, to sum 1, and then raised by their overshoot."""
    parts = []
    for index, layout in enumerate(layouts):
        weight = np.array([alternative.weight for alternative in layout.alternatives]) * usable[index, : layout.width]
        parts.append(weight / max(float(weight.sum()), 1e-300) * boost[index, : layout.width])
    return np.concatenate(parts).astype(np.float32)


def _weaker(layouts: tuple[Layout, ...], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """`[columns, alternatives]`: see `Ratios.weaker`."""
    found = np.full(usable.shape, -1, dtype=np.int64)
    for layout in {id(layout): layout for layout in layouts}.values():
        members = np.array([i for i, own in enumerate(layouts) if own is layout])
        for family in families(layout):
            last = np.full(len(members), -1, dtype=np.int64)
            for k in family:
                found[members, k] = last
                last = np.where(usable[members, k], k, last)
    return found


def _repeats(
    columns: list[Column], tables: Tables, tolerance_rows: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
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
    return base, hit.astype(np.float32).ravel(), miss.astype(np.float32), np.maximum(gain, 0.0)
