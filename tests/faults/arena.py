"""A deployment under fault: topics of its own, load with poison in it, worker processes, and the final reckoning."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import orjson
import yaml
from confluent_kafka import Producer as ForeignProducer
from confluent_kafka.admin import AdminClient

from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import Record, TopicPartition
from stream_monitor.config import Settings, load
from stream_monitor.errors import BrokerUnavailable
from stream_monitor.ordering import is_tick
from stream_monitor.publish import publish
from stream_monitor.topics import specs
from tests.faults.oracle import Committed, RowId, differences
from tests.faults.outside import Shown, look
from tests.faults.process import main
from tests.unit import world

PATIENCE_S: Final = 120.0
SESSION_S: Final = 4.0
MODELS: Final = ("m", "n", "w")
"""m and n have references, m's with segments; w warms up and learns one."""
SEGMENT_BY: Final = ("city",)
LATE_EVENTS: Final = 300
"""Events between one and its label, in the mean."""
HUGE: Final = b'{"model":"m","features":{"x":"' + b"x" * 990_000 + b'"}}'
POISON: Final = (
    b'{"model":', b"null", b"[]", b"\xff\xfe\x00", b"7", b'"text"', b'{"model":"m"}', b'{"model":"m","features":[1]}',
    b'{"model":5.5,"features":{}}', b'{"model":"m","features":{"x":1},"time":"never"}',
    b'{"model":"m","features":{"x":1},"time":"2999-01-01T00:00:00Z"}', b"[" * 100_000, b"",
    b'{"model":"m","features":' + b'{"a":' * 50 + b"1" + b"}" * 50 + b"}",
)  # fmt: skip
POISONED_LABELS: Final = (
    b'{"id":', b"7", b"", b'{"model":"m","label":1}', b'{"id":"1","model":"m","label":null}', b'{"id":"1","label":1}',
    b'{"id":"1","model":"m","label":1,"time":"never"}',
)  # fmt: skip
ODD: Final = (
    b'{"model":"m","features":{"x":NaN,"y":Infinity,"city":null}}',
    b'{"model":"m","features":{"x":"text","y":[1],"city":{"a":1}}}',
    b'{"model":"m","features":{}}',
)
"""Valid rows that look like poison: NaN, wrong types and nothing at all are values, each with its own bin."""


