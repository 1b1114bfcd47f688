"""Decoding: the default shape, other shapes, many events in a record, and bytes of any kind."""

from __future__ import annotations

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.events import REASONS, Limits, Reject, Row, Shape, decode, parse_time

EVENT = {
    "model": "credit-risk", "version": "7", "id": "4f1c", "time": "2026-03-01T12:00:00Z",
    "features": {"age": 41, "income": 52000.5, "region": "EU", "phone": None}, "prediction": 0.83, "label": 1,
}  # fmt: skip


def one(value: bytes, shape: Shape | None = None) -> Row | Reject:
    found = decode(value, 1_000, 3, 17, shape or Shape())
    assert len(found) == 1
    return found[0]


def row(value: bytes, shape: Shape | None = None) -> Row:
    found = one(value, shape)
    assert isinstance(found, Row), found
    return found


def reason(value: bytes, shape: Shape | None = None) -> str:
    found = one(value, shape)
    assert isinstance(found, Reject), found
    assert found.reason in REASONS
    return found.reason


def test_the_default_shape() -> None:
    found = row(orjson.dumps(EVENT))
    assert (found.model, found.version, found.segment, found.id) == ("credit-risk", "7", "", "4f1c")
    assert found.time_ms == 1772366400000
    assert found.features == EVENT["features"]
    assert (found.prediction, found.label) == (0.83, 1)
    assert (found.partition, found.offset, found.index) == (3, 17, 0)


def test_the_least_event_is_dated_by_its_record() -> None:
    found = row(b'{"model":"m","features":{}}')
    assert (found.time_ms, found.version, found.id, found.prediction) == (1_000, "", None, None)


def test_a_mapping_fits_other_shapes() -> None:
    shape = Shape(model="meta.name", version=None, time="meta.ts", features="payload.inputs", prediction="out.p")
    event = {"meta": {"name": "m", "ts": 5}, "payload": {"inputs": {"age": 1}}, "out": {"p": 0.5}}
    found = row(orjson.dumps(event), shape)
    assert (found.model, found.time_ms, found.features, found.prediction) == ("m", 5, {"age": 1}, 0.5)


def test_flat_events_with_a_fixed_model() -> None:
    shape = Shape(model=None, fixed_model="m", features="", prediction="score", ignore=frozenset({"trace"}))
    found = row(b'{"age":1,"score":0.5,"trace":"x","time":7}', shape)
    assert (found.model, found.features, found.prediction, found.time_ms) == ("m", {"age": 1}, 0.5, 7)


@pytest.mark.parametrize(
    "value",
    [
        orjson.dumps([EVENT, EVENT, EVENT]),
        b"\n".join([orjson.dumps(EVENT)] * 3) + b"\n",
        json.dumps([EVENT, EVENT, EVENT | {"prediction": math.nan}]).encode(),
    ],
)
def test_many_events_in_one_record(value: bytes) -> None:
    found = decode(value, 0, 1, 2, Shape())
    assert [(type(r), r.partition, r.offset, r.index) for r in found] == [(Row, 1, 2, i) for i in range(3)]


def test_nan_as_python_writes_it_is_a_value_not_a_bad_record() -> None:
    found = row(b'{"model":"m","features":{"a":NaN,"b":-Infinity}}')
    assert math.isnan(found.features["a"])
    assert found.features["b"] == -math.inf


def test_one_bad_event_among_good_ones_is_the_only_reject() -> None:
    found = decode(b'{"model":"m","features":{}}\nnonsense\n{"model":"m","features":{}}', 0, 0, 0, Shape())
    assert [type(r) for r in found] == [Row, Reject, Row]
    assert found[1].index == 1


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "empty"),
        (b"[]", "empty"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b'{"model":"m","features":{"a":1', "not_json"),
        (b'{"model":"\\ud800","features":{}}', "not_json"),
        (b'{"model":"m","features":{"\\udfff":1}}', "not_json"),
        (b"7", "not_an_object"),
        (b"[7]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"features":{}}', "no_model"),
        (b'{"model":"","features":{}}', "no_model"),
        (b'{"model":7,"features":{}}', "bad_model"),
        (b'{"model":"' + b"m" * 300 + b'","features":{}}', "bad_model"),
        (b'{"model":"m"}', "no_features"),
        (b'{"model":"m","features":[1]}', "bad_features"),
        (b'{"model":"m","features":{},"time":"yesterday"}', "bad_time"),
        (b'{"model":"m","features":{},"time":true}', "bad_time"),
        (b'{"model":"m","features":{},"time":1e300}', "bad_time"),
        (b'{"model":"m","features":{},"version":{}}', "bad_version"),
        (b'{"model":"m","features":{},"segment":[1]}', "bad_segment"),
        (b'{"model":"m","features":{"a":' + b"[" * 30 + b"]" * 30 + b"}}", "too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
    ],
)
def test_bad_records_say_why(value: bytes, why: str) -> None:
    assert reason(value) == why


def test_limits() -> None:
    limits = Limits(max_record_bytes=100, max_events=2, max_features=1)
    shape = Shape(limits=limits)
    assert reason(b" " * 101, shape) == "too_large"
    assert reason(b"[1,2,3]", shape) == "too_many_events"
    assert reason(b"{}\n{}\n{}", shape) == "too_many_events"
    assert reason(b'{"model":"m","features":{"a":1,"b":2}}', shape) == "too_many_features"


def test_a_reject_never_quotes_values() -> None:
    secret = b'{"model":"m","features":"hunter2","time":"hunter2"}'
    found = one(secret)
    assert isinstance(found, Reject)
    assert "hunter2" not in found.detail


@given(st.binary(max_size=300))
def test_decoding_never_raises_on_bytes(value: bytes) -> None:
    for found in decode(value, 0, 0, 0, Shape()):
        assert isinstance(found, (Row, Reject))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["model", "version", "segment", "time", "id", "features", "prediction", "label"])


@given(st.dictionaries(names, json_values) | st.lists(st.dictionaries(names, json_values), max_size=3))
def test_decoding_never_raises_on_json(document: object) -> None:
    for found in decode(json.dumps(document).encode(), 0, 0, 0, Shape()):
        assert isinstance(found, (Row, Reject))


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-03-01T12:00:00Z", 1772366400000),
        ("2026-03-01T12:00:00.123456789+02:00", 1772359200123),
        ("2018-10-30 18:08:43.152", 1540922923152),
        ("2026-03-01", 1772323200000),
        ("0001-01-01T00:00:00+14:00", None),  # a zone carries these three out of the years that can be written
        ("9999-12-31T23:59:59-14:00", None),
        ("9999-12-31T23:59:59.999999", None),
        (1772366400000, 1772366400000),
        (1.5, 1),
        (float("nan"), None),
        ([], None),
        (10**400, None),
    ],
)
def test_times(text: object, time_ms: int | None) -> None:
    assert parse_time(text) == time_ms
