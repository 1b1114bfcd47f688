"""One stream through its life: learning its reference, then watched, from reference to reference. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from stream_monitor.alerts import Alert, AlertKind
from stream_monitor.batch import Batch, CodedBatch, Origins, RawBatch
from stream_monitor.book import LEARNED_EPOCH, Entry, ReferenceBook
from stream_monitor.coding import Privacy, code
from stream_monitor.encode import Binner, NameOf
from stream_monitor.errors import DataError, ReferenceInvalid
from stream_monitor.events import Row
from stream_monitor.features import canonical
from stream_monitor.limits import UNBORN, Birth, WarmupBudget, weight
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Reference, Segment, StreamKey
from stream_monitor.segmented import Segmented
from stream_monitor.silence import LATEST_MS, PERIOD_MS, Rhythm, come_back, fall_silent
from stream_monitor.silence import Policy as Silence
from stream_monitor.trail import Origin

NewMonitor = Callable[[StreamKey, Entry], Monitor]
NewSegment = Callable[[StreamKey, Entry, Segment], Monitor]
Fit = Callable[[list[Row], StreamKey], Reference]


@dataclass(slots=True)
class Outcome:
    """What feeding a batch brought. `learned`: a reference to publish; `failed`: why learning one did not work;
    `cut_short`: it had to be learned from fewer rows than asked for, to keep within the bound on memory.

    `stale` rows were coded under a reference no longer in force (or never seen): counted, not fed.
    """

    alerts: list[Alert] = field(default_factory=list)
    fed: int = 0
    stale: int = 0
    learned: Reference | None = None
    failed: str = ""
    cut_short: bool = False
    switched: bool = False


@dataclass(slots=True)
class Stream:
    """`monitor` None: still warming up, with `warmup` rows so far of the `warmup_rows` it takes, or of as many as its
    share of `budget` holds. `segments`: of its parts, where its reference has some."""

    key: StreamKey
    warmup_rows: int
    new_monitor: NewMonitor
    new_segment: NewSegment
    fit: Fit
    budget: WarmupBudget
    privacy: Privacy = "full"
    name_of: NameOf = canonical
    birth: Birth = UNBORN
    silence: Silence = field(default_factory=Silence)
    topic: str = ""
    rhythm: Rhythm | None = None
    monitor: Monitor | None = None
    segments: Segmented | None = None
    warmup: list[Row] = field(default_factory=list)
    _warmup_bytes: int = 0
    _binner: Binner | None = None

    def feed(self, batch: Batch, book: ReferenceBook) -> Outcome:
        """Rows in the order of the codes topic; `book` must know the batch's reference if anybody does."""
        outcome = Outcome()
        self._hear(batch, outcome)
        if isinstance(batch, CodedBatch):
            self._feed_coded(batch, book, outcome)
        else:
            self._feed_raw(batch, outcome)
        return outcome

    def _hear(self, batch: Batch, outcome: Outcome) -> None:
        """Rows came: the rhythm is learned, and a silence ends."""
        origins = batch.origins if isinstance(batch, CodedBatch) else Origins.of(batch.rows)
        first_ms = min(max(int(origins.record_ms[0]), 0), LATEST_MS)
        if self.rhythm is None:
            self.rhythm = Rhythm(first_ms, first_ms, (0, 0, 0, 0), first_ms // PERIOD_MS)
        if self.rhythm.silent:
            alert = come_back(self.key, self.rhythm, _origin(origins, 0), first_ms, self.topic, "returned")
            outcome.alerts.append(alert)
        self.rhythm.see(origins.record_ms, _origin(origins, -1))

    def open_kinds(self) -> list[str]:
        """The kind of every open alert."""
        silent = [AlertKind.SILENT] if self.rhythm is not None and self.rhythm.silent else []
        return [*silent, *(kind for monitor in self._monitors() for kind in monitor.open_kinds())]

    def _monitors(self) -> list[Monitor]:
        """Of the whole, then of its parts by name."""
        parts = self.segments.monitors if self.segments is not None else {}
        return [*([self.monitor] if self.monitor is not None else []), *(parts[name] for name in sorted(parts))]

    def cold_windows(self) -> int:
        """As `DetectorSet.cold_windows`, of the whole and of its parts."""
        return sum(monitor.detectors.cold_windows() for monitor in self._monitors())

    def _resolve(self, reason: str) -> list[Alert]:
        """Everything open, of the whole and of its parts."""
        return [alert for monitor in self._monitors() for alert in monitor.end(reason)]

    def fall_silent(self) -> Alert:
        """Its time is up, by `Rhythm.silent_at`."""
        assert self.rhythm is not None
        return fall_silent(self.key, self.rhythm, self.silence, self.topic)

    def end(self) -> list[Alert]:
        """It has ended, by `Rhythm.ended_at`: everything open is resolved."""
        alerts = self._resolve("ended")
        if self.rhythm is not None and self.rhythm.silent:
            last = Origin(*self.rhythm.last)
            ended_ms = self.rhythm.ended_at(self.silence)
            alerts.append(come_back(self.key, self.rhythm, last, ended_ms, self.topic, "ended"))
        return alerts

    def _feed_coded(self, batch: CodedBatch, book: ReferenceBook, outcome: Outcome) -> None:
        current = self.monitor.entry if self.monitor else None
        if current is None or batch.generation > current.generation:
            reference = book.by_digest(batch.digest)
            if reference is None or len(reference.columns) != batch.codes.shape[1]:
                outcome.stale += len(batch)
                return
            self._watch(Entry(reference, batch.digest, -1, batch.generation), outcome)
        elif batch.digest != current.digest:
            outcome.stale += len(batch)
            return
        self._watched(batch, outcome)

    def _feed_raw(self, batch: RawBatch, outcome: Outcome) -> None:
        rows = list(batch.rows)
        if self.monitor is None:
            rows = self._collect(rows, outcome)
        if not rows:
            return
        if self.monitor is None:  # learning failed: start over with what is left
            self._feed_raw(RawBatch(self.key, tuple(rows)), outcome)
            return
        if self._binner is None:
            self._binner = Binner(self.monitor.entry.reference, self.name_of)
        coded = code(rows, self.key, self.monitor.entry, self._binner, self.privacy)
        self._watched(coded, outcome)

    def _watched(self, batch: CodedBatch, outcome: Outcome) -> None:
        assert self.monitor is not None
        if self.segments is not None:
            outcome.alerts += self.segments.feed(batch)
        else:
            outcome.alerts += self.monitor.feed(batch.codes, batch.origins, batch.extras, batch.unknown)
        outcome.fed += len(batch)

    def _collect(self, rows: list[Row], outcome: Outcome) -> list[Row]:
        """Take rows to learn from until there are enough, or as many as may be kept; the rows left over."""
        wanted = self.warmup_rows - len(self.warmup)
        for taken, row in enumerate(rows[:wanted], 1):
            self.warmup.append(row)
            self._warmup_bytes += weight_of(row)
            if self._warmup_bytes >= self.budget.of(self.birth.rank):
                outcome.cut_short = taken < wanted
                wanted = taken
                break
        if len(rows) >= wanted:
            self._learn(outcome)
        return rows[wanted:]

    def restore_warmup(self, rows: list[Row]) -> None:
        """Rows collected before a restart. Where fewer are asked for since, the next row ends it."""
        self.warmup = rows[: self.warmup_rows - 1]
        self._warmup_bytes = sum(map(weight_of, self.warmup))

    def _learn(self, outcome: Outcome) -> None:
        rows, self.warmup, self._warmup_bytes = self.warmup, [], 0
        try:
            reference = self.fit(rows, self.key)
        except (DataError, ReferenceInvalid) as error:
            outcome.failed = str(error)
            return
        outcome.learned = reference
        # The generation an encoder will find in the book for it: exact key, epoch 0.
        self._watch(ReferenceBook.entry(reference, LEARNED_EPOCH), outcome)

    def _watch(self, entry: Entry, outcome: Outcome) -> None:
        outcome.alerts += self._resolve("reference_changed")
        self.warmup, self._warmup_bytes, self._binner = [], 0, None
        self.watch(entry)
        outcome.switched = True

    def watch(self, entry: Entry) -> None:
        """Fresh monitors under a reference."""
        self.monitor = self.new_monitor(self.key, entry)
        parts = bool(entry.reference.parts)
        self.segments = Segmented(self.monitor, partial(self.new_segment, self.key, entry)) if parts else None


def weight_of(row: Row) -> int:
    """About how many bytes of memory a row takes."""
    return weight(row.features) + weight(row.prediction) + weight(row.label) + weight(row.id)


def _origin(origins: Origins, row: int) -> Origin:
    return Origin(
        int(origins.partition[row]), int(origins.offset[row]), int(origins.index[row]), int(origins.time_ms[row])
    )
