"""From records of the codes topic to alerts: ticks let rows go on, streams and models are fed, and fall silent or end.

No clock, and no I/O but for a reference that is not here yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from stream_monitor import model_state, status
from stream_monitor import state as states
from stream_monitor.alerts import Alert
from stream_monitor.batch import Batch, CodedBatch, decode
from stream_monitor.broker.protocol import Record, TopicPartition
from stream_monitor.codes import FIRST_BIN
from stream_monitor.config import Settings
from stream_monitor.errors import VersionUnknown, WireError
from stream_monitor.feed import ReferenceFeed
from stream_monitor.held import DetectCounts, Held, Subject, Tracked, TrackedModel
from stream_monitor.labels import LabelBatch, decode_label_batch, is_labels
from stream_monitor.limits import PARTITION_MODELS, Birth
from stream_monitor.ordering import (
    OutcomeRun,
    Queue,
    Tick,
    check,
    decode_tick,
    first_time_ms,
    is_tick,
)
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.stream import Outcome
from stream_monitor.streams import StreamFactory

log = structlog.get_logger()

LATE: Final = 2**62


@dataclass(slots=True)
class Found:
    """What has been found since the last commit. `ended`: streams that have, and what the topic still holds of them;
    `urgent`: streams and models whose state goes with what they have found, or what they have learned."""

    alerts: list[tuple[TopicPartition, Alert]] = field(default_factory=list)
    learned: list[Reference] = field(default_factory=list)
    ended: list[tuple[TopicPartition, StreamKey, states.Saved]] = field(default_factory=list)
    urgent: set[tuple[TopicPartition, Subject]] = field(default_factory=set)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Drop what is of these partitions."""
        self.alerts = [each for each in self.alerts if each[0] not in partitions]
        self.ended = [each for each in self.ended if each[0] not in partitions]
        self.urgent = {each for each in self.urgent if each[0] not in partitions}
        kept = {subject for _, subject in self.urgent}
        self.learned = [reference for reference in self.learned if reference.stream in kept]

    def clear(self) -> None:
        for each in (self.alerts, self.learned, self.ended, self.urgent):
            each.clear()


