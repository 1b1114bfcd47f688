"""`evidence`: has anything in a column's distribution left the reference? The first to fire, with a known error rate.

A Shiryaev–Roberts e-detector. For every alternative k (see `alternatives.py`) and every row with code x

    R_k ← (R_k + 1) · q_k(x) / p(x)

and the column fires when the weighted mean Σ w_k R_k reaches 1/α. Each factor has mean at most 1 while rows follow the
reference, so the mean minus the row number is a supermartingale, and the mean number of rows between false alarms is
**at least 1/α, for any distribution**, continuous or not: Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532
(2022), theorem 2.4; no simulation is involved. Three facts bend it: the reference is finite and the threshold is passed
by a jump (each factor is weakened, each weight w_k raised, see `doubt.py`), and rows may depend on one another (each
factor is raised to 1/τ, τ the integrated autocorrelation time; by Jensen's inequality that keeps the bound).

When it fires, w_k R_k are the posterior odds of the alternatives, and from there on they go through the forward
filter of a hidden Markov model whose states are the alternatives, a drift half as large as the weakest of each family,
and the reference: a drift ends in any row with probability `return_hazard`, turns into another with `change_hazard`, or
into the next weaker of its family with `FADE_HAZARD`. A return is proved when the odds of the reference reach
`return_odds`. The halves are there for drifts between the reference and the weakest alternative, which would be opened
and closed in turns. By the same theorem, the other way round, a drift that goes on is *falsely* declared over at most
once in `return_odds`/`return_hazard` rows in the mean; and a strong drift's end is seen as fast as its onset was,
because the episode itself has ruled out the weak alternatives, which look like the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import INVALID
from stream_monitor.compiled import njit
from stream_monitor.detectors.onset import SPEAKING, likeliest, rows_earlier
from stream_monitor.detectors.ratios import ratios_of
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import restored, within
from stream_monitor.detectors.tables import tables_of
from stream_monitor.reference import Reference

NEVER: Final = -1
NO_CODE: Final = 255
"""The previous code before the first row: no column has that many."""
HALF: Final = 0.1
"""Odds of a drift half as large as an alternative against that alternative itself, when an episode opens."""
FADE_HAZARD: Final = 1e-6
"""A row's probability that a drift goes on as the next weaker one of its family. It keeps alive the alternative just
below a drift that lies between two: against the one above, which may fit as well, chance alone proves a return."""
FADE_EVERY: Final = 16
"""Rows between two such steps: at every row they would cost more than they are worth."""
CLEAR_SHARE: Final = 1e-4
"""What the weakest drifts may keep of the posterior of all drifts for the others to be clear of them."""
LARGEST: Final = 2.0**100
"""Nothing grows beyond this: float32 ends at 2¹²⁸, and one row multiplies by less than 1e8."""


@dataclass(frozen=True, slots=True)
class EvidenceParams:
    """`doubt`: the share of the reference's own uncertainty that is paid for; 0 takes its shares for the truth.

    `return_odds`, `return_hazard`, `change_hazard`: of the filter of an open episode. `pane_rows`: `engage` takes
    effect at multiples of it. `onset_slack`: log-evidence by which the earliest plausible onset may lie before the
    likeliest.
    """

    doubt: float = 1.0
    return_odds: float = 1_000.0
    return_hazard: float = 1e-4
    change_hazard: float = 1e-7
    pane_rows: int = 100
    onset_slack: float = 5.0


class Evidence:
    """The e-detector over all columns of a stream; 17 ns a value.

    `alpha`: false alarms a row of the stream that this detector may raise in the mean, shared equally by the columns.

    What the lifecycle reads, each `[columns]`: `engaged` (an episode is open) and `return_row` (the row at which the
    return of an open episode was proved, −1 until then or if drift came back).
    """

    def __init__(self, reference: Reference, params: EvidenceParams, alpha: float) -> None:
        self.params = params
        self.tables = tables_of(reference)
        columns = len(reference.columns)
        self.ratios = ratios_of(reference, self.tables, params.doubt, ceil(2 * log(columns / alpha)) / 2)
        total = int(self.ratios.widths.sum())
        self._threshold = np.float32(columns / alpha)
        """1/α of one column."""
        enough = params.return_odds / (1 + params.return_odds)
        hazards = (params.return_hazard, params.change_hazard, enough, HALF, FADE_HAZARD * FADE_EVERY)
        self._hazards = np.array(hazards, dtype=np.float32)
        self._evidence = np.zeros(total, dtype=np.float32)
        self._halves = np.zeros(total, dtype=np.float32)
        self._cusum = np.ones(total, dtype=np.float32)
        self._age = np.zeros(total, dtype=np.int32)
        self._previous = np.full(columns, NO_CODE, dtype=np.uint8)
        self._pending = np.zeros(columns, dtype=np.bool_)
        self._back = np.zeros(columns, dtype=np.float32)
        self._next_row = np.zeros(1, dtype=np.int64)
        self._since_row = np.zeros(columns, dtype=np.int64)
        self.engaged = np.zeros(columns, dtype=np.bool_)
        self.return_row = np.full(columns, NEVER, dtype=np.int64)

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, ordered by row, then column."""
        rows, columns = codes.shape
        found = np.empty((columns, 4), dtype=np.int64)
        values = np.empty(columns, dtype=np.float32)
        ratios = self.ratios
        count = _advance(
            codes, strata, first_row, self.params.pane_rows, self._threshold, self._hazards,
            self.tables.widths, ratios.widths, ratios.first, ratios.full, ratios.base, ratios.rest, ratios.kind_base,
            ratios.kinds, ratios.table, ratios.scale_base, ratios.scale,
            ratios.repeat_base, ratios.repeat, ratios.no_repeat, ratios.weights, ratios.repeat_weights,
            ratios.half, ratios.weaker, self._evidence, self._halves, self._cusum, self._age,
            self._previous, self._pending, self._back, self.engaged, self.return_row, found, values,
        )  # fmt: skip
        self._next_row[0] = first_row + rows
        signals = [self._signal(found[i].tolist(), float(values[i])) for i in range(count)]
        return sorted(signals, key=lambda signal: (signal.row, signal.column))

    def _signal(self, found: list[int], value: float) -> Signal:
        row, column, strongest, age = found
        since = int(self._since_row[column])
        alternative = self.ratios.layouts[column].alternatives[strongest]
        gain = float(self.ratios.gain[self.ratios.first[column] + strongest])
        onset = max(row - age + 1, since)
        slack = int(self.params.onset_slack / max(gain, 1e-6)) + 1
        return Signal(
            row=row,
            column=column,
            detector="evidence",
            statistic="log_e_value",
            value=float(np.log(value)),
            threshold=float(np.log(self._threshold)),
            direction=alternative.direction,
            onset_row=onset,
            earliest_row=max(onset - slack, since),
            alternative=alternative.name,
        )

    def onset(self, signal: Signal, codes: Codes, strata: Strata) -> tuple[int, int]:
        """The likeliest and the earliest plausible onset of what any detector's `signal` has found (see `onset.py`).

        `codes`, `strata`: `[rows]` of its column, up to the signal's row.
        """
        column, first_row = signal.column, signal.row + 1 - len(codes)
        names = [alternative.name for alternative in self.ratios.layouts[column].alternatives]
        own = signal.onset_row, signal.earliest_row
        steps = self._steps(column, codes, strata)
        if signal.detector == "evidence":
            best, row = names.index(signal.alternative), signal.onset_row - first_row
            if best == 0 or row < 0:
                return own
        else:
            since = max(int(self._since_row[column]) - first_row, 0)
            with np.errstate(divide="ignore"):
                best, row, likelihood = likeliest(steps[since:], np.log(self.ratios.weights[self._own(column)]))
            row += since
            if likelihood < SPEAKING:
                return own
        gain = float(self.ratios.gain[self.ratios.first[column] + best])
        onset = first_row + row
        return onset, max(
            onset - rows_earlier(steps[:row, best], self.params.onset_slack, gain), int(self._since_row[column])
        )

    def spoken(self, column: int, codes: Codes, strata: Strata) -> tuple[float, dict[str, float]]:
        """What rows `[rows]` of a column say by themselves, whatever came before: the logarithm of an e-value against
        the reference (a Bayes factor of all alternatives by their weights), and the log-likelihood ratio of each."""
        own, layout = self._own(column), self.ratios.layouts[column]
        weights = self.ratios.weights[own].astype(np.float64)
        usable = np.flatnonzero(weights)
        if not len(usable) or not len(codes):
            return 0.0, {}
        total = self._steps(column, codes, strata).sum(axis=0)[usable]
        mixed = float(np.logaddexp.reduce(total + np.log(weights[usable] / weights.sum())))
        return mixed, {
            layout.alternatives[k].name: ratio for k, ratio in zip(usable.tolist(), total.tolist(), strict=True)
        }

    def _steps(self, column: int, codes: Codes, strata: Strata) -> npt.NDArray[np.float64]:
        """`[rows, alternatives]` log-likelihood ratios."""
        known = np.where(codes < self.tables.widths[column], codes, INVALID)
        steps: npt.NDArray[np.float64] = np.log(self.ratios.at(strata, column, known), dtype=np.float64)
        return steps

    def _own(self, column: int) -> slice:
        first = int(self.ratios.first[column])
        return slice(first, first + int(self.ratios.widths[column]))

    def clear(self, column: int) -> bool:
        """Whether, as of the last row, the drift of the open episode is known to be none of the weakest: no half of an
        alternative, and where the reference cannot tell halves from itself no weakest alternative of a family. Against
        one of those a return is proved by chance some time."""
        if not self.engaged[column] or self._back[column] >= 0.5:
            return False
        own = self._own(column)
        weakest = (self.ratios.half[own] == 0) & (self.ratios.weaker[own] < 0)
        weakest[0] = False  # `repeat` is of no family
        halves, drifts = float(self._halves[own].sum()), float(self._evidence[own].sum())
        weak = halves + float(self._evidence[own][weakest].sum())
        return weak < CLEAR_SHARE * (drifts + halves)

    def engage(self, column: int) -> None:
        """An episode has opened: from the next pane on, look for a return instead of for drift."""
        if not self.engaged[column]:
            self._pending[column] = True

    def release(self, column: int) -> None:
        """The column's episode was resolved: start afresh for it."""
        own = self._own(column)
        self._evidence[own], self._halves[own], self._cusum[own], self._age[own] = 0.0, 0.0, 1.0, 0
        self._previous[column] = NO_CODE
        self._pending[column] = self.engaged[column] = False
        self._back[column], self.return_row[column] = 0.0, NEVER
        self._since_row[column] = self._next_row[0]

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""
        return {name: getattr(self, attribute).copy() for name, attribute in _STATE.items()}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this reference, and changes nothing then."""
        arrays = restored("evidence", state, {name: getattr(self, attribute) for name, attribute in _STATE.items()})
        within("evidence", "evidence", arrays["evidence"], 0.0, LARGEST)
        within("evidence", "halves", arrays["halves"], 0.0, 1.001)
        within("evidence", "cusum", arrays["cusum"], 1.0, LARGEST)
        within("evidence", "age", arrays["age"], 0, 2**31 - 1)
        within("evidence", "back", arrays["back"], 0.0, 1.001)
        rows = int(arrays["next_row"][0])
        within("evidence", "next_row", arrays["next_row"], 0, 2**62)
        within("evidence", "since_row", arrays["since_row"], 0, rows)
        within("evidence", "return_row", arrays["return_row"], NEVER, rows)
        gone = np.where(self.ratios.half > 0, np.float32(0.0), arrays["halves"])  # once every alternative had one
        arrays["evidence"], arrays["halves"] = arrays["evidence"] + gone, arrays["halves"] - gone
        for name, attribute in _STATE.items():
            setattr(self, attribute, arrays[name])


_STATE: Final = {
    "evidence": "_evidence",
    "halves": "_halves",
    "cusum": "_cusum",
    "age": "_age",
    "previous": "_previous",
    "pending": "_pending",
    "back": "_back",
    "since_row": "_since_row",
    "next_row": "_next_row",
    "engaged": "engaged",
    "return_row": "return_row",
}


@njit
def _advance(
    codes: Any, strata: Any, first_row: int, pane_rows: int, threshold: Any, hazards: Any,
    code_widths: Any, widths: Any, firsts: Any, fulls: Any, base: Any, rest: Any, kind_base: Any, kinds: Any,
    table: Any, scale_base: Any, scale: Any, repeat_base: Any, repeat: Any, no_repeat: Any,
    weights: Any, repeat_weights: Any, half: Any, weaker: Any, evidence: Any, halves: Any, cusum: Any, ages: Any,
    previous: Any, pending: Any, back: Any, engaged: Any, return_row: Any, found: Any, values: Any,
) -> int:  # fmt: skip
    """Feed rows to all columns, one column after the other; returns how many of `found` and `values` are filled.

    A row of `found`: row, column, strongest alternative, age of its CUSUM. Number 0, `repeat`, looks at two rows and
    lives apart from the others, which the compiler handles eight at a time.
    """
    count = 0
    # A row has room for the lanes that `_look_up` writes beyond a column's last alternative.
    pairs, roots = np.empty(len(codes), dtype=np.float32), np.empty((len(codes), widths.max() + 8), dtype=np.uint16)
    for column in range(codes.shape[1]):
        width, first = widths[column], firsts[column]
        own, weight = evidence[first : first + width], weights[first : first + width]
        scales = scale[scale_base[column] : scale_base[column] + width]
        _look_up(
            codes[:, column], strata, previous, column, code_widths[column], width, fulls[column], base[:, column],
            rest[:, column], kind_base[:, column], kinds, table, repeat_base[:, column], repeat, no_repeat[column],
            roots, pairs,
        )  # fmt: skip
        i = 0
        if not engaged[column]:
            stop = len(codes)
            if pending[column]:
                stop = min(stop, -first_row % pane_rows)
            cu, age = cusum[first : first + width], ages[first : first + width]
            i, total = _hunt(stop, roots, scales, pairs, weight, repeat_weights[column], threshold, own, cu, age)
            if total > 0:
                best = _strongest(own)
                found[count, 0], found[count, 1] = first_row + i - 1, column
                found[count, 2], found[count, 3] = best, age[best]
                values[count] = min(total, np.float32(LARGEST))
                count += 1
            if total > 0 or i < len(codes):
                pending[column], engaged[column] = False, True
                _open(
                    own,
                    halves[first : first + width],
                    half[first : first + width],
                    hazards[3],
                    weight,
                    repeat_weights[column],
                )
                cu[:] = np.float32(1.0)
                age[:] = 0
        if engaged[column]:
            _follow(
                i, first_row, roots, scales, pairs, weight, repeat_weights[column], half[first : first + width],
                weaker[first : first + width], hazards, own, halves[first : first + width], column, back, return_row,
            )  # fmt: skip
    return count


@njit
def _look_up(
    codes: Any, strata: Any, previous: Any, column: int, code_width: int, width: int, full: int, base: Any, rest: Any,
    kind_base: Any, kinds: Any, table: Any, repeat_base: Any, repeat: Any, no_repeat: Any, roots: Any, pairs: Any,
) -> None:  # fmt: skip
    """Each row's roots, those of its code and those that codes share put together, and its ratio for `repeat`."""
    last = previous[column]
    for i in range(len(codes)):
        code = codes[i]
        if code >= code_width:  # not of this reference: never read beyond the table
            code = INVALID
        stratum = strata[i]
        own = base[stratum] + code * (full - 1) - 1
        shared = rest[stratum] + kinds[kind_base[stratum] + code] * (width - full)
        row = roots[i]
        for k in range(0, full, 8):  # what is too much at either end is written over
            _copy_lanes(table[own + k : own + k + 8], row[k : k + 8])
        for k in range(0, width - full, 4):
            _copy_four(table[shared + k : shared + k + 4], row[full + k : full + k + 4])
        row[0] = 0
        pairs[i] = repeat[repeat_base[stratum] + code] if code == last else no_repeat
        if last == NO_CODE:
            pairs[i] = np.float32(1.0)
        last = code
    previous[column] = last


