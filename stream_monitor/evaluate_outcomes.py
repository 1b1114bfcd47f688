"""What the detection of outcomes and of segments is worth on given data: a part of `evaluate`. Pure.

The smallest fall of accuracy (or rise of the errors of values) that is found within 1,000 labels is sought like the
smallest changes of columns: right predictions of the data are made wrong at random, in random windows, and the
product's own scoring is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import AlertKind, State
from stream_monitor.batch import Origins
from stream_monitor.events import Row
from stream_monitor.model import NewScoring
from stream_monitor.outcomes import Values, values_of
from stream_monitor.performance import pairs_of
from stream_monitor.reference import Performance, StreamKey, Task
from stream_monitor.scoring import Scoring
from stream_monitor.stream import Stream

Floats = npt.NDArray[np.float64]

WITHIN: Final = 1_000
LEAD: Final = 500
FEWEST: Final = 2 * (WITHIN + LEAD)
"""Labels below which nothing is sought."""
MOST: Final = 200_000
"""Outcomes that are kept to put changes in."""
FOUND_IN: Final = 0.8
_RANGES: Final = {"accuracy": (0.005, 0.5), "mae": (0.02, 4.0)}
_STEPS: Final = 7
_OUTCOMES: Final = frozenset({AlertKind.CONCEPT_DRIFT, AlertKind.PERFORMANCE})


@dataclass(frozen=True, slots=True)
class MetricReport:
    """Over the last outcomes (`n`), with its interval, beside training's."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    reference: float | None


@dataclass(slots=True)
class OutcomeReport:
    """The labels of one stream. `alarms`: by subject (an error column, a metric or a limit); `promised_per_million`: of
    all of them together. `smallest_fall`: of accuracy, in absolute terms, or the relative rise of MAE, that is found
    within `within` labels in four of five windows; None: not even the largest one tried, or too few labels."""

    outcomes: int
    alarms: dict[str, int]
    promised_per_million: float
    metrics: list[MetricReport] = field(default_factory=list)
    metric: str = ""
    smallest_fall: float | None = None
    within: int = WITHIN
    windows: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment: its rows, and the alarms of all its columns; `promised`: in the mean, of so many rows."""

    segment: str
    rows: int
    alarms: int
    promised: float


def outcome_report(
    scoring: Scoring, rows: Sequence[Row], alarms: Mapping[str, int], budget_events: int, new_scoring: NewScoring,
    windows: int, seed: int,
) -> OutcomeReport | None:  # fmt: skip
    """Of a stream whose rows had labels; None where none had."""
    performance = scoring.performance
    if performance is None or scoring.monitor is None or not scoring.monitor.rows:
        return None
    report = OutcomeReport(scoring.monitor.rows, dict(alarms), 1e6 / budget_events)
    report.metrics = [MetricReport(m, e.value, e.low, e.high, e.n, performance.metrics.get(m))
                      for m, e in scoring.metrics().items()]  # fmt: skip
    report.metric = "mae" if performance.task is Task.REGRESSION else "accuracy"
    trials = _Trials(scoring.stream, performance, new_scoring, rows, windows, seed)
    if len(trials) < FEWEST:
        report.note = f"{len(trials):,} labels are too few to put a fall in; {FEWEST:,} are wanted"
        return report
    report.smallest_fall, report.windows = trials.smallest(report.metric)
    if not report.windows:
        report.note = "no fall could be put in: outcomes drift in these data"
    return report


class _Trials:
    """Outcomes of a stream in the form of its task, and windows of them."""

    def __init__(
        self, stream: StreamKey, performance: Performance, new_scoring: NewScoring, rows: Sequence[Row], windows: int,
        seed: int,
    ) -> None:  # fmt: skip
        names: dict[str, int] = {}
        self._classes: dict[str, int] = {}
        prediction = values_of([row.prediction for row in rows], names)
        label = values_of([row.label for row in rows], names)
        pairs = pairs_of(performance.task, performance.positive, prediction, label, list(names), self._class)
        self._predicted, self._actual = pairs.predicted, pairs.actual
        self._stream, self._performance, self._new = stream, performance, new_scoring
        self._rng = np.random.default_rng([seed, 7])
        last = len(self) - WITHIN - LEAD
        self._starts = sorted(self._rng.integers(0, last + 1, windows).tolist()) if last >= 0 else []

    def __len__(self) -> int:
        return len(self._predicted)

    def _class(self, name: str) -> int:
        return self._classes.setdefault(name, len(self._classes))

    def smallest(self, metric: str) -> tuple[float | None, int]:
        """The smallest change found, and how many windows counted: those that are quiet by themselves."""
        quiet = [start for start in self._starts if not self._fires(start, metric, 0.0)]
        low, high = _RANGES[metric]
        if not quiet or not self._found(quiet, metric, high):
            return None, len(quiet)
        for _ in range(_STEPS):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if self._found(quiet, metric, middle) else (middle, high)
        return float(f"{high:.3g}"), len(quiet)

    def _found(self, starts: Sequence[int], metric: str, amount: float) -> bool:
        return sum(self._fires(start, metric, amount) for start in starts) >= FOUND_IN * len(starts)

    def _fires(self, start: int, metric: str, amount: float) -> bool:
        """Whether the change is found within the window; without one: whether anything fires."""
        rows = slice(start, start + LEAD + WITHIN)
        predicted, actual = self._predicted[rows].copy(), self._actual[rows].copy()
        self._spoil(predicted, actual, metric, amount)
        scoring = self._new(self._stream)
        scoring.start(self._performance)
        names = [f"{number}" for number in range(len(self._classes) + 1)]
        zero, row = np.zeros(len(actual), dtype=np.int32), np.arange(len(actual))
        alerts, _ = scoring.feed(self._values(predicted), self._values(actual), names, int,
                                 Origins(zero, row, zero, row, row))  # fmt: skip
        return any(each.kind in _OUTCOMES and each.state is State.FIRING for each in alerts)

    def _values(self, numbers: Floats) -> Values:
        """Numbers of classes are given as classes, whose names are those numbers."""
        if self._performance.task is Task.CLASSES:
            return Values(np.full(len(numbers), np.nan), numbers.astype(np.int16))
        return Values(numbers, np.full(len(numbers), -1, dtype=np.int16))

    def _spoil(self, predicted: Floats, actual: Floats, metric: str, amount: float) -> None:
        """From the lead on: errors grow by a share, or so many right predictions become wrong that accuracy falls by
        the amount."""
        after = np.arange(len(actual)) >= LEAD
        if metric == "mae":
            predicted[after] = actual[after] + (predicted[after] - actual[after]) * (1 + amount)
            return
        binary = self._performance.task is Task.BINARY
        right = ((predicted >= 0.5) == (actual > 0)) if binary else predicted == actual
        share = right[after].mean() if after.any() else 0.0
        wronged = after & right & (self._rng.random(len(actual)) < (amount / share if share else 0.0))
        if binary:
            actual[wronged] = 1 - actual[wronged]
        else:
            actual[wronged] = (actual[wronged] + 1) % (len(self._classes) + 1)


def segment_reports(stream: Stream, alarms: Mapping[str, int], budget_events: float) -> Iterator[SegmentReport]:
    """Of every segment that had rows; `alarms`: by segment; `budget_events`: mean rows of its own between two."""
    if stream.segments is None:
        return
    for name, monitor in sorted(stream.segments.monitors.items()):
        yield SegmentReport(name, monitor.rows, alarms.get(name, 0), monitor.rows / budget_events)
