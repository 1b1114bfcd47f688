"""When the states of streams are saved that no alert asked for."""

from __future__ import annotations

import pytest

from stream_monitor.worker import Worker
from tests.unit.world import World, reference, rows, settings


def saves(world: World) -> int:
    """Records of streams on the state topic, all ever written."""
    return sum((record.key or b"").startswith(b'["s"') for record in world.broker.records(world.base.topics.state))


def run(world: World, worker: Worker, seconds: int, first: int = 0) -> list[int]:
    """A row a second; how many saves there were after each."""
    found = []
    for row in rows(first + seconds)[first:]:
        world.write([row], live=True)
        world.turn(worker, rounds=4, step_s=0.25)
        found.append(saves(world))
    return found


@pytest.mark.parametrize("interval_s", [0.0, 5.0, 20.0])
def test_a_stream_is_saved_so_long_after_its_first_unsaved_row(interval_s: float) -> None:
    world = World(settings(worker={"state_interval_s": interval_s}), partitions=1, references=[reference()])
    worker = world.worker()
    world.turn(worker, rounds=8)
    saved = run(world, worker, 60)[-1]
    most = 60 / max(interval_s, 1)  # a commit a second
    assert most / 2 - 1 <= saved <= most


def test_the_rows_that_a_kill_would_lose_from_memory_are_read_again() -> None:
    world = World(settings(worker={"state_interval_s": 600.0}), partitions=1, references=[reference()])
    worker = world.worker()
    world.turn(worker, rounds=8)
    run(world, worker, 10)
    assert saves(world) == 0
    worker.abandon()
    worker = world.worker()
    world.turn(worker, rounds=12, step_s=0.25)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 10
    assert saves(world) == 0
    worker.close()
    assert saves(world) == 1, "whoever leaves saves what is left"


def test_states_are_saved_sooner_before_they_would_hold_encoding_back() -> None:
    base = settings(worker={"state_interval_s": 600.0, "max_codes_lag": 1_000}, topics={"partitions": 1})
    world = World(base, partitions=1, references=[reference()])
    worker = world.worker()
    world.turn(worker, rounds=8)
    assert run(world, worker, 40)[-1] == 0
    assert run(world, worker, 200, first=40)[-1] > 0
    assert worker.encode is not None
    assert not worker.encode.levels().held_back
