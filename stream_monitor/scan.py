"""Many records at once, straight from their bytes to columns: no object of Python for any event. No I/O, but a thread.

`rows.decode_runs` is the definition. This takes the records of a run if every event in them has a known layout
(`layout.py`), and gives the same rows; anything else it leaves to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate, zip_longest
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from stream_monitor import scan_loops
from stream_monitor.batch import Origins
from stream_monitor.decimals import HARD
from stream_monitor.events import DATES_MS, Reject, Row, Shape, parse_time, row_of, text_of
from stream_monitor.layout import Layout
from stream_monitor.merge import Merged
from stream_monitor.reference import StreamKey
from stream_monitor.rows import Rows, origins_of, runs, values_of
from stream_monitor.scan_loops import FAILED, INDEX, LAYOUT, NULL, RECORD, SOME_FOREIGN, SOME_HARD, START, Ints
from stream_monitor.scanned import Features, Later, Scanned
from stream_monitor.words import SPARE

RUN: Final = 2_048
"""Records taken at once."""
RUN_BYTES: Final = 1024 * 1024
"""Taken at once. A quarter or four times as much costs more (ADR 14)."""
MOST_LAYOUTS: Final = 32
"""Known at once; the one that was longest of no use makes room for another."""
MOST_NEW: Final = 4
"""Layouts learned from one run; a run with more is not worth it."""
MOST_STREAMS: Final = 4_096
MOST_RESTS: Final = 64
"""Runs not tried after one that failed: one, two, … up to this many."""
MOST_CELLS: Final = 1_000_000
"""Events that may be in a run, times the values of the widest: short events beside wide ones would take gigabytes, and
are decoded."""
LEAST_BYTES: Final = 32 * 1024
"""Fewer are decoded as fast (ADR 14)."""
LEAST_VALUES: Final = 1_024
"""Values a stream of a run, in the mean; with fewer, runs are taken together."""
LEAST_TOGETHER: Final = 64
"""Values a stream of runs taken together, in the mean; fewer are decoded."""
_SEED: Final = hash("a number of this process") & 0x7FFF_FFFF_FFFF_FFFF
_SPARE: Final = bytes(SPARE)
_ahead: Final = ThreadPoolExecutor(1, thread_name_prefix="scan")
"""The thread that scans ahead, one a process: it outlives its worker's connections."""

_record_of: Final = itemgetter(1)
_stamp_of: Final = itemgetter(3)


class Found(NamedTuple):
    """Records as scanned. `events`: as of `scan_loops`; `groups`: of each event, the number of its stream in `firsts`,
    which are the first event of each."""

    scanned: Scanned
    events: Ints
    groups: Ints
    firsts: Ints

    @property
    def has_few(self) -> bool:
        """Whether there are but a few values of each stream."""
        return self.scanned.kinds.size < LEAST_VALUES * len(self.firsts)

    def goes_with(self, others: Sequence[Found]) -> bool:
        """Whether these are to be taken together with others."""
        cells = self.scanned.kinds.size + sum(each.scanned.kinds.size for each in others)
        return cells <= MOST_CELLS and self.scanned.layouts == others[0].scanned.layouts


def start() -> None:
    """Start the thread that scans ahead: a process is to have all of its threads from the beginning on."""
    _ahead.submit(int).result()


