"""C5: concept drift, seen in the errors of an online Hoeffding tree.

As in the source of the data (alipsgh/tornado): every row is predicted, then learned; when a detector speaks, it and the
tree start anew; a detection is true within 250 rows of a change, later or elsewhere it is false.

Ours is the product's path: outcomes into `scoring.py`, its `concept_drift` alerts out (`Product` below). Where only the
tree started anew, and the stream with its open episode went on, one change of the eight was no new alert but an update
of the one that was open: the new tree's errors never came back to those of the first 5,000 rows.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any, Final

import numpy as np
from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM, HDDMA, HDDMW
from river.tree import HoeffdingTreeClassifier

from benchmarks.detection import gates, oracle
from benchmarks.detection.delays import judged
from benchmarks.detection.product import BUDGET, SETTINGS
from benchmarks.detection.results import Family, Result, Task
from benchmarks.detection.values import Floats, rng_of
from stream_monitor.alerts import AlertKind, State
from stream_monitor.batch import Origins
from stream_monitor.config import Settings
from stream_monitor.outcomes import values_of
from stream_monitor.reference import StreamKey
from stream_monitor.streams import StreamFactory

DATA: Final = Path(__file__).parent / "data"
FILES: Final = ("sine1_101", "sine1_102")
CHANGES: Final = (20_000, 40_000, 60_000, 80_000)
WINDOW: Final = 250
WARMUP: Final = 5_000
LOT: Final = 10
ORACLE: Final = "oracle"
ORACLE_RATES: Final = (0.124, 0.85)
"""Errors of the tree in the 5,000 rows before a change, and in rows 40 – 100 after it while it is still the old one."""
METHODS: Final = ("ours", "ADWIN", "PH", "DDM", "HDDM_A", "HDDM_W", "ours with HDDM_W", ORACLE)
SELECTED: Final = {"ours": (), "ours with HDDM_W": ("hddm_w",)}
"""Of river's detectors for errors, those that the product is told to use beside its own."""

Labelled = tuple[dict[str, float], str]
Detector = Callable[[object, str], bool]
"""One prediction and its label in; whether drift was detected."""
Found = tuple[str, list[int]]


def _river(make: Callable[[], Any]) -> Detector:
    """A detector of river's; after a detection river's own start anew by themselves."""
    detector = make()

    def update(predicted: object, label: str) -> bool:
        detector.update(predicted != label)
        return bool(detector.drift_detected)

    return update


class Oracle:
    """A CUSUM that knows both rates of errors, at the mean time between false alarms that ours promises. What it takes
    is the price of the change itself: the concept turns within some 50 rows, the middle of them about row 28."""

    def __init__(self) -> None:
        before, after = ORACLE_RATES
        self._right, self._wrong = log((1 - after) / (1 - before)), log(after / before)
        calm, moved = (self._steps(i, rate) for i, rate in enumerate(ORACLE_RATES))
        self._threshold, self._sum = oracle.threshold_of(calm, moved, BUDGET), 0.0

    def _steps(self, number: int, rate: float) -> Floats:
        wrong = (rng_of("C5 oracle", number).random(oracle.STEPS) < rate).astype(np.float64)
        steps: Floats = wrong * (self._wrong - self._right) + self._right
        return steps

    def __call__(self, predicted: object, label: str) -> bool:
        self._sum = max(self._sum + (self._wrong if predicted != label else self._right), 0.0)
        if self._sum < self._threshold:
            return False
        self._sum = 0.0
        return True


def run(file: str, method: str) -> Found:
    """The rows at which a method detected drift."""
    rows = _rows(file)
    if method in SELECTED:
        return method, _product_detections(rows, SELECTED[method])
    return method, _detections(rows, Oracle() if method == ORACLE else _river(_PEERS[method]))


_PEERS: Final[dict[str, Callable[[], Any]]] = {
    "ADWIN": ADWIN, "PH": PageHinkley, "DDM": DDM, "HDDM_A": HDDMA, "HDDM_W": HDDMW,
}  # fmt: skip


def _detections(rows: list[Labelled], detector: Detector) -> list[int]:
    tree, found = HoeffdingTreeClassifier(), []
    for row, (features, label) in enumerate(rows):
        predicted = tree.predict_one(features)
        tree.learn_one(features, label)
        if detector(predicted, label):
            found.append(row)
            tree = HoeffdingTreeClassifier()
    return found


