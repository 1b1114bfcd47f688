"""Partitions that nobody reads. A static member that was killed half-way through a cooperative rebalance gets its old
half of the assignment back when it returns, and the group believes itself stable: what it was to take over stays
without an owner until something else makes the group rebalance. So every member looks, and asks for it.

An input partition without an owner does harm even without records: no encoder speaks of it in its ticks, and the rows
of all the others wait for it (`ordering.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from stream_monitor.broker.protocol import Broker, Consumer, TopicPartition

log = structlog.get_logger()

LOOK_S: Final = 30.0
"""Between two looks; an orphan is nobody's, or is behind and has not moved, at two of them."""


class Ownership:
    """Watches over the partitions of topics that this member of a group does not hold."""

    def __init__(self, broker: Broker, consumer: Consumer, group: str, topics: Sequence[str]) -> None:
        self._broker = broker
        self._consumer = consumer
        self._group = group
        self._topics = topics
        self._looked_s: float | None = None
        self._behind: dict[TopicPartition, int] = {}
        self._nobodys: set[TopicPartition] = set()

    def look(self, now_s: float) -> None:
        """When it is time: ask the group to rebalance for a partition that was given to nobody, or that is somebody
        else's, behind, and stands still."""
        if self._looked_s is None:
            self._looked_s = now_s
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        if not self._consumer.assignment():
            return  # no worse off, and maybe not even a member
        every = self._partitions()
        nobodys_before, self._nobodys = self._nobodys, self._given_to_nobody(every)
        behind_before, self._behind = self._behind, self._others_behind(every)
        still = {at for at, offset in self._behind.items() if behind_before.get(at) == offset}
        orphans = sorted(f"{at.topic}-{at.partition}" for at in still | (self._nobodys & nobodys_before))
        if orphans:
            log.warning(
                "partitions that nobody reads: asking the group to rebalance", group=self._group, partitions=orphans
            )
            self._consumer.rejoin()

    def _partitions(self) -> set[TopicPartition]:
        found = self._broker.topics(self._topics)
        return {TopicPartition(topic, n) for topic, info in found.items() for n in range(info.partitions)}

    def _given_to_nobody(self, every: set[TopicPartition]) -> set[TopicPartition]:
        given = self._broker.given(self._group)
        return set() if given is None else every - given

    def _others_behind(self, every: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Committed offsets of the partitions held by others that have records beyond them."""
        others = every - self._consumer.assignment()
        if not others:
            return {}
        reader = self._broker.reader(others)
        try:
            ends = reader.end_offsets()
        finally:
            reader.close()
        committed = self._broker.group_offsets(self._group, others)
        at = {partition: committed[partition] or 0 for partition in others}
        # The last record may be the marker of a transaction, which is never committed past until the next poll.
        return {partition: offset for partition, offset in at.items() if offset < ends[partition] - 1}
