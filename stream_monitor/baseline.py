"""From outcomes to what they looked like when the model was good: errors as columns, metrics, calibration. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.outcomes import NO_NAME, Values
from stream_monitor.performance import METRICS, errors, measured, pairs_of, task_of
from stream_monitor.reference import Column, Kind, Performance, Role, Season, StreamKey, Task

Floats = npt.NDArray[np.float64]

FEWEST: Final = 100
"""Outcomes that a baseline takes at least."""
MOST_KNOTS: Final = 512
LOG_LOSS_SCALE: Final = -math.log(1e-3)
"""Where a log loss is cut when it is tested: a limit holds for the cut losses if it does for the whole."""
ERROR: Final = "error"
ABSOLUTE: Final = "absolute_error"


def learn(
    prediction: Values, label: Values, names: Sequence[str], task: Task | None = None, *, ordered: bool = True
) -> Performance | None:
    """The performance of a run of outcomes (rows without a prediction or a label are left out); None where there are
    too few of them. `task` None: told by the data."""
    both = _present(prediction) & _present(label)
    prediction, label = prediction.take(np.flatnonzero(both)), label.take(np.flatnonzero(both))
    if len(label) < FEWEST:
        return None
    found, positive = task_of(prediction, label, names)
    if task is not None and task is not found:
        found, positive = task, ""
    numbers: dict[str, int] = {}
    pairs = pairs_of(found, positive, prediction, label, names, lambda name: numbers.setdefault(name, len(numbers)))
    if len(pairs) < FEWEST:
        return None
    metrics = {
        metric: _short(interval.value) for metric, interval in measured(found, pairs.predicted, pairs.actual).items()
    }
    return Performance(
        found, len(pairs), _columns(found, pairs.predicted, pairs.actual, ordered), metrics, positive,
        _scales(found, pairs.predicted, pairs.actual),
        calibration(pairs.predicted, pairs.actual) if found is Task.BINARY else [],
    )  # fmt: skip


def _present(values: Values) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = np.isfinite(values.number) | (values.name != NO_NAME)
    return present


def error_values(performance: Performance, predicted: Floats, actual: Floats) -> Floats:
    """What the error columns hold, `[rows, columns]`."""
    by_name = {ERROR: errors(performance.task, predicted, actual)}
    by_name[ABSOLUTE] = np.abs(predicted - actual)
    return np.stack([by_name[column.name] for column in performance.columns], axis=1)


def _columns(task: Task, predicted: Floats, actual: Floats, ordered: bool) -> list[Column]:
    """The error as a column: 0 or 1 for classes; for scores how far they are off too; for values only that."""
    values = {ERROR: errors(task, predicted, actual)} if task is not Task.REGRESSION else {}
    if task is Task.REGRESSION or (task is Task.BINARY and len(np.unique(predicted)) > 2):
        values[ABSOLUTE] = np.abs(predicted - actual)
    rows = [
        Row("", "", "", 0, dict(zip(values, row, strict=True)), None, None, None, 0, i, 0)
        for i, row in enumerate(zip(*(value.tolist() for value in values.values()), strict=True))
    ]
    options = FitOptions(
        season=Season.NONE, kinds=dict.fromkeys(values, Kind.NUMERIC), ordered=ordered, relations=False
    )
    fitted = fit(rows, StreamKey("outcomes"), options)
    return [msgspec.structs.replace(column, role=Role.OUTCOME) for column in fitted.columns]


def _scales(task: Task, predicted: Floats, actual: Floats) -> dict[str, float]:
    """Where losses without a bound are cut."""
    if task is Task.REGRESSION:
        largest = float(np.abs(predicted - actual).max())
        scale = _short(2 * largest) or 1.0
        return dict.fromkeys(METRICS[task], scale)
    return {"log_loss": LOG_LOSS_SCALE} if task is Task.BINARY else {}


def calibration(scores: Floats, actual: Floats) -> list[tuple[float, float]]:
    """Score → share of positives, by isotonic regression (pool adjacent violators), in at most `MOST_KNOTS` knots.

    M. Ayer et al., "An empirical distribution function for sampling with incomplete information", Ann. Math. Stat. 26
    (1955). Ends of blocks are kept, so that what lies between two knots is interpolated.
    """
    distinct, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    share = np.bincount(place, weights=actual) / counts
    blocks: list[list[float]] = []  # mean, weight, first, last
    for i, (mean, weight) in enumerate(zip(share.tolist(), counts.tolist(), strict=True)):
        blocks.append([mean, weight, i, i])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean2, weight2, _, last = blocks.pop()
            mean1, weight1, first, _ = blocks.pop()
            total = weight1 + weight2
            blocks.append([(mean1 * weight1 + mean2 * weight2) / total, total, first, last])
    knots: list[tuple[float, float]] = []
    for mean, _, first, last in blocks:
        knots += [(float(distinct[int(i)]), _short(mean)) for i in sorted({first, last})]
    if len(knots) > MOST_KNOTS:
        keep = np.unique(np.linspace(0, len(knots) - 1, MOST_KNOTS).round().astype(int))
        knots = [knots[i] for i in keep.tolist()]
    return knots


def _short(value: float) -> float:
    """Nine significant digits: a document should not differ in the last bit between machines."""
    return float(f"{value:.9g}")