def _product_detections(rows: list[Labelled], selected: tuple[str, ...]) -> list[int]:
    """The same by the product's path, which takes outcomes a few at a time, as a worker does: both start anew behind
    the lot in which a detection lies. A new tree is a new version of the model: a stream of its own, which learns what
    its outcomes are like."""
    product, tree, found = Product(selected), HoeffdingTreeClassifier(), []
    for start in range(0, len(rows), LOT):
        lot, predicted = rows[start : start + LOT], []
        for features, label in lot:
            predicted.append(tree.predict_one(features))
            tree.learn_one(features, label)
        hits = product(start, predicted, [label for _, label in lot])
        if hits:
            found.append(hits[0])
            product, tree = Product(selected), HoeffdingTreeClassifier()
    return found


class Product:
    """The product's own path: outcomes into a stream's scoring, which learns its baseline from the first `WARMUP` of
    them; a detection is a `concept_drift` alert that fires."""

    def __init__(self, selected: tuple[str, ...] = ()) -> None:
        detectors = {name: {"enabled": True} for name in selected}
        detection = SETTINGS.model_dump() | {"budget_events": int(BUDGET), "warmup_events": WARMUP}
        settings = Settings.model_validate({"detection": detection | {"detectors": detectors}})
        new_scoring = StreamFactory(settings).model("sine1").new_scoring
        assert new_scoring is not None  # it is on by default
        self._scoring = new_scoring(StreamKey("sine1"))
        self._classes: dict[str, int] = {}

    def __call__(self, first: int, predicted: list[object], labels: list[str]) -> list[int]:
        """Outcomes of the rows `first …`; the rows at which an alert fired."""
        names: dict[str, int] = {}
        prediction, actual = values_of(predicted, names), values_of(labels, names)
        zero, row = np.zeros(len(labels), dtype=np.int32), np.arange(first, first + len(labels))
        alerts, _ = self._scoring.feed(
            prediction, actual, list(names), lambda name: self._classes.setdefault(name, len(self._classes)),
            Origins(zero, row, zero, row, row),
        )  # fmt: skip
        return [a.detected.offset for a in alerts if a.kind is AlertKind.CONCEPT_DRIFT and a.state is State.FIRING]


def _rows(file: str) -> list[Labelled]:
    with gzip.open(DATA / f"{file}.arff.gz", "rt", encoding="utf-8") as lines:
        cells = [line.strip().split(",") for line in lines if line[:1].isdigit()]
    return [({"x": float(x), "y": float(y)}, label) for x, y, label in cells]


def judge(found: list[int]) -> tuple[list[int], int]:
    """The delays of the changes found, and the number of false detections."""
    delays, false = [], len(found)
    for change in CHANGES:
        hits = [row for row in found if change <= row < change + WINDOW]
        if hits:
            delays.append(hits[0] + 1 - change)
            false -= 1  # a second one for the same change is false
    return delays, false


def _finish(parts: list[Found]) -> list[Result]:
    by_method: dict[str, list[list[int]]] = {}
    for method, found in parts:
        by_method.setdefault(method, []).append(found)
    values: dict[str, dict[str, float | None]] = {}
    for method, runs in by_method.items():
        judged_runs = [judge(found) for found in runs]
        delays = [delay for own, _ in judged_runs for delay in own]
        values[method] = {
            "mean delay": float(np.mean(delays)) if delays else None,
            "found of 4": float(np.mean([len(own) for own, _ in judged_runs])),
            "false": float(np.mean([false for _, false in judged_runs])),
        }
    note = f"means over {len(FILES)} streams; our detections: {by_method['ours']}"
    return [
        judged(
            Result("C5", "sine1", metric, value, "rows" if metric == "mean delay" else "",
                   {m: v[metric] for m, v in values.items() if m not in ("ours", ORACLE)},
                   values[ORACLE][metric] if ORACLE in values else None, note=note),
            *gates.ASKED["C5", "sine1", metric],
        )
        for metric, value in values["ours"].items()
    ]  # fmt: skip


def families(peers: bool) -> list[Family]:
    methods = METHODS if peers else METHODS[:1]
    tasks = [Task("C5", run, (file, method), 5.0) for file in FILES for method in methods]
    return [Family("C5", frozenset({"C5"}), tasks, _finish)]
