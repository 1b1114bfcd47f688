"""A stream watched as a whole and by segment: rows in, alerts out that say whether others moved too. Pure.

The whole and every segment have a `Monitor` each, fed with the rows that belong to it, so that each depends on its own
rows and their order only. What an alert says of the others is computed from the last rows of the whole stream up to
the row of its decision: it does not depend on where a batch was cut either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import Across, Alert, State
from stream_monitor.batch import CodedBatch, Extra
from stream_monitor.compiled import njit
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Reference, Segment
from stream_monitor.segments import NONE, Router, levels, watched_columns
from stream_monitor.telling import CITED_ROWS

Codes = npt.NDArray[np.uint8]
Times = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]
Verdict = Literal["moved", "steady", "undecided"]

ODDS: Final = 20.0
"""Likelihood ratio at which a segment counts as moved (times the segments looked at, so that one in twenty alerts
names one wrongly at most), or against the alert's own change as steady."""


@dataclass(slots=True)
class Segmented:
    """The monitors of a stream's segments, beside that of the whole; one is made when its first row comes."""

    whole: Monitor
    new: Callable[[Segment], Monitor]
    monitors: dict[str, Monitor] = field(default_factory=dict)
    _router: Router = field(init=False)
    _parts: list[Segment] = field(init=False)
    _columns: list[Rows] = field(init=False)
    _levels: int = field(init=False)

    def __post_init__(self) -> None:
        reference: Reference = self.whole.entry.reference
        self._router, self._parts, self._levels = Router(reference), reference.parts, levels(reference)
        self._columns = [watched_columns(reference, segment) for segment in self._parts]

    def feed(self, batch: CodedBatch) -> list[Alert]:
        """The alerts that the rows raise, by the row of decision, those of the whole first."""
        before = self.whole.trail.last(CITED_ROWS - 1)
        alerts = self.whole.feed(batch.codes, batch.origins, batch.extras, batch.unknown)
        beyond = np.array([extra.row for extra in batch.extras], dtype=np.intp)
        for number, rows in self._router.split(batch.codes):
            columns = self._columns[number]
            extras = _extras(batch.extras, beyond, rows, columns) if batch.extras else ()
            alerts += self.monitor(number).feed(_part(batch.codes, rows, columns), batch.origins.take(rows), extras)
        return self._told(alerts, batch, before) if alerts else []

    def monitor(self, number: int) -> Monitor:
        segment = self._parts[number]
        if segment.name not in self.monitors:
            self.monitors[segment.name] = self.new(segment)
        return self.monitors[segment.name]

    def _told(self, alerts: list[Alert], batch: CodedBatch, before: tuple[Codes, Times]) -> list[Alert]:
        origins = batch.origins
        ids = zip(origins.partition.tolist(), origins.offset.tolist(), origins.index.tolist(), strict=True)
        place = {row: i for i, row in enumerate(ids)}
        dated = [(place[a.detected.partition, a.detected.offset, a.detected.index], a) for a in alerts]
        dated.sort(key=lambda each: each[0])  # stable: the whole, then the segments in the order of the reference
        codes, times = np.concatenate([before[0], batch.codes]), np.concatenate([before[1], origins.time_ms])
        told = []
        for row, alert in dated:
            if alert.scope == "column" and alert.state is not State.RESOLVED:
                stop = len(before[0]) + row + 1
                start = max(stop - CITED_ROWS, 0)
                alert = self._with_others(alert, codes[start:stop], times[start:stop])
            told.append(alert)
        return told

    def _with_others(self, alert: Alert, codes: Codes, times: Times) -> Alert:
        """The alert with what its rows since the onset and those of the others say; `codes` end with its row."""
        name, own = alert.column, self._number(alert.segment)
        numbers = list(self._router.numbers(codes))
        rows = _since(alert.detected.rows_since_onset, len(codes), _members(numbers, own))
        strata = self.whole.entry.reference.strata_of(times)
        looks = _Looks(codes[rows:], strata[rows:], [level[rows:] for level in numbers], self)
        change = looks.change(name, own)
        peers = self._peers(own, name)
        bar = log(ODDS * max(len(peers), 1))
        found = {number: looks.verdict(name, number, change, bar) for number in peers}
        across = Across(
            whole="moved" if own == NONE else looks.verdict(name, NONE, change, log(ODDS)),
            **{state: [self._parts[n].name for n in peers if found[n] == state]
               for state in ("moved", "steady", "undecided")},
        )  # fmt: skip
        words = self._words(own, across)
        return alert.model_copy(
            update={"segments": across, "summary": f"{alert.summary}; {words}" if words else alert.summary}
        )

    def _number(self, segment: str) -> int:
        names = [part.name for part in self._parts]
        return names.index(segment) if segment in names else NONE

    def _peers(self, own: int, column: str) -> list[int]:
        """The segments to look at, for one of the whole or of a segment."""
        reference = self.whole.entry.reference
        watched = [
            i for i, columns in enumerate(self._columns) if any(reference.columns[c].name == column for c in columns)
        ]
        if own == NONE:
            return watched
        return [i for i in watched if i != own and self._parts[i].features == self._parts[own].features]

    def _words(self, own: int, across: Across) -> str:
        """In words: only here, here and there, or everywhere."""
        if own != NONE:
            if not across.moved:
                here = "only in" if not across.undecided else "in"
                return f"{here} {self._parts[own].name}{_rest(across)}" if across.steady else ""
            if across.steady or across.undecided:
                return _listed("also in ", across.moved) + _rest(across)
            return f"also in {_others(len(across.moved))}"
        for features in dict.fromkeys(
            part.features for part in self._parts
        ):  # one that tells the moved from the steady
            names = {part.name for part in self._parts if part.features == features}
            level = Across(whole="moved", moved=[n for n in across.moved if n in names],
                           steady=[n for n in across.steady if n in names],
                           undecided=[n for n in across.undecided if n in names])  # fmt: skip
            if level.moved and level.steady:
                return _listed("in " if level.undecided else "only in ", level.moved) + _rest(level)
        if across.moved and not across.undecided:
            return f"in all {len(across.moved)} segments"
        found = len(across.moved) + len(across.steady) + len(across.undecided)
        return f"in {len(across.moved)} of {found} segments{_rest(across)}" if across.moved else ""


