"""How good the predictions of one stream are, outcome by outcome: concept drift and performance alerts. Pure.

Two questions. Have the *errors* left the distribution they had in training (`concept_drift`; a monitor over the error
columns, with the detectors of every other column)? Has a *metric* passed a limit, the reference's own performance less
a tolerance or one that the user set (`performance`; see `bets.py`)? Every alert says the metric with its interval.

Row numbers are the stream's outcomes, in the order in which they became known. Acting back waits for a multiple of 100
of them, as in `monitor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Detected,
    Finding,
    Onset,
    PerformanceFact,
    Retrain,
    Severity,
    State,
    alert_id,
    rounded,
)
from stream_monitor.baseline import error_values, learn
from stream_monitor.batch import Origins
from stream_monitor.book import Entry
from stream_monitor.detectors.ensemble import PANE_ROWS
from stream_monitor.encode import Codes, codes_of
from stream_monitor.guards import Broken, Guard
from stream_monitor.lifecycle import ENOUGH
from stream_monitor.monitor import Monitor
from stream_monitor.outcome_levels import Packed, outcome_relations_of
from stream_monitor.outcome_relations import OutcomeRelating
from stream_monitor.outcomes import Values, joined
from stream_monitor.performance import (
    HIGHER_IS_BETTER,
    MAIN,
    METRICS,
    Interval,
    Limit,
    measure,
    measured,
    pairs_of,
)
from stream_monitor.reference import (
    SCHEMA_VERSION,
    OutcomeRelations,
    Performance,
    Reference,
    Source,
    StreamKey,
    Task,
)
from stream_monitor.trail import Origin

Floats = npt.NDArray[np.float64]
NewErrorMonitor = Callable[[StreamKey, Entry], Monitor]
NewRelating = Callable[[StreamKey, str, OutcomeRelations, int], OutcomeRelating]
"""Of a stream under the reference of that digest and generation."""

FEWEST_CITED: Final = 100
"""Outcomes that an alert's metric is taken over, at least."""
UPDATE_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ScoringRules:
    """What decides, for one model.

    `alpha`: false alarms an outcome that all limits together may raise in the mean. `min_change`: how much worse than
    in training rates and AUC may be before it is said, `min_change_relative`: the same of errors in the label's unit,
    as a share. `limits`: the user's.
    """

    window: int
    warmup: int
    alpha: float
    task: Task | None
    min_change: float
    min_change_relative: float
    limits: tuple[Limit, ...]
    retrain_rows: int
    config_digest: str
    topic: str


