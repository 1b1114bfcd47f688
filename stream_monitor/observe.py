"""What both stages let be seen from outside: how long commits take, and how far reading lags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from stream_monitor.broker.protocol import Consumer, TopicPartition

ObserveCommit = Callable[[str, float], None]
"""Called with the stage's name and the seconds that a transaction took, committed or not."""


NOTHING: Final[Mapping[TopicPartition, int]] = MappingProxyType({})


def unobserved(_stage: str, _seconds: float) -> None:
    """Nobody looks."""


@contextmanager
def timed(observe: ObserveCommit, stage: str) -> Iterator[None]:
    started_s = time.perf_counter()
    try:
        yield
    finally:
        observe(stage, time.perf_counter() - started_s)


def lag_of(consumer: Consumer, asked: Mapping[TopicPartition, int] = NOTHING) -> dict[TopicPartition, int]:
    """Partition held → records not yet read, of the partitions whose end a fetch has told, or is in `asked`."""
    lags = {}
    for partition in sorted(consumer.assignment()):
        ends = [end for end in (consumer.end_seen(partition), asked.get(partition)) if end is not None]
        if ends:
            lags[partition] = max(0, max(ends) - consumer.position(partition))
    return lags
