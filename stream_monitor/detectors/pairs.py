"""`pairs`: has the rank correlation of two columns left that of the reference, beyond what their margins explain?

Looked at once every 200 rows over the last 200, 400 and 900. A *screen* over all pairs comes first: correlations of the
reference's scores from sums over blocks of 100 rows (whole numbers, so exact on every machine, whatever the order of
addition). A pair that stands out is *judged* on its rows:

- its correlation is that of the mid-ranks within the window, and counts as changed only beyond both readings of what
  the columns' own drift explains (see `association.py`);
- and only as far as it also differs within the blocks of the window, the block that speaks most for it left out: two
  columns that move at the same time are correlated over the window, and not within its blocks;
- the rows before the onset of a column's own open drift are left out;
- the probability of such a mean product of scores is at most exp(−n·Λ) (Chernoff; any table, any n), with n divided by
  √(τ₁τ₂), the autocorrelation times (by Cauchy and Schwarz at least that of the product of two series), and made up for
  the finite reference (1/n + 1/N).

Every look at every pair and window pays its share of the budget (a union bound), so it may be looked at for ever.

The `joint` test is about all pairs of inputs at once: the largest change, at its share among them; or the sum of
2·n·Λ over the pairs whose columns have no open drift. That sum is, in a normal approximation, one of squares with the
covariances μ_a·μ_b, μ the eigenvalues of the matrix of rank correlations; its tail bound is that of B. Laurent,
P. Massart, Ann. Stat. 28 (2000), lemma 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf, log, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.association import (
    counts_of,
    margins,
    rank_correlation,
    scores,
)
from stream_monitor.compiled import njit
from stream_monitor.detectors.pair_judge import FEWEST, judge, steps_of
from stream_monitor.detectors.pair_sums import BLOCK, KEPT, SCALE, WINDOWS, move_on
from stream_monitor.packed import padded
from stream_monitor.reference import LEVELS, Reference, Relations, Role

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

EVERY: Final = 2
"""Blocks between two looks."""
CLOSELY: Final = 3 * EVERY * BLOCK
"""Rows between two looks at pairs of columns that drift."""
LOOSE: Final = 0.7
"""What part of a judgement's bar the screen asks for."""
JOINT_SHARE: Final = 0.5
"""Of the budget, for the pairs of inputs; the rest is for the pairs with a prediction."""
MOST: Final = 256
"""Pairs that are judged at one look, at most: those that stand out most."""
ONSET_SLACK: Final = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window says of a pair. `now`: its rank correlation over `n` rows; `low` … `high`: what the reference
    explains; `excess`: how far beyond, signed; `evidence`: n·Λ."""

    pair: int
    window: int
    first_row: int
    n: int
    now: float
    low: float
    high: float
    excess: float
    evidence: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the screen says: by window, how many pairs stand out and which, every pair's square, and their sum."""

    found: Rows
    standing: Rows
    squares: Floats
    total: Floats


