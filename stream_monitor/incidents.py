"""Incidents: alerts of one model whose onsets fall together make one alert of the model. Pure: no I/O, no clock.

Every alert about a column, a segment's column, a relation, the errors or a metric is looked at once, when it is raised;
nothing else moves an incident, so it is a function of the alerts and their order. Two onsets *fall together* if they
lie no further apart than the longer of the two delays with which they were noticed: an onset is known no better than
that. The second of two such alerts opens an incident; what falls together with its best dated member joins it. It is
updated when it has half as many members again as when it was last told, graver ones, or the first about the
prediction or the performance, and resolved when all its members are. A version may have several open at once.

Its severity is the gravest of its open members'; while predictions and performance are steady all of it may be benign
(see `lifecycle.py`), and it never is when errors or metrics are among its members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Detected,
    EventRef,
    IncidentMember,
    Onset,
    Retrain,
    Severity,
    State,
    alert_id,
    epoch_ms,
    minute,
    rounded,
)
from stream_monitor.detectors.outcome_pairs import LABEL
from stream_monitor.lifecycle import ENOUGH
from stream_monitor.reference import Role, StreamKey
from stream_monitor.trail import Origin

KINDS: Final = frozenset(
    {
        AlertKind.DATA_DRIFT, AlertKind.PREDICTION_DRIFT, AlertKind.CONCEPT_DRIFT, AlertKind.PERFORMANCE,
        AlertKind.CORRELATION_DRIFT,
    }
)  # fmt: skip
"""Of alerts that may belong to an incident."""
OUTCOME_KINDS: Final = frozenset({AlertKind.CONCEPT_DRIFT, AlertKind.PERFORMANCE})
WITH_LABEL: Final = f" ~ {LABEL}"
MAX_MEMBERS: Final = 1_000
"""Open alerts of a model that are kept in mind; more stand alone."""
LISTED: Final = 20
"""Members that an alert lists, at most."""
TEXT: Final = 160
GRADES: Final = (Severity.BENIGN, Severity.INFO, Severity.WARNING, Severity.CRITICAL)
NONE: Final = -1
WORDS: Final = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip

Subject = tuple[str, str, str, str]
"""Scope, segment, kind, column."""
InputsOf = Callable[[StreamKey], int]


class Since(msgspec.Struct, frozen=True):
    """An `Onset`, as it is kept."""

    time: str
    earliest: str
    partition: int
    offset: int
    index: int


class Worth(msgspec.Struct, frozen=True):
    """A `Retrain`, as it is kept."""

    since: str
    rows: int
    labelled: int | None
    enough: bool


class Member(msgspec.Struct):
    """An open alert, or one that was of an incident still open. `incident`: its number, −1 for none. `rows`: what the
    alert says is worth retraining on."""

    scope: str
    segment: str
    kind: AlertKind
    column: str
    role: str
    severity: Severity
    onset: Since
    delay_ms: int
    effect: float
    importance: float | None
    said: str
    outcome: str
    estimate: str
    open: bool = True
    incident: int = NONE
    retrain: Worth | None = None

    @property
    def subject(self) -> Subject:
        return self.scope, self.segment, self.kind, self.column

    @property
    def score(self) -> float:
        """What columns are ranked by."""
        return self.effect * (1.0 if self.importance is None else self.importance)


class Incident(msgspec.Struct):
    """One that is open. `number`: the lowest that was free; `told`: members when it was last told of, with the roles
    and the severity then."""

    number: int
    id: str
    told: int
    roles: list[str]
    severity: Severity
    enough: bool = False


class Group(msgspec.Struct):
    """The alerts of one version of the model. `inputs`: features that are watched, 0 while that is not known."""

    version: str
    inputs: int = 0
    members: list[Member] = []
    incidents: list[Incident] = []


class IncidentsState(msgspec.Struct):
    """Of one model."""

    groups: list[Group] = []


@dataclass(slots=True)
class Incidents:
    """The incidents of one model."""

    model: str
    config_digest: str
    topic: str
    groups: dict[str, Group] = field(default_factory=dict)

    def among(self, alerts: Sequence[Alert], inputs_of: InputsOf) -> list[Alert]:
        """The alerts that were raised together, by row, each followed by what it makes of the incidents; those of
        other models are passed on."""
        told: list[Alert] = []
        for alert in _in_row_order(alerts):
            told.append(alert)
            if alert.kind in KINDS and alert.model == self.model:
                group = self.groups.setdefault(alert.version, Group(alert.version))
                group.inputs = inputs_of(alert.stream) or group.inputs
                told += self._take(group, alert)
                if not group.members:
                    del self.groups[alert.version]
        return told

    def state(self) -> IncidentsState | None:
        """None where nothing is open."""
        return IncidentsState([self.groups[version] for version in sorted(self.groups)]) if self.groups else None

    def restore(self, state: IncidentsState) -> None:
        self.groups = {group.version: group for group in state.groups}

    def _take(self, group: Group, alert: Alert) -> list[Alert]:
        subject = (alert.scope, alert.segment, alert.kind, alert.column)
        known = next((m for m in group.members if m.subject == subject and m.open), None)
        if alert.state is State.RESOLVED:
            return self._resolved(group, known, alert) if known is not None else []
        member = _member(alert)
        if known is not None:  # an update, or a firing whose end was never heard of
            member.incident = known.incident
            group.members[group.members.index(known)] = member
            return self._tell(group, member.incident, alert)
        if len(group.members) >= MAX_MEMBERS:
            return []
        group.members.append(member)
        return self._joined(group, member, alert)

    def _joined(self, group: Group, member: Member, alert: Alert) -> list[Alert]:
        """A new alert: it joins an incident, opens one with others, or stands alone."""
        for incident in group.incidents:
            if _together(_best(_of(group, incident.number)), member):
                member.incident = incident.number
                return self._tell(group, incident.number, alert)
        others = [m for m in group.members if m is not member and m.incident == NONE and _together(m, member)]
        if not others:
            return []
        number = next(n for n in range(len(group.incidents) + 1) if all(i.number != n for i in group.incidents))
        for each in (member, *others):
            each.incident = number
        members = _of(group, number)
        identity = self._id(group, number, State.FIRING, alert)
        incident = Incident(number, identity, len(members), _roles(members), _severity(members))
        group.incidents.append(incident)
        return [self._alert(group, incident, State.FIRING, alert)]

    def _tell(self, group: Group, number: int, alert: Alert) -> list[Alert]:
        """Whether an incident has changed enough for another message."""
        incident = next((each for each in group.incidents if each.number == number), None)
        if incident is None:
            return []
        members = _of(group, number)
        roles, grave = _roles(members), _severity(members)
        new = sorted(set(roles) - set(incident.roles))
        reason = ""
        if new:
            reason = f"the {' and the '.join(new)} followed"
        elif grave is not incident.severity:
            reason = f"severity {incident.severity} → {grave}"
        elif 2 * len(members) >= 3 * incident.told:
            reason = f"{len(members)} members, {incident.told} when last told"
        elif not incident.enough and (worth := _worth(members, State.UPDATED)) is not None and worth.enough:
            reason, incident.enough = ENOUGH, True
        if not reason:
            return []
        incident.told, incident.roles, incident.severity = len(members), roles, grave
        return [self._alert(group, incident, State.UPDATED, alert, reason)]

    def _resolved(self, group: Group, member: Member, alert: Alert) -> list[Alert]:
        member.open = False
        incident = next((each for each in group.incidents if each.number == member.incident), None)
        if incident is None:
            group.members.remove(member)
            return []
        if any(each.open for each in _of(group, incident.number)):
            return []
        told = self._alert(group, incident, State.RESOLVED, alert, alert.reason or "all members are resolved")
        group.incidents.remove(incident)
        group.members = [each for each in group.members if each.incident != incident.number]
        return [told]

    # ---- the alert ----

    def _alert(self, group: Group, incident: Incident, state: State, by: Alert, reason: str = "") -> Alert:
        members = sorted(_of(group, incident.number), key=_rank)
        best = _best(members)
        text = self._text(group, members, best)
        if state is State.RESOLVED:
            text = f"All of what moved since {minute(best.onset.time)} is over. {len(members)} alerts were part of it."
        return Alert(
            id=incident.id if state is State.FIRING else self._id(group, incident.number, state, by),
            episode=incident.id, scope="model", state=state, kind=AlertKind.INCIDENT, severity=incident.severity,
            model=self.model, version=group.version, segment="", column=_name(incident.number), role="",
            summary=text, reason=reason,
            onset=Onset(
                time=best.onset.time, earliest=best.onset.earliest,
                event=EventRef(partition=best.onset.partition, offset=best.onset.offset, index=best.onset.index),
            ),
            detected=Detected(
                time=by.detected.time, topic=self.topic, partition=by.detected.partition, offset=by.detected.offset,
                index=by.detected.index, rows_since_onset=by.detected.rows_since_onset,
            ),
            members=[_listed(each) for each in members[:LISTED]], members_total=len(members),
            retrain=_worth(members, state),
        )  # fmt: skip

    def _text(self, group: Group, members: Sequence[Member], best: Member) -> str:
        """Two sentences: what moved since when, and what became of the performance."""
        parts = [part for part in (_inputs(group, members), _relations(members)) if part]
        if any(each.role == Role.PREDICTION for each in members):
            parts.append("the score followed" if parts else "the score moved")
        if not parts:
            parts.append("the errors of the predictions changed")
        told = next((each.outcome for each in members if each.outcome and each.open), "")
        estimated = next((each.estimate for each in members if each.estimate and each.open), "")
        second = told or estimated or "no fall of performance has been found"
        return f"Since {minute(best.onset.time)} {', '.join(parts)}. {second[:1].upper()}{second[1:]}."

    def _id(self, group: Group, number: int, state: State, by: Alert) -> str:
        """By the alert that moved it: one row may decide several alerts, and so several updates."""
        row = Origin(by.detected.partition, by.detected.offset, by.detected.index, 0)
        stream = StreamKey(self.model, group.version)
        return alert_id(self.config_digest, by.id, "model", AlertKind.INCIDENT, stream, _name(number), state, row)


def _in_row_order(alerts: Sequence[Alert]) -> list[Alert]:
    """In the order of the rows that decided, so that it does not matter which rows were fed together. Those of one
    stream, and those about its outcomes, keep their order."""
    one = len({alert.detected.partition for alert in alerts}) <= 1
    latest: dict[tuple[StreamKey, bool], tuple[int, int, int, int]] = {}
    keys = []
    for alert in alerts:
        at, source = alert.detected, (alert.stream, about_outcomes(alert))
        row = (0 if one else epoch_ms(at.time), at.partition, at.offset, at.index)
        latest[source] = max(row, latest.get(source, row))
        keys.append(latest[source])
    return [alerts[place] for place in sorted(range(len(alerts)), key=keys.__getitem__)]  # stable


def about_outcomes(alert: Alert) -> bool:
    """Whether its rows are outcomes, in an order of their own."""
    return alert.kind in OUTCOME_KINDS or (alert.scope == "pair" and alert.column.endswith(WITH_LABEL))


def _member(alert: Alert) -> Member:
    performance, outcome = alert.performance, ""
    if performance is not None:
        metric, interval = performance.metric.replace("_", " "), f"{performance.low:.3g} … {performance.high:.3g}"
        before, now = performance.reference, performance.value
        moved = f"is {now:.3g}"
        if before is not None:
            moved = f"{'fell' if now < before else 'rose'} from {before:.3g} to {now:.3g}"
        outcome = f"{metric} {moved} (95 % interval {interval} of {performance.n:,} outcomes)"
    estimated, estimate = alert.estimated_performance, ""
    if estimated is not None and "estimated_accuracy" in estimated.metrics:
        estimate = f"accuracy is estimated from the scores to be {estimated.metrics['estimated_accuracy']:.3g}"
        if "accuracy" in estimated.reference:
            estimate += f" ({estimated.reference['accuracy']:.3g} in training)"
    effect = alert.effect.js_distance if alert.effect is not None else 0.0
    if alert.relations:
        effect = max(abs(fact.now - fact.before) for fact in alert.relations)
    said = alert.summary.removeprefix(f"{alert.column}: ").partition("; ")[0].partition(", 10–90 %")[0]
    at, worth = alert.onset, alert.retrain
    since = Since(at.time, at.earliest, at.event.partition, at.event.offset, at.event.index)
    return Member(
        alert.scope, alert.segment, alert.kind, alert.column, alert.role, alert.severity, since,
        max(epoch_ms(alert.detected.time) - epoch_ms(at.time), 0), effect, alert.importance, said[:TEXT], outcome,
        estimate, retrain=Worth(worth.from_, worth.rows, worth.labelled, worth.enough) if worth is not None else None,
    )  # fmt: skip


def _worth(members: Sequence[Member], state: State) -> Retrain | None:
    """From the last of the onsets on, as of the members' last words; with labels if any of them counts labels."""
    found = [each.retrain for each in members if each.open and each.retrain is not None]
    if not found or state is State.RESOLVED:
        return None
    last = max(found, key=lambda each: each.since)
    labelled = [each for each in found if each.labelled is not None]
    told = max(labelled, key=lambda each: each.since) if labelled else None
    return Retrain(
        from_=last.since, rows=last.rows, labelled=told.labelled if told is not None else None,
        enough=told.enough if told is not None else last.enough,
    )  # fmt: skip


