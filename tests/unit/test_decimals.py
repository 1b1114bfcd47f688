"""Numbers are read from their bytes to the last bit."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from stream_monitor.compiled import njit
from stream_monitor.decimals import DECIMAL, HARD, NO_NUMBER, number
from stream_monitor.words import SPARE


@njit
def _number(text: Any, into: Any) -> Any:
    return number(text, 0, into, 0, 0)


def read(text: str) -> tuple[int, int, float]:
    """What `number` makes of a text: its kind, where it ends, its value."""
    into = np.zeros((1, 1))
    kind, end = _number(np.frombuffer(text.encode() + bytes(SPARE), dtype=np.uint8), into)
    return int(kind), int(end), float(into[0, 0])


def doubles(count: int, seed: int) -> list[str]:
    """Decimal texts of every sort: shortest, long, whole, halfway between two doubles, near the ends of the range."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        bits = struct.pack("Q", rng.getrandbits(64) & ~(1 << 62))  # no infinity and no NaN
        found += [
            repr(struct.unpack("d", bits)[0]), repr(rng.gauss(0, 1)), str(rng.randint(-(2**64), 2**64)),
            str(2 * rng.randint(2**52, 2**53) + 1), f"{rng.getrandbits(64)}e{rng.randint(-330, 300)}",
            f"{rng.uniform(-1e6, 1e6):.{rng.randint(0, 12)}f}", f"{rng.random():.40f}",
            f"0.{'0' * rng.randint(0, 30)}7",
        ]  # fmt: skip
    return found


def test_numbers_are_read_to_the_last_bit() -> None:
    hard = 0
    for text in doubles(5_000, seed=1):
        kind, end, value = read(text)
        assert kind != NO_NUMBER, text
        assert end == len(text), text
        hard += kind == HARD
        assert kind == HARD or struct.pack("d", value) == struct.pack("d", float(text)), text
    assert hard < 0.3 * 8 * 5_000, "only the long and the extreme ones are left to Python"


def test_halves_go_to_the_even_neighbour() -> None:
    for text in ("9007199254740993", "9007199254740995", "9007199254740993e1", "1152921504606847104",
                 "4503599627370496.5", "4503599627370497.5", "0.5000000000000000277555756"):  # fmt: skip
        kind, _, value = read(text)
        assert kind == HARD or value == float(text), text


@given(st.text("0123456789.eE+-", max_size=12))
@settings(max_examples=500, deadline=None)
def test_only_what_json_calls_a_number_is_one(text: str) -> None:
    try:
        json.loads(text)
        right = text[:1] in set("-0123456789")
    except ValueError:
        right = False
    kind, end, _ = read(text + "}")
    assert (kind != NO_NUMBER and end == len(text)) == right


def test_kinds_of_numbers() -> None:
    assert [read(text)[0] == DECIMAL for text in ("1", "-0", "1.0", "1e2", "0.5E-3")] == [
        False,
        False,
        True,
        True,
        True,
    ]