class Pairs:
    """The relations of one stream under one reference; all its state can be had from the last rows.

    `alpha`: false alarms a row that all its tests may raise in the mean. `times`: autocorrelation times of all columns
    of the reference. `pairs`: `[pairs, 2]` places among `places`, the columns' numbers in the reference. A stream of 21
    columns has 210 pairs, so what is kept by pair is kept small: the counts stay those of the document.
    """

    def __init__(self, reference: Reference, relations: Relations, alpha: float, min_change: float) -> None:
        numbers = {column.name: i for i, column in enumerate(reference.columns)}
        self.names = relations.columns
        self.places = np.array([numbers[name] for name in self.names], dtype=np.int64)
        count = len(self.names)
        self.pairs = _pairs_of(count)
        roles = [reference.columns[i].role for i in self.places.tolist()]
        self.with_prediction, self.among_inputs, self._none = _masks(tuple(role is Role.PREDICTION for role in roles))
        self.min_change = min_change
        self.tables = counts_of(relations)
        self.reference_rows = self.tables.sum(axis=(1, 2), dtype=np.uint32)
        self.levels = padded(relations.levels)
        tables = self.tables.astype(np.float64)
        self._scores = _scores(tables, self.levels)
        self._expected = _expected(tables, self._scores.astype(np.float64), self.pairs)
        self._alpha = alpha * EVERY * BLOCK / len(WINDOWS)
        inputs = max(int(self.among_inputs.sum()), 1)
        self.sum_bar = _sum_bar(self._matrix(), log(1 / (self._alpha * JOINT_SHARE / 2)))
        self._sum_screen = inputs + LOOSE * (self.sum_bar - inputs)
        self._roots: Floats | None = None
        windows = len(WINDOWS)
        self._bounds = np.zeros((2, windows, len(self.pairs)), dtype=np.float32)
        self._weights = np.zeros((windows, len(self.pairs)), dtype=np.float32)
        triangle = count * (count + 1) // 2
        self._products = np.zeros((KEPT, triangle), dtype=np.float32)
        self._sums = np.zeros((KEPT, count), dtype=np.float32)
        self._all_products = np.zeros((windows, triangle), dtype=np.float32)
        self._all_sums = np.zeros((windows, count), dtype=np.float32)
        self._block = -1
        """The blocks that the sums hold, −1 for none."""

    @property
    def bar(self) -> Floats:
        """By pair, the evidence that is asked for."""
        tests, inputs = max(int(self.with_prediction.sum()), 1), max(int(self.among_inputs.sum()), 1)
        bar = np.full(len(self.pairs), log(2 * tests / (self._alpha * (1 - JOINT_SHARE))))
        bar[self.among_inputs] = log(2 * inputs / (self._alpha * JOINT_SHARE / 2))
        bar[~(self.with_prediction | self.among_inputs)] = inf  # the scores of two classes
        return bar

    def before(self, pair: int) -> float:
        """A pair's rank correlation in the reference."""
        return rank_correlation(self._table(pair))

    def _table(self, pair: int) -> Floats:
        table: Floats = self.tables[pair].astype(np.float64)
        return table

    def _matrix(self) -> Floats:
        """Rank correlations among the inputs."""
        count = int(self.pairs[self.among_inputs].max()) + 1 if self.among_inputs.any() else 0
        matrix = np.eye(count)
        first, second = self.pairs[self.among_inputs].T
        matrix[first, second] = matrix[second, first] = _correlations(self.tables[self.among_inputs])
        return matrix

    def pace(self, times: Floats) -> None:
        """The autocorrelation times of all columns of the reference."""
        self._roots = np.sqrt(times[self.places])
        for w, blocks in enumerate(WINDOWS):
            rows = self.effective(np.full(len(self.pairs), blocks * BLOCK), np.arange(len(self.pairs)))
            bar = np.minimum(self.bar, self.sum_bar / 2)
            reach = LOOSE * np.sqrt(2 * bar / np.maximum(rows - 3, 1e-9))
            center = np.arctanh(np.clip(self._expected, -0.999, 0.999))
            low, high = np.tanh(center - reach), np.tanh(center + reach)
            least = np.minimum(low - self._expected, -LOOSE * self.min_change).astype(np.float32)
            most = np.maximum(high - self._expected, LOOSE * self.min_change).astype(np.float32)
            # Rounded inwards, so that half the bytes let through to judgement whatever the whole would have.
            self._bounds[0, w] = np.nextafter(least, np.float32(0))
            self._bounds[1, w] = np.nextafter(most, np.float32(0))
            self._weights[w] = rows / (1 - np.clip(self._expected, -0.999, 0.999) ** 2) ** 2

    @property
    def paced(self) -> bool:
        return self._roots is not None

    def _times(self, pairs: Any) -> Any:
        """√(τ₁τ₂) of a pair, or of many."""
        assert self._roots is not None
        return self._roots[self.pairs[pairs, 0]] * self._roots[self.pairs[pairs, 1]]

    def effective(self, rows: Any, pairs: Any) -> Any:
        """Rows that a window is worth, dependence and the reference's own finiteness paid."""
        times = self._times(pairs)
        own, trained = rows / times, self.reference_rows[pairs] / times
        return own * trained / np.maximum(own + trained, 1e-9)

    def look(
        self, ring: Codes, rows: int, onsets: Rows, moved: npt.NDArray[np.bool_], since: Mapping[int, int]
    ) -> list[Verdict]:
        """At the end of every second block, `rows` rows fed, the last 900 of them in the ring of codes (row r at r
        modulo its length): the pairs that have changed, by pair.

        `onsets`, `moved`: `[columns of the reference]`, or empty where no column has moved: the row from which on a
        column's rows are alike, and whether it has an open drift. `since`: by pair, rows before are not looked at.
        """
        found: dict[int, Verdict] = {}
        either = self._none
        if len(moved):
            unlike = moved | (onsets > rows - KEPT * BLOCK)
            either = np.logical_or(*unlike[self.places][self.pairs].T) if unlike.any() else either
        screen = self._keep_up(ring, rows, either)
        close = rows % CLOSELY == 0
        for w, blocks in enumerate(WINDOWS):
            if rows < blocks * BLOCK:
                break
            wide = close and blocks == KEPT and screen.total[w] >= self._sum_screen
            if not (screen.found[w] or wide):
                continue
            verdicts = [
                self.judge(ring, rows, pair, blocks, onsets, since.get(pair, 0))
                for pair in self._candidates(screen, w, either, wide=wide)
                if close or not either[pair]  # what is explained by a drift stays so for a while: see less often
            ]
            self._decide([v for v in verdicts if v is not None], either, found)
        return [found[pair] for pair in sorted(found)]

    def _candidates(self, screen: Look, w: int, either: npt.NDArray[np.bool_], *, wide: bool) -> list[int]:
        """The pairs that stand out, and if all inputs together do, those of steady ones; `MOST` at most."""
        standing, squares = screen.standing[w, : screen.found[w]], screen.squares[w]
        if wide:
            standing = np.union1d(standing, np.flatnonzero(self.among_inputs & ~either))
        if len(standing) > MOST:
            standing = np.sort(standing[np.argsort(-squares[standing], kind="stable")[:MOST]])
        chosen: list[int] = standing.tolist()
        return chosen

    def _decide(self, verdicts: list[Verdict], either: npt.NDArray[np.bool_], found: dict[int, Verdict]) -> None:
        """The pairs that fire, into `found`; of inputs, all large changes if the sum of all is too much."""
        bar = self.bar
        large = [v for v in verdicts if abs(v.excess) >= self.min_change]
        steady = [v for v in verdicts if self.among_inputs[v.pair] and not either[v.pair]]
        wide = sum(2 * v.evidence for v in steady) >= self.sum_bar
        for v in large:
            summed = wide and self.among_inputs[v.pair] and not either[v.pair]
            if v.evidence >= bar[v.pair] or summed:
                found.setdefault(v.pair, v)

    def judge(self, ring: Codes, rows: int, pair: int, blocks: int, onsets: Rows, since: int) -> Verdict | None:
        """What the last blocks say of a pair; None where too few of their rows do."""
        i, j = self.pairs[pair].tolist()
        first = max(rows - blocks * BLOCK, since)
        if len(onsets):
            first = max(first, int(onsets[self.places[i]]), int(onsets[self.places[j]]))
        if rows - first < FEWEST:
            return None
        result = np.zeros(6)
        n = judge(
            ring, first, rows, int(self.places[i]), int(self.places[j]), self.levels[i], self.levels[j],
            self._table(pair), result,
        )  # fmt: skip
        if n < FEWEST:
            return None
        now, low, high, excess, slope = result[:5].tolist()
        return Verdict(pair, blocks, first, n, now, low, high, excess, slope * float(self.effective(n, pair)))

    def onset(self, ring: Codes, rows: int, verdict: Verdict) -> tuple[int, int]:
        """The likeliest and the earliest plausible row of a change's onset."""
        i, j = self.pairs[verdict.pair].tolist()
        first = max(rows - KEPT * BLOCK, 0)
        steps = steps_of(
            ring, verdict.first_row, first, rows, int(self.places[i]), int(self.places[j]), self.levels[i],
            self.levels[j], self._table(verdict.pair), verdict.excess,
        )  # fmt: skip
        tail = np.cumsum(steps[::-1])[::-1] / self._times(verdict.pair)
        best = int(tail.argmax())
        near = np.flatnonzero(tail[: best + 1] >= tail[best] - ONSET_SLACK)
        return first + best, first + int(near[0])

    def _keep_up(self, ring: Codes, rows: int, either: npt.NDArray[np.bool_]) -> Look:
        """The sums of the blocks up to now, of those that are not here yet (all, after a restart), and the screen."""
        block = rows // BLOCK
        begin = block - EVERY
        if self._block != begin:
            for sums in (self._products, self._sums, self._all_products, self._all_sums):
                sums[:] = 0
            begin = max(block - KEPT, 0)
        windows, pairs = self._weights.shape
        screen = Look(
            np.zeros(windows, dtype=np.int64), np.empty((windows, pairs), dtype=np.int64), np.empty((windows, pairs)),
            np.zeros(windows),
        )  # fmt: skip
        move_on(
            ring, begin, block, self.places, self.levels, self._scores, self._products, self._sums, self._all_products,
            self._all_sums, self._expected, self._bounds, self._weights, self.among_inputs, either, screen.squares,
            screen.standing, screen.found, screen.total,
        )  # fmt: skip
        self._block = block
        return screen


