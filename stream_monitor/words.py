"""Eight bytes of text at a time, for compiled loops: Python and numba alone would take them one by one."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stream_monitor.compiled import inlined

SPARE: Final = 8
"""Bytes that must follow the text, whatever they are: words are read beyond its end."""
_ONES: Final = np.uint64(0x0101_0101_0101_0101)
_TOPS: Final = np.uint64(0x8080_8080_8080_8080)
_ZEROS: Final = np.uint64(0x3030_3030_3030_3030)
_OVER: Final = np.uint64(0x4646_4646_4646_4646)
_SPACES: Final = np.uint64(0x2020_2020_2020_2020)
_QUOTES: Final = np.uint64(0x2222_2222_2222_2222)
_ESCAPES: Final = np.uint64(0x5C5C_5C5C_5C5C_5C5C)
_PAIRS: Final = np.uint64(0x0000_00FF_0000_00FF)
_WIDTH: Final = np.uint64(64)
_TENS: Final = np.array([10**power for power in range(9)], dtype=np.uint64)


@intrinsic  # type: ignore[untyped-decorator]
def word(_context: Any, text: Any, at: Any) -> Any:
    """The eight bytes of `text` (uint8) from `at` on as one integer, the first of them lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        found = builder.load(place, align=1)
        return found if sys.byteorder == "little" else builder.bswap(found)

    return types.uint64(text, at), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(_context: Any, value: Any) -> Any:
    """Of a 64-bit integer; 64 of 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def leading_zeros(_context: Any, value: Any) -> Any:
    """Of a 64-bit integer; 64 of 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(value), generate


@inlined
def special(text: Any, at: int) -> Any:
    """The first of the eight bytes from `at` on that does not just belong to a text: a quote, a backslash, a control
    character or part of a letter beyond ASCII; 8 if none is."""
    letters = word(text, at)
    quote, escape = letters ^ _QUOTES, letters ^ _ESCAPES
    found = ((quote - _ONES) & ~quote) | ((escape - _ONES) & ~escape) | ((letters - _SPACES) & ~letters) | letters
    return np.int64(trailing_zeros(found & _TOPS) >> np.uint64(3))


@inlined
def digits(text: Any, at: Any, before: Any) -> tuple[Any, Any]:
    """`before`, continued by the decimal digits from `at` on (modulo 2^64), and where they end.

    Eight digits are made a number by three multiplications; see `decimals` for the source.
    """
    value = before
    while True:
        letters = word(text, at)
        others = ((letters + _OVER) | (letters - _ZEROS)) & _TOPS
        count = trailing_zeros(others) >> np.uint64(3)
        if count > 0:
            empty = _WIDTH - (count << np.uint64(3))
            if empty > 0:  # zeros in front
                letters = (letters << empty) | (_ZEROS >> (_WIDTH - empty))
            letters -= _ZEROS
            letters = letters * np.uint64(10) + (letters >> np.uint64(8))
            high = (letters & _PAIRS) * np.uint64(0x000F_4240_0000_0064)
            low = ((letters >> np.uint64(16)) & _PAIRS) * np.uint64(0x0000_2710_0000_0001)
            value = value * _TENS[count] + ((high + low) >> np.uint64(32))
            at += np.int64(count)
        if count < 8:
            return value, at
