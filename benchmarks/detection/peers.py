"""The peers: river's ADWIN and PageHinkley as users run them, one value at a time, and a detector that always fires.

They see the same values as we do: raw, or as z-scores by the reference's mean and standard deviation. Nulls are left
out for them: one NaN silences either for good. A category is its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN

from benchmarks.detection.values import Floats
from stream_monitor.compiled import njit

PEERS: Final = ("ADWIN", "ADWIN z", "PH", "PH z", "PH 500 z", "always")
_THRESHOLDS: Final = {"PH": 50.0, "PH z": 50.0, "PH 500 z": 500.0}

Rows = npt.NDArray[np.int64]


def z_scores(values: Floats, reference: Floats) -> Floats:
    finite = reference[np.isfinite(reference)]
    scores: Floats = (values - finite.mean()) / max(float(finite.std()), 1e-12)
    return scores


def detections(peer: str, values: Floats, reference: Floats) -> Iterator[int]:
    """The rows at which a peer detects, lazily; it goes on after each as river's does."""
    if peer == "always":
        yield from range(len(values))
        return
    seen = z_scores(values, reference) if peer.endswith(" z") else values
    present = np.flatnonzero(np.isfinite(seen))
    if peer.startswith("ADWIN"):
        detector = ADWIN()
        for row, value in zip(present.tolist(), seen[present].tolist(), strict=True):
            detector.update(value)
            if detector.drift_detected:
                yield row
        return
    yield from present[page_hinkley(seen[present], _THRESHOLDS[peer])].tolist()


def first_detection(peer: str, values: Floats, reference: Floats, row: int) -> int:
    """The first detection at or after `row`, −1 if none."""
    return next((found for found in detections(peer, values, reference) if found >= row), -1)


def page_hinkley(values: Floats, threshold: float) -> Rows:
    """The detections of river's PageHinkley with defaults otherwise, compiled (bit for bit: tested)."""
    found = np.empty(len(values), dtype=np.int64)
    return found[: _page_hinkley(values, threshold, 30, 0.005, 1 - 0.0001, found)]


@njit
def _page_hinkley(
    values: Any, threshold: float, min_instances: int, delta: float, alpha: float, found: Any
) -> int:  # fmt: skip
    count, seen, mean = 0, 0.0, 0.0
    up, low, down, high = 0.0, np.inf, 0.0, -1.0
    for i in range(len(values)):
        x = values[i]
        seen += 1.0
        mean += (1.0 / seen) * (x - mean)
        up = alpha * up + (x - mean) - delta
        down = alpha * down + (x - mean) + delta
        low, high = min(low, up), max(high, down)
        if seen >= min_instances and (up - low > threshold or high - down > threshold):
            found[count] = i
            count += 1
            seen, mean, up, low, down, high = 0.0, 0.0, 0.0, np.inf, 0.0, -1.0
    return count
