"""Following the references topic: read whole before anything is encoded, then polled for news."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from stream_monitor.book import ReferenceBook
from stream_monitor.broker.protocol import Broker, Reader, Record, TopicPartition
from stream_monitor.errors import BrokerUnavailable, ReferenceInvalid, TopicMismatch
from stream_monitor.privacy import Veil

log = structlog.get_logger()


class ReferenceFeed:
    """A reader without a group and the book it fills."""

    def __init__(self, broker: Broker, topic: str, clock_s: Callable[[], float], veil: Veil | None = None) -> None:
        info = broker.topics([topic]).get(topic)
        if info is None:
            raise TopicMismatch(f"topic {topic!r} does not exist: create it with `stream-monitor topics create`")
        self.book = ReferenceBook(veil)
        self.invalid = 0
        self._clock_s = clock_s
        self._reader: Reader = broker.reader([TopicPartition(topic, p) for p in range(info.partitions)])

    def catch_up(self, timeout_s: float = 30.0) -> None:
        """Read to the present end; raises BrokerUnavailable if it is not reached in time."""
        ends = self._reader.end_offsets()
        deadline_s = self._clock_s() + timeout_s
        while any(self._reader.position(partition) < end for partition, end in ends.items()):
            self.poll(0.1)
            if self._clock_s() > deadline_s:
                raise BrokerUnavailable(f"the references topic could not be read to its end within {timeout_s:g} s")

    def poll(self, timeout_s: float = 0.0) -> None:
        for record in self._reader.poll(timeout_s):
            self._apply(record)

    def close(self) -> None:
        self._reader.close()

    def _apply(self, record: Record) -> None:
        try:
            stream, entry = self.book.apply(record.key, record.value)
        except ReferenceInvalid as error:
            self.invalid += 1
            log.error("reference unusable, ignored", partition=record.partition, offset=record.offset, why=str(error))
            return
        if entry is not None:
            log.info(
                "reference",
                stream=str(stream),
                epoch=entry.epoch,
                digest=entry.digest,
                rows=entry.reference.source.rows,
            )
