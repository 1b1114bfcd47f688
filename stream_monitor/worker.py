"""The worker: steps the stages in one process, detect first, and decides what an error means.

The loop is the whole of it: poll, merge, encode, commit; poll, detect, commit. Everything the stages know of the
outside world comes in here: the broker, the clock, the stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from stream_monitor import allocator, collector, metrics, scan
from stream_monitor.book import FIRST_EPOCH
from stream_monitor.broker.protocol import Broker
from stream_monitor.config import Settings
from stream_monitor.detect_stage import DetectStage
from stream_monitor.encode_stage import EncodeStage
from stream_monitor.errors import BrokerError, BrokerUnavailable, TopicMismatch
from stream_monitor.feed import ReferenceFeed
from stream_monitor.http import Pulse, serve
from stream_monitor.metrics import Metrics
from stream_monitor.observe import unobserved
from stream_monitor.privacy import veil_of
from stream_monitor.publish import publish
from stream_monitor.reference_checks import load
from stream_monitor.topics import inputs, mismatches, missing_inputs, refusals, rights, specs

log = structlog.get_logger()

StageName = Literal["encode", "detect"]
STAGES: Final[frozenset[StageName]] = frozenset({"encode", "detect"})
POLL_S: Final = 0.1
"""Longest wait of one poll when there is nothing to do."""
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 30.0
REPORT_S: Final = 30.0
TELL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Outside:
    """Where the worker shows how it goes; what looks at it lives in threads of its own."""

    pulse: Pulse
    metrics: Metrics


class Worker:
    """Both stages, or one of them, on one broker; `step` does one round of work.

    Raises TopicMismatch when a topic is missing or has the wrong number of partitions, BrokerUnavailable when nothing
    answers.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        stages: frozenset[StageName] = STAGES,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        outside: Outside | None = None,
    ) -> None:
        self._clock_s = clock_s
        self._clock_ms = clock_ms
        self._outside = outside
        self._told_s = -TELL_S
        _require_topics(settings, broker)
        self._reported_s = clock_s()
        self.detect: DetectStage | None = None
        self.encode: EncodeStage | None = None
        self.feed = ReferenceFeed(broker, settings.topics.references, clock_s, veil_of(settings))
        observe = outside.metrics.observe_commit if outside else unobserved
        try:
            self.feed.catch_up()
            seed_references(settings, broker, self.feed)
            if "detect" in stages:
                self.detect = DetectStage(settings, broker, self.feed, observe_commit=observe)
            if "encode" in stages:
                self.encode = EncodeStage(settings, broker, self.feed, clock_ms, observe_commit=observe)
        except BaseException:
            self.abandon()  # a client left open keeps its connections and threads
            raise

    def step(self, timeout_s: float = POLL_S) -> bool:
        """One round of each stage, waiting at most `timeout_s` in all; whether there was anything to do."""
        both = self.detect is not None and self.encode is not None
        share_s = timeout_s / 2 if both else timeout_s
        self.feed.poll()
        busy = False
        if self.detect is not None:
            busy = self.detect.step(share_s, self._clock_s())
        if self.encode is not None:
            busy = self.encode.step(0.0 if busy else share_s, self._clock_s()) or busy
        self._tell()
        self._report()
        return busy

    @property
    def idle(self) -> bool:
        """Whether everything read so far is committed."""
        return all(stage.idle for stage in (self.detect, self.encode) if stage is not None)

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop."""
        busy = False
        while not stop.is_set():
            busy = self.step(0.0 if busy else POLL_S)

    def close(self) -> None:
        """Commit what is done and leave: encode first, so that nothing new is written behind detection's back."""
        now_s = self._clock_s()
        try:
            if self.encode is not None:
                self.encode.close(now_s)
        finally:
            try:
                if self.detect is not None:
                    self.detect.close(now_s)
            finally:
                self.feed.close()

    def abandon(self) -> None:
        """Leave without committing anything: after an error, the truth is on the topics."""
        for part in (self.encode, self.detect):
            if part is not None:
                part.abandon()
        self.feed.close()

    def readiness(self) -> tuple[bool, str]:
        """Whether every stage takes part in the work, and why not."""
        for stage in (self.detect, self.encode):
            if stage is not None:
                ready, why = stage.readiness()
                if not ready:
                    return ready, why
        return True, "ready"

    def _tell(self) -> None:
        """Show the outside how it goes, once a second."""
        if self._outside is None:
            return
        now_s = self._clock_s()
        self._outside.pulse.beat()
        if now_s - self._told_s < TELL_S:
            return
        self._told_s = now_s
        ready, why = self.readiness()
        self._outside.pulse.tell(ready, why)
        samples: list[metrics.Sample] = [(metrics.READY, (), ready)]
        if self.encode is not None:
            samples += metrics.of_encode(self.encode)
        if self.detect is not None:
            samples += metrics.of_detect(self.detect, self._clock_ms())
        self._outside.metrics.tell(samples)

    def _report(self) -> None:
        now_s = self._clock_s()
        if now_s - self._reported_s < REPORT_S:
            return
        self._reported_s = now_s
        fields: dict[str, object] = {}
        if self.encode is not None:
            fields |= {"encoded": self.encode.counts.rows, "rejects": self.encode.counts.rejects.total()}
            fields |= {"labels_encoded": self.encode.counts.labels} if self.encode.counts.labels else {}
        if self.detect is not None:
            counts = self.detect.counts
            fields |= {"watched": counts.rows, "alerts": counts.alerts.total(), "stale": counts.stale_rows}
        log.info("progress", **fields)
        for model, report in (self.detect.outcomes() if self.detect is not None else {}).items():
            log.info("labels", model=model, held=report.waiting, coverage=report.coverage, delay_s=report.delay_s,
                     **report.shown())  # fmt: skip


