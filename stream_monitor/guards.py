"""Limits that a metric of one stream's outcomes may not pass: each with its bet and its open alert. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.bets import Bet
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
    """One limit, its bet and its open alert. `highs`, `lows`: scores of positives and negatives that wait to be paired
    (AUC is the share of pairs in the right order; disjoint pairs are independent outcomes)."""

    def __init__(self, limit: Limit, task: Task, scale: float, alpha: float) -> None:
        self.limit = limit
        self.broken: Broken | None = None
        self.bet = Bet(self._mean_loss(limit, scale), alpha, RETURN_ODDS)
        self._task, self._scale = task, scale
        self.highs: list[float] = []
        self.lows: list[float] = []

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
        for i, (score, positive) in enumerate(zip(predicted.tolist(), (actual > 0).tolist(), strict=True)):
            own, others = (self.highs, self.lows) if positive else (self.lows, self.highs)
            if others:
                other = others.pop(0)
                high, low = (score, other) if positive else (other, score)
                loss[i], about[i] = 0.5 if high == low else float(high < low), 1.0
            elif len(own) < MOST_PENDING:
                own.append(score)
        return loss, about

    def state(self) -> GuardState:
        bet = self.bet
        return GuardState(
            bet.worse.tolist(),
            bet.better.tolist(),
            bet.cusum.tolist(),
            bet.since.tolist(),
            self.broken,
            list(self.highs),
            list(self.lows),
        )

    def restore(self, state: GuardState) -> None:
        """Raises WireError."""
        sizes = {len(each) for each in (state.worse, state.better, state.cusum, state.since, self.bet.worse)}
        if len(sizes) > 1:
            raise WireError("a limit's test that has another number of bets")
        self.bet.worse[:], self.bet.better[:] = state.worse, state.better
        self.bet.cusum[:], self.bet.since[:] = state.cusum, state.since
        self.broken, self.highs, self.lows = state.broken, list(state.highs), list(state.lows)
