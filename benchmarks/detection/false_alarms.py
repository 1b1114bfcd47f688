"""A1, A2, A3: false alarms of streams that do not drift, per column, against the budget asked for.

Every column has a random reference of its own. The columns of a part are watched as one stream (their budget is their
own: the stream's is that divided by their number), which is fast, and counts the same false alarms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

import numpy as np
from scipy.stats import chi2, poisson

from benchmarks.detection import gates
from benchmarks.detection.peers import PEERS, detections
from benchmarks.detection.product import Watch, codes_of, reference_of
from benchmarks.detection.results import Bound, Family, Peers, Result, Task
from benchmarks.detection.values import A1, A2, EXTRA, MARGINALS, Floats, rng_of
from stream_monitor.alerts import State

DRAWN_VALUES: Final = 5_000_000
"""Values that are drawn at once, where rows are independent: bounds the memory of a part."""
SURE: Final = 0.999
"""With few false alarms expected, a gate is broken only by a count that this share of honest detectors stays below."""
ENOUGH: Final = 100
"""Expected false alarms from which on the plain ratio is judged."""
POOLED: Final = ("all continuous", "all")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured of a marginal: `parts` times `columns` references; `rows` of each, by budget."""

    parts: int
    columns: int
    rows: tuple[tuple[float, int], ...]
    peer_columns: int
    peer_rows: int

    @property
    def most_rows(self) -> int:
        return max(rows for _, rows in self.rows)


@dataclass(slots=True)
class Count:
    """What one part saw: by budget values, alarms, values within an episode, alarms by the detector that raised them,
    and most alarms under one reference; values and alarms by peer."""

    name: str
    values: Counter[float] = field(default_factory=Counter)
    alarms: Counter[float] = field(default_factory=Counter)
    open_values: Counter[float] = field(default_factory=Counter)
    raised_by: Counter[tuple[float, str]] = field(default_factory=Counter)
    worst: dict[float, int] = field(default_factory=dict)
    peer_values: int = 0
    peer_alarms: Counter[str] = field(default_factory=Counter)


