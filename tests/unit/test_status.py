"""The status topic: what it says of a stream, when, and that it says it once, whatever is killed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import orjson
import pytest

from stream_monitor import cli, status
from stream_monitor.alerts import rfc3339
from stream_monitor.broker.protocol import Message
from stream_monitor.cli_status import labels_table, metrics_table, table
from stream_monitor.errors import TopicMismatch
from stream_monitor.reference import StreamKey
from tests.faults.oracle import expected, found
from tests.unit.test_limits import committed, event, versions
from tests.unit.test_model import LABELS, label_of, write_labels
from tests.unit.world import MODEL, START_MS, STEP_MS, World, reference, rows, settings


def records(world: World) -> dict[bytes, list[dict[str, Any]]]:
    """Everything ever written, by key, in order."""
    written: dict[bytes, list[dict[str, Any]]] = {}
    for record in world.broker.records(world.base.topics.status):
        written.setdefault(record.key or b"", []).append(orjson.loads(record.value or b"null"))
    return written


def test_a_stream_is_told_as_it_stands() -> None:
    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    world.write(rows(3_000, drift_at=1_500))
    world.settle(worker)
    worker.close()
    (told,) = status.read(world.broker, world.base.topics.status)
    assert (told["type"], told["model"], told["rows"], told["learning"]) == ("stream", MODEL, 3_000, False)
    assert told["first_seen"] == "2023-11-14T22:13:20.000Z"
    assert told["last_seen"] == rfc3339(START_MS + 2_999 * STEP_MS)
    assert told["rate"] == 1_000 / STEP_MS
    assert told["false_alarm_days"] == pytest.approx(10_000_000 / 100 / 86_400, rel=0.01)
    assert told["columns"] == len(reference().columns)
    assert told["reference"] == {"digest": reference().digest(), "epoch": 1, "origin": "stream", "n": 5_000}
    firing = {a["column"]: a["episode"] for a in world.alerts() if (a["state"], a["scope"]) == ("firing", "column")}
    assert {each["column"]: each["episode"] for each in told["open"]} == firing
    assert told["alerts_open"] == len(firing) > 0


def test_a_stream_that_learns_says_how_far_it_is_and_a_learned_reference_has_epoch_0() -> None:
    world = World(partitions=1)
    worker = world.worker()
    world.write(rows(400))
    world.settle(worker)
    worker.close()
    (told,) = status.read(world.broker, world.base.topics.status)
    assert (told["learning"], told["rows"], told["rows_wanted"]) == (True, 400, 1_000)
    worker = world.worker()
    world.write(rows(2_000, first=400))
    world.settle(worker)
    worker.close()
    (told,) = status.read(world.broker, world.base.topics.status)
    assert (told["learning"], told["reference"]["epoch"], told["reference"]["n"]) == (False, 0, 1_000)


def test_once_a_minute_at_most_and_never_left_behind() -> None:
    """Rows for five minutes, saved at every commit; then silence, in which the last word is still said."""
    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    batch = rows(3_000)
    for start in range(0, 3_000, 10):
        world.write(batch[start : start + 10], live=True)
        world.turn(worker, step_s=1.0)
    assert not world.alerts()
    told = records(world)[status.stream_key(reference().stream)]
    assert 5 <= len(told) <= 6
    world.settle(worker)
    world.turn(worker, rounds=20, step_s=5.0)
    last = records(world)[status.stream_key(reference().stream)]
    assert len(last) <= len(told) + 2
    assert last[-1]["rows"] == 3_000


def test_an_alert_is_told_with_it_and_not_a_minute_later() -> None:
    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    batch = rows(3_000, drift_at=1_500)
    for start in range(0, 3_000, 10):
        world.write(batch[start : start + 10], live=True)
        world.turn(worker)
        fired = {alert["episode"] for alert in world.column_alerts() if alert["state"] == "firing"}
        if fired:
            break
    last = records(world)[status.stream_key(reference().stream)][-1]
    assert {each["episode"] for each in last["open"]} == fired != set()


def test_new_versions_are_told_beside_those_there_were() -> None:
    world = World(partitions=1, references=[reference()])
    batch = versions(3, each=50)
    topic = world.base.topics.predictions
    for kill in (True, False):
        worker = world.worker()
        if kill:
            world.broker.append([Message(topic, None, event(row), 0, timestamp_ms=row.time_ms) for row in batch])
            world.turn(worker, rounds=5)
            worker.abandon()
        else:
            world.settle(worker)
            worker.close()
    told = [each for each in status.read(world.broker, world.base.topics.status) if each["type"] == "new_version"]
    assert [(each["version"], each["others"]) for each in told] == [("v1", ["v0"]), ("v2", ["v0", "v1"])]
    assert all(len({str(each) for each in written}) == 1 for key, written in records(world).items() if b"new_v" in key)


def test_the_record_of_a_stream_that_ends_is_deleted() -> None:
    world = World(partitions=1, references=[reference()])
    batch = versions(2, each=50)
    topic = world.base.topics.predictions
    worker = world.worker()
    world.broker.append([Message(topic, None, event(row), 0, timestamp_ms=row.time_ms) for row in batch])
    world.settle(worker)
    assert worker.detect is not None
    ended = StreamKey(MODEL, "v0")
    (held,) = [held for held in worker.detect._held.values() if ended in held.streams]
    del held.streams[ended]
    world.turn(worker, rounds=5, step_s=6.0)
    assert [each["version"] for each in status.read(world.broker, world.base.topics.status)] == ["v1", "v1"]
    assert records(world)[status.stream_key(ended)][-1] is None
    assert held.versions == {MODEL: {"v1": held.streams[StreamKey(MODEL, "v1")].stream.birth.since}}
    written = len(records(world)[status.stream_key(ended)])
    world.turn(worker, rounds=5, step_s=6.0)
    assert len(records(world)[status.stream_key(ended)]) == written


def test_alerts_and_states_are_those_of_the_oracle() -> None:
    world = World(settings(worker={"state_bytes_per_s": 3_000}), partitions=2, references=[reference()])
    for start in range(0, 3_000, 600):
        worker = world.worker()
        world.write(rows(600, drift_at=0 if start >= 1_200 else None, seed=start, first=start))
        world.turn(worker, rounds=6, step_s=0.7)
        worker.abandon()
    worker = world.worker()
    world.settle(worker)
    worker.close()
    assert world.alerts()
    assert found(world.base, committed(world)) == expected(world.base, committed(world))


def test_the_table() -> None:
    from rich.console import Console

    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    world.write([*rows(1_500, drift_at=500), *rows(100, model="learning")])
    world.settle(worker)
    worker.close()
    console = Console(record=True, width=200)
    console.print(table(status.read(world.broker, world.base.topics.status)))
    shown = console.export_text()
    assert "learning: 100 of 1,000 events" in shown
    assert f"{reference().digest()[:8]}, stream, 5,000 rows" in shown
    assert "1.16 days" in shown
    assert "city" in shown


def outcomes() -> World:
    """1,100 predictions, labels for 1,000; one repeated, two corrected, one without id, two for no prediction."""
    base = settings(
        topics={"partitions": 2, "labels": LABELS},
        labels={"max_waiting": 1_050},
        detection={"budget_events": 1_000_000, "warmup_events": 200},
    )
    world = World(base, references=[reference()])
    worker = world.worker()
    batch = rows(1_100)
    world.write(batch[:1_000])
    world.settle(worker)
    write_labels(world, [(row.id, label_of(row)) for row in batch[:1_000]])
    world.settle(worker)
    first = batch[0]
    write_labels(world, [(first.id, label_of(first)), *((row.id, 1 - label_of(row)) for row in batch[1:3]),
                         (None, 1), ("nobody", 1), ("nothing", 0)])  # fmt: skip
    world.settle(worker)
    world.write(batch[1_000:])
    world.settle(worker)
    worker.close()
    return world


def test_what_became_of_labels_is_told() -> None:
    world = outcomes()
    (told,) = [each for each in status.read(world.broker, world.base.topics.status) if each["type"] == "labels"]
    counts = told["counts"]
    assert (told["model"], told["waiting"], told["coverage"]) == (MODEL, 1_050, 1.0)
    assert (counts["predictions"], counts["labels"], counts["joined"]) == (1_100, 1_005, 1_000)
    assert (counts["repeated"], counts["corrections"], counts["unmatched"]) == (1, 2, 0)
    assert counts["dropped"] == 0, "those let go had their labels"
    assert 1_050 <= told["delay_s"]["p50"] <= 1_070 * 2**0.5, "the upper end of a bucket that is √2 wide"
    (stream,) = told["streams"]
    assert (stream["learning"], stream["outcomes"]) == (False, 800)
    found = stream["metrics"]["accuracy"]
    assert found["low"] < found["value"] < found["high"]
    assert (found["n"], found["reference"] is None) == (800, False)


def test_labels_have_tables() -> None:
    from rich.console import Console

    world = outcomes()
    labels = [each for each in status.read(world.broker, world.base.topics.status) if each["type"] == "labels"]
    console = Console(record=True, width=200)
    console.print(labels_table(labels))
    console.print(metrics_table(labels))
    shown = console.export_text().splitlines()
    assert shown[1].split()[:3] == [MODEL, "1,100", "100.0%"]
    assert shown[1].split()[-6:] == ["0", "0", "0", "0", "2", "0"]
    assert shown[3].split()[:2] == [MODEL, "accuracy"]
    assert "800 outcomes" in shown[3]


def test_a_performance_alert_that_is_open_is_told() -> None:
    base = settings(topics={"partitions": 1, "labels": LABELS},
                    detection={"budget_events": 100_000, "warmup_events": 1_000})  # fmt: skip
    world = World(base, references=[reference()])
    worker = world.worker()
    batch = rows(4_000)
    world.write(batch)
    write_labels(world, [(row.id, label_of(row)) for row in batch[:2_500]])
    world.settle(worker)
    write_labels(world, [(row.id, 1 - label_of(row)) for row in batch[2_500:]])
    world.settle(worker)
    assert worker.detect is not None
    kinds = worker.detect.levels().open
    worker.close()
    (told,) = [each for each in status.read(world.broker, base.topics.status) if each["type"] == "labels"]
    firing = {(a["kind"], a["column"]): a["episode"] for a in world.alerts() if a["state"] == "firing"}
    open_ = {(each["kind"], each["subject"]): each["episode"] for each in told["streams"][0]["open"]}
    assert open_ == {key: episode for key, episode in firing.items() if key[0] in ("concept_drift", "performance")}
    assert kinds["performance"] >= 1
    assert kinds["concept_drift"] >= 1
    assert told["streams"][0]["alerts_open"] == kinds["performance"] + kinds["concept_drift"]


def test_a_missing_topic_is_said() -> None:
    with pytest.raises(TopicMismatch, match="topics create"):
        status.read(World().broker, "nothing.status")


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(partitions=1, references=[reference()])
    worker = world.worker()
    batch = versions(2, each=50)
    topic = world.base.topics.predictions
    world.broker.append([Message(topic, None, event(row), 0, timestamp_ms=row.time_ms) for row in batch])
    world.settle(worker)
    worker.close()
    monkeypatch.setenv("STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("stream_monitor.cli_status.broker_of", lambda _: nullcontext(world.broker))
    capsys.readouterr()
    cli.app(["status", "--json"], standalone_mode=False)
    shown = orjson.loads(capsys.readouterr().out)
    assert [each["type"] for each in shown] == ["new_version", "stream", "stream"]
    cli.app(["status"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "m/v0" in text
    assert "new version v1 of m since" in text
    assert "written last " in text
    assert " ago" in text


def test_the_command_says_where_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    monkeypatch.setenv("STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("stream_monitor.cli_status.broker_of", lambda _: nullcontext(world.broker))
    cli.app(["status"], standalone_mode=False)
    assert "no stream yet: no event has come on 'predictions'" in capsys.readouterr().out
