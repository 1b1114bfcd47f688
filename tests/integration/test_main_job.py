"""The whole path on a real Kafka: events of another client in, alerts out, as a subscriber sees them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import jsonschema
import pytest

from stream_monitor.alerts import schema
from stream_monitor.demo import DRIFTED, STABLE
from stream_monitor.events import Row
from stream_monitor.reference import Reference
from stream_monitor.replay import Replay
from tests.integration.conftest import Deploy, Deployment

pytestmark = pytest.mark.kafka

DRIFT_ROW = 25_000


def check_alerts(alerts: list[dict[str, Any]], production: list[Row]) -> None:
    """Exactly the drifted columns, none before row 25,000, the onset of car_value within 300 rows of it."""
    assert {alert["column"] for alert in alerts if alert["scope"] == "column"} == set(DRIFTED)
    assert not {alert["column"] for alert in alerts} & set(STABLE)
    others = [alert for alert in alerts if alert["scope"] != "column"]
    assert {(alert["scope"], alert["kind"], alert["state"]) for alert in others} == {
        ("model", "incident", "firing"), ("model", "incident", "updated")
    }  # fmt: skip
    assert len({alert["episode"] for alert in others}) == 1
    assert {member["column"] for member in others[-1]["members"]} <= set(DRIFTED)
    drift_ms = production[DRIFT_ROW].time_ms
    row_ms = production[1].time_ms - production[0].time_ms
    early = [
        (alert["column"], alert["state"], (epoch_ms(alert["detected"]["time"]) - drift_ms) / row_ms)
        for alert in alerts
        if epoch_ms(alert["detected"]["time"]) < drift_ms
    ]
    assert not early, f"alerts before the drift, in rows: {early}"
    onset = next(a for a in alerts if a["column"] == "car_value" and a["state"] == "firing")["onset"]
    assert abs(epoch_ms(onset["time"]) - drift_ms) <= 300 * row_ms
    for alert in alerts:
        jsonschema.validate(alert, schema())
    assert len({alert["id"] for alert in alerts}) == len(alerts)


def epoch_ms(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() * 1000


def test_live_with_two_workers(deploy: Deploy, reference: Reference, production: list[Row]) -> None:
    deployment = deploy(reference)
    for instance in ("a", "b"):
        deployment.start_worker(instance)
    deployment.produce(production, events_per_s=5_000)
    deployment.await_caught_up()
    assert deployment.stop_workers() == [0, 0], deployment.log_of("a") + deployment.log_of("b")
    check_alerts(deployment.alerts(), production)


def test_a_backlog_with_one_worker(deploy: Deploy, reference: Reference, production: list[Row]) -> None:
    deployment = deploy(reference)
    deployment.produce(production)
    deployment.start_worker("a")
    deployment.await_caught_up()
    assert deployment.stop_workers() == [0], deployment.log_of("a")
    check_alerts(deployment.alerts(), production)


def test_one_partition_and_one_worker_give_the_alerts_of_a_replay(
    deploy: Deploy, reference: Reference, production: list[Row]
) -> None:
    deployment = deploy(reference, partitions=1)
    deployment.produce(production)
    deployment.start_worker("a")
    deployment.await_caught_up()
    assert deployment.stop_workers() == [0], deployment.log_of("a")
    assert [alert["id"] for alert in deployment.alerts()] == replayed_ids(deployment, reference, production)


def test_a_stream_without_a_reference_learns_one_and_gives_the_alerts_of_a_replay(
    deploy: Deploy, production: list[Row]
) -> None:
    deployment = deploy(partitions=1)
    rows = production[:6_000] + production[DRIFT_ROW : DRIFT_ROW + 4_000]
    deployment.start_worker("a")
    deployment.produce(rows[:7_000])
    deployment.await_caught_up()
    assert deployment.stop_workers() == [0], deployment.log_of("a")
    deployment.start_worker("b")
    deployment.produce(rows[7_000:])
    deployment.await_caught_up()
    assert deployment.stop_workers() == [0], deployment.log_of("b")
    assert "reference learned" in deployment.log_of("a")
    assert "reference learned" not in deployment.log_of("b")
    alerts = deployment.alerts()
    assert {a["column"] for a in alerts} >= {"car_value", "repaid_loan_on_prev_car"}
    assert {a["reference"]["origin"] for a in alerts if "reference" in a} == {"stream"}
    numbered = [Row(r.model, r.version, r.segment, r.time_ms, r.features, r.prediction, r.label, r.id, 0, i, 0)
                for i, r in enumerate(rows)]  # fmt: skip
    assert [alert["id"] for alert in alerts] == replayed_ids(deployment, None, numbered)


def replayed_ids(deployment: Deployment, reference: Reference | None, rows: list[Row]) -> list[str]:
    ids: list[str] = []
    replay = Replay(deployment.settings, [reference] if reference else [], lambda alert: ids.append(alert.id))
    for start in range(0, len(rows), 700):
        replay.feed(rows[start : start + 700])
    assert ids
    return ids
