"""One stream through its life: learning its reference, then watched, from reference to reference. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stream_monitor.alerts import Alert
from stream_monitor.batch import Batch, CodedBatch, RawBatch
from stream_monitor.book import LEARNED_EPOCH, Entry, ReferenceBook
from stream_monitor.coding import Privacy, code
from stream_monitor.encode import Binner
from stream_monitor.errors import DataError, ReferenceInvalid
from stream_monitor.events import Row
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Reference, StreamKey

NewMonitor = Callable[[StreamKey, Entry], Monitor]
Fit = Callable[[list[Row], StreamKey], Reference]


@dataclass(slots=True)
class Outcome:
    """What feeding a batch brought. `learned`: a reference to publish; `failed`: why learning one did not work.

    `stale` rows were coded under a reference no longer in force (or never seen): counted, not fed.
    """

    alerts: list[Alert] = field(default_factory=list)
    fed: int = 0
    stale: int = 0
    learned: Reference | None = None
    failed: str = ""
    switched: bool = False


@dataclass(slots=True)
class Stream:
    """`monitor` None: still warming up, with `warmup` rows so far of the `warmup_rows` it takes."""

    key: StreamKey
    warmup_rows: int
    new_monitor: NewMonitor
    fit: Fit
    privacy: Privacy = "full"
    monitor: Monitor | None = None
    warmup: list[Row] = field(default_factory=list)
    _binner: Binner | None = None

    def feed(self, batch: Batch, book: ReferenceBook) -> Outcome:
        """Rows in the order of the codes topic; `book` must know the batch's reference if anybody does."""
        outcome = Outcome()
        if isinstance(batch, CodedBatch):
            self._feed_coded(batch, book, outcome)
        else:
            self._feed_raw(batch, outcome)
        return outcome

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
        assert self.monitor is not None
        outcome.alerts += self.monitor.feed(batch.codes, batch.origins, batch.extras, batch.unknown)
        outcome.fed += len(batch)

    def _feed_raw(self, batch: RawBatch, outcome: Outcome) -> None:
        rows = list(batch.rows)
        if self.monitor is None:
            wanted = self.warmup_rows - len(self.warmup)
            self.warmup += rows[:wanted]
            rows = rows[wanted:]
            if len(self.warmup) == self.warmup_rows:
                self._learn(outcome)
        if not rows:
            return
        if self.monitor is None:  # learning failed: start over with what is left
            self._feed_raw(RawBatch(self.key, tuple(rows)), outcome)
            return
        if self._binner is None:
            self._binner = Binner(self.monitor.entry.reference)
        coded = code(rows, self.key, self.monitor.entry, self._binner, self.privacy)
        outcome.alerts += self.monitor.feed(coded.codes, coded.origins, coded.extras, coded.unknown)
        outcome.fed += len(rows)

    def _learn(self, outcome: Outcome) -> None:
        rows, self.warmup = self.warmup, []
        try:
            reference = self.fit(rows, self.key)
        except (DataError, ReferenceInvalid) as error:
            outcome.failed = str(error)
            return
        outcome.learned = reference
        # The generation an encoder will find in the book for it: exact key, epoch 0.
        self._watch(ReferenceBook.entry(reference, LEARNED_EPOCH), outcome)

    def _watch(self, entry: Entry, outcome: Outcome) -> None:
        if self.monitor is not None:
            outcome.alerts += self.monitor.end("reference_changed")
        self.warmup, self._binner = [], None
        self.monitor = self.new_monitor(self.key, entry)
        outcome.switched = True
