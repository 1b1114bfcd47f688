"""What a hostile or broken producer may cost: every limit has its reason and its count, whatever restarts."""

from __future__ import annotations

import random
from itertools import pairwise

import orjson
import pytest

from stream_monitor import metrics
from stream_monitor.batch import RawBatch
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.protocol import Message
from stream_monitor.events import REASONS, Row
from stream_monitor.http import Pulse
from stream_monitor.limits import MODEL_STREAMS, PARTITION_MODELS, PARTITION_STREAMS, Roster, WarmupBudget, weight
from stream_monitor.metrics import Metrics
from stream_monitor.reference import StreamKey
from stream_monitor.stream import Stream, weight_of
from stream_monitor.streams import StreamFactory
from stream_monitor.worker import Outside, Worker
from tests.faults.oracle import Committed, expected, found
from tests.unit.world import MODEL, START_MS, World, reference, rows, settings

LIMITS = {"max_record_bytes": 400, "max_depth": 3, "max_events": 4, "max_features": 5}
OVER = {
    "too_large": b'{"model":"m","features":{"x":"' + b"y" * 400 + b'"}}',
    "too_deep": b'{"model":"m","features":{"x":{"a":{"b":{"c":{"d":1}}}}}}',
    "too_many_events": b"[" + b",".join([b'{"model":"m","features":{"x":1}}'] * 5) + b"]",
    "too_many_features": b'{"model":"m","features":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}}',
    "bad_model": b'{"model":"' + b"m" * 300 + b'","features":{"x":1}}',
    "bad_version": b'{"model":"m","version":"' + b"1" * 300 + b'","features":{"x":1}}',
    "bad_segment": b'{"model":"m","segment":"' + b"s" * 300 + b'","features":{"x":1}}',
}


@pytest.mark.parametrize("reason", OVER)
def test_every_limit_of_a_record_has_a_reason_and_is_counted(reason: str) -> None:
    assert reason in REASONS
    world = World(settings(input={"limits": LIMITS}), references=[reference()])
    topic = world.base.topics.predictions
    outside = Outside(Pulse(), Metrics("a"))
    world.broker.append([Message(topic, None, OVER[reason]), Message(topic, None, b'{"model":"m","features":{"x":1}}')])
    worker = Worker(world.base, world.broker, clock_s=lambda: world.now_s, clock_ms=world.clock_ms, outside=outside)
    world.settle(worker)
    assert [reject["reason"] for reject in world.rejects()] == [reason]
    values = outside.metrics.values()
    assert values[metrics.REJECTS.name, (reason,)] == 1
    assert values[metrics.EVENTS.name, ("encode",)] == 1


@pytest.mark.parametrize("ahead_s", [3_600.0, 86_400.0, 0.0, None])
def test_events_from_the_future_are_rejected_whatever_dates_them(ahead_s: float | None) -> None:
    """Their own time, or the record's where they have none; those before the limit, in the same record too, are not."""
    world = World(settings(input={"max_future_s": ahead_s}), partitions=1, references=[reference()])
    topic, now_ms = world.base.topics.predictions, world.clock_ms()
    far_ms = now_ms + 90_000_000
    latest_ms = far_ms if ahead_s is None else now_ms + round(ahead_s * 1000)
    own = [b'{"model":"m","time":%d,"features":{"x":1}}' % (latest_ms + late_ms) for late_ms in (0, 1)]
    bare = b'{"model":"m","features":{"x":1}}'
    written = [
        Message(topic, None, own[0], timestamp_ms=now_ms), Message(topic, None, own[1], timestamp_ms=now_ms),
        Message(topic, None, b"[%b,%b,%b]" % (own[1], own[0], own[1]), timestamp_ms=now_ms),
        Message(topic, None, bare, timestamp_ms=now_ms), Message(topic, None, bare, timestamp_ms=far_ms + 1),
    ]  # fmt: skip
    world.broker.append(written)
    outside = Outside(Pulse(), Metrics("a"))
    clock_ms = lambda: now_ms  # noqa: E731  # stands still, so that the limit is one
    worker = Worker(world.base, world.broker, clock_s=lambda: world.now_s, clock_ms=clock_ms, outside=outside)
    world.settle(worker)
    refused = [] if ahead_s is None else [(1, 0), (2, 0), (2, 2), (4, 0)]
    assert [(each["offset"], each["index"]) for each in world.rejects()] == refused
    assert {each["reason"] for each in world.rejects()} <= {"future_time"} <= set(REASONS)
    values = outside.metrics.values()
    assert values.get((metrics.REJECTS.name, ("future_time",)), 0) == len(refused)
    assert values[metrics.EVENTS.name, ("encode",)] == 7 - len(refused)


