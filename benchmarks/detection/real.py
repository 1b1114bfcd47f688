"""C1 – C4: real and realistic streams with known drift, through the product's replay: rows → codes → alerts."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from benchmarks.detection import gates, oracle
from benchmarks.detection.delays import judged
from benchmarks.detection.peers import PEERS, detections
from benchmarks.detection.product import BUDGET
from benchmarks.detection.results import Family, Peers, Result, Task
from benchmarks.detection.values import Floats, rng_of
from stream_monitor.alerts import Alert, State
from stream_monitor.config import Settings
from stream_monitor.demo import DRIFT_ROW, DRIFTED, STABLE, car_loan_production, car_loan_reference
from stream_monitor.detectors.tables import probabilities
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.features import canonical
from stream_monitor.fit import FitOptions, build_references
from stream_monitor.reference import Reference, Season
from stream_monitor.replay import Replay

DATA: Final = Path(__file__).parents[2] / "tests" / "data"
FREE_PEERS: Final = tuple(peer for peer in PEERS if peer != "always")

Rows = Sequence[Row]
Firings = dict[str, list[int]]
"""By column the rows at which an alert fired, or a peer detected."""


def reference_of(rows: Rows, options: FitOptions | None = None) -> Reference:
    """As `stream-monitor reference build` makes it."""
    (reference,) = build_references(lambda: [rows], options or FitOptions())
    return reference


def watched(reference: Reference, rows: Rows) -> list[Alert]:
    """The alerts of a replay; budget: one false alarm in 10⁶ values a column."""
    budget = round(BUDGET / len(reference.columns))
    alerts: list[Alert] = []
    replay = Replay(Settings.model_validate({"detection": {"budget_events": budget}}), [reference], alerts.append)
    for start in range(0, len(rows), 1_000):
        replay.feed(rows[start : start + 1_000])
    return [alert for alert in alerts if alert.scope == "column"]


def firings(alerts: Sequence[Alert], columns: Sequence[str]) -> Firings:
    found: Firings = {column: [] for column in columns}
    for alert in alerts:
        if alert.state is State.FIRING:
            found[alert.column].append(alert.detected.offset)
    return found


def peer_firings(peer: str, reference: Reference, training: Rows, rows: Rows) -> Firings:
    """A category is the number it has in the reference's order; rows count as `offset` says."""
    found = {}
    for column in reference.columns:
        known = {name: float(i) for i, name in enumerate((*column.categories, *column.rare))}
        before, after = (_numbers(part, column.name, known) for part in (training, rows))
        found[column.name] = [rows[at].offset for at in detections(peer, after, before)]
    return found


def _numbers(rows: Rows, column: str, known: dict[str, float]) -> Floats:
    values = [row.prediction if column == "prediction" else row.features[column] for row in rows]
    if known:
        values = [known.get(canonical(value) or "", float(len(known))) for value in values]
    return np.array([np.nan if value is None else float(value) for value in values])


def car_loan() -> list[Result]:
    """C1."""
    rows = [row for chunk in car_loan_production() for row in chunk]
    reference = car_loan_reference()
    ours = _car_loan_metrics(firings(watched(reference, rows), [c.name for c in reference.columns]))
    peers = {
        # The first half of production is as the reference: z-scores by it.
        peer: _car_loan_metrics(peer_firings(peer, reference, rows[:DRIFT_ROW], rows))
        for peer in FREE_PEERS
    }
    best = {gates.DELAY: float(np.median(_oracle_delays(reference, rows)))}
    found = []
    for metric, value in ours.items():
        theirs: Peers = {peer: metrics[metric] for peer, metrics in peers.items()}
        result = _asked("C1", "car_loan", metric, value, "rows" if metric == gates.DELAY else "", theirs)
        found.append(replace(result, oracle=best.get(metric)))
    return found


def _oracle_delays(reference: Reference, rows: Rows) -> list[int]:
    """Of a CUSUM for each drifted column that knows what the column's codes are before and what they will be after.

    Its steps for the threshold are drawn from those two distributions.
    """
    codes = Binner(reference).encode(rows).codes
    delays = []
    for index, column in enumerate(reference.columns):
        if column.name not in DRIFTED:
            continue
        counts = np.sum([bins.counts for bins in column.strata], axis=0)
        before = probabilities(counts.astype(np.float64))
        after = probabilities(np.bincount(codes[DRIFT_ROW:, index], minlength=len(counts)).astype(np.float64))
        steps = np.log(after / before)
        rng = rng_of("oracle", column.name)
        calm, moved = (steps[rng.choice(len(steps), oracle.STEPS, p=p)] for p in (before, after))
        h = oracle.threshold_of(calm, moved, BUDGET)
        delays.append(oracle.first_alarm(steps[codes[:, index]], h, DRIFT_ROW) + 1 - DRIFT_ROW)
    return delays


