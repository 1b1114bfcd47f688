"""How many streams a partition and a model may have, and what a stream may collect while it learns. Pure.

A producer that invents models, versions or segments must not exhaust the detector's memory. What is let in depends on
the order of the codes alone: a stream is let in at the record that first names it, if few enough streams were let in at
earlier records. A restart finds the streams saved, which may include ones let in *later* than the record it reads
again; those do not count against it. So the same streams are let in, wherever a restart was.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

MODEL_STREAMS: Final = "model_streams"
PARTITION_STREAMS: Final = "partition_streams"
PARTITION_MODELS: Final = "partition_models"
"""Of labels whose model has no stream."""
REASONS: Final = (MODEL_STREAMS, PARTITION_STREAMS, PARTITION_MODELS)
"""Why rows are not watched: the values of a metric's label."""
_VALUE_BYTES: Final = 32
_ROW_BYTES: Final = 256
_ENTRY_BYTES: Final = 64


class Birth(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream began: `since`, the codes offset of its first record; `rank`, how many streams its model had
    then; `first_ms`, the event time of its first row."""

    since: int = -1
    rank: int = 0
    first_ms: int = 0

    @property
    def sound(self) -> bool:
        """Whether it can have come about."""
        return -1 <= self.since < 2**62 and 0 <= self.rank < 2**31


UNBORN: Final = Birth()


@dataclass(frozen=True, slots=True)
class WarmupBudget:
    """What the raw rows that a model's streams learn from may take, in all: about `model_bytes` of memory."""

    model_bytes: int
    max_streams: int

    def of(self, rank: int) -> float:
        """The share of the stream of that rank. The harmonic series keeps the sum of all below `model_bytes`, gives
        the first streams room for a whole warm-up, and depends on nothing that other streams do later."""
        return self.model_bytes / ((1 + math.log(self.max_streams)) * (rank + 1))


@dataclass(slots=True)
class Roster:
    """The streams of one codes partition by the offset at which each was let in."""

    model_most: int
    partition_most: int
    _models: dict[str, list[int]] = field(default_factory=dict)
    _all: list[int] = field(default_factory=list)

    def place(self, model: str, offset: int) -> int | str:
        """The rank of a stream that begins at this offset; the reason where it is not let in."""
        rank = bisect_left(self._models.get(model, ()), offset)
        if rank >= self.model_most:
            return MODEL_STREAMS
        return PARTITION_STREAMS if bisect_left(self._all, offset) >= self.partition_most else rank

    def has_room(self, offset: int) -> bool:
        return bisect_left(self._all, offset) < self.partition_most

    def enter(self, model: str, since: int) -> None:
        insort(self._models.setdefault(model, []), since)
        insort(self._all, since)

    def leave(self, model: str, since: int) -> None:
        """A stream has ended: there is room for another."""
        entered = self._models[model]
        entered.remove(since)
        self._all.remove(since)
        if not entered:
            del self._models[model]


def weight(value: Any) -> int:
    """About how many bytes of memory a value of an event takes: a function of the value alone, so that it is the same
    before and after a restart."""
    if isinstance(value, dict):
        return _ROW_BYTES + sum(_ENTRY_BYTES + len(name) + weight(inner) for name, inner in value.items())
    return _VALUE_BYTES + len(value) if isinstance(value, str) else _VALUE_BYTES
