"""Settings of what is read: how events and labels look, and the bounds on what their producers may ask."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from pydantic import Field

from stream_monitor.config_base import Names, Positive, Section
from stream_monitor.events import Limits, Shape
from stream_monitor.labels import LabelShape
from stream_monitor.reference import MAX_COLUMNS


class ShapeSection(Section):
    """Where the parts of an event stand, as dotted paths; null for a part that your events do not have."""

    model: str | None = Field(default="model", description="The model's name.")
    version: str | None = Field(default="version", description="The model's version.")
    segment: str | None = Field(default="segment", description="A segment the event names itself; see also segment_by.")
    time: str | None = Field(
        default="time", description="RFC 3339 or epoch milliseconds; else the record's time is used."
    )
    id: str | None = Field(default="id", description="The event's id.")
    features: str = Field(
        default="features", description="The object of features; empty: the whole event, less the rest."
    )
    prediction: str | None = Field(default="prediction", description="A number, a category or a map of class to score.")
    label: str | None = Field(default="label", description="The outcome, where the event already has it.")
    fixed_model: str | None = Field(default=None, description="The model of every event, where events do not name it.")
    fixed_version: str | None = Field(default=None, description="The version of every event.")
    ignore: Names = Field(default=(), description="With empty `features`: names that are no features.")


_LIMITS = Limits()


class LimitsSection(Section):
    """Bounds on what a producer may ask of the monitor. A record beyond one of the first four is rejected; events of
    streams beyond the next two are counted and not watched."""

    max_record_bytes: Positive = _LIMITS.max_record_bytes
    max_depth: Positive = _LIMITS.max_depth
    max_events: Positive = Field(default=_LIMITS.max_events, description="Of one record.")
    max_features: Positive = Field(default=_LIMITS.max_features, description="Of one event.")
    max_streams: Positive = Field(default=1_000, description="Versions × segments of one model.")
    max_partition_streams: Positive = Field(
        default=10_000, description="Streams of all models that share a partition of codes."
    )
    max_columns: int = Field(
        default=1_000, ge=1, le=MAX_COLUMNS, description="Of a reference learned from a stream; the first are watched."
    )
    max_warmup_bytes: int = Field(
        default=1_000_000_000,
        ge=1_000_000,
        description="Memory for the events that one model's streams learn from; with many streams each learns from "
        "fewer.",
    )

    def of_events(self) -> Limits:
        """Those that `events.decode` looks at."""
        return Limits(**{each.name: getattr(self, each.name) for each in fields(Limits)})


class InputSection(Section):
    """How prediction events are read."""

    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where a group without a position starts."
    )
    max_idle_ms: int = Field(
        default=2_000, ge=0, le=60_000, description="Longest wait for a partition that is known to lag."
    )
    max_future_s: float | None = Field(
        default=3_600.0, ge=0, le=3.2e9,
        description="Events and labels dated further ahead of the encoder's clock are rejected; null: none.",
    )  # fmt: skip
    shape: ShapeSection = ShapeSection()
    limits: LimitsSection = LimitsSection()

    def to_shape(self) -> Shape:
        """The shape that `events.decode` takes."""
        given = self.shape.model_dump() | {"ignore": frozenset(self.shape.ignore)}
        return Shape(**given, limits=self.limits.of_events())


class LabelShapeSection(Section):
    """Where the parts of a label stand, as dotted paths; null for a part that your labels do not have."""

    id: str = Field(default="id", description="The id of the event it belongs to.")
    label: str = Field(default="label", description="A number, a boolean or a category.")
    model: str | None = Field(default="model", description="The model's name.")
    time: str | None = Field(default="time", description="When it became known; else the record's time is used.")
    fixed_model: str | None = Field(default=None, description="The model of every label, where labels do not name it.")


class LabelsSection(Section):
    """Labels on a topic of their own (topics.labels), and the predictions that wait for them."""

    models: Names = Field(
        default=("*",), description="Names or globs of the models that have labels there; others keep no predictions."
    )
    horizon_hours: float = Field(
        default=720.0, gt=0, le=87_600, description="How long a prediction waits for its label, by the records' time."
    )
    max_waiting: int = Field(
        default=1_000_000, ge=1_000, le=100_000_000, description="Predictions of one model that wait, at most."
    )
    shape: LabelShapeSection = LabelShapeSection()

    def to_shape(self, limits: LimitsSection) -> LabelShape:
        """The shape that `labels.decode_labels` takes."""
        return LabelShape(**self.shape.model_dump(), limits=limits.of_events())
