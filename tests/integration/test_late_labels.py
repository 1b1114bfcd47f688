"""Labels that come late, on a topic with other partitions than the predictions, on a real Kafka: joined exactly once
though workers die, the fall of accuracy found, and told to whoever asks."""

from __future__ import annotations

import json

import jsonschema
import pytest

from stream_monitor.alerts import schema
from stream_monitor.demo import ACCURACY, DRIFT_ROW, LATE_ROWS, car_loan_labels
from stream_monitor.events import Row
from stream_monitor.reference import Reference
from tests.integration.conftest import Deploy
from tests.integration.test_main_job import epoch_ms

pytestmark = pytest.mark.kafka

ROWS = 31_000
CHUNK = 1_000
PREDICTIONS, LABELS = 6, 5
KILLED_AT = 12_000
NEAR = 100
TWICE = 500
"""Labels that are sent again, contradicting the first."""


def test_late_labels_are_joined_once_and_show_the_fall_of_accuracy(
    deploy: Deploy, reference: Reference, production: list[Row]
) -> None:
    rows, repaid = production[:ROWS], car_loan_labels()
    deployment = deploy(reference, partitions=PREDICTIONS, labels=LABELS)
    for instance in ("a", "b"):
        deployment.start_worker(instance)
    for start in range(0, ROWS + LATE_ROWS, CHUNK):
        if start < ROWS:
            deployment.produce(rows[start : start + CHUNK])
        known = rows[max(start - LATE_ROWS, 0) : max(start - LATE_ROWS + CHUNK, 0)]
        deployment.produce_labels(known, repaid, rows[min(start, ROWS - 1)].time_ms)
        if start == KILLED_AT:
            deployment.kill_worker()
            deployment.start_worker("b")
    deployment.await_caught_up()
    wrong = {row.id or "": 1 - repaid[row.id or ""] for row in rows[:TWICE]}
    deployment.produce_labels(rows[:TWICE], wrong, rows[-1].time_ms)
    deployment.await_caught_up()
    assert len(deployment.ends(deployment.settings.topics.labels or "")) == LABELS
    assert deployment.stop_workers() == [0, 0], deployment.log_of("a") + deployment.log_of("b")

    alerts = deployment.alerts()
    assert len({alert["id"] for alert in alerts}) == len(alerts)
    outcomes = [alert for alert in alerts if alert["kind"] in ("concept_drift", "performance")]
    row_ms = production[1].time_ms - production[0].time_ms
    # Labels are merged by their records' time, of which a producer writes tens within a millisecond.
    earliest_ms = production[DRIFT_ROW].time_ms - NEAR * row_ms
    assert [a["summary"] for a in outcomes if epoch_ms(a["detected"]["time"]) < earliest_ms] == []
    fired = {alert["column"]: alert for alert in outcomes if alert["state"] == "firing"}
    assert fired["absolute_error"]["detected"]["rows_since_onset"] < CHUNK
    fact = fired["accuracy"]["performance"]
    assert fact["high"] < fact["reference"]
    assert fact["low"] - 0.01 < ACCURACY[1] < fact["high"] + 0.01
    for alert in outcomes:
        jsonschema.validate(alert, schema())

    (told,) = [each for each in json.loads(deployment.command("status", "--json")) if each["type"] == "labels"]
    counts = told["counts"]
    assert (counts["predictions"], counts["joined"], counts["corrections"]) == (ROWS, ROWS, TWICE)
    assert (counts["dropped"], counts["unjoined"], counts["unmatched"], counts["twice"]) == (0, 0, 0, 0)
    assert told["coverage"] == 1.0
    late_s = LATE_ROWS * row_ms / 1_000
    assert 0.7 * late_s < told["delay_s"]["p50"] < 2 * late_s
    assert told["streams"][0]["outcomes"] == ROWS