@njit
def _copy_lanes(source: Any, target: Any) -> None:
    """Eight values; all are read before any is written, so that the compiler can move them at once."""
    a, b, c, d = source[0], source[1], source[2], source[3]
    e, f, g, h = source[4], source[5], source[6], source[7]
    target[0], target[1], target[2], target[3] = a, b, c, d
    target[4], target[5], target[6], target[7] = e, f, g, h


@njit
def _copy_four(source: Any, target: Any) -> None:
    a, b, c, d = source[0], source[1], source[2], source[3]
    target[0], target[1], target[2], target[3] = a, b, c, d


@njit
def _ratio(root: Any, scale: Any) -> Any:
    """What `Ratios.table` keeps of it."""
    square = np.float32(root) * np.float32(root)
    return square * square * scale


@njit
def _hunt(
    stop: int, roots: Any, scales: Any, pairs: Any, weight: Any, repeat_weight: Any, threshold: Any, sr: Any, cu: Any,
    age: Any,
) -> tuple[int, Any]:  # fmt: skip
    """Feed rows up to `stop` or to the first that fires: how many were fed, and the evidence if it fired, else 0."""
    one = np.float32(1.0)
    repeated, repeated_cusum, repeated_age = sr[0], cu[0], age[0]
    sr[0], cu[0], age[0] = np.float32(0.0), one, 0
    fed, fired = 0, np.float32(0.0)
    while fed < stop:
        root, pair = roots[fed, : len(sr)], pairs[fed]
        fed += 1
        repeated = (repeated + repeat_weight) * pair
        repeated_cusum *= pair
        repeated_age += 1
        if repeated_cusum <= one:
            repeated_cusum, repeated_age = one, 0
        for k in range(len(sr)):
            ratio = _ratio(root[k], scales[k])
            sr[k] = (sr[k] + weight[k]) * ratio
            grown = cu[k] * ratio
            alive = grown > one
            cu[k] = grown if alive else one
            age[k] = age[k] + 1 if alive else 0
        total = _sum(sr) + repeated
        if total >= threshold:
            fired = total
            break
    sr[0], cu[0], age[0] = repeated, repeated_cusum, repeated_age
    return fed, fired


