"""The alert: a state change of one subject, as published. Its JSON Schema is generated from these models.

`schema_version` counts breaking changes; fields may be added without one.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from stream_monitor.reference import StreamKey
from stream_monitor.trail import Origin

SCHEMA_VERSION: Final = 1


class State(StrEnum):
    FIRING = "firing"
    UPDATED = "updated"
    RESOLVED = "resolved"


class Severity(StrEnum):
    BENIGN = "benign"
    """Inputs that moved without a consequence for the predictions, see `lifecycle.py`."""
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertKind(StrEnum):
    DATA_DRIFT = "data_drift"
    PREDICTION_DRIFT = "prediction_drift"
    CONCEPT_DRIFT = "concept_drift"
    PERFORMANCE = "performance"
    CORRELATION_DRIFT = "correlation_drift"
    INCIDENT = "incident"
    SCHEMA_CHANGE = "schema_change"
    SILENT = "silent"
    GAP = "gap"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventRef(_Part):
    """An input row: `index` counts the events inside one record."""

    partition: int
    offset: int
    index: int = 0


class Onset(_Part):
    """Since when: the best estimate, the earliest plausible time, and the first row after the onset."""

    time: str
    earliest: str
    event: EventRef

    @classmethod
    def at(cls, row: Origin, earliest_ms: int | None = None) -> Onset:
        """From that row on; as it was noticed at once, or possibly since `earliest_ms`."""
        event = EventRef(partition=row.partition, offset=row.offset, index=row.index)
        earliest = rfc3339(row.time_ms if earliest_ms is None else earliest_ms)
        return cls(time=rfc3339(row.time_ms), earliest=earliest, event=event)


class Detected(_Part):
    """The row at which this state was decided, and how many rows of the stream that was after the onset."""

    time: str
    topic: str
    partition: int
    offset: int
    index: int = 0
    rows_since_onset: int

    @classmethod
    def at(cls, row: Origin, topic: str, rows_since_onset: int = 0) -> Detected:
        return cls(
            time=rfc3339(row.time_ms), topic=topic, partition=row.partition, offset=row.offset, index=row.index,
            rows_since_onset=rows_since_onset,
        )  # fmt: skip


class Finding(_Part):
    """One detector's evidence."""

    detector: str
    statistic: str
    value: float
    threshold: float
    direction: str
    alternative: str = ""


class Effect(_Part):
    """How far the current distribution is from the reference, over `n` rows, bias-corrected.

    `js_distance` is the Jensen–Shannon *distance* (root of the base-2 divergence), 0 … 1; `wasserstein_rank` the
    Wasserstein distance of the ranks, 0 … 1; `ks` the Kolmogorov–Smirnov distance of the binned distributions.
    """

    js_distance: float
    psi: float
    ks: float
    wasserstein_rank: float
    n: int


class PerformanceFact(_Part):
    """A metric over the last `n` outcomes it is about, with its interval at the 95 % level by that method.

    `reference`: the metric in training. `bound`, `limit`: what it has passed, where the alert is about that: the
    reference's own performance less a tolerance (`reference`), or the user's `min` or `max`. Absent `low` and `high`:
    no interval is known.
    """

    metric: str
    value: float
    low: float
    high: float
    level: float = 0.95
    n: int
    method: str
    reference: float | None = None
    bound: str = ""
    limit: float | None = None

    def said(self) -> str:
        """For people: `accuracy 0.948 → 0.916 (95 % interval 0.903 … 0.928 of 2,000 outcomes)`."""
        before = f"{self.reference:.3g} → " if self.reference is not None else ""
        limit = f", limit {self.limit:.3g}" if self.limit is not None else ""
        interval = f"95 % interval {self.low:.3g} … {self.high:.3g} of {self.n:,} outcomes"
        return f"{self.metric.replace('_', ' ')} {before}{self.value:.3g} ({interval}{limit})"


class EstimatedPerformance(_Part):
    """What the calibrated scores of `n` predictions say about performance without labels: estimates, beside the metrics
    of training. They hold as long as a score still means what it meant there."""

    metrics: dict[str, float]
    reference: dict[str, float]
    n: int


class ReferenceShare(_Part):
    """The reference it was compared with: which, how many rows, and the share of each bin."""

    digest: str
    origin: str
    n: int
    bins: list[str]
    share: list[float]


class CurrentShare(_Part):
    """The share of the same bins now, over the last `n` rows since the onset."""

    n: int
    share: list[float]


class RelationFact(_Part):
    """A pair of columns: their rank correlation in the reference (`before`) and over the last `n` rows since the onset.

    `low` … `high`: what the reference's relation comes to under the columns' present distributions, rows selected or
    values transformed; a change counts from there on.
    """

    first: str
    second: str
    before: float
    now: float
    low: float
    high: float
    n: int


