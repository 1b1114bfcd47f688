"""What an evaluation found, and the configuration and the advice that follow from it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import NEW, OTHER
from stream_monitor.evaluate_outcomes import OutcomeReport, SegmentReport
from stream_monitor.reference import Column, Kind
from stream_monitor.trials import Smallest

Ints = npt.NDArray[np.int64]

NEAR_CONSTANT: Final = 0.999
UNKNOWN_NAMES: Final = 0.5
"""A categorical column with more values than this outside its listed categories is taken for an identifier."""
TOO_RHYTHMIC: Final = 0.1
"""Share of a column's variance that the hour may explain beyond the reference's season."""
LEAST_BUDGET: Final = 100_000


@dataclass(slots=True)
class ColumnReport:
    """One column: false alarms of the replay beside the promise, the smallest changes found, and what to do about it.

    `alarms_at_most`: the rate per 10⁶ rows that as few alarms leave possible (95 %, Poisson). `rhythm`: share of its
    variance that the hour explains beyond the season of the reference.
    """

    column: str
    role: str
    kind: str
    alarms: int
    alarms_per_million: float
    alarms_at_most: float
    promised_per_million: float
    drifting_at_end: bool
    rhythm: float
    smallest: list[Smallest] = field(default_factory=list)
    exclude: str = ""


@dataclass(slots=True)
class RelationReport:
    """`alarms`: changed relations of inputs with the prediction, and among themselves (`inputs`), by what alerts call
    them; `promised_per_million`: of all of them together."""

    alarms: dict[str, int]
    promised_per_million: float


@dataclass(slots=True)
class StreamReport:
    """One stream. `events_per_week` None: the rows carry no times; `outcomes` None: there are no labels; `relations`
    None: the reference has none."""

    model: str
    stream: str
    rows: int
    budget_events: int
    events_per_week: float | None
    windows: int
    season: str
    columns: list[ColumnReport]
    notes: list[str] = field(default_factory=list)
    segments: list[SegmentReport] = field(default_factory=list)
    outcomes: OutcomeReport | None = None
    relations: RelationReport | None = None


@dataclass(slots=True)
class Report:
    """Everything found. `config`: the recommended configuration, as the YAML file has it."""

    streams: list[StreamReport]
    rows: int
    rows_without_reference: int
    config: dict[str, Any] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


def at_most(alarms: int) -> float:
    """The Poisson mean that as few alarms rule out at 95 %.

    >>> round(at_most(0), 2)
    3.0
    """
    low, high = float(alarms), alarms + 5 * math.sqrt(alarms + 1) + 5
    for _ in range(60):
        middle = (low + high) / 2
        tail = math.exp(-middle) * sum(middle**k / math.factorial(k) for k in range(min(alarms, 150) + 1))
        low, high = (middle, high) if tail > 0.05 else (low, middle)
    return high


def why_exclude(column: Column, counts: Ints, rhythm: float, alarms: int) -> str:
    """Why the column is better not watched; "" if it may stay."""
    seen = int(counts.sum())
    reference = np.sum([bins.counts for bins in column.strata], axis=0)
    if column.kind is Kind.CATEGORICAL and seen:
        strange = float(counts[NEW] + counts[OTHER]) / seen
        if strange > UNKNOWN_NAMES:
            return f"{strange:.0%} of its values are in no listed category, like an identifier"
    most = float(reference.max()) / max(float(reference.sum()), 1.0)
    if most > NEAR_CONSTANT:
        return f"near-constant: {most:.2%} of the training values are alike"
    if rhythm > TOO_RHYTHMIC and alarms:
        return f"too rhythmic for the reference's season: the hour explains another {rhythm:.0%} of its variance"
    return ""


def recommend(report: Report) -> None:
    """A configuration by model, and advice in words."""
    models: dict[str, list[StreamReport]] = {}
    for stream in report.streams:
        models.setdefault(stream.model, []).append(stream)
    known = [stream.events_per_week for stream in report.streams if stream.events_per_week is not None]
    entries = []
    for model, streams in models.items():
        excluded = sorted({c.column for stream in streams for c in stream.columns if c.exclude and c.role == "input"})
        entry: dict[str, Any] = {"match": model}
        if excluded:
            entry["features"] = {"exclude": excluded}
        if known:
            entry["detection"] = {"budget_events": nice(max(sum(known), LEAST_BUDGET))}
        if len(entry) > 1:
            entries.append(entry)
    report.config = {"models": entries} if entries else {}
    if known:
        budget = nice(max(sum(known), LEAST_BUDGET))
        report.advice.append(
            f"{sum(known):,.0f} events a week: a budget of {budget:,} events a stream is about one false alarm "
            f"{_every(budget / sum(known))}{_present(report, sum(known))}"
        )
    else:
        report.advice.append(
            "the rows carry no times (--time), so the rate of events, and the budget, are yours to tell"
        )
    for stream in report.streams:
        drifting = [column.column for column in stream.columns if column.drifting_at_end]
        if drifting:
            report.advice.append(
                f"{stream.stream}: still drifting at the end: {', '.join(drifting)}; if they should count as normal, "
                "build the reference from more of them"
            )


def _present(report: Report, events_per_week: float) -> str:
    """What the budget that these data were watched with means at that rate, where all streams have the same."""
    budgets = {stream.budget_events for stream in report.streams}
    if len(budgets) != 1:
        return ""
    (budget,) = budgets
    return f"; the present one of {budget:,}, one {_every(budget / events_per_week)}, costs delay"


def _every(weeks: float) -> str:
    """How often something happens that has a mean of so many weeks between two.

    >>> _every(1.04), _every(86.5), _every(2_000.0)
    ('a week', 'in 20 months', 'in 38 years')
    """
    if weeks < 1.5:
        return "a week"
    if weeks < 9:
        return f"in {weeks:.0f} weeks"
    months = weeks * 7 / 30.44
    return f"in {months:.0f} months" if months < 24 else f"in {months / 12:,.0f} years"


def nice(least: float) -> int:
    """The next of 1, 2, 5, 10, …

    >>> nice(7300), nice(100000), nice(2.1e6)
    (10000, 100000, 5000000)
    """
    power = 10 ** math.floor(math.log10(least))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= least))
