"""Metrics and their intervals, limits as bets, baselines, and one stream's scoring."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from stream_monitor.alerts import Alert, AlertKind, Severity, State
from stream_monitor.baseline import calibration, learn
from stream_monitor.batch import Origins
from stream_monitor.bets import Bet
from stream_monitor.config import Settings
from stream_monitor.errors import WireError
from stream_monitor.guards import MOST_PENDING, Guard, GuardState
from stream_monitor.outcomes import Values, values_of
from stream_monitor.performance import (
    METRICS,
    Limit,
    loss_of,
    losses,
    measure,
    measured,
    metric_of,
    pairs_of,
    task_of,
)
from stream_monitor.reference import Performance, StreamKey, Task
from stream_monitor.scoring import Scoring
from stream_monitor.scoring_state import pack_scoring, restore_scoring
from stream_monitor.streams import StreamFactory
from tests.unit.world import settings

Arrays = tuple[np.ndarray, np.ndarray]


def binary(n: int, seed: int, noise: float = 0.0) -> Arrays:
    """Calibrated scores; a share `noise` of the labels is flipped."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(0.6, 0.6, n), 3)
    labels = (rng.random(n) < scores).astype(float)
    return scores, np.where(rng.random(n) < noise, 1 - labels, labels)


def values(raw: list[object]) -> tuple[Values, list[str]]:
    names: dict[str, int] = {}
    return values_of(raw, names), list(names)


# ---- metrics ----


def test_the_metrics_are_those_of_the_books() -> None:
    predicted = np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.6, 0.2, 0.1])
    actual = np.array([1.0, 1, 0, 1, 0, 1, 0, 0])
    found = {metric: interval.value for metric, interval in measured(Task.BINARY, predicted, actual).items()}
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["error"] == pytest.approx(2 / 8)
    assert found["precision"] == pytest.approx(3 / 4)
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["f1"] == pytest.approx(3 / 4)
    assert found["auc"] == pytest.approx(14 / 16)
    assert found["brier"] == pytest.approx(((predicted - actual) ** 2).mean())
    assert found["log_loss"] == pytest.approx(-np.log(np.where(actual > 0, predicted, 1 - predicted)).mean())


def test_regression_and_classes() -> None:
    found = {m: i.value for m, i in measured(Task.REGRESSION, np.array([1.0, 2, 4]), np.array([0.0, 2, 2])).items()}
    assert found == {"bias": pytest.approx(1.0), "mae": pytest.approx(1.0), "rmse": pytest.approx(math.sqrt(5 / 3))}
    classes = measured(Task.CLASSES, np.array([0.0, 1, 2, 2]), np.array([0.0, 1, 1, 2]))
    assert classes["accuracy"].value == pytest.approx(0.75)
    assert classes["precision"].value == pytest.approx((1 + 1 + 0.5) / 3)
    assert classes["recall"].value == pytest.approx((1 + 0.5 + 1) / 3)


@pytest.mark.parametrize("metric", ["accuracy", "precision", "recall", "f1", "auc", "brier"])
def test_intervals_hold_what_they_promise(metric: str) -> None:
    """Of 300 samples of 200 outcomes, about 95 % of the intervals hold the value of 200,000."""
    truth = measure(metric, Task.BINARY, *binary(200_000, 0))
    assert truth is not None
    inside = 0
    for seed in range(1, 301):
        found = measure(metric, Task.BINARY, *binary(200, seed))
        assert found is not None
        inside += found.low <= truth.value <= found.high
    assert inside >= 300 * 0.91


@pytest.mark.parametrize("metric", [m for m in METRICS[Task.BINARY] if m not in ("auc", "log_loss")])
def test_the_mean_loss_gives_the_metric(metric: str) -> None:
    predicted, actual = binary(1_000, 3)
    loss, about = losses(metric, Task.BINARY, predicted, actual, 1.0)
    mean = float((loss * about).sum() / about.sum())
    found = measure(metric, Task.BINARY, predicted, actual)
    assert found is not None
    assert metric_of(metric, mean, 1.0) == pytest.approx(found.value)
    assert loss_of(metric, found.value, 1.0) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("predictions", "labels", "task", "positive"),
    [
        ([0.2, 0.9], [0, 1], Task.BINARY, ""), ([0.2, 0.9], [False, True], Task.BINARY, ""),
        ([0.2, 0.9], ["no", "yes"], Task.BINARY, "yes"),
        ([{"a": 0.4, "b": 0.6}, {"a": 0.9}], ["a", "b"], Task.BINARY, "b"),
        (["a", "b"], ["a", "c"], Task.CLASSES, ""), ([{"a": 0.4, "b": 0.6}] * 2, ["a", "c"], Task.CLASSES, ""),
        ([3, 4], [3.5, 1], Task.REGRESSION, ""), ([0.5, 0.7], [0.4, 0.1], Task.REGRESSION, ""),
    ],
)  # fmt: skip
def test_the_data_tells_the_task(predictions: list[object], labels: list[object], task: Task, positive: str) -> None:
    names: dict[str, int] = {}
    prediction, label = values_of(predictions, names), values_of(labels, names)
    assert task_of(prediction, label, list(names)) == (task, positive)
    pairs = pairs_of(task, positive, prediction, label, list(names), list(names).index)
    assert len(pairs) == 2


