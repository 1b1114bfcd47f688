"""One watched stream: coded rows in, alerts out. Pure: no I/O, no clock.

What is published depends only on the rows and their order, never on how they were cut into batches: detectors run up
to the next pane boundary of the stream's own row count at most, signals are handled in row order with the counts as
they were at their row, and everything that acts back on a detector waits for the pane boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    CurrentShare,
    Detected,
    Effect,
    EstimatedPerformance,
    Finding,
    Onset,
    ReferenceShare,
    Retrain,
    Severity,
    State,
    alert_id,
    minute,
    rfc3339,
)  # fmt: skip
from stream_monitor.batch import Extra, Origins, Unknown
from stream_monitor.book import Entry
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.detectors.pairs import EVERY
from stream_monitor.detectors.recovery import REASONS, Reason, Recovery, decide, reopened
from stream_monitor.detectors.signal import Signal
from stream_monitor.display import Display
from stream_monitor.estimate import can_estimate, estimate
from stream_monitor.heavy import HeavyNames
from stream_monitor.lifecycle import (
    ENOUGH,
    EXPLANATIONS,
    LEADERS,
    Episode,
    Lifecycle,
    awaits_explanation,
    severity,
    update_due,
)
from stream_monitor.outside import Outside
from stream_monitor.reference import Column, Performance, Role, StreamKey
from stream_monitor.relations import Relating, RelationsState
from stream_monitor.summary import Description, Recent, describe
from stream_monitor.trail import FINE, Origin, Trail

PANE_ROWS: Final = 100
"""Rows between two looks at recovery and updates; the histogram's pane."""
LOOK_ROWS: Final = EVERY * PANE_ROWS
"""Rows between two looks at the relations of columns."""
CITED_ROWS: Final = FINE - PANE_ROWS
"""Rows since the onset that an alert's current distribution is taken from, at most: what the trail surely still has."""
RESOLVED_ROWS: Final = 500
"""Rows that the present distribution of a resolved alert is taken from."""
MAX_UNKNOWN: Final = 1_000
CONFIRMING_Z: Final = 5.0
"""Standard errors by which the mean rank since the onset has to differ for ADWIN or Page-Hinkley to open an alert."""

KINDS: Final = {
    Role.INPUT: AlertKind.DATA_DRIFT,
    Role.PREDICTION: AlertKind.PREDICTION_DRIFT,
    Role.OUTCOME: AlertKind.CONCEPT_DRIFT,
}


