"""The demo's model on a real Kafka: publishes its reference and sends its events at a steady rate, and their labels
late where the configuration names a topic for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain, islice

from stream_monitor.broker.protocol import Broker, Message
from stream_monitor.config import Settings
from stream_monitor.demo import LATE_ROWS, car_loan_labels, car_loan_production, car_loan_reference, event_of, label_of
from stream_monitor.errors import TopicMismatch
from stream_monitor.events import Row
from stream_monitor.publish import publish
from stream_monitor.topics import inputs, missing_inputs

TICK_S = 0.2
"""Time between two transactions: the events become visible in such lots."""


def produce(settings: Settings, broker: Broker, events_per_s: int, say: Callable[[str], None]) -> None:
    """Send all production events once; raises TopicMismatch or BrokerError."""
    if missing := missing_inputs(settings, broker.topics([*inputs(settings).values()])):
        raise TopicMismatch("\n".join(missing))
    name = settings.transactional_id("demo")
    for published in publish(broker, settings.topics.references, name, [car_loan_reference()]):
        say(f"reference of {published.reference.stream}: epoch {published.epoch}")
    topic = settings.topics.predictions
    say(f"sending 50,000 events to {topic!r}, {events_per_s:,} a second; from the 25,000th on they have drifted")
    labels = _Labels(settings.topics.labels) if settings.topics.labels else None
    if labels is not None:
        say(f"their labels go to {labels.topic!r}, {LATE_ROWS:,} events late")
    else:
        say("without labels: topics.labels names no topic for them")
    producer = broker.producer(name)
    due_s, sent = time.monotonic(), 0
    try:
        for rows in _lots(max(1, round(events_per_s * TICK_S))):
            time.sleep(max(0.0, due_s - time.monotonic()))
            messages = [Message(topic, (row.id or "").encode(), event_of(row)) for row in rows]
            producer.commit(messages + (labels.due(rows) if labels is not None else []), {}, None)
            due_s += len(rows) / events_per_s
            if sent // 10_000 < (sent + len(rows)) // 10_000:
                say(f"{sent + len(rows):,} sent")
            sent += len(rows)
        if labels is not None:
            producer.commit(labels.rest(), {}, None)
    finally:
        producer.close()
    say(f"all sent; alerts come on {settings.topics.alerts!r}, and `stream-monitor status` tells how the stream stands")


class _Labels:
    """The labels that are still to come; each is known at the time of the event that comes `LATE_ROWS` later."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._repaid = car_loan_labels()
        self._waiting: list[Row] = []

    def due(self, rows: list[Row]) -> list[Message]:
        """Those that are known when these rows have been sent."""
        self._waiting += rows
        known, self._waiting = self._waiting[:-LATE_ROWS], self._waiting[-LATE_ROWS:]
        return [self._message(row, rows[-1].time_ms) for row in known]

    def rest(self) -> list[Message]:
        return [self._message(row, self._waiting[-1].time_ms) for row in self._waiting]

    def _message(self, row: Row, time_ms: int) -> Message:
        return Message(self.topic, row.model.encode(), label_of(row, self._repaid[row.id or ""], time_ms))


def _lots(size: int) -> Iterator[list[Row]]:
    rows = chain.from_iterable(car_loan_production())
    while lot := list(islice(rows, size)):
        yield lot
