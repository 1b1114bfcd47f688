"""Runs the parts of all tests in processes, with a progress bar, and puts the results together.

Every part has seeds of its own and results are merged in the order of the parts: the numbers do not depend on how many
processes there are or on which other tests run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.detection import concept, delays, episodes, false_alarms, real
from benchmarks.detection.product import BUDGET
from benchmarks.detection.results import Family, Result, Task

TESTS: Final = (
    "A1", "A2", "A3", "B1", "B2", "B3", "B4", "B5", "C1", "C2", "C3", "C4", "C5", "D1", "D2", "D3", "D4",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run. `runs` of a delay case in all, in `delay_parts` parts."""

    name: str
    a1: false_alarms.Size
    a2: false_alarms.Size
    a3: false_alarms.Size
    delays: delays.Size
    delay_parts: int
    episode_columns: int
    episode_parts: int
    shuffles: int
    concept_peers: bool

    @property
    def runs(self) -> int:
        return self.delays.runs * self.delay_parts


_HIGH, _USUAL, _LOW = 1e5, BUDGET, 1e7
"""Budgets: values between two false alarms."""

_CLOSE: Final = {"Bernoulli 0.2": 4, "Bernoulli 0.01": 4}
"""Parts at least where the gates lie near what an oracle reaches, nearer than a median of 40 runs can tell."""

QUICK: Final = Plan(
    "quick",
    a1=false_alarms.Size(1, columns=20, rows=((_HIGH, 50_000), (_USUAL, 50_000)), peer_columns=1, peer_rows=25_000),
    a2=false_alarms.Size(1, columns=20, rows=((_USUAL, 200_000),), peer_columns=1, peer_rows=25_000),
    a3=false_alarms.Size(1, columns=20, rows=((_HIGH, 25_000), (_USUAL, 25_000)), peer_columns=0, peer_rows=0),
    delays=delays.Size(runs=20, peer_runs=5), delay_parts=2, episode_columns=20, episode_parts=1, shuffles=1,
    concept_peers=False,
)  # fmt: skip


def full(scale: float) -> Plan:
    """At scale 1: 200 × 10⁶ values of every marginal of A1, 200 runs of every delay.

    Many false alarms are expected at 10⁻⁵ and few at 10⁻⁷: rows go where they are needed. Half the scale gives 10⁹
    values in all at 10⁻⁷, and all 200 runs of every delay.
    """

    def parts(number: int, least: int = 1) -> int:
        return max(least, round(number * scale))

    longest = round(1_000_000 * min(1.0, 4 * scale))
    return Plan(
        "full",
        a1=false_alarms.Size(
            parts(4), columns=50, rows=((_HIGH, min(longest, 100_000)), (_USUAL, longest // 2), (_LOW, longest)),
            peer_columns=2, peer_rows=50_000,
        ),
        a2=false_alarms.Size(parts(10), columns=20, rows=((_USUAL, 500_000),), peer_columns=1, peer_rows=100_000),
        a3=false_alarms.Size(
            parts(10), columns=100, rows=((_HIGH, 20_000), (_USUAL, 20_000)), peer_columns=0, peer_rows=0
        ),
        delays=delays.Size(runs=20, peer_runs=10), delay_parts=max(4, min(10, parts(20))),
        episode_columns=50, episode_parts=parts(4), shuffles=parts(20, least=2), concept_peers=True,
    )  # fmt: skip


def families(plan: Plan, tests: frozenset[str]) -> list[Family]:
    """What has to run for the tests asked for."""
    found: list[Family] = [
        *false_alarms.families(plan.a1, plan.a3, plan.a2),
        *(delays.restricted(family, tests) for family in delays.families(plan.delays, plan.delay_parts, _CLOSE)),
        *episodes.families(plan.episode_columns, plan.episode_parts, quick=plan.name == "quick"),
        *real.families(plan.shuffles),
        *concept.families(peers=plan.concept_peers),
    ]
    return [family for family in found if family.tests & tests and family.tasks]


def run(plan: Plan, tests: frozenset[str], jobs: int, console: Console) -> list[Result]:
    """The results of the tests, in the order of `TESTS`."""
    chosen = families(plan, tests)
    found = [result for family, parts in _measured(chosen, jobs, console) for result in family.finish(parts)]
    wanted = [result for result in found if result.test in tests]
    return sorted(wanted, key=lambda result: TESTS.index(result.test))


def _measured(chosen: Sequence[Family], jobs: int, console: Console) -> Iterable[tuple[Family, list[Any]]]:
    """Longest parts first, so that no process is left alone with one at the end."""
    places = [(f, i) for f, family in enumerate(chosen) for i in range(len(family.tasks))]
    places.sort(key=lambda place: -chosen[place[0]].tasks[place[1]].weight)
    answers: dict[tuple[int, int], Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("detection", total=sum(chosen[f].tasks[i].weight for f, i in places))
        with ProcessPoolExecutor(jobs) as pool:
            pending: dict[Future[Any], tuple[int, int]] = {}
            for f, i in places:
                task: Task = chosen[f].tasks[i]
                pending[pool.submit(task.run, *task.args)] = (f, i)
            try:
                told = 0
                for future in as_completed(pending):
                    f, i = pending[future]
                    answers[f, i] = future.result()
                    progress.update(bar, advance=chosen[f].tasks[i].weight, description=chosen[f].tasks[i].family)
                    if not console.is_terminal and (reached := int(progress.tasks[bar].percentage)) >= told + 5:
                        told = reached
                        console.print(f"{told} %, {len(answers)} of {len(places)} parts", highlight=False)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    for f, family in enumerate(chosen):
        yield family, [answers[f, i] for i in range(len(family.tasks))]
