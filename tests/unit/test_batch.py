"""Batches on the wire: what goes in comes out, in pieces below the record limit, and damage is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor import wire
from stream_monitor.batch import CodedBatch, Extra, Origins, RawBatch, Unknown, decode, encode_coded, encode_raw
from stream_monitor.errors import VersionUnknown, WireError
from stream_monitor.events import Row
from stream_monitor.reference import StreamKey

STREAM = StreamKey("m", "7", "region=EU")


def coded(rows: int, columns: int = 3) -> CodedBatch:
    rng = np.random.default_rng(rows)
    origins = Origins(
        rng.integers(0, 6, rows).astype(np.int32), np.arange(rows, dtype=np.int64),
        np.zeros(rows, np.int32), np.arange(rows, dtype=np.int64) * 1000,
        np.arange(rows, dtype=np.int64),
    )  # fmt: skip
    codes = rng.integers(0, 80, (rows, columns)).astype(np.uint8)
    return CodedBatch(STREAM, "d" * 32, 5, codes, origins, (Extra(rows - 1, 2, "x"),), (Unknown(0, "f"),))


def raw_row(offset: int, features: dict[str, Any]) -> Row:
    return Row("m", "7", "region=EU", 5, features, 0.5, None, "id", 1, offset, 0)


def test_a_coded_batch_comes_back() -> None:
    batch = coded(10)
    (data,) = encode_coded(batch)
    back = decode(data)
    assert isinstance(back, CodedBatch)
    assert (back.stream, back.digest, back.generation) == (STREAM, "d" * 32, 5)
    np.testing.assert_array_equal(back.codes, batch.codes)
    np.testing.assert_array_equal(back.origins.partition, batch.origins.partition)
    np.testing.assert_array_equal(back.origins.time_ms, batch.origins.time_ms)
    assert (back.extras, back.unknown) == (batch.extras, batch.unknown)


def test_a_large_batch_is_split_and_keeps_rows_extras_and_order() -> None:
    batch = coded(60_000, 30)
    pieces = [decode(data) for data in encode_coded(batch)]
    assert len(pieces) > 1
    assert all(isinstance(piece, CodedBatch) for piece in pieces)
    assert all(len(data) <= wire.RECORD_BYTES + 1024 for data in encode_coded(batch))
    codes = np.concatenate([piece.codes for piece in pieces if isinstance(piece, CodedBatch)])
    np.testing.assert_array_equal(codes, batch.codes)
    last = pieces[-1]
    assert isinstance(last, CodedBatch)
    assert last.extras == (Extra(len(last) - 1, 2, "x"),)


def test_raw_values_keep_their_bins() -> None:
    features = {"a": math.nan, "b": 10**30, "c": -(10**400), "d": {"e": [1]}, "f": "x" * 1000, "g": None, "h": True}
    (data,) = encode_raw(RawBatch(STREAM, (raw_row(3, features),)))
    back = decode(data)
    assert isinstance(back, RawBatch)
    found = back.rows[0].features
    assert math.isnan(found["a"])
    assert (found["b"], found["d"], len(found["f"]), found["g"], found["h"]) == (1e30, {"e": []}, 256, None, True)
    assert math.isinf(found["c"])
    assert (back.rows[0].offset, back.rows[0].id) == (3, "id")


def test_raw_batches_are_split() -> None:
    rows = tuple(raw_row(i, {"a": "x" * 250, "b": float(i)}) for i in range(5_000))
    frames = list(encode_raw(RawBatch(STREAM, rows)))
    assert len(frames) > 1
    assert all(len(data) <= wire.RECORD_BYTES + 1024 for data in frames)
    back = [row for data in frames for row in _rows(data)]
    assert [row.offset for row in back] == list(range(5_000))


def _rows(data: bytes) -> tuple[Row, ...]:
    batch = decode(data)
    assert isinstance(batch, RawBatch)
    return batch.rows


@given(st.data())
def test_damage_is_refused_with_a_reason(data: st.DataObject) -> None:
    (good,) = encode_coded(coded(5))
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        decode(bytes(damaged))


@given(st.binary(max_size=200))
def test_hostile_bodies_with_a_right_checksum_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(wire.frame(b"B", 1, body))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=300), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5), json_values)
def test_whatever_json_holds_can_be_sent_raw(features: dict[str, Any], prediction: Any) -> None:
    row = Row("m", "", "", 0, features, prediction, prediction, "id", 0, 0, 0)
    frames = list(encode_raw(RawBatch(STREAM, (row,))))
    assert [len(_rows(data)) for data in frames] == [1]


@pytest.mark.parametrize("kind", [b"B", b"T", b"L"])
def test_a_sound_frame_of_another_release_is_not_damage_whatever_its_kind(kind: bytes) -> None:
    for version in (wire.NEWEST + 1, 255, 0):
        with pytest.raises(VersionUnknown, match=f"wire version {version}"):
            decode(wire.frame(kind, version, b""))


def test_rows_and_lengths_must_agree() -> None:
    batch = coded(5)
    wrong = CodedBatch(STREAM, "d" * 32, 5, batch.codes[:4], batch.origins)
    with pytest.raises(WireError, match="codes"):
        decode(next(encode_coded(wrong)))
