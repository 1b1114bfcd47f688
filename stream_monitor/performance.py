"""How good predictions are: outcomes brought to one form, metrics over a run of them, with confidence intervals. Pure.

Three kinds of model: `binary` (the score of the positive class, or the class itself), `classes` (one of several
categories), `regression`. Which one is told by the data unless the configuration says it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.features import canonical
from stream_monitor.outcomes import NO_NAME, Values
from stream_monitor.reference import Task

Floats = npt.NDArray[np.float64]

LEVEL: Final = 0.95
THRESHOLD: Final = 0.5
"""The score from which on a prediction is the positive class."""
LOG_FLOOR: Final = 1e-15
RATES: Final = ("accuracy", "error", "precision", "recall", "f1")
METRICS: Final = {
    Task.BINARY: (*RATES, "log_loss", "brier", "auc"),
    Task.CLASSES: RATES,
    Task.REGRESSION: ("bias", "mae", "rmse"),
}
MAIN: Final = {Task.BINARY: ("accuracy", "auc"), Task.CLASSES: ("accuracy",), Task.REGRESSION: ("mae",)}
"""What is compared with the reference unless the configuration says otherwise."""
HIGHER_IS_BETTER: Final = frozenset({"accuracy", "precision", "recall", "f1", "auc"})


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric over `n` outcomes (those that it is about: of precision, the predicted positives) between `low` and
    `high` at the level of `LEVEL`."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class Limit:
    """What a metric may not pass. `bound`: `reference`, or the user's `min` or `max`."""

    metric: str
    bound: str
    value: float

    @property
    def subject(self) -> str:
        return self.metric if self.bound == "reference" else f"{self.metric}.{self.bound}"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Predictions and labels of `[rows]` in the form of a task: scores and 0/1, numbers of classes, or values.

    Rows that are no outcome of that task (no prediction, another label) are left out; `kept` says which stayed.
    """

    predicted: Floats
    actual: Floats
    kept: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.predicted)


def task_of(prediction: Values, label: Values, names: Sequence[str]) -> tuple[Task, str]:
    """What kind of model it is, by some outcomes, and of a binary one the positive class ("" where labels are 0 and 1):
    the last of the two in the order of their names."""
    numeric = label.number[(label.name == NO_NAME) & np.isfinite(label.number)]
    labels = {names[i] for i in np.unique(label.name) if i != NO_NAME}
    scores = prediction.number[np.isfinite(prediction.number)]
    if (prediction.name != NO_NAME).any():
        classes = labels | {canonical(v) or "" for v in np.unique(numeric).tolist()[:3]}
        classes |= {names[i] for i in np.unique(prediction.name) if i != NO_NAME}
        scored = np.isfinite(prediction.number[prediction.name != NO_NAME]).all()
        return (Task.BINARY, max(classes)) if len(classes) == 2 and scored else (Task.CLASSES, "")
    in_unit = len(scores) > 0 and float(scores.min()) >= 0 and float(scores.max()) <= 1
    if labels:
        return (Task.BINARY, max(labels)) if in_unit and len(labels) <= 2 and not len(numeric) else (Task.CLASSES, "")
    if in_unit and len(numeric) and np.isin(numeric, (0.0, 1.0)).all():
        return Task.BINARY, ""
    return Task.REGRESSION, ""


def pairs_of(
    task: Task, positive: str, prediction: Values, label: Values, names: Sequence[str], class_of: Callable[[str], int]
) -> Pairs:
    """Outcomes in the form of a task. `class_of` gives every class a number (`classes` only)."""
    if task is Task.CLASSES:
        predicted, actual = _classes(prediction, names, class_of), _classes(label, names, class_of)
    elif task is Task.REGRESSION:
        predicted = np.where(prediction.name == NO_NAME, prediction.number, math.nan)
        actual = np.where(label.name == NO_NAME, label.number, math.nan)
    else:
        predicted, actual = _scores(prediction, positive, names), _binary(label, positive, names)
    kept = np.isfinite(predicted) & np.isfinite(actual)
    return Pairs(predicted[kept], actual[kept], kept)


def _classes(values: Values, names: Sequence[str], class_of: Callable[[str], int]) -> Floats:
    """The number of each value's class, NaN for none."""
    found = np.full(len(values), math.nan)
    for place in np.unique(values.name):
        if place != NO_NAME:
            found[values.name == place] = class_of(names[place])
    plain = values.name == NO_NAME
    for number in np.unique(values.number[plain & np.isfinite(values.number)]).tolist():
        found[plain & (values.number == number)] = class_of(canonical(number) or "")
    return np.where(found >= 0, found, math.nan)