def _together(one: Member, other: Member) -> bool:
    apart = abs(epoch_ms(one.onset.time) - epoch_ms(other.onset.time))
    return apart <= max(one.delay_ms, other.delay_ms)


def _of(group: Group, number: int) -> list[Member]:
    return [each for each in group.members if each.incident == number]


def _best(members: Sequence[Member]) -> Member:
    """The member whose onset is known best; the strongest of equals."""
    return min(members, key=lambda each: (each.delay_ms, -each.effect, each.subject))


def _roles(members: Iterable[Member]) -> list[str]:
    """What an owner waits for to be told: the prediction, the performance."""
    roles = {"performance" for each in members if each.kind in OUTCOME_KINDS}
    return sorted(roles | {"prediction" for each in members if each.kind is AlertKind.PREDICTION_DRIFT})


def _severity(members: Sequence[Member]) -> Severity:
    """The gravest of the open ones'; where performance is among them, a warning at least."""
    open_ = [each for each in members if each.open] or list(members)
    grave = max((each.severity for each in open_), key=GRADES.index)
    if any(each.kind in OUTCOME_KINDS for each in open_):
        return max(grave, Severity.WARNING, key=GRADES.index)
    return grave


def _rank(member: Member) -> tuple[bool, float, bool, Subject]:
    """Columns first, by importance × effect; the whole's before a segment's."""
    return member.scope != "column", -member.score, member.segment != "", member.subject


