"""How two columns hang together: tables of their levels, rank correlations, and what a moved margin explains. Pure.

A column is coarsened to at most `LEVELS` levels (numeric: by rank; categories: in the order of the mean rank of the
prediction that goes with them), so that a pair is a table of 36 counts and its rank correlation (Spearman's, of the
mid-ranks within the very rows that are looked at) is a function of the table.

Where a column's own distribution moves, the correlation of the same relation moves with it, and nobody can say by how
much from the margins alone. There are two readings, and both are common: rows were *selected* differently, which keeps
the odds ratios of the table (iterative proportional fitting gives the table with the new margins: W. E. Deming,
F. F. Stephan, Ann. Math. Stat. 11, 1940); or values were *transformed*, as by a change of unit, which keeps the copula
(A. Sklar, 1959; here the checkerboard copula of the reference's table, cut at the new margins). What lies between the
correlations that the two give is explained by the margins; only what goes beyond both is a change of the relation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, OTHER
from stream_monitor.compiled import njit
from stream_monitor.dependence import mid_ranks
from stream_monitor.reference import LEVELS, MAX_RELATED, Column, Kind, Reference, Relations, Role

Codes = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]
Tables = npt.NDArray[np.int64]

MAX_ROWS: Final = 65_535
"""Reference rows that tables are counted over, the first ones: a count fits 16 bits."""
MAX_PREDICTIONS: Final = 8
_CHUNK: Final = 4_096
_FITS: Final = 60
_STEEPEST: Final = 30.0


# ---- of a reference ----


def learn(columns: list[Column], codes: Codes) -> Relations | None:
    """The relations among columns by their codes `[rows, columns]`; None without two columns that vary."""
    codes = codes[:MAX_ROWS]
    ranks = [_ranks(column) for column in columns]
    anchor = next((i for i, column in enumerate(columns) if column.role is Role.PREDICTION), None)
    guide = ranks[anchor][codes[:, anchor]] if anchor is not None else np.zeros(len(codes))
    levels = [
        _levels(column, codes[:, i], rank, guide) for i, (column, rank) in enumerate(zip(columns, ranks, strict=True))
    ]
    varied = [i for i, own in enumerate(levels) if len(np.unique(own[codes[:, i]][own[codes[:, i]] >= 0])) > 1]
    chosen = _chosen(columns, varied, [own[codes[:, i]] for i, own in enumerate(levels)], guide)
    if len(chosen) < 2:
        return None
    coded = np.stack([levels[i][codes[:, i]] for i in chosen], axis=1)
    tables = all_tables(coded)
    found = [float(f"{rho:.4g}") for rho in map(rank_correlation, tables.astype(np.float64))]
    correlation: list[list[float]] = [[] for _ in chosen]
    for value, j in zip(found, np.triu_indices(len(chosen), 1)[1].tolist(), strict=True):
        correlation[j].append(value)
    return Relations(
        [columns[i].name for i in chosen], [levels[i].tolist() for i in chosen], correlation,
        tables.astype("<u2").tobytes(), len(varied) - len(chosen),
    )  # fmt: skip


def counts_of(relations: Relations) -> npt.NDArray[np.uint16]:
    """The counts, `[pairs, LEVELS, LEVELS]`; the document's own bytes, not to be written to."""
    return np.frombuffer(relations.tables, dtype="<u2").reshape(-1, LEVELS, LEVELS)


def _ranks(column: Column) -> Floats:
    """The mid-rank of every code over all strata."""
    counts = np.array([bins.counts for bins in column.strata], dtype=np.int64).sum(axis=0, keepdims=True)
    ranks: Floats = mid_ranks(counts)[0]
    return ranks


def _levels(column: Column, codes: Codes, ranks: Floats, guide: Floats) -> Levels:
    """The level of every code, −1 for those that have no place in an order."""
    counts = np.bincount(codes, minlength=len(ranks))
    if column.kind is Kind.NUMERIC:
        used = np.flatnonzero(counts[FIRST_BIN:]) + FIRST_BIN
        levels = _grouped(used, counts, len(ranks))
        if len(used):
            filled = np.maximum.accumulate(levels[FIRST_BIN:])
            levels[FIRST_BIN:] = np.maximum(filled, 0)
            levels[BELOW], levels[ABOVE] = 0, levels[used[-1]]
        return levels
    used = np.array([code for code in (OTHER, *range(FIRST_BIN, len(ranks))) if counts[code]], dtype=np.int64)
    sums = np.bincount(codes, weights=guide, minlength=len(ranks))
    mean = np.round(sums[used] / counts[used], 9)
    return _grouped(used[np.argsort(mean, kind="stable")], counts, len(ranks))


