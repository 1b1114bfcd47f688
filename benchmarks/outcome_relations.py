"""What the detector of the inputs' relations with the label finds, what it must not, and its cost:
`python -m benchmarks.outcome_relations [--seeds N] [--only PART]`.

The worlds are those of `benchmarks/relations.py`, with labels. `flip`: an input's relation with the label turns round,
under the same distributions and the same scores. `stationary`, `slow` (AR(1) 0.9), `small` (a budget of 1,000 outcomes,
of which these relations have a twentieth): 10⁵ outcomes a seed, false alarms. `moved`: the columns' own distributions
move, the relation does not: either values are written down otherwise (the label is what it was), or there are others
(and the label follows). `cost`: CPU an outcome of `Model.feed` with and without.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import numpy as np

from benchmarks.relations import AFTER, BEFORE, KEY, MOVED, REFERENCE_ROWS, Floats, joined, rows_of, run_parts, world
from stream_monitor.alerts import Alert, AlertKind, State
from stream_monitor.batch import Origins
from stream_monitor.book import FIRST_EPOCH, Entry, ReferenceBook, key_of
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.model import Model
from stream_monitor.ordering import OutcomeRun
from stream_monitor.outcomes import Outcomes
from stream_monitor.reference import Season
from stream_monitor.streams import StreamFactory

BATCH = 1_000


def labelled(rng: np.random.Generator, found: dict[str, Floats], sign: Floats | float = 1.0) -> list[Row]:
    """Events whose label follows the score and, beyond it, what `b` does not share with `a`; `sign` turns it."""
    return with_labels(found | {"hit": hits(rng, found, sign)})


def hits(rng: np.random.Generator, found: dict[str, Floats], sign: Floats | float = 1.0) -> Floats:
    beyond = (found["b"] - 0.7 * found["a"]) / np.sqrt(1 - 0.7**2)
    score = np.array([row.prediction for row in rows_of(found)])
    chance = 1 / (1 + np.exp(-np.log(score / (1 - score)) - sign * beyond))
    found_hits: Floats = (rng.uniform(size=len(score)) < chance).astype(np.float64)
    return found_hits


def with_labels(found: dict[str, Floats]) -> list[Row]:
    labels = found["hit"].astype(int).tolist()
    return [msgspec.structs.replace(row, label=y) for row, y in zip(rows_of(found), labels, strict=True)]


@dataclass(slots=True)
class Fed:
    """A model under a reference."""

    book: ReferenceBook
    entry: Entry

    @classmethod
    def of(cls, seed: int, slow: float = 0.0) -> Fed:
        rng = np.random.default_rng(seed)
        rows = labelled(rng, world(rng, REFERENCE_ROWS, slow=slow))
        return cls.under(rows)

    @classmethod
    def under(cls, rows: list[Row]) -> Fed:
        reference = fit(rows, KEY, FitOptions(season=Season.NONE, ordered=True))
        book = ReferenceBook()
        book.apply(key_of(KEY, FIRST_EPOCH), reference.to_json())
        entry = book.find(KEY)
        assert entry is not None
        return cls(book, entry)

    def model(self, budget: int, *, enabled: bool = True) -> Model:
        detection = {"budget_events": budget, "relations": {"enabled": enabled}}
        document = {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "detection": detection}
        return StreamFactory(Settings.model_validate(document)).model(KEY.model)

    def runs(self, rows: list[Row]) -> list[OutcomeRun]:
        codes, origins = Binner(self.entry.reference).encode(rows).codes, Origins.of(rows)
        outcomes = Outcomes.of(rows, with_ids=False)
        assert outcomes is not None
        whole = OutcomeRun(KEY, self.entry.digest, self.entry.generation, outcomes, origins, codes)
        return [whole.take(slice(start, start + BATCH)) for start in range(0, len(rows), BATCH)]

    def alerts(self, rows: list[Row], budget: int = 100_000_000) -> list[Alert]:
        """Those about relations that fired."""
        model = self.model(budget)
        found = [alert for run in self.runs(rows) for alert in model.feed([run], [], self.book)]
        return [a for a in found if a.state is State.FIRING and a.kind is AlertKind.CORRELATION_DRIFT]


def flip(seeds: int) -> dict[str, Any]:
    """Outcomes to the first alert after the relation turned round, which must name `b`; others, and alerts before."""
    fed, delays, others, early = Fed.of(0), [], 0, 0
    for seed in range(seeds):
        rng = np.random.default_rng(1_000 + seed)
        since = BEFORE + 10 * seed  # looks are at multiples of 200
        count = since + AFTER
        fired = fed.alerts(labelled(rng, world(rng, count), np.where(np.arange(count) < since, 1.0, -1.0)))
        found = [alert.detected.offset - since for alert in fired if alert.column == "b ~ label"]
        early += sum(alert.detected.offset < since for alert in fired)
        others += len(fired) - len(found)
        delays.append(next((delay for delay in found if delay >= 0), AFTER))
    return {"delay_median": median(delays), "delay_worst": max(delays), "delay_least": min(delays), "others": others,
            "early": early}  # fmt: skip


def stationary(seeds: int, rows: int, slow: float = 0.0, budget: int = 100_000_000) -> int:
    """False alarms over all seeds; every seed has a reference of its own."""
    count = 0
    for seed in range(seeds):
        rng = np.random.default_rng(2_000 + seed)
        count += len(Fed.of(seed, slow).alerts(labelled(rng, world(rng, rows, slow=slow)), budget))
    return count


def moved(seeds: int) -> dict[str, list[int]]:
    """By case: streams of `seeds` in which a relation with the label was said to have changed, where values are written
    down otherwise, and (but for spreads and units) where there are others."""
    fed, found = Fed.of(0), {}
    for name, change in MOVED.items():
        counts = [0, 0]
        for seed in range(seeds):
            rng = np.random.default_rng(3_000 + seed)
            before, after = world(rng, BEFORE), world(rng, AFTER)
            before["hit"], after["hit"] = hits(rng, before), hits(rng, after)
            cases = [joined(before, change(rng, after))]
            if "spread" not in name and "unit" not in name:
                other = change(rng, after)
                cases.append(joined(before, other | {"hit": hits(rng, other)}))
            for k, case in enumerate(cases):
                fired = fed.alerts(with_labels(case))
                for alert in fired[:1]:
                    print(f"   {name}: {alert.detected.offset} {alert.summary}")
                counts[k] += bool(fired)
        found[name] = counts
    return found


def cost(columns: int, repetitions: int = 8) -> dict[str, float]:
    """µs of CPU an outcome of `Model.feed` with relations and without; the best of some, in turns."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(25_000, columns))
    score = 1 / (1 + np.exp(-x.mean(axis=1) * np.sqrt(columns)))
    hit = rng.uniform(size=len(x)) < score
    rows = [
        Row(KEY.model, "", "", 1_000 * i, {f"f{j}": v for j, v in enumerate(row)}, p, int(y), None, 0, i, 0)
        for i, (row, p, y) in enumerate(zip(x.tolist(), score.tolist(), hit.tolist(), strict=True))
    ]
    fed = Fed.under(rows[:5_000])
    runs = fed.runs(rows[5_000:])
    models = {"with": fed.model(100_000_000), "without": fed.model(100_000_000, enabled=False)}
    best = dict.fromkeys(models, float("inf"))
    for _ in range(repetitions):
        for name, model in models.items():
            started_s = time.process_time()
            for run in runs:
                model.feed([run], [], fed.book)
            best[name] = min(best[name], (time.process_time() - started_s) / 20_000 * 1e6)
    return {name: round(value, 3) for name, value in best.items()}


def main() -> None:
    run_parts(__doc__, flip, moved, stationary, cost)


if __name__ == "__main__":
    main()
