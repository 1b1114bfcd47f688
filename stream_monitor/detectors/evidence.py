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
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import INVALID
from stream_monitor.detectors.onset import SPEAKING, likeliest, rows_earlier
from stream_monitor.detectors.ratios import ratios_of
from stream_monitor.detectors.recursions import FADE_EVERY, LARGEST, NEVER, NO_CODE, advance
from stream_monitor.detectors.signal import Codes, Signal, State, Strata
from stream_monitor.detectors.states import restored, within
from stream_monitor.detectors.tables import tables_of
from stream_monitor.reference import Reference

HALF: Final = 0.1
"""Odds of a drift half as large as an alternative against that alternative itself, when an episode opens."""
FADE_HAZARD: Final = 1e-6
"""A row's probability that a drift goes on as the next weaker one of its family. It keeps alive the alternative just
below a drift that lies between two: against the one above, which may fit as well, chance alone proves a return."""
CLEAR_SHARE: Final = 1e-4
"""What the weakest drifts may keep of the posterior of all drifts for the others to be clear of them."""


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
    """The e-detector over all columns of a stream; 21 ns a value without drift (`benchmarks/episode_cost.py`).

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
        count = advance(
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
