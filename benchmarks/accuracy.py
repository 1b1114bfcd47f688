"""How many labels a fall of accuracy takes at all: `python -m benchmarks.accuracy [--orders N]`.

The car-loan stream: errors before row 25,000 and from there on, seen by a CUSUM that knows both distributions, at the
mean time between false alarms that the product promises. In Lorden's sense no test that keeps the promise is faster
(G. Moustakides, "Optimal stopping times for detecting changes in distributions", Ann. Statist. 14, 1986). Beside it
the product on the same outcomes. Two streams: whether a prediction was wrong, and how far its score was off.
Accuracy is tested against a limit, training's less a tolerance: its oracle knows that limit and what accuracy will be.
`orders`: the outcomes before and after in so many random orders, beside the one that they came in.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from importlib.resources import as_file, files
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.detection.oracle import first_alarm, threshold_of
from stream_monitor import demo
from stream_monitor.alerts import Alert, State
from stream_monitor.baseline import learn
from stream_monitor.batch import Origins
from stream_monitor.config import Settings
from stream_monitor.config_detection import PerformanceSection
from stream_monitor.detectors import ERROR_BUILDERS, ERROR_PARAMS
from stream_monitor.encode import codes_of
from stream_monitor.outcomes import values_of
from stream_monitor.performance import THRESHOLD
from stream_monitor.reference import SCHEMA_VERSION, Performance, Reference, Source, StreamKey
from stream_monitor.streams import StreamFactory
from stream_monitor.tables import TableColumns, read

Floats = npt.NDArray[np.float64]

BUDGETS = (1_000_000, 10_000_000, 100_000_000)
SUBJECTS = ("error", "absolute_error", "accuracy")
SHARE = 4
"""Each one's part of the promise: half of it is the errors', shared by two columns; half the limits', by two."""
BINS = 64
STEPS = 2_000_000
BEFORE = 5_000
RATE = 0.05
TOLERANCE = PerformanceSection().min_change


def outcomes(name: str, label: str | None) -> tuple[Floats, Floats]:
    """Scores and labels of a packaged file; `label` None: of the production rows, from their own file."""
    columns = TableColumns(model=demo.MODEL, time="timestamp", id="id", prediction="y_pred_proba", label=label,
                           ignore=frozenset({"y_pred", "repaid"} - {label}))  # fmt: skip
    with as_file(files("stream_monitor") / "data" / name) as path:
        rows = [row for chunk in read([path], columns) for row in chunk]
    if label is not None:
        return np.array([row.prediction for row in rows], dtype=float), np.array(
            [row.label for row in rows], dtype=float
        )
    with as_file(files("stream_monitor") / "data" / "labels.csv.gz") as path, gzip.open(path, "rt") as lines:
        late = {row["id"]: float(row["repaid"]) for row in csv.DictReader(lines)}
    return np.array([row.prediction for row in rows], dtype=float), np.array([late[row.id or ""] for row in rows])


def streams(scores: Floats, actual: Floats) -> dict[str, Floats]:
    return {"error": ((scores >= THRESHOLD) != (actual > 0)).astype(float), "absolute_error": np.abs(scores - actual)}


