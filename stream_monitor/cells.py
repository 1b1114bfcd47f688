"""Text cells of a table → values. Pure.

`cell` is the rule, one cell at a time; `cells_of` does whole columns, faster, to the same result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress
from typing import Any, Final

from stream_monitor.events import parse_time

Value = float | int | str | bool | None

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_INTEGER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_MOST_DIGITS: Final = 4_000
"""Python refuses to read longer integers."""
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SECONDS_BELOW: Final = 1e11
"""Epoch milliseconds before March 1973 cannot be told from seconds: such numbers are seconds (until the year 5138)."""


def cell(text: str) -> Value:
    """Empty → None, a number → int or float, true or false → bool, else the text.

    >>> [cell(text) for text in ("", "7", "7.0", "1e3", "True", "1_000", "7 km")]
    [None, 7, 7.0, 1000.0, True, '1_000', '7 km']
    """
    if not text:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped) and len(stripped) < _MOST_DIGITS:
        return int(stripped)
    return float(stripped) if _NUMBER.fullmatch(stripped) else text


def cells_of(texts: Sequence[str]) -> list[Value]:
    """`cell` of every text."""
    distinct = set(texts)
    if len(distinct) <= len(texts) / 2:
        values = {text: cell(text) for text in distinct}
        return [values[text] for text in texts]
    if "" in distinct:
        filled = list(map(bool, texts))
        rest = iter(cells_of(list(compress(texts, filled))))
        return [next(rest) if full else None for full in filled]
    return _numbers(texts) or list(map(cell, texts))


def _numbers(texts: Sequence[str]) -> list[Any] | None:
    """A column that is all integers or all decimals, else None."""
    joined = "".join(texts)
    if not joined.isascii() or "_" in joined or len(joined) > _MOST_DIGITS * len(texts):
        return None
    try:
        # As many points as cells and every cell a number: one point each, so that none is an integer.
        return list(map(float if joined.count(".") == len(texts) else int, texts))
    except ValueError:
        return None


def time_ms_of(value: object) -> object:
    """Epoch milliseconds of a time in RFC 3339, with a blank for the T, or as a number of seconds or milliseconds; the
    value itself if it is none of these.

    >>> time_ms_of("1970-01-01 00:00:01.5"), time_ms_of("1540922923"), time_ms_of(1540922923152)
    (1500, 1540922923000, 1540922923152)
    """
    if isinstance(value, str):
        value = value.strip()
        number = cell(value)
        value = number if isinstance(number, (int, float)) else value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _SECONDS_BELOW:
        return round(value * 1000)
    time_ms = parse_time(value)
    return value if time_ms is None else time_ms
