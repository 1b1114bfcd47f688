"""The first pass over training rows: which columns there are, of what kind, and which are not worth watching. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.encode import numbers_of
from stream_monitor.events import parse_time
from stream_monitor.features import canonical
from stream_monitor.reference import Kind

Floats = npt.NDArray[np.float64]

MOST_NAMES: Final = 50_000
"""Distinct texts counted exactly a column; beyond, the rare half is forgotten (the column is then never exhaustive)."""
FEWEST_NAMES: Final = 1_500
"""So many are never forgotten: more than a reference lists."""
FEWEST_ROWS: Final = 50
"""With fewer values than this nothing is called an identifier or a counter."""
_EXACT_INTEGERS: Final = 2.0**53
_NAMED_ID = re.compile(r"(^|[^a-z])(id|uuid|guid|key|phone)s?$|[a-z](Id|ID|Uuid|UUID)$", re.IGNORECASE)


@dataclass(slots=True)
class Learned:
    """What the rows so far said about one column.

    `types`: how many values of each Python type. `names`: texts and booleans (with `names_numbers` numbers too) by
    canonical name. `numbers`: chunk → the kept rows' values as floats, NaN where there is no number; chunks without any
    are left out. `least`, `most`: of all finite numbers. `forgot`: `names` lacks some.
    """

    names_numbers: bool = False

    types: Counter[type] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    numbers: dict[int, Floats] = field(default_factory=dict)
    least: float = math.inf
    most: float = -math.inf
    forgot: bool = False
    free_text: bool = False

    def add(self, values: list[Any], chunk: int, keep: npt.NDArray[np.bool_] | None) -> None:
        """Learn from the values of one chunk; `keep` says which rows' numbers to keep (None: all)."""
        kinds = Counter(map(type, values))
        self.types += kinds
        if kinds[float] or kinds[int]:
            numbers = numbers_of(values, len(values)).values[:, 0]
            self.numbers[chunk] = numbers if keep is None else numbers[keep]
            finite = numbers[np.isfinite(numbers)]
            if len(finite):
                self.least, self.most = min(self.least, float(finite.min())), max(self.most, float(finite.max()))
        named = (str, int, float) if self.names_numbers else (str,)
        if any(kinds[kind] for kind in named) and not self.free_text:
            self._add_names([value for value in values if type(value) in named])
        if kinds[bool]:
            true = sum(value is True for value in values)
            self.names += Counter(true=true, false=kinds[bool] - true)

    def _add_names(self, values: list[Any]) -> None:
        for value, count in Counter(values).items():
            name = canonical(value)
            if name is not None:
                self.names[name] += count
        if len(self.names) > MOST_NAMES:
            self.forget_rare()

    def forget_rare(self) -> bool:
        """Forget the rarer half of the names if there are many, and all if they hardly ever repeat; whether it did."""
        if len(self.names) <= FEWEST_NAMES:
            return False
        self.forgot = True
        self.free_text = self.free_text or (len(self.names) > self.named / 2 and not self.names_numbers)
        rarest_first = sorted(self.names, key=lambda name: (self.names[name], name))
        for name in rarest_first if self.free_text else rarest_first[: len(rarest_first) // 2]:
            del self.names[name]
        return True

    @property
    def numeric(self) -> int:
        return self.types[float] + self.types[int]

    @property
    def named(self) -> int:
        return self.types[str] + self.types[bool]

    @property
    def constant(self) -> set[str]:
        """The one value it ever had, as it may be written; empty if there were more."""
        if self.numeric and not self.named and self.least == self.most:
            return {canonical(self.least) or "", str(self.least)}
        return set(self.names) if len(self.names) == 1 and not self.numeric else set()

    @property
    def kind(self) -> Kind:
        """Of the majority of values; a column without any is categorical, so that whatever comes gets a name."""
        return Kind.NUMERIC if self.numeric and self.numeric >= self.named else Kind.CATEGORICAL

    @property
    def watchable(self) -> bool:
        """Whether it holds any scalar, or nothing but nulls: not a mere container of other columns."""
        return bool(self.numeric or self.named) or not (self.types[dict] or self.types[list])


def skip_reason(name: str, learned: Learned, values: Floats) -> str | None:
    """Why a discovered column is not worth watching; None if it is. `values`: its finite numbers, ordered by time."""
    if learned.types[list] and not (learned.numeric or learned.named):
        return "holds arrays"
    if learned.kind is Kind.NUMERIC:
        return _number_reason(name, learned, values)
    return _text_reason(learned)


def _number_reason(name: str, learned: Learned, values: Floats) -> str | None:
    n = len(values)
    if n < FEWEST_ROWS:
        return None
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    distinct = 1 + int((gaps > 0).sum())
    if distinct > 0.9 * n and _follows_the_rows(values):
        return "rises or falls with the rows, like a counter or a clock"
    if distinct < n or learned.types[int] < learned.numeric:
        return None
    # Values that merely happen to differ collide about half as often as they are neighbours on their grid.
    neighbours = int((gaps == gaps.min()).sum())
    if neighbours >= 10 or _NAMED_ID.search(name) or abs(float(np.median(ordered))) > _EXACT_INTEGERS:
        return "whole numbers that never repeat, like an identifier"
    return None


def _follows_the_rows(values: Floats) -> bool:
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    rows = np.arange(len(values), dtype=np.float64)
    return bool(abs(np.corrcoef(ranks, rows)[0, 1]) > 0.99)


def _text_reason(learned: Learned) -> str | None:
    texts = learned.types[str]
    if not texts or learned.types[bool] or learned.numeric:
        return None
    if learned.free_text:
        return "texts that hardly ever repeat, like an identifier or free text"
    sample = [name for name, _ in learned.names.most_common(50)]
    if all(re.search(r"\d[-:T]\d", name) and parse_time(name) is not None for name in sample):
        return "times written as text"
    distinct = len(learned.names)
    if texts < FEWEST_ROWS or distinct <= texts / 2:
        return None
    if all(_is_number(name) for name in sample):
        return "numbers written as text, mostly distinct; send them as numbers to have them watched"
    return "texts that hardly ever repeat, like an identifier or free text"


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
