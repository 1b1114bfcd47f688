"""Alerts about relations: rank correlations of inputs with the prediction, and of the inputs among themselves. Pure.

What has changed is decided by `detectors/pairs.py` once every 200 rows. A change of an input's
relation with a prediction is an alert of the pair; changes among inputs are one alert, of the matrix, that names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Detected,
    Finding,
    Onset,
    RelationFact,
    Retrain,
    Severity,
    State,
    alert_id,
)
from stream_monitor.detectors.pair_sums import KEPT
from stream_monitor.detectors.pairs import CLOSELY, Pairs, Verdict
from stream_monitor.errors import WireError
from stream_monitor.events import DATES_MS
from stream_monitor.lifecycle import ENOUGH
from stream_monitor.reference import StreamKey
from stream_monitor.trail import Origin, Trail

MATRIX: Final = "inputs"
"""The subject of the alert about the matrix of the inputs' correlations."""
NAMED: Final = 5
"""Pairs that it names, at most."""
WARNING, CRITICAL = 0.2, 0.5
RETURN_ODDS: Final = 1e4
OPEN: Final = 2**62
MAX_UPDATES: Final = 64


class RelationEpisode(msgspec.Struct):
    """One open alert. `changes`: by pair, how far it was beyond what the reference explains when it fired."""

    id: str
    changes: dict[int, float]
    opened_row: int
    onset_row: int
    earliest_row: int
    onset: tuple[int, int, int, int]
    earliest_time_ms: int
    severity: Severity
    change: float
    published_row: int
    updates: int = 0
    enough: bool = False


class RelationsState(msgspec.Struct):
    """Open alerts by subject, and by pair the row from which on it is looked at."""

    episodes: dict[str, RelationEpisode] = {}
    since: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Policy:
    """`update_ratio`, `update_rows`: as of the lifecycle of columns."""

    config_digest: str
    topic: str
    update_ratio: float
    update_rows: int
    retrain_rows: int
    labelled: bool = False
    """Whether its rows are those that have a label."""


