"""How two versions of a model differ: their inputs and predictions, column by column. Pure.

Each side brings its last rows as codes under the reference that it is watched with. Where the two references differ,
the codes of the second are brought to the bins of the first, values spread evenly within a bin; so a column compares as
well as its bins are fine. A column *differs* where chance is an unlikely explanation (χ² of two samples, effective
sizes by the autocorrelation time; Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995), over the columns) and the
distance is worth a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MAX_BINS, MISSING, NEW, OTHER
from stream_monitor.detectors.distances import effect_groups, js_divergence, psi, sums
from stream_monitor.detectors.tables import rank_order
from stream_monitor.display import Display
from stream_monitor.reference import Bins, Column, Kind, Reference
from stream_monitor.summary import describe

Codes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Verdict = Literal["differs", "alike", "too few rows", "only one has it", "another kind"]

LEVEL: Final = 0.01
"""The share of columns said to differ that do not, at most."""
WORTH: Final = 0.1
"""Jensen-Shannon distance from which on a difference is worth a word: that of the histogram detector."""
FEWEST: Final = 100
"""Rows of either side below which nothing is said."""


@dataclass(frozen=True, slots=True)
class Side:
    """One version: the codes `[rows, columns]` and strata of its last rows, and what is known of it by name.

    `rows`: ever seen; `times`: first and last ever seen, first and last of the rows compared, as texts.
    `open`: column → onset of its open alert.
    """

    version: str
    digest: str
    reference: Reference
    codes: Codes
    strata: Codes
    rows: int
    first_seen: str | None
    last_seen: str | None
    compared: tuple[str | None, str | None]
    open: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Difference:
    """Of one column: distances as in alerts, shares by shown bin of either side, `text` what moved from the first to
    the second, `since` the onset of an open alert by version."""

    column: str
    role: str
    verdict: Verdict
    js_distance: float = 0.0
    psi: float = 0.0
    ks: float = 0.0
    p_value: float = 1.0
    text: str = ""
    bins: list[str] = field(default_factory=list)
    shares: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    since: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`columns`: those that differ first, by distance; predictions before inputs."""

    sides: tuple[Side, Side]
    columns: list[Difference]

    def document(self, model: str, segment: str) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "model": model, "segment": segment,
            "versions": [
                {"version": side.version, "rows": side.rows, "first_seen": side.first_seen, "last_seen": side.last_seen,
                 "reference": side.digest, "compared": {"rows": len(side.codes), "from": side.compared[0],
                                                        "to": side.compared[1]}}
                for side in self.sides
            ],
            "columns": [
                {"column": c.column, "role": c.role, "verdict": c.verdict, "js_distance": c.js_distance, "psi": c.psi,
                 "ks": c.ks, "p_value": c.p_value, "summary": c.text, "bins": c.bins,
                 "shares": dict(zip((side.version for side in self.sides), c.shares, strict=True)), "since": c.since}
                for c in self.columns
            ],
        }  # fmt: skip


def compare(first: Side, second: Side) -> Comparison:
    """Every column that either side has."""
    theirs = {column.name: i for i, column in enumerate(second.reference.columns)}
    found = []
    for i, column in enumerate(first.reference.columns):
        if column.name not in theirs:
            found.append(Difference(column.name, column.role.value, "only one has it", text=f"only {first.version}"))
            continue
        found.append(_difference(first, second, i, theirs.pop(column.name)))
    for name, i in theirs.items():
        role = second.reference.columns[i].role.value
        found.append(Difference(name, role, "only one has it", text=f"only {second.version}"))
    _judge(found)
    # That a prediction differs is what a canary is watched for.
    found.sort(key=lambda d: (d.verdict != "differs", d.role == "input", -d.js_distance, d.column))
    return Comparison((first, second), found)


def _judge(found: Sequence[Difference]) -> None:
    """Say which differ: Benjamini and Hochberg's step-up over the columns that were tested."""
    tested = sorted((each for each in found if each.verdict == "alike"), key=lambda each: each.p_value)
    last = max((rank for rank, each in enumerate(tested, 1) if each.p_value <= LEVEL * rank / len(tested)), default=0)
    for each in tested[:last]:
        if each.js_distance >= WORTH:
            each.verdict = "differs"


def _difference(first: Side, second: Side, i: int, j: int) -> Difference:
    column, other = first.reference.columns[i], second.reference.columns[j]
    since = {side.version: side.open[column.name] for side in (first, second) if column.name in side.open}
    if column.kind is not other.kind:
        return Difference(column.name, column.role.value, "another kind", text=f"{column.kind} and {other.kind}",
                          since=since)  # fmt: skip
    column, counts = _common(column, first, i, other, second, j)
    n = [int(each.sum()) for each in counts]
    result = Difference(column.name, column.role.value, "alike", since=since)
    display = Display.of(column)
    result.bins = display.labels
    result.shares = (display.share(counts[0]), display.share(counts[1]))
    if min(n) < FEWEST:
        result.verdict = "too few rows"
        return result
    order = rank_order(column)
    ordered = column.kind is Kind.NUMERIC
    seen = [each[order] / total for each, total in zip(counts, n, strict=True)]
    both = (counts[0] + counts[1])[order].astype(np.float64)
    pooled = np.maximum(both, 1e-9) / np.maximum(both, 1e-9).sum()
    groups = effect_groups(pooled, order, ordered)
    p, q = (sums(groups, each) for each in seen)
    rows = 1 / sum(time / total for time, total in zip((column.autocorrelation_time, other.autocorrelation_time), n,
                                                       strict=True))  # fmt: skip
    filled = sums(groups, pooled)
    bias = max(float(np.minimum(filled * rows, 1).sum()) - 1, 0) / rows
    divergence = js_divergence(p, q)
    degrees = int((filled > 1e-6).sum()) - 1
    result.p_value = float(chi2.sf(_chi_square(p, q, filled, rows), degrees)) if degrees > 0 else 1.0
    result.js_distance = round(max(divergence - bias / (8 * log(2)), 0.0) ** 0.5, 4)
    result.psi = round(max(psi(p, q, min(n)) - bias, 0.0), 4)
    result.ks = round(float(np.abs(np.cumsum(seen[0]) - np.cumsum(seen[1])).max()), 4) if ordered else 0.0
    result.text = describe(column, counts[0], counts[1]).text
    return result


