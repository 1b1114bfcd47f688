"""The results as a page for people: one table a test, delays beside false alarms, ours beside peers and oracle."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.detection import gates
from benchmarks.detection.delays import REFERENCES
from benchmarks.detection.false_alarms import POOLED, Size
from benchmarks.detection.gates import KNOWN_FAILURES
from benchmarks.detection.peers import PEERS
from benchmarks.detection.results import Result, number
from benchmarks.detection.runner import Plan
from benchmarks.detection.values import CHANGES, SEED

TITLES: Final = {
    "A1": "stationary: false alarms / budget",
    "A2": "stationary but dependent or seasonal",
    "A3": "small references",
    "B1": "a shift of the mean",
    "B2": "spread and shape",
    "B3": "rates",
    "B4": "gradual, skewed, heavy-tailed",
    "B5": "faults",
    "C1": "`car_loan/production`",
    "C2": "`car_loan/production`, shuffled",
    "C3": "`arabic_digit`, the sexes in alternating blocks",
    "C4": "`electricity`",
    "C5": "`sine1_*`: errors of an online Hoeffding tree",
    "D1": "delay against budget",
    "D2": "when the alert says it began",
    "D3": "recovery",
    "D4": "flapping: a shift at the threshold",
}
DELAYS: Final = ("A2", "A3", "B1", "B2", "B3", "B4", "B5")

Table = list[list[str]]


def markdown(results: Sequence[Result], plan: Plan, command: str, took_s: float) -> str:
    """The whole page."""
    parts = [_head(plan, command, took_s), _summary(results, plan)]
    for test, title in TITLES.items():
        own = [result for result in results if result.test == test]
        if own:
            parts.append(f"## {test}: {title}\n\n{_section(test, own, results)}")
    parts.append(_notes(plan))
    return "\n\n".join(parts) + "\n"


def _head(plan: Plan, command: str, took_s: float) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("stream-monitor", "river", "numpy", "numba", "scipy"))
    return (
        "# How well drift is detected, and at what rate of false alarms\n\n"
        f"`{command}`, {took_s / 60:.1f} minutes, seed {SEED}, commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}; "
        f"{_machine()}; Python {platform.python_version()}, {versions}.\n\n"
        "One default configuration; the budget is one false alarm in 10⁶ values of a column unless said. A detection "
        "is an alert `firing`. Delays are medians in rows, a missed run counting as longer than any. **gate**: must "
        "hold; goal: fought for. (In brackets: false alarms in 10⁶ values of the same marginal in the same run.)"
    )  # fmt: skip


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}"


def _commit() -> str:
    """Of the tree that ran, `+` where the product or the benchmark differ from it."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        paths = ["stream_monitor", "benchmarks/detection"]
        diff = subprocess.run(["git", "status", "--porcelain", *paths], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if diff.stdout.strip() else "")


def _summary(results: Sequence[Result], plan: Plan) -> str:
    gated = [result for result in results if result.passed is not None]
    failing = [result for result in gated if not result.passed]
    aimed = [result for result in results if result.goal is not None]
    reached = [result for result in aimed if result.goal is not None and result.goal.holds(result.value)]
    text = (
        f"**{len(gated) - len(failing)} of {len(gated)} gates hold**, {len(reached)} of {len(aimed)} goals are reached."
    )
    if not failing:
        return text
    known = KNOWN_FAILURES[plan.name]
    rows = [
        [r.test, r.case, r.metric, f"{number(r.value)} {r.unit}".strip(), str(r.gate), known.get(r.key, "")]
        for r in failing
    ]
    return f"{text} What does not hold:\n\n{_table(['test', 'case', 'metric', 'ours', 'gate', 'why'], rows)}"


def _section(test: str, own: Sequence[Result], results: Sequence[Result]) -> str:
    tables = []
    if test == "A1" or test == "A3":
        tables.append(_budgets([result for result in own if result.metric.startswith(gates.RATIO)]))
    if test == "D1":
        tables.append(_curve(own))
    elif test in DELAYS:
        delays = [result for result in own if result.metric == gates.DELAY]
        if delays:
            tables.append(_delays(delays, results))
        done = {gates.DELAY, gates.MISSED}
        tables.append(_plain([r for r in own if r.metric not in done and not r.metric.startswith(gates.RATIO)]))
    elif test in ("D2", "D3", "D4"):
        tables.append(_pivot(own))
    elif test != "A1":
        tables.append(_plain(own))
    return "\n\n".join(table for table in tables if table)