@dataclass(frozen=True, slots=True)
class _Looks:
    """Rows of the whole stream since an onset, and what single monitors make of those that are theirs."""

    codes: Codes
    strata: Codes
    numbers: Sequence[npt.NDArray[np.int16]]
    segmented: Segmented

    def _spoken(self, column: str, number: int) -> tuple[float, dict[str, float]]:
        own = _members(self.numbers, number)
        if own is not None and not own.any():
            return 0.0, {}
        monitor = self.segmented.whole if number == NONE else self.segmented.monitor(number)
        names = [each.name for each in monitor.entry.reference.columns]
        rows = slice(None) if own is None else own
        places = [each.name for each in self.segmented.whole.entry.reference.columns]
        codes = np.ascontiguousarray(self.codes[rows, places.index(column)])
        return monitor.detectors.spoken(names.index(column), codes, self.strata[rows])

    def change(self, column: str, number: int) -> str:
        """The alternative that the alert's own rows speak for most."""
        _, ratios = self._spoken(column, number)
        return max(ratios, key=ratios.__getitem__, default="")

    def verdict(self, column: str, number: int, change: str, bar: float) -> Verdict:
        evidence, ratios = self._spoken(column, number)
        if evidence >= bar:
            return "moved"
        return "steady" if ratios.get(change, 0.0) <= -log(ODDS) else "undecided"


def _members(numbers: Sequence[npt.NDArray[np.int16]], segment: int) -> npt.NDArray[np.bool_] | None:
    """Which rows are of a segment; None: all, they are the whole's."""
    if segment == NONE:
        return None
    member: npt.NDArray[np.bool_] = np.logical_or.reduce([level == segment for level in numbers])
    return member


def _since(rows_since: int, rows: int, member: npt.NDArray[np.bool_] | None) -> int:
    """The first of the last `rows` of the whole that is not before the onset, `rows_since` own rows ago."""
    own = np.arange(rows) if member is None else np.flatnonzero(member)
    return int(own[-1 - rows_since]) if rows_since < len(own) else 0


def _extras(extras: Sequence[Extra], beyond: Rows, rows: Rows, columns: Rows) -> list[Extra]:
    """Those of some rows (ascending) and columns, by their places there; `beyond`: the rows of the extras."""
    at = np.minimum(np.searchsorted(rows, beyond), len(rows) - 1)
    of = {column: i for i, column in enumerate(columns.tolist())}
    own = np.flatnonzero(rows[at] == beyond).tolist()
    return [Extra(int(at[i]), of[e.column], e.value) for i in own if (e := extras[i]).column in of]


@njit
def _part(codes: Any, rows: Any, columns: Any) -> Any:
    """Some rows and columns; numpy takes five times as long for both at once."""
    part = np.empty((len(rows), len(columns)), dtype=np.uint8)
    for i in range(len(rows)):
        for j in range(len(columns)):
            part[i, j] = codes[rows[i], columns[j]]
    return part


def _listed(head: str, names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return head + " · ".join(names[:most]) + more


def _others(count: int) -> str:
    return "the other one" if count == 1 else f"all {count} others"


def _rest(across: Across) -> str:
    parts = list(_counted(across))
    return f" ({', '.join(parts)})" if parts else ""


def _counted(across: Across) -> Iterator[str]:
    if across.steady:
        yield f"{len(across.steady)} steady"
    if across.undecided:
        yield f"{len(across.undecided)} undecided"