@cache
def _pairs_of(count: int) -> Rows:
    """`[pairs, 2]`; one array for all streams with that many columns."""
    pairs = np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64)
    pairs.flags.writeable = False
    return pairs


@cache
def _masks(predicted: tuple[bool, ...]) -> tuple[npt.NDArray[np.bool_], ...]:
    """Which pairs are of an input and a prediction, which of inputs, and none; for all streams with such columns."""
    first, second = np.array(predicted)[_pairs_of(len(predicted)).T]
    return second & ~first, ~second, np.zeros(len(first), dtype=np.bool_)


@njit
def _scores(tables: Any, levels: Any) -> Any:
    """By column and level, in sixteenths of a standard deviation; 0 for levels that no code has."""
    found = np.zeros((len(levels), LEVELS), dtype=np.float32)
    for i in range(len(levels)):
        pair = max(i - 1, 0)  # the first that it is in: (0, 1), else (0, i)
        own = scores(margins(tables[pair])[0 if i == 0 else 1])
        for level in levels[i]:
            if level >= 0:
                found[i, level] = np.rint(own[level] * SCALE)
    return found


@njit
def _correlations(tables: Any) -> Any:
    found = np.empty(len(tables))
    for k in range(len(tables)):
        found[k] = rank_correlation(tables[k].astype(np.float64))
    return found


