"""How good predictions probably are while no labels have come: estimated from calibrated scores. Pure.

Confidence-based performance estimation (CBPE, as in NannyML): a score that says 0.9 is right nine times in ten *if it
is calibrated*. The reference knows, by isotonic regression on its labels, what share of positives each score meant in
training; the codes of the prediction column say how often each score occurs now. What comes out holds as long as that
link does: it sees a model that gets harder cases, and is blind to a world that has changed (which only labels show).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import rounded
from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN
from stream_monitor.performance import THRESHOLD, area
from stream_monitor.reference import Column, Kind, Performance, Role, Task

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated metrics, by names that begin with `estimated_`, over `n` predictions."""

    metrics: dict[str, float]
    n: int


def can_estimate(column: Column, performance: Performance | object) -> bool:
    """Whether the column holds the scores of a binary model whose calibration is known."""
    return (
        isinstance(performance, Performance)
        and performance.task is Task.BINARY
        and len(performance.calibration) > 2
        and column.role is Role.PREDICTION
        and column.kind is Kind.NUMERIC
        and len(column.strata) == 1  # with a season a code stands for another score every hour
    )


def estimate(column: Column, performance: Performance, counts: Counts) -> Estimate | None:
    """Of predictions counted by code; None without any that is a score."""
    positive, decided = _tables(column, performance)
    now = counts.astype(np.float64)
    now[:BELOW] = 0.0
    n = float(now.sum())
    if n == 0:
        return None
    hits, alarms = float(now @ (positive * decided).mean(axis=1)), float(now @ decided.mean(axis=1))
    positives = float(now @ positive.mean(axis=1))
    right = positive * decided + (1 - positive) * (1 - decided)
    found = {"estimated_accuracy": float(now @ right.mean(axis=1)) / n}
    if alarms > 0:
        found["estimated_precision"] = hits / alarms
    if positives > 0:
        found["estimated_recall"] = hits / positives
    if alarms + positives > 0:
        found["estimated_f1"] = 2 * hits / (alarms + positives)
    order = np.array([BELOW, *range(FIRST_BIN, len(now)), ABOVE])
    high = (now * positive.mean(axis=1))[order]
    low = (now * (1 - positive.mean(axis=1)))[order]
    if high.sum() > 0 and low.sum() > 0:
        found["estimated_auc"] = area(high, low)
    return Estimate({name: rounded(value) for name, value in found.items()}, int(n))


def _tables(column: Column, performance: Performance) -> tuple[Floats, Floats]:
    """By code and place within the bin `[codes, places]`: the share of positives, and whether the class is predicted.

    A bin is looked at in several places, as one around the threshold holds both decisions; one that holds a single
    score is that score.
    """
    bins = column.strata[0]
    scores, shares = (np.array(part) for part in zip(*performance.calibration, strict=True))
    edges = np.array(bins.edges)
    left = np.concatenate([[bins.low], edges[:-1]])
    inner = [scores[(scores > low) & (scores <= high)] for low, high in zip(left.tolist(), edges.tolist(), strict=True)]
    places = 8
    points = np.zeros((FIRST_BIN + len(edges), places))
    points[BELOW], points[ABOVE] = bins.low, edges[-1] if len(edges) else bins.low
    for i, known in enumerate(inner):
        at = known if len(known) else np.array([edges[i]])
        points[FIRST_BIN + i] = at[np.linspace(0, len(at) - 1, places).round().astype(int)]
    return np.interp(points, scores, shares), (points >= THRESHOLD).astype(np.float64)
