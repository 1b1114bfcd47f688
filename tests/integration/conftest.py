"""What the tests of the main job share: topics of their own, foreign clients, worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from confluent_kafka import Consumer as ForeignConsumer
from confluent_kafka import Producer as ForeignProducer
from confluent_kafka import TopicPartition as ForeignPartition

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.kafka import KafkaBroker
from stream_monitor.broker.protocol import TopicPartition, TopicSpec
from stream_monitor.config import Settings, load
from stream_monitor.demo import car_loan_production, car_loan_reference, event_of, label_of
from stream_monitor.errors import BrokerUnavailable
from stream_monitor.events import Row
from stream_monitor.reference import Reference

PATIENCE_S = 120.0
POLL_S = 0.2


def await_(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds; fail by name if it does not in time."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {patience_s:g} s"
        time.sleep(POLL_S)


@pytest.fixture(scope="session")
def reference() -> Reference:
    return car_loan_reference()


@pytest.fixture(scope="session")
def production() -> list[Row]:
    return [row for rows in car_loan_production() for row in rows]


class Deployment:
    """One group on the test broker: its configuration file, its topics, and what runs. `labels`: partitions of their
    topic; 0: there is none."""

    def __init__(
        self, node: KafkaNode, directory: Path, reference: Reference | None, partitions: int, labels: int = 0
    ) -> None:
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self.config = directory / "monitor.yaml"
        self.address = node.address
        document: dict[str, object] = {
            "kafka": {"bootstrap_servers": [node.address], "fetch_min_bytes": 1, "session_timeout_ms": 6000,
                      "heartbeat_interval_ms": 1000},
            "group": self.name,
            "topics": {"predictions": f"{self.name}.predictions", "alerts": f"{self.name}.alerts", "partitions": 4,
                       "labels": f"{self.name}.labels" if labels else None},
        }  # fmt: skip
        if reference is not None:
            (directory / "car-loan.json").write_bytes(reference.to_json())
            document["references"] = ["car-loan.json"]
        self.config.write_text(yaml.safe_dump(document))
        self.settings: Settings = load(self.config)
        self._broker = KafkaBroker(self.settings.kafka.to_settings())
        self._workers: list[subprocess.Popen[bytes]] = []
        self._directory = directory
        if labels:  # first, so that they are not given the partitions of the predictions
            self._broker.create_topics([TopicSpec(f"{self.name}.labels", labels)])
        self.command("topics", "create", "--with-predictions", str(partitions))

    def command(self, *arguments: str) -> str:
        """Run a `stream-monitor` command with this configuration; its standard output."""
        command = [sys.executable, "-m", "stream_monitor", *arguments, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(self, instance: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "stream_monitor", "run", "--config", str(self.config), "--instance", instance,
        ]  # fmt: skip
        with (self._directory / f"{instance}.log").open("ab") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        self._workers.append(worker)
        return worker

    def log_of(self, instance: str) -> str:
        return (self._directory / f"{instance}.log").read_text()

    def stop_workers(self) -> list[int]:
        """SIGTERM to all; their exit codes, each within ten seconds."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(timeout=10) for worker in self._workers]
        self._workers.clear()
        return codes

    def produce(self, rows: list[Row], *, events_per_s: float | None = None) -> None:
        """Write events with another client, keyed by id; all at once, or paced."""
        producer = ForeignProducer({"bootstrap.servers": self.address, "linger.ms": 5})
        started_s = time.monotonic()
        for number, row in enumerate(rows):
            if events_per_s and number % 100 == 0:
                time.sleep(max(0.0, started_s + number / events_per_s - time.monotonic()))
            while True:
                try:
                    producer.produce(self.settings.topics.predictions, key=row.id, value=event_of(row))
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(PATIENCE_S) == 0

    def produce_labels(self, rows: list[Row], labels: dict[str, int], time_ms: int) -> None:
        """Write the labels of rows with another client, on whatever partition."""
        assert self.settings.topics.labels is not None
        producer = ForeignProducer({"bootstrap.servers": self.address, "linger.ms": 5})
        for row in rows:
            producer.produce(self.settings.topics.labels, value=label_of(row, labels[row.id or ""], time_ms))
            producer.poll(0)
        assert producer.flush(PATIENCE_S) == 0

    def kill_worker(self) -> None:
        """The one that was started last, by SIGKILL."""
        worker = self._workers.pop()
        worker.kill()
        worker.wait()

    def await_caught_up(self) -> None:
        """Until every event and label is encoded, and every record of codes that this made is detected."""
        topics = self.settings.topics
        inputs = [("encode", topic) for topic in (topics.predictions, topics.labels) if topic is not None]
        for group, topic in (*inputs, ("detect", topics.codes)):
            ends = self.ends(topic)
            await_(lambda g=group, e=ends: self.reached(g, e), f"the {group} group catches up")  # type: ignore[misc]

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        reader = self._broker.reader(
            [TopicPartition(topic, n) for n in range(self._broker.topics([topic])[topic].partitions)]
        )
        ends = reader.end_offsets()
        reader.close()
        return ends

    def reached(self, group: str, ends: dict[TopicPartition, int]) -> bool:
        """Whether a group has committed up to offsets; the last one of a partition may be a transaction's marker."""
        try:
            committed = self._broker.group_offsets(f"{self.name}-{group}", ends)
        except BrokerUnavailable:  # a broker that has just started has no coordinator for a moment
            return False
        return all((committed[partition] or 0) >= end - 1 for partition, end in ends.items())

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts that a read-committed subscriber sees, in order, read with another client."""
        topic = self.settings.topics.alerts
        consumer = ForeignConsumer(
            {"bootstrap.servers": self.address, "group.id": f"{self.name}-test", "isolation.level": "read_committed",
             "auto.offset.reset": "earliest", "enable.auto.commit": False, "enable.partition.eof": True}
        )  # fmt: skip
        consumer.assign([ForeignPartition(topic, 0, 0)])
        found = []
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                break  # the end of the partition
            found.append(orjson.loads(message.value()))
        consumer.close()
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._broker.close()


Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(kafka: KafkaNode, tmp_path: Path) -> Iterator[Deploy]:
    made: list[Deployment] = []

    def make(reference: Reference | None = None, partitions: int = 6, labels: int = 0) -> Deployment:
        made.append(Deployment(kafka, tmp_path, reference, partitions, labels))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()
