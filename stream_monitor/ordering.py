"""Putting the rows of several encoders in order. Pure, and a function of the codes topic alone.

Each encoder merges its own input partitions by time (`merge.py`), but two encoders write to the codes topic in turns,
and one may be seconds behind. So every encoder transaction ends with a *tick* on every codes partition: how far each
of its input partitions has come (its *promise*: rows still to come from it are not older), and the encoder's clock.
The detect stage keeps rows back until no input partition can bring an older one, and feeds them in the order of merge
time, those of one millisecond evenly mixed, each partition's in the order of (offset, index). A partition that is
*behind* (its encoder says that it has more to read) is waited for as long as its encoder speaks of it, and so much
longer as `MAX_WAIT_MS`; what is read to its end only that long, as it may have nothing to bring. Rows that come later
are fed with the next tick. Waiting is measured in `Clock.elapsed_ms`: while nobody ticks, nobody is waited for in vain.

How far apart encoders may get is their affair (`alignment.py`).

With one encoder its own tick, in the same transaction, releases everything at once.

Labels of the labels topic are kept in order in the same way, by themselves: ticks speak of its partitions apart from
those of the predictions, so that neither topic waits for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor import wire
from stream_monitor.batch import Batch, CodedBatch, Extra, Origins, RawBatch, Unknown
from stream_monitor.errors import WireError
from stream_monitor.events import DATES_MS
from stream_monitor.labels import LabelBatch
from stream_monitor.merge import within_runs
from stream_monitor.outcomes import Outcomes
from stream_monitor.reference import StreamKey

KIND: Final = b"T"
MAX_WAIT_MS: Final = 15_000
"""As long as a session: by then the partitions of an encoder that died have a new owner, who catches up."""
STEP_MS: Final = 5_000
"""What the time between two ticks counts for, at most: encoders that are at work tick as often (`encode_stage.py`)."""
LONG_AGO: Final = -(2**62)
NEVER: Final = 2**62
MAX_PARTITIONS: Final = 100_000


class Tick(msgspec.Struct, frozen=True, array_like=True):
    """`total`: input partitions there are. `promises`: of the encoder's own, input partition → merge time, epoch ms;
    `behind`: those of them that it has more to read of. Then the same of the labels topic."""

    ADDED: ClassVar[dict[str, int]] = {"behind": 2, "labels_total": 2, "label_promises": 2, "labels_behind": 2}

    clock_ms: int
    total: int
    promises: dict[int, int]
    behind: list[int] = []
    labels_total: int = 0
    label_promises: dict[int, int] = {}
    labels_behind: list[int] = []


_ticks = msgspec.msgpack.Decoder(Tick)


def encode_tick(tick: Tick, version: int = wire.NEWEST) -> bytes:
    return wire.pack(KIND, version, tick)


def is_tick(data: bytes | None) -> bool:
    return data is not None and data[3:4] == KIND


def decode_tick(data: bytes | None) -> Tick:
    """Bytes of the codes topic → tick; raises WireError, or VersionUnknown."""
    tick = wire.unpack(KIND, data, _ticks)
    lanes = (
        (tick.total, tick.promises, tick.behind),
        (tick.labels_total, tick.label_promises, tick.labels_behind),
    )
    for total, promises, behind in lanes:
        if not 0 <= total <= MAX_PARTITIONS or any(not 0 <= p < total for p in promises):
            raise WireError("a tick names an input partition that cannot be")
        if not promises.keys() >= set(behind):
            raise WireError("a tick says that a partition is behind, and not where")
    return tick


class Clock(msgspec.Struct):
    """How far the input has come, as the ticks of one codes partition tell; `offset` of the next record to be read.

    `elapsed_ms`: the time in which encoders were at work. `behind`: partitions that are, and when that was last said.

    What wire version 2 added is written in version 1 too, whose readers pass over it: ticks of version 2 may have told
    of it by then, and a clock that forgets it would have rows fed in another order after a restore.
    """

    offset: int = 0
    clock_ms: int = LONG_AGO
    total: int = 0
    promises: dict[int, int] = {}
    elapsed_ms: int = 0
    behind: dict[int, int] = {}
    labels_total: int = 0
    label_promises: dict[int, int] = {}
    labels_behind: dict[int, int] = {}

    def advance(self, tick: Tick, offset: int) -> Clock:
        """After the tick at `offset`. The last word on a partition holds: its new owner may know less than the old."""
        clock_ms = max(self.clock_ms, tick.clock_ms)
        elapsed_ms = self.elapsed_ms + min(clock_ms - self.clock_ms, STEP_MS)
        return Clock(
            offset + 1, clock_ms, max(self.total, tick.total), self.promises | tick.promises,
            elapsed_ms, _behind(self.behind, tick.promises, tick.behind, elapsed_ms),
            max(self.labels_total, tick.labels_total), self.label_promises | tick.label_promises,
            _behind(self.labels_behind, tick.label_promises, tick.labels_behind, elapsed_ms),
        )  # fmt: skip

    def of_labels(self) -> Clock:
        """The same of the labels topic."""
        return Clock(self.offset, self.clock_ms, self.labels_total, self.label_promises, self.elapsed_ms,
                     self.labels_behind)  # fmt: skip

    @property
    def watermark_ms(self) -> int:
        """No row older than this is still to come; LONG_AGO while an input partition has not been heard of."""
        if len(self.promises) < self.total:
            return LONG_AGO
        return min(self.promises.values(), default=LONG_AGO)

    @property
    def behind_ms(self) -> int:
        """No row older than this is still to come from the partitions that are behind; NEVER without one.

        One that nobody has spoken of for `MAX_WAIT_MS` has lost its encoder, and counts no more."""
        waited_for = (
            self.promises[partition]
            for partition, said_ms in self.behind.items()
            if self.elapsed_ms - said_ms < MAX_WAIT_MS
        )
        return min(waited_for, default=NEVER)


def _behind(before: dict[int, int], told: dict[int, int], behind: list[int], now_ms: int) -> dict[int, int]:
    """The partitions that are behind and when that was said, after a tick that speaks of those in `told`."""
    return {each: at for each, at in before.items() if each not in told} | dict.fromkeys(behind, now_ms)


@dataclass(frozen=True, slots=True)
class OutcomeRun:
    """What a batch says about predictions and labels; no `digest` and `codes` where the stream has no reference yet."""

    stream: StreamKey
    digest: str
    generation: int
    outcomes: Outcomes
    origins: Origins
    codes: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def take(self, rows: slice | npt.NDArray[np.intp]) -> OutcomeRun:
        return OutcomeRun(
            self.stream, self.digest, self.generation, self.outcomes.take(rows), self.origins.take(rows),
            self.codes[rows] if self.codes is not None else None,
        )  # fmt: skip

    @classmethod
    def of(cls, batch: Batch, *, with_ids: bool) -> OutcomeRun | None:
        """Of a batch; None where it says nothing. `with_ids`: labels of the model may come later."""
        if isinstance(batch, CodedBatch):
            if batch.outcomes is None:
                return None
            return cls(batch.stream, batch.digest, batch.generation, batch.outcomes, batch.origins, batch.codes)
        outcomes = Outcomes.of(batch.rows, with_ids=with_ids)
        return None if outcomes is None else cls(batch.stream, "", 0, outcomes, Origins.of(batch.rows))


Orderable = CodedBatch | RawBatch | OutcomeRun | LabelBatch


@dataclass(slots=True)
class _Waiting:
    """A batch, or what is left of it, on offset `offset` of the codes, come at `arrived_ms` of the elapsed time;
    `keys`: ascending merge times of its rows."""

    offset: int
    arrived_ms: int
    batch: Orderable
    keys: npt.NDArray[np.int64]


@dataclass(slots=True)
class Queue:
    """The rows of one stream, or the outcomes or labels of one model, that wait.

    All rows up to merge time `released_ms` that came before `stamp` are fed.
    """

    stamp: int = 0
    released_ms: int = LONG_AGO
    _waiting: list[_Waiting] = field(default_factory=list)

    def add(self, batch: Orderable, offset: int, clock: Clock) -> None:
        """Take a batch; rows that the stream has had already (it was restored) are dropped."""
        batch = _ascending(batch)
        keys = _origins(batch).record_ms
        if offset < self.stamp:
            fresh = int(np.searchsorted(keys, self.released_ms, side="right"))
            if fresh == len(keys):
                return
            batch, keys = _part(batch, fresh, len(keys)), keys[fresh:]
        self._waiting.append(_Waiting(offset, clock.elapsed_ms, batch, keys))

    def pass_by(self, clock: Clock) -> None:
        """Nothing waits, and something was decided at this tick: it is not to be decided again after a restore."""
        assert not self._waiting
        self.stamp = clock.offset
        self.released_ms = max(self.released_ms, clock.watermark_ms)

    @property
    def first_offset(self) -> int | None:
        """Of the codes record that the oldest waiting row came in."""
        return min((waiting.offset for waiting in self._waiting), default=None)

    def release(self, clock: Clock) -> tuple[list[Batch], int | None]:
        """At a tick: the rows that need not wait any longer, in order, and the least codes offset they came from.

        A tick that the stream has seen before it was restored releases nothing.
        """
        ready = self._ready(clock)
        return (list(_merged(ready)), min(waiting.offset for waiting in ready)) if ready else ([], None)

    def release_runs(self, clock: Clock) -> tuple[list[OutcomeRun], int | None]:
        """The same of outcomes, by batch: they are put in order by whoever takes them."""
        ready = self._ready(clock)
        runs = [waiting.batch for waiting in ready if isinstance(waiting.batch, OutcomeRun)]
        return runs, min((waiting.offset for waiting in ready), default=None)

    def release_labels(self, clock: Clock) -> tuple[list[LabelBatch], int | None]:
        """The same of labels, by the clock of their topic."""
        ready = self._ready(clock.of_labels())
        batches = [waiting.batch for waiting in ready if isinstance(waiting.batch, LabelBatch)]
        return batches, min((waiting.offset for waiting in ready), default=None)

    def _ready(self, clock: Clock) -> list[_Waiting]:
        if clock.offset <= self.stamp:
            return []
        overdue = (int(w.keys[-1]) for w in self._waiting if clock.elapsed_ms - w.arrived_ms >= MAX_WAIT_MS)
        due_ms = min(max(overdue, default=LONG_AGO), clock.behind_ms)
        self.stamp = clock.offset
        self.released_ms = max(self.released_ms, clock.watermark_ms, due_ms)
        ready: list[_Waiting] = []
        left: list[_Waiting] = []
        for waiting in self._waiting:
            self._split(waiting, ready, left)
        self._waiting = left
        return ready

    def _split(self, waiting: _Waiting, ready: list[_Waiting], left: list[_Waiting]) -> None:
        count = int(np.searchsorted(waiting.keys, self.released_ms, side="right"))
        size = len(waiting.keys)
        if count == size:
            ready.append(waiting)
            return
        if not count:  # as it is: a batch that waits long is looked at by many ticks
            left.append(waiting)
            return
        part = _part(waiting.batch, 0, count)
        ready.append(_Waiting(waiting.offset, waiting.arrived_ms, part, waiting.keys[:count]))
        rest = _part(waiting.batch, count, size)
        left.append(_Waiting(waiting.offset, waiting.arrived_ms, rest, waiting.keys[count:]))


def _merged(ready: list[_Waiting]) -> Iterator[Batch]:
    """Batches of one kind and reference that overlap in time become one; the others follow one another."""
    ready.sort(key=lambda waiting: (int(waiting.keys[0]), waiting.offset))
    group: list[_Waiting] = []
    for waiting in ready:
        if group and not _mergeable(group[0].batch, waiting.batch):
            yield _join(group)
            group = []
        group.append(waiting)
    yield _join(group)


def _mergeable(one: Orderable, other: Orderable) -> bool:
    if isinstance(one, CodedBatch) and isinstance(other, CodedBatch):
        return (one.digest, one.generation) == (other.digest, other.generation)
    return isinstance(one, RawBatch) and isinstance(other, RawBatch)


def _join(group: list[_Waiting], *, always: bool = False) -> Batch:
    """One batch of several, in the order of merge time; see `_order` for the rows of one millisecond."""
    first = group[0].batch
    assert not isinstance(first, (OutcomeRun, LabelBatch))  # those are not joined
    if len(group) == 1 and not always:
        return first
    keys = np.concatenate([waiting.keys for waiting in group])
    origins = Origins.join([_origins(waiting.batch) for waiting in group])
    order = _order(keys, origins)
    if isinstance(first, RawBatch):
        rows = [row for waiting in group if isinstance(waiting.batch, RawBatch) for row in waiting.batch.rows]
        return RawBatch(first.stream, tuple(rows[i] for i in order.tolist()))
    coded = [waiting.batch for waiting in group if isinstance(waiting.batch, CodedBatch)]
    starts = np.cumsum([0, *(len(batch) for batch in coded)]).tolist()
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    extras = [Extra(int(place[s + e.row]), e.column, e.value)
              for s, batch in zip(starts, coded, strict=False) for e in batch.extras]  # fmt: skip
    unknown = [Unknown(int(place[s + u.row]), u.name)
               for s, batch in zip(starts, coded, strict=False) for u in batch.unknown]  # fmt: skip
    outcomes = Outcomes.join([(batch.outcomes, len(batch)) for batch in coded])
    return CodedBatch(
        first.stream, first.digest, first.generation, np.concatenate([batch.codes for batch in coded])[order],
        origins.take(order), tuple(sorted(extras, key=lambda e: e.row)), tuple(sorted(unknown, key=lambda u: u.row)),
        None if outcomes is None else outcomes.take(order),
    )  # fmt: skip


def _order(keys: npt.NDArray[np.int64], origins: Origins) -> npt.NDArray[np.intp]:
    """By merge time; each partition's rows of one millisecond, (offset, index) ascending, are spread evenly over it,
    as where one encoder merges (`merge.py`)."""
    order = np.lexsort((origins.index, origins.offset, origins.partition, keys))
    sorted_keys, partition = keys[order], origins.partition[order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (np.diff(sorted_keys) != 0) | (np.diff(partition) != 0)
    return order[np.lexsort((within_runs(starts), sorted_keys))]


def _part(batch: Orderable, start: int, stop: int) -> Orderable:
    if isinstance(batch, (OutcomeRun, LabelBatch)):
        return batch.take(slice(start, stop))
    if isinstance(batch, RawBatch):
        return RawBatch(batch.stream, batch.rows[start:stop])
    return CodedBatch(
        batch.stream,
        batch.digest,
        batch.generation,
        batch.codes[start:stop],
        batch.origins.take(slice(start, stop)),
        tuple(Extra(e.row - start, e.column, e.value) for e in batch.extras if start <= e.row < stop),
        tuple(Unknown(u.row - start, u.name) for u in batch.unknown if start <= u.row < stop),
        None if batch.outcomes is None else batch.outcomes.take(slice(start, stop)),
    )


def check(batch: Batch, widths: npt.NDArray[np.int64] | None) -> None:
    """Raise WireError for what no encoder writes, though its types fit: times that are no dates, names that are no
    texts, codes beyond `widths`, the codes that the columns of its reference have (None: unknown)."""
    times = _origins(batch).time_ms
    if not (int(times.min()) in DATES_MS and int(times.max()) in DATES_MS):
        raise WireError("a batch holds times that are no dates")
    if isinstance(batch, CodedBatch):
        if widths is not None and len(widths) == batch.codes.shape[1] and (batch.codes.max(axis=0) >= widths).any():
            raise WireError("a batch holds codes that its reference does not have")
    elif not all(_named(part) for row in batch.rows for part in (row.features, row.prediction, row.label)):
        raise WireError("a raw batch holds names that are no texts")


def _named(value: object) -> bool:
    """Whether all keys of a value and within it are texts; it is as deep as msgpack reads, which is not far."""
    return not isinstance(value, dict) or all(isinstance(key, str) and _named(each) for key, each in value.items())


def _origins(batch: Orderable) -> Origins:
    return Origins.of(batch.rows) if isinstance(batch, RawBatch) else batch.origins


def first_time_ms(batch: Batch) -> int:
    """The earliest event time in a batch."""
    return int(_origins(batch).time_ms.min())


def _ascending(batch: Orderable) -> Orderable:
    """The batch with its rows in the order of their merge times, as encoders write them anyway."""
    keys = _origins(batch).record_ms
    if isinstance(batch, (OutcomeRun, LabelBatch)):
        return batch.take(np.argsort(keys, kind="stable"))
    return batch if (keys[1:] >= keys[:-1]).all() else _join([_Waiting(0, 0, batch, keys)], always=True)
