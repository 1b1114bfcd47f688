"""The demo's model on a real Kafka: publishes its reference and sends its events at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain, islice

from stream_monitor.broker.protocol import Broker, Message
from stream_monitor.config import Settings
from stream_monitor.demo import car_loan_production, car_loan_reference, event_of
from stream_monitor.events import Row
from stream_monitor.publish import publish

TICK_S = 0.2
"""Time between two transactions: the events become visible in such lots."""


def produce(settings: Settings, broker: Broker, events_per_s: int, say: Callable[[str], None]) -> None:
    """Send all production events once; raises TopicMismatch or BrokerError."""
    name = f"{settings.group}.{settings.instance}.demo"
    for published in publish(broker, settings.topics.references, name, [car_loan_reference()]):
        say(f"reference of {published.reference.stream}: epoch {published.epoch}")
    topic = settings.topics.predictions
    say(f"sending 50,000 events to {topic!r}, {events_per_s:,} a second; from the 25,000th on they have drifted")
    producer = broker.producer(name)
    due_s, sent = time.monotonic(), 0
    try:
        for rows in _lots(max(1, round(events_per_s * TICK_S))):
            time.sleep(max(0.0, due_s - time.monotonic()))
            producer.commit([Message(topic, (row.id or "").encode(), event_of(row)) for row in rows], {}, None)
            due_s += len(rows) / events_per_s
            if sent // 10_000 < (sent + len(rows)) // 10_000:
                say(f"{sent + len(rows):,} sent")
            sent += len(rows)
    finally:
        producer.close()


def _lots(size: int) -> Iterator[list[Row]]:
    rows = chain.from_iterable(car_loan_production())
    while lot := list(islice(rows, size)):
        yield lot