def count(name: str, reference_rows: int, size: Size, part: int) -> Count:
    """One part of one marginal."""
    marginal = MARGINALS[name]
    rng = rng_of("false alarms", name, reference_rows, part)
    training = np.column_stack([marginal.draw(rng, reference_rows) for _ in range(size.columns)])
    reference = reference_of(training, categorical=marginal.categorical, seasonal=marginal.seasonal)
    found = Count(name)
    watches = {budget: Watch(reference, budget) for budget, _ in size.rows}
    fired: dict[float, Counter[int]] = {budget: Counter() for budget in watches}
    step = size.most_rows if marginal in A2 else max(DRAWN_VALUES // size.columns, size.peer_rows)
    for start in range(0, size.most_rows, step):
        rows = min(step, size.most_rows - start)
        values = np.column_stack([marginal.draw(rng, rows) for _ in range(size.columns)])
        codes = codes_of(reference, values, start)
        for budget, wanted in size.rows:
            for message in watches[budget].feed(codes[: max(wanted - start, 0)]):
                if message.state is State.FIRING:
                    fired[budget][message.column] += 1
                    found.raised_by[budget, message.detector] += 1
        if start == 0:
            _peers(found, size, values, training)
    for budget, watch in watches.items():
        found.values[budget] = watch.rows * size.columns
        found.alarms[budget] = fired[budget].total()
        found.worst[budget] = max(fired[budget].values(), default=0)
        found.open_values[budget] = watch.total_open_rows()
    return found


def _peers(found: Count, size: Size, values: Floats, training: Floats) -> None:
    found.peer_values = size.peer_columns * size.peer_rows
    for column in range(size.peer_columns):
        for peer in PEERS:
            hits = detections(peer, values[: size.peer_rows, column], training[:, column])
            found.peer_alarms[peer] += sum(1 for _ in islice(hits, size.peer_rows))


def family(test: str, sizes: dict[str, Size], reference_rows: tuple[int, ...]) -> Family:
    """The false alarms of marginals, each of its size, at references of every given size."""
    places = [
        (rows, name, part) for rows in reference_rows for name, size in sizes.items() for part in range(size.parts)
    ]
    tasks = [
        Task(f"FA {test}", count, (name, rows, sizes[name], part), _seconds(sizes[name], rows))
        for rows, name, part in places
    ]  # fmt: skip

    def finish(parts: list[Count]) -> list[Result]:
        found: list[Result] = []
        for rows in reference_rows:
            own = [part for place, part in zip(places, parts, strict=True) if place[0] == rows]
            prefix = f"{rows:,} rows, " if test == "A3" else ""
            merged = {name: _merge(name, [part for part in own if part.name == name]) for name in sizes}
            found += _results(test, prefix, merged)
        return found

    return Family(f"false alarms {test}", frozenset({test}), tasks, finish)


def _seconds(size: Size, reference_rows: int) -> float:
    fed = sum((5e-7 if budget < 5e5 else 1.5e-7) * rows for budget, rows in size.rows)
    return size.columns * (2.3e-6 * reference_rows + 1e-7 * size.most_rows + fed)


def _merge(name: str, parts: list[Count]) -> Count:
    total = Count(name)
    for part in parts:
        total.values.update(part.values)
        total.alarms.update(part.alarms)
        total.open_values.update(part.open_values)
        total.raised_by.update(part.raised_by)
        total.worst = {budget: max(most, total.worst.get(budget, 0)) for budget, most in part.worst.items()}
        total.peer_values += part.peer_values
        total.peer_alarms.update(part.peer_alarms)
    return total


def _results(test: str, prefix: str, counts: dict[str, Count]) -> list[Result]:
    asked = [c for name, c in counts.items() if name not in _EXTRA]
    smooth = [c for c in asked if MARGINALS[c.name].continuous]
    pooled = [] if test == "A2" else [_merge(name, of) for name, of in zip(POOLED, (smooth, asked), strict=True)]
    found = []
    for budget in next(iter(counts.values())).values:
        power = f"10^{round(np.log10(budget))}"
        found += [_result(test, f"{prefix}{c.name}", power, c, budget) for c in (*counts.values(), *pooled)]
    return found


_EXTRA: Final = {marginal.name for marginal in EXTRA}


def _result(test: str, case: str, power: str, c: Count, budget: float) -> Result:
    alarms, values = c.alarms[budget], c.values[budget]
    expected = values / budget
    peers: Peers = {peer: c.peer_alarms[peer] / c.peer_values * 1e6 for peer in PEERS} if c.peer_values else {}
    note = _note(c, budget)
    if test == "A2":
        gate, goal = gates.ASKED[test, case, gates.RATE]
        passed = _not_above(alarms, expected, gate)
        return Result(test, case, gates.RATE, alarms / values * 1e6, "", peers, 1.0, gate, goal, passed, note)
    metric, ratio = f"{gates.RATIO} {power}", alarms / expected
    if c.name in _EXTRA:
        return Result(test, case, metric, ratio, "", peers, note=note)
    smooth = c.name == POOLED[0] or (c.name in MARGINALS and MARGINALS[c.name].continuous)
    gate = gates.RATIO_GATE_CONTINUOUS if smooth and budget < 5e6 and test == "A1" else gates.RATIO_GATE
    passed = _not_above(alarms, expected, gate) and _not_below(alarms, expected, gate)
    return Result(test, case, metric, ratio, "", peers, 1.0, gate, gates.RATIO_GOAL, passed, note)


def _note(c: Count, budget: float) -> str:
    alarms, values = c.alarms[budget], c.values[budget]
    low, high = poisson_interval(alarms)
    by = ", ".join(f"{name} {n}" for (of, name), n in sorted(c.raised_by.items()) if of == budget)
    return (
        f"{alarms:,} in {values:.3g} values{f' ({by})' if by else ''}, 95 % interval of the ratio "
        f"{low * budget / values:.2f} – {high * budget / values:.2f}; most under one reference {c.worst[budget]}; "
        f"{c.open_values[budget] / values:.2%} of the values in an episode"
    )


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval (Garwood) of the mean of a Poisson variable that was `count`.

    >>> [round(end, 2) for end in poisson_interval(10)]
    [4.8, 18.39]
    """
    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low), float(chi2.ppf(0.975, 2 * count + 2) / 2)


def _not_above(alarms: int, expected: float, gate: Bound) -> bool:
    assert gate.high is not None
    most = gate.high * expected
    return bool(alarms <= (most if most >= ENOUGH else poisson.ppf(SURE, most)))


def _not_below(alarms: int, expected: float, gate: Bound) -> bool:
    if gate.low is None:
        return True
    least = gate.low * expected
    return bool(alarms >= (least if least >= ENOUGH else poisson.ppf(1 - SURE, least)))


def families(a1: Size, a3: Size, a2: Size) -> list[Family]:
    """All of them. What only stands beside delays (`EXTRA`) is measured on a fifth of A1's rows."""
    fifth = replace(a1, rows=tuple((budget, rows // 5) for budget, rows in a1.rows))
    return [
        family("A1", {m.name: a1 for m in A1} | {m.name: fifth for m in EXTRA}, (50_000,)),
        family("A2", {m.name: a2 for m in A2}, (50_000,)),
        family("A3", {m.name: a3 for m in A1}, (1_000, 5_000)),
    ]
