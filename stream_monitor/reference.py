"""What training looked like: per column the bins, their counts, and what a person wants to read about it.

A reference is a JSON document without raw rows. Its digest identifies it: batches, state and alerts carry it.
Fitting one from rows is `fit.py`; turning values into codes by it is `encode.py`.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN
from stream_monitor.packed import plain

SCHEMA_VERSION = 1
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
MAX_COLUMNS = 5_000
MAX_ROWS = 10**15
"""That a reference may speak for; floating point counts no further than ten times that."""
LEVELS = 6
"""Of a column, where it is looked at together with another."""
MAX_RELATED = 64
"""Columns that are looked at by pairs."""
MAX_WAITING_LEVELS = 31
"""Columns whose levels wait with a prediction for its label."""
MAX_SEGMENTS = 200
MAX_SEGMENT_FEATURES = 3
MAX_SEGMENT_COLUMNS = 20_000
"""Columns of all segments of a stream together: what its state and its document have room for."""
POOLED = "other"
"""What the values are called that are no segment of their own; a value of that very name is one of them."""


class StreamKey(NamedTuple):
    """The identity of a stream; an empty version or segment means "none given"."""

    model: str
    version: str = ""
    segment: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Role(StrEnum):
    INPUT = "input"
    PREDICTION = "prediction"
    OUTCOME = "outcome"


class Kind(StrEnum):
    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


class Season(StrEnum):
    """Which rhythm the strata follow; hours are UTC, the week starts on Monday."""

    NONE = "none"
    HOUR_OF_DAY = "hour_of_day"
    HOUR_OF_WEEK = "hour_of_week"


SLOTS = {Season.NONE: 1, Season.HOUR_OF_DAY: 24, Season.HOUR_OF_WEEK: 168}


# Bins and columns, of which a worker has hundreds of thousands, are in no cycle: without `gc` 16 bytes less each.


class Bins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The bins of one column in one stratum.

    `edges`: numeric only, `[bins]`, ascending *inclusive upper* edges; bin i holds edges[i−1] < x ≤ edges[i], the last
    edge is the training maximum, and x < `low` (the minimum) is `below`. Categorical columns have none.
    `counts`: `[FIRST_BIN + bins]` reference rows by code (the four special codes first). Two things to know: with a
    season a bin may be empty in some strata; and where the categories are exhaustive, `new` holds the rows whose name
    occurred just once (to all other rows it was new), an estimate of how often new names are to be expected.
    """

    counts: list[int]
    edges: list[float] = []
    low: float = 0.0

    @property
    def n(self) -> int:
        return sum(self.counts)


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One watched column.

    `strata`: one `Bins` a stratum of the reference. `categories`: `[bins]` names, most common first;
    `rare`: names seen in training beyond those (complete when `exhaustive`; then anything else is new).
    `autocorrelation_time`: integrated autocorrelation time τ, in rows, ≥ 1 (1 = independent), measured on the ordered
    reference: the largest of those of location, spread (or categories) and nulls. `repeat`: share of rows whose code
    equals the previous row's, None if the order is unknown.
    `quantiles`: level ("0.01" … "0.99") → value in the column's own unit. `mean`, `sd`: of the finite values.
    `importance`: optional, given by the user.
    """

    name: str
    role: Role
    kind: Kind
    strata: list[Bins]
    categories: list[str] = []
    rare: list[str] = []
    exhaustive: bool = True
    autocorrelation_time: float = 1.0
    repeat: float | None = None
    quantiles: dict[str, float] = {}
    mean: float | None = None
    sd: float | None = None
    importance: float | None = None

    @property
    def bins(self) -> int:
        return len(self.strata[0].counts) - FIRST_BIN

    @property
    def n(self) -> int:
        return sum(bins.n for bins in self.strata)


class Task(StrEnum):
    """What kind of predictions a model makes; see `performance.py`."""

    BINARY = "binary"
    CLASSES = "classes"
    REGRESSION = "regression"


class OutcomeRelations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the inputs went with the label (see `outcome_levels.py`).

    `columns`: names of inputs among the reference's `relations`, whose levels are theirs. `correlation`: of each with
    the label, by rank. `tables`: rows by the levels of both, `[columns, LEVELS, LEVELS]` little-endian uint16.
    `edges`: lower ends of the label's levels but the first. `times`, `label_time`: autocorrelation times. `left_out`:
    columns there was no room for.
    """

    columns: list[str]
    correlation: list[float]
    tables: bytes
    edges: list[float]
    times: list[float]
    label_time: float
    left_out: int = 0


