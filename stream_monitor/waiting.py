"""Predictions that wait for their labels, and labels that came before their predictions: the join. Pure.

A ring of entries in the order they came, the oldest let go first, with an index by the digest of the id (open
addressing, linear probing). Several versions of a model may have predicted the same event: entries of one id form a
chain, and a label joins them all. The *first* label of an id counts; later ones are told apart as repetitions and
corrections, and change nothing.

Measured by `benchmarks/waiting.py`: an entry costs 99 bytes of memory where a million wait, and 76 of state, 18 more
once it has its label.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.compiled import njit
from stream_monitor.errors import WireError

EARLY: Final = -1
"""Stands for the stream of a label that came before its prediction."""
Records = npt.NDArray[np.void]
Numbers = npt.NDArray[np.int64]

FIRST_CAPACITY: Final = 1_024
LOAD: Final = 2
"""Index places an entry, at least."""
NEVER_MS: Final = -(2**62)

ENTRY: Final = np.dtype(
    [("id_a", "<u8"), ("id_b", "<u8"), ("number", "<f8"), ("time_ms", "<i8"), ("record_ms", "<i8"), ("offset", "<i8"),
     ("partition", "<i4"), ("index", "<i4"), ("name", "<i2"), ("stream", "<i2"), ("levels_a", "<u8"),
     ("levels_b", "<u8")]
)  # fmt: skip
"""As written. `number`, `name`: of the prediction, or of an early label (`stream` −1); `levels_a`, `levels_b`: of its
inputs (`outcome_levels.py`)."""
LABEL: Final = np.dtype([("number", "<f8"), ("name", "<i2"), ("known", "?")])
"""`known`: the entry has its label, or (of an early label) a prediction has found it."""
PAIR: Final = np.dtype([("entry", ENTRY), ("label", "<f8"), ("label_name", "<i2"), ("delay_ms", "<i8")])
"""A prediction and its label; `delay_ms` between their times, `NEVER_MS` where it is unknown."""
JOIN: Final = np.dtype([("entry", "<i8"), ("number", "<f8"), ("name", "<i2")])
"""As written: the number of an entry and the label it got."""
_TALLIES: Final = ("joined", "unjoined", "dropped", "unmatched", "repeated", "corrections", "no_id", "twice", "inside")


class Counts(msgspec.Struct):
    """What became of predictions and labels since the model was first seen.

    `labels`: that came on the labels topic. `joined`: predictions that found their label; `unjoined`: let go after
    `horizon` without one; `dropped`: let go before it, for want of room. `unmatched`: early labels let go without a
    prediction. `repeated`, `corrections`: labels for an id that had one, equal to it or not. `no_id`: predictions and
    labels without an id. `twice`: predictions of one stream whose id was there already. `unusable`: pairs that are no
    outcome of the model's kind. `inside`: labels that came within the event.
    """

    predictions: int = 0
    labels: int = 0
    inside: int = 0
    joined: int = 0
    unjoined: int = 0
    dropped: int = 0
    unmatched: int = 0
    repeated: int = 0
    corrections: int = 0
    no_id: int = 0
    twice: int = 0
    unusable: int = 0


class Waiting:
    """The ring of one model. Entries are numbered from 0 as they come: `first` … `next − 1` are there.

    `horizon_ms`: by the records' time, how long an entry stays at most; `most` entries stay.
    """

    def __init__(self, horizon_ms: int, most: int) -> None:
        self.first = 0
        self.next = 0
        self.newest_ms = NEVER_MS
        self._horizon_ms = horizon_ms
        self._most = most
        self._fresh: list[Numbers] = []
        self._allot(min(FIRST_CAPACITY, most))

    def __len__(self) -> int:
        return self.next - self.first

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._entries.nbytes + self._labels.nbytes + self._back.nbytes + self._index.nbytes

    def predict(self, entries: Records, given: Records, counts: Counts) -> Records:
        """Take predictions (`ENTRY`), in order; the pairs (`PAIR`) of those whose label is there already.

        `given`: the labels (`LABEL`) that they brought themselves. One without an id is not kept.
        """
        return self._take(entries, given, counts, labels=False)

    def label(self, entries: Records, counts: Counts) -> Records:
        """Take labels (`ENTRY` with stream `EARLY`), in order; the pairs they make. One without a prediction waits."""
        return self._take(entries, np.zeros(len(entries), dtype=LABEL), counts, labels=True)

    def expire(self, counts: Counts, until_ms: int) -> None:
        """Let go what has waited for longer than the horizon at that time. To be called when all labels that are there
        were taken: what comes at once may span more than that."""
        tally = np.zeros(len(_TALLIES), dtype=np.int64)
        before_ms = until_ms - self._horizon_ms
        self.first = _expire(self._entries, self._labels, self._index, self.first, self.next, before_ms, tally)
        _count(counts, tally)

    def _take(self, entries: Records, given: Records, counts: Counts, *, labels: bool) -> Records:
        parts: list[Records] = []
        start = 0
        while start < len(entries):
            self._make_room(len(entries) - start)
            stop = min(len(entries), start + len(self._entries))
            parts.append(self._apply(entries[start:stop], given[start:stop], counts, labels=labels))
            start = stop
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros(0, dtype=PAIR), *parts])

    def _apply(self, entries: Records, given: Records, counts: Counts, *, labels: bool) -> Records:
        most = len(entries) + (len(self) if labels else 0)
        pairs, numbers = np.empty(most, dtype=PAIR), np.empty(2 * most, dtype=np.int64)
        head = np.array([self.first, self.next, self.newest_ms, 0], dtype=np.int64)
        tally = np.zeros(len(_TALLIES), dtype=np.int64)
        count = _advance(
            entries, given, self._entries, self._labels, self._back, self._index, head, self._horizon_ms, labels, pairs,
            numbers, tally,
        )  # fmt: skip
        self.first, self.next, self.newest_ms, fresh = head.tolist()
        _count(counts, tally)
        self._fresh.append(numbers[:fresh].copy())
        return pairs[:count]

    def _make_room(self, wanted: int) -> None:
        """Twice as many places as before, or as many as are wanted, within the bound."""
        capacity = len(self._entries)
        if len(self) + wanted <= capacity or capacity == self._most:
            return
        kept = self.entries(self.first), self._known()
        self._allot(min(self._most, max(2 * capacity, len(self) + wanted)))
        self._fill(*kept)

    def _allot(self, capacity: int) -> None:
        self._entries = np.zeros(capacity, dtype=ENTRY)
        self._labels = np.zeros(capacity, dtype=LABEL)
        self._back = np.zeros(capacity, dtype=np.uint32)
        self._index = np.full(2 ** int(np.ceil(np.log2(LOAD * capacity))), -1, dtype=np.int32)

    def _fill(self, entries: Records, known: Records) -> None:
        """Put entries `first …` with their labels into an empty ring."""
        slots = np.arange(self.first, self.first + len(entries)) % len(self._entries)
        self._entries[slots], self._labels[slots] = entries, known
        _build(self._entries, self._back, self._index, self.first, self.next)

    def _slots(self, first: int, stop: int) -> Numbers:
        return np.arange(first, stop) % len(self._entries)

    def _known(self) -> Records:
        return self._labels[self._slots(self.first, self.next)]

    # ---- the state ----

    def entries(self, first: int, stop: int | None = None) -> Records:
        """Entries `first … stop − 1` as they came."""
        return self._entries[self._slots(first, self.next if stop is None else stop)]

    def joins(self) -> Records:
        """The labels (`JOIN`) of all entries that have one, by entry."""
        known = np.flatnonzero(self._known()["known"])
        return self._joins_of(known + self.first)

    def fresh_joins(self) -> Records:
        """The labels that entries still there got since `forget_fresh`."""
        numbers = np.concatenate([np.zeros(0, dtype=np.int64), *self._fresh])
        return self._joins_of(np.sort(numbers[numbers >= self.first]))

    def forget_fresh(self) -> None:
        self._fresh = []

    def _joins_of(self, numbers: Numbers) -> Records:
        found = np.empty(len(numbers), dtype=JOIN)
        labels = self._labels[numbers % len(self._entries)]
        found["entry"], found["number"], found["name"] = numbers, labels["number"], labels["name"]
        return found

    def restore(self, first: int, newest_ms: int, entries: Records, joins: Records) -> None:
        """Take over entries `first …` and the labels they got; more than there is room for now are let go uncounted.

        Raises WireError for joins of entries that are not there.
        """
        at = joins["entry"] - first
        if len(at) and not (int(at.min()) >= 0 and int(at.max()) < len(entries)):
            raise WireError("a label belongs to an entry that is not there")
        known = np.zeros(len(entries), dtype=LABEL)
        known["number"][at], known["name"][at], known["known"][at] = joins["number"], joins["name"], True
        surplus = max(0, len(entries) - self._most)
        self.first, self.next, self.newest_ms = first + surplus, first + len(entries), newest_ms
        self._allot(min(self._most, max(FIRST_CAPACITY, len(entries))))
        self._fill(entries[surplus:], known[surplus:])
        self._fresh = []


def _count(counts: Counts, tally: Numbers) -> None:
    for name, number in zip(_TALLIES, tally.tolist(), strict=True):
        setattr(counts, name, getattr(counts, name) + number)


@njit
def _find(entries: Any, index: Any, id_a: Any, id_b: Any) -> Any:
    """The place of the index that holds the id, or the empty one where it would be."""
    mask = len(index) - 1
    place = np.int64(id_a & np.uint64(mask))
    while index[place] >= 0:
        entry = entries[index[place]]
        if entry.id_a == id_a and entry.id_b == id_b:
            break
        place = (place + 1) & mask
    return place


@njit
def _link(entries: Any, back: Any, index: Any, first: int, number: int) -> None:
    """Put an entry at the head of its id's chain; `back`: how many entries before it the next of the chain is."""
    slot = number % len(entries)
    place = _find(entries, index, entries[slot].id_a, entries[slot].id_b)
    back[slot] = 0
    if index[place] >= 0:
        # The slot of an entry gives its number: the only one of that slot among `first … first + capacity − 1`.
        before = first + (index[place] - first) % len(entries)
        back[slot] = number - before
    index[place] = slot


