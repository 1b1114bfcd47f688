"""Making streams: the settings that hold for a model, turned into monitors and fits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from stream_monitor.association import relations_of
from stream_monitor.book import Entry
from stream_monitor.config import ModelSettings, Settings
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.detectors.pairs import Pairs
from stream_monitor.events import Row
from stream_monitor.features import canonical
from stream_monitor.fit import FitOptions, fit
from stream_monitor.incidents import Incidents
from stream_monitor.limits import WarmupBudget
from stream_monitor.model import Model
from stream_monitor.monitor import Monitor
from stream_monitor.outcome_relations import OutcomeRelating
from stream_monitor.privacy import veil_of
from stream_monitor.reference import MAX_COLUMNS, OutcomeRelations, Reference, Season, Segment, StreamKey, Task
from stream_monitor.relations import Policy, Relating
from stream_monitor.scoring import Scoring, ScoringRules
from stream_monitor.segments import reference_of, segment_budget, whole_budget
from stream_monitor.stream import Stream
from stream_monitor.telling import Rules
from stream_monitor.waiting import Waiting

RELATIONS_SHARE: Final = 0.05
"""Of the whole stream's false-alarm budget, for the relations between its columns; of that of its outcomes, for the
relations of the inputs with the label."""
RELATIONS_SINCE: Final = 2
"""Wire version from which on learned references have relations: older releases do not read such a document."""


class StreamFactory:
    """Builds streams by the settings of their model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rules: dict[str, Rules] = {}
        veil = veil_of(settings)
        self._name_of = veil.category if veil else canonical

    def stream(self, key: StreamKey) -> Stream:
        model = self._settings.for_model(key.model)
        limits = self._settings.input.limits
        budget = WarmupBudget(limits.max_warmup_bytes, limits.max_streams)
        learn = partial(_fit, self._learned_options(model, limits.max_columns))
        privacy = self._settings.privacy.raw
        make, make_segment = partial(self._monitor, model), partial(self._segment_monitor, model)
        return Stream(
            key, model.detection.warmup_events, make, make_segment, learn, budget, privacy, self._name_of,
            silence=model.detection.silence_policy(), topic=self._settings.topics.predictions,
        )  # fmt: skip

    def _learned_options(self, model: ModelSettings, most_columns: int) -> FitOptions:
        options = fit_options(model, most_columns)
        known = self._settings.worker.writes_version >= RELATIONS_SINCE
        return replace(options, relations=options.relations and known)

    def model(self, name: str) -> Model:
        labels, model = self._settings.labels, self._settings.for_model(name)
        waiting = Waiting(round(labels.horizon_hours * 3_600_000), labels.max_waiting)
        scored = model.detection.performance.enabled
        return Model(name, waiting, new_scoring=partial(self._scoring, model) if scored else None)

    def incidents(self, name: str) -> Incidents:
        rules = self.rules(self._settings.for_model(name))
        return Incidents(name, rules.config_digest, rules.topic)

    def _scoring(self, model: ModelSettings, key: StreamKey) -> Scoring:
        detection = model.detection
        performance, related = detection.performance, detection.relations.enabled
        limits_share = 0.5 - RELATIONS_SHARE if related else 0.5
        rules = ScoringRules(
            window=performance.window, warmup=detection.warmup_events, alpha=limits_share / detection.budget_events,
            task=Task(performance.task) if performance.task != "auto" else None, min_change=performance.min_change,
            min_change_relative=performance.min_change_relative, limits=performance.user_limits(),
            retrain_rows=detection.retrain.min_rows,
            config_digest=self.rules(model).config_digest, topic=self._settings.topics.predictions,
        )  # fmt: skip
        relating = partial(self._relating, model) if related else None
        return Scoring(key, rules, partial(self._error_monitor, model), relating)

    def _relating(
        self, model: ModelSettings, key: StreamKey, digest: str, relations: OutcomeRelations, generation: int
    ) -> OutcomeRelating:
        """Of the inputs with the label."""
        detection = model.detection
        alpha = RELATIONS_SHARE / detection.budget_events
        policy = self._relations_policy(model, labelled=True)
        return OutcomeRelating(key, digest, relations, generation, alpha, detection.relations.min_change, policy)

    def _relations_policy(self, model: ModelSettings, *, labelled: bool = False) -> Policy:
        rules, policy = self.rules(model), model.detection.policy()
        return Policy(rules.config_digest, rules.topic, policy.update_ratio, policy.update_rows,
                      model.detection.retrain.min_rows, labelled)  # fmt: skip

    def _error_monitor(self, model: ModelSettings, key: StreamKey, entry: Entry) -> Monitor:
        """Half of the budget is the errors', the other half the limits' and the relations' with the label."""
        detection = model.detection
        detectors = DetectorSet(entry.reference, detection.error_params(), 2 * detection.budget_events)
        return Monitor(key, entry, detectors, replace(self.rules(model), worse_only=True))

    def _monitor(self, model: ModelSettings, key: StreamKey, entry: Entry) -> Monitor:
        detection = model.detection
        budget_rows = whole_budget(entry.reference, detection.budget_events)
        relations = relations_of(entry.reference) if detection.relations.enabled else None
        if relations is None:
            return Monitor(key, entry, DetectorSet(entry.reference, detection.params(), budget_rows), self.rules(model))
        pairs = Pairs(entry.reference, relations, RELATIONS_SHARE / budget_rows, detection.relations.min_change)
        detectors = DetectorSet(entry.reference, detection.params(), budget_rows / (1 - RELATIONS_SHARE))
        relating = Relating(key, entry.digest, pairs, self._relations_policy(model))
        return Monitor(key, entry, detectors, self.rules(model), relating)

    def _segment_monitor(self, model: ModelSettings, key: StreamKey, entry: Entry, segment: Segment) -> Monitor:
        """Of a part of a stream: `evidence` alone, which leads; its alerts cite the digest of the whole reference."""
        reference = reference_of(entry.reference, segment)
        params = {"evidence": model.detection.params()["evidence"]}
        detectors = DetectorSet(reference, params, segment_budget(entry.reference, model.detection.budget_events))
        own = Entry(reference, entry.digest, entry.epoch, entry.generation)
        return Monitor(key._replace(segment=segment.name), own, detectors, self.rules(model))

    def rules(self, model: ModelSettings) -> Rules:
        """What decides for a model; computed once, the digest is a hash over all detection settings."""
        if model.match not in self._rules:
            detection = model.detection
            self._rules[model.match] = Rules(
                detection.policy(), detection.digest(), self._settings.topics.predictions,
                retrain_rows=detection.retrain.min_rows,
            )  # fmt: skip
        return self._rules[model.match]


def fit_options(model: ModelSettings, most_columns: int = MAX_COLUMNS) -> FitOptions:
    """What the settings say about a model's features; a warm-up is ordered, and too short to show a season."""
    rules = model.features
    return FitOptions(
        season=Season.NONE, include=rules.include, exclude=rules.exclude,
        kinds=rules.kinds(), ordered=True, most_columns=most_columns, segment_by=model.segment_by,
        max_segments=model.max_segments, relations=model.detection.relations.enabled,
    )  # fmt: skip


def _fit(options: FitOptions, rows: list[Row], key: StreamKey) -> Reference:
    return fit(rows, key, options)
