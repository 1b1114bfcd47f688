"""Predictions and labels joined over both stages of the worker: late, early, twice, never, and after a crash."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson
import pytest

from stream_monitor.batch import Origins
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.protocol import Message
from stream_monitor.events import Row
from stream_monitor.model import Model, Report
from stream_monitor.ordering import OutcomeRun
from stream_monitor.outcomes import Outcomes
from stream_monitor.reference import StreamKey
from stream_monitor.waiting import Waiting
from stream_monitor.worker import Worker
from tests.unit.world import MODEL, World, reference, rows, settings

LABELS = "labels"


def labelled(**labels: Any) -> World:
    base = settings(topics={"partitions": 2, "labels": LABELS}, labels={"max_waiting": 10_000, **labels})
    return World(base, references=[reference()])


def write_labels(world: World, labels: Iterable[tuple[str | None, object]], late_ms: int = 60_000) -> None:
    values = ({"id": identity, "model": MODEL, "label": label, "time": world.clock_ms() + late_ms}
              for identity, label in labels)  # fmt: skip
    world.broker.append([Message(LABELS, None, orjson.dumps(value)) for value in values])


def report(*workers: Worker) -> Report:
    (found,) = (each for w in workers if w.detect is not None for name, each in w.detect.outcomes().items())
    return found


def label_of(row: Row) -> int:
    return int(row.features["x"] > 0.1)


def test_labels_that_come_later_are_joined() -> None:
    world = labelled()
    worker = world.worker()
    events = rows(500)
    world.write(events)
    world.settle(worker)
    assert report(worker).waiting == 500
    assert report(worker).coverage is None
    draw = random.Random(1)
    write_labels(world, [(row.id, label_of(row)) for row in draw.sample(events, 400)])
    world.settle(worker)
    found = report(worker)
    assert (found.counts.predictions, found.counts.labels, found.counts.joined) == (500, 400, 400)
    assert found.coverage == 1.0
    assert found.waiting == 500, "what is joined stays, to tell a correction from a first label"


def test_early_repeated_corrected_and_foreign_labels_are_told_apart() -> None:
    world = labelled()
    worker = world.worker()
    events = rows(10)
    write_labels(world, [(events[0].id, 1)])
    world.settle(worker)
    world.write(events)
    world.settle(worker)
    write_labels(world, [(events[0].id, 1), (events[0].id, 0), (events[1].id, 0), ("unheard of", 1), (None, 1)])
    world.settle(worker)
    counts = report(worker).counts
    assert (counts.joined, counts.repeated, counts.corrections) == (2, 1, 1)
    assert [each["reason"] for each in world.rejects()] == ["no_id"]
    assert world.rejects()[0]["topic"] == LABELS


def test_what_waits_too_long_is_let_go_and_counted() -> None:
    world = labelled(horizon_hours=1)
    worker = world.worker()
    world.write(rows(100))
    world.settle(worker)
    world.now_s += 10_000
    world.write(rows(100, first=1_000_000))  # 10,000 s later
    world.settle(worker)
    found = report(worker)
    assert found.counts.unjoined == 100
    assert found.coverage == 0.0
    assert found.waiting == 100


def test_labels_read_together_with_a_backlog_longer_than_the_horizon_are_joined() -> None:
    world = labelled(horizon_hours=1)
    worker = world.worker()
    old, new = rows(100), rows(100, first=1_000_000)
    world.write(old)
    world.now_s += 10_000
    world.write(new)
    write_labels(world, [(event.id, 1) for event in (*old, *new)])
    world.settle(worker)
    found = report(worker)
    assert (found.counts.joined, found.counts.unjoined) == (200, 0)


def test_beyond_the_most_the_oldest_are_dropped_and_counted() -> None:
    world = labelled(max_waiting=1_000)
    worker = world.worker()
    events = rows(1_500)
    world.write(events, partition=0)
    world.settle(worker)
    write_labels(world, [(events[0].id, 1), (events[-1].id, 1)])
    world.settle(worker)
    counts = report(worker).counts
    assert (counts.dropped, counts.joined) == (501, 1), "and the label of the first waits in the place of another"


def test_labels_within_the_event_need_no_topic() -> None:
    world = World(references=[reference()])
    worker = world.worker()
    value = [{"model": MODEL, "features": {"x": 0.1}, "prediction": 0.7, "label": 1} for _ in range(50)]
    world.broker.append([Message(world.base.topics.predictions, None, orjson.dumps(value))])
    world.settle(worker)
    found = report(worker)
    assert found.counts.inside == 50
    assert found.waiting == 0


def test_a_model_that_has_no_labels_costs_nothing() -> None:
    world = labelled(models=["other-*"])
    worker = world.worker()
    world.write(rows(100))
    world.settle(worker)
    assert worker.detect is not None
    assert not worker.detect.outcomes()


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_at_any_time_changes_nothing(seed: int) -> None:
    draw = random.Random(seed)
    events = rows(3_000, seed=seed)
    restless, calm = labelled(), labelled()
    workers = {id(world): world.worker() for world in (restless, calm)}
    for start in range(0, 3_000, 100):
        ids = [(draw.choice(events[: start + 150]).id, draw.randint(0, 1)) for _ in range(80)]
        for world in (restless, calm):
            world.write(events[start : start + 100])
            write_labels(world, ids)
            world.turn(workers[id(world)], rounds=5)
        if draw.random() < 0.3:
            workers[id(restless)].abandon() if draw.random() < 0.5 else workers[id(restless)].close()
            workers[id(restless)] = restless.worker()
    for world in (restless, calm):
        world.settle(workers[id(world)])
    assert report(workers[id(restless)]).counts == report(workers[id(calm)]).counts


def backlog(world: World, events: list[Row]) -> None:
    """Labels in the order of their events, ten a second, dealt out to three partitions in runs of a hundred."""
    start_ms = world.clock_ms() - len(events) * 100
    world.broker.append(
        [Message(LABELS, None, orjson.dumps({"id": row.id, "model": MODEL, "label": label_of(row)}), i // 100 % 3,
                 timestamp_ms=start_ms + i * 100)
         for i, row in enumerate(events)]
    )  # fmt: skip


def joined_times(worker: Worker) -> list[int]:
    """The events' times of the last outcomes, in the order in which they were judged."""
    assert worker.detect is not None
    ((_, scoring),) = worker.detect.model(MODEL).scorings.items()
    assert scoring.monitor is not None
    return list(scoring.monitor.trail.last(900)[1].tolist())


