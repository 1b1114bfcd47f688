"""What the detect stage has in memory of a partition: streams, models, its clock, and what is not saved yet. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from stream_monitor import model_state
from stream_monitor import state as states
from stream_monitor.incidents import Incidents
from stream_monitor.limits import Roster
from stream_monitor.model import Model
from stream_monitor.ordering import (
    LONG_AGO,
    Clock,
    Queue,
)
from stream_monitor.reference import StreamKey
from stream_monitor.stream import Stream

Subject = StreamKey | str
"""What has a state of its own: a stream, or a model by its name."""


@dataclass(slots=True)
class DetectCounts:
    """What the detect stage has done since it started."""

    batches: int = 0
    rows: int = 0
    labels: int = 0
    stale_rows: int = 0
    invalid_batches: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    aborted: int = 0
    state_bytes: int = 0
    restored_streams: int = 0
    restored_bytes: int = 0
    cold_detectors: int = 0
    lost_states: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows of streams beyond the limits, by reason: not watched."""
    gaps: int = 0
    lost_records: int = 0


@dataclass(slots=True)
class Tracked:
    """A stream in memory, and its rows that wait for earlier ones. `unsaved_from`: offset of the first record that the
    saved state does not include though the detectors have seen rows of it, None when saved. `outdated`: it is saved in
    another wire version than we write, which the next release may not read. `told_ms`: when its status was last
    written, by the ticks' clock."""

    stream: Stream
    queue: Queue
    saved: states.Saved
    unsaved_from: int | None = None
    outdated: bool = False
    told_ms: int = LONG_AGO


@dataclass(slots=True)
class TrackedModel:
    """A model in memory, its rows and its labels that wait for earlier ones, and the same account as of a stream."""

    model: Model
    queue: Queue
    saved: model_state.Saved
    labels: Queue = field(default_factory=Queue)
    unsaved_from: int | None = None
    outdated: bool = False
    told_ms: int = LONG_AGO

    @property
    def first_offset(self) -> int | None:
        """Of the first codes record that has not been fed whole."""
        rows, labels = self.queue.first_offset, self.labels.first_offset
        return min(rows, labels) if rows is not None and labels is not None else rows if labels is None else labels


@dataclass(slots=True)
class Held:
    """A partition in detection: its streams and models, those with rows that wait, and the unsaved ones in the order in
    which they are due, with when that was noted (None: not yet).

    `clock`: what its ticks have said so far; `base`: the same as of the committed offset; `clocks`: of each tick since.
    `untold`: streams and models saved since their status was written, in turn; `shown`: streams that have one;
    `news`: status records of versions that appeared; `versions`: by model, the first codes offset of each.
    `touched`: rows came since the last commit. `roster`, `model_roster`: when each of its streams and models was let
    in. `incidents`: by model; `unsaved_incidents`: of models whose record is to be written with the next commit.
    `look_ms`: no stream falls silent or ends before, by the watermark.
    """

    clock: Clock
    base: Clock
    roster: Roster
    model_roster: Roster
    untold: dict[Subject, None] = field(default_factory=dict)
    shown: set[StreamKey] = field(default_factory=set)
    news: dict[bytes, bytes] = field(default_factory=dict)
    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    clocks: deque[Clock] = field(default_factory=deque)
    streams: dict[StreamKey, Tracked] = field(default_factory=dict)
    waiting: dict[StreamKey, Tracked] = field(default_factory=dict)
    models: dict[str, TrackedModel] = field(default_factory=dict)
    due: OrderedDict[Subject, float | None] = field(default_factory=OrderedDict)
    incidents: dict[str, Incidents] = field(default_factory=dict)
    unsaved_incidents: set[str] = field(default_factory=set)
    look_ms: int = LONG_AGO
    touched: bool = False
    ticked: bool = False

    def note_version(self, key: StreamKey, since: int) -> None:
        versions = self.versions.setdefault(key.model, {})
        versions[key.version] = min(since, versions.get(key.version, since))

    def forget_version(self, key: StreamKey) -> None:
        """Of a stream that has ended: if it was the last of its version, that would be new if it came again."""
        if not any((each.model, each.version) == (key.model, key.version) for each in self.streams):
            versions = self.versions.get(key.model, {})
            versions.pop(key.version, None)
            if not versions:
                self.versions.pop(key.model, None)

    @property
    def reached(self) -> int:
        """The offset up to which the codes are in these states."""
        subjects: list[Subject] = [*self.streams, *self.models]
        return max(self.clock.offset, max((self.tracked(each).queue.stamp for each in subjects), default=0))

    def begin_anew(self, offset: int) -> None:
        """The log was cut or made anew and goes on at `offset`: a stamp beyond it would skip rows never seen."""
        self.clock = self.base = msgspec.structs.replace(self.clock, offset=min(self.clock.offset, offset))
        self.clocks.clear()
        subjects: list[Subject] = [*self.streams, *self.models]
        for subject in subjects:
            tracked = self.tracked(subject)
            if tracked.queue.stamp > offset:
                tracked.queue.stamp = offset
                if isinstance(tracked, TrackedModel):
                    tracked.labels.stamp = offset
                self.note_unsaved(tracked, subject, offset)

    def tracked(self, subject: Subject) -> Tracked | TrackedModel:
        return self.models[subject] if isinstance(subject, str) else self.streams[subject]

    def first_waiting(self) -> Iterator[int]:
        """Codes offsets that something waits at."""
        queues = (tracked.queue.first_offset for tracked in self.waiting.values())
        models = (tracked.first_offset for tracked in self.models.values())
        return (offset for offset in chain(queues, models) if offset is not None)

    def note_unsaved(self, tracked: Tracked | TrackedModel, subject: Subject, from_offset: int) -> None:
        """What came from that codes offset on is in memory alone."""
        if tracked.unsaved_from is None:
            self.due.setdefault(subject)
            tracked.unsaved_from = from_offset
        tracked.unsaved_from = min(tracked.unsaved_from, from_offset)

    def saved_to(self, next_offset: int) -> int:
        """Up to where everything that has been fed is saved, at most the next offset to be read."""
        unsaved = (at for subject in self.due if (at := self.tracked(subject).unsaved_from) is not None)
        return min(unsaved, default=next_offset)

    def restart_offset(self, next_offset: int) -> int:
        """Where a restored partition has to read on: at the first record with rows unsaved or still waiting, else
        at the next one."""
        return min(chain((self.saved_to(next_offset),), self.first_waiting()))

    def clock_of(self, offset: int) -> Clock:
        """The clock as of an offset that is committed now; later ticks will be read again."""
        while len(self.clocks) > 1 and self.clocks[1].offset <= offset:
            self.clocks.popleft()
        if self.clocks and self.clocks[0].offset <= offset:
            self.base = self.clocks[0]
        return self.base

    def inputs_of(self, key: StreamKey) -> int:
        """Features that a stream's reference watches, 0 if it is not here (a part of a stream has the whole's)."""
        tracked = self.streams.get(key) or self.streams.get(key._replace(segment=""))
        monitor = tracked.stream.monitor if tracked is not None else None
        return monitor.inputs if monitor is not None else 0
