"""From what the first pass learned to a draft of the reference: columns and bins, counts still to come. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.binning import aligned_edges, counts_of, edges_of
from stream_monitor.codes import FIRST_BIN
from stream_monitor.discover import Learned, skip_reason
from stream_monitor.errors import DataError
from stream_monitor.features import ONE_LESS, PREDICTION, canonical, clean, column_name, feature_of
from stream_monitor.learn import Learner
from stream_monitor.options import FitOptions
from stream_monitor.reference import (
    MAX_COLUMNS,
    SCHEMA_VERSION,
    Bins,
    Column,
    Kind,
    Reference,
    Role,
    Season,
    Source,
    StreamKey,
)

Floats = npt.NDArray[np.float64]

MOST_CATEGORIES: Final = 60
MOST_RARE: Final = 1_000
MOST_RARE_TEXT: Final = 4_000_000
"""Characters of all rare names of a document; columns that come after have none."""
QUANTILES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Draft:
    """A reference whose counts are those of the kept rows. By column: what was learned, and how many of the `rare`
    categories occurred just once."""

    reference: Reference
    learned: list[Learned]
    singles: list[int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    role: Role
    learned: Learned
    kind: Kind


def draft(learner: Learner, stream: StreamKey, options: FitOptions) -> Draft:
    """Choose the columns and their bins, without season. Raises DataError where nothing can be watched."""
    skipped: dict[str, str] = {}
    inputs, predictions = list(_inputs(learner, stream, options, skipped)), list(_predictions(learner, skipped))
    most = min(options.most_columns, MAX_COLUMNS)
    room = max(0, most - len(predictions))
    if len(inputs) > room:  # those that make segments come first: there are none without them
        inputs.sort(key=lambda candidate: feature_of(candidate.name) not in options.segment_by)
    for surplus in inputs[room:] + predictions[most:]:
        skipped[surplus.name] = f"more than {most} columns"
    chosen = inputs[:room] + predictions[:most]
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:10])
        raise DataError(
            f"{stream}: nothing to watch in {learner.rows} rows ({reasons or 'no features, no prediction'})"
        )
    columns, singles, text = [], [], 0
    for candidate in chosen:
        column, single = _column(candidate, learner, options.importance.get(candidate.name))
        text += sum(map(len, column.rare))
        if text > MOST_RARE_TEXT:
            column = msgspec.structs.replace(column, rare=[], exhaustive=False)
        columns.append(column)
        singles.append(single)
    source = Source("stream", learner.rows)
    reference = Reference(SCHEMA_VERSION, *stream, columns, source, skipped=skipped)
    return Draft(reference, [candidate.learned for candidate in chosen], singles)


def _inputs(learner: Learner, stream: StreamKey, options: FitOptions, skipped: dict[str, str]) -> Iterator[_Candidate]:
    order = _time_order(learner)
    named = options.named()
    for name in dict.fromkeys([*learner.inputs, *named]):
        learned = learner.inputs.get(name) or Learned()
        reason = options.refusal(name) or ("its name is too long or no text" if clean(name) != name else None)
        if reason is None and name not in named:
            if not learned.watchable and not learned.types[list]:
                continue  # merely holds other columns
            values = learner.numbers(learned)
            values = values if order is None else values[order]
            reason = skip_reason(name, learned, values[np.isfinite(values)])
            if any(f"{name}={value}" in stream.segment.split(",") for value in learned.constant):
                reason = "names the segment"
        if reason:
            skipped[clean(name)] = reason
        else:
            yield _Candidate(column_name(name), Role.INPUT, learned, options.kind(name) or learned.kind)


def _time_order(learner: Learner) -> npt.NDArray[np.int64] | None:
    """The order of the kept rows by time, None if that is theirs already."""
    times = learner.times
    return np.argsort(times, kind="stable") if (np.diff(times) < 0).any() else None


def _predictions(learner: Learner, skipped: dict[str, str]) -> Iterator[_Candidate]:
    scalar = learner.scalar
    if learner.maps <= scalar.numeric + scalar.named:
        if scalar.numeric or scalar.named:
            yield _Candidate(PREDICTION, Role.PREDICTION, scalar, scalar.kind)
        return
    labels = sorted(label for label in learner.classes if clean(label) == label)
    if len(labels) == 2:
        scores = [learner.numbers(learner.classes[label]) for label in labels]
        if np.allclose(scores[0] + scores[1], 1, atol=1e-6) and len(scores[0]):
            skipped[f"{PREDICTION}.{labels[0]}"] = f"{ONE_LESS}{labels[1]}"
            labels = labels[1:]
    for label in labels:
        yield _Candidate(f"{PREDICTION}.{label}", Role.PREDICTION, learner.classes[label], Kind.NUMERIC)


def _column(candidate: _Candidate, learner: Learner, importance: float | None) -> tuple[Column, int]:
    """The column with draft counts, and how many of its rare categories occurred once."""
    learned = candidate.learned
    values = learner.numbers(learned)
    values = np.sort(values[np.isfinite(values)])
    special = [0] * FIRST_BIN
    if candidate.kind is Kind.CATEGORICAL:
        return _categorical(candidate, values, 2**learner.thinned, importance)
    edges = edges_of(values)
    low = float(values[0]) if len(values) else 0.0
    counts = special + counts_of(values, edges)
    if edges:  # of all rows, not just of those that were kept
        low, edges[-1] = min(low, learned.least), max(edges[-1], learned.most)
    mean, sd = _moments(values)
    column = Column(
        candidate.name, candidate.role, Kind.NUMERIC, [Bins(counts, edges, low)],
        quantiles=_quantiles(values), mean=mean, sd=sd, importance=importance,
    )  # fmt: skip
    return column, 0


def _categorical(candidate: _Candidate, numbers: Floats, weight: int, importance: float | None) -> tuple[Column, int]:
    names: Counter[str] = candidate.learned.names.copy()
    if not candidate.learned.names_numbers:
        distinct, counts = np.unique(numbers, return_counts=True)
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            names[canonical(value) or ""] += count * weight
    ranked = sorted(names, key=lambda name: (-names[name], name))
    common = [name for name in ranked[:MOST_CATEGORIES] if names[name] > 1]
    rare = ranked[len(common) :]
    exhaustive = len(rare) <= MOST_RARE and not candidate.learned.forgot
    column = Column(
        candidate.name, candidate.role, Kind.CATEGORICAL,
        [Bins([0] * FIRST_BIN + [names[name] for name in common])],
        categories=common, rare=rare[:MOST_RARE], exhaustive=exhaustive, importance=importance,
    )  # fmt: skip
    return column, sum(names[name] == 1 for name in rare)


def _quantiles(values: Floats) -> dict[str, float]:
    """Level → the least of the sorted values with at least that share of them at or below it."""
    if not len(values):
        return {}
    return {str(q): float(values[int(np.ceil(q * len(values))) - 1]) for q in QUANTILES}


def _moments(values: Floats) -> tuple[float | None, float | None]:
    """Mean and standard deviation of sorted values; None where a float cannot hold them."""
    if not len(values):
        return None, None
    if values[0] == values[-1]:
        return float(values[0]), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = (float(f"{moment:.12g}") for moment in (values.mean(), values.std()))
    return mean if np.isfinite(mean) else None, sd if np.isfinite(sd) else None


def split(found: Draft, learner: Learner, season: Season, slots: list[int]) -> Draft:
    """The draft with bins by the strata of a season."""
    reference = msgspec.structs.replace(found.reference, season=season, slots=slots)
    stratum = reference.strata_of(learner.times)
    columns = []
    for column, learned in zip(reference.columns, found.learned, strict=True):
        strata = column.strata * reference.strata
        if column.kind is Kind.NUMERIC and column.bins:
            values = learner.numbers(learned)
            finite = np.isfinite(values)
            parts = [np.sort(values[finite & (stratum == s)]) for s in range(reference.strata)]
            edges = aligned_edges(parts)
            lows = [min(part[0] if len(part) else np.inf, e[0]) for part, e in zip(parts, edges, strict=True)]
            strata = [
                Bins(column.strata[0].counts[:FIRST_BIN] + [0] * len(e), e, float(low))
                for e, low in zip(edges, lows, strict=True)
            ]  # fmt: skip
        columns.append(msgspec.structs.replace(column, strata=strata))
    return Draft(msgspec.structs.replace(reference, columns=columns), found.learned, found.singles)
