"""The product's own path: values → `fit` → codes → `Monitor` → alerts. One default configuration, only the budget set.

Codes are computed by `codes_of` instead of `Binner.encode`, which wants every value in a Python object; a test proves
that both give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.detection.values import ROW_MS, Floats
from stream_monitor.alerts import Alert, State
from stream_monitor.batch import Origins
from stream_monitor.book import FIRST_EPOCH, ReferenceBook
from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, MISSING, NEW, OTHER
from stream_monitor.compiled import njit
from stream_monitor.config import DetectionSettings
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.monitor import Monitor
from stream_monitor.reference import Column, Kind, Reference, StreamKey
from stream_monitor.telling import Rules

Codes = npt.NDArray[np.uint8]

STREAM: Final = StreamKey("benchmark")
SETTINGS: Final = DetectionSettings()
BUDGET: Final = 1_000_000.0
"""Values of a column between two false alarms."""
_RULES: Final = Rules(SETTINGS.policy(), SETTINGS.digest(), "benchmark")
_FIT_CELLS: Final = 400_000


def rows_of(values: Floats, *, categorical: bool = False, seasonal: bool = False) -> list[Row]:
    """Events of `values` `[rows, columns]`: NaN is a null, a category number n the text `cn`."""
    names = [f"x{i}" for i in range(values.shape[1])]
    return [
        Row(*STREAM, i * ROW_MS if seasonal else 0, dict(zip(names, row, strict=True)), None, None, None, 0, i, 0)
        for i, row in enumerate(_features(values, categorical))
    ]


def _features(values: Floats, categorical: bool) -> list[list[Any]]:
    null = np.isnan(values)
    if categorical:
        known = np.where(null, 0, values).astype(np.int64)
        found = np.array([f"c{number}" for number in range(int(known.max(initial=0)) + 1)], dtype=object)[known]
    else:
        found = values.astype(object)
    found[null] = None
    rows: list[list[Any]] = found.tolist()
    return rows


def reference_of(values: Floats, *, categorical: bool = False, seasonal: bool = False) -> Reference:
    """A reference of `[rows, columns]`, every column from its own values; their order is that of the stream."""
    columns = values.shape[1]
    step = columns if seasonal else max(1, _FIT_CELLS // len(values))
    parts = []
    for start in range(0, columns, step):
        part = values[:, start : start + step]
        names = tuple(f"x{i}" for i in range(part.shape[1]))
        options = FitOptions(include=names, ordered=True)
        parts.append(fit(rows_of(part, categorical=categorical, seasonal=seasonal), STREAM, options))
    found = [column for part in parts for column in part.columns]
    named = [msgspec.structs.replace(column, name=f"x{i}") for i, column in enumerate(found)]
    return msgspec.structs.replace(parts[0], columns=named)


def only(reference: Reference, column: int) -> Reference:
    """The reference of a stream that has this column alone."""
    return msgspec.structs.replace(reference, columns=[reference.columns[column]])


def times_of(first_row: int, rows: int) -> npt.NDArray[np.int64]:
    return np.arange(first_row, first_row + rows, dtype=np.int64) * ROW_MS


def codes_of(reference: Reference, values: Floats, first_row: int = 0) -> Codes:
    """The codes of `[rows, columns]`."""
    strata = reference.strata_of(times_of(first_row, len(values)))
    codes = np.empty(values.shape, dtype=np.uint8)
    for i, column in enumerate(reference.columns):
        codes[:, i] = _column_codes(column, values[:, i], strata)
    return codes


def _column_codes(column: Column, values: Floats, strata: Codes) -> Codes:
    if column.kind is Kind.CATEGORICAL:
        default = NEW if column.exhaustive else OTHER
        table = {**dict.fromkeys(column.rare, OTHER), **{n: FIRST_BIN + i for i, n in enumerate(column.categories)}}
        by_number = np.array([table.get(f"c{number}", default) for number in range(100)], dtype=np.uint8)
        found: Codes = np.where(np.isnan(values), MISSING, by_number[np.nan_to_num(values).astype(np.int64)])
        return found.astype(np.uint8)
    edges = np.array([bins.edges for bins in column.strata], dtype=np.float64)
    low = np.array([bins.low for bins in column.strata], dtype=np.float64)
    codes = np.empty(len(values), dtype=np.uint8)
    _search(np.ascontiguousarray(values), strata, edges, low, codes)
    return codes


@njit
def _search(values: Any, strata: Any, edges: Any, low: Any, codes: Any) -> None:
    """Bin i holds edges[i − 1] < x ≤ edges[i]."""
    for i in range(len(values)):
        x, own = values[i], edges[strata[i]]
        if np.isnan(x):
            codes[i] = MISSING
        elif x > own[len(own) - 1]:
            codes[i] = ABOVE
        elif x < low[strata[i]]:
            codes[i] = BELOW
        else:
            start, left = 0, len(own)
            while left > 1:
                half = left // 2
                if own[start + half - 1] < x:
                    start += half
                left -= half
            codes[i] = FIRST_BIN + start


@dataclass(frozen=True, slots=True)
class Message:
    """An alert, in rows of the stream."""

    row: int
    column: int
    state: State
    onset_row: int
    earliest_row: int
    direction: str
    detector: str


class Watch:
    """A stream under watch; every column has a budget of one false alarm in `budget` of its values."""

    def __init__(self, reference: Reference, budget: float = BUDGET) -> None:
        columns = len(reference.columns)
        entry = ReferenceBook.entry(reference, FIRST_EPOCH)
        detectors = DetectorSet(reference, SETTINGS.params(), budget / columns)
        self._monitor = Monitor(STREAM, entry, detectors, _RULES)
        self._number = {column.name: i for i, column in enumerate(reference.columns)}
        self.rows = 0
        self.open: set[int] = set()
        self.open_rows = 0
        """Rows × columns that lay within an episode."""
        self._since: dict[int, int] = {}

    def feed(self, codes: Codes) -> list[Message]:
        """The next rows, `[rows, columns]`; the alerts `firing` and `resolved` that they raise."""
        alerts = self._monitor.feed(codes, self._origins(len(codes)))
        self.rows += len(codes)
        return self._messages(alerts)

    def _origins(self, rows: int) -> Origins:
        zeros = np.zeros(rows, dtype=np.int64)
        offsets = np.arange(self.rows, self.rows + rows, dtype=np.int64)
        times = times_of(self.rows, rows)
        return Origins(zeros.astype(np.int32), offsets, zeros.astype(np.int32), times, times)

    def _messages(self, alerts: Sequence[Alert]) -> list[Message]:
        messages = []
        for alert in alerts:
            if alert.state not in (State.FIRING, State.RESOLVED) or alert.scope != "column":
                continue
            column, row = self._number[alert.column], alert.detected.offset
            assert alert.onset.event is not None  # always there for a column
            onset, earliest = alert.onset.event.offset, _row_of(alert.onset.earliest)
            told = alert.signals[0]
            messages.append(Message(row, column, alert.state, onset, earliest, told.direction, told.detector))
            if alert.state is State.FIRING:
                self._since[column] = row
            else:
                self.open_rows += row - self._since.pop(column)
            self.open = set(self._since)
        return messages

    def total_open_rows(self) -> int:
        """`open_rows`, with the episodes that are still open."""
        return self.open_rows + sum(self.rows - row for row in self._since.values())


def _row_of(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1_000 / ROW_MS)