@njit
def _build(entries: Any, back: Any, index: Any, first: int, stop: int) -> None:
    for number in range(first, stop):
        _link(entries, back, index, first, number)


@njit
def _unlink(entries: Any, index: Any, slot: int) -> None:
    """Take the oldest entry out of the index, where it is still the head of its chain; later ones of the chain cannot
    reach it, since they look no further back than `first`."""
    mask = len(index) - 1
    hole = _find(entries, index, entries[slot].id_a, entries[slot].id_b)
    if index[hole] != slot:
        return
    index[hole] = -1
    place = (hole + 1) & mask
    while index[place] >= 0:  # move up what was pushed beyond the hole
        home = np.int64(entries[index[place]].id_a & np.uint64(mask))
        if (place - home) & mask >= (place - hole) & mask:
            index[hole] = index[place]
            index[place] = -1
            hole = place
        place = (place + 1) & mask


@njit
def _advance(
    incoming: Any, given: Any, entries: Any, labels: Any, back: Any, index: Any, head: Any, horizon_ms: int,
    are_labels: bool, pairs: Any, numbers: Any, tally: Any,
) -> int:  # fmt: skip
    """Take entries in order; returns how many pairs were made. `head`: first, next, newest_ms, and how many `numbers`
    were put: of entries whose label became known. `tally`: `_TALLIES`. Labels do not make time go on."""
    count, fresh = 0, 0
    capacity = len(entries)
    first, stop, newest = head[0], head[1], head[2]
    for i in range(len(incoming)):
        new = incoming[i]
        own = given[i].known
        if new.id_a == 0 and new.id_b == 0:
            tally[6] += 1
            if own:
                _pair(pairs[count], new, given[i], NEVER_MS)
                count += 1
                tally[8] += 1
            continue
        if not are_labels:
            newest = max(newest, new.record_ms)
        place = _find(entries, index, new.id_a, new.id_b)
        # Walk the chain: what is known of the id?
        known, twice = np.int64(-1), False
        number = np.int64(-1)
        if index[place] >= 0:
            number = first + (index[place] - first) % capacity
        walker = number
        while walker >= first:
            slot = walker % capacity
            if known < 0 and (labels[slot].known or entries[slot].stream == -1):
                known = slot
            if entries[slot].stream == new.stream:
                twice = True
            if back[slot] == 0:
                break
            walker -= back[slot]
        if are_labels and known >= 0:
            early = entries[known].stream == -1
            same = _same(entries[known], new) if early else _same(labels[known], new)
            tally[4 if same else 5] += 1
            continue
        if are_labels and number >= first:
            walker = number
            while walker >= first:
                slot = walker % capacity
                labels[slot].number, labels[slot].name, labels[slot].known = new.number, new.name, True
                _pair(pairs[count], entries[slot], labels[slot], new.time_ms - entries[slot].time_ms)
                numbers[fresh] = walker
                count, fresh = count + 1, fresh + 1
                tally[0] += 1
                if back[slot] == 0:
                    break
                walker -= back[slot]
            continue
        if twice:
            tally[7] += 1
            continue
        if stop - first == capacity:
            _let_go(entries, labels, index, first, tally, 1 if _expired(entries, first, newest - horizon_ms) else 2)
            if known == first % capacity:
                known = np.int64(-1)  # its label goes with it
            first += 1
        slot = stop % capacity
        entries[slot] = new
        labels[slot].number, labels[slot].name, labels[slot].known = np.nan, -1, False
        _link(entries, back, index, first, stop)
        if known >= 0:
            early = entries[known].stream == -1
            if early and not labels[known].known:
                labels[known].number, labels[known].name = entries[known].number, entries[known].name
                labels[known].known = True
                numbers[fresh] = first + (known - first) % capacity
                fresh += 1
            labels[slot].number, labels[slot].name, labels[slot].known = labels[known].number, labels[known].name, True
            _pair(pairs[count], new, labels[slot], entries[known].time_ms - new.time_ms if early else NEVER_MS)
            tally[0] += 1
            if own and not _same(labels[slot], given[i]):
                tally[5] += 1
        elif own:
            labels[slot].number, labels[slot].name, labels[slot].known = given[i].number, given[i].name, True
            _pair(pairs[count], new, given[i], NEVER_MS)
            tally[8] += 1
        if labels[slot].known:
            numbers[fresh] = stop
            count, fresh = count + 1, fresh + 1
        stop += 1
    head[0], head[1], head[2], head[3] = first, stop, newest, fresh
    return count


