"""The stages at their edges: time stamps that are no dates, records that retention takes, budgets, hostile batches."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_monitor import wire
from stream_monitor.batch import KIND, CodedBatch, Origins, decode, encode_coded
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message, Record, TopicPartition
from stream_monitor.encode_stage import TICK_KEY
from stream_monitor.errors import TransactionAborted
from stream_monitor.merge import AHEAD_MS, Merger
from stream_monitor.ordering import MAX_WAIT_MS, STEP_MS, Tick, encode_tick
from stream_monitor.reference import StreamKey
from tests.unit.world import MODEL, World, reference, rows, settings

REFERENCE = reference()
MICROSECONDS = 1_700_000_000_000_000
"""A producer that dates records in microseconds, which brokers before Kafka 4.0 let pass."""


@pytest.mark.parametrize("stamp_ms", [MICROSECONDS, 2**62, -1, -(2**62)])
def test_a_time_stamp_that_is_no_date_stops_nothing(stamp_ms: int) -> None:
    """Events without a time of their own are dated by it: rejects if that is in the future, watched if long ago."""
    ahead = stamp_ms > MICROSECONDS // 2
    world = World(partitions=2, references=[REFERENCE])
    topic = world.base.topics.predictions
    undated = b'{"model":"m","features":{"x":9.5,"y":1.0,"city":"Rome"}}'
    world.write(rows(500))
    world.broker.append([Message(topic, None, undated, 0, timestamp_ms=stamp_ms) for _ in range(200)])
    world.broker.append([Message(topic, None, b"poison", 1, timestamp_ms=stamp_ms)])
    world.write(rows(500, first=500))
    worker = world.worker()
    world.settle(worker)
    assert worker.detect is not None
    assert worker.encode is not None
    assert worker.encode.counts.rejects == ({"not_json": 1, "future_time": 200} if ahead else {"not_json": 1})
    assert bool(world.alerts()) is not ahead
    assert worker.detect.counts.rows == (1_000 if ahead else 1_200)


def test_one_record_from_the_future_does_not_date_all_that_follow() -> None:
    """Rows are put in order by the greatest time stamp so far: one of the year 2100 must not end all order."""
    merger = Merger(0.5)
    partition = TopicPartition("predictions", 0)
    merger.assign([partition])
    now_ms = 1_700_000_000_000
    stamps = (now_ms - 5, 4_102_444_800_000, now_ms + 1)
    merger.add(partition, [Record("predictions", 0, i, at, None, b"") for i, at in enumerate(stamps)], now_ms)
    assert [key for key, _ in merger.take([], 10, 0.0)] == [now_ms - 5, now_ms + AHEAD_MS, now_ms + AHEAD_MS]


def test_records_in_memory_outlive_retention() -> None:
    """What was read and waits for other partitions is encoded, though the log has lost it meanwhile."""
    world = World(partitions=1, references=[REFERENCE])
    worker = world.worker()
    world.turn(worker, rounds=3)
    world.write(rows(1_000))
    partition = TopicPartition(world.base.topics.predictions, 0)
    assert worker.encode is not None
    worker.encode._rows.merger.add(partition, world.broker.log(partition).read(0, 300)[0], world.clock_ms())
    worker.encode._consumer.seek(partition, 300)
    world.broker.truncate(partition, 800)
    world.settle(worker)
    assert worker.encode.counts.rows == 500


def test_after_a_standstill_a_partition_that_answers_late_is_waited_for() -> None:
    """What fetches told of the ends before a worker stood still (a first compilation, a restore, a paused machine) is
    old: a partition whose next fetch comes later than the others' has rows of all that time, and is not at its end."""
    world = World(partitions=2, references=[reference()])
    worker = world.worker()
    batch = rows(600)
    slow = TopicPartition(world.base.topics.predictions, 1)
    world.write(batch[:100], live=True)
    world.settle(worker)
    for start in range(100, 600, 2):  # meanwhile it stands still
        world.now_s += 0.01
        world.write(batch[start : start + 1], partition=0, live=True)
        world.write(batch[start + 1 : start + 2], partition=1, live=True)
    assert worker.encode is not None
    worker.encode._consumer.pause([slow])  # its answer is not there yet
    world.turn(worker, rounds=3, step_s=0.1)
    worker.encode._consumer.resume([slow])
    world.settle(worker)
    fed = [decode(record.value) for record in world.broker.records(world.base.topics.codes) if record.key != TICK_KEY]
    stamps = np.concatenate([each.origins.record_ms for each in fed if isinstance(each, CodedBatch)])
    assert len(stamps) == 600
    assert np.diff(stamps).min() >= 0


