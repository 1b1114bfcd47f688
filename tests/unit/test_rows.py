"""Decoding many records at once gives what decoding them one by one gives, whatever their bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given, settings

from stream_monitor import rows as module
from stream_monitor.broker.protocol import Record
from stream_monitor.events import DATES_MS, Limits, Reject, Row, Shape, dated_ahead, decode
from stream_monitor.merge import Merged
from stream_monitor.reference import StreamKey
from stream_monitor.rows import Decoded, Rows, by_stream, decode_runs

JOINT = b",7310395772041855913,"
SHAPES = (
    Shape(),
    Shape(fixed_model="m", version=None),
    Shape(features="", ignore=frozenset({"x"})),
    Shape(features="payload.features"),
    Shape(limits=Limits(max_record_bytes=120, max_depth=2, max_events=2, max_features=2)),
)


def entries_of(values: list[bytes | None]) -> list[Merged]:
    return [(1_000 + i, Record("p", i % 3, 10 * i, 900 + i, None, value)) for i, value in enumerate(values)]


Read = tuple[dict[StreamKey, list[Row]], list[tuple[int, Reject]]]


def one_by_one(entries: list[Merged], shape: Shape, latest_ms: int = DATES_MS[-1]) -> Read:
    streams: dict[StreamKey, list[Row]] = {}
    rejects = []
    for number, (merged_ms, record) in enumerate(entries):
        for row in decode(record.value, record.timestamp_ms, record.partition, record.offset, shape, merged_ms):
            if isinstance(row, Row) and row.time_ms > latest_ms:
                row = dated_ahead(row.partition, row.offset, row.index)
            if isinstance(row, Row):
                streams.setdefault(StreamKey(row.model, row.version, row.segment), []).append(row)
            else:
                rejects.append((number, row))
    return streams, rejects


def at_once(entries: list[Merged], shape: Shape, latest_ms: int = DATES_MS[-1]) -> Read:
    whole = Decoded()
    for decoded in decode_runs(entries, shape, latest_ms):
        whole.extend(decoded)
        whole.rejects += decoded.rejects
    return {rows.stream: list(rows) for rows in by_stream(whole, entries)}, whole.rejects


def assert_same(values: list[bytes | None], shape: Shape, latest_ms: int = DATES_MS[-1]) -> None:
    entries = entries_of(values)
    mine, theirs = at_once(entries, shape, latest_ms), one_by_one(entries, shape, latest_ms)
    for found in (mine, theirs):
        found[1].sort(key=lambda reject: (reject[0], reject[1].index))
    assert repr(mine) == repr(theirs), "NaN is not equal to itself, its text is"
    assert list(mine[0]) == list(theirs[0]), "streams in the order of their first rows"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), st.text(max_size=5), st.just("x" * 300)
)
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner)
)
events = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n"]), "features": st.dictionaries(st.sampled_from(["x", "y", "z{["]), scalars)},
    optional={
        "version": st.sampled_from(["1", "1.0", 1, 2, 1.0, True, None, "", "v" * 300]),
        "segment": scalars, "id": scalars,
        "time": st.one_of(scalars, st.just("2026-03-01T12:00:00Z"), st.integers(0, 10**13)),
        "prediction": nested, "label": nested, "other": nested,
    },
)  # fmt: skip
strange = st.one_of(
    events.flatmap(lambda event: st.sampled_from(sorted(event)).map(lambda key: {**event, key: None})),
    events.flatmap(
        lambda event: st.tuples(st.sampled_from(sorted(event)), nested).map(lambda p: {**event, p[0]: p[1]})
    ),
    nested,
)


def dumped(value: Any) -> bytes:
    """As Python's json would, NaN included; where it cannot (half a surrogate pair), nothing."""
    return json.dumps(value).encode()


records = st.one_of(
    events.map(dumped), events.map(dumped), events.map(dumped),
    st.lists(events, max_size=3).map(dumped),
    strange.map(dumped),
    st.tuples(events, st.integers(0, 40)).map(lambda pair: dumped(pair[0])[: pair[1]]),
    st.lists(events, min_size=2, max_size=3).map(lambda each: b"\n".join(map(dumped, each))),
    st.binary(max_size=8), st.none(), st.just(b""),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(records, max_size=12), st.sampled_from(SHAPES), st.sampled_from((DATES_MS[-1], 905, 0, 10**12)))
def test_a_run_of_records_is_decoded_as_its_records_are(
    values: list[bytes | None], shape: Shape, latest_ms: int
) -> None:
    """Also where some are dated too late: by themselves, or by their records, which are dated 900 and up."""
    assert_same(values, shape, latest_ms)


@pytest.mark.parametrize("per_record", [1, 3])
def test_usual_records_take_the_fast_way(per_record: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        {"model": f"m{i % 2}", "version": 7, "id": str(i), "time": 5 + i, "features": {"x": 1.5, "y": None, "z": "["},
         "prediction": {"a": 0.5}}
        for i in range(600)
    ]  # fmt: skip
    values: list[bytes | None] = [
        orjson.dumps(made[i : i + per_record] if per_record > 1 else made[i]) for i in range(0, 600, per_record)
    ]
    expected = one_by_one(entries_of(values), Shape())
    monkeypatch.setattr(module, "decode", None)
    assert at_once(entries_of(values), Shape()) == expected


def test_one_bad_record_does_not_slow_down_its_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[bytes | None] = [b'{"model":"m","features":{"x":%d}}' % i for i in range(256)]
    values[100] = b"{"
    slow = []

    def counted(*args: Any) -> Any:
        slow.append(args)
        return decode(*args)

    monkeypatch.setattr(module, "decode", counted)
    streams, rejects = at_once(entries_of(values), Shape())
    assert len(streams[StreamKey("m")]) == 255
    assert [number for number, _ in rejects] == [100]
    assert len(slow) <= 8


@pytest.mark.parametrize(
    "values",
    [
        [b'{"model":"m","features":{"a":[1', b"2]}}"],
        [b'{"model":"m","features":{"a":"', b'"}}'],
        [b'{"model":"m","features":{}},{"model":"m","features":{}}', b""],
        [b'{"model":"m","features":{}}' + JOINT + b'{"model":"m","features":{}}', b'{"model":"m"', b'"features":{}}'],
        [b'{"model":"m","features":{"a":[1', b"2]}}", b'{"model":"m","features":{}}' + JOINT + b'{"model":"m"}'],
        [b'{"model":"m","features":{"x":"' + JOINT + b'"}}'] * 2,
        [b" ", b'{"model":"m","features":{}}'],
        [b'{"model":"m","features":{}}', b'{"model":"m","features":{"a":1,"a":{"b":2}}}'],
    ],
)
def test_records_that_only_together_are_json_are_refused_one_by_one(values: list[bytes | None]) -> None:
    assert_same(values, Shape())
    assert_same([*values, *reversed(values)] * 5, Shape())


def test_rows_are_a_sequence_of_row() -> None:
    entries = entries_of([b'{"model":"m","features":{"x":%d},"id":"a"}' % i for i in range(5)])
    (rows,) = [by for decoded in decode_runs(entries, Shape()) for by in by_stream(decoded, entries)]
    assert [row.features["x"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[1:3] == [rows[1], rows[2]]
    joined = Rows.join([rows, rows])
    assert list(joined) == [*rows, *rows]
    assert not math.isnan(rows[0].time_ms)
