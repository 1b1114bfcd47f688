"""Detection alone: codes of rows that do not drift into a `Monitor`, beside river's detectors on the same values."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt
from river import drift, sketch

from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import START_MS, wide_reference
from stream_monitor.batch import Origins
from stream_monitor.book import ReferenceBook
from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN
from stream_monitor.config import Settings
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Reference
from stream_monitor.streams import StreamFactory

WARM_ROWS: Final = 2_000
VALUES: Final = 4_000_000
RIVER_ROWS: Final = 20_000
"""Its histogram takes four times as long for the first 5,000 as for those after 20,000."""


def measure(runs: int, scale: float = 1.0) -> list[Figure]:
    figures = []
    rows = int(VALUES * scale) // 20 // 1000 * 1000 + WARM_ROWS
    reference, values, codes = sample(20, rows)
    ours = {size: median(ns_a_value(reference, codes, size) for _ in range(runs)) for size in (1_000, 100, 15)}
    theirs = median(_river(values[: max(int(RIVER_ROWS * scale), 500)]) for _ in range(runs))
    figures += [
        Figure("detection", "20 columns × 1,000 rows a batch", "CPU", ours[1_000], "ns/value", 120, 50, least=False),
        Figure("detection", "20 columns × 100 rows a batch", "CPU", ours[100], "ns/value", 250, 50, least=False),
        Figure("detection", "20 columns × 15 rows a batch", "CPU", ours[15], "ns/value"),
        Figure("detection", "river ADWIN + PageHinkley + Histogram, 20 columns", "CPU", theirs, "ns/value"),
        Figure("detection", "20 columns × 1,000 rows a batch", "river ÷ ours", theirs / ours[1_000], "×", 15),
        Figure("detection", "one model on one core, 20 columns", "ceiling", 1e9 / 20 / ours[1_000], "events/s"),
    ]
    for columns in (200, 2_000):
        reference, _, codes = sample(columns, max(int(VALUES * scale / 2) // columns // 1000, 1) * 1000 + WARM_ROWS)
        ns = median(ns_a_value(reference, codes, 1_000) for _ in range(max(runs // 2, 1)))
        figures += [
            Figure("detection", f"{columns:,} columns × 1,000 rows a batch", "CPU", ns, "ns/value"),
            Figure(
                "detection", f"one model on one core, {columns:,} columns", "ceiling", 1e9 / columns / ns, "events/s"
            ),
        ]
    return figures


def sample(columns: int, rows: int) -> tuple[Reference, npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """A reference of normal columns, stationary values `[rows, columns]`, and their codes."""
    rng = np.random.default_rng(3)
    reference = wide_reference(columns)
    values = rng.normal(size=(rows, columns))
    codes = np.empty((rows, columns), dtype=np.uint8)
    for index, column in enumerate(reference.columns):
        bins, x = column.strata[0], values[:, index]
        inside = FIRST_BIN + np.searchsorted(bins.edges, x)
        codes[:, index] = np.where(x > bins.edges[-1], ABOVE, np.where(x < bins.low, BELOW, inside))
    return reference, values, codes


def monitor_of(reference: Reference) -> Monitor:
    factory = StreamFactory(Settings())
    return factory.stream(reference.stream).new_monitor(reference.stream, ReferenceBook.entry(reference, 1))


def origins(start: int, rows: int) -> Origins:
    numbers = np.arange(start, start + rows)
    none = np.zeros(rows, dtype=np.int32)
    return Origins(none, numbers, none, START_MS + numbers, START_MS + numbers)


def ns_a_value(reference: Reference, codes: npt.NDArray[np.uint8], batch_rows: int) -> float:
    """CPU of feeding `codes` in batches, after a while of warming up."""
    monitor = monitor_of(reference)
    monitor.feed(codes[:WARM_ROWS], origins(0, WARM_ROWS))
    batches = [
        (codes[start : start + batch_rows], origins(start, batch_rows))
        for start in range(WARM_ROWS, len(codes) - batch_rows + 1, batch_rows)
    ]
    began = time.process_time()
    for part, whence in batches:
        monitor.feed(part, whence)
    return 1e9 * (time.process_time() - began) / float(len(batches) * batch_rows * codes.shape[1])


def _river(values: npt.NDArray[np.float64]) -> float:
    columns = values.shape[1]
    detectors = [(drift.ADWIN(), drift.PageHinkley(), sketch.Histogram()) for _ in range(columns)]
    rows = values.tolist()
    began = time.process_time()
    for row in rows:
        for x, (adwin, page_hinkley, histogram) in zip(row, detectors, strict=True):
            adwin.update(x)
            page_hinkley.update(x)
            histogram.update(x)
    return 1e9 * (time.process_time() - began) / float(values.size)
