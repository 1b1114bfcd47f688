"""The inputs' relations with the label: found where only they change, late labels and restarts included."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import orjson
import pytest

from stream_monitor.alerts import Alert, AlertKind, State
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.errors import ReferenceInvalid
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.outcome_levels import NONE, label_levels, outcome_relations_of, packing_of, unpack
from stream_monitor.reference import MAX_WAITING_LEVELS, OutcomeRelations, Reference, Season, StreamKey
from stream_monitor.reference_checks import load
from stream_monitor.replay import Replay
from stream_monitor.show import shown
from tests.unit.world import MODEL, START_MS, World, message, settings

FLIP, END = 2_037, 4_500
NEVER = 10**9


def rows(count: int, seed: int, flip: int = NEVER, *, task: str = "binary", moved: int | None = None) -> list[Row]:
    """The score follows `a`; the label `a` and `b`, from `flip` on `b` the other way round. `b` is 1 σ higher from
    `moved` on. Neither `flip` changes any distribution, nor how good the scores are."""
    rng = np.random.default_rng(seed)
    a, b, c, u = (*rng.normal(size=(3, count)), rng.random(count))
    if moved is not None:
        b[moved:] += 1
    sign = np.where(np.arange(count) >= flip, -1.0, 1.0)
    latent = 1.5 * a + sign * b
    label = u < 1 / (1 + np.exp(-latent)) if task == "binary" else latent + u
    score = 1 / (1 + np.exp(-1.5 * a)) if task == "binary" else 1.5 * a
    return [
        Row(MODEL, "", "", START_MS + 10 * i, {"a": float(a[i]), "b": float(b[i]), "c": float(c[i])}, float(score[i]),
            int(label[i]) if task == "binary" else float(label[i]), str(i), 0, i, 0)
        for i in range(count)
    ]  # fmt: skip


@cache
def reference(task: str = "binary") -> Reference:
    return fit(rows(10_000, 99, task=task), StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))


def replayed(given: list[Row], task: str = "binary", *, size: int = 700, **detection: object) -> list[Alert]:
    base = Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "detection": {"budget_events": 10_000_000} | detection}
    )
    alerts: list[Alert] = []
    replay = Replay(base, [reference(task)], alerts.append)
    for start in range(0, len(given), size):
        replay.feed(given[start : start + size])
    return alerts


def related(alerts: list[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.kind is AlertKind.CORRELATION_DRIFT]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_an_input_whose_relation_with_the_label_turns_round_is_named(task: str) -> None:
    alerts = replayed(rows(END, 1, FLIP, task=task), task)
    first = related(alerts)[0]
    assert (first.state, first.scope, first.column, first.role) == (State.FIRING, "pair", "b ~ label", "relation")
    (fact,) = first.relations or []
    assert (fact.first, fact.second) == ("b", "label")
    assert fact.before > 0.2
    assert fact.now < fact.before - 0.3
    assert first.onset is not None
    assert FLIP <= first.detected.offset < FLIP + 500
    assert first.detected.offset - FLIP - 60 < first.detected.rows_since_onset < first.detected.offset - FLIP + 60
    assert first.retrain is not None
    assert first.retrain.labelled == first.retrain.rows
    assert {alert.column for alert in related(alerts)} == {"b ~ label"}
    if task == "binary":
        assert {alert.kind for alert in alerts} <= {AlertKind.CORRELATION_DRIFT, AlertKind.INCIDENT}


def test_it_is_over_when_the_relation_is_back() -> None:
    there = rows(FLIP, 1)
    away = rows(2_000, 2, 0)
    back = rows(3_000, 3)
    given = [msgspec.structs.replace(row, offset=i, time_ms=START_MS + 10 * i, id=str(i))
             for i, row in enumerate((*there, *away, *back))]  # fmt: skip
    *_, last = related(replayed(given))
    assert (last.state, last.reason) == (State.RESOLVED, "returned")
    assert last.detected.offset > FLIP + 2_000


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_stationary_rows_raise_none_even_with_a_budget_a_thousand_times_smaller(task: str) -> None:
    for seed in range(5):
        assert not related(replayed(rows(10_000, 100 + seed, task=task), task, budget_events=100_000))


def test_an_input_that_moves_by_itself_raises_none() -> None:
    for seed in range(5):
        alerts = replayed(rows(END, 200 + seed, moved=FLIP))
        assert any(alert.column == "b" for alert in alerts)
        assert not related(alerts)


def test_labels_that_come_late_say_the_same() -> None:
    """The inputs wait as levels; a restart in between, with some labels joined, changes nothing."""
    given, found = rows(END, 1, FLIP), []
    for restarts in (False, True):
        world = World(settings(topics={"partitions": 2, "labels": "labels"}), references=[reference()])
        worker = world.worker()
        for start in range(0, END + 500, 500):
            events, known = given[start : start + 500], given[max(start - 500, 0) : start]
            world.broker.append([message(world.base.topics.predictions, row, 0) for row in events])
            world.broker.append(
                [Message("labels", None, orjson.dumps({"id": row.id, "model": MODEL, "label": row.label}), 0)
                 for row in known]
            )  # fmt: skip
            world.settle(worker)
            if restarts and start in (1_500, 2_500, 3_500):
                worker.close()
                worker = world.worker()
        alerts = [alert for alert in world.alerts() if alert["kind"] == "correlation_drift"]
        assert [alert["column"] for alert in alerts[:1]] == ["b ~ label"]
        assert FLIP <= alerts[0]["detected"]["offset"] < FLIP + 500
        found.append(alerts)
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [1, 130, END])
def test_it_does_not_depend_on_which_rows_were_fed_together(size: int) -> None:
    given = rows(FLIP + 700, 1, FLIP)
    assert [a.to_json() for a in related(replayed(given, size=size))] == [
        a.to_json() for a in related(replayed(given))
    ]  # fmt: skip


def test_rows_coded_under_another_reference_say_nothing() -> None:
    packing = packing_of(reference())
    assert packing is not None
    codes = np.full((4, len(reference().columns)), 5, dtype=np.uint8)
    codes[1, :] = 1  # null
    packed = np.concatenate([packing.pack(codes[:2], 7), packing.pack(codes[2:], 8)])
    marked, levels = unpack(packed, 3, 1 + 7)
    assert marked.tolist() == [0, 1]
    assert levels[0].max() < 6
    assert set(levels[1].tolist()) == {NONE}
    assert not len(unpack(np.zeros((3, 2), dtype=np.uint64), 3, 1)[0]), "nor what was never coded"


def test_a_wide_stream_keeps_the_inputs_that_went_most_with_the_label() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3_000, 40))
    label = (x[:, 39] + 0.5 * x[:, 0] + rng.normal(size=3_000) > 0).astype(int)
    given = [
        Row(MODEL, "", "", i, {f"f{j:02}": float(v) for j, v in enumerate(row)}, 0.5 + 0.01 * i % 0.3, int(y), None,
            0, i, 0)
        for i, (row, y) in enumerate(zip(x, label, strict=True))
    ]  # fmt: skip
    wide = fit(given, StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))
    found = outcome_relations_of(wide.performance)
    assert found is not None
    assert len(found.columns) == MAX_WAITING_LEVELS
    assert found.left_out == 40 - MAX_WAITING_LEVELS
    assert {"f00", "f39"} <= set(found.columns)
    packing = packing_of(wide)
    assert packing is not None
    codes = rng.integers(4, 10, size=(50, len(wide.columns)), dtype=np.uint8)
    _, levels = unpack(packing.pack(codes, 3), MAX_WAITING_LEVELS, 4)
    wanted = [dict(zip(wide.relations.columns, wide.relations.levels, strict=True))[name] for name in found.columns]  # type: ignore[union-attr]
    places = [[c.name for c in wide.columns].index(name) for name in found.columns]
    assert levels.tolist() == [[wanted[k][row[place]] for k, place in enumerate(places)] for row in codes.tolist()]


def test_a_document_comes_back_and_what_cannot_be_is_refused() -> None:
    whole = reference()
    assert load(whole.to_json()) == whole
    found = outcome_relations_of(whole.performance)
    assert found is not None
    for field, value in (
        ("columns", ["a", "b", "z"]), ("correlation", [0.1]), ("tables", b"\0" * 72), ("edges", [float("inf")]),
        ("edges", []), ("times", [0.5, 1.0, 1.0]),
    ):  # fmt: skip
        wrong = msgspec.structs.replace(found, **{field: value})
        assert isinstance(wrong, OutcomeRelations)
        performance = msgspec.structs.replace(whole.performance, relations=wrong)  # type: ignore[type-var]
        with pytest.raises(ReferenceInvalid, match="relations"):
            load(msgspec.structs.replace(whole, performance=performance).to_json())


def test_a_reference_shows_what_went_most_with_the_label() -> None:
    shown_lines = [line for line in shown(reference()).renderables if isinstance(line, str)]  # type: ignore[union-attr]
    (line,) = [line for line in shown_lines if line.startswith("with the label")]
    assert line.startswith("with the label: 3 inputs, a +0.")


def test_labels_without_an_order_have_no_relations() -> None:
    kinds = ("red", "green", "blue")
    given = [msgspec.structs.replace(row, label=kinds[i % 3], prediction=kinds[i % 3]) for i, row in
             enumerate(rows(1_000, 1))]  # fmt: skip
    found = fit(given, StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))
    assert outcome_relations_of(found.performance) is None
    unordered = fit(rows(1_000, 1), StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=False))
    assert outcome_relations_of(unordered.performance) is None
    assert label_levels([1.0, 2.0], np.array([0.0, 1.0, 1.5, 9.0])).tolist() == [0, 1, 1, 2]
