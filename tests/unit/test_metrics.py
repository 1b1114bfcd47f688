"""The figures, their names and their page, and what is served."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_monitor import metrics
from stream_monitor.broker.protocol import Message
from stream_monitor.events import REASONS
from stream_monitor.http import Pulse, Server, serve
from stream_monitor.metrics import Metrics
from stream_monitor.worker import Outside, Worker
from tests.unit.test_model import label_of, labelled, write_labels
from tests.unit.world import MODEL, World, message, reference, rows

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_lists_every_metric_as_it_is() -> None:
    listed = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `stream_monitor_")
    }
    assert listed == {
        (f"`{m.name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.help) for m in metrics.ALL
    }


def test_the_page_explains_every_reason_of_a_reject() -> None:
    cells = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    explained = {name for cell in cells if "stream_monitor_" not in cell for name in re.findall("`([a-z_]+)`", cell)}
    assert explained == set(REASONS)


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    for metric in metrics.ALL:
        assert re.fullmatch(r"stream_monitor_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")


@pytest.fixture
def seen() -> Outside:
    return Outside(Pulse(), Metrics("a"))


def scraped(outside: Outside) -> dict[tuple[str, tuple[str, ...]], float]:
    """A scrape over HTTP, parsed by Prometheus' own parser."""
    server = Server("127.0.0.1", 0, outside.pulse, outside.metrics.registry)
    try:
        status, text = fetch(server.port, "/metrics")
    finally:
        server.close()
    assert status == 200
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def watched(world: World, outside: Outside) -> Worker:
    return Worker(world.base, world.broker, clock_s=lambda: world.now_s, clock_ms=world.clock_ms, outside=outside)


def test_a_worker_tells_how_it_goes(seen: Outside) -> None:
    world = World(partitions=2, references=[reference()])
    world.write(rows(6_000, drift_at=3_000))
    world.broker.append([Message(world.base.topics.predictions, None, b"{", partition=0)])
    worker = watched(world, seen)
    world.settle(worker)
    world.turn(worker, rounds=5)  # the figures are taken once a second
    found = scraped(seen)
    worker.close()
    assert found["stream_monitor_events_total", ("encode",)] == 6_000
    assert found["stream_monitor_events_total", ("detect",)] == 6_000
    assert found["stream_monitor_rejects_total", ("not_json",)] == 1
    assert found["stream_monitor_alerts_total", ("data_drift", "firing")] == 2
    assert found["stream_monitor_alerts_open", ("data_drift",)] == 2
    assert (found["stream_monitor_streams", ()], found["stream_monitor_columns", ()]) == (1, 4)
    assert found["stream_monitor_ready", ()] == 1
    topic = world.base.topics.predictions
    assert {found["stream_monitor_lag_records", (n, "encode", topic)] for n in "01"} == {0}
    assert (
        found["stream_monitor_commit_seconds_count", ("encode",)] >= found["stream_monitor_commits_total", ("encode",)]
    )
    assert found["stream_monitor_commits_total", ("detect",)] > 0
    assert found["stream_monitor_watermark_age_seconds", ()] >= 0
    assert found["process_resident_memory_bytes", ()] > 0


def test_labels_are_told_by_model(seen: Outside) -> None:
    world = labelled(max_waiting=1_000)
    worker = watched(world, seen)
    batch = rows(1_500)
    world.write(batch, partition=0)
    world.settle(worker)
    write_labels(world, [(row.id, label_of(row)) for row in batch[500:]])
    world.settle(worker)
    world.turn(worker, rounds=5)
    found = scraped(seen)
    worker.close()
    name = "stream_monitor_label_outcomes_total"
    assert {outcome: found[name, (MODEL, outcome)] for outcome in ("predictions", "labels", "joined", "dropped")} == {
        "predictions": 1_500, "labels": 1_000, "joined": 1_000, "dropped": 500,
    }  # fmt: skip
    assert found["stream_monitor_label_coverage_ratio", (MODEL,)] == pytest.approx(1_000 / 1_500)
    assert found["stream_monitor_predictions_waiting", (MODEL,)] == 1_000
    assert {f"{quantile}" for name, labels in found if "delay" in name for quantile in labels[1:]} == {
        "0.5", "0.9", "0.99"
    }  # fmt: skip


def test_lag_is_told_while_there_is_any(seen: Outside) -> None:
    world = World(partitions=1, references=[reference()])
    worker = watched(world, seen)
    world.settle(worker)
    assert worker.encode is not None
    worker.encode._consumer.pause(worker.encode._consumer.assignment())
    world.broker.append([message(world.base.topics.predictions, row, 0) for row in rows(50)])
    world.turn(worker, rounds=8)
    ends = {p: world.broker.log(p).end_offset for p in world.broker.partitions([world.base.topics.predictions])}
    worker.close()
    assert set(ends.values()) == {50}
    values = seen.metrics.values()
    assert values["stream_monitor_lag_records", ("encode", world.base.topics.predictions, "0")] in {0, 50}, (
        "a paused partition tells its last end"
    )


class TestServer:
    @pytest.fixture
    def pulse(self) -> Pulse:
        return Pulse(clock_s=lambda: self.now_s)

    @pytest.fixture
    def server(self, pulse: Pulse) -> Iterator[Server]:
        server = Server("127.0.0.1", 0, pulse, Metrics("a").registry)
        yield server
        server.close()

    now_s = 0.0

    def test_alive_while_the_loop_turns_ready_when_it_says_so(self, server: Server, pulse: Pulse) -> None:
        assert fetch(server.port, "/healthz") == (200, "ok: last turn 0 s ago\n")
        assert fetch(server.port, "/readyz") == (503, "not ok: starting\n")
        pulse.tell(True, "ready")
        assert fetch(server.port, "/readyz") == (200, "ok: ready\n")
        self.now_s = 121.0
        assert fetch(server.port, "/healthz") == (503, "not ok: last turn 121 s ago\n")
        assert fetch(server.port, "/readyz")[0] == 503, "stuck is not ready"
        pulse.beat()
        assert fetch(server.port, "/readyz") == (200, "ok: ready\n")

    def test_what_is_not_there_is_said(self, server: Server) -> None:
        assert fetch(server.port, "/secrets")[0] == 404
        assert "/metrics" in fetch(server.port, "/")[1]

    def test_a_port_that_is_taken_does_not_stop_the_work(
        self, server: Server, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            assert serve("127.0.0.1", taken.getsockname()[1], Pulse(), Metrics("a").registry) is None

    def test_none_is_served_unless_asked_for(self) -> None:
        assert serve("127.0.0.1", None, Pulse(), Metrics("a").registry) is None