class Retrain(_Part):
    """From when on the data is homogeneous again, and how many rows that was at this alert. `labelled`: of how many of
    them a label has come; exact in alerts about outcomes (errors, metrics, incidents with those), else at least so
    many, in steps of 256, and null below that. `enough`: whether there are as many as `retrain.min_rows` asks for; in
    alerts about outcomes, with a label."""

    from_: Annotated[str, Field(alias="from")]
    rows: int
    labelled: int | None = None
    enough: bool = False

    @classmethod
    def since(cls, onset: Origin, rows: int, min_rows: int, *, labelled: bool = False) -> Retrain:
        """`rows` rows from the onset on, all of them with a label if `labelled`."""
        return cls(
            from_=rfc3339(onset.time_ms), rows=rows, labelled=rows if labelled else None, enough=rows >= min_rows
        )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class IncidentMember(_Part):
    """An alert that is part of an incident, by its subject. `score`: effect, times importance where the reference has
    one: what columns are ranked by. `effect`: the JS distance, or by how much a correlation changed."""

    scope: str
    kind: AlertKind
    segment: str
    column: str
    role: str
    open: bool
    severity: Severity
    onset: str
    effect: float
    importance: float | None = None
    score: float


class Gap(_Part):
    """Records that were lost before they were read: offsets `position` to `resumed_at` − 1 of a topic's partition.

    `made_anew`: the log ended before the position; `lost` is then how many records may not have been read.
    """

    topic: str
    partition: int
    position: int
    resumed_at: int
    lost: int
    made_anew: bool


class Across(_Part):
    """Whether the rest of the traffic moved too, by its own rows since the onset (the last 924 of the whole stream).

    Of a segment's alert: `whole`, and the other segments made by the same features; of the whole stream's: all its
    segments. A segment that has moved differs from its own reference; a steady one has not, and would show this change
    if it had it; the `undecided` have too few rows to tell.
    """

    whole: Literal["moved", "steady", "undecided"]
    moved: list[str]
    steady: list[str]
    undecided: list[str]


class Alert(_Part):
    """One state change of one subject. `id` and `episode` are the same however often the input is replayed."""

    id: str
    episode: str
    schema_version: Literal[1] = SCHEMA_VERSION
    scope: Literal["column", "pair", "stream", "model", "topic"]
    state: State
    kind: AlertKind
    severity: Severity
    model: str
    version: str
    segment: str
    column: str
    role: str
    summary: str
    reason: str = ""
    direction: str = ""
    onset: Onset
    detected: Detected
    signals: list[Finding] = []
    effect: Effect | None = None
    reference: ReferenceShare | None = None
    current: CurrentShare | None = None
    retrain: Retrain | None = None
    performance: PerformanceFact | None = None
    gap: Gap | None = None
    segments: Across | None = None
    estimated_performance: EstimatedPerformance | None = None
    relations: list[RelationFact] = []
    importance: float | None = None
    members: list[IncidentMember] = []
    members_total: int | None = None

    @property
    def stream(self) -> StreamKey:
        return StreamKey(self.model, self.version, self.segment)

    def key(self) -> bytes:
        """The record key: a compacted topic keeps the current state of every subject."""
        return orjson.dumps([self.scope, self.model, self.version, self.segment, self.kind, self.column])

    def to_json(self) -> bytes:
        return orjson.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def headers(self, source: str) -> tuple[tuple[str, bytes], ...]:
        """CloudEvents 1.0 binary-mode headers; `source` says which monitor speaks."""
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", f"stream-monitor.alert.{self.kind}.{self.state}".encode()),
            ("ce_source", source.encode()),
            ("ce_time", self.detected.time.encode()),
            ("content-type", b"application/json"),
        )


def alert_id(
    config_digest: str, reference_digest: str, scope: str, kind: str, stream: StreamKey, subject: str, state: str,
    row: Origin,
) -> str:  # fmt: skip
    """32 hex digits that depend on what was decided, by which rules and at which input row; never on when it ran."""
    parts: list[Any] = [config_digest, reference_digest, scope, kind, *stream, subject, state]
    parts += [row.partition, row.offset, row.index]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


def rfc3339(time_ms: int) -> str:
    """Epoch milliseconds → RFC 3339 in UTC, to the millisecond.

    >>> rfc3339(0), rfc3339(-62_135_596_800_000)
    ('1970-01-01T00:00:00.000Z', '0001-01-01T00:00:00.000Z')
    """
    seconds, milliseconds = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)  # strftime does not pad years before 1000
    return f"{moment.isoformat(timespec='seconds')}.{milliseconds:03d}Z"


def rounded(value: float) -> float:
    """Six significant digits: what is published must not differ in the last bit between machines."""
    return float(f"{value:.6g}")


def epoch_ms(time: str) -> int:
    """What `rfc3339` wrote → epoch milliseconds. Raises ValueError.

    >>> epoch_ms(rfc3339(1_500))
    1500
    """
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        raise ValueError(f"{time} is of no time zone")
    return round(moment.timestamp() * 1_000)


def minute(time: str) -> str:
    """RFC 3339 → date and minute, for people."""
    return time[:16].replace("T", " ")


def schema() -> dict[str, Any]:
    """The JSON Schema of an alert."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Alert.model_json_schema(by_alias=True)}