@pytest.mark.parametrize("answer", [None, 3])
def test_a_broker_that_forgets_what_was_committed_has_nothing_encoded_twice(
    monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    """Seen in the soak: asked right after its start, a broker said that the group had committed nothing."""
    world = World(partitions=2, references=[reference()])
    worker = world.worker()
    batch = rows(600)
    world.write(batch[:300])
    world.settle(worker)
    assert worker.encode is not None
    stage, commit = worker.encode, worker.encode._producer.commit
    refusals = [TransactionAborted("injected")]

    def refuse_once(*arguments: Any) -> None:
        if refusals:
            raise refusals.pop()
        commit(*arguments)

    monkeypatch.setattr(stage._producer, "commit", refuse_once)
    monkeypatch.setattr(stage._consumer, "committed", lambda partitions: dict.fromkeys(partitions, answer))
    world.write(batch[300:])
    world.settle(worker)
    assert not refusals
    assert stage.counts.aborted == 1
    coded = [decode(record.value) for record in world.broker.records(world.base.topics.codes) if record.key != TICK_KEY]
    assert sum(len(each.origins) for each in coded if isinstance(each, CodedBatch)) == 600


def test_every_partition_gets_its_share_of_the_save_budget() -> None:
    """With a budget of one state a commit, the committed offsets of both partitions go on."""
    models = {partition_of(f"m{i}".encode(), 2): f"m{i}" for i in range(10)}
    assert set(models) == {0, 1}
    world = World(
        settings(worker={"state_bytes_per_s": 2_000, "commit_interval_s": 0.5}),
        partitions=1,
        references=[reference(model) for model in models.values()],
    )
    worker = world.worker()
    codes = [TopicPartition(world.base.topics.codes, number) for number in range(2)]
    for turn in range(80):
        for model in models.values():
            world.write(rows(20, seed=turn, model=model, first=20 * turn), live=True)
        world.turn(worker, step_s=0.6)
    offsets = world.broker.group_offsets(f"{world.base.group}-detect", codes)
    ends = {partition: world.broker.log(partition).end_offset for partition in codes}
    assert all((offsets[each] or 0) > ends[each] / 5 for each in codes), (offsets, ends)


# ---- hostile batches ----


def batch_of(count: int = 120) -> CodedBatch:
    """Rows far below the reference."""
    digest = REFERENCE.digest()
    zeros = np.zeros(count, np.int32)
    times = np.arange(count, dtype=np.int64) + 1_700_000_000_000
    origins = Origins(zeros, np.arange(count, dtype=np.int64), zeros, times, times)
    codes = np.full((count, len(REFERENCE.columns)), 3, dtype=np.uint8)
    generation = ReferenceBook.entry(REFERENCE, 1).generation
    return CodedBatch(StreamKey(MODEL), digest, generation, codes, origins)


def detected(frames: list[bytes]) -> World:
    """A detect stage fed frames as one encoder would write them, and sound rows after; then time passes, for a hostile
    tick may have told of partitions that nobody will speak of."""
    world = World(references=[REFERENCE])
    topic, partition = world.base.topics.codes, partition_of(MODEL.encode(), 2)
    sound = list(encode_coded(batch_of()))
    now_ms = 1_700_000_100_000
    tick, *later = (encode_tick(Tick(now_ms + i * STEP_MS, 1, {0: now_ms})) for i in range(1 + MAX_WAIT_MS // STEP_MS))
    for frame in (*frames, tick, *sound, *later):
        world.broker.append([Message(topic, b"m", frame, partition)])
    worker = world.worker("a", frozenset({"detect"}))
    world.turn(worker, rounds=10, step_s=6.0)
    worker.close()
    assert worker.detect is not None
    assert worker.detect.counts.rows >= 120
    again = world.worker("a", frozenset({"detect"}))
    world.turn(again, rounds=3, step_s=6.0)
    assert again.detect is not None
    assert again.detect.counts.lost_states == 0
    return world


EDGES = (-(2**63), -1, 0, 1, 255, 2**31, 2**62, 2**63 - 1)


def mutated(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.97:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and len(value) >= 8:
        at = rng.randrange(len(value) // 8) * 8
        return value[:at] + rng.choice((rng.randbytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f")) + value[at + 8 :]
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, int) and not isinstance(value, bool):
        return rng.choice(EDGES)
    return rng.choice((None, "", "x" * 300, b"\0", [], {}, {1: 2}, float("nan"), *EDGES))


@pytest.mark.parametrize("seed", range(8))
def test_hostile_batches_and_ticks_are_skipped_and_do_not_harm_the_state(seed: int) -> None:
    rng = random.Random(seed)
    sound = msgspec.msgpack.decode(next(iter(encode_coded(batch_of())))[wire.HEADER_BYTES :])
    tick = msgspec.msgpack.decode(encode_tick(Tick(5, 1, {0: 5}))[wire.HEADER_BYTES :], strict=False)
    frames = [wire.pack(KIND, 1, mutated(sound, rng)) for _ in range(20)]
    frames += [wire.pack(b"T", 1, mutated(tick, rng)) for _ in range(3)]
    frames += [rng.randbytes(rng.randint(0, 60)) for _ in range(5)]
    rng.shuffle(frames)
    detected(frames)


RAW_VALUES: tuple[Any, ...] = (
    None, float("nan"), 2**63 - 1, -(2**63), b"bytes", [], [[1]], {}, {"a": {"b": {"c": 1}}}, {1: 2}, {"": ""},
    "x" * 10_000, True, msgspec.msgpack.Ext(5, b"x"),
)  # fmt: skip


@pytest.mark.parametrize("value", RAW_VALUES, ids=repr)
def test_hostile_raw_rows_are_values_or_skipped(value: Any) -> None:
    world = World(settings(detection={"warmup_events": 100}))
    topic, partition = world.base.topics.codes, partition_of(MODEL.encode(), 2)
    count = 120
    zeros, times = np.zeros(count, "<i4").tobytes(), (np.arange(count, dtype="<i8") + 1_700_000_000_000).tobytes()
    raw = [[{"x": float(i % 7), "odd": value}, value, value, None] for i in range(count)]
    body = [MODEL, "", "", count, zeros, times, zeros, times, times, "", 0, 0, b"", [], [], raw]
    for frame in (wire.pack(KIND, 1, body), encode_tick(Tick(1_800_000_000_000, 1, {0: 1_800_000_000_000}))):
        world.broker.append([Message(topic, b"m", frame, partition)])
    worker = world.worker("a", frozenset({"detect"}))
    world.turn(worker, rounds=5, step_s=6.0)
    worker.close()
    assert isinstance(world.broker, MemoryBroker)
    assert worker.detect is not None
    assert worker.detect.counts.batches + worker.detect.counts.invalid_batches == 1