def test_a_number_and_the_text_of_it_are_one_class() -> None:
    names: dict[str, int] = {}
    prediction, label = values_of([{"1": 0.9}, {"2": 0.8}, {"3": 1.0}], names), values_of([1, "2", 7], names)
    numbers = {name: i for i, name in enumerate(names)}
    pairs = pairs_of(Task.CLASSES, "", prediction, label, list(names), lambda n: numbers.setdefault(n, len(numbers)))
    assert (pairs.predicted == pairs.actual).tolist() == [True, True, False]


# ---- bets ----


def test_a_limit_that_is_kept_is_hardly_ever_said_to_be_broken() -> None:
    """At the limit itself, 400 × 5,000 outcomes at one false alarm in 100,000: 20 are allowed in the mean."""
    rng, fired = np.random.default_rng(5), 0
    for _ in range(400):
        bet = Bet(0.1, 1e-5, 1e4)
        fired += bet.watch((rng.random(5_000) < 0.1).astype(float), np.ones(5_000)) >= 0
    assert fired <= 30


def test_a_broken_limit_is_found_and_a_return_is_proved() -> None:
    rng = np.random.default_rng(6)
    bet = Bet(0.1, 1e-8, 1e4)
    assert bet.watch((rng.random(3_000) < 0.05).astype(float), np.ones(3_000)) < 0
    at = bet.watch((rng.random(3_000) < 0.2).astype(float), np.ones(3_000))
    assert 50 < at < 600
    assert abs(bet.age - at) < 200
    assert not bet.follow((rng.random(5_000) < 0.2).astype(float), np.ones(5_000))
    assert bet.follow((rng.random(5_000) < 0.05).astype(float), np.ones(5_000))


def test_outcomes_it_is_not_about_change_nothing() -> None:
    bet = Bet(0.1, 1e-3, 1e4)
    assert bet.watch(np.ones(10_000), np.zeros(10_000)) < 0


# ---- baselines ----


def test_isotonic_calibration_recovers_the_shares() -> None:
    rng = np.random.default_rng(7)
    scores = rng.random(50_000)
    labels = (rng.random(50_000) < scores**2).astype(float)
    knots = np.array(calibration(scores, labels))
    assert (np.diff(knots[:, 0]) > 0).all()
    assert (np.diff(knots[:, 1]) >= 0).all()
    grid = np.linspace(0.05, 0.95, 50)
    assert np.abs(np.interp(grid, knots[:, 0], knots[:, 1]) - grid**2).max() < 0.04


def baseline(noise: float = 0.0) -> Performance:
    scores, labels = binary(20_000, 99, noise)
    found = learn(values_of(scores.tolist(), {}), values_of(labels.tolist(), {}), [])
    assert found is not None
    return found


def test_a_baseline_is_a_document() -> None:
    found = baseline()
    assert found.task is Task.BINARY
    assert [column.name for column in found.columns] == ["error", "absolute_error"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Performance) == found
    assert learn(values_of([0.5] * 50, {}), values_of([1] * 50, {}), []) is None, "too few"


# ---- scoring ----


def scoring(given: Settings | None = None) -> Scoring:
    found = StreamFactory(given or settings(detection={"budget_events": 1_000_000})).model("m").new_scoring
    assert found is not None
    return found(StreamKey("m", "1"))


def origins(first: int, count: int) -> Origins:
    numbers = np.arange(first, first + count, dtype=np.int64)
    zeros = np.zeros(count, dtype=np.int32)
    return Origins(zeros, numbers, zeros, numbers * 1_000, numbers * 1_000)


def feed(watched: Scoring, scores: np.ndarray, labels: np.ndarray, first: int, cut: Callable[[], int]) -> list[Alert]:
    alerts, start = [], 0
    while start < len(scores):
        stop = min(len(scores), start + cut())
        prediction, label = values_of(scores[start:stop].tolist(), {}), values_of(labels[start:stop].tolist(), {})
        found, unusable = watched.feed(prediction, label, [], int, origins(first + start, stop - start))
        assert not unusable
        alerts += found
        start = stop
    return alerts


