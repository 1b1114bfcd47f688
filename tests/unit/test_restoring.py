"""Reading state back a piece at a time: the membership and the other partitions have their turn meanwhile."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stream_monitor import restoring
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.restoring import Progress
from tests.unit import world
from tests.unit.world import World

MODELS = [f"m{number}" for number in range(12)]


def saved_world() -> World:
    """Twelve streams, warming up, saved by a worker that has left."""
    given = World(partitions=1)
    for number, model in enumerate(MODELS):
        given.write(world.rows(60, model=model, first=60 * number))
    worker = given.worker()
    given.settle(worker)
    worker.close()
    return given


@pytest.mark.parametrize("step_bytes", [1, 10_000, 1_000_000])
def test_a_step_builds_a_bounded_piece_and_says_how_far_it_is(step_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = saved_world()
    monkeypatch.setattr(restoring, "STEP_BYTES", step_bytes)
    worker = given.worker()
    assert worker.detect is not None
    built: list[int] = []
    seen: list[Progress] = []
    for _ in range(40):
        given.turn(worker)
        built.append(worker.detect.counts.restored_streams)
        seen.append(worker.detect.restoring())
    assert built[-1] == len(MODELS)
    assert seen[-1] == Progress()
    assert worker.idle
    steps = [later - before for before, later in pairwise([0, *built])]
    assert (max(steps) == 1) == (step_bytes == 1)
    assert all(p.streams <= p.streams_total and p.records <= p.records_total for p in seen)
    if step_bytes == 1:
        assert len({p.streams for p in seen if p.streams_total}) >= 4, "progress is seen to move"
    held = {record.key: record.value for record in given.broker.records(given.base.topics.state) if record.value}
    assert worker.detect.counts.restored_bytes == sum(len(v or b"") for k, v in held.items() if k and b'["c"' not in k)


def test_other_partitions_go_on_while_one_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that holds a partition is given the other one as well, with its streams; it reads its own meanwhile."""
    monkeypatch.setattr(restoring, "STEP_BYTES", 1)
    given = World(partitions=1)
    first, second = given.worker("a"), given.worker("b")
    given.turn(first, second, rounds=6)
    for number, model in enumerate(MODELS):
        given.write(world.rows(60, model=model, first=60 * number))
    given.settle(first, second)
    assert first.detect is not None
    assert second.detect is not None
    (own,) = {partition.partition for partition in first.detect._held}
    mine = next(model for model in MODELS if partition_of(model.encode(), 2) == own)
    second.close()
    rows, during = first.detect.counts.rows, 0
    assert rows == 0, "they are warming up"
    for turn in range(40):
        given.write(world.rows(5, model=mine, first=10_000 + 5 * turn))
        batches = first.detect.counts.batches
        given.turn(first, step_s=1.1)
        progress = first.detect.restoring()
        if 0 < progress.streams < progress.streams_total:
            during += first.detect.counts.batches - batches
    assert during > 0
    assert len(first.detect._held) == 2
    assert first.detect.counts.restored_streams > 4


def test_state_read_and_not_yet_built_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All partitions of a worker are restored at once; only one is read beyond the bound."""
    given = saved_world()
    monkeypatch.setattr(restoring, "STEP_BYTES", 1)
    monkeypatch.setattr("stream_monitor.detect_stage.BUFFER_BYTES", 1)
    worker = given.worker()
    assert worker.detect is not None
    for _ in range(60):
        given.turn(worker)
        reading = [each for each in worker.detect._restoring.values() if each.left is None and each.bytes]
        assert len(reading) <= 1
    assert worker.detect.counts.restored_streams == len(MODELS)
