"""Back-tests: files through the same core as the worker's, without a broker.

A file counts as one input partition, a row's number in it as its offset: for the same events in the same order the
alerts, ids included, are those of a worker on a topic with one partition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from stream_monitor.alerts import Alert, AlertKind, State
from stream_monitor.batch import Batch, RawBatch
from stream_monitor.book import FIRST_EPOCH, LEARNED_EPOCH, ReferenceBook, key_of
from stream_monitor.coding import code
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.encoder import binner_of, categorical, route
from stream_monitor.events import Reject, Row, Shape
from stream_monitor.incidents import Incidents
from stream_monitor.inject import Injection, Injector, check
from stream_monitor.model import Model
from stream_monitor.ordering import OutcomeRun
from stream_monitor.privacy import veil_of
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.scoring import Scoring
from stream_monitor.stream import Stream
from stream_monitor.streams import StreamFactory
from stream_monitor.tables import BadLine, TableColumns, read

OnAlert = Callable[[Alert], None]


@dataclass(slots=True)
class ColumnSummary:
    """What happened to one column: alerts by state, the first firing, and the last word."""

    fired: int = 0
    first: Alert | None = None
    last: Alert | None = None


@dataclass(slots=True)
class StreamSummary:
    """One stream: rows watched, rows its reference was learned from, and its columns. `learning`: of one that still
    learns, rows so far, and how many it takes."""

    rows: int = 0
    learning: tuple[int, int] | None = None
    learned_from: int = 0
    reference: Reference | None = None
    failed: str = ""
    columns: dict[str, ColumnSummary] = field(default_factory=dict)


@dataclass(slots=True)
class Injected:
    """What became of one injection in one stream.

    `rows_before`: rows of the stream before the first that was hit. `fired`: the first alert of the column from there
    on, `delay` rows after it (0: at that very row). `open_since`: the alert that was open already, so that no other
    could fire.
    """

    injection: Injection
    stream: StreamKey
    rows_before: int
    fired: Alert | None = None
    delay: int = 0
    open_since: Alert | None = None


@dataclass(slots=True)
class Summary:
    """What a replay found. `injected`: by injection and stream; an injection that hit no row has none."""

    rows: int = 0
    alerts: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    streams: dict[StreamKey, StreamSummary] = field(default_factory=dict)
    injected: list[Injected] = field(default_factory=list)


class Replay:
    """Feeds rows to the core, in the order given; alerts go to `on_alert` as they arise.

    Injections change the rows of streams that have a reference, before they are encoded.
    """

    def __init__(
        self,
        settings: Settings,
        references: Iterable[Reference],
        on_alert: OnAlert,
        injections: Sequence[Injection] = (),
    ) -> None:
        self.summary = Summary()
        self._injector = Injector(injections)
        self._settings = settings
        self._on_alert = on_alert
        self._factory = StreamFactory(settings)
        self._veil = veil_of(settings)
        self._book = ReferenceBook(self._veil)
        self._streams: dict[StreamKey, Stream] = {}
        self._models: dict[str, Model] = {}
        self._incidents: dict[str, Incidents] = {}
        self._binners: dict[str, Binner] = {}
        for reference in references:
            epoch = self._book.newest_epoch(reference.stream)
            self._publish(reference, FIRST_EPOCH if epoch is None else epoch + 1)

    def stream(self, key: StreamKey) -> Stream:
        """A stream that had rows; raises KeyError."""
        return self._streams[key]

    def scoring(self, key: StreamKey) -> Scoring | None:
        """How good a stream's predictions are; None where it had no labels."""
        model = self._models.get(key.model)
        number = model.streams.get(key) if model is not None else None
        return model.scorings.get(number) if model is not None and number is not None else None

    def feed(self, rows: Iterable[Row | Reject]) -> None:
        """A run of rows; runs of one stream's rows are coded together."""
        runs: dict[StreamKey, list[Row]] = {}
        for given in rows:
            row = given
            if self._veil is not None and isinstance(given, Row):
                row = self._veil.row(given, categorical(self._settings, given.model))
            if isinstance(row, Reject):
                self.summary.rejects[row.reason] += 1
            else:
                runs.setdefault(route(row, self._settings), []).append(row)
        for stream, run in runs.items():
            self.summary.rows += len(run)
            self._feed_stream(stream, run)

    def _feed_stream(self, key: StreamKey, rows: list[Row]) -> None:
        if key not in self._streams:
            self._streams[key] = self._factory.stream(key)
            self.summary.streams[key] = StreamSummary()
        stream, told = self._streams[key], self.summary.streams[key]
        if self._injector.injections:
            rows = self._inject(key, rows, told)
        places = {(row.offset, row.index): told.rows + i for i, row in enumerate(rows)}
        batch = self._batch(key, rows)
        outcome = stream.feed(batch, self._book)
        told.rows += outcome.fed
        told.learning = (len(stream.warmup), stream.warmup_rows) if stream.monitor is None else None
        if outcome.failed:
            told.failed = outcome.failed
        if outcome.learned is not None:
            told.learned_from = outcome.learned.source.rows
            self._publish(outcome.learned, LEARNED_EPOCH)
        if stream.monitor is not None:
            told.reference = stream.monitor.entry.reference
        alerts = [*outcome.alerts, *self._judged(batch)]
        for alert in self._with_incidents(key, stream, alerts) if alerts else ():
            if alert.kind is AlertKind.INCIDENT:
                self._tell(self.summary.streams.get(StreamKey(alert.model, alert.version), told), alert)
                continue
            self._tell(told if alert.stream == key else self._segment(alert.stream, stream), alert)
            if alert.stream != key:
                continue
            self._find(key, alert, places.get((alert.detected.offset, alert.detected.index), told.rows))

    def _judged(self, batch: Batch) -> list[Alert]:
        """What the labels within the events say about the predictions."""
        run = OutcomeRun.of(batch, with_ids=False)
        if run is None:
            return []
        model = self._models.setdefault(run.stream.model, self._factory.model(run.stream.model))
        return model.feed([run], [], self._book)

    def _with_incidents(self, key: StreamKey, stream: Stream, alerts: list[Alert]) -> list[Alert]:
        if key.model not in self._incidents:
            self._incidents[key.model] = self._factory.incidents(key.model)
        inputs = stream.monitor.inputs if stream.monitor is not None else 0
        alerts = self._incidents[key.model].among(alerts, lambda _: inputs)
        model = self._models.get(key.model)
        return alerts if model is None else list(map(model.counted, alerts))

    def _segment(self, key: StreamKey, whole: Stream) -> StreamSummary:
        """What is told of a segment; one that had no alert is not told of."""
        told = self.summary.streams.setdefault(key, StreamSummary())
        if whole.segments is not None and key.segment in whole.segments.monitors:
            monitor = whole.segments.monitors[key.segment]
            told.rows, told.reference = monitor.rows, monitor.entry.reference
        return told

    def _inject(self, key: StreamKey, rows: list[Row], told: StreamSummary) -> list[Row]:
        entry = self._book.find(key)
        if entry is None:
            return rows
        known = set(self._injector.begun)
        rows = self._injector.inject(rows, key, entry.reference)
        for number, stream in sorted(self._injector.begun.keys() - known):
            injection, first = self._injector.injections[number], self._injector.begun[number, stream]
            before = next(i for i, row in enumerate(rows) if (row.offset, row.index) == (first.offset, first.index))
            seen = told.columns.get(injection.column, ColumnSummary()).last
            still = seen if seen is not None and seen.state is not State.RESOLVED else None
            self.summary.injected.append(Injected(injection, stream, told.rows + before, open_since=still))
        return rows

    def _find(self, key: StreamKey, alert: Alert, row: int) -> None:
        """Whether an alert at a row of the stream answers an injection."""
        for injected in self.summary.injected:
            if injected.stream != key or injected.injection.column != alert.column or injected.fired is not None:
                continue
            if alert.state is State.FIRING and row >= injected.rows_before:
                injected.fired, injected.delay = alert, row - injected.rows_before
            elif row < injected.rows_before:
                injected.open_since = None if alert.state is State.RESOLVED else alert

    def _batch(self, key: StreamKey, rows: list[Row]) -> Batch:
        entry = self._book.find(key)
        if entry is None:
            return RawBatch(key, tuple(rows))
        if entry.digest not in self._binners:
            self._binners[entry.digest] = binner_of(entry, self._veil)
        return code(rows, key, entry, self._binners[entry.digest], self._settings.privacy.raw)

    def _publish(self, reference: Reference, epoch: int) -> None:
        self._book.apply(key_of(reference.stream, epoch), reference.to_json())

    def _tell(self, told: StreamSummary, alert: Alert) -> None:
        self.summary.alerts += 1
        column = told.columns.setdefault(alert.column or alert.kind, ColumnSummary())
        column.last = alert
        if alert.state is State.FIRING:
            column.fired += 1
            column.first = column.first or alert
        self._on_alert(alert)


