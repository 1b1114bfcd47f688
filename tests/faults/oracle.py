"""What must have come out: the committed topics against one fresh detect stage that reads the codes in order.

Everything is compared exactly: alerts by id, in order for each subject; states bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from stream_monitor import model_state
from stream_monitor import state as states
from stream_monitor.batch import CodedBatch, Origins, decode
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message, Record, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.detect_stage import DetectStage
from stream_monitor.feed import ReferenceFeed
from stream_monitor.labels import decode_label_batch, is_labels
from stream_monitor.ordering import is_tick
from stream_monitor.reference import StreamKey
from stream_monitor.streams import StreamFactory
from stream_monitor.topics import specs

RowId = tuple[int, int, int]
"""Input partition (−1 − p for partition p of the labels), offset, index within the record."""


@dataclass(slots=True)
class Committed:
    """What a read-committed reader finds on the topics, each in offset order within its partitions."""

    codes: Sequence[Record]
    alerts: Sequence[Record]
    state: Sequence[Record]
    references: Sequence[Record]
    rejects: Sequence[Record]


@dataclass(slots=True)
class Found:
    """Alert ids by subject, in order; and the state of every stream and model in one canonical form."""

    alerts: dict[bytes, list[str]] = field(default_factory=dict)
    states: dict[StreamKey | str, list[tuple[bytes, bytes | None]]] = field(default_factory=dict)

    @property
    def alert_count(self) -> int:
        return sum(map(len, self.alerts.values()))


def found(settings: Settings, committed: Committed, known: Known | None = None) -> Found:
    """What the workers under test made."""
    return Found(by_subject(committed.alerts), states_of(settings, committed.state, committed.references, known))


def found_in(
    settings: Settings, alerts: Iterable[Record], state: Iterable[Record], references: Iterable[Record]
) -> Found:
    """The same, from the topics that it takes."""
    return Found(by_subject(alerts), states_of(settings, state, references))


def expected(settings: Settings, committed: Committed, known: Known | None = None) -> Found:
    """What one undisturbed detect stage makes of the committed codes, offsets and all."""
    broker = MemoryBroker(clock_ms=lambda: 0, max_poll_records=100_000)
    broker.create_topics(specs(settings))
    _copy(broker, committed.references)
    _copy(broker, committed.codes)
    feed = ReferenceFeed(broker, settings.topics.references, lambda: 0.0)
    feed.catch_up()
    stage = DetectStage(settings.model_copy(update={"instance": "oracle"}), broker, feed)
    now_s = 0.0
    for _ in range(100_000):
        now_s += 1.0
        if not stage.step(0.0, now_s) and stage.idle:
            break
    stage.close(now_s)
    topics = settings.topics
    return Found(
        by_subject(broker.records(topics.alerts)),
        states_of(settings, broker.records(topics.state), committed.references, known),
    )


def coded_rows(codes: Iterable[Record]) -> Counter[RowId]:
    """The rows and labels that the codes topic holds, as often as it does."""
    rows: Counter[RowId] = Counter()
    for record in codes:
        if is_labels(record.value):
            labels = decode_label_batch(record.value).origins
            partition = (-1 - labels.partition).tolist()
            rows.update(zip(partition, labels.offset.tolist(), labels.index.tolist(), strict=True))
        elif not is_tick(record.value):
            batch = decode(record.value)
            origins = batch.origins if isinstance(batch, CodedBatch) else Origins.of(batch.rows)
            rows.update(zip(origins.partition.tolist(), origins.offset.tolist(), origins.index.tolist(), strict=True))
    return rows


def rejected_rows(settings: Settings, rejects: Iterable[Record]) -> Counter[RowId]:
    """The rows, labels and records that were rejected, as often as they were."""
    rows: Counter[RowId] = Counter()
    for record in rejects:
        each = orjson.loads(record.value or b"")
        partition = each["partition"] if each["topic"] != settings.topics.labels else -1 - each["partition"]
        rows[partition, each["offset"], each["index"]] += 1
    return rows


def by_subject(alerts: Iterable[Record]) -> dict[bytes, list[str]]:
    subjects: dict[bytes, list[str]] = {}
    for record in alerts:
        subjects.setdefault(record.key or b"", []).append(orjson.loads(record.value or b"")["id"])
    return subjects


Canonical = list[tuple[bytes, bytes | None]]
Written = tuple[StreamKey | str, tuple[tuple[str, int, bytes], ...]]
Known = dict[Written, Canonical]


def states_of(
    settings: Settings, records: Iterable[Record], references: Iterable[Record], known: Known | None = None
) -> dict[StreamKey | str, Canonical]:
    """The state of every stream and model, read back and saved anew from nothing, so that the cut into chunks makes no
    difference. `known`: what the same bytes were before, under the same settings and references."""
    known = {} if known is None else known
    book, factory = ReferenceBook(), StreamFactory(settings)
    for record in references:
        book.apply(record.key, record.value)
    partitions: dict[int, dict[bytes, bytes]] = {}
    for record in records:
        _apply(partitions.setdefault(record.partition, {}), record)
    canonical: dict[StreamKey | str, Canonical] = {}
    for live in partitions.values():
        grouped, strange = states.group_records(live)
        assert not strange
        for key, parts in grouped.items():
            assert key not in canonical, f"{key} has states on two partitions"
            same = _as_written(key, parts)
            if same in known:
                canonical[key] = known[same]
                continue
            restored = states.restore(factory.stream(key), parts, book)
            assert not restored.lost, f"{key}: {restored.lost}"
            assert not restored.cold, f"{key}: {restored.cold}"
            canonical[key], _ = states.save(restored.stream, restored.stamp, restored.released_ms, states.Saved())
            known[same] = canonical[key]
        for name, parts in model_state.group_models(live).items():
            assert name not in canonical, f"model {name} has states on two partitions"
            same = _as_written(name, parts)
            if same in known:
                canonical[name] = known[same]
                continue
            model = model_state.restore(factory.model(name), factory.model(name), parts)
            assert not model.lost, f"model {name}: {model.lost}"
            canonical[name], _ = model_state.save(model.model, model.stamp, model.released_ms, model_state.Saved(),
                                                 labels_released_ms=model.labels_released_ms)  # fmt: skip
            known[same] = canonical[name]
    return canonical


def _as_written(subject: StreamKey | str, parts: Mapping[str, Mapping[int, bytes]]) -> Written:
    return subject, tuple((letter, n, data) for letter in parts for n, data in sorted(parts[letter].items()))


def _apply(live: dict[bytes, bytes], record: Record) -> None:
    if record.value is None:
        live.pop(record.key or b"", None)
    else:
        live[record.key or b""] = record.value


def _copy(broker: MemoryBroker, records: Iterable[Record]) -> None:
    """Append records under the offsets they have: states name offsets."""
    for record in records:
        broker.log(TopicPartition(record.topic, record.partition)).end_offset = record.offset
        message = Message(record.topic, record.key, record.value, record.partition, timestamp_ms=record.timestamp_ms)
        broker.append([message])


def differences(
    settings: Settings, committed: Committed, valid: Mapping[RowId, int], poison: Mapping[RowId, int]
) -> list[str]:
    """Everything that is not as it must be; `valid` and `poison`: the input rows that are to be coded and rejected."""
    problems = [
        *_multiset("rows of the codes", coded_rows(committed.codes), valid),
        *_multiset("rejects", rejected_rows(settings, committed.rejects), poison),
    ]
    known: Known = {}  # most states are the same bytes on both sides
    ours, theirs = found(settings, committed, known), expected(settings, committed, known)
    for subject in ours.alerts.keys() | theirs.alerts.keys():
        have, want = ours.alerts.get(subject, []), theirs.alerts.get(subject, [])
        if have != want:
            problems.append(f"alerts of {subject.decode()}: {have}, the oracle's are {want}")
    for key in ours.states.keys() | theirs.states.keys():
        if ours.states.get(key) != theirs.states.get(key):
            problems.append(f"state of {key}: differs from the oracle's")
    return problems


def _multiset(what: str, have: Counter[RowId], want: Mapping[RowId, int]) -> list[str]:
    lost, extra = Counter(want) - have, have - Counter(want)
    return [f"{what}: {sum(rows.values())} {kind}, as {sorted(rows)[:5]}"
            for kind, rows in (("lost", lost), ("too many", extra)) if rows]  # fmt: skip