class Arena:
    """One group on a test cluster. Workers are forked, so that starting one costs no imports.

    `addresses` are where the test itself goes, in the clear and undisturbed; `workers_at`, if given, is where the
    workers are sent instead: to a proxy, or to a listener that asks who they are. `predictions`: partitions of
    that topic; `label_partitions`: 0, there is no such topic.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        directory: Path,
        seed: int,
        *,
        workers_at: Sequence[str] | None = None,
        predictions: int = 3,
        label_partitions: int = 2,
        **overrides: Any,
    ) -> None:
        self.name = f"f{uuid.uuid4().hex[:8]}"
        self.random = random.Random(seed)
        self._has_labels = label_partitions > 0
        self._labels_due: list[tuple[int, str, str, int]] = []
        """A heap: after how many events, model, id, label."""
        self.address = ",".join(addresses)
        self.workers_at = list(workers_at or addresses)
        self.directory = directory
        self.config = self.write_config("monitor.yaml", **overrides)
        self.settings: Settings = load(self.config)
        self.broker = KafkaBroker(KafkaSettings(tuple(addresses), metadata_max_age_ms=1_000, fetch_min_bytes=1))
        self.admin = AdminClient({"bootstrap.servers": self.address})
        self.workers: dict[str, BaseProcess] = {}
        self.ended: Counter[int] = Counter()
        self.restart_on: frozenset[int] = frozenset()
        """Exit codes on which a supervisor starts a worker again; any other end fails the test."""
        self._batches: tuple[dict[TopicPartition, int], dict[TopicPartition, int]] | None = None
        made = {spec.name: spec for spec in specs(self.settings, predictions=predictions)}
        if self.settings.topics.labels is not None:  # the user's topics need not have the same partitions
            made[self.settings.topics.labels] = replace(made[self.settings.topics.labels], partitions=label_partitions)
        self.broker.create_topics(list(made.values()))
        given = [world.reference("m", SEGMENT_BY), world.reference("n")]
        publish(self.broker, self.settings.topics.references, f"{self.name}.test", given)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faults.process"])
        self._written = 0
        self._loading = threading.Event()
        self._loader: threading.Thread | None = None

    def write_config(self, name: str, **overrides: Any) -> Path:
        document = {
            "kafka": {"bootstrap_servers": self.workers_at, "fetch_min_bytes": 1, "metadata_max_age_ms": 1_000,
                      "session_timeout_ms": int(SESSION_S * 1000), "heartbeat_interval_ms": 500,
                      "max_poll_interval_ms": 10_000, "max_poll_records": 500, "request_timeout_ms": 4_000,
                      "delivery_timeout_ms": 4_500, "transaction_timeout_ms": 5_000},
            "group": self.name,
            "http": {"host": "127.0.0.1", "port": 0},
            "topics": {"predictions": f"{self.name}.predictions", "alerts": f"{self.name}.alerts", "partitions": 4,
                       "labels": f"{self.name}.labels" if self._has_labels else None},
            "models": [{"match": "m", "segment_by": list(SEGMENT_BY)}],
            "worker": {"commit_interval_s": 0.2, "state_bytes_per_s": 100_000, "state_interval_s": 0.5},
            "detection": {"budget_events": 100_000, "warmup_events": 500},
        }  # fmt: skip
        for key, value in overrides.items():
            document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
        path = self.directory / name
        path.write_text(yaml.safe_dump(document))
        return path

    # ---- load ----

    def produce(self, count: int) -> None:
        """Events of the models in turn, drifting for a while, 1 % of them poison; later the labels of most of them,
        some twice, some corrected, some poison; keys say what is in a record."""
        producer = ForeignProducer({"bootstrap.servers": self.address, "linger.ms": 5, "message.max.bytes": 2_000_000})
        for _ in range(count):
            value, valid, bad = self._record()
            self._written += 1
            self._put(producer, self.settings.topics.predictions, value, valid, bad)
            while self._labels_due and self._labels_due[0][0] <= self._written:
                self._put_label(producer, *heapq.heappop(self._labels_due)[1:])
        assert producer.flush(PATIENCE_S) == 0

    def _put(
        self, producer: ForeignProducer, topic: str, value: bytes | None, valid: list[int], bad: list[int]
    ) -> None:  # fmt: skip
        key = json.dumps([valid, bad, self._written])
        while True:
            try:
                producer.produce(topic, key=key, value=value)
                break
            except BufferError:
                producer.poll(0.1)

    def _put_label(self, producer: ForeignProducer, model: str, identity: str, label: int) -> None:
        topic, kind = self.settings.topics.labels, self.random.random()
        assert topic is not None
        if kind < 0.01:
            self._put(producer, topic, self.random.choice(POISONED_LABELS), [], [0])
        for value in [label, *([1 - label] if 0.01 <= kind < 0.03 else [label] if kind < 0.05 else [])]:
            self._put(producer, topic, orjson.dumps({"model": model, "id": identity, "label": value}), [0], [])

    def _record(self) -> tuple[bytes | None, list[int], list[int]]:
        """A record's value, and the indexes within it that are valid and bad."""
        draw = self.random
        kind = draw.random()
        if kind < 0.01:
            value = draw.choice((*POISON, None, HUGE if draw.random() < 0.1 else b"{}"))
            return (value, [0], []) if value is HUGE else (value, [], [0])
        if kind < 0.02:
            return draw.choice(ODD), [0], []
        if kind < 0.025:
            return self._event() + b"\n{not json}\n" + self._event(), [0, 2], [1]
        return self._event(), [0], []

    def _event(self) -> bytes:
        draw = self.random
        drift = 3.0 if self._written // 1_500 % 2 else 0.0
        features = {"x": draw.gauss(drift, 1), "y": draw.lognormvariate(0, 1), "city": draw.choice(("Rome", "Paris"))}
        model, score, identity = draw.choice(MODELS), round(draw.random(), 3), f"{self._written}-{draw.random():.6f}"
        if self._has_labels and draw.random() < 0.8:
            # While x drifts, the labels have nothing to do with the scores any more.
            label = int(draw.random() < (0.5 if drift else score))
            due = self._written + int(draw.expovariate(1 / LATE_EVENTS))
            heapq.heappush(self._labels_due, (due, model, identity, label))
        return orjson.dumps({"model": model, "id": identity, "features": features, "prediction": score})

    def load(self, events_per_s: int) -> None:
        """Produce in the background until `rest`."""

        def go() -> None:
            while not self._loading.wait(0.2):
                self.produce(events_per_s // 5)

        self._loader = threading.Thread(target=go, daemon=True)
        self._loader.start()

    def rest(self) -> None:
        if self._loader is not None:
            self._loading.set()
            self._loader.join(PATIENCE_S)

    # ---- workers ----

    def start(self, instance: str, fault: str = "", config: Path | None = None, stage: str = "both") -> BaseProcess:
        arguments = ["--instance", instance, "--stage", stage]
        process = self._context.Process(
            target=main, args=(self.directory / f"{instance}.log", config or self.config, arguments, fault)
        )
        process.start()
        self.workers[instance] = process
        return process

    def kill(self, instance: str) -> None:
        self.signal(instance, signal.SIGKILL)
        self.join(instance)

    def signal(self, instance: str, number: signal.Signals) -> None:
        pid = self.workers[instance].pid
        assert pid is not None
        os.kill(pid, number)

    def join(self, instance: str, patience_s: float = PATIENCE_S) -> int:
        """Wait for a worker to end; its exit code, negative for a signal."""
        process = self.workers.pop(instance)
        process.join(patience_s)
        assert process.exitcode is not None, f"{instance} does not end:\n{self.tail(instance)}"
        self.ended[process.exitcode] += 1
        return process.exitcode

    def stop_one(self, instance: str) -> None:
        """SIGTERM to one, which has to end cleanly (or to be on its way to an end that is supervised)."""
        self.signal(instance, signal.SIGTERM)
        code = self.join(instance, 60.0)
        assert code in {0, *self.restart_on}, f"{instance} ended with {code}:\n{self.tail(instance)}"

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes."""
        for instance in self.workers:
            self.signal(instance, signal.SIGTERM)
        return {instance: self.join(instance, 30.0) for instance in list(self.workers)}

    def tend(self) -> None:
        """Start those again that ended with a code of `restart_on`, as a supervisor does."""
        for instance, process in list(self.workers.items()):
            if not process.is_alive():
                code = self.join(instance)
                assert code in self.restart_on, f"{instance} ended with {code}:\n{self.tail(instance)}"
                self.start(instance)

    def shown(self, instance: str) -> Shown:
        """What a worker shows of itself."""
        return look(self.log_of(instance))

    def await_truth(self) -> None:
        """Until every worker is ready, and together they hold everything and show the lag there is: none."""
        topics = self.settings.topics
        inputs = sum(len(self.partitions(topic)) for topic in self.inputs)
        wanted = {"encode": inputs, "detect": len(self.partitions(topics.codes))}

        def truthful() -> bool:
            self.tend()
            shown = [self.shown(instance) for instance in self.workers]
            held = {s: sum(each.total("stream_monitor_partitions", stage=s) for each in shown) for s in wanted}
            lag = sum(each.total("stream_monitor_lag_records", stage="encode") for each in shown)
            return all(each.ready and each.alive for each in shown) and held == wanted and lag == 0

        def told() -> str:
            telling = ("stream_monitor_partitions", "stream_monitor_lag_records", "stream_monitor_encoding_held_back")
            lines = [f"wanted: {wanted}"]
            for name in self.workers:
                shown = self.shown(name)
                figures = [sample for sample in shown.samples if sample[0] in telling]
                lines.append(f"{name}: ready {shown.ready} ({shown.why.strip()}), alive {shown.alive}, {figures}")
            return "\n".join([*lines, self.tails()])

        await_(truthful, "the workers show that they are ready, hold everything and are not behind", on_failure=told)

    def work_for(self, seconds: float) -> None:
        """Let the workers work, and start those again that end."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.tend()
            time.sleep(0.1)

    def ends_listed(self) -> str:
        """How workers ended that were not told to, for a report."""
        codes = {code: count for code, count in sorted(self.ended.items()) if code}
        return "workers ended: " + (", ".join(f"{count} × code {code}" for code, count in codes.items()) or "none")

    def log_of(self, instance: str) -> str:
        path = self.directory / f"{instance}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, instance: str) -> str:
        return "\n".join(self.log_of(instance).splitlines()[-40:])

    def await_log(self, instance: str, text: str, times: int = 1) -> None:
        await_(lambda: self.log_of(instance).count(text) >= times, f"{instance} says {text!r}")

    # ---- the reckoning ----

    def await_caught_up(self) -> None:
        """Until every record is encoded, every batch is detected, and every worker is still there."""
        await_(self._caught_up, "the workers catch up", on_failure=self.tails)

    def tails(self) -> str:
        return "\n".join(f"---- {instance}\n{self.tail(instance)}" for instance in self.workers)

    def _caught_up(self) -> bool:
        self.tend()
        topics = self.settings.topics
        try:
            ends = self.input_ends()
            encoded = self.encoded()
            if any((encoded[at] or 0) < end for at, end in ends.items()):
                return False
            if self._batches is None or self._batches[0] != ends:
                batches = {TopicPartition(r.topic, r.partition): r.offset for r in self.read(topics.codes)
                           if not is_tick(r.value)}  # fmt: skip
                self._batches = ends, batches
            detected = self.committed("detect", topics.codes)
        except BrokerUnavailable:
            return False
        return all((detected[at] or 0) > offset for at, offset in self._batches[1].items())

    @property
    def inputs(self) -> list[str]:
        """The topics that are encoded."""
        topics = self.settings.topics
        return [topics.predictions, *([topics.labels] if topics.labels else [])]

    def input_ends(self) -> dict[TopicPartition, int]:
        return {at: end for topic in self.inputs for at, end in self.ends(topic).items()}

    def encoded(self) -> dict[TopicPartition, int | None]:
        """What the encode stage has committed of its inputs."""
        return {at: offset for topic in self.inputs for at, offset in self.committed("encode", topic).items()}

    def partitions(self, topic: str) -> list[TopicPartition]:
        found = self.admin.list_topics(topic, timeout=10).topics[topic]
        return [TopicPartition(topic, number) for number in found.partitions]

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        reader = self.broker.reader(self.partitions(topic))
        try:
            return reader.end_offsets()
        finally:
            reader.close()

    def committed(self, stage: str, topic: str) -> dict[TopicPartition, int | None]:
        return self.broker.group_offsets(f"{self.name}-{stage}", self.partitions(topic))

    def done_to(self, stage: str, topic: str) -> dict[TopicPartition, int]:
        """How far the detect stage is, but for rows that wait, as its notes say."""
        notes = self.broker.group_notes(f"{self.name}-{stage}", self.partitions(topic))
        return {at: int(text) if text.isdecimal() else 0 for at, text in notes.items()}

    def read(self, topic: str) -> list[Record]:
        """All committed records up to the present end, in offset order within their partitions."""
        reader = self.broker.reader(self.partitions(topic))
        try:
            ends = reader.end_offsets()
            records: list[Record] = []
            deadline_s = time.monotonic() + PATIENCE_S
            while any(reader.position(partition) < end for partition, end in ends.items()):
                assert time.monotonic() < deadline_s, f"{topic} cannot be read to its end"
                records += reader.poll(0.1)
        finally:
            reader.close()
        return [record for record in records if record.offset < ends[TopicPartition(topic, record.partition)]]

    def input(self) -> tuple[Counter[RowId], Counter[RowId]]:
        """The rows and labels that are to be coded, and those to be rejected."""
        valid: Counter[RowId] = Counter()
        bad: Counter[RowId] = Counter()
        for topic in self.inputs:
            for record in self.read(topic):
                good, poison, _ = json.loads(record.key or b"")
                at = record.partition if topic == self.settings.topics.predictions else -1 - record.partition
                valid.update((at, record.offset, index) for index in good)
                bad.update((at, record.offset, index) for index in poison)
        return valid, bad

    def reckon(self) -> Committed:
        """Stop in order and compare everything; what was committed, for further questions."""
        self.rest()
        self.await_caught_up()
        self.await_truth()
        # A worker that stops in the middle of a rebalance does not commit: let the group settle.
        time.sleep(1.0)
        assert set(self.stop().values()) <= {0}
        topics = self.settings.topics
        # A partition that nothing was written to may have no committed offset.
        encoded = {at: offset or 0 for at, offset in self.encoded().items()}
        assert encoded == self.input_ends(), "offsets are where the positions were"
        committed = Committed(
            self.read(topics.codes), self.read(topics.alerts), self.read(topics.state), self.read(topics.references),
            self.read(topics.rejects),
        )  # fmt: skip
        problems = differences(self.settings, committed, *self.input())
        assert not problems, "\n".join(problems)
        assert committed.alerts, "a run without alerts proves little"
        if self._has_labels and self._written > 5_000:
            kinds = {orjson.loads(record.value or b"")["kind"] for record in committed.alerts}
            assert kinds & {"concept_drift", "performance"}, "labels that raise nothing prove little"
        return committed

    def close(self) -> None:
        self._loading.set()
        for process in self.workers.values():
            process.kill()
            process.join()
        self.broker.close()


def await_(
    condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S, on_failure: Callable[[], str] = str
) -> None:
    """Wait until something holds; fail by name if it does not in time."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {patience_s:g} s\n{on_failure()}"
        time.sleep(0.2)
