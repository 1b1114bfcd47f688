"""What changes while the work goes on, or between two runs: settings, references, versions, topics made anew.

Each of these is a line of docs/guarantees.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from stream_monitor.book import key_of
from stream_monitor.broker.protocol import Message
from stream_monitor.detectors import adwin
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.publish import publish
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.topics import specs
from stream_monitor.worker import Worker
from tests.unit.world import MODEL, START_MS, STEP_MS, World, message, reference, rows, settings

REFERENCE = reference()
Fields = dict[str, Any]
DAY_MS = 86_400_000


def states_of(world: World, first: int = 0) -> set[tuple[str, str, str]]:
    """Column, state and reason of the alerts about columns, from that alert on."""
    alerts = (alert for alert in world.alerts()[first:] if alert["scope"] == "column")
    return {(alert["column"], alert["state"], alert.get("reason") or "") for alert in alerts}


# ---- settings ----


@pytest.mark.parametrize(
    ("change", "cold"),
    [
        ({}, 0),
        ({"budget_events": 20_000_000}, 4),
        ({"detectors": {"evidence": {"doubt": 0.9}}}, 1),
        ({"detectors": {"histogram": {"enabled": False}}}, 0),
        ({"lifecycle": {"update_rows": 777}}, 0),
    ],
)
def test_a_change_of_settings_starts_what_it_touches_cold_and_keeps_open_alerts(change: Fields, cold: int) -> None:
    """They are not published again, and resolve when their column is back, whatever had to start cold meanwhile."""
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(2_000, drift_at=1_000), 0)
    before = world.worker()
    world.settle(before)
    before.close()
    told = len(world.alerts())
    opened = {alert["column"] for alert in world.column_alerts() if alert["state"] == "firing"}
    assert opened == {"x", "city", "prediction"}
    world.base = settings(detection=change)
    after = world.worker()
    world.write(rows(500, drift_at=0, first=2_000, seed=3), 0)
    world.settle(after)
    assert after.detect is not None
    assert (after.detect.counts.cold_detectors, after.detect.counts.lost_states) == (cold, 0)
    assert not [state for _, state, _ in states_of(world, told) if state == "firing"], "it has fired already"
    world.write(rows(8_000, first=2_500, seed=4), 0)
    world.settle(after)
    assert {each for each in states_of(world, told) if each[1] == "resolved"} == {
        (column, "resolved", "returned") for column in opened
    }
    firing = {alert["column"]: alert["id"] for alert in world.column_alerts() if alert["state"] == "firing"}
    resolved = {alert["column"]: alert["episode"] for alert in world.column_alerts() if alert["state"] == "resolved"}
    assert resolved == firing, "of the same episode"


def test_a_cold_detector_finds_the_next_drift_by_itself() -> None:
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(1_000), 0)
    before = world.worker()
    world.settle(before)
    before.close()
    world.base = settings(detection={"budget_events": 20_000_000})
    world.write(rows(1_000, drift_at=300, first=1_000), 0)
    world.settle(world.worker())
    assert {alert["column"] for alert in world.column_alerts()} == {"x", "city", "prediction"}


def test_windows_of_adwin_that_native_code_fails_on_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at work, and all that river refuses at a restart; each once, however often the stream is saved."""

    class PanicException(BaseException):
        """Has the name of the one that cannot be imported."""

    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(500), 0)
    worker = world.worker()
    world.settle(worker)
    assert worker.detect is not None
    (tracked,) = [each for held in worker.detect._held.values() for each in held.streams.values()]
    assert tracked.stream.monitor is not None
    found = tracked.stream.monitor.detectors._detectors["adwin"]
    assert isinstance(found, adwin.Adwin)
    update, broken = adwin._update, found._windows[1]

    def panic(window: Any, value: float) -> Any:
        if window is broken:
            raise PanicException
        return update(window, value)

    monkeypatch.setattr(adwin, "_update", panic)
    for start in range(500, 1_500, 250):
        world.write(rows(250, first=start), 0)
        world.settle(worker)
    assert worker.detect.counts.cold_detectors == 1
    worker.close()
    monkeypatch.setattr(adwin, "plausible", lambda *_: False)
    again = world.worker()
    world.write(rows(500, first=1_500), 0)
    world.settle(again)
    assert again.detect is not None
    assert again.detect.counts.cold_detectors == len(found._windows)
    assert (again.detect.counts.rows, again.detect.counts.lost_states) == (500, 0)


