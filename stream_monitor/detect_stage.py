"""The detect stage: codes → alerts. Stateful; one transaction holds alerts, states, learned references and offsets.

An alert commits at once, with the state of its stream. The other streams with unsaved rows are saved in turn, within a
budget of bytes a second; the committed offset of a partition is the least offset that an unsaved row came from, and a
restored stream skips the rows below its own stamp.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Final

import structlog

from stream_monitor import gaps
from stream_monitor import restoring as restores
from stream_monitor.broker.protocol import Broker, Polled, Probe, Record, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.errors import TransactionAborted
from stream_monitor.feed import ReferenceFeed
from stream_monitor.held import DetectCounts, Held
from stream_monitor.model import Model, Report
from stream_monitor.observe import ObserveCommit, lag_of, timed, unobserved
from stream_monitor.ordering import (
    LONG_AGO,
)
from stream_monitor.ownership import Ownership
from stream_monitor.rebuilding import Rebuild
from stream_monitor.restoring import BUFFER_BYTES, Progress, Restoring
from stream_monitor.saving import Batchful, Saving
from stream_monitor.streams import StreamFactory
from stream_monitor.watching import Watch

log = structlog.get_logger()

STAGE: Final = "detect"
TICKS_COMMIT_S: Final = 5.0
ROWS_A_STEP: Final = 50_000
"""Rows watched in one step, give or take what one tick releases: a poll may bring many minutes of work."""
RESTORE_LOG_S: Final = 5.0
DROPPED_LOG_S: Final = 60.0


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
        factory = StreamFactory(settings)
        self._watch = Watch(settings, feed, factory, self.counts, self._restart_offset)
        self._rebuild = Rebuild(settings, feed, factory, self.counts)
        self._saving = Saving(settings, self.counts)
        name, group = settings.transactional_id(STAGE), settings.consumer_group(STAGE)
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
        self._gaps: dict[TopicPartition, gaps.Found] = {}
        """Found since the last commit."""
        self._restore_told_s = 0.0
        self._dropped_told = 0
        self._dropped_told_s = -DROPPED_LOG_S
        self._last_commit_s = 0.0

    def step(self, timeout_s: float, now_s: float) -> bool:
        """Poll, apply rebalances, restore, detect, commit when due; whether there was anything to do."""
        self._saving.earn(now_s)
        polled = self._consumer.poll(0.0 if self._restoring or self._unread_records else timeout_s)
        self._apply_rebalance(polled)
        self._go_on_restoring(now_s)
        self._ownership.look(now_s)
        for partition, records in polled.records.items():
            self._unread_records.setdefault(partition, deque()).extend(records)
        self._read_some()
        self._tell_dropped(now_s)
        if self._watch.found.urgent or self._interval_over(now_s):
            self._commit(now_s, everything=False)
        return bool(polled.records) or bool(self._restoring) or bool(self._unread_records)

    def _read_some(self) -> None:
        """Read what was polled, up to so many rows: one poll can bring more than can be watched before the group gives
        up on this member, and before a commit is due. The rest waits, and its partitions are paused meanwhile."""
        most = self.counts.rows + ROWS_A_STEP
        while self._unread_records and self.counts.rows < most:
            partition, records = next(iter(self._unread_records.items()))
            self._watch.read(partition, self._held[partition], records.popleft())
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

    def _restart_offset(self, partition: TopicPartition) -> int:
        return self._held[partition].restart_offset(self._next_offset(partition))

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
        if polled.assigned:
            self._restore(polled.assigned)
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
        self._watch.found.forget(partitions)

    def _restore(self, partitions: Collection[TopicPartition]) -> None:
        """Begin to read the state of partitions just assigned.

        The committed offset is read *before* the state's end: a state newer than the offset is harmless (stamps skip
        the rows it includes), an offset newer than the state would lose rows.
        """
        committed = self._consumer.committed(partitions)
        fresh = [partition for partition in partitions if committed.get(partition) is None]
        bounds = self._consumer.bounds(fresh) if fresh else {}
        for partition in partitions:
            known = partition not in bounds
            offset = committed[partition] if known else bounds[partition][0]
            assert offset is not None  # there are bounds of those without
            source = TopicPartition(self._settings.topics.state, partition.partition)
            with ExitStack() as opened:
                reader = opened.enter_context(closing(self._broker.reader([source])))
                first = reader.position(source)
                end = reader.end_offsets()[source]
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
                self._building[partition] = self._rebuild.begin(partition, restoring)
            elif waiting_bytes >= BUFFER_BYTES and all(each.left is None for each in self._restoring.values()):
                restoring.read(wait_s)  # nothing can be built before one of them is whole
                break
        self._build_streams()
        if now_s - self._restore_told_s >= RESTORE_LOG_S and self._restoring:
            self._restore_told_s = now_s
            log.info("restoring", **asdict(self.restoring()))

    def _build_streams(self) -> None:
        """Build streams from their records; a partition that has all of them goes on at its committed offset."""
        left_bytes = restores.STEP_BYTES
        for partition, restoring in list(self._restoring.items()):
            while restoring.left and left_bytes > 0:
                left_bytes -= self._rebuild.build(self._building[partition], restoring)
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

    def _look_whether_anew(self, partition: TopicPartition) -> None:
        """The group has no offset here: if its states are of offsets that this log has not come to, it is another one,
        and they would skip rows never seen. The end is asked for now, since it is no state of this log that can be
        beyond it."""
        reached = self._held[partition].reached
        first, end = self._consumer.bounds([partition])[partition]
        if reached > end:
            self._go_on_after(partition, gaps.made_anew(partition.topic, partition.partition, reached, first))

    def _on_gap(self, partitions: Collection[TopicPartition]) -> None:
        for partition, (first, end) in self._consumer.bounds(partitions).items():
            for record in self._unread_records.pop(partition, ()):  # what stands before the gap
                self._watch.read(partition, self._held[partition], record)
            position = self._consumer.position(partition)
            self._go_on_after(
                partition, gaps.find(partition.topic, partition.partition, position, gaps.Bounds(first, end))
            )
        self._consumer.resume(partitions)

    def _go_on_after(self, partition: TopicPartition, gap: gaps.Found) -> None:
        log.error("gap: the stored position is not in the log any more", topic=gap.topic, partition=gap.partition,
                  position=gap.position, goes_on_at=gap.resumed_at, lost=gap.lost)  # fmt: skip
        held = self._held[partition]
        self._watch.found.alerts.append((partition, gaps.alert_of(gap, max(held.clock.clock_ms, 0))))
        held.touched = True
        if gap.anew:
            held.begin_anew(gap.resumed_at)
        self._gaps[partition] = gap
        self._consumer.seek(partition, gap.resumed_at)

    def _tell_dropped(self, now_s: float) -> None:
        """Say once a minute at most that events are not watched, however many streams they name."""
        dropped = self.counts.dropped.total()
        if dropped > self._dropped_told and now_s - self._dropped_told_s >= DROPPED_LOG_S:
            log.error("events of streams beyond the limits (input.limits) are not watched",
                      events=dropped - self._dropped_told, **self.counts.dropped)  # fmt: skip
            self._dropped_told, self._dropped_told_s = dropped, now_s

    def outcomes(self, most: int | None = None) -> dict[str, Report]:
        """By model, the first `most` by name: how labels cover its predictions, and how late those are."""
        models = {name: tracked.model for held in self._held.values() for name, tracked in held.models.items()}
        return {name: models[name].report() for name in sorted(models)[:most]}

    def model(self, name: str) -> Model:
        """A model held here; raises KeyError."""
        return next(held.models[name].model for held in self._held.values() if name in held.models)

    # ---- commit ----

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
        batchful = self._saving.batchful(self._held, self._watch.found, everything=everything)
        held_now = [partition for partition in self._held if partition in self._consumer.assignment()]
        offsets = {partition: self._restart_offset(partition) for partition in held_now}
        for partition, offset in offsets.items():
            clock = self._held[partition].clock_of(offset)
            batchful.messages.append(self._saving.clock_message(partition, clock))
        # See backpressure.py.
        notes = {each: str(self._held[each].saved_to(self._next_offset(each))) for each in held_now}
        try:
            with timed(self._observe_commit, STAGE):
                self._producer.commit(batchful.messages, offsets, member, notes)
        except TransactionAborted as error:
            self.counts.aborted += 1
            log.warning("transaction rolled back, restoring", stage=STAGE, why=str(error))
            self._rewind(held_now)
            return
        self._committed(batchful, now_s)

    def _ticks_due(self, now_s: float, everything: bool) -> bool:
        """Where nothing but ticks came, there is no hurry to commit."""
        ticked = any(held.ticked for held in self._held.values())
        return ticked and (everything or now_s - self._last_commit_s >= TICKS_COMMIT_S)

    def _committed(self, batchful: Batchful, now_s: float) -> None:
        batchful.committed()
        for held in self._held.values():
            held.news.clear()
            held.unsaved_incidents.clear()
            held.touched = held.ticked = False
        for _, alert in self._watch.found.alerts:
            self.counts.alerts[f"{alert.kind}.{alert.state}"] += 1
            log.info("alert", state=alert.state.value, severity=alert.severity.value, kind=alert.kind.value,
                     stream=str(alert.stream), what=alert.summary, id=alert.id)  # fmt: skip
        self._watch.found.clear()
        self._last_commit_s = now_s
        self.counts.commits += 1
        self.counts.state_bytes += batchful.bytes
        self.counts.gaps += len(self._gaps)
        self.counts.lost_records += sum(gap.lost for gap in self._gaps.values())
        self._gaps.clear()

    def _rewind(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget the memory of partitions and read it back from the topics."""
        touched = list(partitions)
        self._forget(touched)
        self._consumer.pause(touched)
        self._restore(touched)