def _scores(values: Values, positive: str, names: Sequence[str]) -> Floats:
    """The score of the positive class; a class without a score is certain."""
    inside = (values.number >= 0) & (values.number <= 1)
    scores = np.where(inside, values.number, math.nan)
    named = values.name != NO_NAME
    if named.any():
        is_positive = np.isin(values.name, [i for i, name in enumerate(names) if name == positive])
        certain = np.where(np.isnan(values.number), 1.0, scores)
        scores = np.where(named, np.where(is_positive, certain, 1 - certain), scores)
    return scores


def _binary(values: Values, positive: str, names: Sequence[str]) -> Floats:
    plain = np.where(np.isin(values.number, (0.0, 1.0)), values.number, math.nan)
    named = values.name != NO_NAME
    if not named.any():
        return plain
    is_positive = np.isin(values.name, [i for i, name in enumerate(names) if name == positive])
    return np.where(named, is_positive.astype(np.float64), plain)


# ---- losses ----


def errors(task: Task, predicted: Floats, actual: Floats) -> Floats:
    """Of each outcome: 0 or 1 where it is a class, else how far off it is, never negative."""
    if task is Task.REGRESSION:
        return np.abs(predicted - actual)
    decided = predicted >= THRESHOLD if task is Task.BINARY else predicted
    wrong: Floats = (decided != actual).astype(np.float64)
    return wrong


def losses(metric: str, task: Task, predicted: Floats, actual: Floats, scale: float) -> tuple[Floats, Floats]:
    """Of each outcome in 0 … 1, and whether the metric is about it; the metric is a function of the mean loss (see
    `metric_of`). AUC has none of single outcomes. Losses without a bound are cut at `scale`."""
    about = np.ones(len(predicted))
    if task is Task.REGRESSION:
        off = predicted - actual
        cut = np.clip(off / scale, -1, 1)
        by_metric: dict[str, Floats] = {"bias": (cut + 1) / 2, "mae": np.abs(cut), "rmse": cut**2}
        return by_metric[metric], about
    if metric in ("accuracy", "error"):
        return errors(task, predicted, actual), about
    if metric == "brier":
        squares: Floats = (predicted - actual) ** 2
        return squares, about
    if metric == "log_loss":
        cut_losses: Floats = np.minimum(_log_losses(predicted, actual) / scale, 1.0)
        return cut_losses, about
    decided = predicted >= THRESHOLD
    if metric == "precision":
        return np.subtract(1, actual), decided.astype(np.float64)
    if metric == "recall":
        return np.subtract(1.0, decided), actual
    if metric == "f1":
        return np.subtract(1.0, decided & (actual > 0)), (decided | (actual > 0)).astype(np.float64)
    raise ValueError(metric)


def loss_of(metric: str, value: float, scale: float) -> float:
    """The mean loss at which the metric has that value."""
    if metric in ("accuracy", "precision", "recall", "auc"):
        return 1 - value
    if metric == "f1":
        return 1 - value / (2 - value)  # F1 = 2q / (1 + q), q the share of hits among all but the true negatives
    if metric == "bias":
        return (value / scale + 1) / 2
    if metric == "rmse":
        return (value / scale) ** 2
    return value / scale if metric in ("mae", "log_loss") else value


def metric_of(metric: str, loss: float, scale: float) -> float:
    """The metric's value at a mean loss: the inverse of `loss_of`."""
    if metric in ("accuracy", "precision", "recall", "auc"):
        return 1 - loss
    if metric == "f1":
        return 2 * (1 - loss) / (2 - loss)
    if metric == "bias":
        return (2 * loss - 1) * scale
    if metric == "rmse":
        return math.sqrt(max(loss, 0.0)) * scale
    return loss * scale if metric in ("mae", "log_loss") else loss