def _budgets(own: Sequence[Result]) -> str:
    """A row a case, ours by budget; peers are counted in 10⁶ values, whatever the budget."""
    cases = list(dict.fromkeys(result.case for result in own))
    metrics = list(dict.fromkeys(result.metric for result in own))
    peers = [peer for peer in PEERS if any(peer in result.peers for result in own)]
    head = ["marginal", *(metric.removeprefix(gates.RATIO).strip() for metric in metrics), "counted", "gate", *peers]
    rows = []
    for case in cases:
        line = {result.metric: result for result in own if result.case == case}
        some = next(iter(line.values()))
        gate = f"{some.gate}" if some.gate is not None else ""
        counted = "; ".join(result.note.split(" in ")[0] for result in line.values())
        peer_cells = [number(some.peers.get(peer)) for peer in peers]
        rows.append([case, *(_value(line[metric]) for metric in metrics), counted, gate, *peer_cells])
    lines = [f"- {result.case}, {result.metric.rsplit(' ', 1)[1]}: {result.note}" for result in own
             if result.case.endswith(POOLED)]  # fmt: skip
    return "\n".join([_table(head, rows), "", *lines])


def _delays(own: Sequence[Result], results: Sequence[Result]) -> str:
    by_key = {result.key: result for result in results}
    peers = [peer for peer in PEERS if any(peer in result.peers for result in own)]
    head = ["case", "**ours** (FA)", "missed", "gate", "goal", "oracle", *(f"{peer} (FA)" for peer in peers)]
    rows = []
    for result in own:
        lost = by_key.get((result.test, result.case, gates.MISSED))
        alarms = _alarms(result, by_key)
        ours = f"{number(result.value)} ({number(alarms.value) if alarms else '?'}){_mark(result)}"
        theirs = [_peer(peer, result, lost, alarms) for peer in peers]
        missed = _value(lost) if lost else ""
        gate, goal = str(result.gate or ""), _goal(result)
        rows.append([result.case, ours, missed, gate, goal, number(result.oracle), *theirs])
    runs = sorted({result.note for result in own if result.note})
    return f"{_table(head, rows)}\n\n{'; '.join(runs)}."


def _alarms(result: Result, by_key: dict[tuple[str, str, str], Result]) -> Result | None:
    """The false alarms of the marginal a delay was measured on, per 10⁶ values at a budget of 10⁶."""
    change = next(change for change in CHANGES if (change.test, change.case) == (result.test, result.case))
    if result.test == "A2":
        return by_key.get(("A2", change.marginal, gates.RATE))
    if result.test == "A3":
        return by_key.get(("A3", f"{change.reference_rows:,} rows, {change.marginal}", f"{gates.RATIO} 10^6"))
    return by_key.get(("A1", change.marginal, f"{gates.RATIO} 10^6"))


def _peer(peer: str, delay: Result, lost: Result | None, alarms: Result | None) -> str:
    rate = number(alarms.peers.get(peer)) if alarms else "?"
    missed = lost.peers.get(peer) if lost else None
    found = number(delay.peers.get(peer)) if delay.peers.get(peer) is not None else f"{number(missed)} % missed"
    return f"{found} ({rate})"


def _curve(own: Sequence[Result]) -> str:
    cases = list(dict.fromkeys(result.case for result in own))
    budgets = list(dict.fromkeys(result.metric.rsplit(" ", 1)[1] for result in own))
    rows = []
    for case in cases:
        line = {result.metric.rsplit(" ", 1)[1]: result for result in own if result.case == case}
        rows.append([case, *(f"{number(line[b].value)} ({number(line[b].oracle)})" for b in budgets)])
        first, last = line.get("10^6"), line.get("10^9")
        ratio = last.value / first.value if first and last and first.value and last.value else None
        rows[-1].append(number(ratio))
    return "Ours (oracle).\n\n" + _table(["case", *budgets, "10^9 / 10^6"], rows)


