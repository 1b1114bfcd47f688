"""From the records of a state partition, read by `restoring.py`, to the streams and models they are of."""

from __future__ import annotations

import structlog

from stream_monitor import incident_state, model_state, wire
from stream_monitor import restoring as restores
from stream_monitor import state as states
from stream_monitor.broker.protocol import TopicPartition
from stream_monitor.config import Settings
from stream_monitor.errors import WireError
from stream_monitor.feed import ReferenceFeed
from stream_monitor.held import DetectCounts, Held, Tracked, TrackedModel
from stream_monitor.limits import Roster
from stream_monitor.model import Model
from stream_monitor.ordering import (
    Clock,
    Queue,
)
from stream_monitor.reference import StreamKey
from stream_monitor.restoring import Restoring
from stream_monitor.streams import StreamFactory

log = structlog.get_logger()


class Rebuild:
    """Builds what is kept of a partition from the records of its state topic; what cannot be read starts cold."""

    def __init__(self, settings: Settings, feed: ReferenceFeed, factory: StreamFactory, counts: DetectCounts) -> None:
        self._settings = settings
        self._feed = feed
        self._factory = factory
        self._counts = counts

    def begin(self, partition: TopicPartition, restoring: Restoring) -> Held:
        """The state of a partition is read: begin to build. Its streams and models come one by one, see `build`."""
        self._feed.catch_up()
        clock = self._clock_of(partition, restoring)
        limits = self._settings.input.limits
        streams, models = (Roster(limits.max_streams, limits.max_partition_streams) for _ in range(2))
        held = Held(clock, clock, streams, models)
        self._take_incidents(held, restoring)
        strange = restoring.group()
        if strange:
            log.warning("keys on the state topic that are not ours", partition=partition.partition, count=strange)
        return held

    def _take_incidents(self, held: Held, restoring: Restoring) -> None:
        for model, data in incident_state.of(restoring.records).items():
            held.incidents[model] = self._factory.incidents(model)
            try:
                held.incidents[model].restore(incident_state.unpack(data))
            except WireError as error:
                self._counts.lost_states += 1
                log.error("incidents unusable, open alerts are grouped no more", model=model, why=str(error))
                held.unsaved_incidents.add(model)
                continue
            if wire.version_of(data) != self._settings.worker.writes_version:
                held.unsaved_incidents.add(model)

    def build(self, held: Held, restoring: Restoring) -> int:
        """The next stream or model of a partition; returns how many bytes of state it was."""
        key, parts = restoring.next()
        size = restores.size_of(parts)
        self._counts.restored_bytes += size
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
            held.due.setdefault(key)
        self._report(key, restored)
        count_cold(self._counts, held.streams[key])
        self._counts.restored_streams += 1
        return size

    def _build_model(self, held: Held, name: str, parts: restores.Parts) -> None:
        restored = model_state.restore(self._factory.model(name), self._factory.model(name), parts)
        queue = Queue(restored.stamp, restored.released_ms)
        outdated = restored.version != self._settings.worker.writes_version
        labels = Queue(restored.stamp, restored.labels_released_ms)
        held.models[name] = TrackedModel(restored.model, queue, restored.saved, labels, outdated=outdated)
        held.model_roster.enter(name, restored.model.since)
        if outdated:
            restored.saved.whole = True
            held.due.setdefault(name)
        if restored.lost:
            self._counts.lost_states += 1
            log.error("state unusable, the model's labels start anew", model=name, why=restored.lost)
        for detector, why in restored.cold.items():
            self._counts.cold_detectors += 1
            log.error("detector starts cold", stream=name, detector=detector, why=why)
        count_cold(self._counts, held.models[name])

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
            self._counts.lost_states += 1
            log.error("state unusable, the stream starts cold", stream=str(key), why=restored.lost)
        for name, why in restored.cold.items():
            self._counts.cold_detectors += 1
            log.error("detector starts cold", stream=str(key), detector=name, why=why)


def count_cold(counts: DetectCounts, tracked: Tracked | TrackedModel) -> None:
    """Windows of ADWIN that native code failed on: noticed when their stream is restored or saved."""
    subject = tracked.model if isinstance(tracked, TrackedModel) else tracked.stream
    if windows := subject.cold_windows():
        counts.cold_detectors += windows
        name = subject.name if isinstance(subject, Model) else str(subject.key)
        log.error("detector starts cold", stream=name, detector="adwin", windows=windows,
                  why="its native code failed on the state of these windows, or refused it")  # fmt: skip