def labelled(row: Row, labels: Mapping[str, Any]) -> Row:
    """The row with the label of its id, where it has none of its own."""
    label = labels.get(row.id) if row.id is not None and row.label is None else None
    return row if label is None else msgspec.structs.replace(row, label=label)


def replay(
    paths: Sequence[Path],
    *,
    columns: TableColumns | Shape,
    settings: Settings,
    references: Iterable[Reference] = (),
    on_alert: OnAlert,
    on_bad: Callable[[BadLine], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
    injections: Sequence[Injection] = (),
    labels: Mapping[str, Any] | None = None,
) -> Summary:
    """Play files, in the order given, through the core; see `tables.read` for `columns` and `advance`.

    `labels`: id → label, as if it had come with the event.

    A line that is no event is counted as a reject and told to `on_bad`. Raises DataError for an unreadable file, and
    ConfigError for injections that the references cannot take.
    """
    references = list(references)
    check(injections, references)
    replayed = Replay(settings, references, on_alert, injections)

    def count(bad: BadLine) -> None:
        replayed.summary.rejects["bad_line"] += 1
        on_bad(bad)

    for rows in read(paths, columns, on_bad=count, advance=advance):
        replayed.feed(rows if labels is None else [labelled(row, labels) for row in rows])
    return replayed.summary
