"""The worker on the memory broker: the same code as on Kafka, with a clock that the test turns."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from stream_monitor import alignment, detect_stage, encode_stage
from stream_monitor.broker.protocol import COMMIT_STEPS, Message, TopicPartition
from stream_monitor.encode_stage import EncodeLevels, EncodeStage
from stream_monitor.errors import TopicMismatch, TransactionAborted
from stream_monitor.ordering import is_tick
from stream_monitor.worker import Worker
from tests.unit.world import MODEL, World, message, reference, replayed, rows, settings

REFERENCE = reference()


def test_drift_is_found_and_the_ids_are_those_of_a_replay() -> None:
    world = World(partitions=1, references=[REFERENCE])
    batch = rows(6_000, drift_at=3_000)
    world.write(batch)
    worker = world.worker()
    world.settle(worker)
    worker.close()
    alerts = world.alerts()
    assert {alert["column"] for alert in alerts if alert["scope"] == "column"} == {"x", "city", "prediction"}
    assert all(alert["detected"]["offset"] >= 3_000 for alert in alerts)
    assert [alert["id"] for alert in alerts] == replayed(world.base, [REFERENCE], batch, lambda _: 700)


@pytest.mark.parametrize("seed", range(5))
def test_how_rows_are_cut_into_batches_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    batch = rows(6_000, drift_at=2_000, seed=seed)
    whole = replayed(settings(), [REFERENCE], batch, lambda _: 10_000)
    assert whole
    assert replayed(settings(), [REFERENCE], batch, lambda _: rng.choice([1, 7, 50, 99, 100, 333])) == whole


@pytest.mark.parametrize("live", [True, False])
def test_rows_of_several_partitions_and_two_workers_are_in_order(live: bool) -> None:
    world = World(partitions=4, references=[REFERENCE])
    workers = [world.worker("a"), world.worker("b")]
    world.turn(*workers, rounds=5)
    batch = rows(6_000, drift_at=3_000)
    for start in range(0, len(batch), 200):
        world.write(batch[start : start + 200], live=live)
        world.turn(*workers, step_s=0.6)
    world.settle(*workers)
    alerts = world.alerts()
    assert {alert["column"] for alert in alerts if alert["scope"] == "column"} == {"x", "city", "prediction"}
    single = World(partitions=1, references=[REFERENCE])
    single.write(batch)
    worker = single.worker()
    single.settle(worker)
    assert told(world) == told(single)


def test_a_reference_is_learned_published_and_followed_by_the_encoder() -> None:
    world = World(partitions=1)
    batch = rows(8_000, drift_at=5_000)
    worker = world.worker()
    for start in range(0, len(batch), 250):
        world.write(batch[start : start + 250])
        world.turn(worker, rounds=2, step_s=1.1)
    world.settle(worker)
    (learned,) = world.broker.records(world.base.topics.references)
    assert learned.key == b'["m","","",0]'
    alerts = world.alerts()
    assert {alert["column"] for alert in alerts if alert["scope"] == "column"} == {"x", "city", "prediction"}
    assert {alert["reference"]["origin"] for alert in alerts if alert["scope"] == "column"} == {"stream"}
    assert [alert["id"] for alert in alerts] == replayed(world.base, [], batch, lambda _: 100)
    state_keys = {record.key for record in world.broker.records(world.base.topics.state) if record.value is not None}
    assert b'["s","m","","",0]' in state_keys


def test_a_warm_up_survives_a_restart_and_its_chunks_are_deleted_after() -> None:
    world = World(partitions=1)
    batch = rows(4_000, drift_at=2_500)
    for start in (0, 400, 800, 1_200, 2_500):
        worker = world.worker()
        world.write(batch[start : {0: 400, 400: 800, 800: 1_200, 1_200: 2_500, 2_500: 4_000}[start]])
        world.settle(worker)
        worker.close()
    assert [a["id"] for a in world.alerts()] == replayed(world.base, [], batch, lambda _: 100)
    world.broker.compact(world.base.topics.state)
    live = [r.key for r in world.broker.records(world.base.topics.state) if r.value is not None]
    assert not [key for key in live if key and key.startswith(b'["w"')]


def test_bad_records_are_rejected_once_each_and_the_stream_goes_on() -> None:
    world = World(partitions=2, references=[REFERENCE])
    batch = rows(400)
    topic = world.base.topics.predictions
    for i, row in enumerate(batch):
        world.broker.append([message(topic, row)])
        if i % 100 == 50:
            world.broker.append([Message(topic, None, b'{"model":', partition=i % 2)])
    worker = world.worker()
    world.settle(worker)
    rejects = world.rejects()
    assert Counter(reject["reason"] for reject in rejects) == {"not_json": 4}
    assert len({(r["partition"], r["offset"]) for r in rejects}) == 4
    assert rejects[0]["raw"] == '{"model":'
    assert worker.encode is not None
    assert worker.encode.counts.rows == 400


def private(raw: str) -> dict[str, str]:
    return {"raw": raw} if raw == "full" else {"raw": raw, "salt": "a salt for the tests only"}


@pytest.mark.parametrize(("privacy", "shown"), [("none", set()), ("hash", {"sha256"}), ("full", {"raw"})])
def test_privacy_governs_what_a_reject_shows(privacy: str, shown: set[str]) -> None:
    world = World(settings(privacy=private(privacy)), references=[REFERENCE])
    world.broker.append([Message(world.base.topics.predictions, None, b"secret", partition=0)])
    worker = world.worker()
    world.settle(worker)
    (reject,) = world.rejects()
    assert set(reject) & {"raw", "raw_base64", "sha256"} == shown


@pytest.mark.parametrize(("privacy", "named"), [("none", ""), ("hash", "sha256:"), ("full", "Atlantis")])
def test_privacy_governs_the_names_of_new_categories(privacy: str, named: str) -> None:
    world = World(settings(privacy=private(privacy)), partitions=1, references=[REFERENCE])
    batch = rows(600)
    for row in batch[300:]:
        row.features["city"] = "Atlantis"
    world.write(batch)
    worker = world.worker()
    world.settle(worker)
    alerts = world.alerts()
    assert {alert["column"] for alert in alerts if alert["scope"] == "column"} == {"city"}
    assert "never seen in training" in alerts[-1]["summary"]
    assert named in alerts[-1]["summary"]
    written = b"".join(
        record.value or b""
        for topic in (world.base.topics.codes, world.base.topics.state, world.base.topics.alerts)
        for record in world.broker.records(topic)
    )
    assert (b"Atlantis" in written) == (privacy == "full")


def test_a_feature_the_reference_does_not_know_is_told_once() -> None:
    world = World(partitions=1, references=[REFERENCE])
    batch = rows(600)
    for row in batch[300:]:
        row.features["extra"] = 1.0
    world.write(batch)
    worker = world.worker()
    world.settle(worker)
    (alert,) = world.alerts()
    assert (alert["kind"], alert["column"], alert["detected"]["offset"]) == ("schema_change", "extra", 300)


def test_a_new_reference_takes_over_and_resolves_what_is_open() -> None:
    from stream_monitor.publish import publish

    world = World(partitions=1, references=[REFERENCE])
    batch = rows(3_000, drift_at=1_000)
    world.write(batch[:2_000])
    worker = world.worker()
    world.settle(worker)
    assert {alert["state"] for alert in world.alerts()} >= {"firing"}
    from stream_monitor.fit import FitOptions, fit
    from stream_monitor.reference import Season, StreamKey

    drifted = fit(rows(5_000, drift_at=0, seed=5), StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))
    publish(world.broker, world.base.topics.references, "test", [drifted])
    world.turn(worker)
    world.write(batch[2_000:])
    world.settle(worker)
    last = {alert["column"]: alert for alert in world.alerts()}
    assert {alert["state"] for alert in last.values()} == {"resolved"}
    assert {alert["reason"] for alert in last.values()} == {"reference_changed"}


@pytest.mark.parametrize("step", COMMIT_STEPS[:-1])
def test_a_failure_before_the_commit_loses_and_doubles_nothing(step: str) -> None:
    """Every third transaction of either stage dies at a step of the commit block; memory is thrown away each time."""
    world = World(partitions=2, references=[REFERENCE])
    batch = rows(6_000, drift_at=3_000)
    worker = world.worker()
    failing = Failing(step)
    for stage in (worker.encode, worker.detect):
        assert stage is not None
        stage._producer = world.broker.producer(f"x.{type(stage).__name__}", probe=failing)
    for start in range(0, len(batch), 500):
        world.write(batch[start : start + 500])
        world.turn(worker, rounds=3, step_s=1.0)
    world.settle(worker)
    assert failing.failed > 3
    clean = World(partitions=2, references=[REFERENCE])
    other = clean.worker()
    for start in range(0, len(batch), 500):
        clean.write(batch[start : start + 500])
        clean.turn(other, rounds=3, step_s=1.0)
    clean.settle(other)
    assert [a["id"] for a in world.alerts()] == [a["id"] for a in clean.alerts()]
    assert isinstance(worker.encode, EncodeStage)


class Failing:
    """Raises at a step of every third commit."""

    def __init__(self, step: str) -> None:
        self.step, self.calls, self.failed = step, 0, 0

    def __call__(self, step: str) -> None:
        if step == self.step:
            self.calls += 1
            if self.calls % 3 == 0:
                self.failed += 1
                raise TransactionAborted("injected")


def test_topics_that_are_missing_or_of_another_shape_are_refused() -> None:
    world = World()
    world.base = settings(topics={"partitions": 5})
    with pytest.raises(TopicMismatch, match=r"has 2 partitions, topics\.partitions says 5"):
        world.worker()
    world.base = settings(topics={"partitions": 2, "predictions": "elsewhere"})
    with pytest.raises(TopicMismatch, match="'elsewhere'"):
        world.worker()


def test_encoding_pauses_while_detection_is_behind() -> None:
    world = World(settings(worker={"max_codes_lag": 4}), partitions=1, references=[REFERENCE])
    encoder = world.worker("a", frozenset({"encode"}))
    batch = rows(8_000)
    for start in range(0, 4_000, 100):
        world.write(batch[start : start + 100])
        world.turn(encoder, step_s=1.1)
    codes = TopicPartition(world.base.topics.codes, 0)
    stalled = world.broker.log(codes).end_offset
    assert world.behind()
    detector = world.worker("b", frozenset({"detect"}))
    world.settle(encoder, detector)
    assert world.broker.log(codes).end_offset > stalled
    assert not world.behind()


def test_the_lag_on_the_codes_stays_below_what_is_allowed() -> None:
    """Two encoders and no detector: each holds back in time, though it learns late what the other wrote."""
    most = 60
    world = World(settings(worker={"max_codes_lag": most}), partitions=4, references=[REFERENCE])
    encoders = [world.worker(name, frozenset({"encode"})) for name in ("a", "b")]
    batch = rows(20_000)
    topic = world.base.topics.codes
    for start in range(0, 20_000, 100):
        world.write(batch[start : start + 100])
        world.turn(*encoders, step_s=0.5)
        assert sum(not is_tick(record.value) for record in world.broker.records(topic)) < most
    assert world.behind()


@pytest.mark.parametrize("most", [60, 20_000])
def test_encoders_of_unlike_pace_catch_up_in_order(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the fast one wait in detection for those of the slow one, minutes behind it: that must not hold the
    slow one back, and they must not be fed before."""
    monkeypatch.setattr(alignment, "AHEAD_RECORDS", 1_000)
    base = settings(worker={"max_codes_lag": most})
    world = World(base, partitions=2, references=[REFERENCE])
    world.broker.max_poll_records = 50
    batch = rows(12_000, drift_at=6_000)
    world.write(batch[::2], 0)
    world.write(batch[1::2], 1)
    fast, slow = (world.worker(name, frozenset({"encode"})) for name in ("a", "b"))
    detector = world.worker("c", frozenset({"detect"}))
    world.turn(fast, slow, rounds=4)
    for _ in range(60):
        world.turn(fast, detector, rounds=8, step_s=0.6)
        world.turn(slow, step_s=0.6)
    assert sum(levels_of(slow).lag.values()) > 0, "they are of unlike pace"
    world.settle(fast, slow, detector)
    single = World(partitions=1, references=[REFERENCE])
    single.write(batch)
    worker = single.worker()
    single.settle(worker)
    assert single.column_alerts()
    assert told(world) == told(single)