class Watch:
    """Feeds the streams and models of partitions from records of the codes topic, in the order that ticks allow.

    `restart_offset`: where a partition would be read on if it were restored now.
    """

    def __init__(
        self,
        settings: Settings,
        feed: ReferenceFeed,
        factory: StreamFactory,
        counts: DetectCounts,
        restart_offset: Callable[[TopicPartition], int],
    ) -> None:
        self.found = Found()
        self._settings = settings
        self._feed = feed
        self._factory = factory
        self._counts = counts
        self._restart_offset = restart_offset
        self._code_widths: dict[str, npt.NDArray[np.int64]] = {}

    def read(self, partition: TopicPartition, held: Held, record: Record) -> None:
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
            self._counts.invalid_batches += 1
            log.error("batch unusable, skipped", partition=record.partition, offset=record.offset, why=str(error))
            return
        except VersionUnknown as error:
            log.error("record of another release", partition=record.partition, offset=record.offset, why=str(error))
            raise
        self._counts.batches += 1
        held.touched = True
        tracked = held.streams.get(batch.stream) or self._begin(held, batch, record.offset)
        if tracked is None:
            return
        tracked.queue.add(batch, record.offset, held.clock)
        if tracked.queue.first_offset is not None:
            held.waiting[batch.stream] = tracked
        run = OutcomeRun.of(batch, with_ids=self._settings.joins_labels(batch.stream.model))
        if run is not None:
            self._model(held, batch.stream.model, record.offset).queue.add(run, record.offset, held.clock)

    def _read_labels(self, held: Held, labels: LabelBatch, offset: int) -> None:
        """Take labels: they wait for a tick, so that when they are applied does not depend on a poll."""
        held.touched = True
        if labels.model not in held.models and not held.model_roster.has_room(offset):
            self._counts.dropped[PARTITION_MODELS] += len(labels)
            return
        self._model(held, labels.model, offset).labels.add(labels, offset, held.clock)

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
            self._counts.dropped[rank] += len(batch)
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

    def _tick(self, partition: TopicPartition, held: Held, tick: Tick, offset: int) -> None:
        held.clock = held.clock.advance(tick, offset)
        held.clocks.append(held.clock)
        held.ticked = True
        begin = len(self.found.alerts)
        for key in list(held.waiting):
            self._release(partition, held, held.waiting[key])
            if held.waiting[key].queue.first_offset is None:
                del held.waiting[key]
        for tracked in held.models.values():
            if tracked.first_offset is not None:
                self._release_model(partition, held, tracked)
        if held.clock.watermark_ms >= held.look_ms:
            self._look_for_silence(partition, held)
        if len(self.found.alerts) > begin:
            self._look_for_incidents(partition, held, begin)

    def _look_for_incidents(self, partition: TopicPartition, held: Held, begin: int) -> None:
        """What the alerts of this tick make of the incidents of their models; all of them are of this partition."""
        alerts = [alert for _, alert in self.found.alerts[begin:]]
        for model in dict.fromkeys(alert.model for alert in alerts):
            if model not in held.incidents:
                held.incidents[model] = self._factory.incidents(model)
            alerts = held.incidents[model].among(alerts, held.inputs_of)
            held.unsaved_incidents.add(model)
        alerts = [held.models[a.model].model.counted(a) if a.model in held.models else a for a in alerts]
        self.found.alerts[begin:] = [(partition, alert) for alert in alerts]

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
            self.found.alerts.append((partition, stream.fall_silent()))
            queue.pass_by(held.clock)
            held.note_unsaved(tracked, key, held.clock.offset - 1)
            self.found.urgent.add((partition, key))
            return True
        if tracked.unsaved_from is not None or self._restart_offset(partition) < queue.stamp:
            return False  # a restore would read its rows again
        self._end(partition, held, key)
        return True

    def _end(self, partition: TopicPartition, held: Held, key: StreamKey) -> None:
        """Resolve what is open, forget the stream, and delete its state."""
        tracked = held.streams.pop(key)
        held.roster.leave(key.model, tracked.stream.birth.since)
        held.due.pop(key, None)
        self.found.alerts += [(partition, alert) for alert in tracked.stream.end()]
        self.found.ended.append((partition, key, tracked.saved))
        held.touched = True
        log.info("stream ended", stream=str(key))

    def _release(self, partition: TopicPartition, held: Held, tracked: Tracked) -> None:
        """Feed the rows of a stream that need not wait any longer."""
        batches, from_offset = tracked.queue.release(held.clock)
        if from_offset is None:
            return
        held.note_unsaved(tracked, tracked.stream.key, from_offset)
        for batch in batches:
            self._account(partition, batch.stream, tracked.stream.feed(batch, self._feed.book))
        rhythm = tracked.stream.rhythm
        if rhythm is not None:
            held.look_ms = min(held.look_ms, rhythm.next_look_ms(tracked.stream.silence))

    def _release_model(self, partition: TopicPartition, held: Held, tracked: TrackedModel) -> None:
        """Feed the outcomes that need not wait any longer, then such labels."""
        runs, first_row = tracked.queue.release_runs(held.clock)
        labels, first_label = tracked.labels.release_labels(held.clock)
        if not runs and not labels:
            return
        model = tracked.model
        held.note_unsaved(tracked, model.name, min(at for at in (first_row, first_label) if at is not None))
        self._counts.labels += sum(map(len, labels))
        alerts = model.feed(runs, labels, self._feed.book, held.clock.of_labels().watermark_ms)
        self.found.alerts += [(partition, alert) for alert in alerts]
        if alerts:
            self.found.urgent.add((partition, model.name))

    def _account(self, partition: TopicPartition, stream: StreamKey, outcome: Outcome) -> None:
        self._counts.rows += outcome.fed
        self._counts.stale_rows += outcome.stale
        self.found.alerts += [(partition, alert) for alert in outcome.alerts]
        if outcome.learned is not None:
            self.found.learned.append(outcome.learned)
            log.info("reference learned", stream=str(stream), columns=len(outcome.learned.columns),
                     rows=outcome.learned.source.rows)  # fmt: skip
        if outcome.cut_short:
            log.warning("learned from fewer events than asked for (input.limits.max_warmup_bytes)", stream=str(stream))
        if outcome.failed:
            log.error("no reference could be learned, warming up again", stream=str(stream), why=outcome.failed)
        if outcome.alerts or outcome.learned is not None:
            self.found.urgent.add((partition, stream))