RECOVERY: Final = Recovery()


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides, for one stream: the lifecycle, the digest of the detection settings, and the name of the input."""

    lifecycle: Lifecycle
    config_digest: str
    topic: str
    recovery: Recovery = RECOVERY
    retrain_rows: int = 5_000
    """Rows since the onset that are enough to retrain on."""
    worse_only: bool = False
    """A column that became smaller raises no alert: of errors."""


class MonitorState(msgspec.Struct):
    """Everything of a monitor but its detectors and its trail."""

    rows: int
    episodes: list[Episode]
    unknown: list[str]
    extras: list[tuple[int, int, float | str]]
    names: dict[int, HeavyNames]
    past: dict[int, tuple[int, int]]
    better: list[int] = []
    relations: RelationsState | msgspec.UnsetType = msgspec.UNSET


class Monitor:
    """The detectors, the open episodes and the recent rows of one stream under one reference."""

    def __init__(
        self, stream: StreamKey, entry: Entry, detectors: DetectorSet, rules: Rules, relating: Relating | None = None
    ) -> None:  # fmt: skip
        self.stream = stream
        self.entry = entry
        self.detectors = detectors
        self.trail = Trail(len(entry.reference.columns))
        self.episodes: dict[int, Episode] = {}
        self._rules = rules
        self._columns: list[Column] = entry.reference.columns
        self._unknown: set[str] = set()
        self._outside = Outside()
        self._past: dict[int, tuple[int, int]] = {}
        """By column: the row at which its last episode ended, and how often it has been reopened."""
        self._better: set[int] = set()
        """Columns whose change was one for the better: their detectors begin anew at the end of the pane."""
        self._displays: dict[int, Display] = {}
        self.relating = relating

    @property
    def inputs(self) -> int:
        """Features that are watched."""
        return sum(column.role is Role.INPUT for column in self._columns)

    @property
    def rows(self) -> int:
        return self.trail.rows

    def feed(
        self,
        codes: npt.NDArray[np.uint8],
        origins: Origins,
        extras: Sequence[Extra] = (),
        unknown: Sequence[Unknown] = (),
    ) -> list[Alert]:
        """Rows of the stream, `codes` of shape `[rows, columns]`; the alerts they raise, in row order."""
        strata = self.entry.reference.strata_of(origins.time_ms)
        base, start = self.rows, 0
        alerts: list[Alert] = []
        while start < len(origins):
            stop = min(len(origins), start + PANE_ROWS - self.rows % PANE_ROWS)
            first, pane = self.rows, codes[start:stop]
            self.trail.extend(pane, origins.take(slice(start, stop)))
            if extras:
                self._outside.add((base + e.row, e.column, e.value) for e in extras if start <= e.row < stop)
            new = [(base + u.row, u.name) for u in unknown if start <= u.row < stop]
            signals = self.detectors.update(pane, strata[start:stop], first)
            if signals or new:
                alerts += self._in_row_order(signals, new)
            if self.rows % PANE_ROWS == 0:
                alerts += self._end_of_pane()
                alerts += self._related()
            start = stop
        return alerts

    def open_kinds(self) -> list[AlertKind]:
        """The kind of every open alert."""
        related = len(self.relating.episodes) if self.relating is not None else 0
        return [
            *(KINDS[self._columns[column].role] for column in self.episodes), *[AlertKind.CORRELATION_DRIFT] * related
        ]  # fmt: skip

    def end(self, reason: str) -> list[Alert]:
        """Resolve everything open, as of the last row fed."""
        alerts = [self._resolve(column, self.rows - 1, reason) for column in sorted(self.episodes)]
        self.episodes.clear()
        return alerts + (self.relating.end(self.trail, reason) if self.relating is not None else [])

    def _related(self) -> list[Alert]:
        """At the end of a pane: what the rows say about relations between columns."""
        if self.relating is None or self.rows % LOOK_ROWS:
            return []
        onsets = {column: episode.onset_row for column, episode in self.episodes.items()}
        ended = {column: row + 1 for column, (row, _) in self._past.items()}
        return self.relating.end_of_pane(self.trail, self.detectors.times, onsets, ended)

    def state(self) -> MonitorState:
        return MonitorState(
            self.rows,
            [self.episodes[column] for column in sorted(self.episodes)],
            sorted(self._unknown),
            *self._outside.state(),
            dict(self._past),
            sorted(self._better),
            self.relating.state() if self.relating is not None else msgspec.UNSET,
        )

    def restore(self, state: MonitorState) -> None:
        """Take over what `state` gave; the trail and the detectors are restored by `state.py`. Raises WireError."""
        self._outside.restore(state.extras, state.names)
        self.episodes = {episode.column: episode for episode in state.episodes if episode.column < len(self._columns)}
        self._unknown = set(state.unknown)
        self._past = dict(state.past)
        self._better = {column for column in state.better if 0 <= column < len(self._columns)}
        if self.relating is not None and isinstance(state.relations, RelationsState):
            self.relating.restore(state.relations, state.rows)

    def _in_row_order(self, signals: list[Signal], unknown: list[tuple[int, str]]) -> list[Alert]:
        events: list[tuple[int, int, Signal | str]] = [(s.row, s.column, s) for s in signals]
        events += [(row, -1, name) for row, name in unknown]
        events.sort(key=lambda event: event[:2])  # stable: detectors keep their order within a row and column
        alerts = []
        for row, _, event in events:
            alert = self._on_signal(event) if isinstance(event, Signal) else self._on_unknown(event, row)
            if alert is not None:
                alerts.append(alert)
        return alerts

    def _on_signal(self, signal: Signal) -> Alert | None:
        episode = self.episodes.get(signal.column)
        finding = (signal.statistic, signal.value, signal.threshold, signal.direction, signal.alternative)
        if episode is not None:
            episode.findings[signal.detector] = finding
            return None
        if signal.detector not in LEADERS and not self._confirmed(signal):
            return None
        if self._rules.worse_only and self._smaller(signal):
            self._better.add(signal.column)
            return None
        return self._open(signal, finding)

    def _smaller(self, signal: Signal) -> bool:
        """Whether the rows since a signal's onset rank lower than the reference's do."""
        counts = self._counts(signal.column, self._onset(signal)[0], signal.row)
        return self.detectors.mean_rank(signal.column, counts) < self.detectors.mean_rank(signal.column)

    def _confirmed(self, signal: Signal) -> bool:
        """Whether the rows since the signal's onset differ from the reference, not only from the rows before."""
        counts = self._counts(signal.column, signal.onset_row, signal.row)
        return abs(self.detectors.mean_rank_z(signal.column, counts)) > CONFIRMING_Z

    def _open(self, signal: Signal, finding: tuple[str, float, float, str, str]) -> Alert:
        column = signal.column
        onset_row, earliest_row = self._onset(signal)
        counts = self._counts(column, onset_row, signal.row)
        effect = self._effect(column, counts)
        identity = self._id(column, State.FIRING, signal.row)
        resolved_row, reopenings = self._past.get(column, (-1, 0))
        onset = self.trail.at(onset_row)
        episode = Episode(
            id=identity,
            column=column,
            opened_row=signal.row,
            onset_row=onset_row,
            earliest_row=earliest_row,
            onset=(onset.partition, onset.offset, onset.index, onset.time_ms),
            earliest_time_ms=self.trail.at(earliest_row).time_ms,
            severity=severity(self._rules.lifecycle, effect.psi, 0, Severity.INFO),
            js_distance=effect.js_distance,
            published_row=signal.row,
            reopenings=reopened(self._rules.recovery, reopenings, resolved_row, signal.row),
            findings={signal.detector: finding},
        )
        self.episodes[column] = episode
        return self._alert(episode, State.FIRING, signal.row, counts, identity)

    def _onset(self, signal: Signal) -> tuple[int, int]:
        """The likeliest and the earliest plausible row of the onset, whichever detector fired."""
        first = max(signal.row + 1 - CITED_ROWS, 0)
        codes = self.trail.codes_between(first, signal.row + 1, signal.column)
        strata = np.zeros(len(codes), dtype=np.uint8)
        if self.entry.reference.strata > 1:
            times = [self.trail.at(row).time_ms for row in range(first, signal.row + 1)]
            strata = self.entry.reference.strata_of(np.array(times, dtype=np.int64))
        return self.detectors.onset(signal, codes, strata)

    def _end_of_pane(self) -> list[Alert]:
        """Updates and recoveries, decided once a pane; episodes opened since act on the detectors from here on."""
        onsets = {column: episode.onset_row for column, episode in self.episodes.items()}
        self._outside.end_of_pane(self.rows - PANE_ROWS, self.rows, onsets)
        for column in sorted(self._better - self.episodes.keys()):
            self.detectors.release(column)
        self._better.clear()
        if not self.episodes:
            return []
        row = self.rows - 1
        columns = sorted(self.episodes)
        opened = np.array([self.episodes[column].opened_row for column in columns])
        onset = np.array([self.episodes[column].onset_row for column in columns])
        reopenings = np.array([self.episodes[column].reopenings for column in columns])
        returned = self.detectors.return_rows(columns)
        reasons = decide(self._rules.recovery, row, opened, onset, returned, reopenings)
        alerts = []
        for column, reason in zip(columns, reasons.tolist(), strict=True):
            if reason == Reason.RETURNED:
                alerts.append(self._resolve(column, row, "returned"))
                self._past[column] = (row, self.episodes.pop(column).reopenings)
                self.detectors.release(column)
            else:
                self.detectors.engage(column)
                alerts += self._update(self.episodes[column], row)
        return alerts

    def _update(self, episode: Episode, row: int) -> list[Alert]:
        counts = self._window(episode, row)
        effect = self._effect(episode.column, counts)
        open_rows, felt = row - episode.opened_row, self._felt(episode.column)
        grave = severity(self._rules.lifecycle, effect.psi, open_rows, episode.severity, felt=felt)
        enough = not episode.enough and self._retrain(episode, row).enough
        verdict = update_due(self._rules.lifecycle, episode, row, effect.js_distance, grave)
        if verdict.publish:
            episode.severity, episode.js_distance, episode.updates = grave, effect.js_distance, episode.updates + 1
        elif not enough and not (
            awaits_explanation(episode, row) and self._told(episode, row, counts).direction in EXPLANATIONS
        ):
            return []
        episode.published_row, episode.enough = row, episode.enough or enough
        identity = self._id(episode.column, State.UPDATED, row)
        reason = ENOUGH if enough else verdict.reason or "what happened has become clear"
        return [self._alert(episode, State.UPDATED, row, counts, identity, reason)]

    def _felt(self, column: int) -> bool:
        """Whether the predictions may have moved with a column; only of an input can that be denied, where they are
        watched."""
        roles = [self._columns[each].role for each in self.episodes]
        watched = any(each.role is Role.PREDICTION for each in self._columns)
        related = self.relating is not None and self.relating.with_prediction
        return self._columns[column].role is not Role.INPUT or not watched or Role.PREDICTION in roles or related

    def _told(self, episode: Episode, row: int, counts: npt.NDArray[np.int64]) -> Description:
        before = self._display(episode.column).reference_counts
        return describe(self._columns[episode.column], before, counts, self._recent(episode, row))

    def _resolve(self, column: int, row: int, reason: str) -> Alert:
        episode = self.episodes[column]
        counts = self._counts(column, max(episode.onset_row, row - RESOLVED_ROWS), row)
        return self._alert(episode, State.RESOLVED, row, counts, self._id(column, State.RESOLVED, row), reason)

    def _on_unknown(self, name: str, row: int) -> Alert | None:
        """One alert a feature that the reference does not know; it waits for the next reference."""
        if name in self._unknown or len(self._unknown) >= MAX_UNKNOWN:
            return None
        self._unknown.add(name)
        origin = self.trail.at(row)
        identity = alert_id(
            self._rules.config_digest, self.entry.digest, "stream", AlertKind.SCHEMA_CHANGE, self.stream, name,
            State.FIRING, origin,
        )  # fmt: skip
        return Alert(
            id=identity, episode=identity, scope="stream", state=State.FIRING, kind=AlertKind.SCHEMA_CHANGE,
            severity=Severity.WARNING, model=self.stream.model, version=self.stream.version,
            segment=self.stream.segment, column=name, role=Role.INPUT, direction="new_feature",
            summary=f"{name}: a feature that the reference does not know; not watched until a reference has it",
            onset=Onset.at(origin), detected=Detected.at(origin, self._rules.topic),
        )  # fmt: skip

    def _counts(self, column: int, onset_row: int, row: int) -> npt.NDArray[np.int64]:
        """Counts by code of the rows from the onset to `row`, the last `CITED_ROWS` of them at most."""
        first = max(onset_row, row + 1 - CITED_ROWS)
        codes = self.trail.codes_between(first, row + 1, column)
        return np.bincount(codes, minlength=len(self._columns[column].strata[0].counts))

    def _window(self, episode: Episode, row: int) -> npt.NDArray[np.int64]:
        """At the end of a pane: the detectors' longer window where it lies within the episode, else as `_counts`."""
        window = self.detectors.window(episode.column)
        if window is not None and window.sum() <= row + 1 - episode.onset_row:
            return window
        return self._counts(episode.column, episode.onset_row, row)

    def _effect(self, column: int, counts: npt.NDArray[np.int64]) -> Effect:
        found = self.detectors.effect(column, counts)
        return Effect(
            js_distance=_rounded(found.js_distance), psi=_rounded(found.psi), ks=_rounded(found.ks),
            wasserstein_rank=_rounded(found.wasserstein_rank), n=int(counts.sum()),
        )  # fmt: skip

    def _alert(
        self,
        episode: Episode,
        state: State,
        row: int,
        counts: npt.NDArray[np.int64],
        identity: str,
        reason: str = "",
    ) -> Alert:
        column = self._columns[episode.column]
        display = self._display(episode.column)
        told = self._told(episode, row, counts)
        episode.direction = told.direction
        text = f"{column.name}: {told.text}"
        estimated = self._estimated(column, counts)
        if estimated is not None:
            now, before = estimated.metrics["estimated_accuracy"], estimated.reference.get("accuracy")
            text += (
                f"; estimated accuracy {f'{before:.3g} → ' if before is not None else ''}{now:.3g} (from the scores)"
            )
        if state is State.RESOLVED:
            text = f"{column.name}: {_RESOLVED.get(reason, reason)}"
        return Alert(
            id=identity, episode=episode.id, scope="column", state=state, kind=KINDS[column.role],
            severity=episode.severity, model=self.stream.model, version=self.stream.version,
            segment=self.stream.segment, column=column.name, role=column.role, summary=text, reason=reason,
            direction=told.direction if state is not State.RESOLVED else "",
            onset=Onset.at(Origin(*episode.onset), episode.earliest_time_ms),
            detected=Detected.at(self.trail.at(row), self._rules.topic, row - episode.onset_row),
            signals=[
                Finding(detector=name, statistic=statistic, value=_rounded(value), threshold=_rounded(threshold),
                        direction=direction, alternative=alternative)
                for name, (statistic, value, threshold, direction, alternative) in sorted(episode.findings.items())
            ],
            effect=self._effect(episode.column, counts), importance=column.importance,
            reference=ReferenceShare(
                digest=self.entry.digest, origin=self.entry.reference.source.origin, n=column.n,
                bins=display.labels, share=display.reference_share,
            ),
            current=CurrentShare(n=int(counts.sum()), share=display.share(counts)),
            estimated_performance=estimated,
            retrain=self._retrain(episode, row) if state is not State.RESOLVED else None,
        )  # fmt: skip

    def _retrain(self, episode: Episode, row: int) -> Retrain:
        """Rows of errors are rows with a label, all of them."""
        labelled = self._columns[episode.column].role is Role.OUTCOME
        onset, rows = Origin(*episode.onset), row - episode.onset_row + 1
        return Retrain.since(onset, rows, self._rules.retrain_rows, labelled=labelled)

    def _estimated(self, column: Column, counts: npt.NDArray[np.int64]) -> EstimatedPerformance | None:
        """Of a drifted score: how good predictions probably are, as long as no label says it."""
        performance = self.entry.reference.performance
        if not isinstance(performance, Performance) or not can_estimate(column, performance):
            return None
        found = estimate(column, performance, counts)
        if found is None:
            return None
        return EstimatedPerformance(metrics=found.metrics, reference=performance.metrics, n=found.n)

    def _recent(self, episode: Episode, row: int) -> Recent:
        """What a description may cite of the rows since the onset, beside their counts."""
        column, onset_row = episode.column, episode.onset_row
        run = self._run(column, row)
        since_ms = self.trail.at(row - run + 1).time_ms
        return Recent(
            self._outside.numbers(column, onset_row, row), self._outside.names(column, onset_row, row),
            run, minute(rfc3339(since_ms)) if since_ms else "",
        )  # fmt: skip

    def _run(self, column: int, row: int) -> int:
        """How many rows up to `row` have its code, as far as is remembered."""
        codes = self.trail.codes_between(max(0, row + 1 - CITED_ROWS), row + 1, column)
        others = np.flatnonzero(codes != codes[-1])
        return len(codes) - 1 - int(others[-1]) if len(others) else len(codes)

    def _id(self, column: int, state: State, row: int) -> str:
        watched = self._columns[column]
        return alert_id(
            self._rules.config_digest, self.entry.digest, "column", KINDS[watched.role], self.stream, watched.name,
            state, self.trail.at(row),
        )  # fmt: skip

    def _display(self, column: int) -> Display:
        if column not in self._displays:
            self._displays[column] = Display.of(self._columns[column])
        return self._displays[column]


_RESOLVED: Final = {
    "returned": REASONS[Reason.RETURNED],
    "ended": "the stream has ended: nothing has come for longer than silence.ttl_s",
    "reference_changed": "watched against a new reference from here on",
}


def _rounded(value: float) -> float:
    """Six significant digits: what is published must not differ in the last bit between machines."""
    return float(f"{value:.6g}")