@njit
def _expired(entries: Any, number: int, before_ms: int) -> bool:
    expired: bool = entries[number % len(entries)].record_ms < before_ms
    return expired


@njit
def _expire(entries: Any, labels: Any, index: Any, first: int, stop: int, before_ms: int, tally: Any) -> int:
    """Let the oldest entries go that came before that time; returns the number of the first that is left."""
    while first < stop and _expired(entries, first, before_ms):
        _let_go(entries, labels, index, first, tally, 1)
        first += 1
    return first


@njit
def _pair(pair: Any, entry: Any, label: Any, delay_ms: int) -> None:
    pair.entry = entry
    pair.label, pair.label_name, pair.delay_ms = label.number, label.name, delay_ms


@njit
def _same(one: Any, other: Any) -> bool:
    """Whether two labels are equal, NaN being equal to itself."""
    a, b = one.number, other.number
    same: bool = one.name == other.name and (a == b or (a != a and b != b))
    return same


@njit
def _let_go(entries: Any, labels: Any, index: Any, number: int, tally: Any, waiting: int) -> None:
    """Count what becomes of the oldest entry, and take it out of the index; its slot is free then."""
    slot = number % len(entries)
    if not labels[slot].known:
        tally[3 if entries[slot].stream == -1 else waiting] += 1
    _unlink(entries, index, slot)
