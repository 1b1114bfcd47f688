"""The join of predictions and labels against the obvious one: dictionaries and lists."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from stream_monitor.errors import WireError
from stream_monitor.waiting import EARLY, ENTRY, JOIN, LABEL, NEVER_MS, Counts, Records, Waiting

Pair = tuple[int, int, float]
"""Id, stream, label."""


def entries(ids: list[int], numbers: list[float], streams: list[int], record_ms: list[int]) -> Records:
    found = np.zeros(len(ids), dtype=ENTRY)
    found["id_a"], found["id_b"] = ids, np.array(ids) * 7
    found["number"], found["name"], found["stream"] = numbers, -1, streams
    found["record_ms"] = found["time_ms"] = record_ms
    found["offset"] = np.arange(len(ids))
    return found


def no_labels(size: int) -> Records:
    return np.zeros(size, dtype=LABEL)


@dataclass
class _One:
    id: int
    stream: int
    number: float
    record_ms: int
    label: float | None = None


@dataclass
class Naive:
    """The same rules, a list of what is there and a scan for everything."""

    horizon_ms: int
    most: int
    there: list[_One] = field(default_factory=list)
    newest_ms: int = NEVER_MS
    counts: Counts = field(default_factory=Counts)

    def take(self, id: int, stream: int, number: float, record_ms: int) -> list[Pair]:
        if stream != EARLY:
            self.newest_ms = max(self.newest_ms, record_ms)
        same = [one for one in self.there if one.id == id]
        labels = [one.label if one.stream != EARLY else one.number for one in same]
        known = next((label for label in labels if label is not None), None)
        if stream == EARLY and known is not None:
            name = "repeated" if known == number else "corrections"
            setattr(self.counts, name, getattr(self.counts, name) + 1)
            return []
        if stream == EARLY and same:
            for one in same:
                one.label = number
            self.counts.joined += len(same)
            return [(id, one.stream, number) for one in reversed(same)]
        if any(one.stream == stream for one in same):
            self.counts.twice += 1
            return []
        if len(self.there) == self.most:
            if self.there[0].id == id and known is not None and sum(label is not None for label in labels) == 1:
                known = None
            self._let_go("unjoined" if self._expired() else "dropped")
        self.there.append(one := _One(id, stream, number, record_ms))
        if stream == EARLY or known is None:
            return []
        one.label = known
        self.counts.joined += 1
        for early in same:
            if early.stream == EARLY:
                early.label = known
        return [(id, stream, known)]

    def _expired(self) -> bool:
        return self.there[0].record_ms < self.newest_ms - self.horizon_ms

    def expire(self) -> None:
        while self.there and self._expired():
            self._let_go("unjoined")

    def _let_go(self, reason: str) -> None:
        one = self.there.pop(0)
        if one.label is None:
            name = "unmatched" if one.stream == EARLY else reason
            setattr(self.counts, name, getattr(self.counts, name) + 1)


@pytest.mark.parametrize("seed", range(30))
def test_it_joins_as_the_obvious_way_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    horizon, most = int(rng.choice([50, 10_000])), int(rng.choice([40, 5_000]))
    waiting, naive, counts = Waiting(horizon, most), Naive(horizon, most), Counts()
    clock = 1_000
    for _ in range(int(rng.integers(5, 40))):
        size = int(rng.integers(1, 60))
        labels = bool(rng.random() < 0.5)
        ids = rng.integers(1, 200, size).tolist()
        streams = [EARLY] * size if labels else rng.integers(0, 3, size).tolist()
        numbers = rng.integers(0, 2, size).astype(float).tolist()
        times = (clock + rng.integers(-5, 5, size)).tolist()
        clock += int(rng.integers(0, 20))
        given = entries(ids, numbers, streams, times)
        taken = waiting.label(given, counts) if labels else waiting.predict(given, no_labels(size), counts)
        wanted = [pair for row in zip(ids, streams, numbers, times, strict=True) for pair in naive.take(*row)]
        assert [(int(p["entry"]["id_a"]), int(p["entry"]["stream"]), float(p["label"])) for p in taken] == wanted
        if rng.random() < 0.7:
            waiting.expire(counts, waiting.newest_ms)
            naive.expire()
        if rng.random() < 0.3:
            waiting = saved_and_read_back(waiting, horizon, most)
    assert counts == naive.counts
    assert len(waiting) == len(naive.there)


def saved_and_read_back(waiting: Waiting, horizon: int, most: int) -> Waiting:
    fresh = Waiting(horizon, most)
    fresh.restore(waiting.first, waiting.newest_ms, waiting.entries(waiting.first), waiting.joins())
    assert (fresh.joins() == waiting.joins()).all()
    return fresh


def test_what_was_joined_since_the_last_save() -> None:
    waiting, counts = Waiting(10_000, 100), Counts()
    waiting.predict(entries([1, 2, 3], [0.1, 0.2, 0.3], [0, 0, 0], [1, 2, 3]), no_labels(3), counts)
    assert not len(waiting.fresh_joins())
    waiting.label(entries([3, 1], [1.0, 0.0], [EARLY] * 2, [4, 5]), counts)
    assert waiting.fresh_joins().tolist() == [(0, 0.0, -1), (2, 1.0, -1)]
    waiting.forget_fresh()
    assert not len(waiting.fresh_joins())
    assert len(waiting.joins()) == 2


def test_a_prediction_without_id_never_waits() -> None:
    waiting, counts = Waiting(10_000, 100), Counts()
    waiting.predict(entries([0, 0], [0.1, 0.2], [0, 0], [1, 2]), no_labels(2), counts)
    assert counts.no_id == 2
    assert not len(waiting)


def test_the_delay_is_from_the_prediction_to_its_label() -> None:
    waiting, counts = Waiting(10_000, 100), Counts()
    waiting.predict(entries([5], [0.5], [0], [100]), no_labels(1), counts)
    late = waiting.label(entries([5], [1.0], [EARLY], [450]), counts)
    waiting.label(entries([6], [1.0], [EARLY], [80]), counts)
    early = waiting.predict(entries([6], [0.5], [0], [100]), no_labels(1), counts)
    assert late["delay_ms"].tolist() == [350]
    assert early["delay_ms"].tolist() == [-20]


def test_a_join_of_nothing_is_refused() -> None:
    joins = np.zeros(1, dtype=JOIN)
    joins["entry"], joins["number"] = 7, math.nan
    with pytest.raises(WireError):
        Waiting(10_000, 100).restore(0, 0, entries([1], [0.1], [0], [1]), joins)


def test_labels_within_the_event_count_first() -> None:
    waiting, counts, given = Waiting(10_000, 100), Counts(), no_labels(3)
    given["number"], given["name"], given["known"] = [1.0, 0.0, 1.0], -1, [True, True, False]
    pairs = waiting.predict(entries([0, 5, 6], [0.1, 0.2, 0.3], [0, 0, 0], [1, 2, 3]), given, counts)
    assert pairs["label"].tolist() == [1.0, 0.0]
    assert (pairs["delay_ms"] == NEVER_MS).all()
    waiting.label(entries([5, 5, 6], [1.0, 0.0, 1.0], [EARLY] * 3, [4, 5, 6]), counts)
    assert (counts.inside, counts.corrections, counts.repeated, counts.joined) == (2, 1, 1, 1)
