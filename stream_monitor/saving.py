"""What a transaction of the detect stage writes: alerts, learned references, states within a budget, status."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from operator import itemgetter
from typing import Final

from stream_monitor import incident_state, model_state, status
from stream_monitor import state as states
from stream_monitor.book import LEARNED_EPOCH, key_of
from stream_monitor.broker.protocol import Message, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.held import DetectCounts, Held, Subject, Tracked, TrackedModel
from stream_monitor.ordering import (
    Clock,
)
from stream_monitor.rebuilding import count_cold
from stream_monitor.reference import StreamKey
from stream_monitor.watching import Found

STATUS_AT_ONCE: Final = 200
"""Streams whose status one commit looks at, a partition."""
SAVE_BURST_S: Final = 2.0
"""Unused save budget kept for later, in seconds of it."""
UNSAVED_SHARE: Final = 1 / 4
"""Of `worker.max_codes_lag`: so much may be fed and not saved before states are saved sooner than
`worker.state_interval_s` asks for. At twice as much encoding would be held back."""

HeldBy = Mapping[TopicPartition, Held]


@dataclass(slots=True)
class Batchful:
    """What one transaction writes."""

    messages: list[Message] = field(default_factory=list)
    saved: list[tuple[Tracked, states.Saved]] = field(default_factory=list)
    saved_models: list[tuple[TrackedModel, model_state.Saved]] = field(default_factory=list)
    told: list[tuple[Held, Subject]] = field(default_factory=list)
    untold: list[tuple[Held, StreamKey]] = field(default_factory=list)
    """Streams that have ended, whose status is deleted."""
    bytes: int = 0

    def committed(self) -> None:
        """It is on the topics: remember what they hold."""
        for tracked, saved in self.saved:
            tracked.saved = saved
        for tracked_model, model_saved in self.saved_models:
            tracked_model.saved = model_saved
            tracked_model.model.waiting.forget_fresh()
        for held, key in self.told:
            del held.untold[key]
            held.tracked(key).told_ms = held.clock.clock_ms
            if not isinstance(key, str):
                held.shown.add(key)
        for held, key in self.untold:
            held.shown.discard(key)
            held.forget_version(key)


class Saving:
    """Puts transactions together. The state of what has found something always goes with it; other states are saved in
    turn, `worker.state_interval_s` after the first unsaved row of each, while there is credit, which grows by
    `worker.state_bytes_per_s`."""

    def __init__(self, settings: Settings, counts: DetectCounts) -> None:
        self._settings = settings
        self._counts = counts
        self._credit_bytes = 0.0
        self._saved_last = TopicPartition("", 0)
        worker, topics = settings.worker, settings.topics
        self._most_unsaved = worker.max_codes_lag * UNSAVED_SHARE / topics.partitions
        self._now_s = math.inf

    def earn(self, now_s: float) -> None:
        """Let the save budget grow with time, up to `SAVE_BURST_S` of it."""
        rate = self._settings.worker.state_bytes_per_s
        passed_s = max(0.0, now_s - self._now_s)  # none the first time
        self._now_s = now_s
        self._credit_bytes = min(self._credit_bytes + rate * passed_s, rate * SAVE_BURST_S)

    def batchful(self, held_by: HeldBy, found: Found, *, everything: bool) -> Batchful:
        """All but the clocks, which go by the offsets that are committed with it. Regardless of credit, if
        `everything`."""
        batchful = Batchful()
        topics, source = self._settings.topics, self._settings.alerts.source
        for _, alert in found.alerts:
            batchful.messages.append(
                Message(topics.alerts, alert.key(), alert.to_json(), headers=alert.headers(source))
            )
        for reference in found.learned:
            key = key_of(reference.stream, LEARNED_EPOCH)
            batchful.messages.append(Message(topics.references, key, reference.to_json()))
        for partition, ended, saved in found.ended:  # before the saves: it may have begun anew since
            batchful.messages += [
                Message(topics.state, name, None, partition.partition) for name, _ in states.tombstones(ended, saved)
            ]
        for partition, subject in sorted(found.urgent, key=lambda each: (each[0], isinstance(each[1], str), each[1])):
            self._save(batchful, partition, held_by[partition], subject)
        for partition, held in sorted(held_by.items(), key=itemgetter(0)):
            batchful.messages += self._incident_messages(partition, held)
        for partition, held in self._in_turn(held_by):
            self._save_due(batchful, partition, held, everything)
        for partition, held in held_by.items():
            news = {subject for where, subject in found.urgent if where == partition}
            self._tell_status(batchful, held, news, everything)
        return batchful

    def _incident_messages(self, partition: TopicPartition, held: Held) -> Iterator[Message]:
        for model in sorted(held.unsaved_incidents):
            version = self._settings.worker.writes_version
            name, value = incident_state.pack(model, held.incidents[model].state(), version)
            yield Message(self._settings.topics.state, name, value, partition.partition)

    def _tell_status(self, batchful: Batchful, held: Held, news: set[Subject], everything: bool) -> None:
        """The status of streams and models that were saved since it was last told: of those with news at once, since
        whoever was called by an alert looks there first; of the others at most once a minute."""
        topic, clock_ms = self._settings.topics.status, held.clock.clock_ms
        batchful.messages += [Message(topic, key, record) for key, record in held.news.items()]
        for key in held.shown - held.streams.keys():
            batchful.messages.append(Message(topic, status.stream_key(key), None))
            batchful.untold.append((held, key))
        turns = list(held.untold)
        if news:
            turns.sort(key=lambda subject: subject not in news)
        for subject in turns[: len(turns) if everything else max(STATUS_AT_ONCE, len(news))]:
            tracked = held.models.get(subject) if isinstance(subject, str) else held.streams.get(subject)
            if tracked is None:  # it has ended
                del held.untold[subject]
            elif everything or subject in news or clock_ms - tracked.told_ms >= status.EVERY_MS:
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

    def _in_turn(self, held_by: HeldBy) -> list[tuple[TopicPartition, Held]]:
        """The partitions, beginning behind the one saved last: else the first would use up the budget for ever."""
        order = sorted(held_by.items(), key=itemgetter(0))
        start = sum(partition <= self._saved_last for partition, _ in order)
        return order[start:] + order[:start]

    def _save_due(self, batchful: Batchful, partition: TopicPartition, held: Held, everything: bool) -> None:
        """Save unsaved streams in turn, those that have been so for long enough, while there is credit; a debt is paid
        off before the next one."""
        for subject in takewhile(lambda each: held.due[each] is None, reversed(held.due)):
            held.due[subject] = self._now_s
        while held.due:
            subject, since_s = next(iter(held.due.items()))
            if not everything and (self._credit_bytes <= 0 or not self._is_time(held, subject, since_s)):
                return
            self._saved_last = partition
            self._save(batchful, partition, held, subject)

    def _is_time(self, held: Held, subject: Subject, since_s: float | None) -> bool:
        """Whether a stream has been unsaved for long, or many records of codes have come meanwhile."""
        unsaved_from = held.tracked(subject).unsaved_from
        behind = 0 if unsaved_from is None else held.clock.offset - unsaved_from
        waited_s = 0.0 if since_s is None else self._now_s - since_s
        return waited_s >= self._settings.worker.state_interval_s or behind >= self._most_unsaved

    def _save(self, batchful: Batchful, partition: TopicPartition, held: Held, subject: Subject) -> None:
        tracked = held.tracked(subject)
        count_cold(self._counts, tracked)
        topic, queue, version = self._settings.topics.state, tracked.queue, self._settings.worker.writes_version
        where = (queue.stamp, queue.released_ms)
        records: list[tuple[bytes, bytes | None]]
        if isinstance(tracked, TrackedModel):
            labels_ms = tracked.labels.released_ms
            records, model_saved = model_state.save(tracked.model, *where, tracked.saved, version, labels_ms)
            batchful.saved_models.append((tracked, model_saved))
        else:
            records, saved = states.save(tracked.stream, *where, tracked.saved, version)
            batchful.saved.append((tracked, saved))
        batchful.messages += [Message(topic, key, value, partition.partition) for key, value in records]
        size = sum(len(value) for _, value in records if value is not None)
        batchful.bytes += size
        self._credit_bytes -= size
        tracked.unsaved_from, tracked.outdated = None, False
        held.due.pop(subject, None)
        held.untold[subject] = None

    def clock_message(self, partition: TopicPartition, clock: Clock) -> Message:
        data = states.pack_clock(clock, self._settings.worker.writes_version)
        return Message(self._settings.topics.state, states.CLOCK_KEY, data, partition.partition)