@njit
def _follow(
    i: int, first_row: int, roots: Any, scales: Any, pairs: Any, weight: Any, repeat_weight: Any, half: Any,
    weaker: Any, hazards: Any, posterior: Any, halves: Any, column: int, back: Any, return_row: Any,
) -> None:  # fmt: skip
    """The forward filter of an open episode over rows `i` and on; `back` is the posterior of the reference."""
    one, zero, tiny = np.float32(1.0), np.float32(0.0), np.float32(1e-9)  # ruled out
    halved = _sum(halves)
    returning, changing, enough, fading = hazards[0], hazards[1], hazards[2], hazards[4]
    normal, returned = back[column], return_row[column]
    repeated = posterior[0]
    posterior[0] = np.float32(0.0)
    for j in range(i, len(pairs)):
        root = roots[j, : len(posterior)]
        for k in range(len(posterior)):
            posterior[k] *= _ratio(root[k], scales[k])
        if halved > 0:  # not yet ruled out
            for k in range(len(posterior)):
                halves[k] *= half[k] * np.sqrt(_ratio(root[k], scales[k]))
            halved = _sum(halves)
        repeated *= pairs[j]
        drifted = _sum(posterior) + halved + repeated
        scale = one / (drifted + normal)
        stay = (one - returning - changing) * scale
        for k in range(len(posterior)):
            posterior[k] = posterior[k] * stay + changing * weight[k]
        if halved > 0:
            for k in range(len(posterior)):
                kept = halves[k] * stay
                halves[k] = kept if kept > tiny else zero
            halved = _sum(halves)
        if (first_row + j) % FADE_EVERY == FADE_EVERY - 1:
            for k in range(len(posterior)):
                if weaker[k] >= 0:
                    posterior[weaker[k]] += fading * posterior[k]
        repeated = repeated * stay + changing * repeat_weight
        normal = (returning * drifted + (one - changing) * normal) * scale
        if normal < 0.5:
            returned = NEVER
        elif normal >= enough and returned < 0:
            returned = first_row + j
    posterior[0], back[column], return_row[column] = repeated, normal, returned