def _pivot(own: Sequence[Result]) -> str:
    """A row a case, a column a metric."""
    metrics = list(dict.fromkeys(result.metric for result in own))
    rows = []
    for case in dict.fromkeys(result.case for result in own):
        line = {result.metric: result for result in own if result.case == case}
        cells = [f"{_value(line[m])}{f' (gate {line[m].gate})' if line[m].gate else ''}" if m in line else ""
                 for m in metrics]  # fmt: skip
        rows.append([case, *cells, "; ".join(result.note for result in line.values() if result.note)])
    return _table(["case", *metrics, "note"], rows)


def _plain(own: Sequence[Result]) -> str:
    if not own:
        return ""
    peers = list(dict.fromkeys(peer for result in own for peer in result.peers))
    known = ["oracle"] if any(r.oracle is not None and r.test.startswith("C") for r in own) else []
    head = ["case", "metric", "**ours**", "gate", "goal", *known, *peers, "note"]
    rows = [
        [r.case, r.metric, _value(r), str(r.gate or ""), _goal(r), *(number(r.oracle) for _ in known),
         *(number(r.peers[p]) if p in r.peers else "" for p in peers), r.note]
        for r in own
    ]  # fmt: skip
    return _table(head, rows)


def _value(result: Result) -> str:
    return f"{number(result.value)} {result.unit}".strip() + _mark(result)


def _mark(result: Result) -> str:
    return "" if result.passed is None else " ✓" if result.passed else " **FAIL**"


def _goal(result: Result) -> str:
    if result.goal is None:
        return ""
    return f"{result.goal}{' ✓' if result.goal.holds(result.value) else ''}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _rows(size: Size) -> str:
    return ", ".join(f"{rows:,} rows at 10^{round(math.log10(budget))}" for budget, rows in size.rows)


def _notes(plan: Plan) -> str:
    a1, a3 = plan.a1, plan.a3
    return (
        "## How it was measured\n\n"
        f"- False alarms: A1 {a1.parts * a1.columns:,} random references of 50,000 rows a marginal, "
        f"{_rows(a1)} each; A3 {a3.parts * a3.columns:,} references, {_rows(a3)} each. Peers on a part of "
        "the same values. With fewer than 100 expected, a gate is broken only by a count beyond the 99.9 % quantile of "
        'Poisson at the gate (the plain ratio stands in the table). "in an episode": share of all values; an alert '
        "that never closes counts once but shows there.\n"
        f"- Delays: {plan.runs} runs a case, {REFERENCES * plan.delay_parts} random references, 10,000 rows before, "
        "the change at a random row of a pane, 20,000 rows after; the row of the change counts as 1. Runs whose "
        "episode was open at the change have no delay.\n"
        "- The oracle knows both densities: a CUSUM whose threshold gives the same mean time between false alarms "
        "(`benchmarks/detection/oracle.py`).\n"
        "- Peers are river's with their defaults, on raw values or on z-scores by the reference (`z`); PH 500 has "
        "threshold 500; nulls are left out for them, categories are numbers. `always` fires at every row.\n"
        "- B2: bimodal is two normals at ± 0.9 with variance 1 in all; categories: 4 × 0.25 to 0.4, 0.1, 0.1, 0.4.\n"
        "- A2: the sine's period is a day of 1,000 rows (a row is 86.4 s); the reference finds the season by itself.\n"
        "- C3: in the file as shipped the sexes are mixed (48 – 52 % male in every block of 2,200, KS between blocks "
        "at most 0.04): nothing drifts there. It is put in the order that is meant: 2,200 male, 2,200 female, 2,200 "
        "male, 2,200 female, each sex in its own order. A peer is right of a return if it detects within 600 rows.\n"
        "- C4: reference of the first 26 weeks with strata by the hour of the week, dates from the known first day.\n"
        "- C5: ours is the `concept_drift` alerts of a stream's scoring, its baseline learned from the first 5,000 "
        "outcomes (`benchmarks/detection/concept.py`).\n"
        "- D3: 5,000 rows of drift, then the reference; two windows are 4,000 rows. What comes and goes: four times "
        "5,000 rows of drift and 10,000 of the reference. D4: 10⁵ rows; references of 50,000 rows unless said; "
        "of binary columns (0.2) the rate.\n"
        "- What a part is and its seeds do not depend on the number of processes: a commit gives the same numbers."
    )
