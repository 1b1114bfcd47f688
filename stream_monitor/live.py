"""The present records of a compacted topic, read whole once: for commands that only look."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from stream_monitor.broker.protocol import Broker, TopicPartition
from stream_monitor.errors import BrokerUnavailable

READ_S: Final = 30.0
"""Longest wait without a record."""


def live_records(broker: Broker, partitions: Sequence[TopicPartition]) -> dict[bytes, bytes]:
    """Key → value of the records up to the present end, deleted ones left out, in the order in which they were last
    written; raises BrokerUnavailable if the end cannot be reached."""
    reader = broker.reader(partitions)
    found: dict[bytes, bytes] = {}
    try:
        ends: Mapping[TopicPartition, int] = reader.end_offsets()
        deadline_s = time.monotonic() + READ_S
        while any(reader.position(partition) < end for partition, end in ends.items()):
            records = reader.poll(0.1)
            for record in records:
                found.pop(record.key or b"", None)
                if record.value is not None:
                    found[record.key or b""] = record.value
            if records:
                deadline_s = time.monotonic() + READ_S
            elif time.monotonic() > deadline_s:
                topics = ", ".join(sorted({partition.topic for partition in partitions}))
                raise BrokerUnavailable(f"{topics} could not be read to its end: nothing came for {READ_S:g} s")
    finally:
        reader.close()
    return found
