"""The snapshot of a model on the state topic: what is small as one document, what waits as chunks written once.

Records of one model, keyed like a stream's: `["m", model, "", "", part]`, the document; `["p", …, chunk]`, the entries
`1024·chunk …` of the waiting room as they came (the last chunk is written again until it is full); `["j", …, number]`,
labels that entries got, each written once. A chunk is deleted when all its entries have been let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from stream_monitor import wire
from stream_monitor.errors import WireError
from stream_monitor.model import DELAY_BUCKETS_MS, MAX_CLASSES, MAX_STREAMS, Model
from stream_monitor.ordering import LONG_AGO
from stream_monitor.outcomes import NO_NAME
from stream_monitor.reference import StreamKey
from stream_monitor.scoring_state import ScoringState, pack_scoring, restore_scoring
from stream_monitor.state import MODEL_LETTERS
from stream_monitor.state_records import MAX_PARTS, frames, key, parse_key, read_frames
from stream_monitor.waiting import EARLY, ENTRY, JOIN, Counts, Records

KIND: Final = b"M"
CHUNK_KIND: Final = b"P"
JOINS_KIND: Final = b"J"
CHUNK: Final = 1_024
JOINS: Final = 16_384
"""Labels of one record, at most."""
MAX_LOGS: Final = 4_096
"""Records of labels; with more they are written anew, in order."""
MAX_NUMBER: Final = 2**53

Writes = list[tuple[bytes, bytes | None]]


class Document(msgspec.Struct, frozen=True):
    """Everything of a model but what waits: rows and labels that came before the codes offset `stamp`, rows merged by a
    time up to `released_ms`, labels by one up to `labels_released_ms` (see `ordering.Queue`). Entries
    `first … next − 1` are in the chunks."""

    model: str
    stamp: int
    released_ms: int
    first: int
    next: int
    newest_ms: int
    counts: Counts
    classes: list[str]
    streams: list[tuple[str, str]]
    delays: list[int]
    since: int = -1
    scorings: list[tuple[int, ScoringState]] = []
    labels_released_ms: int = LONG_AGO


class _Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Entries from the number `first` on."""

    first: int
    entries: bytes


_documents = msgspec.msgpack.Decoder(Document)
_chunks = msgspec.msgpack.Decoder(_Chunk)
_logs = msgspec.msgpack.Decoder(bytes)


@dataclass(slots=True)
class Saved:
    """What the topic holds of a model by our own account. `until`: entries before it are in the chunks, from the chunk
    `first_chunk` on. `logs`: by number, the last entry that a record of labels speaks of. `whole`: everything is to be
    written anew."""

    parts: int = 0
    until: int = 0
    first_chunk: int = 0
    logs: dict[int, int] = field(default_factory=dict)
    whole: bool = True