def test_a_backlog_of_labels_on_several_partitions_is_joined_in_the_order_of_time() -> None:
    world, events = labelled(), rows(2_400)
    worker = world.worker()
    world.write(events)
    world.settle(worker)
    backlog(world, events)
    world.settle(worker)
    times = joined_times(worker)
    assert len(times) == 900
    assert times == sorted(times)


def test_labels_of_a_slower_encoder_are_joined_in_the_order_of_time() -> None:
    world, events = labelled(), rows(2_400)
    fast, slow = world.worker(), world.worker("b", frozenset({"encode"}))
    world.settle(fast, slow)
    world.write(events)
    world.settle(fast, slow)
    backlog(world, events)
    world.turn(fast, rounds=10)
    world.settle(fast, slow)
    assert report(fast).counts.joined == 2_400
    times = joined_times(fast)
    assert times == sorted(times)


def test_a_prediction_is_let_go_when_the_labels_have_come_past_its_horizon() -> None:
    model, book = Model(MODEL, Waiting(3_600_000, 1_000)), ReferenceBook()

    def run(record_ms: int) -> OutcomeRun:
        events = [msgspec.structs.replace(row, record_ms=record_ms) for row in rows(100, first=record_ms)]
        outcomes = Outcomes.of(events, with_ids=True)
        assert outcomes is not None
        return OutcomeRun(StreamKey(MODEL), "", 0, outcomes, Origins.of(events))

    model.feed([run(0), run(10_000_000)], [], book, labels_ms=3_600_000)
    assert model.report().counts.unjoined == 0, "its label may still come"
    model.feed([], [], book, labels_ms=3_600_001)
    assert model.report().counts.unjoined == 100
    model.feed([], [], book, labels_ms=20_000_000)
    assert model.report().counts.unjoined == 100, "nor later than predictions say"
    model.feed([run(20_000_000)], [], book)
    assert model.report().counts.unjoined == 200, "nobody speaks of labels"
