"""Cost grows no faster than the work: calls are counted, not time. Twice the work, about twice the calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest

from stream_monitor.broker.protocol import Message
from stream_monitor.events import Row
from stream_monitor.ordering import Clock, Queue, Tick
from stream_monitor.replay import Replay
from tests.unit.test_ordering import coded
from tests.unit.world import World, reference, rows, settings

REFERENCE = reference()
SLACK = 1.15
"""What is done once whatever the size may make it less than twice; nothing may make it more."""


def calls(action: Callable[[], object]) -> int:
    """Calls of Python and C functions that an action makes."""
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def worker_calls(streams: int, *, versions: bool = False) -> int:
    """A second of 15 rows of every stream, through both stages, after a second to start all of them."""
    names = [("m", str(i)) if versions else (f"m{i}", "1") for i in range(streams)]
    given = [msgspec.structs.replace(REFERENCE, model=model, version=version) for model, version in names]
    world = World(partitions=2, references=given)
    worker = world.worker()

    def second(first: int) -> None:
        values = [
            orjson.dumps({"model": model, "version": version, "features": row.features, "prediction": row.prediction})
            for row in rows(15, first=first)
            for model, version in names
        ]
        topic, now_ms = world.base.topics.predictions, world.clock_ms()
        world.broker.append([Message(topic, None, v, i % 2, (), now_ms + i // 100) for i, v in enumerate(values)])

    second(0)
    world.settle(worker)
    second(15)
    spent = calls(lambda: world.turn(worker, rounds=12))
    assert worker.detect is not None
    assert worker.detect.counts.rows == 30 * streams
    return spent


@pytest.mark.parametrize("versions", [False, True], ids=["models", "versions"])
def test_many_streams(versions: bool) -> None:
    assert worker_calls(60, versions=versions) <= 2 * SLACK * worker_calls(30, versions=versions)


def test_an_alert_that_stays_open_costs_no_more_the_longer_it_is_open() -> None:
    replay = Replay(settings(), [REFERENCE], lambda alert: None)
    batch = rows(12_000, drift_at=500)
    replay.feed(batch[:2_000])
    early = calls(lambda: replay.feed(batch[2_000:4_000]))
    replay.feed(batch[4_000:10_000])
    assert calls(lambda: replay.feed(batch[10_000:])) <= SLACK * early


def test_features_that_no_reference_knows_and_that_come_late() -> None:
    def spent(unknown: int) -> int:
        def widened(row: Row, number: int) -> Row:
            names = {f"new_{i}": 1.0 for i in range(unknown)} if number >= 200 else {}
            return msgspec.structs.replace(row, features=row.features | names)

        batch = [widened(row, number) for number, row in enumerate(rows(400))]
        replay = Replay(settings(), [REFERENCE], lambda alert: None)
        return calls(lambda: replay.feed(batch))

    nothing, some, more = spent(0), spent(20), spent(40)
    assert more - nothing <= 2 * SLACK * (some - nothing)


def test_what_waits_for_a_partition_that_is_behind_is_not_copied_at_every_tick() -> None:
    queue, clock = Queue(), Clock()
    for i in range(50):
        queue.add(coded(0, 10 * i, [100 + i] * 10), i, Clock())
    kept = [id(waiting) for waiting in queue._waiting]
    for i in range(20):
        clock = clock.advance(Tick(i, 2, {0: 1_000, 1: 50}), 50 + i)
        assert queue.release(clock) == ([], None)
    assert [id(waiting) for waiting in queue._waiting] == kept
