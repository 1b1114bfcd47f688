"""What an alert about a column of a stream says: since when, how far, what happened, what to retrain on. Pure.

`monitor.py` decides that there is something to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
    rounded,
)  # fmt: skip
from stream_monitor.book import Entry
from stream_monitor.detectors.ensemble import PANE_ROWS, DetectorSet
from stream_monitor.detectors.recovery import REASONS, Reason, Recovery
from stream_monitor.display import Display
from stream_monitor.estimate import can_estimate, estimate
from stream_monitor.lifecycle import (
    Episode,
    Lifecycle,
)
from stream_monitor.outside import Outside
from stream_monitor.reference import Column, Performance, Role, StreamKey
from stream_monitor.summary import Description, Recent, describe
from stream_monitor.trail import FINE, Origin, Trail

CITED_ROWS: Final = FINE - PANE_ROWS
"""Rows since the onset that an alert's current distribution is taken from, at most: what the trail surely still has."""
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


class Teller:
    """Tells of the columns of one stream, by its detectors, its recent rows and the values outside of training."""

    def __init__(
        self, stream: StreamKey, entry: Entry, detectors: DetectorSet, trail: Trail, outside: Outside, rules: Rules
    ) -> None:  # fmt: skip
        self._stream = stream
        self._entry = entry
        self._detectors = detectors
        self._trail = trail
        self._outside = outside
        self._rules = rules
        self._columns: list[Column] = entry.reference.columns
        self._displays: dict[int, Display] = {}

    def alert(
        self,
        episode: Episode,
        state: State,
        row: int,
        counts: npt.NDArray[np.int64],
        reason: str = "",
    ) -> Alert:
        column = self._columns[episode.column]
        display = self._display(episode.column)
        told = self.told(episode, row, counts)
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
            id=episode.id if state is State.FIRING else self.identity(episode.column, state, row),
            episode=episode.id, scope="column", state=state, kind=KINDS[column.role],
            severity=episode.severity, model=self._stream.model, version=self._stream.version,
            segment=self._stream.segment, column=column.name, role=column.role, summary=text, reason=reason,
            direction=told.direction if state is not State.RESOLVED else "",
            onset=Onset.at(Origin(*episode.onset), episode.earliest_time_ms),
            detected=Detected.at(self._trail.at(row), self._rules.topic, row - episode.onset_row),
            signals=[
                Finding(detector=name, statistic=statistic, value=rounded(value), threshold=rounded(threshold),
                        direction=direction, alternative=alternative)
                for name, (statistic, value, threshold, direction, alternative) in sorted(episode.findings.items())
            ],
            effect=self.effect(episode.column, counts), importance=column.importance,
            reference=ReferenceShare(
                digest=self._entry.digest, origin=self._entry.reference.source.origin, n=column.n,
                bins=display.labels, share=display.reference_share,
            ),
            current=CurrentShare(n=int(counts.sum()), share=display.share(counts)),
            estimated_performance=estimated,
            retrain=self.retrain(episode, row) if state is not State.RESOLVED else None,
        )  # fmt: skip

    def told(self, episode: Episode, row: int, counts: npt.NDArray[np.int64]) -> Description:
        before = self._display(episode.column).reference_counts
        return describe(self._columns[episode.column], before, counts, self._recent(episode, row))

    def unknown(self, name: str, row: int) -> Alert:
        """Of a feature that the reference does not know."""
        origin = self._trail.at(row)
        identity = alert_id(
            self._rules.config_digest, self._entry.digest, "stream", AlertKind.SCHEMA_CHANGE, self._stream, name,
            State.FIRING, origin,
        )  # fmt: skip
        return Alert(
            id=identity, episode=identity, scope="stream", state=State.FIRING, kind=AlertKind.SCHEMA_CHANGE,
            severity=Severity.WARNING, model=self._stream.model, version=self._stream.version,
            segment=self._stream.segment, column=name, role=Role.INPUT, direction="new_feature",
            summary=f"{name}: a feature that the reference does not know; not watched until a reference has it",
            onset=Onset.at(origin), detected=Detected.at(origin, self._rules.topic),
        )  # fmt: skip

    def retrain(self, episode: Episode, row: int) -> Retrain:
        """Rows of errors are rows with a label, all of them."""
        labelled = self._columns[episode.column].role is Role.OUTCOME
        onset, rows = Origin(*episode.onset), row - episode.onset_row + 1
        return Retrain.since(onset, rows, self._rules.retrain_rows, labelled=labelled)

    def counts(self, column: int, onset_row: int, row: int) -> npt.NDArray[np.int64]:
        """Counts by code of the rows from the onset to `row`, the last `CITED_ROWS` of them at most."""
        first = max(onset_row, row + 1 - CITED_ROWS)
        codes = self._trail.codes_between(first, row + 1, column)
        return np.bincount(codes, minlength=len(self._columns[column].strata[0].counts))

    def effect(self, column: int, counts: npt.NDArray[np.int64]) -> Effect:
        found = self._detectors.effect(column, counts)
        return Effect(
            js_distance=rounded(found.js_distance), psi=rounded(found.psi), ks=rounded(found.ks),
            wasserstein_rank=rounded(found.wasserstein_rank), n=int(counts.sum()),
        )  # fmt: skip

    def _estimated(self, column: Column, counts: npt.NDArray[np.int64]) -> EstimatedPerformance | None:
        """Of a drifted score: how good predictions probably are, as long as no label says it."""
        performance = self._entry.reference.performance
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
        since_ms = self._trail.at(row - run + 1).time_ms
        return Recent(
            self._outside.numbers(column, onset_row, row), self._outside.names(column, onset_row, row),
            run, minute(rfc3339(since_ms)) if since_ms else "",
        )  # fmt: skip

    def _run(self, column: int, row: int) -> int:
        """How many rows up to `row` have its code, as far as is remembered."""
        codes = self._trail.codes_between(max(0, row + 1 - CITED_ROWS), row + 1, column)
        others = np.flatnonzero(codes != codes[-1])
        return len(codes) - 1 - int(others[-1]) if len(others) else len(codes)

    def identity(self, column: int, state: State, row: int) -> str:
        watched = self._columns[column]
        return alert_id(
            self._rules.config_digest, self._entry.digest, "column", KINDS[watched.role], self._stream, watched.name,
            state, self._trail.at(row),
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