def _grouped(order: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], width: int) -> Levels:
    """Codes in their order, put into levels of about equal mass; a few codes have a level each."""
    levels = np.full(width, -1, dtype=np.int8)
    if len(order) <= LEVELS:
        levels[order] = np.arange(len(order))
        return levels
    share = counts[order] / counts[order].sum()
    place = np.minimum(((np.cumsum(share) - share / 2) * LEVELS).astype(np.int64), LEVELS - 1)
    levels[order] = np.unique(place, return_inverse=True)[1]
    return levels


def _chosen(columns: list[Column], varied: list[int], coded: list[Levels], guide: Floats) -> list[int]:
    """Predictions last; of more inputs than there is room for those that go most with the prediction."""
    predictions = [i for i in varied if columns[i].role is Role.PREDICTION][:MAX_PREDICTIONS]
    inputs = [i for i in varied if columns[i].role is Role.INPUT]
    room = MAX_RELATED - len(predictions)
    if len(inputs) > room:
        strength = {i: _strength(coded[i], guide) for i in inputs}
        inputs = sorted(sorted(inputs, key=lambda i: -strength[i])[:room])
    return inputs + predictions


def _strength(levels: Levels, guide: Floats) -> float:
    """How much a column goes with the prediction, by absolute correlation."""
    own = levels.astype(np.float64) - levels.mean()
    other = guide - guide.mean()
    size = float(np.sqrt((own @ own) * (other @ other)))
    return round(abs(float(own @ other)) / size, 6) if size > 0 else 0.0


def all_tables(levels: Levels) -> Tables:
    """Counts of all pairs of columns, `[pairs, LEVELS, LEVELS]`, of levels `[rows, columns]`."""
    columns = levels.shape[1]
    total = np.zeros((columns * LEVELS, columns * LEVELS))
    for start in range(0, len(levels), _CHUNK):
        part = levels[start : start + _CHUNK]
        hot = (part[:, :, None] == np.arange(LEVELS)).astype(np.float32).reshape(len(part), -1)
        total += hot.T @ hot
    first, second = np.triu_indices(columns, 1)
    cells: Tables = np.rint(total).astype(np.int64).reshape(columns, LEVELS, columns, LEVELS)[first, :, second, :]
    return cells


def relations_of(reference: Reference) -> Relations | None:
    return reference.relations if isinstance(reference.relations, Relations) else None


# ---- of a table ----


@njit
def scores(margin: Any) -> Any:
    """Mid-ranks of the levels of a margin, centred and of variance 1; zeros where nothing varies."""
    total, below = margin.sum(), 0.0
    found = np.zeros(len(margin))
    for a in range(len(margin)):
        found[a] = below + margin[a] / 2
        below += margin[a]
    mean = square = 0.0
    for a in range(len(margin)):
        mean += margin[a] * found[a] / total
    for a in range(len(margin)):
        found[a] -= mean
        square += margin[a] * found[a] ** 2 / total
    if total <= 0 or square <= 1e-9 * total * total:
        return np.zeros(len(margin))
    return found / np.sqrt(square)


@njit
def margins(table: Any) -> Any:
    """Sums by row and by column, `[2, LEVELS]`."""
    sums = np.zeros((2, len(table)))
    for a in range(len(table)):
        for b in range(len(table)):
            sums[0, a] += table[a, b]
            sums[1, b] += table[a, b]
    return sums


@njit
def moment(table: Any, s: Any, t: Any) -> float:
    """The mean product of scores under a table."""
    found, total = 0.0, 0.0
    for a in range(len(s)):
        for b in range(len(t)):
            found += table[a, b] * s[a] * t[b]
            total += table[a, b]
    return found / total if total > 0 else 0.0


@njit
def rank_correlation(table: Any) -> float:
    """Spearman's, of mid-ranks within the table; 0 where a column does not vary."""
    sums = margins(table)
    return moment(table, scores(sums[0]), scores(sums[1]))


@njit
def smoothed(table: Any) -> Any:
    """Shares of the cells, one row of the independent table added: what was never seen is not impossible."""
    total = table.sum()
    sums = margins(table)
    shares = np.empty(table.shape)
    for a in range(len(table)):
        for b in range(len(table)):
            even = (sums[0, a] + 1 / len(table)) * (sums[1, b] + 1 / len(table)) / (total + 1) ** 2
            shares[a, b] = (table[a, b] + even) / (total + 1)
    return shares