class Performance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How good the predictions of training were, over the `n` rows that had a prediction and a label.

    `positive`: the class whose score a binary model gives, "" where labels are 0 and 1. `columns`: the errors, as
    columns of role `outcome`. `metrics`: by name. `scale`: where unbounded losses are cut, in their unit, by name.
    `calibration`: score → share of positives, ascending; empty where there are no scores.
    """

    task: Task
    n: int
    columns: list[Column]
    metrics: dict[str, float]
    positive: str = ""
    scale: dict[str, float] = {}
    calibration: list[tuple[float, float]] = []
    relations: OutcomeRelations | msgspec.UnsetType = msgspec.UNSET
    """Left out of the document by older releases, and where labels have no order."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a reference came from: `files` names without directories, or `stream` for one learned by warming up."""

    origin: str
    rows: int
    files: list[str] = []
    first_time_ms: int | None = None
    last_time_ms: int | None = None
    ordered: bool = True
    notes: list[str] = []


class SegmentColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column within one segment: `counts` `[strata, codes]` of its rows under the whole stream's bins, and what only
    their order could tell (see `Column`)."""

    counts: list[list[int]]
    autocorrelation_time: float = 1.0
    repeat: float | None = None


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a stream's rows that is watched by itself.

    `where`: feature → category, all of which a row of it has. `pool`: instead, the feature whose values that are no
    segment of their own (rare, new, missing, invalid) are pooled here. `columns`: those of the reference, in its order,
    without the features that make the segment.
    """

    rows: int
    columns: list[SegmentColumn]
    where: dict[str, str] = {}
    pool: str = ""

    @property
    def name(self) -> str:
        """`region=EU,plan=pro`; of a pool `region=other`."""
        if self.pool:
            return f"{self.pool}={POOLED}"
        return ",".join(f"{feature}={value}" for feature, value in self.where.items())

    @property
    def features(self) -> tuple[str, ...]:
        """What makes the segment: its siblings are those with the same."""
        return (self.pool,) if self.pool else tuple(self.where)


class Relations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the columns hang together, by pairs (see `association.py`).

    `columns`: names, those of role prediction last; of wide streams not all. `levels`: by column, the level of every
    code, −1 for none. `correlation`: by column, the rank correlations with the columns before it. `tables`: rows by
    the levels of both columns, `[pairs, LEVELS, LEVELS]` little-endian uint16, pairs (0, 1), (0, 2) … (1, 2) …
    `left_out`: columns there was no room for.
    """

    columns: list[str]
    levels: list[list[int]]
    correlation: list[list[float]]
    tables: bytes
    left_out: int = 0


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """What one stream looked like in training.

    `slots`: `[24 or 168]` the stratum of every hour of the season (thin hours are pooled into a common one); empty
    without a season. `skipped`: features found in training but not watched, with the reason; they are known, so they
    raise no `schema_change`. `segments`: the parts of the stream that are watched by themselves, made by the features
    `segment_by`; both are left out of the document where there are none, so that its digest is what it always was.
    """

    schema_version: int
    model: str
    version: str
    segment: str
    columns: list[Column]
    source: Source
    season: Season = Season.NONE
    slots: list[int] = []
    skipped: dict[str, str] = {}
    performance: Performance | msgspec.UnsetType = msgspec.UNSET
    """Left out of the document where there were no labels, so that the digests of older ones stay what they are."""
    segment_by: list[str] | msgspec.UnsetType = msgspec.UNSET
    segments: list[Segment] | msgspec.UnsetType = msgspec.UNSET
    relations: Relations | msgspec.UnsetType = msgspec.UNSET
    """Left out of the document by older releases, and where there are no two columns to compare."""

    @property
    def parts(self) -> list[Segment]:
        """The segments, if any."""
        return self.segments or []

    @property
    def stream(self) -> StreamKey:
        return StreamKey(self.model, self.version, self.segment)

    @property
    def strata(self) -> int:
        return max(self.slots) + 1 if self.slots else 1

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=plain)

    def digest(self) -> str:
        """The first 32 hex digits of the SHA-256 of the document."""
        return self._digest

    @cached_property  # asked for five times a stream and restore
    def _digest(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()[:32]

    def strata_of(self, time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The stratum of every event time; `time_ms` and the result have shape `[rows]`."""
        if self.season is Season.NONE:
            return np.zeros(len(time_ms), dtype=np.uint8)
        # 1970-01-01 was a Thursday: three days make the week start on Monday.
        hours = time_ms // 3_600_000 + (72 if self.season is Season.HOUR_OF_WEEK else 0)
        return np.asarray(self.slots, dtype=np.uint8)[hours % SLOTS[self.season]]
