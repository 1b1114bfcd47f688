"""A2, A3, B1 – B5, D1, D2: how many rows after a change the first alarm comes, and when it says the change was.

A run: 10,000 rows before, the change at a random place within a pane, up to 20,000 rows after. Every part of a case has
ten random references of its own, each used for a run or two; they are watched as the columns of one stream, which is
fast and gives what each would give alone (a test proves it). A run whose episode was open at the change (a false alarm)
has no delay; they are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np

from benchmarks.detection import gates, oracle
from benchmarks.detection.peers import PEERS, first_detection
from benchmarks.detection.product import BUDGET, Codes, Message, Watch, codes_of, reference_of
from benchmarks.detection.results import Bound, Family, Peers, Result, Task
from benchmarks.detection.values import CHANGES, MARGINALS, Change, Floats, rng_of
from stream_monitor.alerts import State
from stream_monitor.reference import Reference

K = TypeVar("K")

BEFORE: Final = 10_000
PANE: Final = 100
AFTER: Final = 20_000
CHUNK: Final = 400
REFERENCES: Final = 10
"""Of a part."""
CURVE: Final = (1e5, 1e6, 1e7, 1e8, 1e9)


@dataclass(frozen=True, slots=True)
class Size:
    """`runs` of a case in a part, a multiple of `REFERENCES`; the first `peer_runs` of them with peers."""

    runs: int
    peer_runs: int


@dataclass(slots=True)
class Delays:
    """The delays of one case, in rows, None where it was missed; of the runs that were found, when it was said to
    begin (rows after the true onset) and whether the interval covered that."""

    ours: list[int | None] = field(default_factory=list)
    onset_error: list[int] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    open_at_change: int = 0
    oracle: list[int | None] = field(default_factory=list)
    peers: dict[str, list[int | None]] = field(default_factory=dict)
    curve: dict[float, list[int | None]] = field(default_factory=dict)
    oracle_curve: dict[float, list[int | None]] = field(default_factory=dict)

    def extend(self, other: Delays) -> None:
        self.ours += other.ours
        self.onset_error += other.onset_error
        self.covered += other.covered
        self.open_at_change += other.open_at_change
        self.oracle += other.oracle
        _join(self.peers, other.peers)
        _join(self.curve, other.curve)
        _join(self.oracle_curve, other.oracle_curve)


def _join(mine: dict[K, list[int | None]], theirs: dict[K, list[int | None]]) -> None:
    for name, delays in theirs.items():
        mine.setdefault(name, []).extend(delays)


def run(marginal: str, reference_rows: int, keys: tuple[str, ...], size: Size, part: int) -> dict[str, Delays]:
    """One part: `size.runs` runs of every case of a marginal, on the same references."""
    base = MARGINALS[marginal]
    rng = rng_of("references", marginal, reference_rows, part)
    training = np.column_stack([base.draw(rng, reference_rows) for _ in range(REFERENCES)])
    reference = reference_of(training, categorical=base.categorical, seasonal=base.seasonal)
    found = {}
    for change in (change for change in CHANGES if change.key in keys):
        found[change.key] = delays = Delays()
        for first in range(0, size.runs, REFERENCES):
            row = BEFORE + int(rng_of("row", change.key, part, first).integers(PANE))
            values = np.empty((row + AFTER, REFERENCES))
            for column in range(REFERENCES):
                rng = rng_of("run", change.key, part, first + column)
                own = base.draw(rng, len(values))
                change.apply(rng, own, row)
                values[:, column] = own
                _oracle(delays, change, own, row)
                if first + column < size.peer_runs and change.test != "A3":
                    _peers(delays, own, training[:, column], row)
            _ours(delays, change, reference, values, row)
    return found


def _ours(delays: Delays, change: Change, reference: Reference, values: Floats, row: int) -> None:
    codes = codes_of(reference, values)
    budgets = CURVE if change.curve else (BUDGET,)
    for budget in budgets:
        own = Delays()
        _watch(own, Watch(reference, budget), codes, row)
        if budget == BUDGET:
            delays.extend(own)
        if change.curve:
            delays.curve.setdefault(budget, []).extend(own.ours)


def _watch(delays: Delays, watch: Watch, codes: Codes, row: int) -> None:
    watch.feed(codes[:row])
    waiting = set(range(codes.shape[1])) - watch.open
    delays.open_at_change += len(watch.open)
    found: dict[int, Message] = {}
    for start in range(row, len(codes), CHUNK):
        for message in watch.feed(codes[start : start + CHUNK]):
            if message.state is State.FIRING and message.column in waiting - set(found):
                found[message.column] = message
        if len(found) == len(waiting):
            break
    for column in sorted(waiting):
        first = found.get(column)
        delays.ours.append(first.row + 1 - row if first else None)
        if first:
            delays.onset_error.append(first.onset_row - row)
            delays.covered.append(first.earliest_row <= row <= first.row)


def _oracle(delays: Delays, change: Change, values: Floats, row: int) -> None:
    if change.ratio is None:
        return
    steps = change.ratio(values)
    for budget in CURVE if change.curve else (BUDGET,):
        alarm = oracle.first_alarm(steps, oracle.threshold(change.key, budget), row)
        delay = alarm + 1 - row if alarm >= 0 else None
        if budget == BUDGET:
            delays.oracle.append(delay)
        if change.curve:
            delays.oracle_curve.setdefault(budget, []).append(delay)


def _peers(delays: Delays, values: Floats, training: Floats, row: int) -> None:
    for peer in PEERS:
        found = first_detection(peer, values, training, row)
        delays.peers.setdefault(peer, []).append(found + 1 - row if found >= 0 else None)


def families(size: Size, parts: int, least: Mapping[str, int]) -> list[Family]:
    """One family for all delays: `parts` parts of every group of cases that share references; `least`, by marginal."""
    groups: dict[tuple[str, int], list[str]] = {}
    for change in CHANGES:
        groups.setdefault((change.marginal, change.reference_rows), []).append(change.key)
    tasks = [
        Task("delays", run, (marginal, rows, tuple(keys), size, part), _seconds(size, rows, len(keys)))
        for (marginal, rows), keys in groups.items()
        for part in range(max(parts, least.get(marginal, 0)))
    ]
    tests = frozenset(change.test for change in CHANGES) | {"D1", "D2"}
    return [Family("delays", tests, tasks, finish)]


def _seconds(size: Size, reference_rows: int, cases: int) -> float:
    return 2.3e-6 * REFERENCES * reference_rows + (0.04 * size.runs + 0.05 * size.peer_runs) * cases


def restricted(family: Family, tests: frozenset[str]) -> Family:
    """Only the cases that `tests` need (D1 and D2 are by-products of B1 and B3; A2 is compared with B1's + 0.5 σ)."""
    wanted = {change.key for change in CHANGES if change.test in tests}
    wanted |= {change.key for change in CHANGES if "D1" in tests and change.curve}
    wanted |= {change.key for change in CHANGES if "D2" in tests and change.test == "B1"}
    wanted |= {"B1 + 0.5 σ"} if "A2" in tests else set()
    tasks = []
    for task in family.tasks:
        marginal, rows, keys, size, part = task.args
        left = tuple(key for key in keys if key in wanted)
        if left:
            weight = _seconds(size, rows, len(left))
            tasks.append(Task(task.family, run, (marginal, rows, left, size, part), weight))
    return Family(family.name, family.tests, tasks, family.finish)


def finish(parts: list[dict[str, Delays]]) -> list[Result]:
    merged: dict[str, Delays] = {}
    for part in parts:
        for key, delays in part.items():
            merged.setdefault(key, Delays()).extend(delays)
    independent = median(merged["B1 + 0.5 σ"].ours) if "B1 + 0.5 σ" in merged else None
    found: list[Result] = []
    for change in CHANGES:
        if change.key in merged:
            found += _results(change, merged[change.key], independent)
    return found


def _results(change: Change, d: Delays, independent: float | None) -> Iterable[Result]:
    test, case = change.test, change.case
    middle = median(d.ours)
    runs = f"{len(d.ours)} runs" + (f", {d.open_at_change} more were open at the change" if d.open_at_change else "")
    peers: Peers = {peer: median(delays) for peer, delays in d.peers.items()}
    yield _asked(Result(test, case, gates.DELAY, middle, "rows", peers, median(d.oracle), note=runs))
    lost: Peers = {peer: missed(delays) for peer, delays in d.peers.items()}
    yield _asked(Result(test, case, gates.MISSED, missed(d.ours), "%", lost, missed(d.oracle)))
    if test == "A2":
        ratio = middle / independent if middle is not None and independent else None
        yield _asked(Result(test, case, gates.SLOWER, ratio, "", note=f"independent: {independent} rows"))
    if d.onset_error and test != "A3":
        error = float(np.median(np.abs(d.onset_error)))
        relative = error / middle if middle else None
        note = f"median absolute error {error:g} rows, median {np.median(d.onset_error):+g}"
        yield _asked(Result("D2", _case(change), gates.ONSET, relative, "", note=note))
        yield _asked(Result("D2", _case(change), gates.COVERAGE, 100 * float(np.mean(d.covered)), "%"))
    for budget, delays in d.curve.items():
        metric = f"{gates.DELAY} at 10^{round(np.log10(budget))}"
        yield Result("D1", _case(change), metric, median(delays), "rows", oracle=median(d.oracle_curve[budget]))


def _case(change: Change) -> str:
    return change.case if change.test == "B1" else f"{change.test} {change.case}"


def _asked(result: Result) -> Result:
    gate, goal = gates.ASKED.get(result.key, (None, None))
    return judged(result, gate, goal)


def judged(result: Result, gate: Bound | None, goal: Bound | None) -> Result:
    passed = gate.holds(result.value) if gate is not None and gate != Bound() else None
    return replace(result, gate=None if gate == Bound() else gate, goal=goal, passed=passed)


def median(delays: list[int | None]) -> float | None:
    """A miss counts as longer than anything; None where the median is a miss, or there is nothing."""
    if not delays:
        return None
    middle = float(np.median([np.inf if delay is None else delay for delay in delays]))
    return middle if np.isfinite(middle) else None


def missed(delays: list[int | None]) -> float | None:
    """Per cent."""
    return 100 * sum(delay is None for delay in delays) / len(delays) if delays else None
