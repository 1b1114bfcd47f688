"""Putting references on the references topic, each at the next epoch of its stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.protocol import Broker, Message
from stream_monitor.feed import ReferenceFeed
from stream_monitor.privacy import Veil
from stream_monitor.reference import Reference


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one reference; `new` is False where the topic held the same document already."""

    reference: Reference
    epoch: int
    new: bool


def plan(book: ReferenceBook, references: Sequence[Reference]) -> list[Published]:
    """The epoch each reference gets: one more than the newest of its stream, or that one if it is the same document."""
    planned = []
    for reference in references:
        newest = book.newest_epoch(reference.stream)
        current = book.find(reference.stream)
        same = newest is not None and current is not None and current.digest == reference.digest()
        if newest is not None and same and newest >= FIRST_EPOCH:
            planned.append(Published(reference, newest, new=False))
        else:
            planned.append(Published(reference, FIRST_EPOCH if newest is None else newest + 1, new=True))
    return planned


def publish(
    broker: Broker, topic: str, transactional_id: str, references: Sequence[Reference], veil: Veil | None = None
) -> list[Published]:
    """Publish what is new, all in one transaction; with a `veil`, without the names of categories.

    Raises TopicMismatch without the topic, and BrokerError.
    """
    feed = ReferenceFeed(broker, topic, time.monotonic, veil)
    references = [veil.reference(reference) for reference in references] if veil else references
    try:
        feed.catch_up()
        planned = plan(feed.book, references)
    finally:
        feed.close()
    messages = [
        Message(topic, key_of(each.reference.stream, each.epoch), each.reference.to_json())
        for each in planned
        if each.new
    ]
    if messages:
        producer = broker.producer(transactional_id)
        try:
            producer.commit(messages, {}, None)
        finally:
            producer.close()
    return planned