def _car_loan_metrics(found: Firings) -> dict[str, float | None]:
    first = [next((row + 1 - DRIFT_ROW for row in found[c] if row >= DRIFT_ROW), None) for c in DRIFTED]
    delays = [np.inf if delay is None else float(delay) for delay in first]
    middle = float(np.median(delays))
    return {
        "drifted columns found": sum(delay is not None for delay in first),
        "undrifted columns flagged": sum(bool(found[column]) for column in STABLE),
        "false alarms before the drift": sum(row < DRIFT_ROW for rows in found.values() for row in rows),
        gates.DELAY: middle if np.isfinite(middle) else None,
    }


def car_loan_shuffled(shuffle: int) -> tuple[int, dict[str, int]]:
    """One shuffle of C2: false alarms of ours and of the peers."""
    rows = [row for chunk in car_loan_production() for row in chunk]
    order = rng_of("shuffle", shuffle).permutation(len(rows)).tolist()
    mixed = [  # the values move, the time stamps stay
        msgspec.structs.replace(rows[source], time_ms=row.time_ms, offset=row.offset, record_ms=row.record_ms)
        for row, source in zip(rows, order, strict=True)
    ]
    training, watch = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    reference = reference_of(training)
    ours = firings(watched(reference, watch), [c.name for c in reference.columns])
    peers = {peer: _total(peer_firings(peer, reference, training, watch)) for peer in FREE_PEERS} if not shuffle else {}
    return _total(ours), peers


def _total(found: Firings) -> int:
    return sum(map(len, found.values()))


def _shuffled(parts: list[tuple[int, dict[str, int]]]) -> list[Result]:
    counts = [count for count, _ in parts]
    peers: Peers = dict(parts[0][1])
    found = [_asked("C2", "car_loan shuffled", "false alarms", counts[0], "", peers)]
    if len(counts) > 1:
        note = f"{len(counts)} shuffles; 0.2 were expected by the budget"
        mean = float(np.mean(counts))
        found.append(Result("C2", "car_loan shuffled", "false alarms, mean of many", mean, "", note=note))
    return found


