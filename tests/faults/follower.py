"""The oracle for runs too long to be kept: follows the committed codes, feeds them to one undisturbed detect stage on
the in-memory broker, and forgets them. Memory is bounded by the streams, the alerts and two bytes an input row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.batch import CodedBatch, Origins, decode
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Broker, Message, Reader, Record, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.detect_stage import DetectStage
from stream_monitor.errors import BrokerUnavailable
from stream_monitor.feed import ReferenceFeed
from stream_monitor.labels import decode_label_batch, is_labels
from stream_monitor.ordering import is_tick
from stream_monitor.topics import specs
from tests.faults.oracle import Found, by_subject, states_of

PATIENCE_S: Final = 300.0
WIDTH: Final = 128
"""Events of one record, at most."""
Ends = dict[TopicPartition, int]


class Tally:
    """How often each input row was seen, a byte a row; rows are known by partition, offset and index."""

    def __init__(self) -> None:
        self._counts: dict[int, npt.NDArray[np.uint8]] = {}

    def add(self, partition: int, offsets: npt.NDArray[np.int64], indexes: npt.NDArray[np.int64]) -> None:
        assert indexes.size == 0 or int(indexes.max()) < WIDTH
        at = offsets * WIDTH + indexes
        if at.size:
            counts = self._grown(partition, int(at.max()) + 1)
            np.add.at(counts, at, 1)

    def add_row(self, partition: int, offset: int, index: int) -> None:
        self.add(partition, np.array([offset]), np.array([index]))

    @property
    def total(self) -> int:
        return sum(int(counts.sum(dtype=np.int64)) for counts in self._counts.values())

    def against(self, want: Tally) -> tuple[int, int]:
        """How many are lost, and how many too many."""
        lost = extra = 0
        for partition in self._counts.keys() | want._counts.keys():
            size = max(self._grown(partition, 0).size, want._grown(partition, 0).size)
            difference = self._grown(partition, size)[:size].astype(np.int16) - want._grown(partition, size)[:size]
            lost += int(-difference[difference < 0].sum(dtype=np.int64))
            extra += int(difference[difference > 0].sum(dtype=np.int64))
        return lost, extra

    def _grown(self, partition: int, size: int) -> npt.NDArray[np.uint8]:
        counts = self._counts.setdefault(partition, np.zeros(0, np.uint8))
        if counts.size < size:
            grown = np.zeros(max(size, 2 * counts.size), np.uint8)
            grown[: counts.size] = counts
            self._counts[partition] = counts = grown
        return counts


class Follower:
    """Feeds committed codes to a detect stage of its own as they come."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self.rows = Tally()
        self.last_batch: Ends = {}
        self._topics = settings.topics
        topics = broker.topics([self._topics.codes, self._topics.references])
        every = {name: [TopicPartition(name, n) for n in range(info.partitions)] for name, info in topics.items()}
        self._codes: Reader = broker.reader(every[self._topics.codes])
        self._references: Reader = broker.reader(every[self._topics.references])
        self._memory = MemoryBroker(clock_ms=lambda: 0, max_poll_records=100_000)
        self._memory.create_topics(specs(settings))
        feed = ReferenceFeed(self._memory, self._topics.references, lambda: 0.0)
        self._stage = DetectStage(settings.model_copy(update={"instance": "oracle"}), self._memory, feed)
        self._feed = feed
        self._alerts: dict[bytes, list[str]] = {}
        self._all_references: list[Record] = []
        self._now_s = 0.0
        self._settle()

    def advance(self, timeout_s: float) -> int:
        """Take what has been committed meanwhile; how many records it was."""
        records = self._codes.poll(timeout_s)
        if records:
            # What these codes were coded under was committed before them.
            self._take_references()
            self._take_codes(records)
        return len(records)

    def position(self) -> Ends:
        return {partition: self._codes.position(partition) for partition in _ends(self._codes)}

    def finish(self) -> Found:
        """What the stage has published in all, and its states; after the last `advance`."""
        self._take_references()
        self._settle()
        self._stage.close(self._now_s)
        self._collect()
        states = states_of(self._settings, self._memory.records(self._topics.state), self._all_references)
        return Found(self._alerts, states)

    @property
    def _settings(self) -> Settings:
        return self._stage._settings

    def _take_references(self) -> None:
        ends = _ends(self._references)
        while any(self._references.position(partition) < end for partition, end in ends.items()):
            for record in self._references.poll(0.1):
                self._all_references.append(record)
                message = Message(record.topic, record.key, record.value, record.partition)
                self._memory.append([message])
        self._feed.poll()

    def _take_codes(self, records: Iterable[Record]) -> None:
        for record in records:
            at = TopicPartition(record.topic, record.partition)
            if not is_tick(record.value):
                self.last_batch[at] = record.offset
                self._count(record.value)
            # Under the offset it has: states name offsets.
            self._memory.log(at).end_offset = record.offset
            message = Message(
                record.topic, record.key, record.value, record.partition, timestamp_ms=record.timestamp_ms
            )
            self._memory.append([message])
        self._settle()
        self._collect()

    def _count(self, value: bytes | None) -> None:
        """Rows by partition; labels by −1 − partition."""
        if is_labels(value):
            labels = decode_label_batch(value).origins
            partitions, offsets, indexes = -1 - labels.partition, labels.offset, labels.index
        else:
            batch = decode(value)
            origins = batch.origins if isinstance(batch, CodedBatch) else Origins.of(batch.rows)
            partitions, offsets, indexes = origins.partition, origins.offset, origins.index
        for partition in np.unique(partitions).tolist():
            mine = partitions == partition
            self.rows.add(partition, offsets[mine].astype(np.int64), indexes[mine].astype(np.int64))

    def _settle(self) -> None:
        calm = 0  # a step that only restores brings nothing either
        for _ in range(10_000):
            self._now_s += 1.0
            calm = 0 if self._stage.step(0.0, self._now_s) else calm + 1
            if calm == 3:
                return
        raise AssertionError("the oracle does not come to an end")

    def _collect(self) -> None:
        """Keep ids and the newest states, forget the rest."""
        topics = self._topics
        for subject, ids in by_subject(self._memory.records(topics.alerts)).items():
            self._alerts.setdefault(subject, []).extend(ids)
        for topic in (topics.alerts, topics.codes):
            for partition in self._memory.partitions([topic]):
                self._memory.truncate(partition, self._memory.log(partition).end_offset)
        self._memory.compact(topics.state)


def _ends(reader: Reader) -> Ends:
    """The ends of what a reader reads, however long no broker answers: what was polled before must not be lost."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return reader.end_offsets()
        except BrokerUnavailable:
            if time.monotonic() > deadline_s:
                raise


def follow(config: str, connect: Callable[[], Broker], orders: Any) -> None:
    """The body of a process: follows until it is told where the end is, then answers with what it found.

    `orders` is a connection: "last" asks for the last batch of each partition, a mapping of ends for the result.
    """
    from stream_monitor.config import load

    follower = Follower(load(Path(config)), connect())
    while True:
        follower.advance(0.2)
        if orders.poll():
            order = orders.recv()
            if order == "last":
                orders.send(dict(follower.last_batch))
                continue
            ends: Mapping[TopicPartition, int] = order
            while any(follower.position()[partition] < end for partition, end in ends.items()):
                follower.advance(0.2)
            orders.send((follower.finish(), follower.rows))
            return
