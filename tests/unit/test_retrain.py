"""What an alert says about retraining, and how grave a drift is that nothing follows from."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest

from stream_monitor.alerts import Alert, Severity, State
from stream_monitor.config import Settings
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.guards import Broken
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay
from stream_monitor.trail import STRIDE

DRIFT, END, ENOUGH = 1_000, 6_000, 2_500


def rows(count: int, seed: int, drift: int = END, *, felt: bool = False, wrong: int = END) -> list[Row]:
    """`a` moves from `drift` on, and the score with it if `felt`; labels turn round from `wrong` on."""
    rng = np.random.default_rng(seed)
    a, b, chance = rng.normal(size=count), rng.normal(size=count), rng.uniform(size=count)
    moved = 1.0 * (np.arange(count) >= drift)
    score = 1 / (1 + np.exp(-2 * (b + felt * moved)))
    label = (chance < score) != (np.arange(count) >= wrong)
    return [
        Row("m", "", "", 60_000 * i, {"a": x, "b": y}, s, int(hit), None, 0, i, 0)
        for i, (x, y, s, hit) in enumerate(zip((a + moved).tolist(), b.tolist(), score.tolist(), label.tolist(),
                                               strict=True))
    ]  # fmt: skip


@cache
def reference() -> Reference:
    return fit(rows(5_000, 1), StreamKey("m"), FitOptions(season=Season.NONE, ordered=True))


def told(given: list[Row], *, size: int = 700, **detection: object) -> list[Alert]:
    settings = Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]},
         "detection": {"budget_events": 1_000_000, "retrain": {"min_rows": ENOUGH}} | detection}
    )  # fmt: skip
    alerts: list[Alert] = []
    replay = Replay(settings, [reference()], alerts.append)
    for start in range(0, len(given), size):
        replay.feed(given[start : start + size])
    return alerts


def of(alerts: list[Alert], column: str) -> list[Alert]:
    return [alert for alert in alerts if alert.column == column]


def test_an_update_says_when_there_is_enough_to_retrain_on() -> None:
    first, *rest = of(told(rows(END, 2, DRIFT, felt=True)), "a")
    assert first.retrain is not None
    assert not first.retrain.enough
    assert first.retrain.from_ == first.onset.time
    (enough,) = [alert for alert in rest if alert.reason == "enough rows to retrain on"]
    assert enough.state is State.UPDATED
    assert enough.retrain is not None
    assert enough.retrain.enough
    assert ENOUGH <= enough.retrain.rows < ENOUGH + 100
    assert [alert.retrain.enough for alert in rest if alert.retrain is not None and alert.detected.offset
            > enough.detected.offset] in ([], [True])  # fmt: skip


def test_alerts_about_outcomes_count_rows_with_a_label() -> None:
    alerts = told(rows(END, 3, wrong=DRIFT))
    for column in ("error", "accuracy"):
        first, *rest = of(alerts, column)
        assert first.retrain is not None
        assert first.retrain.labelled == first.retrain.rows
        assert not first.retrain.enough
        assert [alert.reason for alert in rest].count("enough rows to retrain on") == 1


def test_alerts_about_inputs_say_at_least_how_many_rows_have_a_label() -> None:
    given = rows(END, 2, DRIFT, felt=True)
    for alert in of(told(given), "a")[1:]:
        assert alert.retrain is not None
        assert alert.retrain.rows - 2 * STRIDE < (alert.retrain.labelled or 0) <= alert.retrain.rows
    half = [msgspec.structs.replace(row, label=None) if row.offset % 2 else row for row in given]
    *_, last = (alert.retrain for alert in of(told(half), "a") if alert.retrain is not None)
    assert last.labelled is not None
    assert last.rows / 2 - 2 * STRIDE < last.labelled <= last.rows / 2
    without = [msgspec.structs.replace(row, label=None) for row in given]
    assert {alert.retrain.labelled for alert in told(without) if alert.retrain is not None} == {None}


def test_an_incident_says_it_too_with_labels_where_there_are_any() -> None:
    alerts = told(rows(END, 3, DRIFT, wrong=DRIFT))
    incident = [alert for alert in alerts if alert.scope == "model"]
    assert incident[0].state is State.FIRING
    told_enough = [alert for alert in incident if alert.reason == "enough rows to retrain on"]
    assert len(told_enough) == 1
    retrain = told_enough[0].retrain
    assert retrain is not None
    assert retrain.enough
    assert (retrain.labelled or 0) >= ENOUGH
    assert "ccuracy fell from" in incident[-1].summary


def test_inputs_that_move_while_predictions_are_steady_are_benign() -> None:
    first, *rest = of(told(rows(END, 2, DRIFT)), "a")
    assert first.severity in (Severity.WARNING, Severity.CRITICAL)  # nobody knows yet
    assert rest[0].severity is Severity.BENIGN
    assert rest[0].reason == f"severity {first.severity} → benign"
    assert rest[0].detected.offset - first.detected.offset >= 1_000
    assert {alert.severity for alert in rest} == {Severity.BENIGN}


def test_inputs_that_move_the_predictions_are_not() -> None:
    alerts = told(rows(END, 2, DRIFT, felt=True))
    assert of(alerts, "prediction")
    assert Severity.BENIGN not in {alert.severity for alert in of(alerts, "a")}


def test_the_rule_can_be_put_off() -> None:
    alerts = told(rows(END, 2, DRIFT), lifecycle={"benign_rows": 1_000_000_000})
    assert Severity.BENIGN not in {alert.severity for alert in alerts}


def test_an_incident_with_a_fall_of_performance_is_never_benign() -> None:
    alerts = told(rows(END, 3, DRIFT, wrong=DRIFT))
    incident = [alert for alert in alerts if alert.scope == "model"]
    assert incident
    assert Severity.BENIGN in {alert.severity for alert in of(alerts, "a")}  # the score did not follow
    assert Severity.BENIGN not in {alert.severity for alert in incident}


@pytest.mark.parametrize("size", [1, 130, 6_000])
def test_it_does_not_depend_on_which_rows_were_fed_together(size: int) -> None:
    given = rows(4_500, 3, DRIFT, wrong=DRIFT)
    assert sorted(a.to_json() for a in told(given, size=size)) == sorted(a.to_json() for a in told(given))


def test_states_of_older_releases_are_read() -> None:
    assert Broken("id", 1, 1, (0, 0, 0, 0), 1).enough is False