def test_worse_predictions_raise_alerts_with_intervals_and_better_ones_do_not() -> None:
    limits = {"accuracy": {"min": 0.7}}
    watched = scoring(settings(detection={"budget_events": 1_000_000, "performance": {"limits": limits}}))
    watched.start(baseline(noise=0.05))
    assert feed(watched, *binary(10_000, 1, 0.05), 0, lambda: 999) == []
    assert feed(watched, *binary(5_000, 2, 0.0), 10_000, lambda: 999) == [], "fewer errors"
    alerts = feed(watched, *binary(3_000, 3, 0.3), 15_000, lambda: 999)
    fired = {alert.column: alert for alert in alerts if alert.state is State.FIRING}
    assert set(fired) == {"error", "absolute_error", "accuracy", "auc", "accuracy.min"}
    assert fired["error"].kind is AlertKind.CONCEPT_DRIFT
    assert fired["accuracy.min"].severity is Severity.CRITICAL
    for alert in fired.values():
        assert alert.performance is not None
        assert alert.performance.low < alert.performance.value < alert.performance.high
        assert alert.detected.offset - 15_000 < (1_500 if alert.column == "accuracy.min" else 600)
        assert abs(alert.onset.event.offset - 15_000) < 500
    back = feed(watched, *binary(20_000, 4, 0.05), 18_000, lambda: 999)
    assert {alert.column for alert in back if alert.state is State.RESOLVED} >= {"error", "accuracy", "accuracy.min"}


def test_a_baseline_is_learned_where_there_is_none() -> None:
    watched = scoring(settings(detection={"budget_events": 1_000_000, "warmup_events": 2_000}))
    assert feed(watched, *binary(1_999, 1), 0, lambda: 100) == []
    assert watched.performance is None
    assert feed(watched, *binary(3_000, 2), 1_999, lambda: 100) == []
    assert watched.performance is not None
    alerts = feed(watched, *binary(2_000, 3, 0.4), 4_999, lambda: 100)
    assert "error" in {alert.column for alert in alerts}


@pytest.mark.parametrize(("seed", "column", "noise"), [(8, "absolute_error", 0.4), (7, "error", 0.3)])
def test_an_episode_that_goes_on_stays_open_with_a_baseline_learned_from_few(
    seed: int, column: str, noise: float
) -> None:
    """The errors lie between two alternatives; each of these was resolved as "returned" after 3,000 or 7,000 rows."""
    watched = scoring(settings(detection={"budget_events": 1_000_000, "warmup_events": 2_000}))
    feed(watched, *binary(4_000, 1_000 + seed), 0, lambda: 500)
    alerts = feed(watched, *binary(10_000, 3_000 + seed, noise), 4_000, lambda: 500)
    states = [alert.state for alert in alerts if alert.column == column]
    assert states.count(State.FIRING) == 1
    assert State.RESOLVED not in states


def test_wrong_values_of_a_regression_are_found() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(100, 20, 8_000)
    watched = scoring(settings(detection={"budget_events": 1_000_000, "warmup_events": 2_000}))
    off = np.where(np.arange(8_000) < 5_000, rng.normal(0, 5, 8_000), rng.normal(12, 5, 8_000))
    alerts = feed(watched, truth + off, truth, 0, lambda: 333)
    fired = {a.column: a for a in alerts if a.state is State.FIRING}
    assert set(fired) == {"absolute_error", "mae"}
    assert all(5_000 <= a.detected.offset < 5_300 for a in fired.values())


SELECTED = {name: {"enabled": True} for name in ("ddm", "hddm_a", "hddm_w")}


def test_a_selected_detector_of_errors_says_who_it_was() -> None:
    given = settings(detection={"budget_events": 1_000_000, "detectors": SELECTED})
    watched = scoring(given)
    watched.start(baseline(noise=0.05))
    assert feed(watched, *binary(10_000, 1, 0.05), 0, lambda: 999) == []
    alerts = feed(watched, *binary(3_000, 3, 0.9), 10_000, lambda: 999)
    alerts += feed(watched, *binary(20_000, 4, 0.05), 13_000, lambda: 999)
    spoke = {each.detector for alert in alerts if alert.column == "error" for each in alert.signals}
    assert spoke >= {"evidence", "ddm", "hddm_a", "hddm_w"}
    assert {alert.kind for alert in alerts if alert.column == "error"} == {AlertKind.CONCEPT_DRIFT}
    others = {each.detector for alert in alerts if alert.column != "error" for each in alert.signals}
    assert not others & set(SELECTED)


