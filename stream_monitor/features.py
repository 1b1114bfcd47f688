"""From the features of events to named columns of values: flattening, category names, fast getters. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final

from stream_monitor.events import MAX_NAME_LENGTH, lookup

MAX_DEPTH: Final = 32
MAX_NAMES: Final = 10_000
"""Most feature names looked at in one go, so that hostile events cannot make a table of any width."""
PREDICTION: Final = "prediction"
ONE_LESS: Final = f"one less {PREDICTION}."
"""Why the scores of one of two classes are not watched; the other class follows."""
OUTCOME: Final = "outcome"
_ESCAPE: Final = "features."
_TRUTH: Final = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def column_name(feature: str) -> str:
    """The column's name for an input: the feature's, unless that means something else here.

    >>> column_name("age"), column_name("prediction"), column_name("features.prediction")
    ('age', 'features.prediction', 'features.features.prediction')
    """
    taken = feature.partition(".")[0] in (PREDICTION, OUTCOME) or feature.startswith(_ESCAPE)
    return _ESCAPE + feature if taken else feature


def feature_of(column: str) -> str:
    """The feature behind an input column: the inverse of `column_name`."""
    return column.removeprefix(_ESCAPE)


def canonical(value: object) -> str | None:
    """The category a value names; None if it names none (an array, an object, NaN, null).

    One name however it was written: booleans as Python, pandas or JSON write them, and whole numbers of any type.

    >>> canonical(True), canonical("TRUE"), canonical(3.0), canonical("3"), canonical([3])
    ('true', 'true', '3', '3', None)
    """
    if isinstance(value, str):
        return _TRUTH.get(value) or clean(value)
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return clean(str(int(value))) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return clean(str(value)) if value.bit_length() < 10_000 else None  # Python refuses to write longer ones
    return None


def clean(name: str) -> str:
    """A name as documents can hold it: bounded, and without the half surrogate pairs that Python's json admits."""
    if len(name) > MAX_NAME_LENGTH:
        name = name[:MAX_NAME_LENGTH]
    return name if name.isascii() else name.encode("utf-8", "replace").decode()


def getter(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """A fast function from an object to the values of `names`; raises KeyError where one is absent."""
    if len(names) > 1:
        return itemgetter(*names)
    if names:
        return lambda mapping: (mapping[names[0]],)
    return lambda mapping: ()


def columns_of(objects: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[Any]]:
    """The values of every name in every object, None where absent: `events.lookup`, whole columns at a time."""
    keys: set[str] = set().union(*objects) if any("." in name for name in names) else set()
    columns: dict[str, list[Any]] = {}
    nested: dict[str, list[str]] = {}
    for name in names:
        head, dot, rest = name.partition(".")
        if dot and name not in keys:
            nested.setdefault(head, []).append(rest)
        elif dot:
            columns[name] = [lookup(entry, name) for entry in objects]
        else:
            columns[name] = [entry.get(name) for entry in objects]
    for head, rests in nested.items():
        inner = [value if type(value := entry.get(head)) is dict else {} for entry in objects]
        for rest, values in zip(rests, columns_of(inner, rests), strict=True):
            columns[f"{head}.{rest}"] = values
    return [columns[name] for name in names]


def flatten(objects: Sequence[Mapping[str, Any]], depth: int = 0) -> dict[str, list[Any]]:
    """Objects → columns by dotted name, in order of appearance, None where absent; agrees with `events.lookup`.

    A nested object appears under its own name too, beside its parts.

    >>> flatten([{"a": 1, "b": {"c": 2}}, {"a": 3}])
    {'a': [1, 3], 'b': [{'c': 2}, None], 'b.c': [2, None]}
    """
    columns: dict[str, list[Any]] = {}
    for key in islice(dict.fromkeys(chain.from_iterable(objects)), MAX_NAMES):
        values = [entry.get(key) for entry in objects]
        columns[key] = _first(values, columns[key]) if key in columns else values
        if dict in set(map(type, values)) and "." not in key and depth < MAX_DEPTH:
            inner = flatten([value if type(value) is dict else {} for value in values], depth + 1)
            for part, parts in inner.items():
                name = f"{key}.{part}"
                columns[name] = _first(columns[name], parts) if name in columns else parts
    return columns


def _first(preferred: Iterable[Any], other: Iterable[Any]) -> list[Any]:
    return [b if a is None else a for a, b in zip(preferred, other, strict=True)]