def _require_topics(settings: Settings, broker: Broker) -> None:
    wanted = specs(settings)
    found = broker.topics([*(spec.name for spec in wanted), *inputs(settings).values()])
    problems = [*mismatches(wanted, found), *missing_inputs(settings, found)]
    if problems:
        raise TopicMismatch("\n".join(problems))
    if refused := refusals(rights(settings), found):
        raise BrokerError("\n".join(refused))


def seed_references(settings: Settings, broker: Broker, feed: ReferenceFeed) -> None:
    """Publish the references that the configuration names, where the topic has none for their stream."""
    missing = []
    for path in settings.references:
        reference = load(Path(path).read_bytes(), name=str(path))
        reference = feed.book.veil.reference(reference) if feed.book.veil else reference
        epoch = feed.book.newest_epoch(reference.stream)
        if epoch is None or epoch < FIRST_EPOCH:
            missing.append(reference)
            log.info("reference seeded", stream=str(reference.stream), file=Path(path).name)
    if missing:
        publish(broker, settings.topics.references, settings.transactional_id("seed"), missing, feed.book.veil)
        feed.catch_up()


def run(settings: Settings, *, stages: frozenset[StageName] = STAGES, stop: threading.Event) -> None:
    """The long-running consumer on Kafka: waits for the broker, works until told to stop, leaves cleanly.

    An error that says nothing about the outcome of a commit ends the process (see the exit codes in `errors`): the
    supervisor restarts it and it reads the truth back. An unreachable broker is retried for ever, with backoff.
    """
    allocator.settle()
    scan.start()
    outside = Outside(Pulse(), Metrics(settings.instance))
    server = serve(settings.http.host, settings.http.port, outside.pulse, outside.metrics.registry)
    try:
        _run_on(settings, stages, stop, outside)
    finally:
        if server is not None:
            server.close()
    log.info("stopped")


def _run_on(settings: Settings, stages: frozenset[StageName], stop: threading.Event, outside: Outside) -> None:
    """Run until told to stop, from connection to connection."""
    wait_s = RETRY_FIRST_S
    while not stop.is_set():
        started_s = time.monotonic()
        outside.pulse.beat()
        collector.release()  # here, where no traceback holds the last connection any more
        try:
            _run_once(settings, stages, stop, outside)
        except BrokerUnavailable as error:
            outside.pulse.tell(False, "no broker answers")
            outside.metrics.tell([(metrics.READY, (), 0.0)])
            if time.monotonic() - started_s > RETRY_MOST_S:  # it had worked
                wait_s = RETRY_FIRST_S
            if stop.is_set():
                break
            log.warning("broker unreachable, trying again", wait_s=wait_s, why=str(error))
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, RETRY_MOST_S)


def _run_once(settings: Settings, stages: frozenset[StageName], stop: threading.Event, outside: Outside) -> None:
    """Connect, work until told to stop, leave cleanly; an error leaves nothing open."""
    from stream_monitor.broker.kafka import KafkaBroker

    log.info("connecting", servers=",".join(settings.kafka.bootstrap_servers))
    broker = KafkaBroker(settings.kafka.to_settings())
    try:
        worker = Worker(settings, broker, stages, outside=outside)
        collector.settle()
        log.info("running", instance=settings.instance, group=settings.group, stages=sorted(stages))
        try:
            worker.run(stop)
        except BrokerUnavailable:
            worker.abandon()
            raise
        worker.close()
    finally:
        broker.close()
