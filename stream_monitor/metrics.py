"""Every metric's name, once, and how the worker's counts become them. See `docs/metrics.md`.

The stages count; once a second the worker has `figures` taken of them, whole, in its own thread. A scrape, in another
thread, sees the last figures and never touches what the worker works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import stream_monitor

if TYPE_CHECKING:
    from stream_monitor.detect_stage import DetectStage
    from stream_monitor.encode_stage import EncodeStage
    from stream_monitor.model import Report

PREFIX: Final = "stream_monitor_"
COMMIT_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One name, with the conventions of Prometheus: base units, `_total` for what only grows."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "gauge", text, labels)


INFO: Final = _gauge("info", "Always 1; the labels name the release and the instance.", "version", "instance")
READY: Final = _gauge("ready", "1 while /readyz says so.")
RECORDS: Final = _counter("input_records_total", "Input records that were read and committed.")
EVENTS: Final = _counter("events_total", "Events by stage: encoded, or watched by the detectors.", "stage")
REJECTS: Final = _counter("rejects_total", "Records, or events of one, that could not be used.", "reason")
STALE: Final = _counter("stale_events_total", "Events coded under a reference no longer in force: not watched.")
DROPPED: Final = _counter(
    "dropped_events_total", "Events of streams, and labels of models, beyond input.limits: not watched.", "reason"
)
BAD_BATCHES: Final = _counter("invalid_batches_total", "Damaged records of the codes topic, skipped.")
ALERTS: Final = _counter("alerts_total", "Alerts published.", "kind", "state")
OPEN: Final = _gauge("alerts_open", "Alerts open now.", "kind")
STREAMS: Final = _gauge("streams", "Streams held: (model, version, segment).")
LEARNING: Final = _gauge("streams_learning", "Of these, streams that are still learning their reference.")
COLUMNS: Final = _gauge("columns", "Columns watched over all streams held.")
PARTITIONS: Final = _gauge("partitions", "Partitions held, by stage.", "stage")
LAG: Final = _gauge("lag_records", "Records not yet read of the partitions held.", "stage", "topic", "partition")
CODES_LAG: Final = _gauge(
    "codes_lag_records", "Records of codes that detection has not read or not saved, as encoding sees it."
)
HELD_BACK: Final = _gauge(
    "encoding_held_back", "1 while encoding waits for detection (worker.max_codes_lag) or for other encoders."
)
WATERMARK_AGE: Final = _gauge(
    "watermark_age_seconds", "How far the time up to which detection has seen everything lies behind the clock."
)
LABEL_OUTCOMES: Final = _counter(
    "label_outcomes_total", "Predictions and labels by what became of them since their model was first seen.",
    "model", "outcome",
)  # fmt: skip
PREDICTIONS_WAITING: Final = _gauge("predictions_waiting", "Predictions and early labels held for joining.", "model")
LABEL_COVERAGE: Final = _gauge(
    "label_coverage_ratio",
    "Of predictions that found their label or were let go, the share that found it.",
    "model",
)
LABEL_DELAY: Final = _gauge(
    "label_delay_seconds", "Quantile of the time from a prediction to its label.", "model", "quantile"
)
COMMITS: Final = _counter("commits_total", "Transactions committed.", "stage")
ABORTS: Final = _counter("aborted_transactions_total", "Transactions rolled back and done again.", "stage")
COMMIT_SECONDS: Final = Metric(
    PREFIX + "commit_seconds", "histogram", "Duration of a transaction, from its begin to the commit.", ("stage",)
)
STATE_BYTES: Final = _counter("state_written_bytes_total", "Bytes of detector state written.")
RESTORING: Final = _gauge("restoring_partitions", "Partitions whose state is being read back.")
COLD: Final = _counter(
    "cold_detectors_total",
    "Detectors (of ADWIN, single windows too) that started cold: their state was of another version, or failed.",
)
LOST_STATES: Final = _counter("lost_states_total", "Streams that started cold: their saved state was unusable.")
GAPS: Final = _counter("gaps_total", "Stored positions that the log no longer held.", "stage")
LOST: Final = _counter("lost_records_total", "Records that retention deleted before they were read.", "stage")

ALL: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
_FAMILIES: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}

Sample = tuple[Metric, tuple[str, ...], float]
MOST_MODELS: Final = 200
"""Models whose labels are told, the first by name: a scrape is not to grow with the number of models for ever."""


def of_encode(stage: EncodeStage) -> Iterator[Sample]:
    """What the encode stage has to tell."""
    counts, labels = stage.counts, ("encode",)
    yield RECORDS, (), counts.records
    yield EVENTS, labels, counts.rows
    yield from ((REJECTS, (reason,), number) for reason, number in counts.rejects.items())
    yield COMMITS, labels, counts.commits
    yield ABORTS, labels, counts.aborted
    yield GAPS, labels, counts.gaps
    yield LOST, labels, counts.lost_records
    levels = stage.levels()
    yield PARTITIONS, labels, len(levels.lag)
    yield from ((LAG, ("encode", at.topic, str(at.partition)), lag) for at, lag in levels.lag.items())
    yield CODES_LAG, (), levels.codes_lag
    yield HELD_BACK, (), levels.held_back


def of_detect(stage: DetectStage, now_ms: int) -> Iterator[Sample]:
    """What the detect stage has to tell."""
    counts, labels = stage.counts, ("detect",)
    yield EVENTS, labels, counts.rows
    yield STALE, (), counts.stale_rows
    yield from ((DROPPED, (reason,), number) for reason, number in counts.dropped.items())
    yield BAD_BATCHES, (), counts.invalid_batches
    for name, number in counts.alerts.items():
        kind, _, state = name.rpartition(".")
        yield ALERTS, (kind, state), number
    yield COMMITS, labels, counts.commits
    yield ABORTS, labels, counts.aborted
    yield STATE_BYTES, (), counts.state_bytes
    yield COLD, (), counts.cold_detectors
    yield LOST_STATES, (), counts.lost_states
    yield GAPS, labels, counts.gaps
    yield LOST, labels, counts.lost_records
    levels = stage.levels()
    yield PARTITIONS, labels, len(levels.lag)
    yield from ((LAG, ("detect", at.topic, str(at.partition)), lag) for at, lag in levels.lag.items())
    yield STREAMS, (), levels.streams
    yield LEARNING, (), levels.learning
    yield COLUMNS, (), levels.columns
    yield from ((OPEN, (kind,), number) for kind, number in levels.open.items())
    yield RESTORING, (), levels.restoring
    if levels.watermark_ms is not None:
        yield WATERMARK_AGE, (), max(0.0, (now_ms - levels.watermark_ms) / 1000)
    for name, report in stage.outcomes(MOST_MODELS).items():
        yield from _of_labels(name, report)


def _of_labels(model: str, report: Report) -> Iterator[Sample]:
    """How well a model's predictions are covered by labels."""
    yield from ((LABEL_OUTCOMES, (model, outcome), number) for outcome, number in report.shown().items())
    yield PREDICTIONS_WAITING, (model,), report.waiting
    if report.coverage is not None:
        yield LABEL_COVERAGE, (model,), report.coverage
    yield from ((LABEL_DELAY, (model, f"0.{level[1:]}".rstrip("0")), delay) for level, delay in report.delay_s.items())