class Scanner:
    """Knows the layouts of late. Whatever it knows, what it gives for a record is what `rows.decode_runs` gives."""

    def __init__(self, shape: Shape, stream_of: Callable[[Row], StreamKey]) -> None:
        self._shape = shape
        self._stream_of = stream_of
        self._layouts: list[Layout] = []
        self._used: list[int] = []
        self._runs = 0
        self._resting = self._rests = 0
        self._known: dict[tuple[bytes, bytes, bytes], StreamKey] = {}
        """Streams by the bytes that name them."""
        self._possible = shape.flat and bool(shape.features)

    def rows(self, entries: Sequence[Merged], latest_ms: int) -> Iterator[tuple[int, int, list[Rows] | None]]:
        """Run by run, the first record, the last one and the rows between: streams in the order in which they first
        appear; None if the records are to be decoded by others. No row is dated after `latest_ms`.

        While whoever asks is busy with the rows of a run, a thread scans the next one: that takes as long, and most of
        it without the interpreter's lock.
        """
        values = values_of(entries)
        bounds = list(runs(values, RUN, RUN_BYTES))
        ahead: Future[Found | None] | None = None
        kept: list[Found] = []
        first = 0  # of the runs that are kept, which have but a few events of each stream
        for (start, stop), after in zip_longest(bounds, bounds[1:]):
            tried = ahead is not None or self._is_worth(values[start:stop])
            found = ahead.result() if ahead else self._scan(values[start:stop]) if tried else None
            ahead = None
            if found is not None and after is not None:
                ahead = _ahead.submit(self._scan, values[slice(*after)])
            few = found if found is not None and found.has_few else None
            if kept and (few is None or not few.goes_with(kept)):
                yield first, start, self._judged(self._rows(self._joined(kept), entries[first:start], latest_ms))
                kept = []
            if few is not None:
                first = first if kept else start
                kept.append(few)
            elif tried:
                yield start, stop, self._judged(self._rows(found, entries[start:stop], latest_ms))
            else:
                yield start, stop, None
        if kept:
            yield first, len(entries), self._judged(self._rows(self._joined(kept), entries[first:], latest_ms))

    def _judged(self, rows: list[Rows] | None) -> list[Rows] | None:
        """What a scan gave; after some that gave nothing, so many runs are not tried."""
        self._rests = 0 if rows is not None else min(2 * self._rests or 1, MOST_RESTS)
        self._resting = self._rests
        return rows

    def _is_worth(self, values: Sequence[bytes]) -> bool:
        if not self._possible or sum(map(len, values)) < LEAST_BYTES:
            return False
        rests = self._resting > 0
        self._resting -= rests
        return not rests

    def _rows(self, found: Found | None, entries: Sequence[Merged], latest_ms: int) -> list[Rows] | None:
        if found is None or found.scanned.kinds.size < LEAST_TOGETHER * len(found.firsts):
            return None
        scanned, events = found.scanned, found.events
        streams = self._streams(found)
        times = _times(scanned, events[:, RECORD], entries, self._shape.time)
        if streams is None or times is None or times.max() > latest_ms:
            return None
        origins = origins_of(entries, events[:, RECORD], events[:, INDEX].astype(np.int32), times)
        return list(self._of_streams(streams, scanned, origins))

    def _streams(self, found: Found) -> list[tuple[StreamKey, Ints]] | None:
        """The events of each stream, streams in the order in which they first appear; None if one is none."""
        scanned, shape, text = found.scanned, self._shape, found.scanned.text
        names = [scanned.at(found.firsts, path).spans for path in (shape.model, shape.version, shape.segment)]
        spans = np.concatenate([*names, scanned.bounds[found.firsts]], axis=1).tolist()
        numbers: dict[StreamKey, int] = {}
        of_group = []
        for a, b, c, d, e, f, start, end in spans:
            named = text[a:b], text[c:d], text[e:f]
            stream = self._known.get(named)
            if stream is None:
                row = row_of(orjson.loads(text[start:end]), 0, 0, 0, 0, shape)
                if isinstance(row, Reject):
                    return None
                if len(self._known) >= MOST_STREAMS:
                    self._known.clear()
                stream = self._known[named] = self._stream_of(row)
            of_group.append(numbers.setdefault(stream, len(numbers)))
        if len(numbers) == 1:
            return [(stream, np.arange(len(found.groups))) for stream in numbers]
        stream_of = np.array(of_group)[found.groups]
        order = np.argsort(stream_of, kind="stable")
        ends = np.cumsum(np.bincount(stream_of))
        return list(zip(numbers, np.split(order, ends[:-1]), strict=True))

    def _of_streams(self, streams: list[tuple[StreamKey, Ints]], scanned: Scanned, origins: Origins) -> Iterator[Rows]:
        """Rows of every stream: what they share is made once, for all of them."""
        shape = self._shape
        order = streams[0][1]
        if len(streams) > 1:
            order = np.concatenate([events for _, events in streams])
            origins = origins.take(order)
        predictions, labels = scanned.part(order, shape.prediction), scanned.part(order, shape.label)
        ids = Later(len(order), lambda: [text_of(each) or None for each in scanned.part(order, shape.id)])
        start = 0
        for stream, events in streams:
            own = slice(start, start + len(events))
            start = own.stop
            whole = len(events) == len(order)
            yield Rows(
                stream, Features(scanned, events), predictions[own], labels[own],
                Later(len(events), partial(ids.__getitem__, own)), origins if whole else origins.take(own),
            )  # fmt: skip

    def _scan(self, values: Sequence[bytes]) -> Found | None:
        """The events of the records with these values, and `events` of `scan_loops`. One call at a time."""
        sizes = list(map(len, values))
        if not min(sizes) or max(sizes) > self._shape.limits.max_record_bytes:
            return None
        text, starts = b"".join((*values, _SPARE)), _bounds(values)
        self._runs += 1
        state = np.zeros(3, dtype=np.int64)
        found = self._try(text, starts, state)
        for _ in range(MOST_NEW):
            if found is not None:
                break
            if not self._learn(text, int(state[FAILED])):
                return None
            state[:] = 0
            found = self._try(text, starts, state)
        if found is None or (state[SOME_FOREIGN] and not _is_text(text)):
            return None
        if state[SOME_HARD] and not _settle(found[0]):
            return None
        for layout in np.unique(found[0].layout).tolist():
            self._used[layout] = self._runs
        return self._grouped(*found)

    def _grouped(self, scanned: Scanned, events: Ints) -> Found | None:
        """With the events that the same bytes give their stream numbered alike; None if there are too many streams."""
        shape = self._shape
        paths = (shape.model, shape.version, shape.segment)
        slots = np.array([[layout.part(path) for path in paths] for layout in scanned.layouts], dtype=np.int64)
        groups = np.empty(len(scanned.layout), dtype=np.int64)
        firsts = np.empty(min(len(groups), MOST_STREAMS), dtype=np.int64)
        table = np.full(2 << len(firsts).bit_length(), -1, dtype=np.int64)
        text = np.frombuffer(scanned.text, dtype=np.uint8)
        count = scan_loops.group(text, scanned.spans, scanned.layout, slots, groups, firsts, table, _SEED)
        return None if count < 0 else Found(scanned, events, groups, firsts[:count])

    def _joined(self, parts: Sequence[Found]) -> Found | None:
        """Runs that follow one another, as one."""
        if len(parts) == 1:
            return parts[0]
        records = accumulate((int(part.events[-1, RECORD]) + 1 for part in parts[:-1]), initial=0)
        events = np.concatenate([part.events for part in parts])
        events[:, RECORD] += np.repeat(list(records), [len(part.events) for part in parts])
        return self._grouped(Scanned.join([part.scanned for part in parts]), events)

    def _try(self, text: bytes, starts: Ints, state: Ints) -> tuple[Scanned, Ints] | None:
        most = len(text) // min((layout.least_bytes for layout in self._layouts), default=len(text) + 1) + 1
        slots = max((layout.slots for layout in self._layouts), default=0)
        if most * slots > MOST_CELLS:
            return None
        values, kinds = np.empty((most, slots)), np.zeros((most, slots), dtype=np.uint8)
        spans, events = np.empty((most, slots, 2), dtype=np.int32), np.empty((most, 5), dtype=np.int64)
        literals = [literal for layout in self._layouts for literal in layout.literals]
        count = scan_loops.scan(
            np.frombuffer(text, dtype=np.uint8), starts, self._shape.limits.max_events,
            np.frombuffer(b"".join((*literals, _SPARE)), dtype=np.uint8), _bounds(literals),
            _bounds([layout.literals for layout in self._layouts]), values, kinds, spans, events, state,
        )  # fmt: skip
        if count < 0:
            return None
        events = events[:count]
        scanned = Scanned(
            text, self._shape.features, tuple(self._layouts), events[:, LAYOUT], values[:count], kinds[:count],
            spans[:count], events[:, START:],
        )  # fmt: skip
        return scanned, events

    def _learn(self, text: bytes, at: int) -> bool:
        """Learn the layout of the event at `at`; whether that is any use."""
        layout = Layout.of(text, at, self._shape)
        if layout is None or layout in self._layouts:
            return False
        if len(self._layouts) == MOST_LAYOUTS:
            oldest = self._used.index(min(self._used))
            del self._layouts[oldest], self._used[oldest]
        self._layouts.append(layout)
        self._used.append(self._runs)
        return True


