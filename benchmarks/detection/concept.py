"""C5: concept drift, seen in the errors of an online Hoeffding tree.

As in the source of the data (alipsgh/tornado): every row is predicted, then learned; when a detector speaks, it and the
tree start anew; a detection is true within 250 rows of a change, later or elsewhere it is false.

The product has no path of its own for concept drift yet. What stands here as ours is its evidence alone, fed the 0/1
errors (`Evidence` below), not an alert.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM, HDDMW
from river.tree import HoeffdingTreeClassifier

from benchmarks.detection import gates
from benchmarks.detection.delays import judged
from benchmarks.detection.product import BUDGET, SETTINGS, codes_of, reference_of
from benchmarks.detection.results import Family, Result, Task
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.monitor import PANE_ROWS

DATA: Final = Path(__file__).parent / "data"
FILES: Final = ("sine1_101", "sine1_102")
CHANGES: Final = (20_000, 40_000, 60_000, 80_000)
WINDOW: Final = 250
WARMUP: Final = 5_000
METHODS: Final = ("ours", "ADWIN", "PH", "DDM", "HDDM_W")

_NO_STRATA: Final = np.zeros(1, dtype=np.uint8)

Labelled = tuple[dict[str, float], str]
Detector = Callable[[bool], bool]
"""One error in; whether drift was detected."""
Found = tuple[str, list[int]]


def _river(make: Callable[[], Any]) -> Detector:
    """A detector of river's; after a detection river's own start anew by themselves."""
    detector = make()

    def update(error: bool) -> bool:
        detector.update(error)
        return bool(detector.drift_detected)

    return update


def run(file: str, method: str) -> Found:
    """The rows at which a method detected drift."""
    rows = _rows(file)
    return method, _detections(rows, Evidence() if method == "ours" else _river(_PEERS[method]))


_PEERS: Final[dict[str, Callable[[], Any]]] = {"ADWIN": ADWIN, "PH": PageHinkley, "DDM": DDM, "HDDM_W": HDDMW}


def _detections(rows: list[Labelled], detector: Detector) -> list[int]:
    tree, found = HoeffdingTreeClassifier(), []
    for row, (features, label) in enumerate(rows):
        error = tree.predict_one(features) != label
        tree.learn_one(features, label)
        if detector(error):
            found.append(row)
            tree = HoeffdingTreeClassifier()
    return found


class Evidence:
    """The product's evidence on the 0/1 errors, against a reference of the first `WARMUP` of them.

    As a monitor does, it holds an episode open until a return is proved, and looks at that once a pane. A finding that
    errors became *fewer* opens none: the tree only went on learning.
    """

    def __init__(self) -> None:
        self._warmup: list[float] = []
        self._detectors: DetectorSet | None = None
        self._row = 0
        self._open = False

    def __call__(self, error: bool) -> bool:
        if self._detectors is None:
            self._warmup.append(float(error))
            if len(self._warmup) == WARMUP:
                self._reference = reference_of(np.array(self._warmup)[:, None])
                self._detectors = DetectorSet(self._reference, {"evidence": SETTINGS.params()["evidence"]}, BUDGET)
                self._codes = [codes_of(self._reference, np.array([[value]])) for value in (0.0, 1.0)]
            return False
        signals = self._detectors.update(self._codes[error], _NO_STRATA, self._row)
        self._row += 1
        found = not self._open and any(signal.direction != "down" for signal in signals)
        if found:
            self._open = True
        elif signals and not self._open:
            self._detectors.release(0)
        if self._open and self._row % PANE_ROWS == 0:
            self._detectors.engage(0)
            if self._detectors.return_rows([0])[0] >= 0:
                self._detectors.release(0)
                self._open = False
        return found


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
                   {m: v[metric] for m, v in values.items() if m != "ours"}, note=note),
            *gates.ASKED["C5", "sine1", metric],
        )
        for metric, value in values["ours"].items()
    ]  # fmt: skip


def families(peers: bool) -> list[Family]:
    methods = METHODS if peers else METHODS[:1]
    tasks = [Task("C5", run, (file, method), 5.0) for file in FILES for method in methods]
    return [Family("C5", frozenset({"C5"}), tasks, _finish)]
