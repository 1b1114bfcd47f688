"""Raw values that training never saw, by column: what a monitor keeps of them to name them in an alert. Pure.

Of every column the last 64, at most 16,384 rows old; and while an episode is open, the names since its onset by a
sketch of fixed size. What an alert cites depends on rows only: values of a pane are folded in at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from stream_monitor.errors import WireError
from stream_monitor.heavy import HeavyNames

Value = tuple[int, int, float | str]
"""(row of the stream, column, raw value)."""

KEPT: Final = 64
KEPT_ROWS: Final = 16_384
SWEEP_ROWS: Final = 4_096
MOST_CITED: Final = 8


class Outside:
    """The values of all columns of one stream; memory is bounded by 64 values and 32 names a column."""

    def __init__(self) -> None:
        self._recent: dict[int, list[tuple[int, float | str]]] = {}
        self._names: dict[int, HeavyNames] = {}
        self._touched: set[int] = set()

    def add(self, values: Iterable[Value]) -> None:
        """Values in the order of rows; `end_of_pane` has to follow once a pane."""
        for row, column, value in values:
            self._recent.setdefault(column, []).append((row, value))
            self._touched.add(column)

    def end_of_pane(self, first: int, stop: int, onsets: Mapping[int, int]) -> None:
        """Rows `first … stop − 1` are complete; `onsets`: the onset row of every open episode by column."""
        for column in sorted(self._names.keys() - onsets.keys()):
            del self._names[column]
        for column, onset in onsets.items():
            since = first if column in self._names else onset
            fresh = [value for row, value in self._recent.get(column, []) if row >= since and isinstance(value, str)]
            for name in fresh:
                self._names.setdefault(column, HeavyNames()).add(name)
        for column in sorted(self._touched):
            del self._recent[column][:-KEPT]
        self._touched.clear()
        if stop % SWEEP_ROWS < stop - first:
            self._forget_before(stop - KEPT_ROWS)

    def _forget_before(self, row: int) -> None:
        recent = {column: [entry for entry in kept if entry[0] >= row] for column, kept in self._recent.items()}
        self._recent = {column: kept for column, kept in recent.items() if kept}

    def numbers(self, column: int, onset: int, row: int) -> list[float]:
        """The last numbers from the onset to `row`."""
        return [value for value in self._since(column, onset, row) if isinstance(value, (int, float))]

    def names(self, column: int, onset: int, row: int) -> list[tuple[str, float]]:
        """The most frequent names from the onset to `row`, with their share of all names."""
        heavy = self._names.get(column)
        if heavy is None:
            heavy = HeavyNames()
            for value in self._since(column, onset, row):
                if isinstance(value, str):
                    heavy.add(value)
        return heavy.top(MOST_CITED) if heavy.total else []

    def _since(self, column: int, onset: int, row: int) -> list[float | str]:
        return [value for at, value in self._recent.get(column, []) if onset <= at <= row][-KEPT:]

    def state(self) -> tuple[list[Value], dict[int, HeavyNames]]:
        """Everything `restore` needs: the values by column, and the sketches."""
        values = [(row, column, value) for column in sorted(self._recent) for row, value in self._recent[column]]
        names = {column: HeavyNames(dict(heavy.counts), heavy.total) for column, heavy in sorted(self._names.items())}
        return values, names

    def restore(self, values: Iterable[Value], names: Mapping[int, HeavyNames]) -> None:
        """Take over what `state` gave; raises WireError for what it cannot have given."""
        if not all(heavy.sound for heavy in names.values()):
            raise WireError("counts of names that cannot be")
        self._recent, self._touched = {}, set()
        self.add(values)
        self._names = {column: HeavyNames(dict(heavy.counts), heavy.total) for column, heavy in names.items()}
