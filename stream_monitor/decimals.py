"""Decimal text → the nearest double, compiled: every number that JSON admits, or a word that it is one for others.

The algorithm is that of D. Lemire, Number Parsing at a Gigabyte per Second, Software: Practice and Experience 51(8),
2021 (after Eisel), short of what is rare: more than 19 digits, exponents near the ends of the range, and products that
leave open to which side they round. Those are `HARD`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream_monitor.compiled import inlined, njit
from stream_monitor.words import digits, leading_zeros

NO_NUMBER: Final = 0
WHOLE: Final = 1
"""Without point and exponent."""
DECIMAL: Final = 2
HARD: Final = 3
"""A number, but whoever wants its value has to ask somebody else."""
_LEAST: Final = -300
_MOST: Final = 280
"""Powers of ten within which no result is subnormal or infinite, whatever the digits before them."""
_DIGITS: Final = 19
"""So many decimal digits always fit 64 bits."""
_LOW: Final = np.uint64(0xFFFF_FFFF)
_HALF: Final = np.uint64(32)
_ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_EXACT: Final = np.array([10.0**power for power in range(23)])
"""Powers of ten that are doubles."""


def _powers_of_five() -> Any:
    """`[powers, 2]`: the first 128 bits of 5^q for every q from `_LEAST` to `_MOST`, high and low; rounded up where
    q is negative, as the paper has it."""
    found = []
    for q in range(_LEAST, _MOST + 1):
        five = 5 ** abs(q)
        if q < 0:
            bits = (five - 1).bit_length()
            value = 2 ** (bits + 127 if q >= -27 else 2 * bits + 128) // five + 1
        else:
            value = five << 128
        value >>= max(0, value.bit_length() - 128)
        found.append((value >> 64, value & (2**64 - 1)))
    return np.array(found, dtype=np.uint64)


_POWERS: Final = _powers_of_five()


@inlined
def _product(a: Any, b: Any) -> tuple[Any, Any]:
    """The 128 bits of a × b, high and low."""
    a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW, b >> _HALF, b & _LOW
    low = a_low * b_low
    middle = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF), (other << _HALF) | (low & _LOW)


@njit
def _nearest(value: Any, power: int) -> Any:
    """The bits of the double nearest to value × 10^power, value > 0; 0 if the product does not tell."""
    shift = leading_zeros(value)
    value <<= shift
    at = power - _LEAST
    high, low = _product(value, _POWERS[at, 0])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):
        more, _ = _product(value, _POWERS[at, 1])
        low += more
        if low < more:
            high += np.uint64(1)
        if low == _ALL and not -27 <= power <= 55:
            return np.uint64(0)
    upper = high >> np.uint64(63)
    kept = high >> (upper + np.uint64(9))
    exponent = np.uint64(((217706 * power) >> 16) + 63 + 1023) + upper - shift
    halfway = kept & np.uint64(3) == np.uint64(1) and kept << (upper + np.uint64(9)) == high
    if low <= np.uint64(1) and -4 <= power <= 23 and halfway:
        kept -= np.uint64(1)  # a tie goes to the even neighbour, which is below
    kept = (kept + (kept & np.uint64(1))) >> np.uint64(1)
    if kept >> np.uint64(53):
        kept >>= np.uint64(1)
        exponent += np.uint64(1)
    return (kept & np.uint64(0xF_FFFF_FFFF_FFFF)) | (exponent << np.uint64(52))


@inlined
def number(text: Any, at: int, into: Any, row: int, column: int) -> tuple[int, int]:
    """Read the JSON number that starts at `at` of `text` (uint8, with `words.SPARE` bytes to spare): (what it is, where
    it ends). Its value goes to `into[row, column]`, unless it is `HARD`.
    """
    negative = text[at] == 45  # -
    at += negative
    first = at
    value, at = digits(text, at, np.uint64(0))
    length = at - first
    kind: Any = WHOLE
    power: Any = 0
    if length == 0 or (text[first] == 48 and length > 1):
        kind = NO_NUMBER
    if text[at] == 46:  # .
        point = at
        value, at = digits(text, at + 1, value)
        power = point + 1 - at
        length -= power
        kind = DECIMAL if power and kind else NO_NUMBER
    if text[at] | 32 == 101:  # e
        down = text[at + 1] == 45
        at += 2 if down or text[at + 1] == 43 else 1
        start = at
        given, at = digits(text, at, np.uint64(0))
        kind = DECIMAL if at > start and kind else NO_NUMBER
        exponent = np.int64(given) if at - start < 6 else 100_000
        power += -exponent if down else exponent
    if kind:
        while length > _DIGITS and text[first] <= 48:  # zeros in front, and the point, say nothing
            length -= text[first] == 48
            first += 1
        if length > _DIGITS:
            kind = HARD
        else:
            easy = value <= np.uint64(1 << 53) and -22 <= power <= 22
            if value == 0:
                found = 0.0
            elif easy:
                found = np.float64(value)
                found = found / _EXACT[-power] if power < 0 else found * _EXACT[power]
            elif _LEAST <= power <= _MOST:
                bits = _nearest(value, power)
                kind = kind if bits else HARD
                found = np.uint64(bits).view(np.float64)
            else:
                kind, found = HARD, 0.0
            into[row, column] = -found if negative else found
    return kind, at
