"""Bytes of a record → rows or rejects. Pure; never raises, whatever the bytes.

A record's value is one JSON event, a JSON array of events, or newline-separated events. `Shape` says where in an event
its parts stand; the default shape is the one of the README.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
import orjson

Scalar = float | int | str | bool | None
Prediction = Scalar | dict[str, Any]

MAX_NAME_LENGTH = 256
DATES_MS: Final = range(-62_135_596_800_000, 253_402_300_800_000)
"""Times that can be written as a date, years 1 to 9999."""
_NESTING = frozenset({dict, list})


class Row(msgspec.Struct, frozen=True, gc=False):
    """One event. `features` may still hold nested objects (dotted names are resolved by the encoder).

    `time_ms`: epoch milliseconds, the event's own or else the record's. `partition`, `offset`, `index`: the input
    partition, the record's offset in it and the event's index within the record (0 and the row number for files).
    `record_ms`: the time its record was merged by, by which rows of several input partitions are put in order.
    """

    model: str
    version: str
    segment: str
    time_ms: int
    features: dict[str, Any]
    prediction: Any
    label: Any
    id: str | None
    partition: int
    offset: int
    index: int
    record_ms: int = 0


class Reject(msgspec.Struct, frozen=True, gc=False):
    """A record, or one event of it, that cannot be used. `detail` never quotes the record's values."""

    reason: str
    detail: str
    partition: int
    offset: int
    index: int


REASONS = (
    "too_large", "not_json", "not_an_object", "too_deep", "too_many_events", "no_model", "bad_model", "bad_version",
    "no_features", "bad_features", "too_many_features", "bad_time", "future_time", "bad_id", "bad_segment", "empty",
    "no_id", "no_label",
)  # fmt: skip
"""Every reason a reject can have: the values of a metric's label, so their number is fixed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one record may ask of us."""

    max_record_bytes: int = 1_000_000
    max_depth: int = 16
    max_events: int = 10_000
    max_features: int = 5_000


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the parts of an event stand: dotted paths into the event (`payload.inputs`), None for "not there".

    `features` names an object; empty means the whole event, less the parts named by the other paths and `ignore`.
    `model` None with `fixed_model` set gives every event that model.
    """

    model: str | None = "model"
    version: str | None = "version"
    segment: str | None = "segment"
    time: str | None = "time"
    id: str | None = "id"
    features: str = "features"
    prediction: str | None = "prediction"
    label: str | None = "label"
    fixed_model: str | None = None
    fixed_version: str | None = None
    ignore: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    flat: bool = field(init=False, repr=False)
    """No path has a dot: a plain look-up will do."""

    def __post_init__(self) -> None:
        paths = (self.model, self.version, self.segment, self.time, self.id, self.features, self.prediction, self.label)
        object.__setattr__(self, "flat", not any("." in path for path in paths if path))


Decoded = list[Row | Reject]


def decode(
    value: bytes | None, timestamp_ms: int, partition: int, offset: int, shape: Shape, merged_ms: int = 0
) -> Decoded:
    """All rows and rejects of one record, in order; `timestamp_ms` dates events that carry no time, `merged_ms` becomes
    their `record_ms`.

    >>> decode(b'{"model":"m","features":{"x":1}}', 5, 0, 7, Shape())[0].features
    {'x': 1}
    >>> decode(b"not json", 5, 0, 7, Shape())[0].reason
    'not_json'
    """
    if not value:
        return [Reject("empty", "the record has no value", partition, offset, 0)]
    if len(value) > shape.limits.max_record_bytes:
        detail = f"{len(value)} bytes, the limit is {shape.limits.max_record_bytes}"
        return [Reject("too_large", detail, partition, offset, 0)]
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return _decode_unusual(value, timestamp_ms, partition, offset, shape, merged_ms)
    if type(document) is dict:
        return [row_of(document, timestamp_ms, partition, offset, 0, shape, merged_ms)]
    return _decode_many(document, timestamp_ms, partition, offset, shape, merged_ms)


def _decode_many(
    documents: object, timestamp_ms: int, partition: int, offset: int, shape: Shape, merged_ms: int
) -> Decoded:
    if not isinstance(documents, list):
        return [Reject("not_an_object", "neither an object nor an array of objects", partition, offset, 0)]
    if not documents:
        return [Reject("empty", "an empty array", partition, offset, 0)]
    if len(documents) > shape.limits.max_events:
        detail = f"{len(documents)} events in one record, the limit is {shape.limits.max_events}"
        return [Reject("too_many_events", detail, partition, offset, 0)]
    return [
        row_of(event, timestamp_ms, partition, offset, index, shape, merged_ms) for index, event in enumerate(documents)
    ]


def _decode_unusual(
    value: bytes, timestamp_ms: int, partition: int, offset: int, shape: Shape, merged_ms: int
) -> Decoded:
    """What orjson refuses: newline-separated events, and the NaN and Infinity that Python's json writes."""
    lines = [line for line in value.split(b"\n") if line.strip()]
    if len(lines) > shape.limits.max_events:
        detail = f"{len(lines)} lines in one record, the limit is {shape.limits.max_events}"
        return [Reject("too_many_events", detail, partition, offset, 0)]
    whole = _loads_lenient(value)
    if not isinstance(whole, _Undecodable):
        documents = whole if isinstance(whole, list) else [whole]
        return _decode_many(documents, timestamp_ms, partition, offset, shape, merged_ms)
    if len(lines) < 2 or not lines[0].lstrip().startswith(b"{"):
        return [Reject(whole.reason, whole.detail, partition, offset, 0)]
    rows: Decoded = []
    for index, line in enumerate(lines):
        event = _loads_lenient(line)
        if isinstance(event, _Undecodable):
            rows.append(Reject(event.reason, event.detail, partition, offset, index))
        else:
            rows.append(row_of(event, timestamp_ms, partition, offset, index, shape, merged_ms))
    return rows