def levels_of(worker: Worker) -> EncodeLevels:
    assert worker.encode is not None
    return worker.encode.levels()


def told(world: World) -> list[tuple[str, str, str]]:
    return [(each["column"], each["state"], each["detected"]["time"]) for each in world.alerts()]


def test_the_lag_of_an_encoder_that_holds_back_is_told() -> None:
    """It fetches nothing from what it has paused, so it has to ask."""
    world = World(settings(worker={"max_codes_lag": 4}), partitions=1, references=[REFERENCE])
    encoder = world.worker("a", frozenset({"encode"}))
    stage = encoder.encode
    assert stage is not None
    world.turn(encoder, rounds=60, step_s=1.1)
    assert stage.levels().held_back
    world.write(rows(1_000))
    world.turn(encoder, rounds=5, step_s=1.1)
    assert sum(stage.levels().lag.values()) == 1_000


def test_a_quiet_partition_whose_end_no_fetch_has_told_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a lost session, where a fetch tells only of partitions with something new: it holds nothing back, and
    is told as held and read to its end."""
    world = World(partitions=2, references=[REFERENCE])
    worker = world.worker()
    stage = worker.encode
    assert stage is not None
    assert worker.detect is not None
    world.write(rows(200), 0)
    world.settle(worker)
    quiet, seen = TopicPartition(world.base.topics.predictions, 1), stage._consumer.end_seen
    monkeypatch.setattr(stage._consumer, "end_seen", lambda at: None if at == quiet else seen(at), raising=False)
    world.turn(worker, rounds=3, step_s=1.1)
    assert stage.levels().lag == {quiet: 0, quiet._replace(partition=0): 0}
    world.write(rows(100, first=200), 0, live=True)
    world.turn(worker, rounds=5, step_s=0.5)
    assert worker.detect.counts.rows == 300, "not waited for"


def test_what_waits_to_be_encoded_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large records on one partition, while another lags and has to be waited for."""
    monkeypatch.setattr(encode_stage, "BUFFERED_BYTES", 4_000_000)
    world = World(settings(worker={"max_transaction_bytes": 1_048_576}), partitions=2, references=[REFERENCE])
    world.broker.max_poll_records = 5
    value = b'{"model":"m","features":{"x":1.0,"y":1.0,"city":"Rome"},"note":"' + b"x" * 100_000 + b'"}'
    world.broker.append([Message(world.base.topics.predictions, None, value, n % 2) for n in range(400)])
    worker = world.worker("a", frozenset({"encode"}))
    stage = worker.encode
    assert stage is not None
    most = most_pending = 0
    while world.behind():
        world.turn(worker, step_s=0.01)
        held = stage._consumer.assignment()
        most = max(most, *(stage._rows.merger.buffered_bytes(at) for at in held), 0)
        most_pending = max(most_pending, stage._pending_bytes)
    assert 0 < most <= 2_000_000 + 5 * len(value)
    assert most_pending <= 1_048_576 + len(value)
    assert stage.counts.rows == 400