class Relating:
    """The relations of one stream under one reference."""

    def __init__(self, stream: StreamKey, digest: str, pairs: Pairs, policy: Policy) -> None:
        self.pairs = pairs
        self.episodes: dict[str, RelationEpisode] = {}
        self._stream, self._digest, self._policy = stream, digest, policy
        self._since: dict[int, int] = {}

    def end_of_pane(
        self, trail: Trail, times: npt.NDArray[np.float64] | None, onsets: Mapping[int, int], ended: Mapping[int, int]
    ) -> list[Alert]:
        """The alerts of the row fed last. `onsets`: of the open drifts by column; `ended`: rows of the last ends."""
        if times is None:
            return []
        if not self.pairs.paced:
            self.pairs.pace(times)
        size = len(times) if onsets or ended else 0
        alike, moved = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.bool_)
        for column, row in (*ended.items(), *onsets.items()):
            alike[column] = max(int(alike[column]), row)
            moved[column] = column in onsets
        row = trail.rows - 1
        alerts = []
        if trail.rows % CLOSELY == 0:
            for subject in sorted(self.episodes):
                alerts += self._review(subject, trail, alike)
        verdicts = self.pairs.look(trail.ring, trail.rows, alike, moved, self._since)
        among = [v for v in verdicts if self.pairs.among_inputs[v.pair]]
        alerts += [self._open(self._subject([v]), [v], trail, row) for v in verdicts if v not in among]
        if among and MATRIX not in self.episodes:
            alerts.append(self._open(MATRIX, sorted(among, key=lambda v: -abs(v.excess))[:NAMED], trail, row))
        return alerts

    def end(self, trail: Trail, reason: str) -> list[Alert]:
        """Resolve everything open, as of the last row."""
        alerts = [self._resolve(subject, trail, [], reason) for subject in sorted(self.episodes)]
        self.episodes.clear()
        return alerts

    def state(self) -> RelationsState:
        since = {pair: self._since[pair] for pair in sorted(self._since)}
        return RelationsState(dict(self.episodes), since)

    def restore(self, state: RelationsState, rows: int) -> None:
        """Raises WireError."""
        count = len(self.pairs.pairs)
        pairs = [*state.since, *(pair for episode in state.episodes.values() for pair in episode.changes)]
        if any(not 0 <= pair < count for pair in pairs):
            raise WireError("relations of pairs that are not there")
        for episode in state.episodes.values():
            at = (episode.earliest_row, episode.onset_row, episode.opened_row, episode.published_row)
            dates = (episode.onset[3], episode.earliest_time_ms)
            changes = (*episode.changes.values(), episode.change)
            if (
                not all(0 <= row < rows for row in at)
                or not 0 <= episode.updates <= MAX_UPDATES
                or not (episode.changes and all(abs(change) <= 2 for change in changes))
                or not all(date in DATES_MS for date in dates)
            ):
                raise WireError("an alert about relations that cannot be")
        if any(not 0 <= row <= OPEN for row in state.since.values()):
            raise WireError("relations looked at from a row on that cannot be")
        self.episodes = dict(state.episodes)
        self._since |= {pair: row for pair, row in state.since.items() if row}

    def _subject(self, verdicts: list[Verdict]) -> str:
        i, j = self.pairs.pairs[verdicts[0].pair].tolist()
        return f"{self.pairs.names[i]} ~ {self.pairs.names[j]}"

    def _open(self, subject: str, verdicts: list[Verdict], trail: Trail, row: int) -> Alert:
        strongest = verdicts[0]
        onset_row, earliest_row = self.pairs.onset(trail.ring, trail.rows, strongest)
        onset = trail.at(onset_row)
        identity = self._id(subject, State.FIRING, trail, row)
        self.episodes[subject] = episode = RelationEpisode(
            identity, {v.pair: v.excess for v in verdicts}, row, onset_row, earliest_row,
            (onset.partition, onset.offset, onset.index, onset.time_ms), trail.at(earliest_row).time_ms,
            _severity(strongest), strongest.excess, row,
        )  # fmt: skip
        self._since |= dict.fromkeys(self._looked_at(subject, episode), OPEN)
        return self._alert(subject, episode, State.FIRING, trail, verdicts)

    def _looked_at(self, subject: str, episode: RelationEpisode) -> list[int]:
        """The pairs that raise no other alert while it is open."""
        if subject == MATRIX:
            among: list[int] = np.flatnonzero(self.pairs.among_inputs).tolist()
            return among
        return list(episode.changes)

    def _review(self, subject: str, trail: Trail, alike: npt.NDArray[np.int64]) -> list[Alert]:
        """Whether an open alert is over, or has changed enough to say so."""
        episode, row = self.episodes[subject], trail.rows - 1
        judged = [
            self.pairs.judge(trail.ring, trail.rows, pair, KEPT, alike, episode.opened_row + 1)
            for pair in episode.changes
        ]
        verdicts = sorted((v for v in judged if v is not None), key=lambda v: -abs(v.excess))
        if len(verdicts) < len(episode.changes):
            return []
        if all(self._returned(v, episode.changes[v.pair]) for v in verdicts):
            alert = self._resolve(subject, trail, verdicts, "returned")
            self._since |= dict.fromkeys(self._looked_at(subject, episode), trail.rows)
            del self.episodes[subject]
            return [alert]
        change = verdicts[0].excess
        if not episode.enough and self._retrain(episode, row).enough:
            episode.enough = True
            return [self._alert(subject, episode, State.UPDATED, trail, verdicts, ENOUGH)]
        if row - episode.published_row < self._policy.update_rows * 2**episode.updates:
            return []
        old, new = max(abs(episode.change), 0.02), max(abs(change), 0.02)
        if max(old / new, new / old) < self._policy.update_ratio:
            return []
        episode.change, episode.severity = change, _severity(verdicts[0])
        episode.published_row, episode.updates = row, episode.updates + 1
        return [self._alert(subject, episode, State.UPDATED, trail, verdicts,
                            "effect grew" if new > old else "effect shrank")]  # fmt: skip

    def _retrain(self, episode: RelationEpisode, row: int) -> Retrain:
        rows, policy = row - episode.onset_row + 1, self._policy
        return Retrain.since(Origin(*episode.onset), rows, policy.retrain_rows, labelled=policy.labelled)

    @property
    def with_prediction(self) -> bool:
        """Whether a relation with a prediction has an open alert."""
        return any(subject != MATRIX for subject in self.episodes)

    def _returned(self, verdict: Verdict, change: float) -> bool:
        """Whether the rows since speak for no change against the one that fired, by odds of `RETURN_ODDS`."""
        left = verdict.excess * np.sign(change)
        rows = self.pairs.effective(verdict.n, verdict.pair)
        return bool(left < self.pairs.min_change / 2 and rows * (abs(change) - left) ** 2 / 2 >= log(RETURN_ODDS))

    def _resolve(self, subject: str, trail: Trail, verdicts: list[Verdict], reason: str) -> Alert:
        return self._alert(subject, self.episodes[subject], State.RESOLVED, trail, verdicts, reason)

    def _alert(
        self,
        subject: str,
        episode: RelationEpisode,
        state: State,
        trail: Trail,
        verdicts: list[Verdict],
        reason: str = "",
    ) -> Alert:
        row = trail.rows - 1
        facts = [self._fact(v) for v in verdicts]
        told = "; ".join(map(_said, facts[:3]))
        text = f"{subject}: {told}" if subject != MATRIX else f"the inputs hang together differently: {told}"
        if state is State.RESOLVED:
            text = f"{subject}: {_RESOLVED.get(reason, reason)}"
        return Alert(
            id=episode.id if state is State.FIRING else self._id(subject, state, trail, row), episode=episode.id,
            scope="stream" if subject == MATRIX else "pair", state=state, kind=AlertKind.CORRELATION_DRIFT,
            severity=episode.severity, model=self._stream.model, version=self._stream.version,
            segment=self._stream.segment, column=subject, role="relation", summary=text, reason=reason,
            direction=_direction(facts[0]) if facts and state is not State.RESOLVED else "",
            onset=Onset.at(Origin(*episode.onset), episode.earliest_time_ms),
            detected=Detected.at(trail.at(row), self._policy.topic, row - episode.onset_row),
            signals=[
                Finding(detector="pairs", statistic="log_p_bound", value=_short(v.evidence),
                        threshold=_short(float(self.pairs.bar[v.pair])), direction="up" if v.excess > 0 else "down")
                for v in verdicts[:1] if state is State.FIRING
            ],
            relations=facts,
            retrain=self._retrain(episode, row) if state is not State.RESOLVED else None,
        )  # fmt: skip

    def _fact(self, verdict: Verdict) -> RelationFact:
        i, j = self.pairs.pairs[verdict.pair].tolist()
        before = self.pairs.before(verdict.pair)
        return RelationFact(
            first=self.pairs.names[i], second=self.pairs.names[j], before=_short(before),
            now=_short(verdict.now), low=_short(verdict.low), high=_short(verdict.high), n=verdict.n,
        )  # fmt: skip

    def _id(self, subject: str, state: State, trail: Trail, row: int) -> str:
        scope = "stream" if subject == MATRIX else "pair"
        return alert_id(self._policy.config_digest, self._digest, scope, AlertKind.CORRELATION_DRIFT, self._stream,
                        subject, state, trail.at(row))  # fmt: skip


_RESOLVED: Final = {
    "returned": "the rank correlation is that of the reference again",
    "ended": "the stream has ended: nothing has come for longer than silence.ttl_s",
    "reference_changed": "watched against a new reference from here on",
}


def _severity(verdict: Verdict) -> Severity:
    size = abs(verdict.excess)
    return Severity.CRITICAL if size >= CRITICAL else Severity.WARNING if size >= WARNING else Severity.INFO


def _direction(fact: RelationFact) -> str:
    if fact.before * fact.now < 0 and min(abs(fact.before), abs(fact.now)) >= 0.1:
        return "reversed"
    return "weaker" if abs(fact.now) < abs(fact.before) else "stronger"


def _said(fact: RelationFact) -> str:
    explained = ""
    if max(abs(fact.low - fact.before), abs(fact.high - fact.before)) >= 0.05:
        explained = f"; their own drift explains {fact.low:.2f} … {fact.high:.2f}"
    return (
        f"rank correlation of {fact.first} with {fact.second} {fact.before:.2f} → {fact.now:.2f} "
        f"({fact.n:,} rows{explained})"
    )


def _short(value: float) -> float:
    """Four decimals: what is published must not differ in the last bit between machines."""
    return float(f"{value:.4f}")
