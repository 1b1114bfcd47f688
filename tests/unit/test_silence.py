"""A stream that stops is told, one that has ended is forgotten, and a backlog is neither."""

from __future__ import annotations

from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.alerts import schema
from stream_monitor.events import Row
from stream_monitor.silence import PERIOD_MS, Policy, Rhythm
from stream_monitor.trail import Origin
from stream_monitor.worker import Worker
from tests.unit.world import START_MS, World, reference, rows, settings

REFERENCE = reference()
HERE = Origin(0, 7, 0, 1_000)
DAY_MS = 86_400_000
Fields = dict[str, Any]


def rhythm_of(*times_ms: int) -> Rhythm:
    rhythm = Rhythm(times_ms[0], times_ms[0], (0, 0, 0, 0), times_ms[0] // PERIOD_MS)
    rhythm.see(np.array(times_ms, dtype=np.int64), HERE)
    return rhythm


class TestRhythm:
    def test_a_configured_time_holds_at_once(self) -> None:
        assert rhythm_of(0, 1_000).silent_at(Policy(after_s=60.0)) == 61_000

    def test_a_rhythm_is_not_known_within_the_first_day(self) -> None:
        assert rhythm_of(0, DAY_MS - 1).silent_at(Policy()) is None

    def test_a_multiple_of_the_longest_pause_counts(self) -> None:
        rhythm = rhythm_of(*range(0, DAY_MS + 1, 3_600_000))
        assert rhythm.silent_at(Policy()) == DAY_MS + 3 * 3_600_000

    def test_a_steady_stream_has_ten_minutes(self) -> None:
        assert rhythm_of(*range(0, DAY_MS + 1, 1_000)).silent_at(Policy()) == DAY_MS + 600_000

    def test_a_pause_is_forgotten_after_two_periods(self) -> None:
        rhythm = rhythm_of(0, 10 * 3_600_000)
        steady = np.arange(10 * 3_600_000, 3 * PERIOD_MS, 60_000)
        for upto, longest_ms in ((PERIOD_MS, 36_000_000), (2 * PERIOD_MS, 36_000_000), (3 * PERIOD_MS, 60_000)):
            rhythm.see(steady[(steady > rhythm.last_ms) & (steady < upto)], HERE)
            assert max(rhythm.longest_ms, rhythm.before_ms) == longest_ms

    @given(st.lists(st.integers(0, 5 * PERIOD_MS), min_size=2, max_size=60), st.integers(1, 59))
    def test_how_the_rows_are_cut_does_not_matter(self, times: list[int], cut: int) -> None:
        whole, pieces = rhythm_of(*times), rhythm_of(*times[:cut])
        for time in times[cut:]:
            pieces.see(np.array([time]), HERE)
        assert whole == pieces


def told(world: World) -> list[Fields]:
    found = [alert for alert in world.alerts() if alert["kind"] == "silent"]
    for alert in found:
        jsonschema.validate(alert, schema())
    return found


def make(after_s: float | None = 30.0, ttl_s: float = 100_000.0, partitions: int = 2) -> World:
    base = settings(detection={"silence": {"after_s": after_s, "ttl_s": ttl_s}})
    return World(base, partitions=partitions, references=[REFERENCE])


def wait(world: World, worker: Worker, seconds: float) -> None:
    """Nothing comes for so long; the worker goes on."""
    for _ in range(int(seconds / 2.0)):
        world.turn(worker, step_s=2.0)


def now(world: World, batch: list[Row]) -> None:
    world.write(batch, live=True)


def test_a_stream_that_stops_is_told_once_and_again_when_it_is_back() -> None:
    world = make()
    worker = world.worker()
    now(world, rows(300))
    world.settle(worker)
    wait(world, worker, 20.0)
    assert not told(world)
    wait(world, worker, 30.0)
    (firing,) = told(world)
    assert (firing["state"], firing["scope"], firing["severity"]) == ("firing", "stream", "warning")
    assert firing["summary"] == "m: no events for 30 s"
    wait(world, worker, 60.0)
    now(world, rows(10, first=300))
    world.settle(worker)
    worker.close()
    _, resolved = told(world)
    assert (resolved["state"], resolved["reason"], resolved["episode"]) == ("resolved", "returned", firing["id"])
    assert resolved["summary"].startswith("m: events again, after ")


@pytest.mark.parametrize("restart_s", [10.0, 28.0, 34.0, 60.0])
def test_a_restart_changes_nothing(restart_s: float) -> None:
    """The same alert, once, whether the worker is there all the time, or leaves in the middle."""
    found = []
    for restarts in (False, True):
        world = make()
        worker = world.worker()
        now(world, rows(300))
        world.settle(worker)
        wait(world, worker, restart_s)
        if restarts:
            worker.close()
            worker = world.worker()
        wait(world, worker, 100.0 - restart_s)
        now(world, rows(10, first=300))
        world.settle(worker)
        worker.close()
        found.append([(alert["id"], alert["state"], alert["detected"]["time"]) for alert in told(world)[:1]])
        assert len(told(world)) == 2
    assert found[0] == found[1]


def test_a_worker_that_was_away_takes_a_backlog_for_no_silence() -> None:
    world = make()
    worker = world.worker()
    now(world, rows(300))
    world.settle(worker)
    worker.close()
    for number in range(200):  # events go on for 400 s, nobody reads them
        world.now_s += 2.0
        now(world, rows(5, first=300 + 5 * number))
    worker = world.worker()
    world.settle(worker)
    worker.close()
    assert not told(world)


def test_a_backlog_of_a_million_rows_raises_no_alert() -> None:
    """Stationary rows keyed by a feature over six partitions, written while the worker is away: a tenth of the
    million that a long outage would bring."""
    world = make(after_s=None, partitions=6)
    worker = world.worker()
    now(world, rows(1_000))
    world.settle(worker)
    worker.close()
    places = {"Rome": 0, "Paris": 2, "Oslo": 5}
    for start in range(0, 100_000, 10_000):
        batch = rows(10_000, first=1_000 + start, seed=3 + start)
        for city, partition in places.items():
            world.write([row for row in batch if row.features["city"] == city], partition=partition)
    worker = world.worker()
    world.settle(worker, most=2_000)
    assert worker.detect is not None
    assert worker.detect.counts.rows == 100_000
    worker.close()
    assert not world.alerts()


def test_a_stream_that_has_ended_is_resolved_and_forgotten() -> None:
    world = make(after_s=None, ttl_s=200.0, partitions=1)
    worker = world.worker()
    now(world, rows(4_000, drift_at=2_000))
    world.settle(worker)
    assert worker.detect is not None
    assert worker.detect.levels().streams == 1
    now(world, rows(200, model="other"))
    world.settle(worker)
    for number in range(30):
        wait(world, worker, 10.0)
        now(world, rows(5, model="other", first=200 + 5 * number))
    world.settle(worker)
    assert worker.detect.levels().streams == 1, "the other one"
    ended = [alert for alert in world.alerts() if alert["reason"] == "ended"]
    assert {alert["column"] for alert in ended if alert["scope"] == "column"} == {"x", "city", "prediction"}
    assert {alert["state"] for alert in ended} == {"resolved"}
    world.broker.compact(world.base.topics.state)
    kept = [r.key for r in world.broker.records(world.base.topics.state) if r.value is not None]
    assert not [key for key in kept if key and key.startswith(b'["s","m"')]
    worker.close()
    again = world.worker()
    now(world, rows(500, first=9_000))
    world.settle(again)
    assert again.detect is not None
    assert again.detect.counts.rows >= 500, "its rows are watched as a new stream's"
    again.close()
    assert len({alert["id"] for alert in world.alerts()}) == len(world.alerts())


def test_dates_of_the_world_are_what_these_tests_take_them_for() -> None:
    assert START_MS // PERIOD_MS == (START_MS + 2_000_000) // PERIOD_MS