def _inputs(group: Group, members: Sequence[Member]) -> str:
    """`four of seven inputs moved (car_value most: median 21,902 → 38,508)`, or where they did."""
    moved = [each for each in members if each.kind is AlertKind.DATA_DRIFT]
    if not moved:
        return ""
    names = list(dict.fromkeys(each.column for each in moved))
    whole = any(not each.segment for each in moved)
    count = _number(len(names)) + (f" of {_number(group.inputs)}" if group.inputs else "")
    where = ""
    if not whole:
        parts = list(dict.fromkeys(each.segment for each in moved))
        where = f" in {parts[0]}" + (f" and {len(parts) - 1} other segments" if len(parts) > 1 else "")
    noun = "input" if (group.inputs or len(names)) == 1 else "inputs"
    first = moved[0].column + (" most" if len(names) > 1 else "")
    return f"{count} {noun} moved{where} ({first}: {moved[0].said})"


def _relations(members: Sequence[Member]) -> str:
    found = [each for each in members if each.kind is AlertKind.CORRELATION_DRIFT]
    if not found:
        return ""
    more = f" and {_number(len(found) - 1)} more" if len(found) > 1 else ""
    return f"relations changed ({found[0].said}{more})"


def _listed(member: Member) -> IncidentMember:
    return IncidentMember(
        scope=member.scope, kind=member.kind, segment=member.segment, column=member.column, role=member.role,
        open=member.open, severity=member.severity, onset=member.onset.time, effect=rounded(member.effect),
        importance=member.importance, score=rounded(member.score),
    )  # fmt: skip


def _name(number: int) -> str:
    """The subject: none, but for a second incident beside one that is open."""
    return f"incident {number + 1}" if number else ""


def _number(count: int) -> str:
    return WORDS[count] if count < len(WORDS) else f"{count:,}"
