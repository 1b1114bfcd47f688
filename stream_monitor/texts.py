"""Texts → codes by their bytes, compiled: a hash table of the categories of a column as JSON writes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from stream_monitor.compiled import inlined, njit
from stream_monitor.words import SPARE, word

_PRIME: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
"""2^64 divided by the golden ratio: spreads what is multiplied by it over the upper bits (Knuth, TAOCP 3, 6.4)."""
_FREE: Final = -1

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class TextTable:
    """The codes of texts. `arrays`: what the kernels take: the texts, where each starts and ends, their codes, the
    table."""

    def __init__(self, codes: Mapping[object, int]) -> None:
        texts = {orjson.dumps(text): code for text, code in codes.items() if isinstance(text, str)}
        keys = np.frombuffer(b"".join(texts) + bytes(SPARE), dtype=np.uint8)
        bounds = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        size = 1 << (2 * len(texts)).bit_length()
        table = np.full(size, _FREE, dtype=np.int64)
        _fill(keys, bounds, table)
        self.arrays = keys, bounds, np.fromiter(texts.values(), np.uint8, len(texts)), table


@inlined
def find(text: Any, start: int, end: int, keys: Any, bounds: Any, table: Any) -> tuple[int, Any]:
    """The number of the text at `start` (−1: none such), and the place in the table where it is or belongs.

    `text` and `keys` need `words.SPARE` bytes to spare.
    """
    length = end - start
    place = np.int64(mix(text, start, end, np.uint64(0)) & np.uint64(len(table) - 1))
    found = -1
    while found < 0 and table[place] != _FREE:
        key = table[place]
        if bounds[key + 1] - bounds[key] == length and same(text, start, keys, bounds[key], length):
            found = key
        else:
            place = (place + 1) & (len(table) - 1)
    return found, place


@inlined
def mix(text: Any, start: int, end: int, mixed: Any) -> Any:
    """A hash of a text and of what was `mixed` before it."""
    length = end - start
    mixed ^= np.uint64(length)
    for at in range(0, length, 8):
        letters = word(text, start + at)
        if at + 8 > length:
            letters <<= np.uint64(8 * (at + 8 - length))
        mixed = (mixed ^ letters) * _PRIME
        mixed ^= mixed >> np.uint64(29)
    return mixed


@inlined
def same(a: Any, a_start: int, b: Any, b_start: int, length: int) -> bool:
    """Whether the same bytes stand at both places; both need `words.SPARE` bytes to spare."""
    done, equal = 0, True
    while equal and length - done >= 8:
        equal = word(a, a_start + done) == word(b, b_start + done)
        done += 8
    if equal and done < length:
        unlike = word(a, a_start + done) ^ word(b, b_start + done)
        equal = unlike << np.uint64(8 * (8 - length + done)) == 0
    return equal


@njit
def _fill(keys: Bytes, bounds: Ints, table: Ints) -> None:
    for key in range(len(bounds) - 1):
        _, place = find(keys, bounds[key], bounds[key + 1], keys, bounds, table)
        table[place] = key