class Scoring:
    """One stream's outcomes. `performance` None: still learning what they are like, from `warmup` outcomes."""

    def __init__(
        self,
        stream: StreamKey,
        rules: ScoringRules,
        new_monitor: NewErrorMonitor,
        new_relating: NewRelating | None = None,
    ) -> None:
        self.stream = stream
        self.rules = rules
        self.generation = 0
        self.digest = ""
        self.learned = False
        self.performance: Performance | None = None
        self.monitor: Monitor | None = None
        self.guards: list[Guard] = []
        self.predicted, self.actual = np.zeros(0), np.zeros(0)
        self.warmup: list[tuple[Values, Values]] = []
        self.relating: OutcomeRelating | None = None
        self._new_monitor, self._new_relating = new_monitor, new_relating

    # ---- what outcomes are compared with ----

    def switch(self, generation: int, digest: str, reference: Reference | None) -> list[Alert]:
        """A reference of a greater generation is in force from the next outcome on, if it says how good it was."""
        if generation <= self.generation:
            return []
        self.generation = generation
        if reference is None or not isinstance(reference.performance, Performance):
            return []
        alerts = self._end()
        self.start(reference.performance, digest)
        return alerts

    def start(self, performance: Performance, digest: str = "", *, learned: bool = False) -> None:
        """Compare with that from the next outcome on; `learned` from the stream's own outcomes."""
        reference = Reference(
            SCHEMA_VERSION, *self.stream, performance.columns, Source("stream" if learned else "file", performance.n)
        )
        self.performance, self.digest, self.learned = performance, digest or reference.digest(), learned
        self.monitor = self._new_monitor(self.stream, Entry(reference, self.digest, -1, self.generation))
        limits = [limit for limit in self._limits(performance) if limit.metric in METRICS[performance.task]]
        alpha = self.rules.alpha / max(len(limits), 1)
        scale = performance.scale
        self.guards = [Guard(limit, performance.task, scale.get(limit.metric, 1.0), alpha) for limit in limits]
        self.warmup = []
        self.predicted, self.actual = np.zeros(0), np.zeros(0)
        relations = outcome_relations_of(performance)
        self.relating = None
        if relations is not None and self._new_relating is not None:
            self.relating = self._new_relating(self.stream, self.digest, relations, self.generation)

    def _limits(self, performance: Performance) -> list[Limit]:
        found = []
        for metric in MAIN[performance.task]:
            if metric not in performance.metrics:
                continue
            value = performance.metrics[metric]
            if performance.task is Task.REGRESSION:
                found.append(Limit(metric, "reference", value * (1 + self.rules.min_change_relative)))
            else:
                loss = 1 - value
                unsure = 3 * (loss * (1 - loss) / performance.n) ** 0.5
                found.append(Limit(metric, "reference", value - max(self.rules.min_change, unsure)))
        return found + list(self.rules.limits)

    def _end(self) -> list[Alert]:
        """Resolve everything open, as of the last outcome."""
        if self.monitor is None:
            return []
        row = self.monitor.rows - 1
        alerts = self.monitor.end("reference_changed")
        if self.relating is not None:
            alerts += self.relating.end("reference_changed")
        reason = "compared with a new reference from here on"
        return alerts + [self._alert(guard, State.RESOLVED, row, reason) for guard in self.guards if guard.broken]

    # ---- outcomes ----

    def feed(
        self,
        prediction: Values,
        label: Values,
        names: Sequence[str],
        class_of: Callable[[str], int],
        origins: Origins,
        levels: Packed | None = None,
    ) -> tuple[list[Alert], int]:
        """Outcomes in the order in which they became known, with the levels of their inputs where those are known; the
        alerts they raise, and how many were unusable."""
        alerts: list[Alert] = []
        levels = np.zeros((len(label), 2), dtype=np.uint64) if levels is None else levels
        if self.performance is None:
            wanted = self.rules.warmup - sum(len(label) for _, label in self.warmup)
            self.warmup.append((prediction.take(slice(0, wanted)), label.take(slice(0, wanted))))
            if wanted > len(label):
                return [], 0
            self._learn(names)
            rest = slice(wanted, None)
            prediction, label, origins = prediction.take(rest), label.take(rest), origins.take(rest)
            levels = levels[rest]
            if not len(label):
                return [], 0
            if self.performance is None:  # nothing could be learned: begin again
                return self.feed(prediction, label, names, class_of, origins, levels)
        assert self.performance is not None
        pairs = pairs_of(self.performance.task, self.performance.positive, prediction, label, names, class_of)
        if not pairs.kept.all():
            origins, levels = origins.take(np.flatnonzero(pairs.kept)), levels[pairs.kept]
        values = error_values(self.performance, pairs.predicted, pairs.actual)
        codes = codes_of(self.performance.columns, values)
        start = 0
        while start < len(pairs):
            assert self.monitor is not None
            stop = min(len(pairs), start + PANE_ROWS - self.monitor.rows % PANE_ROWS)
            part = slice(start, stop)
            alerts += self._judge(
                codes[part], pairs.predicted[part], pairs.actual[part], origins.take(part), levels[part]
            )
            start = stop
        return alerts, len(label) - len(pairs)

    def _learn(self, names: Sequence[str]) -> None:
        prediction, label = (joined([pair[i] for pair in self.warmup]) for i in (0, 1))
        self.warmup = []
        performance = learn(prediction, label, names, self.rules.task)
        if performance is not None:
            self.start(performance, learned=True)

    def _judge(
        self, codes: Codes, predicted: Floats, actual: Floats, origins: Origins, levels: Packed
    ) -> list[Alert]:  # fmt: skip
        """Outcomes up to the next multiple of 100; `codes`: of their errors."""
        assert self.monitor is not None
        first = self.monitor.rows
        drift = self.monitor.feed(codes, origins)
        before = len(self.predicted)
        self.predicted, self.actual = np.append(self.predicted, predicted), np.append(self.actual, actual)
        found: list[tuple[int, Alert]] = []
        for alert in drift:
            at = _place(alert, origins)
            found.append((at, self._explained(alert, before + at + 1)))
        for guard in self.guards:
            found += self._guard(guard, first, predicted, actual, before)
        if self.relating is not None:
            found += self.relating.feed(levels, actual, origins)
        surplus = len(self.predicted) - self.rules.window
        if surplus > 0:
            self.predicted, self.actual = self.predicted[surplus:], self.actual[surplus:]
        found.sort(key=itemgetter(0))  # stable: of one outcome, drift before limits before relations
        return [alert for _, alert in found]

    def _guard(
        self, guard: Guard, first: int, predicted: Floats, actual: Floats, before: int
    ) -> list[tuple[int, Alert]]:  # fmt: skip
        """Alerts of one limit, each with the place of its outcome."""
        assert self.monitor is not None
        alerts: list[tuple[int, Alert]] = []
        loss, about = guard.losses(predicted, actual)
        at = -1
        if guard.broken is None:
            at = guard.bet.watch(loss, about)
            if at < 0:
                return []
            row = first + at
            onset_row = max(row + 1 - guard.bet.age, 0)
            onset = self.monitor.trail.at(onset_row)
            origin = (onset.partition, onset.offset, onset.index, onset.time_ms)
            guard.broken = Broken(self._id(guard, State.FIRING, row), row, onset_row, origin, row)
            alerts.append((at, self._alert(guard, State.FIRING, row, until=before + at + 1)))
        back = guard.bet.follow(loss[at + 1 :], about[at + 1 :])
        if self.monitor.rows % PANE_ROWS == 0:
            alerts += [(len(predicted) - 1, alert) for alert in self._look(guard, back)]
        return alerts

    def _look(self, guard: Guard, back: bool) -> list[Alert]:
        """At a multiple of 100: an alert whose limit is kept again ends, one that has lasted is brought up to date."""
        assert self.monitor is not None
        assert guard.broken is not None
        row = self.monitor.rows - 1
        if back:
            alert = self._alert(guard, State.RESOLVED, row, "the limit is kept again")
            guard.broken = None
            guard.bet.clear()
            return [alert]
        if not guard.broken.enough and self._retrain(guard.broken, row).enough:
            guard.broken.enough = True
            return [self._alert(guard, State.UPDATED, row, ENOUGH)]
        if row - guard.broken.published_row < UPDATE_ROWS * 2**guard.broken.updates:
            return []
        guard.broken.published_row, guard.broken.updates = row, guard.broken.updates + 1
        return [self._alert(guard, State.UPDATED, row, "it goes on")]

    # ---- alerts ----

    def _explained(self, alert: Alert, until: int) -> Alert:
        """A drift of the errors, told by the metric that people know."""
        assert self.performance is not None
        fact = self._fact(MAIN[self.performance.task][0], until, alert.detected.rows_since_onset + 1)
        if fact is None:
            return alert
        text = f"{alert.column.replace('_', ' ')}: {alert.summary.partition(': ')[2]}"
        if alert.state is not State.RESOLVED:
            text = f"{fact.said()}; {text}"
        return alert.model_copy(update={"performance": fact, "summary": text})

    def _fact(self, metric: str, until: int, rows: int, limit: Limit | None = None) -> PerformanceFact | None:
        """The metric over the last outcomes before the place `until` of the window, no more than `rows` of them."""
        assert self.performance is not None
        size = min(max(rows, FEWEST_CITED), self.rules.window)
        part = slice(max(until - size, 0), until)
        interval = measure(metric, self.performance.task, self.predicted[part], self.actual[part])
        if interval is None:
            return None
        return fact_of(interval, self.performance.metrics.get(metric), limit.bound if limit else "",
                       limit.value if limit else None)  # fmt: skip

    def _alert(self, guard: Guard, state: State, row: int, reason: str = "", until: int | None = None) -> Alert:
        assert self.monitor is not None
        assert guard.broken is not None
        broken, limit = guard.broken, guard.limit
        until = len(self.predicted) if until is None else until
        fact = self._fact(limit.metric, until, row - broken.onset_row + 1, limit)
        said = fact.said() if fact is not None else limit.metric
        falling = limit.metric in HIGHER_IS_BETTER or limit.bound == "min"
        return Alert(
            id=self._id(guard, state, row), episode=broken.id, scope="stream", state=state, kind=AlertKind.PERFORMANCE,
            severity=Severity.WARNING if limit.bound == "reference" else Severity.CRITICAL,
            model=self.stream.model, version=self.stream.version, segment=self.stream.segment, column=limit.subject,
            role="outcome", direction="" if state is State.RESOLVED else "down" if falling else "up",
            summary=f"{said}: {reason}" if state is State.RESOLVED else said, reason=reason,
            onset=Onset.at(Origin(*broken.onset)),
            detected=Detected.at(self.monitor.trail.at(row), self.rules.topic, row - broken.onset_row),
            signals=[Finding(detector="bet", statistic="log_e_value", value=rounded(guard.bet.evidence),
                             threshold=rounded(float(np.log(guard.bet.threshold))), direction="worse")],
            performance=fact,
            retrain=self._retrain(broken, row) if state is not State.RESOLVED else None,
        )  # fmt: skip

    def _retrain(self, broken: Broken, row: int) -> Retrain:
        rows = row - broken.onset_row + 1
        return Retrain.since(Origin(*broken.onset), rows, self.rules.retrain_rows, labelled=True)

    def _id(self, guard: Guard, state: State, row: int) -> str:
        assert self.monitor is not None
        return alert_id(
            self.rules.config_digest, self.digest, "stream", AlertKind.PERFORMANCE, self.stream, guard.limit.subject,
            state, self.monitor.trail.at(row),
        )  # fmt: skip

    def open_alerts(self) -> list[tuple[AlertKind, str, str, int]]:
        """Of every open alert: its kind, its subject, its episode, and the time of its onset in milliseconds."""
        if self.monitor is None:
            return []
        columns = self.monitor.entry.reference.columns
        found = [(AlertKind.CONCEPT_DRIFT, columns[each.column].name, each.id, each.onset[3])
                 for _, each in sorted(self.monitor.episodes.items())]  # fmt: skip
        found += self.relating.open_alerts() if self.relating is not None else []
        return found + [
            (AlertKind.PERFORMANCE, guard.limit.subject, guard.broken.id, guard.broken.onset[3])
            for guard in self.guards
            if guard.broken is not None
        ]

    def metrics(self) -> dict[str, Interval]:
        """All metrics over the window."""
        if self.performance is None:
            return {}
        return measured(self.performance.task, self.predicted, self.actual)


def _place(alert: Alert, origins: Origins) -> int:
    """Which of the rows an alert was decided at, the last if none."""
    at = alert.detected
    here = (origins.partition == at.partition) & (origins.offset == at.offset) & (origins.index == at.index)
    return int(np.flatnonzero(here)[-1]) if here.any() else len(origins) - 1


def fact_of(
    interval: Interval, reference: float | None, bound: str = "", limit: float | None = None
) -> PerformanceFact:
    """An interval as published, to six digits."""
    return PerformanceFact(
        metric=interval.metric, value=rounded(interval.value), low=rounded(interval.low), high=rounded(interval.high),
        n=interval.n, method=interval.method, bound=bound, limit=None if limit is None else rounded(limit),
        reference=None if reference is None else rounded(reference),
    )  # fmt: skip