# ---- references ----


def other_reference(drifted: bool = True) -> Reference:
    options = FitOptions(season=Season.NONE, ordered=True)
    return fit(rows(5_000, drift_at=0 if drifted else None, seed=5), StreamKey(MODEL), options)


@pytest.mark.parametrize("running", [True, False])
def test_a_new_reference_resolves_what_is_open_and_is_watched_under_from_there_on(running: bool) -> None:
    """Every row is watched under the one or the other; published while nobody works, it is found at the start."""
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(2_000, drift_at=1_000), 0)
    worker = world.worker()
    world.settle(worker)
    told = len(world.alerts())
    if not running:
        worker.close()
    publish(world.broker, world.base.topics.references, "test", [other_reference()])
    if not running:
        worker = world.worker()
    world.turn(worker)
    world.write(rows(1_000, drift_at=0, first=2_000, seed=3), 0)
    world.settle(worker)
    assert states_of(world, told) == {(name, "resolved", "reference_changed") for name in ("x", "city", "prediction")}
    assert worker.detect is not None
    assert worker.detect.counts.stale_rows == 0
    world.write(rows(1_000, first=3_000, seed=4), 0)
    world.settle(worker)
    since = (alert for alert in world.alerts()[told:] if alert["scope"] == "column")
    digests = {alert["reference"]["digest"] for alert in since if alert["state"] == "firing"}
    assert digests == {other_reference().digest()}, "what was usual before is a drift now"


def test_rows_coded_under_the_old_reference_by_a_slow_encoder_are_counted_as_stale() -> None:
    """An encoder that has not heard of the new one yet, beside one that has."""
    world = World(partitions=2, references=[REFERENCE])
    slow, quick = (world.worker(name, frozenset({"encode"})) for name in ("slow", "quick"))
    detector = world.worker("d", frozenset({"detect"}))
    world.write(rows(200), 0)
    world.settle(slow, quick, detector)
    publish(world.broker, world.base.topics.references, "test", [other_reference()])
    slow.feed.poll = lambda timeout_s=0.0: None  # type: ignore[method-assign]
    for start in range(200, 600, 50):
        world.write(rows(50, first=start))
        world.settle(slow, quick, detector)
    assert detector.detect is not None
    counts = detector.detect.counts
    assert counts.stale_rows > 0
    assert counts.rows + counts.stale_rows == 600, "none is lost in silence"


def test_a_reference_that_is_deleted_is_used_until_a_restart_and_then_learned_anew() -> None:
    """Its record is gone, so that a restart finds a state under a reference nobody knows: cold, and loud."""
    world = World(settings(detection={"warmup_events": 1_000}), partitions=1, references=[REFERENCE])
    world.write(rows(1_000), 0)
    worker = world.worker()
    world.settle(worker)
    world.broker.append([Message(world.base.topics.references, key_of(StreamKey(MODEL), 1), None)])
    world.turn(worker)
    world.write(rows(500, first=1_000), 0)
    world.settle(worker)
    assert worker.detect is not None
    assert (worker.detect.counts.rows, worker.detect.counts.stale_rows) == (1_500, 0)
    worker.close()
    again = world.worker()
    world.write(rows(1_500, first=1_500), 0)
    world.settle(again)
    assert again.detect is not None
    assert again.detect.counts.lost_states == 1
    learned = [record.key for record in world.broker.records(world.base.topics.references) if record.value]
    assert learned[-1] == key_of(StreamKey(MODEL), 0)
    assert not world.alerts()


# ---- versions ----


def of_version(batch: list[Row], version: str) -> list[Row]:
    return [Row(r.model, version, "", r.time_ms, r.features, r.prediction, None, r.id, 0, r.offset, 0) for r in batch]


def write_version(world: World, batch: list[Row], version: str) -> None:
    topic = world.base.topics.predictions
    sent = []
    for row in of_version(batch, version):
        plain = message(topic, row, 0)
        document = orjson.loads(plain.value or b"") | {"version": version}
        sent.append(replace(plain, value=orjson.dumps(document)))
    world.broker.append(sent)