def test_one_whose_word_counts_at_once_opens_an_alert() -> None:
    given = settings(detection={"budget_events": 10**9, "detectors": {"ddm": {"enabled": True, "chance": 1.0}}})
    watched = scoring(given)
    watched.start(baseline(noise=0.05))
    alerts = feed(watched, *binary(2_000, 1, 0.05), 0, lambda: 999)
    alerts += feed(watched, *binary(2_000, 3, 0.3), 2_000, lambda: 999)
    first = next(alert for alert in alerts if alert.column == "error")
    assert (first.state, [each.detector for each in first.signals]) == (State.FIRING, ["ddm"])


def test_inputs_are_not_watched_by_what_is_for_errors() -> None:
    given = settings(detection={"detectors": SELECTED}).detection
    assert not set(given.params()) & set(SELECTED)
    assert set(given.error_params()) >= set(SELECTED)
    assert given.digest() != settings().detection.digest()


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_cuts_and_restores_change_nothing(seed: int, selected: bool) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = (
        np.concatenate(part)
        for part in zip(binary(2_500, seed), binary(1_500, seed + 50, 0.3), binary(4_000, seed + 90), strict=True)
    )  # one line says it
    detectors = SELECTED if selected else {}
    given = settings(detection={"budget_events": 100_000, "warmup_events": 1_000, "detectors": detectors})
    whole = scoring(given)
    wanted = feed(whole, scores, labels, 0, lambda: 10_000)
    cut = scoring(given)
    found: list[Alert] = []
    for start in range(0, len(scores), 800):
        part = slice(start, start + 800)
        found += feed(cut, scores[part], labels[part], start, lambda: int(rng.integers(1, 300)))
        data = msgspec.msgpack.encode(pack_scoring(cut))
        fresh = scoring(given)
        assert not restore_scoring(fresh, msgspec.msgpack.decode(data, type=type(pack_scoring(cut))), 0)
        assert msgspec.msgpack.encode(pack_scoring(fresh)) == data
        cut = fresh
    assert wanted
    for mine, its in zip(found, wanted, strict=True):
        assert mine == its


def test_a_damaged_state_is_an_error_by_name() -> None:
    watched = scoring()
    watched.start(baseline())
    feed(watched, *binary(300, 1), 0, lambda: 300)
    state = pack_scoring(watched)

    def short(guard: GuardState) -> GuardState:
        return msgspec.structs.replace(guard, worse=[1.0])

    for broken in (
        msgspec.structs.replace(state, watched=None),
        msgspec.structs.replace(state, arrays={"predicted": state.arrays["predicted"]}),
        msgspec.structs.replace(state, guards={name: short(guard) for name, guard in state.guards.items()}),
    ):  # fmt: skip
        with pytest.raises(WireError):
            restore_scoring(scoring(), broken, 0)


def test_limits_on_the_wrong_side_are_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is better the higher it is"):
        settings(detection={"performance": {"limits": {"accuracy": {"max": 0.9}}}})
    with pytest.raises(ValueError, match="no metric is called"):
        settings(detection={"performance": {"limits": {"acuracy": {"min": 0.9}}}})


def test_scores_are_paired_first_come_first_served_and_survive_a_restart() -> None:
    """Against the obvious way: two lists, of which one is empty."""
    rng, limit = np.random.default_rng(1), Limit("auc", "reference", 0.8)
    guard = Guard(limit, Task.BINARY, 1.0, 1e-6)
    highs: list[float] = []
    lows: list[float] = []
    for share in rng.choice([0.1, 0.5, 0.95], size=200):
        predicted = rng.random(40).round(1)
        actual = (rng.random(40) < share).astype(float)
        loss, about = guard.losses(predicted, actual)
        for i, (score, positive) in enumerate(zip(predicted.tolist(), (actual > 0).tolist(), strict=True)):
            own, others = (highs, lows) if positive else (lows, highs)
            other = others.pop(0) if others else None
            assert about[i] == (other is not None)
            if other is not None:
                high, low = (score, other) if positive else (other, score)
                assert loss[i] == (0.5 if high == low else float(high < low))
            elif len(own) < MOST_PENDING:
                own.append(score)
        state = guard.state()
        assert (state.highs, state.lows) == (highs, lows)
        if rng.random() < 0.2:
            guard = Guard(limit, Task.BINARY, 1.0, 1e-6)
            guard.restore(state)