@njit
def _sum(values: Any) -> Any:
    """Eight partial sums: the order of addition is fixed, and the compiler can still use vector lanes."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
    for k in range(0, len(values), 8):
        s0 += values[k]
        s1 += values[k + 1]
        s2 += values[k + 2]
        s3 += values[k + 3]
        s4 += values[k + 4]
        s5 += values[k + 5]
        s6 += values[k + 6]
        s7 += values[k + 7]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@njit
def _strongest(evidence: Any) -> int:
    """The number of the alternative with the most weighted evidence."""
    best = 0
    for k in range(1, len(evidence)):
        if evidence[k] > evidence[best]:
            best = k
    return best


@njit
def _open(evidence: Any, halves: Any, half: Any, odds: Any, weight: Any, repeat_weight: Any) -> None:
    """Turn weighted evidence into the posterior of the alternatives, in place, and that of their halves."""
    evidence[0] += repeat_weight
    total = np.float32(0.0)
    for k in range(len(evidence)):
        evidence[k] += weight[k]
        total += evidence[k]
    for k in range(len(evidence)):
        halves[k] = odds * (evidence[k] + odds * weight[k] * total) if half[k] > 0 else np.float32(0.0)
    for k in range(len(evidence)):
        evidence[k] /= total
        halves[k] /= total
