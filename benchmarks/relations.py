"""What the detector of relations finds, what it must not, and its cost: `python -m benchmarks.relations [--seeds N]`.

`flip`: two inputs whose own distributions stay and whose dependence turns round. `stationary`, `slow` (AR(1) 0.9),
`small` (a budget of 1,000 rows, of which the relations have a twentieth): 10⁵ rows a seed, false alarms. `moved`: the
columns' own distributions move, their relation does not; none may show as `correlation_drift`. `cost`: CPU a row of
`Monitor.feed` with and without.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import Alert, AlertKind, State
from stream_monitor.batch import Origins
from stream_monitor.book import Entry, ReferenceBook
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Season, StreamKey
from stream_monitor.streams import StreamFactory

Floats = npt.NDArray[np.float64]
KEY = StreamKey("m")
REFERENCE_ROWS, BEFORE, AFTER = 20_000, 3_037, 6_000
INPUTS = ("a", "b", "c", "d", "yes", "likely", "region")


def world(rng: np.random.Generator, n: int, *, rho: float = 0.7, slow: float = 0.0) -> dict[str, Floats]:
    """Latent columns: `a` and `b` correlate, so do the two-valued `yes` and `likely` with `c`; `region` has four
    values that go with `d`. `slow`: the AR(1) coefficient of all."""
    z = rng.normal(size=(n, 8))
    if slow:
        for i in range(1, n):
            z[i] = slow * z[i - 1] + np.sqrt(1 - slow**2) * z[i]
    a, b = z[:, 0], rho * z[:, 0] + np.sqrt(1 - rho**2) * z[:, 1]
    c, d = z[:, 2], z[:, 3]
    return {"a": a, "b": b, "c": c, "d": d, "yes": 0.7 * c + 0.7 * z[:, 4], "likely": 0.8 * c + 0.6 * z[:, 5],
            "region": 0.6 * d + 0.8 * z[:, 6], "noise": z[:, 7]}  # fmt: skip


def rows_of(found: dict[str, Floats], start: int = 0) -> list[Row]:
    """Events: the two-valued and the four-valued columns are cut here, the score follows from the inputs."""
    logit = 0.8 * found["a"] + found["c"] - 0.5 * found["d"] + 0.5 * (found["yes"] > 0) + 0.5 * found["noise"]
    score = 1 / (1 + np.exp(-logit))
    region = np.array(["EU", "US", "AS", "XX"])[np.digitize(found["region"], [-0.5, 0.5, 1.3])]
    missing = found.get("missing", np.zeros(len(score)))
    return [
        Row("m", "", "", 1_600_000_000_000 + 1_000 * (start + i),
            {"a": None if gone else a, "b": b, "c": c, "d": d, "yes": bool(yes > 0), "likely": bool(likely > 1),
             "region": where}, p, None, None, 0, start + i, 0)
        for i, (a, b, c, d, yes, likely, where, p, gone) in enumerate(
            zip(*(found[name].tolist() for name in INPUTS[:6]), region.tolist(), score.tolist(), missing.tolist(),
                strict=True))
    ]  # fmt: skip


def select(rng: np.random.Generator, found: dict[str, Floats], by: str, strength: float) -> dict[str, Floats]:
    """Rows selected by one column: many of its high values."""
    weight = 1 / (1 + np.exp(-strength * found[by]))
    kept = np.flatnonzero(rng.uniform(size=len(weight)) < weight)
    return {name: values[kept] for name, values in found.items()}


def _shift(*names: str, by: float = 1.0) -> Callable[[np.random.Generator, dict[str, Floats]], dict[str, Floats]]:
    return lambda rng, found: found | {name: found[name] + by for name in names}


def _ramp(*names: str, rows: int) -> Callable[[np.random.Generator, dict[str, Floats]], dict[str, Floats]]:
    return lambda rng, found: (
        found | {name: found[name] + 2 * np.minimum(np.arange(len(found[name])) / rows, 1) for name in names}
    )


def _scale(name: str, by: float) -> Callable[[np.random.Generator, dict[str, Floats]], dict[str, Floats]]:
    return lambda rng, found: found | {name: found[name] * by}


def _back(*names: str) -> Callable[[np.random.Generator, dict[str, Floats]], dict[str, Floats]]:
    """Away and back again, both at once."""
    return lambda rng, found: found | {name: found[name] + 3 * (np.arange(len(found[name])) < 2_000) for name in names}


def _nulls(rng: np.random.Generator, found: dict[str, Floats]) -> dict[str, Floats]:
    return found | {"missing": (rng.uniform(size=len(found["a"])) < 0.6).astype(np.float64)}


MOVED: dict[str, Callable[[np.random.Generator, dict[str, Floats]], dict[str, Floats]]] = {
    "a two-valued column's share 50 % → 84 %": _shift("yes"),
    "a two-valued column's share 16 % → 50 %": _shift("likely"),
    "both two-valued columns at once": _shift("yes", "likely"),
    "two-valued columns apart": lambda rng, found: found | {"yes": found["yes"] - 1, "likely": found["likely"] + 1},
    "a shift of 1 σ of one of two that correlate": _shift("b"),
    "a shift of 1 σ of two that correlate": _shift("a", "b"),
    "a shift of 3 σ of two that do not": _shift("b", "d", by=3.0),
    "a shift of 0.25 σ of four columns": _shift("a", "b", "c", "d", by=0.25),
    "two columns that creep by 2 σ in 2,000 rows": _ramp("b", "d", rows=2_000),
    "two columns that creep by 2 σ in 500 rows": _ramp("b", "d", rows=500),
    "two columns by 3 σ and back at once": _back("b", "d"),
    "a spread × 2 of one of two that correlate": _scale("b", 2.0),
    "a spread × 0.3 of one of two that correlate": _scale("b", 0.3),
    "a change of unit of one of two that correlate": _scale("b", 1_000.0),
    "60 % nulls in one of two that correlate": _nulls,
    "rows selected by a": lambda rng, found: select(rng, found, "a", 2.0),
    "rows selected by c": lambda rng, found: select(rng, found, "c", 2.0),
    "rows selected by region": lambda rng, found: select(rng, found, "region", 2.0),
}


def entry_of(seed: int, rows: int = REFERENCE_ROWS, slow: float = 0.0) -> Entry:
    rng = np.random.default_rng(seed)
    reference = fit(rows_of(world(rng, rows, slow=slow)), KEY, FitOptions(season=Season.NONE, ordered=True))
    return ReferenceBook.entry(reference, 1)


def monitor_of(entry: Entry, budget: int = 100_000_000) -> Monitor:
    settings = Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "detection": {"budget_events": budget}}
    )
    return StreamFactory(settings).stream(KEY).new_monitor(KEY, entry)


def alerts_of(entry: Entry, rows: list[Row], budget: int = 100_000_000) -> list[Alert]:
    """Those that fired."""
    codes = Binner(entry.reference).encode(rows).codes
    found = monitor_of(entry, budget).feed(codes, Origins.of(rows))
    return [alert for alert in found if alert.state is State.FIRING]


def relations(alerts: list[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.kind is AlertKind.CORRELATION_DRIFT]


def joined(*parts: dict[str, Floats]) -> dict[str, Floats]:
    names = set().union(*parts)
    size = [len(part["a"]) for part in parts]
    return {
        name: np.concatenate([part.get(name, np.zeros(n)) for part, n in zip(parts, size, strict=True)])
        for name in names
    }


def flip(seeds: int) -> dict[str, Any]:
    """Rows to the first `correlation_drift` after the dependence turned round, and everything else that was said."""
    entry, delays, others = entry_of(0), [], 0
    for seed in range(seeds):
        rng = np.random.default_rng(1_000 + seed)
        since = BEFORE + 10 * seed  # looks are at multiples of 200
        fired = alerts_of(entry, rows_of(joined(world(rng, since), world(rng, AFTER, rho=-0.7))))
        found = [alert.detected.offset - since for alert in relations(fired)]
        others += len(fired) - 1
        delays.append(found[0] if found else AFTER)
    return {"delay_median": median(delays), "delay_worst": max(delays), "delay_least": min(delays), "others": others}


def stationary(seeds: int, rows: int, slow: float = 0.0, budget: int = 100_000_000) -> int:
    """False alarms of relations over all seeds; every seed has a reference of its own."""
    count = 0
    for seed in range(seeds):
        entry = entry_of(seed, slow=slow)
        rng = np.random.default_rng(2_000 + seed)
        count += len(relations(alerts_of(entry, rows_of(world(rng, rows, slow=slow)), budget)))
    return count


def moved(seeds: int) -> dict[str, int]:
    """By case: streams of `seeds` in which a relation was said to have changed."""
    entry, found = entry_of(0), {}
    for name, change in MOVED.items():
        count = 0
        for seed in range(seeds):
            rng = np.random.default_rng(3_000 + seed)
            before, after = world(rng, BEFORE), change(rng, world(rng, AFTER))
            fired = relations(alerts_of(entry, rows_of(joined(before, after))))
            for alert in fired[:1]:
                print(f"   {name}: {alert.detected.offset} {alert.summary}")
            count += bool(fired)
        found[name] = count
    return found


def cost(columns: int, repetitions: int = 12) -> dict[str, float]:
    """µs of CPU a row of `Monitor.feed` on batches of 1,000, with relations and without; the best of some, in turns."""
    rng = np.random.default_rng(1)

    def made(n: int, start: int) -> list[Row]:
        values = rng.normal(size=(n, columns))
        scores = values.mean(axis=1) + rng.normal(size=n) * 0.1
        return [
            Row(
                "m",
                "",
                "",
                1_000 * (start + i),
                {f"f{j}": v for j, v in enumerate(row)},
                score,
                None,
                None,
                0,
                start + i,
                0,
            )
            for i, (row, score) in enumerate(zip(values.tolist(), scores.tolist(), strict=True))
        ]

    entry = ReferenceBook.entry(fit(made(5_000, 0), KEY, FitOptions(season=Season.NONE, ordered=True)), 1)
    rows = made(30_000, 5_000)
    codes, origins = Binner(entry.reference).encode(rows).codes, Origins.of(rows)
    monitors = {"with": monitor_of(entry), "without": monitor_of(entry)}
    monitors["without"].relating = None
    best = dict.fromkeys(monitors, float("inf"))
    for _ in range(repetitions):
        for name, monitor in monitors.items():
            started_s = time.process_time()
            for start in range(0, len(rows), 1_000):
                monitor.feed(codes[start : start + 1_000], origins.take(slice(start, start + 1_000)))
            best[name] = min(best[name], (time.process_time() - started_s) / len(rows) * 1e6)
    return {name: round(value, 3) for name, value in best.items()} | {
        "added": round(best["with"] / best["without"] - 1, 3)
    }


def main() -> None:
    run_parts(__doc__, flip, moved, stationary, cost)


def run_parts(
    about: str | None,
    flip: Callable[[int], Any],
    moved: Callable[[int], Any],
    stationary: Callable[..., Any],
    cost: Callable[[int], Any],
) -> None:
    """The parts asked for on the command line; also those of `outcome_relations`."""
    parser = argparse.ArgumentParser(description=(about or "").partition(":")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=["flip", "stationary", "slow", "small", "moved", "cost"], default=None)
    given = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "flip": lambda: flip(given.seeds),
        "moved": lambda: moved(max(given.seeds // 4, 1)),
        "stationary": lambda: stationary(given.seeds, given.rows),
        "slow": lambda: stationary(max(given.seeds // 4, 1), given.rows, slow=0.9),
        "small": lambda: stationary(given.seeds, given.rows, budget=1_000),
        "cost": lambda: {str(n): cost(n) for n in (7, 20, 63)},
    }
    for name, part in parts.items():
        if given.only in (None, name):
            print(name, json.dumps(part(), ensure_ascii=False, indent=1), flush=True)


if __name__ == "__main__":
    main()