def _chi_square(p: Floats, q: Floats, pooled: Floats, rows: float) -> float:
    """Of two samples by shares, 1/rows = 1/n + 1/m."""
    known = pooled > 1e-6
    return float((rows * (p - q)[known] ** 2 / pooled[known]).sum())


# ---- onto the same bins ----


def _common(
    column: Column, first: Side, i: int, other: Column, second: Side, j: int
) -> tuple[Column, tuple[Counts, Counts]]:
    """A column whose bins both sides are counted in."""
    if first.digest == second.digest:  # a code means the same on both sides, in every hour
        return column, (_plain(first.codes[:, i], column), _plain(second.codes[:, j], other))
    if column.kind is Kind.CATEGORICAL:
        return column, (_plain(first.codes[:, i], column), _by_name(second.codes[:, j], other, column))
    edges = _edges(column)
    axis = msgspec.structs.replace(
        column, strata=[Bins([1] * (FIRST_BIN + len(edges)), edges.tolist(), min(b.low for b in column.strata))]
    )
    counts = (_on_axis(first.codes[:, i], first.strata, column, axis),
              _on_axis(second.codes[:, j], second.strata, other, axis))  # fmt: skip
    shown = msgspec.structs.replace(axis.strata[0], counts=np.maximum(counts[0], 0).tolist())
    return msgspec.structs.replace(axis, strata=[shown]), counts


def _plain(codes: Codes, column: Column) -> Counts:
    return np.bincount(codes, minlength=FIRST_BIN + column.bins)[: FIRST_BIN + column.bins].astype(np.int64)


def _by_name(codes: Codes, own: Column, common: Column) -> Counts:
    """Counts of categories as the common column would have coded them."""
    place = {name: FIRST_BIN + i for i, name in enumerate(common.categories)}
    rare, unknown = set(common.rare), NEW if common.exhaustive else OTHER
    to = np.array(
        [MISSING, INVALID, NEW, OTHER]
        + [place.get(name, OTHER if name in rare else unknown) for name in own.categories]
    )
    return np.bincount(to[codes], minlength=FIRST_BIN + common.bins).astype(np.int64)


def _edges(column: Column) -> Floats:
    """Upper edges that serve all strata of a column: its own, or those of all hours thinned out."""
    edges = np.unique(np.concatenate([bins.edges for bins in column.strata]))
    if len(edges) <= MAX_BINS:
        return edges
    kept = np.unique(np.linspace(0, len(edges) - 1, MAX_BINS).round().astype(int))
    return np.asarray(edges[kept])


def _on_axis(codes: Codes, strata: Codes, own: Column, axis: Column) -> Counts:
    """Rows by bin of the axis, those of one bin spread evenly over it; rounded so that their number stays."""
    edges, low = np.array(axis.strata[0].edges), axis.strata[0].low
    total = np.zeros(FIRST_BIN + len(edges))
    for stratum, bins in enumerate(own.strata):
        counts = np.bincount(codes[strata == stratum], minlength=FIRST_BIN + own.bins).astype(np.float64)
        total[MISSING] += counts[MISSING]
        total[INVALID] += counts[INVALID]
        if not bins.edges:
            total[ABOVE] += counts[ABOVE]
            continue
        beyond = {BELOW: bins.low <= low, ABOVE: bins.edges[-1] >= edges[-1]}  # else somewhere within the axis
        for code, value in ((BELOW, bins.low), (ABOVE, bins.edges[-1])):
            total[code if beyond[code] else FIRST_BIN + int(np.searchsorted(edges, value))] += counts[code]
        left = [bins.low, *bins.edges[:-1]]
        for start, stop, count in zip(left, bins.edges, counts[FIRST_BIN:].tolist(), strict=True):
            if count:
                _spread(total, count, start, stop, edges, low)
    return _rounded(total)


def _spread(total: Floats, count: float, start: float, stop: float, edges: Floats, low: float) -> None:
    """Add rows whose values lie in (start, stop], evenly."""
    cuts = np.concatenate([[low], edges])
    below = np.clip((cuts - start) / (stop - start), 0, 1) if stop > start else (cuts >= stop).astype(np.float64)
    if start >= low:
        below[0] = 0.0  # the lowest value itself is not below
    total[BELOW] += count * below[0]
    total[FIRST_BIN:] += count * np.diff(below)
    total[ABOVE] += count * (1 - below[-1])


def _rounded(total: Floats) -> Counts:
    """Whole numbers of the same sum: the largest remainders are rounded up."""
    whole = np.floor(total)
    left = round(float(total.sum() - whole.sum()))
    whole[np.argsort(whole - total, kind="stable")[:left]] += 1
    return whole.astype(np.int64)
