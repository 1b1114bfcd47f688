"""The detect stage: codes → alerts. Stateful; one transaction holds alerts, states, learned references and offsets.

An alert commits at once, with the state of its stream. The other streams with unsaved rows are saved in turn, within a
budget of bytes a second; the committed offset of a partition is the least offset that an unsaved row came from, and a
restored stream skips the rows below its own stamp.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from stream_monitor import gaps, incident_state, model_state, status, wire
from stream_monitor import restoring as restores
from stream_monitor import state as states
from stream_monitor.alerts import Alert
from stream_monitor.batch import Batch, CodedBatch, decode
from stream_monitor.book import LEARNED_EPOCH, key_of
from stream_monitor.broker.protocol import Broker, Message, Polled, Probe, Record, TopicPartition
from stream_monitor.codes import FIRST_BIN
from stream_monitor.config import Settings
from stream_monitor.errors import TransactionAborted, VersionUnknown, WireError
from stream_monitor.feed import ReferenceFeed
from stream_monitor.incidents import Incidents
from stream_monitor.labels import LabelBatch, decode_label_batch, is_labels
from stream_monitor.limits import PARTITION_MODELS, Birth, Roster
from stream_monitor.model import Model, Report
from stream_monitor.observe import ObserveCommit, lag_of, timed, unobserved
from stream_monitor.ordering import (
    LONG_AGO,
    Clock,
    OutcomeRun,
    Queue,
    Tick,
    check,
    decode_tick,
    first_time_ms,
    is_tick,
)
from stream_monitor.ownership import Ownership
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.restoring import BUFFER_BYTES, Progress, Restoring
from stream_monitor.stream import Outcome, Stream
from stream_monitor.streams import StreamFactory

log = structlog.get_logger()

STAGE: Final = "detect"
LATE: Final = 2**62
TICKS_COMMIT_S: Final = 5.0
ROWS_A_STEP: Final = 50_000
"""Rows watched in one step, give or take what one tick releases: a poll may bring many minutes of work."""
RESTORE_LOG_S: Final = 5.0
DROPPED_LOG_S: Final = 60.0
STATUS_AT_ONCE: Final = 200
"""Streams whose status one commit looks at, a partition."""
SAVE_BURST_S: Final = 2.0
"""Unused save budget kept for later, in seconds of it."""


@dataclass(slots=True)
class DetectCounts:
    """What the stage has done since it started."""

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


@dataclass(frozen=True, slots=True)
class DetectLevels:
    """How the stage stands now. `lag`: codes partition held → records not yet read, of those whose end is known;
    `learning`: streams without a reference; `open`: alerts by kind; `watermark_ms`: of the partition that is furthest
    behind, None while nothing has been heard."""

    lag: dict[TopicPartition, int]
    streams: int
    learning: int
    columns: int
    open: Counter[str]
    restoring: int
    watermark_ms: int | None


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
    """A model in memory, what waits for the next tick (rows for earlier ones, labels in any case), and the same account
    as of a stream."""

    model: Model
    queue: Queue
    saved: model_state.Saved
    labels: list[tuple[int, LabelBatch]] = field(default_factory=list)
    unsaved_from: int | None = None
    outdated: bool = False
    told_ms: int = LONG_AGO

    @property
    def first_offset(self) -> int | None:
        """Of the first codes record that has not been fed whole."""
        rows, labels = self.queue.first_offset, min((offset for offset, _ in self.labels), default=None)
        return min(rows, labels) if rows is not None and labels is not None else rows if labels is None else labels


Subject = StreamKey | str
"""What has a state of its own: a stream, or a model by its name."""


@dataclass(slots=True)
class Held:
    """A partition in detection: its streams and models, those with rows that wait, and the order in which unsaved ones
    are due.

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
    due: deque[Subject] = field(default_factory=deque)
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
                _unsaved(self, tracked, subject, offset)

    def tracked(self, subject: Subject) -> Tracked | TrackedModel:
        return self.models[subject] if isinstance(subject, str) else self.streams[subject]

    def first_waiting(self) -> Iterator[int]:
        """Codes offsets that something waits at."""
        queues = (tracked.queue.first_offset for tracked in self.waiting.values())
        models = (tracked.first_offset for tracked in self.models.values())
        return (offset for offset in chain(queues, models) if offset is not None)


