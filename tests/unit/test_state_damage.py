"""Snapshots of any bytes: an error with a reason or a cold start, never a crash, and never much memory."""

from __future__ import annotations

import random
import tracemalloc
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor import state as states
from stream_monitor import state_records, wire
from stream_monitor.errors import WireError
from stream_monitor.ordering import decode_tick
from stream_monitor.reference import StreamKey
from tests.unit import world
from tests.unit.snapshots import (
    ROWS,
    Live,
    book,
    decoded,
    feed,
    framed,
    new_stream,
    restored,
    snapshot,
)


def survive(live: Live) -> None:
    """Restore, go on feeding, save: whatever the bytes said, nothing is raised."""
    grouped, _ = states.group_records(live)
    for parts in grouped.values():
        back = states.restore(new_stream(warmup_events=200), parts, book())
        feed(back.stream, DRIFTING, "plain")
        states.save(back.stream, 1, 1, back.saved)


DRIFTING = world.rows(350, drift_at=50)


@cache
def sound() -> Live:
    """A watched stream's snapshot with an episode, and a warm-up's."""
    watched, warming = new_stream(), new_stream(warmup_events=200)
    feed(watched, ROWS["plain"]()[:1_000], "plain")
    feed(warming, world.rows(50), "warming")
    other = {key.replace(b'"m"', b'"n"'): value for key, value in snapshot(warming).items()}
    return snapshot(watched) | other


def damage(sound: bytes, rng: random.Random) -> bytes:
    data = bytearray(sound)
    match rng.randrange(4):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            return bytes(data) + rng.randbytes(rng.randint(1, 50))
        case 2:
            start = rng.randrange(len(data))
            data[start : start + 8] = rng.randbytes(8)
        case _:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_records_start_cold_with_a_reason(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        live = dict(sound())
        key = rng.choice(sorted(live))
        live[key] = damage(live[key], rng)
        grouped, _ = states.group_records(live)
        lost = [stream for stream, parts in grouped.items()
                if states.restore(new_stream(warmup_events=200), parts, book()).lost]  # fmt: skip
        assert lost == [StreamKey(msgspec.json.decode(key)[1])], "the damaged one, and no other"


@pytest.mark.parametrize("seed", range(5))
def test_damage_with_the_right_checksum_is_survived(seed: int) -> None:
    rng = random.Random(seed)
    whole = msgspec.msgpack.encode(
        decoded({state_records.key(StreamKey("m"), 0): sound()[state_records.key(StreamKey("m"), 0)]})
    )
    for _ in range(30):
        survive(framed(damage(whole, rng)))


EDGES = (-(2**63), -1, 0, 1, 255, 2**31, 2**62, 2**63 - 1)


def mutated(value: Any, rng: random.Random) -> Any:
    """One leaf of a decoded document replaced by an edge value of its type, or by another type."""
    if isinstance(value, dict) and value and rng.random() < 0.97:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.97:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and len(value) >= 8 and rng.random() < 0.9:
        at = rng.randrange(len(value) // 8) * 8
        piece = rng.choice((rng.randbytes(8), np.float64(np.nan).tobytes(), b"\xff" * 8, b"\0" * 7 + b"\x7f"))
        return value[:at] + piece + value[at + 8 :]
    if isinstance(value, int) and not isinstance(value, bool):
        return rng.choice(EDGES)
    if isinstance(value, float):
        return rng.choice((float("nan"), float("inf"), -1e308, 0.0))
    return rng.choice((None, "", "x" * 300, b"\0", [], {}, *EDGES))


@pytest.mark.parametrize("seed", range(8))
def test_hostile_values_in_a_well_formed_snapshot_are_survived(seed: int) -> None:
    """Every type may fit and every checksum be right: what was never a state of ours must not bring the worker down."""
    rng = random.Random(seed)
    whole = msgspec.msgpack.encode(
        decoded({state_records.key(StreamKey("m"), 0): sound()[state_records.key(StreamKey("m"), 0)]})
    )
    document = msgspec.msgpack.decode(whole)
    for _ in range(30):
        survive(framed(msgspec.msgpack.encode(mutated(document, rng))))


@pytest.mark.parametrize(
    "shape",
    [[2**62], [2**31, 2**31], [0, 2**62], [0, 0, 2**40], [1] * 100, [2**20, 2**20, 2**20], [-1], [-1, -1]],
)
def test_shapes_that_cannot_be_are_refused_before_anything_is_allocated(shape: list[int]) -> None:
    tracemalloc.start()
    with pytest.raises(WireError):
        state_records.unpack_array(state_records.Array("<f8", shape, b""))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_wire_error_or_cold(data: bytes) -> None:
    key = state_records.key(StreamKey("m"), 0)
    for value in (data, wire.frame(states.KIND, 1, data), framed(data)[key]):
        assert restored({key: value}).lost
    for read in (states.unpack_clock, decode_tick):
        with pytest.raises(WireError):
            read(data)


@given(st.binary(max_size=60))
def test_any_key_is_ours_or_strange(key: bytes) -> None:
    _, strange = states.group_records({key: b"x"})
    assert strange == 1


@pytest.mark.parametrize("number", [-1, state_records.MAX_PARTS, 2**40, 2**70])
def test_a_key_of_an_impossible_number_costs_no_tombstones(number: int) -> None:
    grouped, strange = states.group_records({msgspec.json.encode(["s", "m", "", "", number]): b"x"})
    assert (grouped, strange) == ({}, 1)


def test_what_looks_small_but_unpacks_large_is_bounded() -> None:
    """A frame cannot announce more than it carries."""
    bombs = (
        b"\xdd\xff\xff\xff\xff",  # an array of 2³² − 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\x91" * 500_000,  # deep nesting
        b"\x81\xa1a" * 300_000,
    )
    tracemalloc.start()
    for bomb in bombs:
        assert restored(framed(bomb)).lost
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def squeezed(data: bytes, *, told: bool = True) -> Live:
    """Any bytes as a compressed snapshot; `told`: it says how large it is."""
    packed = zstandard.ZstdCompressor(write_content_size=told).compress(data)
    return {state_records.key(StreamKey("m"), 0): wire.pack(states.KIND, 2, [7, 0, 1, packed])}


@pytest.mark.parametrize(
    "live",
    [
        squeezed(bytes(state_records.MAX_SNAPSHOT_BYTES + 1)),
        squeezed(bytes(1_000_000), told=False),
        squeezed(b"not a snapshot"),
        {state_records.key(StreamKey("m"), 0): wire.pack(states.KIND, 2, [7, 0, 1, b"not compressed"])},
        # A header that announces 2⁶² bytes, and nothing behind it.
        {
            state_records.key(StreamKey("m"), 0): wire.pack(
                states.KIND, 2, [7, 0, 1, bytes.fromhex("28b52ffde0") + b"\0" * 7 + b"\x40"]
            )
        },
    ],
    ids=["too large", "untold", "no snapshot", "not compressed", "announced"],
)
def test_what_is_not_a_compressed_snapshot_of_ours_is_refused_in_bounded_memory(live: Live) -> None:
    tracemalloc.start()
    assert restored(live).lost
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
