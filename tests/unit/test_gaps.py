"""Records lost before they were read are told: once, by both stages, and the work goes on."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from stream_monitor.alerts import schema
from stream_monitor.broker.protocol import TopicPartition
from tests.unit.world import World, reference, rows

REFERENCE = reference()
Fields = dict[str, Any]


def gaps_of(world: World) -> list[Fields]:
    found = [alert for alert in world.alerts() if alert["kind"] == "gap"]
    for alert in found:
        jsonschema.validate(alert, schema())
    return found


@pytest.fixture
def world() -> World:
    """500 rows of one partition, encoded and detected, and the worker gone."""
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(500), partition=0)
    worker = world.worker()
    world.settle(worker)
    worker.close()
    return world


def restarted(world: World, times: int = 1) -> None:
    for _ in range(times):
        worker = world.worker()
        world.settle(worker)
        worker.close()


def test_retention_went_past_the_predictions(world: World) -> None:
    world.write(rows(400, first=500), partition=0)
    world.broker.truncate(TopicPartition(world.base.topics.predictions, 0), 800)
    worker = world.worker()
    world.settle(worker)
    assert worker.encode is not None
    assert worker.encode.counts.rows == 100
    assert (worker.encode.counts.gaps, worker.encode.counts.lost_records) == (1, 300)
    worker.close()
    restarted(world)
    (alert,) = gaps_of(world)
    assert alert["gap"] == {
        "topic": "predictions", "partition": 0, "position": 500, "resumed_at": 800, "lost": 300, "made_anew": False,
    }  # fmt: skip
    assert alert["summary"].startswith("predictions-0: 300 records were deleted before they were read (offsets 500 to")
    assert (alert["scope"], alert["severity"], alert["column"]) == ("topic", "critical", "predictions-0")


def test_a_gap_that_was_found_but_not_committed_is_found_again_as_the_same(world: World) -> None:
    world.write(rows(400, first=500), partition=0)
    world.broker.truncate(TopicPartition(world.base.topics.predictions, 0), 800)
    doomed = world.worker()
    for _ in range(3):
        assert doomed.encode is not None
        doomed.encode.step(0.0, 0.0)  # no time passes: nothing is committed
    assert doomed.encode is not None
    (found,) = doomed.encode._gaps.values()
    doomed.abandon()
    restarted(world)
    (alert,) = gaps_of(world)
    assert (alert["gap"]["position"], alert["gap"]["resumed_at"]) == (found.position, found.resumed_at)


def test_retention_went_past_the_codes(world: World) -> None:
    world.write(rows(300, first=500), partition=0)
    encoder = world.worker(stages=frozenset({"encode"}))
    world.settle(encoder)
    encoder.close()
    codes = [p for p in world.broker.partitions([world.base.topics.codes]) if world.broker.log(p).end_offset]
    committed = world.broker.group_offsets(f"{world.base.group}-detect", codes)
    for partition in codes:
        world.broker.truncate(partition, world.broker.log(partition).end_offset)
    restarted(world, times=2)
    found = gaps_of(world)
    assert {(a["gap"]["partition"], a["gap"]["position"]) for a in found} == {
        (partition.partition, committed[partition]) for partition in codes
    }
    assert len(found) == len(codes)


def test_codes_made_anew_are_watched_from_there_on(world: World) -> None:
    for partition in world.broker.partitions([world.base.topics.codes]):
        log = world.broker.log(partition)
        log.truncate(log.end_offset)
        log.start_offset = log.end_offset = 0
    worker = world.worker()
    world.settle(worker)
    world.write(rows(3_000, drift_at=1_000, first=500), partition=0)
    world.settle(worker)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 3_000, "the stamps of before would skip them"
    worker.close()
    assert all(alert["gap"]["made_anew"] for alert in gaps_of(world))
    assert {alert["column"] for alert in world.alerts() if alert["kind"] == "data_drift"} == {"x", "city"}
    restarted(world)
    assert len({alert["id"] for alert in world.alerts()}) == len(world.alerts())
