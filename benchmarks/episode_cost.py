"""What `evidence` costs a value, without drift and within open episodes: `python -m benchmarks.episode_cost`.

Twenty normal columns under references of 50,000 rows, all of them shifted by so much for 20,000 rows; the CPU time of
the best of ten calls of 1,000 rows each, once the episodes are open.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from benchmarks.detection.product import codes_of, reference_of
from benchmarks.detection.values import rng_of
from stream_monitor.detectors.evidence import Evidence, EvidenceParams

COLUMNS: Final = 20
ROWS: Final = 20_000
LOT: Final = 1_000
SHIFTS: Final = (0.0, 0.06, 0.12, 0.25, 0.75, 2.0)
"""In standard deviations; 0: no drift."""


def cost_ns(shift: float) -> tuple[float, float]:
    """CPU time a value in nanoseconds, and the share of the columns with an open episode at the end."""
    rng = rng_of("episode cost", round(shift * 100))
    reference = reference_of(rng.normal(size=(50_000, COLUMNS)))
    codes = codes_of(reference, rng.normal(size=(ROWS, COLUMNS)) + shift)
    strata, detector, best = np.zeros(LOT, dtype=np.uint8), Evidence(reference, EvidenceParams(), 1e-8), float("inf")
    for start in range(0, ROWS, LOT):
        before = time.process_time()
        detector.update(codes[start : start + LOT], strata, start)
        if start >= ROWS // 2:
            best = min(best, time.process_time() - before)
    return best / (LOT * COLUMNS) * 1e9, float(detector.engaged.mean())


def main() -> None:
    cost_ns(2.0)  # compiled before anything is timed
    print("shift   ns a value   episodes open")
    for shift in SHIFTS:
        ns, opened = cost_ns(shift)
        print(f"{shift:5.2f}   {ns:10.1f}   {opened:13.0%}")


if __name__ == "__main__":
    main()
