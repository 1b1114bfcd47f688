"""Incidents: what falls together is one alert of the model, ranked, with a state that follows its members."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Detected,
    Effect,
    EventRef,
    Onset,
    PerformanceFact,
    Severity,
    State,
    rfc3339,
    schema,
)
from stream_monitor.errors import WireError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.incident_state import of, pack, unpack
from stream_monitor.incidents import MAX_MEMBERS, Incidents
from stream_monitor.reference import Reference, Season, StreamKey
from tests.unit.world import World, replayed
from tests.unit.world import settings as world_settings

HOUR_MS = 3_600_000


def alert(column: str, onset: int, delay: int = 1, state: State = State.FIRING, js: float = 0.3, **more: Any) -> Alert:
    """Onset and delay in hours; the row of the decision is the hour."""
    row = onset + delay
    since = rfc3339(onset * HOUR_MS)
    role = more.pop("role", "input")
    given = {
        "scope": "column", "kind": AlertKind.DATA_DRIFT, "severity": Severity.WARNING, "segment": "", "version": "",
        "summary": f"{column}: median 1 → 2, 10–90 % 0…2 → 1…3", "reason": "",
    } | more  # fmt: skip
    return Alert(
        id=f"{column}.{state}.{row}", episode=column, state=state, model="m", column=column, role=role,
        onset=Onset(time=since, earliest=since, event=EventRef(partition=0, offset=onset)),
        detected=Detected(time=rfc3339(row * HOUR_MS), topic="p", partition=0, offset=row, rows_since_onset=delay),
        effect=Effect(js_distance=js, psi=0.1, ks=0.1, wasserstein_rank=0.1, n=10), **given,
    )  # fmt: skip


def accuracy(onset: int, delay: int = 1, state: State = State.FIRING) -> Alert:
    fact = PerformanceFact(
        metric="accuracy", value=0.916, low=0.903, high=0.928, n=2_000, method="wilson", reference=0.944
    )
    return alert("accuracy", onset, delay, state, scope="stream", kind=AlertKind.PERFORMANCE, role="outcome",
                 performance=fact, summary="accuracy 0.944 → 0.916")  # fmt: skip


def incidents() -> Incidents:
    return Incidents("m", "config", "predictions")


def taken(found: Incidents, *alerts: Alert, inputs: int = 7) -> list[Alert]:
    """What each by itself makes of the incidents."""
    return [a for each in alerts for a in found.among([each], lambda _: inputs) if a.kind is AlertKind.INCIDENT]


def test_one_alert_is_no_incident_and_two_far_apart_are_none_either() -> None:
    assert taken(incidents(), alert("a", 10)) == []
    assert taken(incidents(), alert("a", 10), alert("b", 20)) == []


def test_alerts_whose_onsets_fall_together_are_one_with_the_columns_ranked() -> None:
    found = incidents()
    (firing,) = taken(found, alert("a", 10, js=0.2), alert("b", 11, 2, js=0.4))
    assert (firing.scope, firing.state, firing.column) == ("model", "firing", "")
    assert firing.key() == b'["model","m","","","incident",""]'
    assert firing.id == firing.episode
    assert [member.column for member in firing.members] == ["b", "a"]
    assert firing.detected.offset == 13  # of the alert that made it one
    assert firing.summary == (
        "Since 1970-01-01 10:00 two of seven inputs moved (b most: median 1 → 2). "
        "No fall of performance has been found."
    )


def test_of_a_single_input_it_is_not_said_that_it_moved_most() -> None:
    (firing,) = taken(incidents(), alert("a", 10), alert("a", 10, segment="EU"))
    assert firing.summary.startswith("Since 1970-01-01 10:00 one of seven inputs moved (a: median 1 → 2). ")


def test_importance_times_effect_where_the_reference_has_importances() -> None:
    (firing,) = taken(incidents(), alert("a", 10, js=0.2, importance=0.9), alert("b", 10, js=0.4, importance=0.1))
    assert [(member.column, member.score) for member in firing.members] == [("a", 0.18), ("b", 0.04)]


def test_two_sentences_say_what_happened_and_what_became_of_the_performance() -> None:
    found = incidents()
    told = taken(
        found, *(alert(name, 10, js=0.5) for name in ("a", "b", "c", "d")),
        alert("prediction", 10, kind=AlertKind.PREDICTION_DRIFT, role="prediction"), accuracy(11, 3),
    )  # fmt: skip
    assert [each.state for each in told] == ["firing", "updated", "updated", "updated"]
    assert [each.reason for each in told[1:]] == [
        "3 members, 2 when last told", "the prediction followed", "the performance followed"
    ]  # fmt: skip
    assert told[-1].summary == (
        "Since 1970-01-01 10:00 four of seven inputs moved (a most: median 1 → 2), the score followed. "
        "Accuracy fell from 0.944 to 0.916 (95 % interval 0.903 … 0.928 of 2,000 outcomes)."
    )
    assert len({each.episode for each in told}) == 1


def test_its_state_follows_its_members() -> None:
    found = incidents()
    taken(found, alert("a", 10), alert("b", 10))
    assert taken(found, alert("a", 10, 30, State.RESOLVED, reason="returned")) == []
    (resolved,) = taken(found, alert("b", 10, 40, State.RESOLVED, reason="returned"))
    assert (resolved.state, resolved.reason) == ("resolved", "returned")
    assert [member.open for member in resolved.members] == [False, False]
    assert found.state() is None
    (again,) = taken(found, alert("a", 100), alert("b", 100))
    assert again.state is State.FIRING
    assert again.episode != resolved.episode


def test_what_begins_later_is_another_incident_beside_the_open_one() -> None:
    found = incidents()
    (first,) = taken(found, alert("a", 10), alert("b", 10))
    (second,) = taken(found, alert("c", 50), alert("d", 51, 2))
    assert (first.column, second.column) == ("", "incident 2")
    assert {member.column for member in second.members} == {"c", "d"}
    (resolved,) = taken(
        found, alert("a", 10, 90, State.RESOLVED), alert("b", 10, 91, State.RESOLVED)
    )  # fmt: skip
    assert resolved.episode == first.episode


def test_versions_stand_apart_and_segments_of_one_stand_together() -> None:
    assert taken(incidents(), alert("a", 10, version="1"), alert("a", 10, version="2")) == []
    (firing,) = taken(incidents(), alert("a", 10, segment="r=EU"), alert("b", 10, segment="r=EU"))
    assert "in r=EU" in firing.summary
    assert firing.segment == ""


def test_severity_is_that_of_the_gravest_and_never_benign_where_performance_fell() -> None:
    low: dict[str, Any] = {"severity": Severity.BENIGN}
    (calm,) = taken(incidents(), alert("a", 10, **low), alert("b", 10, **low))
    assert calm.severity is Severity.BENIGN
    told = taken(incidents(), alert("a", 10, **low), accuracy(10).model_copy(update=low))
    assert told[0].severity is Severity.WARNING
    found = incidents()
    taken(found, alert("a", 10), alert("b", 10))
    (graver,) = taken(found, alert("a", 10, 9, State.UPDATED, severity=Severity.CRITICAL))
    assert graver.reason == "severity warning → critical"


def test_what_is_kept_in_mind_is_bounded() -> None:
    found = incidents()
    for i in range(MAX_MEMBERS + 50):
        found.among([alert(f"c{i}", 10 * i)], lambda _: 7)
    state = found.state()
    assert state is not None
    assert sum(len(group.members) for group in state.groups) == MAX_MEMBERS


def moves() -> list[Alert]:
    return [
        alert("a", 10), alert("b", 11, 2), alert("c", 30), accuracy(10, 6), alert("d", 31, 4),
        alert("a", 10, 50, State.UPDATED, severity=Severity.CRITICAL), alert("b", 11, 60, State.RESOLVED),
        alert("c", 30, 40, State.RESOLVED), alert("a", 10, 61, State.RESOLVED), accuracy(10, 62, State.RESOLVED),
        alert("d", 31, 50, State.RESOLVED),
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rows_fed_together_and_restarts_change_nothing(data: st.DataObject) -> None:
    ordered = sorted(moves(), key=lambda each: each.detected.offset)
    alone = incidents()
    expected = [a.to_json() for each in ordered for a in alone.among([each], lambda _: 7)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ordered) - 1))))
    found, told = incidents(), []
    for start, stop in zip([0, *cuts], [*cuts, len(ordered)], strict=True):
        outcomes_last = sorted(ordered[start:stop], key=lambda each: each.kind is AlertKind.PERFORMANCE)
        together = found.among(outcomes_last, lambda _: 7)
        told += together
        if data.draw(st.booleans()):
            record = pack("m", found.state())
            found = incidents()
            if record[1] is not None:
                found.restore(unpack(of({record[0]: record[1]})["m"]))
    assert [a.to_json() for a in told] == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.groups[0].members.clear(),
        lambda state: state.groups[0].incidents.clear(),
        lambda state: setattr(state.groups[0].members[0], "effect", float("nan")),
        lambda state: setattr(state.groups[0].members[0], "delay_ms", -1),
        lambda state: setattr(state.groups[0].incidents[0], "number", -3),
        lambda state: setattr(
            state.groups[0].members[0], "onset",
            msgspec.structs.replace(state.groups[0].members[0].onset, time="yesterday"),
        ),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_is_refused(change: Any) -> None:
    found = incidents()
    taken(found, alert("a", 10), alert("b", 10))
    state = found.state()
    assert state is not None
    change(state)
    _, data = pack("m", state)
    assert data is not None
    with pytest.raises(WireError):
        unpack(data)


# ---- in the worker ----


def rows(count: int, start: int = 0, moved: bool = False) -> list[Row]:
    rng = np.random.default_rng(start + 1)
    values = rng.normal(size=(count, 3)) + 2.0 * moved * np.array([1, 1, 0])
    return [
        Row("m", "", "", 1_600_000_000_000 + 1_000 * (start + i), {"a": a, "b": b, "c": c}, c, None, str(start + i), 0,
            start + i, 0)
        for i, (a, b, c) in enumerate(values.tolist())
    ]  # fmt: skip


@cache
def reference() -> Reference:
    options = FitOptions(season=Season.NONE, ordered=True, importance={"a": 0.2, "b": 0.8, "c": 0.1})
    return fit(rows(5_000, 100_000), StreamKey("m"), options)


def test_a_worker_that_takes_over_in_between_tells_the_same_incident_as_a_replay() -> None:
    world = World(partitions=1, references=[reference()])
    first = world.worker("a")
    world.write(rows(600), live=False)
    world.write(rows(400, 600, moved=True))
    world.settle(first)
    second = world.worker("b")
    first.close()
    world.write(rows(3_000, 1_000))
    world.settle(second)
    told = [each for each in world.alerts() if each["kind"] == "incident"]
    assert [each["state"] for each in told] == ["firing", "resolved"]
    assert told[0]["members"][0]["column"] == "b"  # as much moved as a, four times as important
    assert told[0]["summary"].startswith("Since 2020-09-13 12:3")
    assert "two of three inputs moved" in told[0]["summary"]
    ids = replayed(
        world_settings(), [reference()], [*rows(600), *rows(400, 600, moved=True), *rows(3_000, 1_000)], lambda _: 77
    )
    assert [each["id"] for each in world.alerts()] == ids


def test_the_schema_knows_it() -> None:
    described = schema()
    assert "incident" in described["$defs"]["AlertKind"]["enum"]
    assert "IncidentMember" in described["$defs"]
    assert "model" in described["properties"]["scope"]["enum"]
