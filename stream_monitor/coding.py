"""Rows of one stream → one coded batch, coded in the pieces in which they come. Pure.

A row's values are coded while they are still in the processor's cache: gathered after 20,000 events were parsed, each
of their values costs a miss. A few rows at a time, though, cost more than they are worth, and wait for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

from stream_monitor.batch import CodedBatch, Extra, Origins, Unknown
from stream_monitor.book import Entry
from stream_monitor.encode import MAX_UNKNOWN, Binner, capped
from stream_monitor.events import Row, lookup
from stream_monitor.outcomes import Outcomes
from stream_monitor.privacy import veiled
from stream_monitor.reference import StreamKey
from stream_monitor.rows import Rows
from stream_monitor.scanned import Features

Privacy = Literal["full", "hash", "none"]

ENOUGH: Final = 64
"""Rows that are coded at once; fewer wait for others."""


class Coder:
    """Takes the rows of a stream, in order, and gives one batch of them all."""

    def __init__(
        self, stream: StreamKey, entry: Entry, binner: Binner, privacy: Privacy = "full", *, with_ids: bool = False
    ) -> None:
        self._code_rows = partial(code, stream=stream, entry=entry, binner=binner, privacy=privacy, with_ids=with_ids)
        self._pieces: list[CodedBatch] = []
        self._waiting: list[Rows] = []
        self._waiting_rows = 0

    def add(self, rows: Rows) -> None:
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= ENOUGH or isinstance(rows.features, Features):
            self._code()

    def batch(self) -> CodedBatch:
        """All rows added; there must be some."""
        if self._waiting:
            self._code()
        return join(self._pieces)

    def _code(self) -> None:
        self._pieces.append(self._code_rows(Rows.join(self._waiting)))
        self._waiting, self._waiting_rows = [], 0


def code(
    rows: Sequence[Row], stream: StreamKey, entry: Entry, binner: Binner, privacy: Privacy = "full", *,
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
    features = rows.features if isinstance(rows, Rows) else [row.features for row in rows]
    unknown = tuple(Unknown(first_row_with(features, name), name) for name in sorted(coded.unknown))
    if isinstance(rows, Rows):
        origins = rows.origins
        outcomes = Outcomes.of_columns(rows.predictions, rows.labels, rows.ids, with_ids=with_ids)
    else:
        origins, outcomes = Origins.of(rows), Outcomes.of(rows, with_ids=with_ids)
    return CodedBatch(stream, entry.digest, entry.generation, coded.codes, origins, extras, unknown, outcomes)


def join(pieces: Sequence[CodedBatch]) -> CodedBatch:
    """One batch of several that follow one another, within the limits of one."""
    if len(pieces) == 1:
        return pieces[0]
    joined = CodedBatch.join(pieces)
    extras = capped([(extra.row, extra.column, extra.value) for extra in joined.extras])
    unknown: dict[str, Unknown] = {}
    for each in joined.unknown:
        unknown.setdefault(each.name, each)
    kept = tuple(unknown[name] for name in sorted(unknown)[:MAX_UNKNOWN])
    return joined.showing(tuple(Extra(*extra) for extra in extras), kept)


def first_row_with(features: Sequence[dict[str, Any]], name: str) -> int:
    """The first row that has the feature (dotted names reach into objects)."""
    return next((i for i, each in enumerate(features) if name in each or lookup(each, name) is not None), 0)