class DetectStage:
    """Reads codes, runs the detectors, publishes alerts; the caller steps it."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        feed: ReferenceFeed,
        probe: Probe | None = None,
        observe_commit: ObserveCommit = unobserved,
    ) -> None:
        self.counts = DetectCounts()
        self._observe_commit = observe_commit
        self._settings = settings
        self._broker = broker
        self._feed = feed
        self._factory = StreamFactory(settings)
        name, group = f"{settings.group}.{settings.instance}.{STAGE}", f"{settings.group}-{STAGE}"
        with ExitStack() as opened:
            self._producer = opened.enter_context(closing(broker.producer(name, probe=probe)))
            self._consumer = broker.consumer(group, [settings.topics.codes], instance=settings.instance)
            opened.pop_all()
        self._ownership = Ownership(broker, self._consumer, group, [settings.topics.codes])
        self._held: dict[TopicPartition, Held] = {}
        self._restoring: dict[TopicPartition, Restoring] = {}
        self._unread_records: dict[TopicPartition, deque[Record]] = {}
        self._paused: set[TopicPartition] = set()
        self._building: dict[TopicPartition, Held] = {}
        self._alerts: list[tuple[TopicPartition, Alert]] = []
        self._learned: list[Reference] = []
        self._gaps: dict[TopicPartition, gaps.Found] = {}
        """Found since the last commit."""
        self._ended: list[tuple[TopicPartition, StreamKey, states.Saved]] = []
        """Streams that have ended since the last commit, and what the topic still holds of them."""
        self._code_widths: dict[str, npt.NDArray[np.int64]] = {}
        self._urgent: set[tuple[TopicPartition, Subject]] = set()
        self._credit_bytes = 0.0
        self._restore_told_s = 0.0
        self._dropped_told = 0
        self._dropped_told_s = -DROPPED_LOG_S
        self._saved_last = TopicPartition("", 0)
        self._last_commit_s = 0.0
        self._last_step_s: float | None = None

    def step(self, timeout_s: float, now_s: float) -> bool:
        """Poll, apply rebalances, restore, detect, commit when due; whether there was anything to do."""
        self._earn(now_s)
        polled = self._consumer.poll(0.0 if self._restoring or self._unread_records else timeout_s)
        self._apply_rebalance(polled)
        self._go_on_restoring(now_s)
        self._ownership.look(now_s)
        for partition, records in polled.records.items():
            self._unread_records.setdefault(partition, deque()).extend(records)
        self._read_some()
        self._tell_dropped(now_s)
        if self._urgent or self._interval_over(now_s):
            self._commit(now_s, everything=False)
        return bool(polled.records) or bool(self._restoring) or bool(self._unread_records)

    def _read_some(self) -> None:
        """Read what was polled, up to so many rows: one poll can bring more than can be watched before the group gives
        up on this member, and before a commit is due. The rest waits, and its partitions are paused meanwhile."""
        most = self.counts.rows + ROWS_A_STEP
        while self._unread_records and self.counts.rows < most:
            partition, records = next(iter(self._unread_records.items()))
            self._read(partition, self._held[partition], records.popleft())
            if not records:
                del self._unread_records[partition]
        waiting = set(self._unread_records)
        if waiting - self._paused:
            self._consumer.pause(waiting - self._paused)
        if self._paused - waiting:
            self._consumer.resume(self._paused - waiting)
        self._paused = waiting

    def _next_offset(self, partition: TopicPartition) -> int:
        """The offset of the next record to be read."""
        records = self._unread_records.get(partition)
        return records[0].offset if records else self._consumer.position(partition)

    @property
    def idle(self) -> bool:
        """Whether nothing is being restored, and no row is known to be unread, waiting or unsaved."""
        return not self._restoring and not any(
            self._unread(partition) or held.due or list(held.first_waiting()) for partition, held in self._held.items()
        )

    def restoring(self) -> Progress:
        """How far the restores under way have come; zeros when there is none."""
        return restores.progress(self._restoring.values())

    def _unread(self, partition: TopicPartition) -> bool:
        end = self._consumer.end_seen(partition)
        return end is None or self._next_offset(partition) < end

    def levels(self) -> DetectLevels:
        watched = [tracked.stream for held in self._held.values() for tracked in held.streams.values()]
        monitors = [stream.monitor for stream in watched if stream.monitor is not None]
        marks = [held.clock.watermark_ms for held in self._held.values() if held.clock.watermark_ms != LONG_AGO]
        return DetectLevels(
            lag_of(self._consumer), len(watched), len(watched) - len(monitors),
            sum(len(monitor.entry.reference.columns) for monitor in monitors),
            Counter(chain((kind for stream in watched for kind in stream.open_kinds()),
                          (kind for held in self._held.values() for tracked in held.models.values()
                           for kind in tracked.model.open_kinds()))),
            len(self._restoring),
            min(marks, default=None),
        )  # fmt: skip

    def readiness(self) -> tuple[bool, str]:
        """Whether the group counts on this member and nothing is being restored, and why not."""
        if self._consumer.member() is None:
            return False, "detect: not a member of its group yet"
        if self._restoring:
            return False, f"detect: {len(self._restoring)} partitions are being restored"
        return True, "ready"

    def close(self, now_s: float) -> None:
        """Save everything, commit, leave."""
        try:
            self._commit(now_s, everything=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave without a commit."""
        for restoring in self._restoring.values():
            restoring.reader.close()
        self._consumer.close()
        self._producer.close()

    # ---- partitions ----

    def _apply_rebalance(self, polled: Polled) -> None:
        gone = polled.revoked | polled.lost
        self._forget(gone)
        for partition in polled.assigned:
            self._restore(partition)
        if polled.out_of_range:
            self._on_gap(polled.out_of_range)
        if gone or polled.assigned:
            log.info("partitions", stage=STAGE, assigned=len(polled.assigned), given_up=len(gone),
                     held=len(self._consumer.assignment()))  # fmt: skip

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        """Drop all memory of partitions; nothing is written."""
        for partition in partitions:
            self._held.pop(partition, None)
            self._building.pop(partition, None)
            self._gaps.pop(partition, None)
            self._unread_records.pop(partition, None)
            self._paused.discard(partition)
            restoring = self._restoring.pop(partition, None)
            if restoring is not None:
                restoring.reader.close()
        self._alerts = [(partition, alert) for partition, alert in self._alerts if partition not in partitions]
        self._urgent = {(partition, subject) for partition, subject in self._urgent if partition not in partitions}
        self._ended = [each for each in self._ended if each[0] not in partitions]
        kept = {subject for _, subject in self._urgent}
        self._learned = [reference for reference in self._learned if reference.stream in kept]

    def _restore(self, partition: TopicPartition) -> None:
        """Begin to read the state of a partition just assigned.

        The committed offset is read *before* the state's end: a state newer than the offset is harmless (stamps skip
        the rows it includes), an offset newer than the state would lose rows.
        """
        committed = self._consumer.committed([partition]).get(partition)
        offset = self._consumer.bounds([partition])[partition][0] if committed is None else committed
        source = TopicPartition(self._settings.topics.state, partition.partition)
        with ExitStack() as opened:
            reader = opened.enter_context(closing(self._broker.reader([source])))
            first = reader.position(source)
            end, known = reader.end_offsets()[source], committed is not None
            self._restoring[partition] = Restoring(reader, source, offset, end, first, known)
            opened.pop_all()

    def _go_on_restoring(self, now_s: float) -> None:
        """One bounded piece of reading and of building, however much there is."""
        if not self._restoring:
            return
        wait_s = 0.01 / len(self._restoring)
        waiting_bytes = sum(restoring.bytes for restoring in self._restoring.values())
        for partition, restoring in list(self._restoring.items()):
            if restoring.left is not None:
                continue
            if not restoring.read_whole and waiting_bytes < BUFFER_BYTES:
                restoring.read(wait_s)
            if restoring.read_whole:
                restoring.reader.close()
                self._take_over(partition, restoring)
            elif waiting_bytes >= BUFFER_BYTES and all(each.left is None for each in self._restoring.values()):
                restoring.read(wait_s)  # nothing can be built before one of them is whole
                break
        self._build_streams()
        if now_s - self._restore_told_s >= RESTORE_LOG_S and self._restoring:
            self._restore_told_s = now_s
            log.info("restoring", **asdict(self.restoring()))

    def _take_over(self, partition: TopicPartition, restoring: Restoring) -> None:
        """The state of a partition is read: begin to build."""
        self._feed.catch_up()
        clock = self._clock_of(partition, restoring)
        limits = self._settings.input.limits
        streams, models = (Roster(limits.max_streams, limits.max_partition_streams) for _ in range(2))
        self._building[partition] = Held(clock, clock, streams, models)
        self._take_incidents(self._building[partition], restoring)
        strange = restoring.group()
        if strange:
            log.warning("keys on the state topic that are not ours", partition=partition.partition, count=strange)

    def _take_incidents(self, held: Held, restoring: Restoring) -> None:
        for model, data in incident_state.of(restoring.records).items():
            held.incidents[model] = self._factory.incidents(model)
            try:
                held.incidents[model].restore(incident_state.unpack(data))
            except WireError as error:
                self.counts.lost_states += 1
                log.error("incidents unusable, open alerts are grouped no more", model=model, why=str(error))
                held.unsaved_incidents.add(model)
                continue
            if wire.version_of(data) != self._settings.worker.writes_version:
                held.unsaved_incidents.add(model)

    def _build_streams(self) -> None:
        """Build streams from their records; a partition that has all of them goes on at its committed offset."""
        left_bytes = restores.STEP_BYTES
        for partition, restoring in list(self._restoring.items()):
            while restoring.left and left_bytes > 0:
                left_bytes -= self._build_stream(self._building[partition], restoring)
            if restoring.left is None or restoring.left:
                continue
            del self._restoring[partition]
            self._held[partition] = self._building.pop(partition)
            self._consumer.seek(partition, restoring.offset)
            if not restoring.committed:
                self._look_whether_anew(partition)
            self._consumer.resume([partition])
            if restoring.streams:
                log.info("restored", partition=partition.partition, streams=restoring.streams, offset=restoring.offset)

    def _build_stream(self, held: Held, restoring: Restoring) -> int:
        """The next stream or model of a partition; returns how many bytes of state it was."""
        key, parts = restoring.next()
        size = restores.size_of(parts)
        self.counts.restored_bytes += size
        if isinstance(key, str):
            self._build_model(held, key, parts)
            return size
        restored = states.restore(self._factory.stream(key), parts, self._feed.book)
        queue = Queue(restored.stamp, restored.released_ms)
        outdated = restored.version != self._settings.worker.writes_version
        held.streams[key] = Tracked(restored.stream, queue, restored.saved, outdated=outdated)
        held.roster.enter(key.model, restored.stream.birth.since)
        held.note_version(key, restored.stream.birth.since)
        held.shown.add(key)
        if outdated:
            held.due.append(key)
        self._report(key, restored)
        self._count_cold(held.streams[key])
        self.counts.restored_streams += 1
        return size

    def _build_model(self, held: Held, name: str, parts: restores.Parts) -> None:
        restored = model_state.restore(self._factory.model(name), self._factory.model(name), parts)
        queue = Queue(restored.stamp, restored.released_ms)
        outdated = restored.version != self._settings.worker.writes_version
        held.models[name] = TrackedModel(restored.model, queue, restored.saved, outdated=outdated)
        held.model_roster.enter(name, restored.model.since)
        if outdated:
            restored.saved.whole = True
            held.due.append(name)
        if restored.lost:
            self.counts.lost_states += 1
            log.error("state unusable, the model's labels start anew", model=name, why=restored.lost)
        for detector, why in restored.cold.items():
            self.counts.cold_detectors += 1
            log.error("detector starts cold", stream=name, detector=detector, why=why)
        self._count_cold(held.models[name])

    def _clock_of(self, partition: TopicPartition, restoring: Restoring) -> Clock:
        """What the ticks before the committed offset said."""
        saved = restoring.records.get(states.CLOCK_KEY)
        try:
            return states.unpack_clock(saved) if saved is not None else Clock()
        except WireError as error:
            log.error("clock unusable, rows of several encoders may be out of order for a while",
                      partition=partition.partition, why=str(error))  # fmt: skip
            return Clock()

    def _report(self, key: StreamKey, restored: states.Restored) -> None:
        if restored.lost:
            self.counts.lost_states += 1
            log.error("state unusable, the stream starts cold", stream=str(key), why=restored.lost)
        for name, why in restored.cold.items():
            self.counts.cold_detectors += 1
            log.error("detector starts cold", stream=str(key), detector=name, why=why)

    def _look_whether_anew(self, partition: TopicPartition) -> None:
        """The group has no offset here: if its states are of offsets that this log has not come to, it is another one,
        and they would skip rows never seen. The end is asked for now, since it is no state of this log that can be
        beyond it."""
        reached = self._held[partition].reached
        first, end = self._consumer.bounds([partition])[partition]
        if reached > end:
            self._go_on_after(partition, gaps.made_anew(partition.topic, partition.partition, reached, first))

    def _count_cold(self, tracked: Tracked | TrackedModel) -> None:
        """Windows of ADWIN that native code failed on: noticed when their stream is restored or saved."""
        subject = tracked.model if isinstance(tracked, TrackedModel) else tracked.stream
        if windows := subject.cold_windows():
            self.counts.cold_detectors += windows
            name = subject.name if isinstance(subject, Model) else str(subject.key)
            log.error("detector starts cold", stream=name, detector="adwin", windows=windows,
                      why="its native code failed on the state of these windows, or refused it")  # fmt: skip

    def _on_gap(self, partitions: Collection[TopicPartition]) -> None:
        for partition, (first, end) in self._consumer.bounds(partitions).items():
            for record in self._unread_records.pop(partition, ()):  # what stands before the gap
                self._read(partition, self._held[partition], record)
            position = self._consumer.position(partition)
            self._go_on_after(
                partition, gaps.find(partition.topic, partition.partition, position, gaps.Bounds(first, end))
            )
        self._consumer.resume(partitions)

    def _go_on_after(self, partition: TopicPartition, gap: gaps.Found) -> None:
        log.error("gap: the stored position is not in the log any more", topic=gap.topic, partition=gap.partition,
                  position=gap.position, goes_on_at=gap.resumed_at, lost=gap.lost)  # fmt: skip
        held = self._held[partition]
        self._alerts.append((partition, gaps.alert_of(gap, max(held.clock.clock_ms, 0))))
        held.touched = True
        if gap.anew:
            held.begin_anew(gap.resumed_at)
        self._gaps[partition] = gap
        self._consumer.seek(partition, gap.resumed_at)

    # ---- detection ----

    def _read(self, partition: TopicPartition, held: Held, record: Record) -> None:
        """Take a record of the codes: a tick lets rows go on, a batch waits for one."""
        try:
            if is_tick(record.value):
                self._tick(partition, held, decode_tick(record.value), record.offset)
                return
            if is_labels(record.value):
                self._read_labels(held, decode_label_batch(record.value), record.offset)
                return
            batch = decode(record.value)
            check(batch, self._widths(batch))
        except WireError as error:
            self.counts.invalid_batches += 1
            log.error("batch unusable, skipped", partition=record.partition, offset=record.offset, why=str(error))
            return
        except VersionUnknown as error:
            log.error("record of another release", partition=record.partition, offset=record.offset, why=str(error))
            raise
        self.counts.batches += 1
        held.touched = True
        tracked = held.streams.get(batch.stream) or self._begin(held, batch, record.offset)
        if tracked is None:
            return
        tracked.queue.add(batch, record.offset, held.clock.clock_ms)
        if tracked.queue.first_offset is not None:
            held.waiting[batch.stream] = tracked
        run = OutcomeRun.of(batch, with_ids=self._settings.joins_labels(batch.stream.model))
        if run is not None:
            self._model(held, batch.stream.model, record.offset).queue.add(run, record.offset, held.clock.clock_ms)

    def _read_labels(self, held: Held, labels: LabelBatch, offset: int) -> None:
        """Take labels: they wait for the next tick, so that when they are applied does not depend on a poll."""
        held.touched = True
        if labels.model not in held.models and not held.model_roster.has_room(offset):
            self.counts.dropped[PARTITION_MODELS] += len(labels)
            return
        tracked = self._model(held, labels.model, offset)
        if offset >= tracked.queue.stamp:  # else the restored state includes them
            tracked.labels.append((offset, labels))

    def _model(self, held: Held, name: str, offset: int) -> TrackedModel:
        if name not in held.models:
            held.models[name] = TrackedModel(self._factory.model(name), Queue(), model_state.Saved())
            held.models[name].model.since = offset
            held.model_roster.enter(name, offset)
        return held.models[name]

    def _begin(self, held: Held, batch: Batch, offset: int) -> Tracked | None:
        """A stream heard of for the first time; None where there are too many already."""
        key = batch.stream
        rank = held.roster.place(key.model, offset)
        if isinstance(rank, str):
            self.counts.dropped[rank] += len(batch)
            return None
        stream = self._factory.stream(key)
        stream.birth = Birth(offset, rank, first_time_ms(batch))
        held.roster.enter(key.model, offset)
        held.streams[key] = Tracked(stream, Queue(), states.Saved())
        others = {version for version, since in held.versions.get(key.model, {}).items() if since < offset}
        if others and key.version not in others:
            record = status.version_record(key, others, stream.birth.first_ms)
            held.news[status.version_key(key.model, key.version)] = record
        held.note_version(key, offset)
        return held.streams[key]

    def _tell_dropped(self, now_s: float) -> None:
        """Say once a minute at most that events are not watched, however many streams they name."""
        dropped = self.counts.dropped.total()
        if dropped > self._dropped_told and now_s - self._dropped_told_s >= DROPPED_LOG_S:
            log.error("events of streams beyond the limits (input.limits) are not watched",
                      events=dropped - self._dropped_told, **self.counts.dropped)  # fmt: skip
            self._dropped_told, self._dropped_told_s = dropped, now_s

    def _tick(self, partition: TopicPartition, held: Held, tick: Tick, offset: int) -> None:
        held.clock = held.clock.advance(tick, offset)
        held.clocks.append(held.clock)
        held.ticked = True
        begin = len(self._alerts)
        for key in list(held.waiting):
            self._release(partition, held, held.waiting[key])
            if held.waiting[key].queue.first_offset is None:
                del held.waiting[key]
        for tracked in held.models.values():
            if tracked.first_offset is not None:
                self._release_model(partition, held, tracked)
        if held.clock.watermark_ms >= held.look_ms:
            self._look_for_silence(partition, held)
        if len(self._alerts) > begin:
            self._look_for_incidents(partition, held, begin)

    def _look_for_incidents(self, partition: TopicPartition, held: Held, begin: int) -> None:
        """What the alerts of this tick make of the incidents of their models; all of them are of this partition."""
        alerts = [alert for _, alert in self._alerts[begin:]]
        for model in dict.fromkeys(alert.model for alert in alerts):
            if model not in held.incidents:
                held.incidents[model] = self._factory.incidents(model)
            alerts = held.incidents[model].among(alerts, partial(_inputs_of, held))
            held.unsaved_incidents.add(model)
        self._alerts[begin:] = [(partition, alert) for alert in alerts]

    def _look_for_silence(self, partition: TopicPartition, held: Held) -> None:
        """Streams whose time is up by the ticks fall silent, or end. What has been decided is in their states."""
        now_ms = held.clock.watermark_ms
        held.look_ms = LATE
        for key, tracked in list(held.streams.items()):
            rhythm, policy = tracked.stream.rhythm, tracked.stream.silence
            if rhythm is None:
                continue
            look_ms = rhythm.next_look_ms(policy)
            if look_ms <= now_ms and not self._decide(partition, held, key):
                look_ms = now_ms  # again at the next tick
            held.look_ms = min(held.look_ms, look_ms if look_ms > now_ms else rhythm.next_look_ms(policy))

    def _decide(self, partition: TopicPartition, held: Held, key: StreamKey) -> bool:
        """A stream's time is up: it falls silent, or ends; False: not now."""
        tracked = held.streams[key]
        stream, queue = tracked.stream, tracked.queue
        if key in held.waiting or held.clock.offset <= queue.stamp or stream.rhythm is None:
            return False
        silent_at = stream.rhythm.silent_at(stream.silence)
        if silent_at is not None and silent_at <= held.clock.watermark_ms:
            self._alerts.append((partition, stream.fall_silent()))
            queue.pass_by(held.clock)
            _unsaved(held, tracked, key, held.clock.offset - 1)
            self._urgent.add((partition, key))
            return True
        if tracked.unsaved_from is not None or self._offset(partition) < queue.stamp:
            return False  # a restore would read its rows again
        self._end(partition, held, key)
        return True

    def _end(self, partition: TopicPartition, held: Held, key: StreamKey) -> None:
        """Resolve what is open, forget the stream, and delete its state."""
        tracked = held.streams.pop(key)
        held.roster.leave(key.model, tracked.stream.birth.since)
        if key in held.due:
            held.due.remove(key)
        self._alerts += [(partition, alert) for alert in tracked.stream.end()]
        self._ended.append((partition, key, tracked.saved))
        held.touched = True
        log.info("stream ended", stream=str(key))

    def _release(self, partition: TopicPartition, held: Held, tracked: Tracked) -> None:
        """Feed the rows of a stream that need not wait any longer."""
        batches, from_offset = tracked.queue.release(held.clock)
        if from_offset is None:
            return
        _unsaved(held, tracked, tracked.stream.key, from_offset)
        for batch in batches:
            self._account(partition, batch.stream, tracked.stream.feed(batch, self._feed.book))
        rhythm = tracked.stream.rhythm
        if rhythm is not None:
            held.look_ms = min(held.look_ms, rhythm.next_look_ms(tracked.stream.silence))

    def _release_model(self, partition: TopicPartition, held: Held, tracked: TrackedModel) -> None:
        """Feed the outcomes that need not wait any longer, then the labels."""
        first_label = tracked.labels[0][0] if tracked.labels else None
        runs, first_row = tracked.queue.release_runs(held.clock)
        labels, tracked.labels = [batch for _, batch in tracked.labels], []
        if not runs and not labels:
            return
        model = tracked.model
        _unsaved(held, tracked, model.name, min(at for at in (first_row, first_label) if at is not None))
        self.counts.labels += sum(map(len, labels))
        alerts = model.feed(runs, labels, self._feed.book)
        self._alerts += [(partition, alert) for alert in alerts]
        if alerts:
            self._urgent.add((partition, model.name))

    def outcomes(self, most: int | None = None) -> dict[str, Report]:
        """By model, the first `most` by name: how labels cover its predictions, and how late those are."""
        models = {name: tracked.model for held in self._held.values() for name, tracked in held.models.items()}
        return {name: models[name].report() for name in sorted(models)[:most]}

    def model(self, name: str) -> Model:
        """A model held here; raises KeyError."""
        return next(held.models[name].model for held in self._held.values() if name in held.models)

    def _widths(self, batch: Batch) -> npt.NDArray[np.int64] | None:
        """How many codes the columns of a batch's reference have, None where nobody knows it.

        The encoder read the reference from the topic before it wrote the batch: so can we.
        """
        if not isinstance(batch, CodedBatch):
            return None
        if self._feed.book.by_digest(batch.digest) is None:
            self._feed.catch_up()
        reference = self._feed.book.by_digest(batch.digest)
        if reference is None:
            return None
        if batch.digest not in self._code_widths:
            self._code_widths[batch.digest] = np.array([column.bins + FIRST_BIN for column in reference.columns])
        return self._code_widths[batch.digest]

    def _account(self, partition: TopicPartition, stream: StreamKey, outcome: Outcome) -> None:
        self.counts.rows += outcome.fed
        self.counts.stale_rows += outcome.stale
        self._alerts += [(partition, alert) for alert in outcome.alerts]
        if outcome.learned is not None:
            self._learned.append(outcome.learned)
            log.info("reference learned", stream=str(stream), columns=len(outcome.learned.columns),
                     rows=outcome.learned.source.rows)  # fmt: skip
        if outcome.cut_short:
            log.warning("learned from fewer events than asked for (input.limits.max_warmup_bytes)", stream=str(stream))
        if outcome.failed:
            log.error("no reference could be learned, warming up again", stream=str(stream), why=outcome.failed)
        if outcome.alerts or outcome.learned is not None:
            self._urgent.add((partition, stream))

    # ---- commit ----

    def _earn(self, now_s: float) -> None:
        """Let the save budget grow with time, up to `SAVE_BURST_S` of it."""
        rate = self._settings.worker.state_bytes_per_s
        passed_s = 0.0 if self._last_step_s is None else now_s - self._last_step_s
        self._last_step_s = now_s
        self._credit_bytes = min(self._credit_bytes + rate * passed_s, rate * SAVE_BURST_S)

    def _interval_over(self, now_s: float) -> bool:
        return now_s - self._last_commit_s >= self._settings.worker.commit_interval_s

    def _commit(self, now_s: float, *, everything: bool) -> None:
        """One transaction: alerts with the states of their streams, as many other states as the budget allows (all of
        them if `everything`), and an offset for every partition held."""
        news = any(held.touched or held.due or (everything and held.untold) for held in self._held.values())
        if not news and not self._ticks_due(now_s, everything):
            return
        member = self._consumer.member()
        if member is None:
            return
        batchful = self._messages(everything)
        held_now = [partition for partition in self._held if partition in self._consumer.assignment()]
        offsets = {partition: self._offset(partition) for partition in held_now}
        batchful.messages += [self._clock_message(partition, offset) for partition, offset in offsets.items()]
        try:
            with timed(self._observe_commit, STAGE):
                self._producer.commit(batchful.messages, offsets, member)
        except TransactionAborted as error:
            self.counts.aborted += 1
            log.warning("transaction rolled back, restoring", stage=STAGE, why=str(error))
            self._rewind(held_now)
            return
        self._committed(batchful, now_s)

    def _messages(self, everything: bool) -> _Batchful:
        batchful = _Batchful()
        topics, source = self._settings.topics, self._settings.alerts.source
        for _, alert in self._alerts:
            batchful.messages.append(
                Message(topics.alerts, alert.key(), alert.to_json(), headers=alert.headers(source))
            )
        for reference in self._learned:
            key = key_of(reference.stream, LEARNED_EPOCH)
            batchful.messages.append(Message(topics.references, key, reference.to_json()))
        for partition, ended, saved in self._ended:  # before the saves: it may have begun anew since
            batchful.messages += [
                Message(topics.state, name, None, partition.partition) for name, _ in states.tombstones(ended, saved)
            ]
        for partition, subject in sorted(self._urgent, key=lambda each: (each[0], isinstance(each[1], str), each[1])):
            self._save(batchful, partition, self._held[partition].tracked(subject))
        for partition, held in sorted(self._held.items(), key=itemgetter(0)):
            batchful.messages += self._incident_messages(partition, held)
        for partition, held in self._in_turn():
            self._save_due(batchful, partition, held, everything)
        for held in self._held.values():
            self._tell_status(batchful, held, everything)
        return batchful

    def _incident_messages(self, partition: TopicPartition, held: Held) -> Iterator[Message]:
        for model in sorted(held.unsaved_incidents):
            version = self._settings.worker.writes_version
            name, value = incident_state.pack(model, held.incidents[model].state(), version)
            yield Message(self._settings.topics.state, name, value, partition.partition)

    def _tell_status(self, batchful: _Batchful, held: Held, everything: bool) -> None:
        """The status of streams and models that were saved since it was last told, each at most once a minute."""
        topic, clock_ms = self._settings.topics.status, held.clock.clock_ms
        batchful.messages += [Message(topic, key, record) for key, record in held.news.items()]
        for key in held.shown - held.streams.keys():
            batchful.messages.append(Message(topic, status.stream_key(key), None))
            batchful.untold.append((held, key))
        for subject in list(held.untold)[: len(held.untold) if everything else STATUS_AT_ONCE]:
            tracked = held.models.get(subject) if isinstance(subject, str) else held.streams.get(subject)
            if tracked is None:  # it has ended
                del held.untold[subject]
            elif everything or clock_ms - tracked.told_ms >= status.EVERY_MS:
                batchful.messages.append(self._status_of(tracked, clock_ms))
                batchful.told.append((held, subject))
            else:  # its turn comes
                del held.untold[subject]
                held.untold[subject] = None

    def _status_of(self, tracked: Tracked | TrackedModel, clock_ms: int) -> Message:
        topic = self._settings.topics.status
        if isinstance(tracked, TrackedModel):
            model = tracked.model
            return Message(topic, status.labels_key(model.name), status.labels_record(model, clock_ms))
        key = tracked.stream.key
        budget = self._settings.for_model(key.model).detection.budget_events
        return Message(topic, status.stream_key(key), status.stream_record(tracked.stream, budget, clock_ms))

    def _in_turn(self) -> list[tuple[TopicPartition, Held]]:
        """The partitions, beginning behind the one saved last: else the first would use up the budget for ever."""
        order = sorted(self._held.items(), key=itemgetter(0))
        start = sum(partition <= self._saved_last for partition, _ in order)
        return order[start:] + order[:start]

    def _save_due(self, batchful: _Batchful, partition: TopicPartition, held: Held, everything: bool) -> None:
        """Save unsaved streams in turn while there is credit; a debt is paid off before the next one."""
        for _ in range(len(held.due)):
            if not everything and self._credit_bytes <= 0:
                return
            tracked = held.tracked(held.due.popleft())
            if tracked.unsaved_from is not None or tracked.outdated:
                self._saved_last = partition
                self._save(batchful, partition, tracked)

    def _save(self, batchful: _Batchful, partition: TopicPartition, tracked: Tracked | TrackedModel) -> None:
        self._count_cold(tracked)
        topic, queue, version = self._settings.topics.state, tracked.queue, self._settings.worker.writes_version
        where = (queue.stamp, queue.released_ms)
        records: list[tuple[bytes, bytes | None]]
        if isinstance(tracked, TrackedModel):
            records, model_saved = model_state.save(tracked.model, *where, tracked.saved, version)
            batchful.saved_models.append((tracked, model_saved))
            self._held[partition].untold[tracked.model.name] = None
        else:
            records, saved = states.save(tracked.stream, *where, tracked.saved, version)
            batchful.saved.append((tracked, saved))
            self._held[partition].untold[tracked.stream.key] = None
        batchful.messages += [Message(topic, key, value, partition.partition) for key, value in records]
        size = sum(len(value) for _, value in records if value is not None)
        batchful.bytes += size
        self._credit_bytes -= size
        tracked.unsaved_from, tracked.outdated = None, False

    def _offset(self, partition: TopicPartition) -> int:
        """Where a restored partition has to read on: at the first record with rows unsaved or still waiting."""
        held = self._held[partition]
        unsaved = (at for subject in held.due if (at := held.tracked(subject).unsaved_from) is not None)
        return min(chain(unsaved, held.first_waiting()), default=self._next_offset(partition))

    def _clock_message(self, partition: TopicPartition, offset: int) -> Message:
        """The clock as of the committed offset; later ticks will be read again."""
        held = self._held[partition]
        while len(held.clocks) > 1 and held.clocks[1].offset <= offset:
            held.clocks.popleft()
        clock = held.clocks[0] if held.clocks and held.clocks[0].offset <= offset else held.base
        held.base = clock
        data = states.pack_clock(clock, self._settings.worker.writes_version)
        return Message(self._settings.topics.state, states.CLOCK_KEY, data, partition.partition)

    def _ticks_due(self, now_s: float, everything: bool) -> bool:
        """Where nothing but ticks came, there is no hurry to commit."""
        ticked = any(held.ticked for held in self._held.values())
        return ticked and (everything or now_s - self._last_commit_s >= TICKS_COMMIT_S)

    def _committed(self, batchful: _Batchful, now_s: float) -> None:
        for tracked, saved in batchful.saved:
            tracked.saved = saved
        for tracked_model, model_saved in batchful.saved_models:
            tracked_model.saved = model_saved
            tracked_model.model.waiting.forget_fresh()
        for held, key in batchful.told:
            del held.untold[key]
            held.tracked(key).told_ms = held.clock.clock_ms
            if not isinstance(key, str):
                held.shown.add(key)
        for held, key in batchful.untold:
            held.shown.discard(key)
            held.forget_version(key)
        for held in self._held.values():
            held.news.clear()
            held.unsaved_incidents.clear()
        for _, alert in self._alerts:
            self.counts.alerts[f"{alert.kind}.{alert.state}"] += 1
            log.info("alert", state=alert.state.value, severity=alert.severity.value, stream=str(alert.stream),
                     column=alert.column, id=alert.id)  # fmt: skip
        self._alerts, self._learned, self._ended = [], [], []
        self._urgent.clear()
        self._last_commit_s = now_s
        self.counts.commits += 1
        self.counts.state_bytes += batchful.bytes
        self.counts.gaps += len(self._gaps)
        self.counts.lost_records += sum(gap.lost for gap in self._gaps.values())
        self._gaps.clear()
        for held in self._held.values():
            held.touched = held.ticked = False

    def _rewind(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget the memory of partitions and read it back from the topics."""
        touched = list(partitions)
        self._forget(touched)
        self._consumer.pause(touched)
        for partition in touched:
            self._restore(partition)


@dataclass(slots=True)
class _Batchful:
    """What one transaction writes."""

    messages: list[Message] = field(default_factory=list)
    saved: list[tuple[Tracked, states.Saved]] = field(default_factory=list)
    saved_models: list[tuple[TrackedModel, model_state.Saved]] = field(default_factory=list)
    told: list[tuple[Held, Subject]] = field(default_factory=list)
    untold: list[tuple[Held, StreamKey]] = field(default_factory=list)
    """Streams that have ended, whose status is deleted."""
    bytes: int = 0


def _inputs_of(held: Held, key: StreamKey) -> int:
    """Features that a stream's reference watches, 0 if it is not here (a part of a stream has the whole's)."""
    tracked = held.streams.get(key) or held.streams.get(key._replace(segment=""))
    monitor = tracked.stream.monitor if tracked is not None else None
    return monitor.inputs if monitor is not None else 0


def _unsaved(held: Held, tracked: Tracked | TrackedModel, subject: Subject, from_offset: int) -> None:
    """What came from that codes offset on is in memory alone."""
    if tracked.unsaved_from is None:
        if not tracked.outdated:  # else it is due already
            held.due.append(subject)
        tracked.unsaved_from = from_offset
    tracked.unsaved_from = min(tracked.unsaved_from, from_offset)