@njit
def _expected(tables: Any, by_level: Any, pairs: Any) -> Any:
    """The correlation of the rounded scores under each table; compiled, as a restore makes them for every stream."""
    found, size = np.zeros(len(pairs)), by_level.shape[1]
    for k in range(len(pairs)):
        table, s, t = tables[k], by_level[pairs[k, 0]], by_level[pairs[k, 1]]
        total = x = y = xx = yy = xy = 0.0
        for a in range(size):
            for b in range(size):
                n = float(table[a, b])
                total += n
                x += n * s[a]
                y += n * t[b]
                xx += n * s[a] * s[a]
                yy += n * t[b] * t[b]
                xy += n * s[a] * t[b]
        if total > 0:  # all of them whole numbers below 2⁵³: exact up to here
            spread = np.sqrt((xx - x * x / total) * (yy - y * y / total))
            found[k] = (xy - x * y / total) / spread if spread > 0 else 0.0
    return found


def _sum_bar(matrix: Floats, x: float) -> float:
    """What a sum of squared, correlated standard normals, one a pair of inputs, exceeds with probability exp(−x)."""
    if len(matrix) < 2:
        return float("inf")
    values = np.maximum(np.linalg.eigvalsh(matrix), 0.0)
    first, second = np.triu_indices(len(values), 1)
    spread = values[first] * values[second]
    spread *= len(spread) / max(float(spread.sum()), 1e-9)
    bar = spread.sum() + 2 * sqrt(float(spread @ spread) * x) + 2 * float(spread.max()) * x
    return float(f"{bar:.9g}")  # eigenvalues differ in the last bit between machines
