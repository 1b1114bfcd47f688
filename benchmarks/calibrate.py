"""Simulate the false-alarm rates of ADWIN and Page-Hinkley on block means of uniform ranks.

    python -m benchmarks.calibrate

prints the two tables of `stream_monitor/detectors/thresholds.py`: false alarms a block by threshold. Uniform ranks are
the widest that exist, so other features raise fewer. Seeded; about two minutes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from river._river_rust.drift import AdaptiveWindowing

from stream_monitor.detectors.adwin import MAX_WIDTH, STRETCH, AdwinParams
from stream_monitor.detectors.blocks import SERIES
from stream_monitor.detectors.page_hinkley import _FRESH, FIELDS, PageHinkleyParams, _page_hinkley

SEED = 20_260_301
PAGE_HINKLEY_THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55)
ADWIN_DELTAS = (1.0, 0.6, 0.35, 0.2, 0.12)
CHUNK = 200_000


def block_means(rng: np.random.Generator, blocks: int, rows: int = 50) -> npt.NDArray[np.float64]:
    """Means of `rows` independent uniform numbers each."""
    means: npt.NDArray[np.float64] = rng.random((blocks, rows), dtype=np.float32).mean(axis=1, dtype=np.float64)
    return means


def page_hinkley_rates(rng: np.random.Generator, blocks: int) -> dict[float, float]:
    """False alarms a block of one series by threshold, every detector starting afresh after an alarm."""
    params = PageHinkleyParams()
    count = len(PAGE_HINKLEY_THRESHOLDS)
    fields = np.empty((count, len(SERIES), FIELDS))
    fields[:] = _FRESH
    watched = np.zeros((count, len(SERIES)), dtype=np.bool_)
    watched[:, 0] = True
    alarms = np.zeros(count, dtype=np.int64)
    thresholds = np.array(PAGE_HINKLEY_THRESHOLDS)
    extreme = np.zeros((count, len(SERIES), 2), dtype=np.int64)
    for _ in range(blocks // CHUNK):
        values = block_means(rng, CHUNK)
        found = np.empty((CHUNK * count, 4), dtype=np.int64)
        columns = np.tile(np.arange(count), CHUNK)
        fed = np.repeat(values, count)[:, None].repeat(len(SERIES), axis=1)
        hits = _page_hinkley(
            np.repeat(np.arange(CHUNK), count), columns, fed, watched, thresholds, params.min_instances, params.delta,
            params.alpha, fields, extreme, found, np.empty(len(found)),
        )  # fmt: skip
        alarms += np.bincount(columns[found[:hits, 0]], minlength=count)
    return dict(zip(PAGE_HINKLEY_THRESHOLDS, (alarms / (blocks // CHUNK * CHUNK)).tolist(), strict=True))


def adwin_rates(rng: np.random.Generator, blocks: int) -> dict[float, float]:
    """False alarms a block of one window by confidence, starting afresh as the detector does."""
    alarms = dict.fromkeys(ADWIN_DELTAS, 0)
    windows = {delta: (_window(delta), 0) for delta in ADWIN_DELTAS}
    for _ in range(blocks // CHUNK):
        values = np.clip(0.5 + (block_means(rng, CHUNK) - 0.5) * STRETCH, 0.0, 1.0).tolist()
        for delta in ADWIN_DELTAS:
            window, width = windows[delta]
            for value in values:
                width += 1
                found = window.update(value)
                alarms[delta] += found
                if found or width >= MAX_WIDTH:
                    window, width = _window(delta), 0
            windows[delta] = window, width
    return {delta: count / (blocks // CHUNK * CHUNK) for delta, count in alarms.items()}


def _window(delta: float) -> Any:
    params = AdwinParams()
    return AdaptiveWindowing(
        delta=delta,
        clock=params.clock,
        max_buckets=params.max_buckets,
        min_window_length=params.min_window_length,
        grace_period=params.grace_period,
    )


def main() -> None:
    rng = np.random.default_rng(SEED)
    million = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for name, rates in (
        ("PAGE_HINKLEY", page_hinkley_rates(rng, million * 1_000_000)),
        ("ADWIN", adwin_rates(rng, million * 1_000_000 // 2)),
    ):
        print(f"{name}_RATES: Final = (")
        for threshold, rate in rates.items():
            print(f"    ({threshold}, {rate:.3g}),")
        print(")", flush=True)


if __name__ == "__main__":
    main()