def ratios(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood ratios of the values before and after, both densities known by `BINS` bins of equal mass."""
    edges = np.unique(np.quantile(np.concatenate([before, after]), np.linspace(0, 1, BINS + 1)[1:-1]))
    places = [np.searchsorted(edges, part, side="left") for part in (before, after)]
    p, q = (np.bincount(place, minlength=len(edges) + 1) + 0.5 for place in places)
    ratio = np.log(q / q.sum()) - np.log(p / p.sum())
    return ratio[places[0]], ratio[places[1]]


def limit_ratios(before: Floats, after: Floats, limit: float) -> tuple[Floats, Floats, Floats]:
    """The same of errors whose rate has passed a limit: under the limit (drawn), before and after."""
    rate = float(after.mean())
    wrong, right = np.log(rate / limit), np.log((1 - rate) / (1 - limit))
    drawn = (np.random.default_rng(2).random(STEPS) < limit).astype(float)

    def of(errors: Floats) -> Floats:
        steps: Floats = np.where(errors > 0, float(wrong), float(right))
        return steps

    return of(drawn), of(before), of(after)


def oracle(null: Floats, before: Floats, after: Floats, between_rows: float, orders: int) -> tuple[int, float]:
    """Delay in the order in which the outcomes came, and the median over random ones; `null`: log-likelihood ratios
    where nothing has to be found, of which the false alarms are counted."""
    rng = np.random.default_rng(1)
    h = threshold_of(rng.choice(null, STEPS), rng.choice(after, STEPS), between_rows)
    found = [first_alarm(np.concatenate([before[-BEFORE:], after]), h, BEFORE) + 1 - BEFORE]
    for _ in range(orders):
        path = np.concatenate([rng.permutation(before)[:BEFORE], rng.permutation(after)])
        found.append(first_alarm(path, h, BEFORE) + 1 - BEFORE)
    return found[0], median(found[1:])


def product(performance: Performance, scores: Floats, actual: Floats, change: int, budget: int) -> dict[str, int]:
    """Subject → outcomes from the change to its alert; negative ones are false alarms."""
    settings = Settings.model_validate({"detection": {"budget_events": budget}})
    new_scoring = StreamFactory(settings).model("m").new_scoring
    assert new_scoring is not None
    scoring = new_scoring(StreamKey("m"))
    scoring.start(performance)
    alerts: list[Alert] = []
    zero = np.zeros(len(scores), dtype=np.int32)
    row = np.arange(len(scores))
    for start in range(0, len(scores), 1_000):
        part = slice(start, start + 1_000)
        prediction, label = values_of(scores[part].tolist(), {}), values_of(actual[part].tolist(), {})
        origins = Origins(zero[part], row[part], zero[part], row[part], row[part])
        alerts += scoring.feed(prediction, label, [], lambda _: 0, origins)[0]
    found: dict[str, int] = {}
    for alert in alerts:
        if alert.state is State.FIRING:
            found.setdefault(alert.column, alert.detected.offset + 1 - change)
    return found


def words(name: str, chance: float, alpha: float, runs: int = 40, rows: int = 50_000) -> int:
    """How often a detector of river's speaks in `runs` × `rows` outcomes of 5 % errors, as in a training of 20,000."""
    rng = np.random.default_rng(5)
    performance = learn(values_of([0.9] * 20_000, {}), values_of((rng.uniform(size=20_000) > RATE).tolist(), {}), [])
    assert performance is not None
    reference = Reference(SCHEMA_VERSION, *StreamKey("m"), performance.columns, Source("file", 20_000))
    right, wrong = codes_of(performance.columns, np.array([[0.0], [1.0]])).ravel().tolist()
    count = 0
    for seed in range(runs):
        detector = ERROR_BUILDERS[name](reference, ERROR_PARAMS[name](chance=chance), alpha)
        errors = np.random.default_rng(100 + seed).uniform(size=rows) < RATE
        codes = np.where(errors, wrong, right).astype(np.uint8).reshape(-1, 1)
        count += len(detector.update(codes, np.zeros(rows, dtype=np.uint8), 0))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100)
    orders = parser.parse_args().orders
    training, (scores, actual) = outcomes("reference.csv.gz", "repaid"), outcomes("production.csv.gz", None)
    prediction, label = (values_of(part.tolist(), {}) for part in training)
    performance = learn(prediction, label, [])
    assert performance is not None
    known, change = streams(*training), demo.DRIFT_ROW
    now = streams(scores, actual)
    print(f"error: {known['error'].mean():.4f} in training, {now['error'][:change].mean():.4f} before the change, "
          f"{now['error'][change:].mean():.4f} from it on\n")  # fmt: skip
    print("| budget | stream | oracle, as they came | oracle, median of orders | product |")
    print("| --- | --- | ---: | ---: | ---: |")
    for budget in BUDGETS:
        found = product(performance, scores, actual, change, budget)
        for name in SUBJECTS:
            own = now["error" if name == "accuracy" else name]
            first, second = own[:change], own[change:]
            before, after = ratios(first, second)
            null = before
            if name == "accuracy":  # against training's, less the tolerance
                null, before, after = limit_ratios(first, second, 1 - performance.metrics["accuracy"] + TOLERANCE)
            came, usual = oracle(null, before, after, budget * SHARE, orders)
            product_found = f"{found[name]:,}" if name in found else "not found"
            print(f"| {budget:,} | {name} | {came:,} | {usual:,.0f} | {product_found} |", flush=True)
    print("\nriver's detectors in 2·10⁶ outcomes of 5 % errors: alone; confirmed by the reference at 1 in 10⁴\n")
    for name in ERROR_BUILDERS:
        print(f"- {name}: {words(name, 1.0, 1e-4)}; {words(name, 0.0, 1e-4)}")


if __name__ == "__main__":
    main()