def test_a_backlog_is_not_from_the_future_and_a_label_may_be() -> None:
    """What waited on the topic is dated before the clock; of labels, those dated after it are rejected likewise."""
    world = World(settings(topics={"labels": "labels", "partitions": 2}), partitions=1, references=[reference()])
    world.broker.append([Message(world.base.topics.predictions, None, event(row)) for row in rows(300)])
    late_ms = world.clock_ms() + 3_700_000
    label = b'{"model":"m","id":"7","label":1%b}'
    dated = b',"time":%d' % late_ms
    world.broker.append([Message("labels", None, label % b""), Message("labels", None, label % dated)])
    world.now_s += 10 * 86_400
    worker = world.worker()
    world.now_s -= 10 * 86_400
    world.settle(worker)
    (refused,) = world.rejects()
    assert (refused["topic"], refused["offset"], refused["reason"]) == ("labels", 1, "future_time")
    assert worker.encode is not None
    assert (worker.encode.counts.rows, worker.encode.counts.labels) == (300, 1)


def test_an_event_at_the_edge_of_the_calendar_takes_no_others_with_it() -> None:
    """In a zone of its own such a date lies in the year 0, or 10000: no batch may hold it, or all of it is skipped."""
    world = World(settings(input={"max_future_s": None}), partitions=1, references=[reference()])
    topic = world.base.topics.predictions
    edges = (b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:59-14:00", b"9999-12-31T23:59:59.9999999")
    world.broker.append(
        [Message(topic, None, b'{"model":"m","time":"%b","features":{"x":1}}' % each) for each in edges]
    )
    world.write(rows(100))
    worker = world.worker()
    world.settle(worker)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 100
    assert [each["reason"] for each in world.rejects()] == ["bad_time"] * 3


# ---- streams ----


def versions(count: int, *, each: int = 300, model: str = MODEL) -> list[Row]:
    """Rows of as many versions, in turn; those from half way on have drifted."""
    batch = rows(count * each, drift_at=count * each // 2, model=model)
    return [
        Row(row.model, f"v{i % count}", "", row.time_ms, row.features, row.prediction, None, row.id, 0, i, 0)
        for i, row in enumerate(batch)
    ]


def write(world: World, batch: list[Row]) -> None:
    world.broker.append(
        [
            Message(world.base.topics.predictions, None, event(row), 0, timestamp_ms=row.time_ms)
            for row in batch
        ]
    )  # fmt: skip


def event(row: Row) -> bytes:
    parts = {"model": row.model, "version": row.version, "time": row.time_ms, "features": row.features}
    return orjson.dumps(parts | {"prediction": row.prediction, "id": row.id})


def committed(world: World) -> Committed:
    topics = world.base.topics
    read = world.broker.records
    return Committed(
        read(topics.codes), read(topics.alerts), read(topics.state), read(topics.references), read(topics.rejects)
    )


def watched(world: World) -> list[StreamKey]:
    return sorted(key for key in found(world.base, committed(world)).states if isinstance(key, StreamKey))


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_streams", MODEL_STREAMS), ("max_partition_streams", PARTITION_STREAMS)]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_first_streams_are_watched_wherever_a_restart_was(limit: str, reason: str, seed: int) -> None:
    """Also one that saves few states, so that much is read again, and a kill that commits nothing."""
    rng = random.Random(seed)
    base = settings(input={"limits": {limit: 3}}, worker={"state_bytes_per_s": rng.choice((2_000, 5_000_000))})
    world = World(base, partitions=1, references=[reference()])
    batch = versions(6)
    cuts = sorted({0, *rng.sample(range(1, len(batch)), 4), len(batch)})
    dropped = 0
    for first, last in pairwise(cuts):
        worker = world.worker()
        write(world, batch[first:last])
        world.turn(worker, rounds=rng.randint(1, 4), step_s=rng.choice((0.3, 1.1)))
        assert worker.detect is not None
        dropped += worker.detect.counts.dropped[reason]
        worker.abandon() if rng.random() < 0.5 else worker.close()
    worker = world.worker()
    world.settle(worker)
    worker.close()
    assert worker.detect is not None
    assert dropped + worker.detect.counts.dropped[reason] >= len(batch) // 2
    assert watched(world) == [StreamKey(MODEL, f"v{i}") for i in range(3)]
    ours, undisturbed = found(base, committed(world)), expected(base, committed(world))
    assert ours.alert_count
    assert (ours.alerts, ours.states) == (undisturbed.alerts, undisturbed.states)


def test_streams_that_are_there_stay_when_a_smaller_number_is_asked_for() -> None:
    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    write(world, versions(6, each=10))
    world.settle(worker)
    worker.close()
    world.base = settings(input={"limits": {"max_streams": 2}})
    worker = world.worker()
    write(world, versions(7, each=10))
    world.settle(worker)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 60
    assert worker.detect.counts.dropped == {MODEL_STREAMS: 10}
    assert len(watched(world)) == 6


def test_labels_of_invented_models_do_not_fill_the_memory() -> None:
    base = settings(topics={"labels": "labels", "partitions": 1}, input={"limits": {"max_partition_streams": 10}})
    world = World(base, partitions=1, references=[reference()])
    topic = "labels"
    worker = world.worker()
    world.write(rows(50))
    world.settle(worker)
    outside = Outside(Pulse(), Metrics("a"))
    labels = [{"model": f"invented {i}", "id": "1", "label": 1} for i in range(40)]
    world.broker.append([Message(topic, None, orjson.dumps(label), timestamp_ms=world.clock_ms()) for label in labels])
    world.settle(worker)
    assert worker.detect is not None
    outside.metrics.tell(metrics.of_detect(worker.detect, 0))
    assert outside.metrics.values()[metrics.DROPPED.name, (PARTITION_MODELS,)] == 31
    assert len(worker.detect.outcomes()) == 10


@pytest.mark.parametrize("seed", range(20))
def test_what_is_let_in_does_not_depend_on_what_a_restart_finds(seed: int) -> None:
    """Records in any order of streams; a restart finds any of the streams saved, and reads again from the first record
    of those that are not."""
    rng = random.Random(seed)
    records = [(f"m{rng.randrange(3)}", rng.randrange(8)) for _ in range(120)]
    whole = let_in(records, 0, {})
    kept = {stream: at for stream, at in whole.items() if rng.random() < 0.5}
    unsaved = [since for stream, (since, _) in whole.items() if stream not in kept]
    assert let_in(records, min(unsaved, default=len(records)), kept) == whole


Streams = dict[tuple[str, int], tuple[int, int]]


def let_in(records: list[tuple[str, int]], start: int, known: Streams) -> Streams:
    """What a run from record `start` on lets in, with the streams that it knows."""
    roster = Roster(4, 9)
    streams = dict(known)
    for (model, _), (since, _) in streams.items():
        roster.enter(model, since)
    for offset, stream in enumerate(records):
        if offset < start or stream in streams:
            continue
        rank = roster.place(stream[0], offset)
        if isinstance(rank, int):
            roster.enter(stream[0], offset)
            streams[stream] = (offset, rank)
    return streams


def test_a_stream_that_ends_makes_room() -> None:
    roster = Roster(1, 2)
    roster.enter("m", 5)
    assert roster.place("m", 9) == MODEL_STREAMS
    assert roster.place("m", 5) == 0
    assert roster.place("n", 9) == 0
    roster.enter("n", 9)
    assert roster.place("o", 11) == PARTITION_STREAMS
    assert not roster.has_room(11)
    roster.leave("m", 5)
    assert roster.place("m", 11) == 0
    assert roster.has_room(11)


# ---- learning ----


def learning(rank: int = 0, **limits: int) -> Stream:
    base = settings(input={"limits": {"max_streams": 1, "max_warmup_bytes": 1_000_000, **limits}})
    stream = StreamFactory(base).stream(StreamKey(MODEL))
    stream.birth = type(stream.birth)(0, rank, START_MS)
    return stream


@pytest.mark.parametrize("chunk", [1, 7, 400, 1_000])
def test_a_warm_up_ends_early_when_its_memory_is_used_up_wherever_batches_are_cut(chunk: int) -> None:
    stream, batch, learned = learning(rank=2), rows(1_000), []
    for start in range(0, len(batch), chunk):
        outcome = stream.feed(RawBatch(stream.key, tuple(batch[start : start + chunk])), ReferenceBook())
        if outcome.learned is not None:
            assert outcome.cut_short
            learned.append(outcome.learned.source.rows)
    most = stream.budget.of(2)
    assert learned == [next(i for i in range(1_000) if sum(map(weight_of, batch[:i])) >= most)]
    assert 100 < learned[0] < 1_000


def test_the_shares_of_all_streams_are_within_the_bound() -> None:
    budget = WarmupBudget(1_000_000_000, 1_000)
    assert 0.9e9 < sum(budget.of(rank) for rank in range(1_000)) <= 1e9
    assert budget.of(0) > 5_000 * weight({f"feature {i}": "a category's name" for i in range(100)})


def test_a_learned_reference_has_so_many_columns_and_keeps_the_prediction() -> None:
    stream = learning(max_columns=2)
    outcome = stream.feed(RawBatch(stream.key, tuple(rows(1_000))), ReferenceBook())
    assert outcome.learned is not None
    assert [column.name for column in outcome.learned.columns] == ["x", "prediction"]
    assert outcome.learned.skipped == {"y": "more than 2 columns", "city": "more than 2 columns"}


def test_names_looked_up_for_hostile_streams_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_monitor.book._MOST_FOUND", 10)
    book = ReferenceBook()
    for i in range(100):
        assert book.find(StreamKey("m", str(i))) is None
    assert len(book._found) <= 10