def test_an_encoder_with_a_full_buffer_does_not_wait_for_more() -> None:
    """What was polled at once goes on a transaction at a time; no step waits for something new meanwhile."""
    world = World(settings(worker={"max_transaction_bytes": 1_048_576}), partitions=2, references=[REFERENCE])
    value = b'{"model":"m","features":{"x":1.0,"y":1.0,"city":"Rome"},"note":"' + b"x" * 10_000 + b'"}'
    worker = world.worker("a", frozenset({"encode"}))
    world.turn(worker, rounds=3, step_s=1.1)
    stage = worker.encode
    assert stage is not None
    world.broker.append([Message(world.base.topics.predictions, None, value, n % 2) for n in range(500)])
    busy = [stage.step(0.0, 10.0) for _ in range(12)]
    assert stage.counts.rows > 400
    assert busy[:5] == [True] * 5, "one for each megabyte"
    assert not busy[-1], "what is left is less, and waits for its commit"


def test_a_step_watches_so_many_rows_and_commits_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """One poll may bring more than can be watched before the group gives up on a member, which would begin anew."""
    monkeypatch.setattr(detect_stage, "ROWS_A_STEP", 500)
    world = World(settings(worker={"state_interval_s": 2.0}), partitions=1, references=[REFERENCE])
    encoder = world.worker("a", frozenset({"encode"}))
    batch = rows(8_000, drift_at=4_000)
    for start in range(0, 8_000, 200):
        world.write(batch[start : start + 200])
        world.turn(encoder, step_s=1.1, rounds=2)
    group, codes = f"{world.base.group}-detect", world.broker.partitions([world.base.topics.codes])

    def committed() -> int:
        return sum(offset or 0 for offset in world.broker.group_offsets(group, codes).values())

    offsets = []
    for _ in range(40):  # each life ends, by a kill, after a few steps: it has to get on nevertheless
        detector = world.worker("b", frozenset({"detect"}))
        stage = detector.detect
        assert stage is not None
        for _ in range(5):
            before = stage.counts.rows
            world.turn(detector, step_s=1.1)
            assert stage.counts.rows - before < 500 + 400
        detector.abandon()
        offsets.append(committed())
        if offsets[-1] == offsets[0] and len(offsets) > 1:
            raise AssertionError("nothing is committed")
        if len(offsets) > 1 and offsets[-1] == offsets[-2]:
            break
    detector = world.worker("b", frozenset({"detect"}))
    world.settle(encoder, detector)
    detector.close()
    assert [alert["id"] for alert in world.alerts()] == replayed(world.base, [REFERENCE], batch, lambda _: 700)