def _log_losses(predicted: Floats, actual: Floats) -> Floats:
    right = np.where(actual > 0, predicted, 1 - predicted)
    found: Floats = -np.log(np.maximum(right, LOG_FLOOR))
    return found


# ---- metrics over a run ----


def measure(metric: str, task: Task, predicted: Floats, actual: Floats) -> Interval | None:
    """A metric over outcomes, None where it has no value there (no predicted positive, one class only)."""
    if not len(predicted):
        return None
    if metric == "auc":
        return _auc(predicted, actual)
    if task is Task.REGRESSION:
        return _regression(metric, predicted - actual)
    if task is Task.CLASSES and metric in ("precision", "recall", "f1"):
        return _macro(metric, predicted, actual)
    if metric in ("log_loss", "brier"):
        values = _log_losses(predicted, actual) if metric == "log_loss" else (predicted - actual) ** 2
        return _normal(metric, values)
    loss, about = losses(metric, task, predicted, actual, 1.0)
    return _wilson(metric, float((loss * about).sum()), int(about.sum()))


def measured(task: Task, predicted: Floats, actual: Floats) -> dict[str, Interval]:
    """All metrics of the task that have a value."""
    found = {metric: measure(metric, task, predicted, actual) for metric in METRICS[task]}
    return {metric: interval for metric, interval in found.items() if interval is not None}


def _z() -> float:
    return NormalDist().inv_cdf((1 + LEVEL) / 2)


def _wilson(metric: str, lost: float, n: int) -> Interval | None:
    """E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927)."""
    if not n:
        return None
    p, z = lost / n, _z()
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = sorted(metric_of(metric, min(max(end, 0.0), 1.0), 1.0) for end in (middle - half, middle + half))
    return Interval(metric, metric_of(metric, p, 1.0), ends[0], ends[1], n, "wilson")


def _normal(metric: str, values: Floats) -> Interval:
    n, mean = len(values), float(values.mean())
    half = _z() * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Interval(metric, mean, mean - half, mean + half, n, "normal")


def _regression(metric: str, off: Floats) -> Interval:
    if metric == "bias":
        return _normal(metric, off)
    if metric == "mae":
        return _normal(metric, np.abs(off))
    squares = _normal(metric, off**2)
    low, high = (math.sqrt(max(end, 0.0)) for end in (squares.low, squares.high))
    return Interval(metric, math.sqrt(squares.value), low, high, squares.n, "normal")


def _macro(metric: str, predicted: Floats, actual: Floats) -> Interval:
    """The mean over the classes that occur; its interval by the normal approximation of the mean over classes' rates
    is not known, so the ends are those of the value itself."""
    rates = []
    for each in np.unique(np.concatenate([predicted, actual])).tolist():
        hits = float(((predicted == each) & (actual == each)).sum())
        said, true = float((predicted == each).sum()), float((actual == each).sum())
        precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
        f1 = 2 * hits / (said + true) if said + true else 0.0
        rates.append({"precision": precision, "recall": recall, "f1": f1}[metric])
    value = float(np.mean(rates))
    return Interval(metric, value, value, value, len(predicted), "none")


def _auc(predicted: Floats, actual: Floats) -> Interval | None:
    """J. A. Hanley, B. J. McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982)."""
    positives, negatives = int((actual > 0).sum()), int((actual <= 0).sum())
    if not positives or not negatives:
        return None
    scores, place = np.unique(predicted, return_inverse=True)
    high = np.bincount(place, weights=actual > 0, minlength=len(scores))
    low = np.bincount(place, weights=actual <= 0, minlength=len(scores))
    auc = area(high, low)
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc * auc) + (negatives - 1) * (q2 - auc * auc)
    half = _z() * math.sqrt(max(spread, 0.0) / (positives * negatives))
    n = positives + negatives
    return Interval("auc", auc, max(auc - half, 0.0), min(auc + half, 1.0), n, "hanley_mcneil")


def area(high: npt.NDArray[Any], low: npt.NDArray[Any]) -> float:
    """The area under the ROC curve, of weights of positives and negatives by ascending score; ties count half."""
    below = np.cumsum(low) - low
    return float((high * (below + low / 2)).sum() / (high.sum() * low.sum()))
