"""Topics deleted and made anew on a real broker, which forgets the offsets of groups with them."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest

from stream_monitor.topics import specs
from tests.faults.arena import Arena, await_
from tests.faults.conftest import MakeArena

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SEED = int(os.environ.get("FAULTS_SEED", "1")) + 600


def make_anew(field: Arena, *topics: str) -> None:
    for gone in field.admin.delete_topics(list(topics), operation_timeout=30).values():
        gone.result()
    await_(lambda: not set(topics) & set(field.broker.topics(topics)), "the topics are gone")
    field.broker.create_topics([spec for spec in specs(field.settings, predictions=3) if spec.name in topics])


def gaps_told(field: Arena) -> list[dict[str, Any]]:
    alerts = [orjson.loads(record.value or b"") for record in field.read(field.settings.topics.alerts)]
    return [alert for alert in alerts if alert["kind"] == "gap"]


def events(field: Arena, stage: str) -> float:
    """That the workers at work have encoded, or watched."""
    return sum(field.shown(name).total("stream_monitor_events_total", stage=stage) for name in field.workers)


def rows_written(field: Arena) -> int:
    """Rows of the predictions that are there and valid; labels have partitions below 0."""
    return sum(count for (partition, _, _), count in field.input()[0].items() if partition >= 0)


def test_topics_made_anew_while_nobody_works_are_read_from_their_start(arena: MakeArena) -> None:
    """Predictions and codes: of the new ones every row is watched, though the states are of offsets beyond them."""
    field = arena(SEED)
    topics = field.settings.topics
    field.produce(6_000)
    field.start("a")
    field.await_caught_up()
    field.stop_one("a")
    make_anew(field, topics.predictions, topics.codes)
    field._batches = None
    field.produce(500)
    field.start("a")
    written = rows_written(field)
    await_(lambda: events(field, "detect") == written, "every row is watched", on_failure=field.tails)
    field.stop_one("a")
    told = gaps_told(field)
    assert {alert["gap"]["topic"] for alert in told} == {topics.codes}
    assert all(alert["gap"]["made_anew"] and alert["gap"]["lost"] == 0 for alert in told)
    assert len(told) == len({alert["column"] for alert in told}) > 0


def test_predictions_made_anew_under_a_worker_at_work_go_on(arena: MakeArena) -> None:
    """What it had read of the old ones stays; of the new ones it reads on, and what it may have missed is a gap."""
    field = arena(SEED + 1)
    topics = field.settings.topics
    field.produce(6_000)
    field.start("a")
    field.await_caught_up()
    before = rows_written(field)
    await_(lambda: events(field, "encode") == before, "every row is counted", on_failure=field.tails)
    make_anew(field, topics.predictions)
    field._batches = None
    field.produce(500)
    await_(
        lambda: field.committed("encode", topics.predictions) == field.ends(topics.predictions),
        "the new topic is read to its end", on_failure=field.tails,
    )  # fmt: skip
    field.produce(1_000)
    field.await_caught_up()
    missed = sum(alert["gap"]["lost"] for alert in gaps_told(field))
    least = before + rows_written(field) - 2 * missed  # a record holds two events at most
    await_(lambda: events(field, "encode") >= least, "the rows of the new topic are encoded", on_failure=field.tails)
    field.stop_one("a")
