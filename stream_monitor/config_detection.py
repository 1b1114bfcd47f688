"""The sections `detection` and `models`: what decides whether something is drift, and for which models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from stream_monitor.config_base import Complaint, Mirror, Names, Section, mirror, refuse_all
from stream_monitor.detectors import ERROR_PARAMS, PARAMS
from stream_monitor.lifecycle import Lifecycle
from stream_monitor.performance import HIGHER_IS_BETTER, METRICS, Limit
from stream_monitor.reference import MAX_SEGMENT_FEATURES, MAX_SEGMENTS, Kind
from stream_monitor.silence import Policy as Silence


class FeatureRules(Section):
    """Which features of a model are watched, and as what, when a reference is built or learned."""

    include: Names | None = Field(
        default=None, description="Names or globs; null: all. One named in full is watched even if it looks like an id."
    )
    exclude: Names = Field(default=(), description="Names or globs; wins over include.")
    types: dict[str, Literal["numeric", "categorical"]] = Field(
        default_factory=dict, description="Name → numeric or categorical, where discovery would guess wrong."
    )

    def watches(self, name: str) -> bool:
        """Whether a feature is to be watched."""
        included = self.include is None or _matches(name, self.include)
        return included and not _matches(name, self.exclude)

    def kinds(self) -> dict[str, Kind]:
        return {name: Kind(kind) for name, kind in self.types.items()}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


if TYPE_CHECKING:  # made from the dataclasses of those who use them, below

    class LifecycleSection(Mirror): ...

    class SilenceSection(Mirror): ...

    class Detector(Mirror):
        enabled: bool = True

    class Selected(Mirror):
        enabled: bool = False

    class Detectors(Section):
        evidence: Mirror = Mirror()
        adwin: Detector = Detector()
        page_hinkley: Detector = Detector()
        histogram: Detector = Detector()
        ddm: Selected = Selected()
        hddm_a: Selected = Selected()
        hddm_w: Selected = Selected()

else:
    LifecycleSection = mirror(Lifecycle)
    SilenceSection = mirror(Silence)
    # `evidence` also decides on recovery, so it cannot be switched off.
    _sections = {
        name: mirror(params) if name == "evidence" else mirror(params, enabled=(bool, True))
        for name, params in PARAMS.items()
    } | {name: mirror(params, enabled=(bool, False)) for name, params in ERROR_PARAMS.items()}
    Detectors = create_model(
        "Detectors", __base__=Section, __doc__="The detectors and their parameters; the defaults need no touching.",
        **{name: (section, section()) for name, section in _sections.items()},
    )  # fmt: skip


class MetricLimits(Section):
    """What a metric may not pass."""

    min: float | None = None
    max: float | None = None


class PerformanceSection(Section):
    """How good predictions are, where labels come: of what is compared, and with what."""

    enabled: bool = True
    task: Literal["auto", "binary", "classes", "regression"] = Field(
        default="auto",
        description="What is predicted: the score of a class, a class, or a value; auto: the data tells.",
    )
    window: int = Field(
        default=2_000, ge=100, le=1_000_000, description="Outcomes that a metric is taken over, at most."
    )
    min_change: float = Field(
        default=0.01, ge=0, lt=1, description="How much worse than in training accuracy and AUC may become."
    )
    min_change_relative: float = Field(
        default=0.1, ge=0, description="How much worse errors of values may become, as a share."
    )
    limits: dict[str, MetricLimits] = Field(
        default_factory=dict, description="Metric → min and max, as accuracy: {min: 0.92}; passing one is critical."
    )

    @model_validator(mode="after")
    def _known(self) -> PerformanceSection:
        known = sorted({metric for metrics in METRICS.values() for metric in metrics})
        complaints = [
            Complaint(f"limits.{metric}", f"no metric is called {metric!r}", f"known are {', '.join(known)}")
            for metric in self.limits
            if metric not in known
        ]
        for limit in self.user_limits():
            higher = limit.metric in HIGHER_IS_BETTER
            if limit.metric != "bias" and (limit.bound == "min") is not higher:
                wanted = "min" if higher else "max"
                problem = f"{limit.metric} is {'better' if higher else 'worse'} the higher it is"
                complaints.append(Complaint(f"limits.{limit.metric}.{limit.bound}", problem, f"give {wanted} instead"))
        refuse_all(complaints)
        return self

    def user_limits(self) -> tuple[Limit, ...]:
        return tuple(
            Limit(metric, bound, value)
            for metric, limits in sorted(self.limits.items())
            for bound, value in (("min", limits.min), ("max", limits.max))
            if value is not None
        )


class RetrainSection(Section):
    """When the data since a drift began is worth retraining on."""

    min_rows: int = Field(
        default=5_000, ge=1,
        description="Rows since the onset (of errors and metrics: rows with a label) that are enough.",
    )  # fmt: skip


class RelationsSection(Section):
    """Rank correlations of the inputs with the prediction and the label, and among themselves."""

    enabled: bool = True
    min_change: float = Field(
        default=0.1, ge=0.02, lt=1,
        description="How far a rank correlation must be from what the reference explains to be worth an alert.",
    )  # fmt: skip


class DetectionSettings(Section):
    """What decides whether something is drift. Nothing about brokers or I/O, so that its digest names a decision."""

    budget_events: int = Field(
        default=100_000_000, ge=1_000, description="Mean number of a stream's events between two false alarms."
    )
    warmup_events: int = Field(
        default=5_000, ge=100, le=1_000_000, description="Events a reference is learned from where a stream has none."
    )
    detectors: Detectors = Detectors()
    lifecycle: LifecycleSection = LifecycleSection()
    performance: PerformanceSection = PerformanceSection()
    relations: RelationsSection = RelationsSection()
    retrain: RetrainSection = RetrainSection()
    silence: SilenceSection = SilenceSection()

    def silence_policy(self) -> Silence:
        """When a stream counts as silent, and when as ended."""
        policy: Silence = self.silence.params()
        return policy

    def policy(self) -> Lifecycle:
        """When an alert opens, is updated and how grave it is."""
        policy: Lifecycle = self.lifecycle.params()
        return policy

    def params(self) -> dict[str, Any]:
        """The parameters of every enabled detector, by name."""
        sections = ((name, getattr(self.detectors, name)) for name in PARAMS)
        return {name: section.params() for name, section in sections if getattr(section, "enabled", True)}

    def error_params(self) -> dict[str, Any]:
        """The same of the detectors that watch errors of predictions: all of them, and those selected for that."""
        selected = {name: getattr(self.detectors, name) for name in ERROR_PARAMS}
        return self.params() | {name: section.params() for name, section in selected.items() if section.enabled}

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of everything that influences drift detection, in canonical JSON."""
        values = self.model_dump(mode="json", exclude={"silence"}) | {
            "detectors": {name: asdict(params) for name, params in self.error_params().items()}
        }
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def overridden(self, by: DetectionSettings | None) -> DetectionSettings:
        """These settings with what `by` sets explicitly."""
        if by is None:
            return self
        return type(self).model_validate(_merged(self.model_dump(), by.model_dump(exclude_unset=True)))


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in changes.items():
        inner = both.get(key)
        both[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


class ModelSection(Section):
    """What holds for the models whose name matches."""

    match: str = Field(min_length=1, description="A model's name, or a glob as `credit-*`.")
    features: FeatureRules = FeatureRules()
    segment_by: Names = Field(
        default=(), max_length=MAX_SEGMENT_FEATURES,
        description="Features whose values, and combinations of values, are watched as segments beside the whole.",
    )  # fmt: skip
    max_segments: int = Field(
        default=20, ge=1, le=MAX_SEGMENTS, description="Most segments of a stream; the other values are pooled."
    )
    detection: DetectionSettings | None = Field(default=None, description="Overrides of the section `detection`.")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What holds for one model, all overrides applied; `match` is the entry's, `*` where no entry matched."""

    match: str
    features: FeatureRules
    segment_by: tuple[str, ...]
    max_segments: int
    detection: DetectionSettings