def arabic_digit() -> list[Result]:
    """C3. In the file the sexes are mixed (about half of every block of 2,200 is male), so it is put in the order that
    is meant: 2,200 male, 2,200 female, and again, each sex in its own order."""
    with gzip.open(DATA / "arabic_digit.csv.gz", "rt", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    male, female = ([row for row in table if row["sex"] == sex] for sex in ("male", "female"))
    blocks = male[:2_200] + female[:2_200] + male[2_200:] + female[2_200:]
    rows = [
        Row("arabic_digit", "", "", 0, {k: float(v) for k, v in row.items() if k.startswith("mfcc")}, None, None, None,
            0, i, 0)
        for i, row in enumerate(blocks)
    ]  # fmt: skip
    training, watch = rows[:1_500], rows[1_500:]
    reference = reference_of(training)
    alerts = watched(reference, watch)
    ours = firings(alerts, [c.name for c in reference.columns])
    fired = sorted(row for rows in ours.values() for row in rows)
    right = [_fires(fired, 2_200), _quiet_at(alerts, 5_000), _fires(fired, 6_600)]
    peers: Peers = {}
    for peer in FREE_PEERS:
        seen = sorted(row for rows in peer_firings(peer, reference, training, watch).values() for row in rows)
        peers[peer] = sum(any(at <= row < at + within for row in seen) for at, within in _DIGIT_CHANGES)
    note = f"fires, back to normal, fires again: {', '.join('yes' if ok else 'NO' for ok in right)}"
    delays = [next((row + 1 - at for row in fired if row >= at), None) for at in (2_200, 6_600)]
    worst = None if None in delays else float(max(delay for delay in delays if delay is not None))
    early = sum(row < 2_200 for row in fired)
    back = max(
        (a.detected.offset for a in alerts if a.state is State.RESOLVED and a.detected.offset < 6_600), default=0
    )
    return [
        _asked("C3", "arabic_digit", "right of 3", sum(right), "", peers, note),
        _asked("C3", "arabic_digit", "worst delay", worst, "rows", note="of the two onsets"),
        Result("C3", "arabic_digit", "last column back to normal", max(back + 1 - 4_400, 0), "rows"),
        Result("C3", "arabic_digit", "false alarms before row 2,200", early, ""),
    ]


_DIGIT_CHANGES: Final = ((2_200, 200), (4_400, 600), (6_600, 200))


def _fires(fired: list[int], row: int) -> bool:
    return any(row <= at < row + 200 for at in fired)


def _quiet_at(alerts: Sequence[Alert], row: int) -> bool:
    """Whether no episode is open at a row."""
    open_columns: set[str] = set()
    for alert in alerts:
        if alert.detected.offset >= row:
            break
        if alert.state is State.FIRING:
            open_columns.add(alert.column)
        elif alert.state is State.RESOLVED:
            open_columns.discard(alert.column)
    return not open_columns


FROZEN: Final = ("vicprice", "vicdemand", "transfer")
LIVE: Final = ("nswprice", "nswdemand")
THAWED: Final = 17_424
WEEK: Final = 336
HALF_HOUR_MS: Final = 1_800_000


def electricity() -> list[Result]:
    """C4. The reference is the first half year (26 weeks), with strata by the hour of the week. The file has no dates;
    it is known to begin on Tuesday, 7 May 1996."""
    start_ms = int(datetime(1996, 5, 7, tzinfo=UTC).timestamp() * 1_000)
    with gzip.open(DATA / "electricity.csv.gz", "rt", encoding="utf-8") as file:
        rows = [
            Row("electricity", "", "", start_ms + i * HALF_HOUR_MS, {c: float(r[c]) for c in (*LIVE, *FROZEN)}, None,
                None, None, 0, i, 0)
            for i, r in enumerate(csv.DictReader(file))
        ]  # fmt: skip
    training, watch = rows[: 26 * WEEK], rows[26 * WEEK :]
    options = FitOptions(season=Season.HOUR_OF_WEEK)
    reference = reference_of(training, options)
    columns = [c.name for c in reference.columns]
    ours = firings(watched(reference, watch), columns)
    theirs = {peer: peer_firings(peer, reference, training, watch) for peer in FREE_PEERS}
    counts = ", ".join(f"{column} {len(ours.get(column, []))}" for column in LIVE)
    delays = [min((row + 1 - THAWED for row in ours.get(c, []) if row >= THAWED), default=None) for c in FROZEN]
    told = ", ".join(
        f"{c} after {d} rows" if d is not None else f"{c} never" for c, d in zip(FROZEN, delays, strict=True)
    )
    return [
        _asked("C4", "electricity", "frozen columns found", _thawed(ours), "",
               {peer: _thawed(found) for peer, found in theirs.items()}, told),
        _asked("C4", "electricity", "episodes, worst column", _worst(ours), "",
               {peer: _worst(found) for peer, found in theirs.items()}, counts),
    ]  # fmt: skip


def _thawed(found: Firings) -> int:
    """Columns that fire first within a week of the thaw."""
    return sum(THAWED <= next(iter(found.get(column, [])), -1) < THAWED + WEEK for column in FROZEN)


def _worst(found: Firings) -> int:
    return max(len(found.get(column, [])) for column in LIVE)


def _asked(
    test: str, case: str, metric: str, value: float | None, unit: str, peers: Peers | None = None, note: str = ""
) -> Result:
    gate, goal = gates.ASKED.get((test, case, metric), (None, None))
    return judged(Result(test, case, metric, value, unit, peers or {}, note=note), gate, goal)


def families(shuffles: int) -> list[Family]:
    singles: dict[str, Callable[[], list[Result]]] = {"C1": car_loan, "C3": arabic_digit, "C4": electricity}
    found = [Family(test, frozenset({test}), [Task(test, run, (), 8.0)], _flat) for test, run in singles.items()]
    tasks = [Task("C2", car_loan_shuffled, (shuffle,), 6.0) for shuffle in range(shuffles)]
    return [*found, Family("C2", frozenset({"C2"}), tasks, _shuffled)]


def _flat(parts: list[list[Result]]) -> list[Result]:
    return [result for part in parts for result in part]