@pytest.mark.parametrize("has_reference", [True, False])
def test_a_new_version_is_a_stream_of_its_own_and_the_old_one_ends(has_reference: bool) -> None:
    """Under the reference of all versions, or learning its own; the old one's alerts are resolved when it has ended."""
    base = settings(detection={"warmup_events": 1_000, "silence": {"after_s": 3_600, "ttl_s": 2 * 3_600}})
    own = fit(rows(5_000, seed=99), StreamKey(MODEL, "7"), FitOptions(season=Season.NONE, ordered=True))
    world = World(base, partitions=1, references=[REFERENCE if has_reference else own])
    write_version(world, rows(2_000, drift_at=1_000), "7")
    worker = world.worker()
    world.settle(worker)
    assert {(alert["version"], alert["state"]) for alert in world.column_alerts()} == {("7", "firing")}
    told = len(world.alerts())
    hours = 3 * 3_600_000 // STEP_MS
    world.now_s += 3 * 3_600
    write_version(world, rows(3_000, drift_at=2_000, first=hours), "8")
    world.settle(worker)
    world.turn(worker, rounds=10, step_s=1.1)  # it falls silent, and with a later tick it ends
    later = [(alert["version"], alert["kind"], alert["state"], alert.get("reason")) for alert in world.alerts()[told:]]
    seven = [each for each in later if each[0] == "7"]
    assert {each[1:] for each in seven if each[2] == "resolved" and each[1] != "silent"} == {
        (kind, "resolved", "ended") for kind in ("data_drift", "prediction_drift", "incident")
    }
    assert {each[2] for each in later if each[0] == "8" and each[1] != "incident"} == {"firing"}
    assert worker.detect is not None
    (eight,) = [key for held in worker.detect._held.values() for key in held.streams]
    assert eight == StreamKey(MODEL, "8", "")


# ---- topics ----


def made_anew(world: World, topic: str) -> None:
    world.broker.delete_topic(topic)
    world.broker.create_topics([spec for spec in specs(world.base, predictions=1) if spec.name == topic])


def restarted(world: World) -> Worker:
    worker = world.worker()
    world.settle(worker)
    return worker


@pytest.mark.parametrize("waiting", [0, 3])
def test_codes_made_anew_while_nobody_works_are_watched_from_their_start_and_told(waiting: int) -> None:
    """The group's offsets went with the topic; the stamps of the states are of the old one and would skip rows."""
    world = World(partitions=1, references=[REFERENCE])
    for start in range(0, 2_000, 100):
        world.write(rows(100, first=start), 0)
        worker = restarted(world)
        worker.close()
    made_anew(world, world.base.topics.codes)
    if waiting:
        encoder = world.worker(stages=frozenset({"encode"}))
        for number in range(waiting):
            world.write(rows(100, first=2_000 + 100 * number), 0)
            world.settle(encoder)
        encoder.close()
    worker = restarted(world)
    world.write(rows(3_000, drift_at=1_000, first=3_000), 0)
    world.settle(worker)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 3_000 + 100 * waiting
    worker.close()
    told = [alert for alert in world.alerts() if alert["kind"] == "gap"]
    held = {at.partition for at in world.broker.partitions([world.base.topics.codes])}
    assert {alert["gap"]["partition"] for alert in told} == held
    assert all(alert["gap"]["made_anew"] and alert["gap"]["lost"] == 0 for alert in told)
    assert all("nothing of it is lost" in alert["summary"] for alert in told)
    restarted(world).close()
    assert len({alert["id"] for alert in world.alerts()}) == len(world.alerts()), "told once"


def test_predictions_made_anew_while_nobody_works_are_read_from_their_start() -> None:
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(500), 0)
    restarted(world).close()
    made_anew(world, world.base.topics.predictions)
    world.write(rows(300, first=500), 0)
    worker = restarted(world)
    assert worker.encode is not None
    assert worker.detect is not None
    assert (worker.encode.counts.rows, worker.detect.counts.rows) == (300, 300)


def test_offsets_that_expired_read_no_row_twice() -> None:
    """The broker forgot the group's offsets, the topic stands: the states know what they have seen."""
    world = World(partitions=1, references=[REFERENCE])
    world.write(rows(2_000, drift_at=1_000), 0)
    restarted(world).close()
    told = len(world.alerts())
    world.broker._group(f"{world.base.group}-detect").offsets.clear()
    worker = restarted(world)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 0
    assert len(world.alerts()) == told


def test_the_dates_of_these_tests_are_what_they_are_taken_for() -> None:
    assert STEP_MS * 100 == 1_000
    assert START_MS % 1_000 == 0
