"""Where `compare` gets its two sides from: the state topic of a running monitor, or files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from stream_monitor import state as states
from stream_monitor.alerts import rfc3339
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Broker, TopicPartition
from stream_monitor.compare import Comparison, Side, compare
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.errors import DataError, TopicMismatch
from stream_monitor.events import Row
from stream_monitor.feed import ReferenceFeed
from stream_monitor.fit import fit
from stream_monitor.limits import UNBORN
from stream_monitor.live import live_records
from stream_monitor.privacy import veil_of
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.stream import Stream
from stream_monitor.streams import StreamFactory, fit_options
from stream_monitor.trail import FINE

Versions = tuple[str, str]


def from_topics(settings: Settings, broker: Broker, model: str, versions: Versions) -> list[tuple[str, Comparison]]:
    """By segment: the last rows (1,024 at most) of two versions that are watched. Raises DataError where one of them is
    not, TopicMismatch without the topics, BrokerUnavailable if they cannot be read to their end."""
    topics = settings.topics
    found = broker.topics([topics.state, topics.references])
    for name in (topics.state, topics.references):
        if name not in found:
            raise TopicMismatch(f"topic {name!r} does not exist: create it with `stream-monitor topics create`")
    feed = ReferenceFeed(broker, topics.references, time.monotonic, veil_of(settings))
    try:
        feed.catch_up()
    finally:
        feed.close()
    partition = TopicPartition(topics.state, partition_of(model.encode(), found[topics.state].partitions))
    parts, _ = states.group_records(live_records(broker, [partition]))
    factory, sides = StreamFactory(settings), {}
    for key in (key for key in parts if key.model == model and key.version in versions):
        restored = states.restore(factory.stream(key), parts[key], feed.book)
        if restored.lost:
            raise DataError(f"the state of {key} cannot be read: {restored.lost}")
        if restored.stream.monitor is not None:
            sides[key] = _side(restored.stream)
    return _pairs(model, versions, sides)


def _side(stream: Stream) -> Side:
    monitor = stream.monitor
    assert monitor is not None
    codes, times = monitor.trail.last(FINE)
    columns, reference = monitor.entry.reference.columns, monitor.entry.reference
    dates = (rfc3339(int(times[0])), rfc3339(int(times[-1]))) if len(times) else (None, None)
    return Side(
        stream.key.version, monitor.entry.digest, reference, codes, reference.strata_of(times), monitor.rows,
        rfc3339(stream.birth.first_ms) if stream.birth != UNBORN else None, dates[1], dates,
        {columns[each.column].name: rfc3339(each.onset[3]) for each in monitor.episodes.values()},
    )  # fmt: skip


def from_rows(
    settings: Settings, model: str, versions: Versions, chunks: Iterable[Sequence[Row]]
) -> list[tuple[str, Comparison]]:
    """By segment: all rows of two versions, under the bins of the first one's. Raises DataError where one has none."""
    rows: dict[StreamKey, list[Row]] = {}
    for chunk in chunks:
        for row in chunk:
            if row.model == model and row.version in versions:
                rows.setdefault(StreamKey(model, row.version, row.segment), []).append(row)
    options, sides = fit_options(settings.for_model(model)), {}
    references: dict[str, Reference] = {}
    for key in sorted(rows, key=lambda each: versions.index(each.version)):
        if key.version == versions[0]:
            references[key.segment] = fit(rows[key], key, options)
        if key.segment in references:
            sides[key] = _side_of_rows(key, rows[key], references[key.segment])
    return _pairs(model, versions, sides)


def _side_of_rows(key: StreamKey, rows: Sequence[Row], reference: Reference) -> Side:
    coded = Binner(reference).encode(rows)
    times = np.array([row.time_ms for row in rows], dtype=np.int64)
    first, last = rfc3339(int(times.min())), rfc3339(int(times.max()))
    return Side(key.version, reference.digest(), reference, coded.codes, reference.strata_of(times), len(rows), first,
                last, (first, last))  # fmt: skip


def _pairs(model: str, versions: Versions, sides: dict[StreamKey, Side]) -> list[tuple[str, Comparison]]:
    """The segments that both versions have; raises DataError if there is none."""
    segments = [{key.segment for key in sides if key.version == version} for version in versions]
    for version, own in zip(versions, segments, strict=True):
        if not own:
            raise DataError(f"{model}: nothing is known of version {version!r} (is it watched, or still learning?)")
    common = sorted(segments[0] & segments[1])
    if not common:
        raise DataError(f"{model}: versions {versions[0]!r} and {versions[1]!r} have no segment in common")
    first, second = versions
    return [
        (each, compare(sides[StreamKey(model, first, each)], sides[StreamKey(model, second, each)])) for each in common
    ]
