"""One stream through its life: learning its reference, then watched, from reference to reference. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from stream_monitor.alerts import Alert
from stream_monitor.batch import Batch, CodedBatch, Extra, Origins, RawBatch, Unknown
from stream_monitor.book import LEARNED_EPOCH, Entry, ReferenceBook
from stream_monitor.encode import Binner
from stream_monitor.errors import DataError, ReferenceInvalid
from stream_monitor.events import Row, lookup
from stream_monitor.monitor import Monitor
from stream_monitor.outcomes import Outcomes
from stream_monitor.reference import Reference, StreamKey

Privacy = Literal["full", "hash", "none"]
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


def code(
    rows: list[Row], stream: StreamKey, entry: Entry, binner: Binner, privacy: Privacy = "full", *,
    with_ids: bool = False,
) -> CodedBatch:  # fmt: skip
    """Rows of one stream → a coded batch under the entry's reference; `privacy` governs the raw values it carries.

    `with_ids`: labels of this model may come later, so every row carries its prediction and the digest of its id.
    """
    coded = binner.encode(rows)
    extras = tuple(
        Extra(row, column, shown)
        for row, column, value in coded.extras
        if (shown := veiled(value, privacy)) is not None
    )
    unknown = tuple(Unknown(first_row_with(rows, name), name) for name in sorted(coded.unknown))
    outcomes = Outcomes.of(rows, with_ids=with_ids)
    return CodedBatch(stream, entry.digest, entry.generation, coded.codes, Origins.of(rows), extras, unknown, outcomes)


def veiled(value: float | str, privacy: Privacy) -> float | str | None:
    """What may be passed on of a raw value: all of it, of a text the start of its SHA-256, or nothing."""
    if privacy == "full":
        return value
    if privacy == "none" or not isinstance(value, str):
        return None
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}"


def first_row_with(rows: list[Row], name: str) -> int:
    """The first row that has the feature (dotted names reach into objects)."""
    return next((i for i, row in enumerate(rows) if name in row.features or lookup(row.features, name) is not None), 0)
