"""The snapshot of one stream's scoring, a part of its model's document: baseline, monitor, limits and window."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from stream_monitor.errors import WireError
from stream_monitor.guards import GuardState
from stream_monitor.outcome_relations import OutcomeRelating
from stream_monitor.outcomes import NO_NAME, Values, joined
from stream_monitor.reference import Performance
from stream_monitor.relations import RelationsState
from stream_monitor.scoring import Scoring
from stream_monitor.state import Watched, check_trail, pack_monitor, restore_monitor
from stream_monitor.state_records import Array, pack_array, unpack_array


class Related(msgspec.Struct, frozen=True):
    """The relations with the label: outcomes seen, what marks them, the last of them, and what is open."""

    rows: int
    mark: int
    trail: dict[str, Array]
    relations: RelationsState


class ScoringState(msgspec.Struct, frozen=True):
    """`guards`: by subject; `limits`: what each stood at. `arrays`: the window, and the warm-up while there is no
    baseline."""

    generation: int
    digest: str
    learned: bool
    performance: Performance | None
    watched: Watched | None
    guards: dict[str, GuardState]
    limits: dict[str, float]
    arrays: dict[str, Array]
    related: Related | None = None


def pack_scoring(scoring: Scoring) -> ScoringState:
    arrays: dict[str, Any] = {"predicted": scoring.predicted, "actual": scoring.actual}
    if scoring.warmup:
        prediction, label = (joined([pair[i] for pair in scoring.warmup]) for i in (0, 1))
        arrays |= {
            "prediction": prediction.number, "prediction_name": prediction.name.astype(np.int32),
            "label": label.number, "label_name": label.name.astype(np.int32),
        }  # fmt: skip
    return ScoringState(
        scoring.generation, scoring.digest, scoring.learned, scoring.performance,
        pack_monitor(scoring.monitor) if scoring.monitor is not None else None,
        {guard.limit.subject: guard.state() for guard in scoring.guards},
        {guard.limit.subject: guard.limit.value for guard in scoring.guards},
        {name: pack_array(array) for name, array in arrays.items()},
        _pack_related(scoring.relating) if scoring.relating is not None else None,
    )  # fmt: skip


def _pack_related(relating: OutcomeRelating) -> Related:
    trail = {name: pack_array(array) for name, array in relating.trail.state().items()}
    return Related(relating.trail.rows, relating.mark, trail, relating.relating.state())


def _restore_related(relating: OutcomeRelating, state: Related) -> None:
    """Raises WireError."""
    if not (0 <= state.rows < 2**62 and 0 < state.mark < 16):
        raise WireError("relations with the label over rows that cannot be")
    trail = {name: unpack_array(array) for name, array in state.trail.items()}
    relating.trail.restore(state.rows, trail)
    check_trail(trail, np.full(trail["codes"].shape[1], 256))
    relating.relating.restore(state.relations, state.rows)
    relating.mark = state.mark


def restore_scoring(scoring: Scoring, state: ScoringState, classes: int) -> dict[str, str]:
    """Bring a fresh scoring to a state; the detectors that had to start cold, and why. Raises WireError.

    A limit that the configuration has changed since begins anew.
    """
    arrays: dict[str, Any] = {name: unpack_array(array) for name, array in state.arrays.items()}
    cold: dict[str, str] = {}
    scoring.generation = state.generation
    if state.performance is not None and state.watched is not None:
        scoring.start(state.performance, state.digest, learned=state.learned)
        assert scoring.monitor is not None  # made by `start`
        cold = restore_monitor(scoring.monitor, state.watched)
        for guard in scoring.guards:
            given = state.guards.get(guard.limit.subject)
            if given is not None and state.limits.get(guard.limit.subject) == guard.limit.value:
                guard.restore(given)
        if scoring.relating is not None and state.related is not None:
            _restore_related(scoring.relating, state.related)
    elif state.performance is not None or state.watched is not None:
        raise WireError("a baseline without a monitor, or the other way round")
    scoring.predicted, scoring.actual = _same_length(arrays, "predicted", "actual")
    if "label" in arrays:
        names = ("prediction", "label", "prediction_name", "label_name")
        number, label, name, label_name = _same_length(arrays, *names)
        for places in (name, label_name):
            if len(places) and not NO_NAME <= int(places.min()) <= int(places.max()) < max(classes, 1):
                raise WireError("a warm-up of classes that are not there")
        scoring.warmup = [(Values(number, name.astype(np.int16)), Values(label, label_name.astype(np.int16)))]
    return cold


def _same_length(arrays: dict[str, Any], *names: str) -> list[Any]:
    found = [arrays[name] for name in names if name in arrays and arrays[name].ndim == 1]
    if len(found) < len(names) or len({len(array) for array in found}) > 1:
        raise WireError(f"the arrays {', '.join(names)} do not fit one another")
    return found
