"""From records to messages: predictions and labels become codes, what cannot be read becomes rejects. Pure.

`encode_stage.py` says which records and when; this says what is written for them.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Final

import orjson

from stream_monitor import scan
from stream_monitor.alerts import rfc3339
from stream_monitor.batch import RawBatch, encode_coded, encode_raw
from stream_monitor.book import Entry, ReferenceBook
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message, Record
from stream_monitor.coding import ENOUGH, Coder
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.events import DATES_MS, Reject, Row, Shape, dated_ahead
from stream_monitor.labels import Label, LabelShape, decode_labels, encode_labels
from stream_monitor.merge import Merged
from stream_monitor.privacy import Veil, veil_of
from stream_monitor.reference import Kind, StreamKey
from stream_monitor.rows import Decoded, Rows, by_stream, decode_runs

RAW_BYTES: Final = 4_096
"""What a reject quotes of the record, at most."""
MAX_BINNERS: Final = 4_096


@dataclass(slots=True)
class EncodeCounts:
    """What the encode stage has done since it started."""

    records: int = 0
    rows: int = 0
    labels: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    aborted: int = 0
    gaps: int = 0
    lost_records: int = 0


class Encoder:
    """Records → messages, by the references in the book. No I/O; keeps one `Binner` a reference."""

    def __init__(self, settings: Settings, book: ReferenceBook) -> None:
        self._settings = settings
        self._book = book
        self._shape: Shape = settings.input.to_shape()
        self._label_shape: LabelShape = settings.labels.to_shape(settings.input.limits)
        self._binners: dict[str, Binner] = {}
        self._parted = any(entry.segment_by for entry in settings.models)
        self._veil = veil_of(settings)
        # A veil changes values before they are coded: it wants them as objects.
        self._scanner = None if self._veil else scan.Scanner(self._shape, partial(route, settings=settings))

    def encode(self, entries: Sequence[Merged], counts: EncodeCounts, now_ms: int) -> list[Message]:
        """All messages for the records: codes in the order of the rows within each stream, and rejects.

        `now_ms`: the wall-clock time, once for all of them; it decides nothing but what is dated too far ahead.
        """
        rejects: list[tuple[int, Reject]] = []
        coders: dict[StreamKey, Coder | list[Rows]] = {}
        for rows in self._rows(entries, rejects, self._latest_ms(now_ms)):
            counts.rows += len(rows)
            self._take(coders, rows)
        messages = []
        for number, reject in sorted(rejects, key=itemgetter(0)):
            counts.rejects[reject.reason] += 1
            messages.append(self._reject(entries[number][1], reject))
        for stream, coder in coders.items():
            messages += self._messages(stream, coder)
        counts.records += len(entries)
        return messages

    def _latest_ms(self, now_ms: int) -> int:
        """The last time that an event or a label may be dated."""
        ahead_s = self._settings.input.max_future_s
        return DATES_MS[-1] if ahead_s is None else now_ms + round(ahead_s * 1000)

    def _rows(self, entries: Sequence[Merged], rejects: list[tuple[int, Reject]], latest_ms: int) -> Iterator[Rows]:
        """The rows of every stream: of run after run, or of all at once where a run holds but a few of each stream."""
        whole, many = Decoded(), None
        read = [(0, len(entries), None)] if self._scanner is None else self._scanner.rows(entries, latest_ms)
        for start, stop, scanned in read:
            if scanned is not None:
                yield from by_stream(whole, entries)
                whole = Decoded()
                yield from scanned
                continue
            for decoded in decode_runs(entries, self._shape, latest_ms, start, stop):
                if self._veil is not None:
                    models = {model: categorical(self._settings, model) for model in set(decoded.models)}
                    self._veil.events(decoded, models)
                rejects += decoded.rejects
                self._segment(decoded)
                if many is None:
                    many = decoded.streams * ENOUGH > len(decoded.models)
                if many:
                    whole.extend(decoded)
                else:
                    yield from by_stream(decoded, entries)
        yield from by_stream(whole, entries)

    def _take(self, coders: dict[StreamKey, Coder | list[Rows]], rows: Rows) -> None:
        """Code rows, or keep them raw where the stream has no reference."""
        coder = coders.get(rows.stream)
        if coder is None:
            entry = self._book.find(rows.stream)
            coder = coders[rows.stream] = [] if entry is None else self._coder(rows.stream, entry)
        if isinstance(coder, Coder):
            coder.add(rows)
        else:
            coder.append(rows)

    def _segment(self, decoded: Decoded) -> None:
        """Leave out what events call their segments where features make those: they are parts of one stream then."""
        if not self._parted:
            return
        parted = {model for model in set(decoded.models) if self._settings.for_model(model).segment_by}
        if parted:
            decoded.segments = ["" if model in parted else segment
                                for model, segment in zip(decoded.models, decoded.segments, strict=True)]  # fmt: skip

    def encode_labels(self, entries: Sequence[Merged], counts: EncodeCounts, now_ms: int) -> list[Message]:
        """All messages for records of the labels topic: labels by model, in the order given, and rejects."""
        by_model: dict[str, list[Label]] = {}
        messages: list[Message] = []
        latest_ms = self._latest_ms(now_ms)
        for merge_ms, record in entries:
            for label in decode_labels(
                record.value, record.timestamp_ms, record.partition, record.offset, self._label_shape, merge_ms
            ):
                admitted = self._admitted(label, latest_ms)
                if isinstance(admitted, Reject):
                    counts.rejects[admitted.reason] += 1
                    messages.append(self._reject(record, admitted))
                else:
                    by_model.setdefault(admitted.model, []).append(admitted)
        topics = self._settings.topics
        for model, labels in by_model.items():
            counts.labels += len(labels)
            key = model.encode()
            for data in encode_labels(model, labels, self._settings.worker.writes_version):
                messages.append(Message(topics.codes, key, data, partition_of(key, topics.partitions)))
        return messages

    def _admitted(self, label: Label | Reject, latest_ms: int) -> Label | Reject:
        """The label as it is passed on, unless its model has none or its time is still to come."""
        if isinstance(label, Reject):
            return label
        if not self._settings.joins_labels(label.model):
            detail = "labels.models names no such model"
            return Reject("no_model", detail, label.partition, label.offset, label.index)
        if label.time_ms > latest_ms:
            return dated_ahead(label.partition, label.offset, label.index)
        return self._veil.label(label) if self._veil else label

    def _messages(self, stream: StreamKey, coder: Coder | list[Rows]) -> Iterator[Message]:
        topics, version = self._settings.topics, self._settings.worker.writes_version
        key = stream.model.encode()
        partition = partition_of(key, topics.partitions)
        frames = (
            encode_coded(coder.batch(), version)
            if isinstance(coder, Coder)
            else encode_raw(RawBatch(stream, tuple(Rows.join(coder))), version)
        )
        for data in frames:
            yield Message(topics.codes, key, data, partition)

    def _coder(self, stream: StreamKey, entry: Entry) -> Coder:
        with_ids = self._settings.joins_labels(stream.model)
        return Coder(stream, entry, self._binner(entry), self._settings.privacy.raw, with_ids=with_ids)

    def _binner(self, entry: Entry) -> Binner:
        binner = self._binners.get(entry.digest)
        if binner is None:
            if len(self._binners) >= MAX_BINNERS:
                self._binners.clear()
            binner = self._binners[entry.digest] = binner_of(entry, self._veil)
        return binner

    def _reject(self, record: Record, reject: Reject) -> Message:
        document = {
            "topic": record.topic, "partition": record.partition, "offset": record.offset, "index": reject.index,
            "timestamp": rfc3339(record.timestamp_ms), "reason": reject.reason, "detail": reject.detail,
            **quoted(record.value or b"", self._settings.privacy.raw, self._veil),
        }  # fmt: skip
        key = f"{record.topic}-{record.partition}-{record.offset}-{reject.index}".encode()
        return Message(self._settings.topics.rejects, key, orjson.dumps(document))


def route(row: Row, settings: Settings) -> StreamKey:
    """The stream a row belongs to. What an event calls its segment makes a stream of its own, unless the segments of
    its model are made by features: those are parts of one stream (`segments.py`)."""
    segment = "" if settings.for_model(row.model).segment_by else row.segment
    return StreamKey(row.model, row.version, segment)


def categorical(settings: Settings, model: str) -> frozenset[str]:
    """The features that the configuration calls categorical, or divides the model by."""
    rules = settings.for_model(model)
    named = (name for name, kind in rules.features.kinds().items() if kind is Kind.CATEGORICAL)
    return frozenset((*named, *rules.segment_by))


def binner_of(entry: Entry, veil: Veil | None) -> Binner:
    return Binner(entry.reference, veil.category) if veil else Binner(entry.reference)


def quoted(value: bytes, privacy: str, veil: Veil | None) -> dict[str, object]:
    """What a reject shows of the record: its size, and by `privacy.raw` its first bytes, their HMAC, or nothing."""
    shown: dict[str, object] = {"bytes": len(value)}
    if privacy == "hash" and veil is not None:
        shown["sha256"] = veil.digest(value)
    elif privacy == "full":
        try:
            shown["raw"] = value[:RAW_BYTES].decode()
        except UnicodeDecodeError:
            shown["raw_base64"] = base64.b64encode(value[:RAW_BYTES]).decode()
    return shown