@njit
def selected(shares: Any, row: Any, column: Any) -> Any:
    """The table with the odds ratios of `shares` and the margins `row`, `column` (shares, too)."""
    fitted = shares.copy()
    for _ in range(_FITS):
        for a in range(len(row)):
            total = fitted[a].sum()
            factor = row[a] / total if total > 0 else 0.0
            for b in range(len(column)):
                fitted[a, b] *= factor
        worst = 0.0
        for b in range(len(column)):
            total = 0.0
            for a in range(len(row)):
                total += fitted[a, b]
            factor = column[b] / total if total > 0 else 0.0
            worst = max(worst, abs(total - column[b]))
            for a in range(len(row)):
                fitted[a, b] *= factor
        if worst < 1e-9:
            break
    return fitted


@njit
def transformed(shares: Any, row: Any, column: Any) -> Any:
    """The table with the copula of `shares` and the margins `row`, `column`."""
    size = len(row)
    grid = np.zeros((size + 1, size + 1))
    for a in range(size):
        along = 0.0
        for b in range(size):
            along += shares[a, b]
            grid[a + 1, b + 1] = grid[a, b + 1] + along
    u, v = grid[:, size].copy(), grid[size].copy()
    at, to = _cuts(row), _cuts(column)
    cut = np.empty((size + 1, size + 1))
    for a in range(size + 1):
        i, x = _place(u, at[a])
        for b in range(size + 1):
            j, y = _place(v, to[b])
            cut[a, b] = (1 - x) * ((1 - y) * grid[i, j] + y * grid[i, j + 1]) + x * (
                (1 - y) * grid[i + 1, j] + y * grid[i + 1, j + 1]
            )
    table = np.empty((size, size))
    for a in range(size):
        for b in range(size):
            table[a, b] = max(cut[a + 1, b + 1] - cut[a, b + 1] - cut[a + 1, b] + cut[a, b], 0.0)
    return table


@njit
def _cuts(margin: Any) -> Any:
    cuts = np.zeros(len(margin) + 1)
    for a in range(len(margin)):
        cuts[a + 1] = cuts[a] + margin[a]
    return cuts


@njit
def _place(knots: Any, value: float) -> tuple[int, float]:
    """The interval of ascending knots a value lies in, and how far along."""
    last = len(knots) - 2
    i = 0
    while i < last and value > knots[i + 1]:
        i += 1
    width = knots[i + 1] - knots[i]
    return i, min(max((value - knots[i]) / width, 0.0), 1.0) if width > 0 else 1.0


@njit
def rate(table: Any, s: Any, t: Any, wanted: float) -> tuple[float, float]:
    """How unlikely n rows of `table` have a mean product of scores beyond `wanted`: with probability exp(−n·rate) at
    most, for any n and any table (H. Chernoff, Ann. Math. Stat. 23, 1952). The rate, and the tilt θ that gives it."""
    total = table.sum()
    low, high = (0.0, _STEEPEST) if wanted > moment(table, s, t) else (-_STEEPEST, 0.0)
    for _ in range(40):  # the tilted mean ascends with θ
        middle = (low + high) / 2
        if _tilted(table, s, t, total, middle)[1] < wanted:
            low = middle
        else:
            high = middle
    theta = (low + high) / 2
    return max(theta * wanted - _tilted(table, s, t, total, theta)[0], 0.0), theta


@njit
def _tilted(table: Any, s: Any, t: Any, total: float, theta: float) -> tuple[float, float]:
    """The logarithm of the mean of exp(θ·product), and the mean product under that tilt."""
    largest = -np.inf
    for a in range(len(s)):
        for b in range(len(t)):
            if table[a, b] > 0:
                largest = max(largest, theta * s[a] * t[b])
    weight = mean = 0.0
    for a in range(len(s)):
        for b in range(len(t)):
            if table[a, b] > 0:
                product = s[a] * t[b]
                w = table[a, b] * np.exp(theta * product - largest)
                weight += w
                mean += w * product
    return largest + np.log(weight / total), mean / weight


@njit
def mean_log(table: Any, s: Any, t: Any, theta: float) -> float:
    """The logarithm of the mean of exp(θ·product)."""
    return _tilted(table, s, t, table.sum(), theta)[0]
