"""One model over all its versions and segments: predictions joined with their labels. Pure: no I/O, no clock.

It is fed at ticks: first the rows that the tick let go, of all streams, then the labels that it let go, both in the
order of (merge time, input partition, offset, index). So everything is a function of the codes topic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import Alert, AlertKind
from stream_monitor.batch import Origins
from stream_monitor.book import ReferenceBook
from stream_monitor.events import parse_time
from stream_monitor.labels import LabelBatch
from stream_monitor.ordering import LONG_AGO, OutcomeRun
from stream_monitor.outcome_levels import Packing, packing_of
from stream_monitor.outcomes import NO_NAME, Values
from stream_monitor.reference import StreamKey
from stream_monitor.scoring import Scoring
from stream_monitor.waiting import EARLY, ENTRY, LABEL, NEVER_MS, Counts, Records, Waiting

NewScoring = Callable[[StreamKey], Scoring]

MAX_CLASSES: Final = 1_000
"""Of one model; a category beyond them has no value."""
MAX_STREAMS: Final = 32_000
MAX_PACKINGS: Final = 64
ORIGIN: Final = ("time_ms", "record_ms", "offset", "partition", "index")
DELAY_BUCKETS_MS: Final = tuple(round(1_000 * 2 ** (i / 2)) for i in range(64))
"""Upper ends of the buckets that delays are counted in: a second to 73 years, each √2 times the one before."""


@dataclass(slots=True)
class Report:
    """How well labels cover a model's predictions, and how late they are; for status, metrics and people.

    `coverage`: of the predictions that left the waiting room or were joined, the share that had a label; None before
    there is any. `delay_s`: quantile of the delay (upper end of a bucket that is √2 wide).
    """

    counts: Counts
    waiting: int
    coverage: float | None
    delay_s: dict[str, float]

    def shown(self) -> dict[str, int]:
        """The counts that are not zero."""
        return {name: count for name, count in msgspec.structs.asdict(self.counts).items() if count}


@dataclass(slots=True)
class Model:
    """The waiting room of one model, and who is in it. `streams`: by the numbers that entries carry; `scorings`: by the
    same numbers, how good each stream's predictions are; `since`: the codes offset of the record that began it."""

    name: str
    waiting: Waiting
    since: int = -1
    counts: Counts = field(default_factory=Counts)
    classes: dict[str, int] = field(default_factory=dict)
    streams: dict[StreamKey, int] = field(default_factory=dict)
    new_scoring: NewScoring | None = None
    scorings: dict[int, Scoring] = field(default_factory=dict)
    _packings: dict[str, Packing | None] = field(default_factory=dict)
    delays: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(DELAY_BUCKETS_MS) + 1, dtype=np.int64))

    def feed(
        self, runs: Sequence[OutcomeRun], labels: Sequence[LabelBatch], book: ReferenceBook, labels_ms: int = LONG_AGO
    ) -> list[Alert]:
        """What one tick brings; the alerts it raises. `labels_ms`: no label older than this is still to come, by the
        records' time; LONG_AGO where nobody knows."""
        alerts = [alert for run in runs for alert in self._switch(run, book)]
        if runs:
            alerts += self._outcomes(self.waiting.predict(*self._entries(runs, book), self.counts))
        if labels:
            entries = np.concatenate([self._labels(batch) for batch in labels])
            entries = entries[_order(entries)]
            self.counts.labels += len(entries)
            if self.waiting.newest_ms != NEVER_MS:
                # One that is early waits from now on, by the predictions' clock.
                entries["record_ms"] = self.waiting.newest_ms
            alerts += self._outcomes(self.waiting.label(entries, self.counts))
        # Predictions of a backlog may be read long before their labels.
        until_ms = self.waiting.newest_ms if labels_ms == LONG_AGO else min(self.waiting.newest_ms, labels_ms)
        self.waiting.expire(self.counts, until_ms)
        return alerts

    def report(self) -> Report:
        counts = self.counts
        judged = counts.joined + counts.unjoined + counts.dropped
        return Report(
            counts, len(self.waiting), counts.joined / judged if judged else None,
            {f"p{level}": delay for level in (50, 90, 99) if (delay := self._delay_s(level / 100)) is not None},
        )  # fmt: skip

    def counted(self, alert: Alert) -> Alert:
        """An alert that says what to retrain on, with how many of those rows have a label by now, if any are known to:
        of a stream, not of its parts."""
        retrain, scoring = alert.retrain, self.scorings.get(self.streams.get(alert.stream, -1))
        if retrain is None or retrain.labelled is not None or scoring is None or scoring.monitor is None:
            return alert
        first_ms, last_ms = parse_time(retrain.from_), parse_time(alert.detected.time)
        assert first_ms is not None  # an alert's own times can be read
        assert last_ms is not None
        labelled = min(scoring.monitor.trail.rows_between(first_ms, last_ms), retrain.rows)
        return alert.model_copy(update={"retrain": retrain.model_copy(update={"labelled": labelled or None})})

    def open_kinds(self) -> list[AlertKind]:
        """The kind of every open alert about outcomes."""
        return [kind for scoring in self.scorings.values() for kind, *_ in scoring.open_alerts()]

    def cold_windows(self) -> int:
        """As `DetectorSet.cold_windows`, of the errors' detectors."""
        monitors = (scoring.monitor for scoring in self.scorings.values())
        return sum(monitor.detectors.cold_windows() for monitor in monitors if monitor is not None)

    def _delay_s(self, level: float) -> float | None:
        total = int(self.delays.sum())
        if not total:
            return None
        place = int(np.searchsorted(np.cumsum(self.delays), level * total))
        return DELAY_BUCKETS_MS[min(place, len(DELAY_BUCKETS_MS) - 1)] / 1000

    def _entries(self, runs: Sequence[OutcomeRun], book: ReferenceBook) -> tuple[Records, Records]:
        """The rows of all streams in order, and the labels they brought."""
        entries, given = zip(*(self._of_run(run, book) for run in runs), strict=True)
        rows, known = np.concatenate(entries), np.concatenate(given)
        order = _order(rows)
        self.counts.predictions += len(rows)
        return rows[order], known[order]

    def _of_run(self, run: OutcomeRun, book: ReferenceBook) -> tuple[Records, Records]:
        outcomes, origins = run.outcomes, run.origins
        places = self._places(outcomes.names)
        prediction, label = outcomes.prediction.renamed(places), outcomes.label.renamed(places)
        entries, given = np.zeros(len(run), dtype=ENTRY), np.zeros(len(run), dtype=LABEL)
        if len(outcomes.ids):
            entries["id_a"], entries["id_b"] = outcomes.ids[:, 0], outcomes.ids[:, 1]
        entries["number"], entries["name"] = prediction.number, prediction.name
        entries["stream"] = self._stream(run.stream)
        for name in ORIGIN:
            entries[name] = getattr(origins, name)
        packing = self._packing(run.digest, book) if self.new_scoring is not None else None
        if packing is not None and run.codes is not None:
            levels = packing.pack(run.codes, run.generation)
            entries["levels_a"], entries["levels_b"] = levels[:, 0], levels[:, 1]
        given["number"], given["name"] = label.number, label.name
        given["known"] = ~np.isnan(label.number) | (label.name != NO_NAME)
        return entries, given

    def _packing(self, digest: str, book: ReferenceBook) -> Packing | None:
        """What the inputs are packed by, of the last few references."""
        if digest not in self._packings:
            reference = book.by_digest(digest)
            if reference is None:  # it may be here with the next run
                return None
            if len(self._packings) >= MAX_PACKINGS:
                self._packings.clear()
            self._packings[digest] = packing_of(reference)
        return self._packings[digest]

    def _labels(self, batch: LabelBatch) -> Records:
        value: Values = batch.value.renamed(self._places(batch.names))
        entries = np.zeros(len(batch), dtype=ENTRY)
        entries["id_a"], entries["id_b"] = batch.ids[:, 0], batch.ids[:, 1]
        entries["number"], entries["name"], entries["stream"] = value.number, value.name, EARLY
        for name in ORIGIN:
            entries[name] = getattr(batch.origins, name)
        return entries

    def _places(self, names: Sequence[str]) -> list[int]:
        return [self._class(name) for name in names]

    def _class(self, name: str) -> int:
        if name not in self.classes and len(self.classes) >= MAX_CLASSES:
            return NO_NAME
        return self.classes.setdefault(name, len(self.classes))

    def _stream(self, key: StreamKey) -> int:
        """Streams beyond the most share the last number: they wait, and are not told apart."""
        if key not in self.streams and len(self.streams) >= MAX_STREAMS:
            return MAX_STREAMS
        return self.streams.setdefault(key, len(self.streams))

    def _outcomes(self, pairs: Records) -> list[Alert]:
        delays = pairs["delay_ms"][pairs["delay_ms"] != NEVER_MS]
        self.delays += np.bincount(np.searchsorted(DELAY_BUCKETS_MS, delays), minlength=len(self.delays))
        alerts: list[Alert] = []
        names = list(self.classes)
        streams = pairs["entry"]["stream"]
        numbers = dict.fromkeys(streams.tolist())
        for number in numbers:
            scoring = self._scoring(number)
            if scoring is None:
                continue
            own = pairs[streams == number] if len(numbers) > 1 else pairs
            entry = own["entry"]
            prediction, label = Values(entry["number"], entry["name"]), Values(own["label"], own["label_name"])
            levels = np.stack([entry["levels_a"], entry["levels_b"]], axis=1)
            found, unusable = scoring.feed(prediction, label, names, self._class, _origins(entry), levels)
            alerts += found
            self.counts.unusable += unusable
        return alerts

    def _scoring(self, number: int) -> Scoring | None:
        if self.new_scoring is None or number >= MAX_STREAMS:
            return None
        if number not in self.scorings:
            self.scorings[number] = self.new_scoring(list(self.streams)[number])
        return self.scorings[number]

    def _switch(self, run: OutcomeRun, book: ReferenceBook) -> list[Alert]:
        """A stream's rows are coded under a newer reference: it says how good the predictions should be."""
        scoring = self._scoring(self._stream(run.stream)) if run.digest else None
        if scoring is None or run.generation <= scoring.generation:
            return []
        return scoring.switch(run.generation, run.digest, book.by_digest(run.digest))


def _order(entries: Records) -> npt.NDArray[np.intp]:
    return np.lexsort((entries["index"], entries["offset"], entries["partition"], entries["record_ms"]))


def _origins(entries: Records) -> Origins:
    return Origins(
        entries["partition"], entries["offset"], entries["index"], entries["time_ms"], entries["record_ms"]
    )  # fmt: skip
