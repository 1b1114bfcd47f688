"""Limits that a metric of one stream's outcomes may not pass: each with its bet and its open alert. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.bets import Bet
from stream_monitor.compiled import njit
from stream_monitor.errors import WireError
from stream_monitor.performance import Limit, loss_of, losses
from stream_monitor.reference import Task

Floats = npt.NDArray[np.float64]

MOST_PENDING: Final = 256
"""Scores of one class that wait for one of the other, to make a pair."""
RETURN_ODDS: Final = 1e4


class Broken(msgspec.Struct):
    """An open alert of one limit."""

    id: str
    opened_row: int
    onset_row: int
    onset: tuple[int, int, int, int]
    published_row: int
    updates: int = 0
    enough: bool = False


class GuardState(msgspec.Struct, frozen=True):
    worse: list[float]
    better: list[float]
    cusum: list[float]
    since: list[int]
    broken: Broken | None
    highs: list[float]
    lows: list[float]


class Guard:
    """One limit, its bet and its open alert.

    AUC is the share of pairs of a positive and a negative in the right order; disjoint pairs are independent outcomes.
    Scores wait for one of the other class, so those that wait are of one class: a ring.
    """

    def __init__(self, limit: Limit, task: Task, scale: float, alpha: float) -> None:
        self.limit = limit
        self.broken: Broken | None = None
        self.bet = Bet(self._mean_loss(limit, scale), alpha, RETURN_ODDS)
        self._task, self._scale = task, scale
        self._pending = np.zeros(MOST_PENDING)
        self._place = np.zeros(3, dtype=np.int64)
        """Where the first that waits is, how many do, and of which class they are."""

    @staticmethod
    def _mean_loss(limit: Limit, scale: float) -> float:
        loss = loss_of(limit.metric, limit.value, scale)
        return 1 - loss if limit.metric == "bias" and limit.bound == "min" else loss

    def losses(self, predicted: Floats, actual: Floats) -> tuple[Floats, Floats]:
        if self.limit.metric == "auc":
            return self._pair_up(predicted, actual)
        loss, about = losses(self.limit.metric, self._task, predicted, actual, self._scale)
        return (1 - loss if self.limit.metric == "bias" and self.limit.bound == "min" else loss), about

    def _pair_up(self, predicted: Floats, actual: Floats) -> tuple[Floats, Floats]:
        loss, about = np.zeros(len(predicted)), np.zeros(len(predicted))
        _pair_up(predicted, actual, self._pending, self._place, loss, about)
        return loss, about

    def state(self) -> GuardState:
        bet, (first, count, positive) = self.bet, self._place.tolist()
        waiting = self._pending[np.arange(first, first + count) % MOST_PENDING].tolist()
        return GuardState(
            bet.worse.tolist(),
            bet.better.tolist(),
            bet.cusum.tolist(),
            bet.since.tolist(),
            self.broken,
            waiting if positive else [],
            [] if positive else waiting,
        )

    def restore(self, state: GuardState) -> None:
        """Raises WireError."""
        sizes = {len(each) for each in (state.worse, state.better, state.cusum, state.since, self.bet.worse)}
        if len(sizes) > 1:
            raise WireError("a limit's test that has another number of bets")
        self.bet.worse[:], self.bet.better[:] = state.worse, state.better
        self.bet.cusum[:], self.bet.since[:] = state.cusum, state.since
        self.broken = state.broken
        waiting = (state.highs or state.lows)[:MOST_PENDING]
        self._pending[: len(waiting)] = waiting
        self._place[:] = 0, len(waiting), bool(state.highs)


@njit
def _pair_up(predicted: Any, actual: Any, pending: Any, place: Any, loss: Any, about: Any) -> None:
    """Of each outcome that completes a pair whether its order is wrong (½ if equal)."""
    first, count, positive = place
    for i in range(len(predicted)):
        own, score = 1 if actual[i] > 0 else 0, predicted[i]
        if count and positive != own:
            other = pending[first]
            first, count = (first + 1) % len(pending), count - 1
            high, low = (score, other) if own else (other, score)
            loss[i] = 0.5 if high == low else 1.0 if high < low else 0.0
            about[i] = 1.0
        elif count < len(pending):
            positive = own
            pending[(first + count) % len(pending)] = score
            count += 1
    place[0], place[1], place[2] = first, count, positive
