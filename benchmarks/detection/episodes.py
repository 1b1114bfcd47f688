"""D3, D4: an alert's end. How fast it is resolved once the drift is over, the first time and the times after, and
whether a drift too small to be sure of makes it flap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from benchmarks.detection import gates
from benchmarks.detection.delays import judged
from benchmarks.detection.product import Message, Watch, codes_of, reference_of
from benchmarks.detection.results import Family, Result, Task
from benchmarks.detection.values import MARGINALS, Floats, rng_of
from stream_monitor.alerts import State
from stream_monitor.reference import Reference

BEFORE: Final = 2_000
DRIFT: Final = 5_000
AFTER: Final = 20_000
LONG: Final = 100_000
CHUNK: Final = 5_000
RECOVERIES: Final = {
    "+ 0.25 σ": (0.25, 1.0), "+ 0.5 σ": (0.5, 1.0), "+ 1 σ": (1.0, 1.0), "+ 2 σ": (2.0, 1.0), "σ × 2": (0.0, 2.0),
    "σ × 0.5": (0.0, 0.5),
}  # fmt: skip
"""Shift and scale while it lasts."""


@dataclass(frozen=True, slots=True)
class Weak:
    """A drift that a detector cannot be sure of: of normal columns a shift and a scale, or of binary ones (0.2) another
    rate; `rows` of the reference. `quick`: whether the quick run has it, too."""

    shift: float = 0.0
    scale: float = 1.0
    rate: float | None = None
    rows: int = 50_000
    quick: bool = True


def _flapping() -> dict[str, Weak]:
    found = {f"+ {shift:g} σ": Weak(shift) for shift in (0.02, 0.04, 0.05, 0.06, 0.08, 0.1)}
    found |= {f"+ {shift:g} σ": Weak(shift, quick=False) for shift in (0.35, 0.75, 1.5)}
    found |= {f"σ × {scale:g}": Weak(scale=scale, quick=scale in (0.9, 1.1)) for scale in (0.8, 0.9, 1.1, 1.25)}
    found |= {f"0.2 → {rate:g}": Weak(rate=rate, quick=False) for rate in (0.21, 0.22)}
    for rows in (1_000, 2_000, 5_000):
        name = f"{rows:,} rows,"
        found |= {f"{name} + {shift:g} σ": Weak(shift, rows=rows, quick=False) for shift in (0.06, 0.1, 0.2, 0.35)}
        found |= {f"{name} σ × {scale:g}": Weak(scale=scale, rows=rows) for scale in (0.9, 1.1)}
        found |= {
            f"{name} 0.2 → {rate:g}": Weak(rate=rate, rows=rows, quick=rate == 0.23) for rate in (0.23, 0.25, 0.28, 0.4)
        }
    return found


FLAPPING: Final = _flapping()
"""Drifts between the reference and the weakest alternative, where a detector is least sure; between two alternatives;
those that no alternative fits; and small references, whose doubt hides more of the reference's neighbours. All are
gated."""
RECURRING: Final = {"+ 0.25 σ": (0.25, 1.0), "+ 0.5 σ": (0.5, 1.0), "+ 1 σ": (1.0, 1.0), "σ × 1.4": (0.0, 1.4)}
"""Shift and scale of drifts that come `TIMES`, for 5,000 rows each, with 10,000 rows of the reference between."""
TIMES: Final = 4
BETWEEN: Final = 10_000


@dataclass(slots=True)
class Seen:
    """What the runs of one case gave: rows from the return to `resolved` (None: never), and reopenings."""

    case: str
    recoveries: list[int | None] = field(default_factory=list)
    reopenings: list[int] = field(default_factory=list)


def recovery(case: str, columns: int, part: int) -> Seen:
    """A drift of 5,000 rows, then the reference again."""
    shift, scale = RECOVERIES[case]
    messages = _watched("recovery", case, columns, BEFORE + DRIFT + AFTER, part, partial(_episode, shift, scale))
    back = BEFORE + DRIFT
    seen = Seen(case)
    for own in messages:
        ended = [m.row for m in own if m.state is State.RESOLVED and m.row >= back]
        fired = [m.row for m in own if m.state is State.FIRING and BEFORE <= m.row < back]
        if fired:
            seen.recoveries.append(ended[0] + 1 - back if ended else None)
            seen.reopenings.append(len(fired) - 1)
    return seen


def flapping(case: str, columns: int, part: int) -> Seen:
    """10⁵ rows of a drift that hardly is one."""
    weak = FLAPPING[case]
    marginal = "normal" if weak.rate is None else "Bernoulli 0.2"
    messages = _watched("flapping", case, columns, LONG, part, partial(_always, weak, part), marginal, weak.rows)
    fired = [sum(m.state is State.FIRING for m in own) for own in messages]
    return Seen(case, reopenings=[max(count - 1, 0) for count in fired])


def recurring(case: str, columns: int, part: int) -> Seen:
    """Of a drift that comes and goes, every return but the first."""
    shift, scale = RECURRING[case]
    every = DRIFT + BETWEEN
    messages = _watched("recurring", case, columns, BEFORE + TIMES * every, part, partial(_comes, shift, scale))
    seen = Seen(case)
    for own in messages:
        for time in range(1, TIMES):
            begun = BEFORE + time * every
            back = begun + DRIFT
            if any(m.state is State.FIRING and begun <= m.row < back for m in own):
                ended = [m.row for m in own if m.state is State.RESOLVED and back <= m.row < begun + every]
                seen.recoveries.append(ended[0] + 1 - back if ended else None)
    return seen


def _comes(shift: float, scale: float, values: Floats) -> None:
    for time in range(TIMES):
        begun = BEFORE + time * (DRIFT + BETWEEN)
        values[begun : begun + DRIFT] = values[begun : begun + DRIFT] * scale + shift


def _episode(shift: float, scale: float, values: Floats) -> None:
    during = slice(BEFORE, BEFORE + DRIFT)
    values[during] = values[during] * scale + shift


def _always(weak: Weak, part: int, values: Floats) -> None:
    if weak.rate is None:
        values *= weak.scale
        values += weak.shift
    else:  # of the zeros so many become ones
        values[
            (values == 0) & (rng_of("rates", str(weak.rate), part).random(values.shape) < (weak.rate - 0.2) / 0.8)
        ] = 1.0


def _watched(
    what: str, case: str, columns: int, rows: int, part: int, change: Any, marginal: str = "normal",
    reference_rows: int = 50_000,
) -> list[list[Message]]:  # fmt: skip
    """By column the messages of a stream of columns of one marginal, each with a reference of its own."""
    reference, rng = _reference(columns, part, marginal, reference_rows), rng_of(what, case, part)
    values = np.column_stack([MARGINALS[marginal].draw(rng, rows) for _ in range(columns)])
    change(values)
    codes, watch = codes_of(reference, values), Watch(reference)
    found: list[list[Message]] = [[] for _ in range(columns)]
    for start in range(0, rows, CHUNK):
        for message in watch.feed(codes[start : start + CHUNK]):
            found[message.column].append(message)
    return found


@lru_cache(maxsize=4)
def _reference(columns: int, part: int, marginal: str, rows: int) -> Reference:
    """The same for all cases of a part, a marginal and a size."""
    rng = rng_of("episodes", part)
    return reference_of(np.column_stack([MARGINALS[marginal].draw(rng, rows) for _ in range(columns)]))


def families(columns: int, parts: int, quick: bool) -> list[Family]:
    """`quick`: of the weak drifts those alone that the quick run has."""
    found = []
    weak = [case for case, each in FLAPPING.items() if each.quick or not quick]
    for test, run, cases, finish in (
        ("D3", recovery, RECOVERIES, _recovered),
        ("D3", recurring, RECURRING, _recovered_again),
        ("D4", flapping, weak, _flapped),
    ):
        tasks = [
            Task("episodes", run, (case, columns, part), columns * 0.05) for case in cases for part in range(parts)
        ]
        found.append(Family(f"episodes {test} {run.__name__}", frozenset({test}), tasks, finish))
    return found


def _merged(parts: list[Seen]) -> dict[str, Seen]:
    merged: dict[str, Seen] = {}
    for part in parts:
        into = merged.setdefault(part.case, Seen(part.case))
        into.recoveries += part.recoveries
        into.reopenings += part.reopenings
    return merged


def _recovered(parts: list[Seen]) -> list[Result]:
    found, worst = [], 0.0
    for case, seen in _merged(parts).items():
        rows = [np.inf if row is None else float(row) for row in seen.recoveries]
        middle, most = (float(np.median(rows)), max(rows)) if rows else (np.inf, np.inf)
        worst = max(worst, most)
        note = f"{len(rows)} runs, {sum(seen.reopenings)} reopenings while the drift lasted"
        found.append(Result("D3", case, "median recovery", _finite(middle), "rows", note=note))
        found.append(Result("D3", case, "worst recovery", _finite(most), "rows"))
    return [*found, _asked(Result("D3", "all", "worst recovery", _finite(worst), "rows"))]


def _recovered_again(parts: list[Seen]) -> list[Result]:
    found = []
    for case, seen in _merged(parts).items():
        rows = [np.inf if row is None else float(row) for row in seen.recoveries]
        note = f"{len(rows)} returns after the first; {rows.count(np.inf)} not within {BETWEEN:,} rows"
        middle = float(np.median(rows)) if rows else np.inf
        found.append(Result("D3", f"{case}, comes and goes", "median recovery", _finite(middle), "rows", note=note))
        slow = float(np.quantile(rows, 0.95, method="higher")) if rows else np.inf
        found.append(Result("D3", f"{case}, comes and goes", "95 % recovery", _finite(slow), "rows"))
    return found


def _flapped(parts: list[Seen]) -> list[Result]:
    found, worst = [], 0
    for case, seen in _merged(parts).items():
        most, mean = max(seen.reopenings), float(np.mean(seen.reopenings))
        worst = max(worst, most)
        note = f"{len(seen.reopenings)} runs"
        found.append(Result("D4", case, "reopenings in 10⁵ rows, mean", mean, "", note=note))
        found.append(Result("D4", case, "reopenings in 10⁵ rows, worst run", most, ""))
    return [*found, _asked(Result("D4", "all", "reopenings in 10⁵ rows, worst run", worst, ""))]


def _asked(result: Result) -> Result:
    return judged(result, *gates.ASKED[result.key])


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
