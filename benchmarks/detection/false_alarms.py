"""A1, A2, A3: false alarms of streams that do not drift, per column, against the budget asked for.

Every column has a random reference of its own. The columns of a part are watched as one stream (their budget is their
own: the stream's is that divided by their number), which is fast, and counts the same false alarms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from scipy.stats import poisson

from benchmarks.detection import gates
from benchmarks.detection.peers import PEERS, detections
from benchmarks.detection.product import Watch, codes_of, reference_of
from benchmarks.detection.results import Bound, Family, Peers, Result, Task
from benchmarks.detection.values import A1, A2, EXTRA, MARGINALS, rng_of
from stream_monitor.alerts import State

CHUNK: Final = 5_000
SURE: Final = 0.999
"""With few false alarms expected, a gate is broken only by a count that this share of honest detectors stays below."""
ENOUGH: Final = 100
"""Expected false alarms from which on the plain ratio is judged."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured of a marginal: `parts` times `columns` references, `rows` each."""

    parts: int
    columns: int
    rows: int
    peer_columns: int
    peer_rows: int


@dataclass(slots=True)
class Count:
    """What one part saw: values; by budget alarms, values within an episode, and alarms by the detector that raised
    them; values and alarms by peer."""

    name: str
    values: int = 0
    alarms: Counter[float] = field(default_factory=Counter)
    open_values: Counter[float] = field(default_factory=Counter)
    raised_by: Counter[tuple[float, str]] = field(default_factory=Counter)
    peer_values: int = 0
    peer_alarms: Counter[str] = field(default_factory=Counter)


def count(name: str, reference_rows: int, budgets: tuple[float, ...], size: Size, part: int) -> Count:
    """One part of one marginal."""
    marginal = MARGINALS[name]
    rng = rng_of("false alarms", name, reference_rows, part)
    training = np.column_stack([marginal.draw(rng, reference_rows) for _ in range(size.columns)])
    reference = reference_of(training, categorical=marginal.categorical, seasonal=marginal.seasonal)
    values = np.column_stack([marginal.draw(rng, size.rows) for _ in range(size.columns)])
    found = Count(name, values.size)
    codes = codes_of(reference, values)
    for budget in budgets:
        watch = Watch(reference, budget)
        for start in range(0, size.rows, CHUNK):
            fired = [m for m in watch.feed(codes[start : start + CHUNK]) if m.state is State.FIRING]
            found.alarms[budget] += len(fired)
            found.raised_by.update((budget, message.detector) for message in fired)
        found.open_values[budget] += watch.total_open_rows()
    found.peer_values = size.peer_columns * size.peer_rows
    for column in range(size.peer_columns):
        for peer in PEERS:
            hits = detections(peer, values[: size.peer_rows, column], training[:, column])
            found.peer_alarms[peer] += sum(1 for _ in islice(hits, size.peer_rows))
    return found


def family(
    test: str, names: tuple[str, ...], reference_rows: tuple[int, ...], budgets: tuple[float, ...], size: Size
) -> Family:
    """The false alarms of `names`, at references of every given size."""
    weight = size.columns * (size.rows * (1e-7 + 2e-7 * len(budgets)) + 0.03)
    tasks = [
        Task(f"FA {test}", count, (name, rows, budgets, size, part), weight)
        for rows in reference_rows
        for name in names
        for part in range(size.parts)
    ]  # fmt: skip

    def finish(parts: list[Count]) -> list[Result]:
        found: list[Result] = []
        for at, rows in enumerate(reference_rows):
            own = parts[at * len(names) * size.parts : (at + 1) * len(names) * size.parts]
            prefix = f"{rows:,} rows, " if test == "A3" else ""
            merged = {name: _merge([part for part in own if part.name == name]) for name in names}
            found += _results(test, prefix, merged, budgets)
        return found

    return Family(f"false alarms {test}", frozenset({test}), tasks, finish)


def _merge(parts: list[Count]) -> Count:
    total = Count(parts[0].name)
    for part in parts:
        total.values += part.values
        total.alarms.update(part.alarms)
        total.open_values.update(part.open_values)
        total.raised_by.update(part.raised_by)
        total.peer_values += part.peer_values
        total.peer_alarms.update(part.peer_alarms)
    return total


def _results(test: str, prefix: str, counts: dict[str, Count], budgets: tuple[float, ...]) -> list[Result]:
    found = []
    for budget in budgets:
        power = f"10^{round(np.log10(budget))}"
        asked = [c for name, c in counts.items() if name not in _EXTRA]
        found += [_result(test, f"{prefix}{name}", power, c, budget) for name, c in counts.items()]
        if test != "A2":
            pooled = _merge(asked)
            pooled.name = "all"
            found.append(_result(test, f"{prefix}all", power, pooled, budget))
    return found


_EXTRA: Final = {marginal.name for marginal in EXTRA}


def _result(test: str, case: str, power: str, c: Count, budget: float) -> Result:
    expected = c.values / budget
    ratio = c.alarms[budget] / expected
    peers: Peers = {peer: c.peer_alarms[peer] / c.peer_values * 1e6 for peer in PEERS} if c.peer_values else {}
    by = ", ".join(f"{name} {n}" for (of, name), n in sorted(c.raised_by.items()) if of == budget)
    note = f"{c.alarms[budget]:,} in {c.values:.3g} values{f' ({by})' if by else ''}; "
    note += f"{c.open_values[budget] / c.values:.2%} of them in an episode"
    if test == "A2":
        rate = c.alarms[budget] / c.values * 1e6
        gate, goal = gates.ASKED[test, case, gates.RATE]
        passed = _not_above(c.alarms[budget], expected, gate)
        return Result(test, case, gates.RATE, rate, "", peers, 1.0, gate, goal, passed, note)
    metric = f"{gates.RATIO} {power}"
    if c.name in _EXTRA:
        return Result(test, case, metric, ratio, "", peers, note=note)
    two_sided = c.name in MARGINALS and MARGINALS[c.name].continuous and budget < 5e6 and test == "A1"
    gate = gates.RATIO_GATE_CONTINUOUS if two_sided else gates.RATIO_GATE
    passed = _not_above(c.alarms[budget], expected, gate) and _not_below(c.alarms[budget], expected, gate)
    return Result(test, case, metric, ratio, "", peers, 1.0, gate, gates.RATIO_GOAL, passed, note)


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
    """All of them. A2's rows of a part are ten times as many and its columns fewer: dependent rows are slow."""
    names = tuple(marginal.name for marginal in A1)
    extra = tuple(marginal.name for marginal in EXTRA)
    return [
        family("A1", names + extra, (50_000,), (1e5, 1e6, 1e7), a1),
        family("A2", tuple(marginal.name for marginal in A2), (50_000,), (1e6,), a2),
        family("A3", names, (1_000, 5_000), (1e5, 1e6), a3),
    ]
