"""What labels and segments add to the main job's CPU time, both stages over the in-memory broker, by record.

The same events in every case, a second's worth at a time, the cases in turn: labels that stand within the events, one
label an event that comes a second later on a topic of its own (a record like any other), and segments by two features
of eight values each.
"""

from __future__ import annotations

from statistics import median
from typing import Final

import msgspec
import orjson

from benchmarks.throughput.flat import World
from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import MODEL, REFERENCE_ROWS, event, rows
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, Season, StreamKey

RECORDS_A_SECOND: Final = 10_000
BY: Final = ("region", "plan")
WITHOUT: Final = "neither"
CASES: Final = {
    WITHOUT: "20 columns and 2 categories",
    "within": "with labels within the events",
    "topic": "with labels on a topic of their own",
    "segments": "with segments by two features of 8 values",
}


class Case:
    """A worker of one case, and its seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        settings: dict[str, object] = {"input": {"max_future_s": None}}
        if name == "topic":
            settings["topics"] = {"labels": "labels"}
        if name == "segments":
            settings["models"] = [{"match": "*", "segment_by": list(BY)}]
        self._world = World([_reference(name)], settings)
        self._labels: list[bytes] = []
        self._sent = 0

    def us_a_record(self) -> float:
        """CPU of one second; in the case of a topic, half of the records are labels of the events before."""
        on_topic = self._name == "topic"
        count = RECORDS_A_SECOND // 2 if on_topic else RECORDS_A_SECOND
        events, labels = [], []
        for row in rows(count, seed=2 + self._sent):
            document = event(row) | {"id": f"{self._sent}-{row.id}"}
            label = int(row.features["feature_00"] > 0)
            if self._name == "within":
                document["label"] = label
            events.append(orjson.dumps(document))
            labels.append(orjson.dumps({"model": MODEL, "id": document["id"], "label": label}))
        known, self._labels = self._labels, labels if on_topic else []
        self._sent += 1
        return 1e6 * self._world.second(events, known) / (len(events) + len(known))

    def close(self) -> None:
        self._world.close()


def measure(runs: int, scale: float = 1.0) -> list[Figure]:
    cases = {name: Case(name) for name in CASES}
    spent: dict[str, list[float]] = {name: [] for name in CASES}
    warm = 3  # compiled, and the first window of labels scored
    for turn in range(warm + max(int(4 * runs * scale), 1)):
        for name, case in cases.items():
            us = case.us_a_record()
            if turn >= warm:
                spent[name].append(us)
    figures = []
    for name, what in CASES.items():
        cases[name].close()
        figures.append(Figure("added", what, "CPU", median(spent[name]), "µs/record"))
        if name != WITHOUT:
            ratio = median(own / without for own, without in zip(spent[name], spent[WITHOUT], strict=True))
            figures.append(Figure("added", what, f"÷ {CASES[WITHOUT]}", ratio, "×", 1.25, least=False))
    return figures


def _reference(name: str) -> Reference:
    given = list(rows(REFERENCE_ROWS, seed=1))
    if name in ("within", "topic"):
        given = [_labelled(row) for row in given]
    return fit(
        given,
        StreamKey(MODEL, "1"),
        FitOptions(season=Season.NONE, ordered=True, segment_by=BY if name == "segments" else ()),
    )


def _labelled(row: Row) -> Row:
    return msgspec.structs.replace(row, label=int(row.features["feature_00"] > 0))
