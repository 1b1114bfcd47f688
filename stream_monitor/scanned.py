"""What a scan of records holds: their values by place, and objects of Python only for whoever asks for them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, overload

import numpy as np
import orjson

from stream_monitor import scan_loops
from stream_monitor.decimals import DECIMAL, WHOLE
from stream_monitor.layout import Layout
from stream_monitor.scan_loops import NULL, Bytes, Floats, Ints, Mask, Spans
from stream_monitor.texts import TextTable

_EXACT: Final = 2.0**53
"""Whole numbers below it are doubles."""
SlotOf = Callable[[Layout], int]
"""Which slot of a layout; −1 for none."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One value of each of some events, null where one has none: `values`, `kinds` and `spans` as in `Scanned`."""

    text: bytes
    values: Floats
    kinds: Bytes
    spans: Spans

    def objects(self, rows: Ints | slice = slice(None)) -> list[Any]:
        """The values as JSON has them, of all or of some."""
        kinds, values = self.kinds[rows], self.values[rows]
        found: list[Any]
        if (kinds == DECIMAL).all():
            found = values.tolist()
            return found
        if (kinds == WHOLE).all() and (np.abs(values) < _EXACT).all():
            found = values.astype(np.int64).tolist()
            return found
        text = self.text
        parts = [text[start:end] or b"null" for start, end in self.spans[rows].tolist()]
        return list(orjson.loads(b"[" + b",".join(parts) + b"]"))

    def codes(self, table: TextTable, missing: int, miss: int) -> Bytes:
        """The codes of texts; `missing` for null, `miss` for what the table does not know and for everything else."""
        found = np.where(self.kinds == NULL, np.uint8(missing), np.uint8(miss))
        scan_loops.look_up(np.frombuffer(self.text, dtype=np.uint8), self.kinds, self.spans, *table.arrays, found)
        return found


@dataclass(frozen=True, slots=True)
class Scanned:
    """Events in the order of their records.

    `values` `[events, slots]`: those that are numbers. `kinds` and `spans` `[events, slots(, 2)]`: what each value is,
    and where it stands in `text`. `bounds` `[events, 2]`: where each event stands. The slots of an event are those of
    `layouts[layout[event]]`.
    """

    text: bytes
    within: str
    """The key of the features."""
    layouts: tuple[Layout, ...]
    layout: Ints
    values: Floats
    kinds: Bytes
    spans: Spans
    bounds: Ints
    known_slots: dict[tuple[str, ...], Ints] = field(default_factory=dict)
    """What `slots_of` has found: a thousand models may have the same features."""

    @classmethod
    def join(cls, parts: Sequence[Scanned]) -> Scanned:
        """Events of parts that have the same layouts, in the order of the parts."""
        offsets = list(accumulate((len(part.text) for part in parts[:-1]), initial=0))
        return cls(
            b"".join(part.text for part in parts), parts[0].within, parts[0].layouts,
            np.concatenate([part.layout for part in parts]), np.concatenate([part.values for part in parts]),
            np.concatenate([part.kinds for part in parts]),
            np.concatenate([part.spans + np.int32(at) for part, at in zip(parts, offsets, strict=True)]),
            np.concatenate([part.bounds + at for part, at in zip(parts, offsets, strict=True)]),
        )  # fmt: skip

    def slots_of(self, names: tuple[str, ...]) -> Ints:
        """`[layouts, names]`: the slot of each feature; −1 for none."""
        if names not in self.known_slots:
            slots = [[layout.features.get(name, -1) for name in names] for layout in self.layouts]
            self.known_slots[names] = np.array(slots, dtype=np.int64).reshape(len(slots), len(names))
        return self.known_slots[names]

    def cells(self, events: Ints, slot_of: SlotOf) -> Cells:
        """One value of each event."""
        slots = np.array(list(map(slot_of, self.layouts)), dtype=np.int64)
        values, kinds = np.empty(len(events)), np.empty(len(events), dtype=np.uint8)
        spans = np.empty((len(events), 2), dtype=np.int32)
        scan_loops.column(self.values, self.kinds, self.spans, self.layout, events, slots, values, kinds, spans)
        return Cells(self.text, values, kinds, spans)

    def at(self, events: Ints, path: str | None) -> Cells:
        """What stands at a path of the shape."""
        return self.cells(events, lambda layout: layout.part(path))

    def part(self, events: Ints, path: str | None) -> list[Any]:
        """What stands at a path of the shape, as JSON has it; None where nothing does."""
        if all(layout.part(path) < 0 for layout in self.layouts):
            return [None] * len(events)
        return self.at(events, path).objects()


class Features(Sequence[dict[str, Any]]):
    """The features of scanned events, in the order of `events`."""

    __slots__ = ("_events", "_scanned")

    def __init__(self, scanned: Scanned, events: Ints) -> None:
        self._scanned = scanned
        self._events = events

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        start, end = self._scanned.bounds[self._events[at]].tolist()
        found: dict[str, Any] = orjson.loads(self._scanned.text[start:end])[self._scanned.within]
        return found

    @property
    def layouts(self) -> set[Layout]:
        """Those that any of these events has."""
        known = self._scanned.layouts
        if len(known) == 1:
            return set(known)
        return {known[number] for number in set(self._scanned.layout[self._events].tolist())}

    def numbers(self, names: tuple[str, ...]) -> tuple[Floats, Mask]:
        """`[rows, names]`: values as `encode.number` takes them, and which of them are null or absent."""
        scanned, shape = self._scanned, (len(self._events), len(names))
        values, missing = np.empty(shape), np.empty(shape, dtype=np.bool_)
        scan_loops.gather(
            scanned.values, scanned.kinds, scanned.layout, self._events, scanned.slots_of(names), values, missing
        )
        return values, missing

    def cells(self, name: str) -> Cells:
        """One feature of each."""
        return self._scanned.cells(self._events, lambda layout: layout.features.get(name, -1))


class Later(Sequence[Any]):
    """A list that is made when somebody looks at it."""

    __slots__ = ("_length", "_made", "_make")

    def __init__(self, length: int, make: Callable[[], list[Any]]) -> None:
        self._length = length
        self._make = make
        self._made: list[Any] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: Any) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made[at]
