"""What labels and segments add to the main job, by record: the main job of this benchmark on a real Kafka, with labels
that stand within the events, with one label an event on a topic of its own (a record like any other), and with segments
by two features of eight values each. The same events in every case, the cases in turn, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Final

import msgspec

from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import REFERENCE_ROWS, label_of, rows
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, Season, StreamKey

BY: Final = ("region", "plan")
WITHOUT: Final = "neither"
CASES: Final = {
    WITHOUT: "20 columns and 2 categories",
    "within": "with labels within the events",
    "topic": "with labels on a topic of their own",
    "segments": "with segments by two features of 8 values",
}
Told = dict[str, float]


def topics_of(case: str) -> tuple[str, str | None]:
    """Of the events, and of the labels: with these there are half as many events, so that there are as many records."""
    match case:
        case "within":
            return "added-labelled", None
        case "topic":
            return "added-half", "added-labels"
        case _:
            return "added", None


def settings_of(case: str) -> dict[str, object]:
    return {"models": [{"match": "*", "segment_by": list(BY)}]} if case == "segments" else {}


def reference_of(case: str, stream: StreamKey) -> Reference:
    given = list(rows(REFERENCE_ROWS, seed=1))
    if case in ("within", "topic"):
        given = [_labelled(row) for row in given]
    options = FitOptions(season=Season.NONE, ordered=True, segment_by=BY if case == "segments" else ())
    return fit(given, stream, options)


def _labelled(row: Row) -> Row:
    return msgspec.structs.replace(row, label=label_of(row))


def figures(runs: int, run: Callable[[str], Told]) -> list[Figure]:
    """`run`: the main job of a case, and what it took; the first round, which also compiles, does not count."""
    spent: dict[str, list[float]] = {case: [] for case in CASES}
    for turn in range(runs + 1):
        for case in CASES:
            told = run(case)
            if turn:
                spent[case].append(1e6 * told["cpu_s"] / told["events"])
    found = []
    for case, what in CASES.items():
        found.append(Figure("added", what, "CPU", median(spent[case]), "µs/record"))
        if case != WITHOUT:
            ratio = median(own / without for own, without in zip(spent[case], spent[WITHOUT], strict=True))
            found.append(Figure("added", what, f"÷ {CASES[WITHOUT]}", ratio, "×", 1.25, least=False))
    return found
