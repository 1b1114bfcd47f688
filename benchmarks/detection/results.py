"""A measured number beside its peers, the oracle, its gate and its goal; what the JSON holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Peers = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a value must lie in, ends included."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float | None) -> bool:
        """A value that could not be measured (None: nothing was found) holds nothing."""
        if value is None:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def to_json(self) -> float | list[float | None] | None:
        """A number is an upper bound; otherwise `[low, high]`."""
        return self.high if self.low is None else [self.low, self.high]

    def __str__(self) -> str:
        if self.low is None:
            return f"≤ {number(self.high)}"
        return f"≥ {number(self.low)}" if self.high is None else f"{number(self.low)} – {number(self.high)}"


def at_most(high: float) -> Bound:
    return Bound(None, high)


def at_least(low: float) -> Bound:
    return Bound(low, None)


@dataclass(frozen=True, slots=True)
class Result:
    """One number. `passed` None: nothing is asked of it. `note`: what a reader should know; not in the JSON."""

    test: str
    case: str
    metric: str
    value: float | None
    unit: str
    peers: Peers = field(default_factory=dict)
    oracle: float | None = None
    gate: Bound | None = None
    goal: Bound | None = None
    passed: bool | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.test, self.case, self.metric

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test, "case": self.case, "metric": self.metric, "value": rounded(self.value),
            "unit": self.unit, "peers": {name: rounded(value) for name, value in self.peers.items()},
            "oracle": rounded(self.oracle), "gate": self.gate.to_json() if self.gate else None,
            "goal": self.goal.to_json() if self.goal else None, "pass": self.passed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a family of tests that one process runs: `run(*args)` gives a partial result."""

    family: str
    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    weight: float = 1.0
    """About how many seconds it takes."""


@dataclass(frozen=True, slots=True)
class Family:
    """Tests whose parts are measured together. `finish` merges the partial results, in the order of the tasks."""

    name: str
    tests: frozenset[str]
    tasks: list[Task]
    finish: Callable[[list[Any]], list[Result]]


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def number(value: float | None) -> str:
    """For people.

    >>> number(None), number(0.123456), number(12.345), number(1936.5), number(3.0)
    ('–', '0.12', '12.3', '1,936', '3')
    """
    if value is None:
        return "–"
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"
