"""What segments find, and what they cost: `python -m benchmarks.segments [--runs N]`.

Delays of a drift in a segment of 5 % of the traffic, beside those of the same monitor without segments; false alarms of
stationary rows at a small budget; and CPU a row of detection with the throughput benchmark's 23 columns.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.throughput import workload
from stream_monitor.alerts import State
from stream_monitor.config import Settings
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay

KEY = StreamKey("m")
REGIONS = ("EU", "US", "AS", "XX")
SHARES = (0.45, 0.3, 0.2, 0.05)
BY = ("region", "plan")
BEFORE, AFTER, CHUNK = 5_000, 40_000, 2_000


def rows(count: int, seed: int, since: int = 0, by: float = 0.0) -> list[Row]:
    """One row in twenty is of XX, whose `x` is `by` higher from `since` on."""
    rng = np.random.default_rng(seed)
    region, plan = rng.choice(REGIONS, size=count, p=SHARES), rng.choice(["free", "pro"], size=count, p=[0.7, 0.3])
    values = rng.normal(size=(4, count))
    values[0] += by * ((np.arange(count) >= since) & (region == "XX"))
    made = zip(*values.tolist(), region.tolist(), plan.tolist(), strict=True)
    return [
        Row("m", "", "", i, {"x": x, "y": y, "z": z, "region": r, "plan": p}, score, None, None, 0, i, 0)
        for i, (x, y, z, score, r, p) in enumerate(made)
    ]


def options(by: tuple[str, ...]) -> FitOptions:
    return FitOptions(season=Season.NONE, ordered=True, segment_by=by)


def settings(by: tuple[str, ...], budget: int) -> Settings:
    return Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "detection": {"budget_events": budget},
         "models": [{"match": "*", "segment_by": list(by)}]}
    )  # fmt: skip


def fired(reference: Reference, by: tuple[str, ...], budget: int, given: list[Row]) -> list[tuple[int, str, str]]:
    """Row, segment and column of every alert that fired."""
    found = []
    replay = Replay(settings(by, budget), [reference], lambda alert: found.append(alert))
    for start in range(0, len(given), CHUNK):
        replay.feed(given[start : start + CHUNK])
    return [(alert.detected.offset, alert.segment, alert.column) for alert in found if alert.state is State.FIRING]


def delays(runs: int) -> None:
    print(f"\nA drift in 5 % of the traffic; median rows of the whole stream until found (missed), {runs} runs\n")
    print("| shift | with segments | first named | without |\n| --- | ---: | --- | ---: |")
    training = rows(50_000, 1)
    references = {by: fit(training, KEY, options(by)) for by in (BY, ())}
    for by_sd in (0.5, 1.0, 2.0):
        cells, named = [], 0
        for by in (BY, ()):
            waits = []
            for seed in range(runs):
                alerts = fired(references[by], by, 100_000_000, rows(BEFORE + AFTER, 100 + seed, BEFORE, by_sd))
                after = [alert for alert in alerts if alert[0] >= BEFORE]
                waits.append(after[0][0] - BEFORE if after else AFTER)
                named += bool(by and after and after[0][1].startswith("region=XX"))
            missed = sum(wait == AFTER for wait in waits)
            cells.append(f"{median(waits):,.0f}" + (f" ({missed} missed)" if missed else ""))
        print(f"| {by_sd} σ | {cells[0]} | {named} of {runs} | {cells[1]} |", flush=True)


def false_alarms(runs: int, budget: int = 100_000) -> None:
    print(f"\nFalse alarms of {runs} × 200,000 stationary rows, a reference of 20,000 each; asked: 1 in {budget:,}\n")
    print("| segments | alarms | of those promised |\n| --- | ---: | ---: |")
    for by in (BY, ()):
        total = 0
        for seed in range(runs):
            reference = fit(rows(20_000, 500 + seed), KEY, options(by))
            total += len(fired(reference, by, budget, rows(200_000, 900 + seed)))
        print(f"| {', '.join(by) or 'none'} | {total} | {total / (runs * 200_000 / budget):.2f} |", flush=True)


def cost(count: int = 40_000) -> None:
    print("\nCPU µs a row of coding and detection, 23 columns, 8 × 8 values (16 + combinations, 20 at most)\n")
    training, given = list(workload.rows(workload.REFERENCE_ROWS, 1)), list(workload.rows(count, 2))
    for by in ((), BY):
        reference = fit(training, StreamKey(workload.MODEL, "1"), options(by))
        spent = []
        for _ in range(3):
            replay = Replay(settings(by, 100_000_000), [reference], lambda _: None)
            replay.feed(given[:CHUNK])
            before_s = time.process_time()
            for start in range(CHUNK, count, CHUNK):
                replay.feed(given[start : start + CHUNK])
            spent.append(1e6 * (time.process_time() - before_s) / (count - CHUNK))
        print(f"- {len(reference.parts)} segments: {min(spent):.1f} (best of {len(spent)})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    asked = parser.parse_args()
    cost()
    delays(asked.runs)
    false_alarms(asked.runs)


if __name__ == "__main__":
    main()