def _bounds(parts: Sequence[Sequence[Any]]) -> Ints:
    """Where each part starts when they stand one after the other, and where the last one ends."""
    return np.fromiter(accumulate(map(len, parts), initial=0), np.int64, len(parts) + 1)


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _settle(scanned: Scanned) -> bool:
    """Have Python read the numbers that the kernel did not; False if one of them is no finite double."""
    events, slots = np.nonzero(scanned.kinds == HARD)
    text = scanned.text
    found = np.array([float(text[start:end]) for start, end in scanned.spans[events, slots].tolist()])
    scanned.values[events, slots] = found
    return bool(np.isfinite(found).all())


def _times(scanned: Scanned, record: Ints, entries: Sequence[Merged], path: str | None) -> Ints | None:
    """Of each event its own, or its record's; None if one is none."""
    given = scanned.at(np.arange(len(scanned.layout)), path)
    numbers = given.kinds <= HARD
    written = given.values[numbers]
    if len(written) and not (written.min() >= DATES_MS[0] and written.max() <= DATES_MS[-1]):
        return None
    if numbers.all():
        return written.astype(np.int64)  # what is behind the point goes
    times = np.fromiter(map(_stamp_of, map(_record_of, entries)), np.int64, len(entries))[record]
    times[numbers] = written
    others = np.flatnonzero(~numbers & (given.kinds != NULL))
    read = list(map(parse_time, given.objects(others)))
    if None in read:
        return None
    times[others] = np.array(read, dtype=np.int64)
    return times