class Metrics(Collector):
    """The figures last told, and a registry of their own that offers them to a scrape."""

    def __init__(self, instance: str) -> None:
        self.registry = CollectorRegistry()
        self._constant: list[Sample] = [(INFO, (stream_monitor.__version__, instance), 1.0)]
        self._told: list[Sample] = []
        self.commit_seconds = Histogram(
            COMMIT_SECONDS.name, COMMIT_SECONDS.help, COMMIT_SECONDS.labels, registry=self.registry,
            buckets=COMMIT_BUCKETS_S,
        )  # fmt: skip
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def tell(self, samples: Iterable[Sample]) -> None:
        """Replace the figures, all at once."""
        self._told = [*self._constant, *samples]

    def observe_commit(self, stage: str, seconds: float) -> None:
        self.commit_seconds.labels(stage).observe(seconds)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Called by a scrape, from its thread."""
        grouped: dict[Metric, list[tuple[tuple[str, ...], float]]] = {metric: [] for metric in ALL}
        for metric, labels, value in self._told:
            grouped[metric].append((labels, value))
        for metric, samples in grouped.items():
            if samples:
                yield _family(metric, samples)

    def values(self) -> Mapping[tuple[str, tuple[str, ...]], float]:
        """The figures last told by name and labels."""
        return {(metric.name, labels): value for metric, labels, value in self._told}


def _family(
    metric: Metric, samples: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily | GaugeMetricFamily:
    family: CounterMetricFamily | GaugeMetricFamily = _FAMILIES[metric.kind](
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