def documents_of(value: bytes | None, partition: int, offset: int, limits: Limits) -> list[Any]:
    """The JSON documents of a record that need not be events, in order; a Reject in place of what is none."""
    if not value:
        return [Reject("empty", "the record has no value", partition, offset, 0)]
    if len(value) > limits.max_record_bytes:
        return [
            Reject("too_large", f"{len(value)} bytes, the limit is {limits.max_record_bytes}", partition, offset, 0)
        ]
    whole = _loads_lenient(value)
    if not isinstance(whole, _Undecodable):
        documents = whole if isinstance(whole, list) else [whole]
    else:
        lines = [line for line in value.split(b"\n") if line.strip()]
        if len(lines) < 2 or not lines[0].lstrip().startswith(b"{"):
            return [Reject(whole.reason, whole.detail, partition, offset, 0)]
        documents = [_loads_lenient(line) for line in lines[: limits.max_events + 1]]
    if not documents:
        return [Reject("empty", "an empty array", partition, offset, 0)]
    if len(documents) > limits.max_events:
        detail = f"more than {limits.max_events} documents in one record"
        return [Reject("too_many_events", detail, partition, offset, 0)]
    return [
        Reject(each.reason, each.detail, partition, offset, i) if isinstance(each, _Undecodable) else each
        for i, each in enumerate(documents)
    ]


@dataclass(frozen=True, slots=True)
class _Undecodable:
    reason: str
    detail: str


