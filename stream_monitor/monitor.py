"""One watched stream: coded rows in, alerts out. Pure: no I/O, no clock.

What is published depends only on the rows and their order, never on how they were cut into batches: detectors run up
to the next pane boundary of the stream's own row count at most, signals are handled in row order with the counts as
they were at their row, and everything that acts back on a detector waits for the pane boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Severity,
    State,
)  # fmt: skip
from stream_monitor.batch import Extra, Origins, Unknown
from stream_monitor.book import Entry
from stream_monitor.detectors.ensemble import PANE_ROWS, DetectorSet
from stream_monitor.detectors.pair_sums import BLOCK
from stream_monitor.detectors.pairs import EVERY
from stream_monitor.detectors.recovery import Reason, Strength, decide, reopened, strength
from stream_monitor.detectors.signal import Signal
from stream_monitor.heavy import HeavyNames
from stream_monitor.lifecycle import (
    ENOUGH,
    EXPLANATIONS,
    LEADERS,
    Episode,
    awaits_explanation,
    severity,
    update_due,
)
from stream_monitor.outside import Outside
from stream_monitor.reference import Column, Role, StreamKey
from stream_monitor.relations import Relating, RelationsState
from stream_monitor.telling import CITED_ROWS, KINDS, Rules, Teller
from stream_monitor.trail import Trail

LOOK_ROWS: Final = EVERY * BLOCK
"""Rows between two looks at the relations of columns."""
RESOLVED_ROWS: Final = 500
"""Rows that the present distribution of a resolved alert is taken from."""
MAX_UNKNOWN: Final = 1_000
CONFIRMING_Z: Final = 5.0
"""Standard errors by which the mean rank since the onset has to differ for ADWIN or Page-Hinkley to open an alert."""


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
        self._teller = Teller(stream, entry, detectors, self.trail, self._outside, rules)
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
        counts = self._teller.counts(signal.column, self._onset(signal)[0], signal.row)
        return self.detectors.mean_rank(signal.column, counts) < self.detectors.mean_rank(signal.column)

    def _confirmed(self, signal: Signal) -> bool:
        """Whether the rows since the signal's onset differ from the reference, not only from the rows before."""
        counts = self._teller.counts(signal.column, signal.onset_row, signal.row)
        return abs(self.detectors.mean_rank_z(signal.column, counts)) > CONFIRMING_Z

    def _open(self, signal: Signal, finding: tuple[str, float, float, str, str]) -> Alert:
        column = signal.column
        onset_row, earliest_row = self._onset(signal)
        counts = self._teller.counts(column, onset_row, signal.row)
        effect = self._teller.effect(column, counts)
        resolved_row, reopenings = self._past.get(column, (-1, 0))
        onset = self.trail.at(onset_row)
        episode = Episode(
            id=self._teller.identity(column, State.FIRING, signal.row),
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
        return self._teller.alert(episode, State.FIRING, signal.row, counts)

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
        clear = np.array([self._clear(c, r) for c, r in zip(columns, returned.tolist(), strict=True)])
        reasons = decide(self._rules.recovery, row, opened, onset, returned, reopenings, clear)
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

    def _clear(self, column: int, return_row: int) -> bool:
        """Whether an episode that was reopened is of a clear drift; of others that is not asked."""
        episode = self.episodes[column]
        if episode.reopenings and episode.strength is Strength.UNKNOWN:
            episode.strength = strength(return_row, self.detectors.clear(column))
        return episode.strength is Strength.CLEAR

    def _update(self, episode: Episode, row: int) -> list[Alert]:
        counts = self._window(episode, row)
        effect = self._teller.effect(episode.column, counts)
        open_rows, felt = row - episode.opened_row, self._felt(episode.column)
        grave = severity(self._rules.lifecycle, effect.psi, open_rows, episode.severity, felt=felt)
        enough = not episode.enough and self._teller.retrain(episode, row).enough
        verdict = update_due(self._rules.lifecycle, episode, row, effect.js_distance, grave)
        if verdict.publish:
            episode.severity, episode.js_distance, episode.updates = grave, effect.js_distance, episode.updates + 1
        elif not enough and not (
            awaits_explanation(episode, row) and self._teller.told(episode, row, counts).direction in EXPLANATIONS
        ):
            return []
        episode.published_row, episode.enough = row, episode.enough or enough
        reason = ENOUGH if enough else verdict.reason or "what happened has become clear"
        return [self._teller.alert(episode, State.UPDATED, row, counts, reason)]

    def _felt(self, column: int) -> bool:
        """Whether the predictions may have moved with a column; only of an input can that be denied, where they are
        watched."""
        roles = [self._columns[each].role for each in self.episodes]
        watched = any(each.role is Role.PREDICTION for each in self._columns)
        related = self.relating is not None and self.relating.with_prediction
        return self._columns[column].role is not Role.INPUT or not watched or Role.PREDICTION in roles or related

    def _resolve(self, column: int, row: int, reason: str) -> Alert:
        episode = self.episodes[column]
        counts = self._teller.counts(column, max(episode.onset_row, row - RESOLVED_ROWS), row)
        return self._teller.alert(episode, State.RESOLVED, row, counts, reason)

    def _on_unknown(self, name: str, row: int) -> Alert | None:
        """One alert a feature that the reference does not know; it waits for the next reference."""
        if name in self._unknown or len(self._unknown) >= MAX_UNKNOWN:
            return None
        self._unknown.add(name)
        return self._teller.unknown(name, row)

    def _window(self, episode: Episode, row: int) -> npt.NDArray[np.int64]:
        """At the end of a pane: the detectors' longer window where it lies within the episode, else the recent rows."""
        window = self.detectors.window(episode.column)
        if window is not None and window.sum() <= row + 1 - episode.onset_row:
            return window
        return self._teller.counts(episode.column, episode.onset_row, row)