def save(
    model: Model,
    stamp: int,
    released_ms: int,
    saved: Saved,
    version: int = wire.NEWEST,
    labels_released_ms: int = LONG_AGO,
) -> tuple[Writes, Saved]:
    """The records (None: tombstone) that bring the topic from `saved` to the model's present state, and what it then
    holds; the caller tells the model to forget its fresh labels when they are committed."""
    waiting, stream = model.waiting, StreamKey(model.name)
    records: Writes = []
    first_chunk = waiting.first // CHUNK
    records += [(key(stream, n, "p"), None) for n in range(saved.first_chunk, min(first_chunk, _chunks_of(saved)))]
    written = 0 if saved.whole else saved.until // CHUNK
    for number in range(max(written, first_chunk), -(-waiting.next // CHUNK)):
        first = max(number * CHUNK, waiting.first)
        entries = waiting.entries(first, min((number + 1) * CHUNK, waiting.next))
        records.append((key(stream, number, "p"), wire.pack(CHUNK_KIND, version, _Chunk(first, entries.tobytes()))))
    logs = _save_joins(model, saved, records, version)
    streams = [(each.version, each.segment) for each in model.streams]
    document = Document(
        model.name, stamp, released_ms, waiting.first, waiting.next, waiting.newest_ms, model.counts,
        list(model.classes), streams, model.delays.tolist(), model.since,
        [(number, pack_scoring(scoring)) for number, scoring in model.scorings.items()], labels_released_ms,
    )  # fmt: skip
    parts = list(frames(msgspec.msgpack.encode(wire.as_of(version, document)), stamp, KIND, version))
    records += [(key(stream, part, "m"), data) for part, data in enumerate(parts)]
    records += [(key(stream, part, "m"), None) for part in range(len(parts), saved.parts)]
    return records, Saved(len(parts), waiting.next, first_chunk, logs, whole=False)


def _chunks_of(saved: Saved) -> int:
    return -(-saved.until // CHUNK)


def _save_joins(model: Model, saved: Saved, records: Writes, version: int) -> dict[int, int]:
    """Add the records for labels that entries got; what the topic then holds of them."""
    stream, first = StreamKey(model.name), model.waiting.first
    logs = {number: last for number, last in saved.logs.items() if last >= first}
    gone = saved.logs.keys() - logs.keys()
    joins = model.waiting.fresh_joins()
    if saved.whole or len(logs) >= MAX_LOGS:
        joins, gone, logs = model.waiting.joins(), set(saved.logs), {}
    next_number = max(saved.logs, default=-1) + 1
    for start in range(0, len(joins), JOINS):
        part = joins[start : start + JOINS]
        logs[next_number] = int(part["entry"].max())
        records.append((key(stream, next_number, "j"), wire.pack(JOINS_KIND, version, part.tobytes())))
        next_number += 1
    records += [(key(stream, number, "j"), None) for number in sorted(gone)]
    return logs


@dataclass(slots=True)
class Restored:
    """A model as read back; `lost`: why it had to start afresh; `cold`: detectors that had to; `version`: the wire
    version it was saved in, 0 if in several."""

    model: Model
    stamp: int
    released_ms: int
    saved: Saved
    lost: str = ""
    cold: dict[str, str] = field(default_factory=dict)
    version: int = wire.NEWEST
    labels_released_ms: int = LONG_AGO


def group_models(records: Mapping[bytes, bytes]) -> dict[str, dict[str, dict[int, bytes]]]:
    """The live records of one partition that are of models: by model, letter and number."""
    models: dict[str, dict[str, dict[int, bytes]]] = {}
    for raw_key, value in records.items():
        letter, stream, number = parse_key(raw_key)
        if letter in MODEL_LETTERS and 0 <= number < MAX_NUMBER:
            models.setdefault(stream.model, {}).setdefault(letter, {})[number] = value
    return models


def restore(model: Model, fresh: Model, parts: dict[str, dict[int, bytes]]) -> Restored:
    """Bring a model to the state in its records; `fresh`: what is left where they cannot be read, with the reason."""
    document_parts, chunks, logs = (parts.get(letter, {}) for letter in "mpj")
    saved = Saved(parts=max(document_parts, default=-1) + 1)
    try:
        document = _document(document_parts)
        entries = _entries(chunks, document)
        joins = {number: _joins(data) for number, data in sorted(logs.items())}
        cold = _fill(model, document, entries, joins)
    except WireError as error:
        saved.first_chunk, saved.until = min(chunks, default=0), (max(chunks, default=-1) + 1) * CHUNK
        saved.logs = dict.fromkeys(logs, -1)
        return Restored(fresh, 0, LONG_AGO, saved, str(error))
    saved.until, saved.first_chunk = document.next, document.first // CHUNK
    saved.logs = {number: int(part["entry"].max()) if len(part) else -1 for number, part in joins.items()}
    saved.whole = False
    versions = {wire.version_of(data) for letter in MODEL_LETTERS for data in parts.get(letter, {}).values()}
    version = versions.pop() if len(versions) == 1 else 0
    return Restored(
        model, document.stamp, document.released_ms, saved, "", cold, version, document.labels_released_ms
    )  # fmt: skip


def _document(parts: dict[int, bytes]) -> Document:
    try:
        document = _documents.decode(read_frames(parts, KIND, MAX_PARTS))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"document of a model cannot be read: {error}") from error
    if not 0 <= document.first <= document.next < MAX_NUMBER or len(document.delays) != len(DELAY_BUCKETS_MS) + 1:
        raise WireError("a model's document with numbers that cannot be")
    if not -1 <= document.since < MAX_NUMBER:
        raise WireError("a model that began where there is nothing")
    if len(document.classes) > MAX_CLASSES or len(document.streams) > MAX_STREAMS:
        raise WireError("a model's document with more names than there can be")
    return document


def _entries(chunks: dict[int, bytes], document: Document) -> Records:
    """The entries `first … next − 1`."""
    parts = [np.zeros(0, dtype=ENTRY)]
    for number in range(document.first // CHUNK, -(-document.next // CHUNK)):
        chunk: _Chunk = wire.unpack(CHUNK_KIND, chunks.get(number), _chunks)
        entries = _records(chunk.entries, ENTRY)
        wanted = max(document.first, number * CHUNK), min(document.next, (number + 1) * CHUNK)
        if chunk.first > wanted[0] or chunk.first + len(entries) < wanted[1]:
            raise WireError(f"chunk {number} lacks entries")
        parts.append(entries[wanted[0] - chunk.first : wanted[1] - chunk.first])
    found: Records = np.concatenate(parts)
    if len(found) and not (
        int(found["stream"].min()) >= EARLY
        and int(found["stream"].max()) <= len(document.streams)
        and int(found["name"].min()) >= NO_NAME
        and int(found["name"].max()) < len(document.classes)
    ):
        raise WireError("entries of streams or classes that are not there")
    return found


def _joins(data: bytes) -> Records:
    return _records(wire.unpack(JOINS_KIND, data, _logs), JOIN)


def _records(data: bytes, dtype: Any) -> Records:
    if len(data) % dtype.itemsize:
        raise WireError(f"{len(data)} bytes are no records of {dtype.itemsize}")
    return np.frombuffer(data, dtype=dtype)


def _fill(model: Model, document: Document, entries: Records, joins: dict[int, Records]) -> dict[str, str]:
    """Returns the detectors that had to start cold, and why."""
    cold: dict[str, str] = {}
    classes = document.classes
    if document.model != model.name:
        raise WireError(f"the state of {document.model!r} under the key of {model.name!r}")
    found = np.concatenate([np.zeros(0, dtype=JOIN), *joins.values()])
    found = found[found["entry"] >= document.first]
    if len(found) and int(found["name"].max()) >= len(document.classes):
        raise WireError("labels of classes that are not there")
    model.waiting.restore(document.first, document.newest_ms, entries, found)
    model.counts, model.since = document.counts, document.since
    model.classes = {name: place for place, name in enumerate(document.classes)}
    model.streams = {StreamKey(model.name, *stream): place for place, stream in enumerate(document.streams)}
    model.delays = np.array(document.delays, dtype=np.int64)
    keys = list(model.streams)
    for number, state in document.scorings:
        if not 0 <= number < len(keys):
            raise WireError("scorings of streams that are not there")
        scoring = model.new_scoring(keys[number]) if model.new_scoring is not None else None
        if scoring is not None:  # else the configuration asks for none since
            cold |= {
                f"{keys[number]} {name}": why for name, why in restore_scoring(scoring, state, len(classes)).items()
            }
            model.scorings[number] = scoring
    return cold