def _loads_lenient(value: bytes) -> Any:
    """JSON with NaN and ±Infinity admitted; an `_Undecodable` where it is none."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        detail = str(error).split(":")[0]
    try:
        document = json.loads(value)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text: nobody could write it
        return document
    except RecursionError:
        return _Undecodable("too_deep", "nested deeper than the parser goes")
    except ValueError:  # includes bad UTF-8 and integers of thousands of digits
        return _Undecodable("not_json", detail)


def row_of(
    event: object, timestamp_ms: int, partition: int, offset: int, index: int, shape: Shape, merged_ms: int = 0
) -> Row | Reject:
    """One parsed event → its row, or the reject that says why not."""
    if not isinstance(event, dict):
        return Reject("not_an_object", f"an event is an object, not {_type_name(event)}", partition, offset, index)
    refusal: tuple[str, str] | None = None
    get: Callable[[str | None], Any] = event.get if shape.flat else partial(lookup, event)
    model = shape.fixed_model or get(shape.model)
    version = shape.fixed_version or get(shape.version)
    features = get(shape.features) if shape.features else _rest(event, shape)
    given_time = get(shape.time)
    time_ms = timestamp_ms if given_time is None else parse_time(given_time)
    if type(model) is not str or not 0 < len(model) <= MAX_NAME_LENGTH:
        refusal = _no_model(model)
    elif type(features) is not dict:
        refusal = ("no_features", "no features") if features is None else ("bad_features", "features is no object")
    elif len(features) > shape.limits.max_features:
        refusal = ("too_many_features", f"{len(features)} features, the limit is {shape.limits.max_features}")
    elif time_ms is None:
        refusal = ("bad_time", "time is neither RFC 3339 nor epoch milliseconds within the years 1 to 9999")
    elif is_nested(features) and not within_depth(features, shape.limits.max_depth):
        refusal = ("too_deep", f"nested deeper than {shape.limits.max_depth}")
    if refusal:
        return Reject(*refusal, partition, offset, index)
    version_name = name_of(version)
    segment = name_of(get(shape.segment))
    if version_name is None or segment is None:
        reason, what = ("bad_version", "version") if version_name is None else ("bad_segment", "segment")
        detail = f"the {what} is not a text or number of at most {MAX_NAME_LENGTH} characters"
        return Reject(reason, detail, partition, offset, index)
    assert time_ms is not None  # else refused above; for the type checker
    return Row(
        model, version_name, segment, time_ms, features, get(shape.prediction), get(shape.label),
        text_of(get(shape.id)) or None, partition, offset, index, merged_ms,
    )  # fmt: skip


def _no_model(model: object) -> tuple[str, str]:
    if model is None or model == "":
        return ("no_model", "no model name")
    return ("bad_model", f"the model's name is not a text of at most {MAX_NAME_LENGTH} characters")


def lookup(event: Mapping[str, Any], path: str | None) -> Any:
    """The value at a dotted path; a key that itself holds the dots wins; None where nothing is there."""
    if path is None:
        return None
    value = event.get(path)
    if value is not None or "." not in path:
        return value
    head, _, rest = path.partition(".")
    inner = event.get(head)
    return lookup(inner, rest) if isinstance(inner, dict) else None


def _rest(event: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The event without the parts that are not features."""
    named = {shape.model, shape.version, shape.segment, shape.time, shape.id, shape.prediction, shape.label}
    return {name: value for name, value in event.items() if name not in named and name not in shape.ignore}


def parse_time(value: object) -> int | None:
    """RFC 3339 or epoch milliseconds → epoch milliseconds; None if it is neither. A time without zone is UTC.

    >>> parse_time("1970-01-01T00:00:01Z"), parse_time(1000), parse_time("yesterday")
    (1000, 1000, None)
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            value = round(moment.timestamp() * 1000)  # a zone may carry it out of the years 1 to 9999
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # A comparison with NaN is false, and integers of any size compare.
    return int(value) if DATES_MS[0] <= value <= DATES_MS[-1] else None


def dated_ahead(partition: int, offset: int, index: int) -> Reject:
    """The reject of an event or a label dated further ahead of the clock than is admitted."""
    return Reject("future_time", "dated further ahead than input.max_future_s", partition, offset, index)


def name_of(value: object) -> str | None:
    """A text that may name a version or a segment; None if it cannot."""
    if value is None:
        return ""
    text = text_of(value)
    return text if text is not None and len(text) <= MAX_NAME_LENGTH else None


def text_of(value: object) -> str | None:
    """A name given as text or number; "" for none, None for anything else."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else None


def is_nested(features: dict[str, Any]) -> bool:
    """Whether a feature is an object or an array."""
    return not _NESTING.isdisjoint(map(type, features.values()))


def within_depth(value: object, depth: int) -> bool:
    """Whether nothing in `value` is nested deeper than `depth`; walks without recursion."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # type: ignore[attr-defined]  # a list
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return True
    return False


def _type_name(value: object) -> str:
    names = {str: "text", list: "an array", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
